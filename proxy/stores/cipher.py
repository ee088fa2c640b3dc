"""How one token set is written down: the seam that every store takes, and the way without encryption.

It stands apart from sealing.py, whose library is six megabytes that a store without a key has no use for.
"""

from typing import Any, Protocol

from proxy.errors import StoreError


class Cipher(Protocol):
    """How one set is written down."""

    def seal(self, name: str, plain: dict[str, Any]) -> dict[str, Any]:
        """Return the entry for the store; may block; raises StoreError."""

    def open(self, name: str, entry: dict[str, Any]) -> dict[str, Any]:
        """Return what was sealed; may block; raises StoreError."""


def is_sealed_by_key(entry: dict[str, Any]) -> bool:
    """Return whether `[store] key` sealed it; what a keyring's key sealed has no such mark."""
    return "sealed" in entry and "key" in entry


class Plain:
    """No encryption: the file's owner and mode are the protection."""

    def seal(self, name: str, plain: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - the seam's shape
        return plain

    def open(self, name: str, entry: dict[str, Any]) -> dict[str, Any]:
        if is_sealed_by_key(entry):
            raise StoreError(
                f"The sign-in of '{name}' is encrypted with a key that is not configured now: "
                f"set [store] key as it was, or run: bearerproxy login {name}"
            )
        if "sealed" in entry:
            raise StoreError(
                f"The sign-in of '{name}' is encrypted with a key in the keyring, which this process does not use. "
                f'Set [store] kind to "keyring", or run: bearerproxy login {name}'
            )
        return entry
