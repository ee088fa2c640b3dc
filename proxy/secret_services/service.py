"""What a secret service is, and what its answers have in common."""

import json
from typing import Any, Protocol

from proxy.errors import SecretError

CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0


class SecretService(Protocol):
    """One secret, or one key of a secret that holds several, at a service. All but `check` block and call out."""

    def check(self) -> None:
        """Raise SecretError for what can be known without a call: a missing library, a service that nobody named."""

    def read(self) -> str:
        """Return the secret; raises SecretError with one sentence that names the cure."""

    def prepare(self) -> None:
        """Raise SecretError unless the service lets us look at the place where `write` would write."""

    def write(self, value: str) -> None:
        """Make or replace the secret, and leave the other keys beside it alone. Raises SecretError."""


def text_of(value: object, whose: str) -> str:
    """Return `value` if it is text; raises SecretError."""
    if not isinstance(value, str):
        raise SecretError(f"{whose} is not text")
    return value


def member(text: str, key: str, whose: str) -> str:
    """Return the text under `key` of the JSON object `text`; raises SecretError."""
    found = members(text, whose)
    if key not in found:
        raise SecretError(f"{whose} has no key {key}; it has: {', '.join(sorted(found)) or 'none'}")
    return text_of(found[key], f"the key {key} of {whose}")


def members(text: str, whose: str) -> dict[str, Any]:  # Any: JSON
    """Return the JSON object `text`; raises SecretError."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise SecretError(f"{whose} is no JSON object, so it has no keys; name it without #")
    return found


def for_people(text: str) -> str:
    """Return what a service said as part of a sentence: one line, printable, short."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line[:200].rstrip(" .")
