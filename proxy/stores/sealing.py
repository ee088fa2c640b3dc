"""Token sets encrypted before they are written down: AES-256-GCM, and where its key may come from.

`KeySealed` is the `Cipher` with the key that `[store] key` gives; the keyring's is in keyring.py. An entry says in the
clear how it is sealed and nothing else.
"""

import base64
import binascii
import json
import os
import threading
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from proxy.errors import StoreError
from proxy.stores.cipher import is_sealed_by_key

KEY_BYTES = 32
SALT_BYTES = 16
# OWASP's password storage cheat sheet, the variant of 32 MiB: a third of a second, once for each salt.
SCRYPT = {"n": 2**15, "r": 8, "p": 3}


class NotOpened(Exception):
    """The entry was sealed with another key, for another name, or is damaged."""


def seal(key: bytes, name: str, plain: dict[str, Any]) -> dict[str, Any]:
    """Return the entry for `plain`; the identity's name is authenticated, so that entries cannot be swapped."""
    nonce = os.urandom(12)
    sealed = AESGCM(key).encrypt(nonce, json.dumps(plain).encode(), name.encode())
    return {"sealed": base64.b64encode(nonce + sealed).decode("ascii")}


def unseal(key: bytes, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return what `seal` was given; raises NotOpened."""
    try:
        box = base64.b64decode(entry["sealed"], validate=True)
        plain = json.loads(AESGCM(key).decrypt(box[:12], box[12:], name.encode()))
    except (InvalidTag, TypeError, ValueError, binascii.Error) as error:
        raise NotOpened from error
    if not isinstance(plain, dict):
        raise NotOpened
    return plain


class KeySealed:
    """The key of `[store] key`: 32 bytes in base64 as they are, or a passphrase by scrypt.

    The salt is made at random and stands beside each entry; whoever reads it there goes on using it, so that a process
    rarely derives more than one key.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._raw = _raw_key(text)
        self._salt: bytes | None = None
        self._derived: dict[bytes, bytes] = {}
        self._foreign: set[str] = set()
        """Names whose entry another key sealed: it is not overwritten, as the right key may come back."""
        self._turn = threading.Lock()

    def seal(self, name: str, plain: dict[str, Any]) -> dict[str, Any]:
        if name in self._foreign:
            raise _wrong_key(name)
        if self._raw is not None:
            return seal(self._raw, name, plain) | {"key": "raw"}
        salt = self._salt or os.urandom(SALT_BYTES)
        entry = seal(self._key(salt), name, plain)
        return entry | {"key": "scrypt", "salt": base64.b64encode(salt).decode("ascii")}

    def open(self, name: str, entry: dict[str, Any]) -> dict[str, Any]:
        if "sealed" not in entry:
            return entry  # written without a key; the next save seals it
        if not is_sealed_by_key(entry):
            raise StoreError(
                f"The sign-in of '{name}' is encrypted with a key in the keyring, and [store] key is another one. "
                f'Remove key and set kind to "keyring", or run: bearerproxy login {name}'
            )
        try:
            plain = unseal(self._key_of(entry), name, entry)
        except NotOpened as error:
            self._foreign.add(name)
            raise _wrong_key(name) from error
        self._foreign.discard(name)
        return plain

    def _key_of(self, entry: dict[str, Any]) -> bytes:
        if entry["key"] == "raw" and self._raw is not None:
            return self._raw
        if entry["key"] != "scrypt" or self._raw is not None:
            raise NotOpened
        try:
            salt = base64.b64decode(entry.get("salt", ""), validate=True)
        except (TypeError, ValueError) as error:
            raise NotOpened from error
        if len(salt) != SALT_BYTES:
            raise NotOpened
        return self._key(salt)

    def _key(self, salt: bytes) -> bytes:
        with self._turn:
            if salt not in self._derived:
                self._derived[salt] = Scrypt(salt=salt, length=KEY_BYTES, **SCRYPT).derive(self._text.encode())
            self._salt = salt
            return self._derived[salt]


def _raw_key(text: str) -> bytes | None:
    """Return the key that `openssl rand -base64 32` printed; None if `text` is a passphrase."""
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return key if len(key) == KEY_BYTES else None


def _wrong_key(name: str) -> StoreError:
    return StoreError(
        f"[store] key is not the key that the sign-in of '{name}' was encrypted with; nothing was changed. "
        "Give that key again, or move the store away and sign in again."
    )
