"""`login --to`: where else a refresh token goes, looked at before a person is asked to sign in."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import typer
from rich.markup import escape

from proxy.cli.terminal import err
from proxy.errors import SecretError
from proxy.secret_refs import Secret
from proxy.secret_services import SecretService
from proxy.stores.private import replace_private

FORMS = "file:PATH, aws-secretsmanager:NAME[#KEY], vault:PATH#KEY, or -"


class Destination(Protocol):
    """A place outside the token store."""

    def prepare(self) -> None:
        """Raise SecretError if nothing can be written there; may call out."""

    def write(self, refresh_token: str) -> None:
        """Write it, and say where it is and never what it is. Raises SecretError."""


def destination(text: str) -> Destination:
    """Return the place that `text` names; raises BadParameter if it names none."""
    if text == "-":
        return Printed()
    if text.startswith("file:"):
        return PrivateFile(Path(text.removeprefix("file:")).expanduser().absolute())
    try:
        secret = Secret.parse(text)
    except SecretError as error:
        raise typer.BadParameter(f"{error}.") from None
    if secret.service is None:
        raise typer.BadParameter(f"--to takes {FORMS}.")
    return Kept(secret.service, secret.reference)


class Printed:
    """Standard output, for a pipe to some other program that keeps secrets."""

    def prepare(self) -> None:
        """Nothing can be in the way."""

    def write(self, refresh_token: str) -> None:
        typer.echo(refresh_token)


@dataclass(frozen=True, slots=True)
class PrivateFile:
    """A file of mode 0600."""

    path: Path

    def prepare(self) -> None:
        if self.path.is_dir() or not self.path.parent.is_dir() or not os.access(self.path.parent, os.W_OK):
            raise SecretError(f"{self.path} cannot be written: name a file in a folder that is there and is yours")

    def write(self, refresh_token: str) -> None:
        try:
            replace_private(self.path, refresh_token.encode() + b"\n")
        except OSError as error:
            raise SecretError(f"{self.path} cannot be written: {error.strerror or error}") from error
        _told(f"The refresh token is in {self.path}, readable by you alone.")


@dataclass(frozen=True, slots=True)
class Kept:
    """A service that keeps secrets: the third step of Provena's recipe for API tokens."""

    service: SecretService
    reference: str

    def prepare(self) -> None:
        self.service.check()
        self.service.prepare()

    def write(self, refresh_token: str) -> None:
        self.service.write(refresh_token)
        _told(f'The refresh token is kept there: refresh_token = "{self.reference}"')


def _told(sentence: str) -> None:
    err.print(f"{escape(sentence)}\nWhoever has it acts as you: treat it as a password.", soft_wrap=True)
