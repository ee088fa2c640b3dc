"""A 32-byte key in the operating system's keyring, the sets encrypted with it in the file store's file.

Not the sets themselves: Windows' entries are small, and no keyring has a lock for a read-change-write. Against other
programs of the same user a keyring protects nothing; against stolen disks and copied home folders it does (S18).
"""

import base64
import binascii
import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.errors import StoreError
from proxy.events import Emit, ignore
from proxy.stores.cipher import is_sealed_by_key
from proxy.stores.file import FileStore
from proxy.stores.sealing import NotOpened, seal, unseal

T = TypeVar("T")

SERVICE = "bearerproxy"
KEY_ENTRY = "data-key"
KEYRING_SECONDS = 5.0
"""A keyring that asks a person for its password would otherwise hold a server for ever."""

# Only the operating systems' own. `keyrings.alt` and `keyrings.cryptfile` keep plain text or ask for a password on the
# terminal, and the chainer prefers them where they are installed (S18).
REAL_BACKENDS = tuple(
    f"keyring.backends.{one}" for one in ("SecretService", "macOS", "Windows", "kwallet", "libsecret")
)


class Backend(Protocol):
    """The part of a `keyring` backend that is used."""

    def get_password(self, service: str, username: str) -> str | None: ...
    def set_password(self, service: str, username: str, password: str) -> None: ...
    def delete_password(self, service: str, username: str) -> None: ...


def keyring_store(folder: Path, *, emit: Emit = ignore, backend: Backend | None = None) -> FileStore:
    """Return the store whose key is in the keyring; blocks for up to a few seconds.

    `backend` None is the machine's. Raises StoreError if the machine has no keyring that works.
    """
    chosen = bounded(real_backend) if backend is None else backend
    if chosen is None:
        raise StoreError(
            "This machine has no keyring that works (Secret Service, KWallet, macOS or Windows). "
            'Set [store] kind to "file", or start the desktop\'s keyring.'
        )
    check(chosen)
    return FileStore(folder, emit=emit, kind="keyring", cipher=Sealed(chosen))


def real_backend() -> Backend | None:
    """Return the operating system's keyring as configured for the `keyring` package, or None."""
    import keyring
    import keyring.errors

    try:
        configured = keyring.get_keyring()
    except keyring.errors.KeyringError as error:
        raise StoreError(f"The keyring cannot be used: {error}") from error
    candidates = [*getattr(configured, "backends", [configured])]  # a chainer holds several, best first
    return next((one for one in candidates if type(one).__module__.startswith(REAL_BACKENDS)), None)


def check(backend: Backend) -> None:
    """Raise StoreError unless `backend` gives our key or, where there is none yet, keeps what it is given."""
    if bounded(lambda: backend.get_password(SERVICE, KEY_ENTRY)) is not None:
        return
    probe = f"probe-{os.getpid()}"

    def keeps() -> bool:
        backend.set_password(SERVICE, probe, probe)
        kept = backend.get_password(SERVICE, probe)
        backend.delete_password(SERVICE, probe)
        return kept == probe

    if not bounded(keeps):
        raise StoreError('The keyring does not keep what it is given; set [store] kind to "file".')


class Sealed:
    """Sealed with the key in the keyring, which is made when there is something to seal."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._key: bytes | None = None

    def seal(self, name: str, plain: dict[str, Any]) -> dict[str, Any]:
        # Called under the store's write lock: two processes cannot both find no key and make one.
        return seal(self._fetch() or self._make(), name, plain)

    def open(self, name: str, entry: dict[str, Any]) -> dict[str, Any]:
        if "sealed" not in entry:
            return entry  # written by the plain file store; the next save seals it
        if is_sealed_by_key(entry):
            raise StoreError(
                f"The sign-in of '{name}' is encrypted with [store] key, and kind is \"keyring\" now. "
                f"Set kind and key as they were, or run: bearerproxy login {name}"
            )
        for is_cached in (True, False):
            if not is_cached:
                self._key = None  # another process may have made a new key
            key = self._fetch()
            if key is None:
                break
            with contextlib.suppress(NotOpened):
                return unseal(key, name, entry)
        raise StoreError(
            f"The sign-in of '{name}' was encrypted with a key that the keyring no longer has. "
            f"Run: bearerproxy login {name}"
        )

    def _fetch(self) -> bytes | None:
        if self._key is None:
            text = bounded(lambda: self._backend.get_password(SERVICE, KEY_ENTRY))
            self._key = None if text is None else _key(text)
        return self._key

    def _make(self) -> bytes:
        key = AESGCM.generate_key(256)
        text = base64.b64encode(key).decode("ascii")
        bounded(lambda: self._backend.set_password(SERVICE, KEY_ENTRY, text))
        self._key = key
        return key


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise StoreError(_FOREIGN) from error
    if len(key) != 32:
        raise StoreError(_FOREIGN)
    return key


_FOREIGN = (
    f"The keyring's entry '{KEY_ENTRY}' of service '{SERVICE}' is not a key of ours; delete it and sign in again."
)


def bounded(call: Callable[[], T]) -> T:
    """Return `call()`, run in a thread of its own; raises StoreError after KEYRING_SECONDS or if it fails.

    A daemon thread, because a keyring that waits for a person must not hold the end of the process either.
    """
    results: list[T] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 - each backend has errors of its own; all mean the same to us
            failures.append(error)

    thread = threading.Thread(target=run, name="keyring", daemon=True)
    thread.start()
    thread.join(KEYRING_SECONDS)
    if failures:
        error = failures[0]
        if isinstance(error, StoreError):
            raise error
        raise StoreError(f"The keyring refuses: {type(error).__name__}: {error}".rstrip(": ")) from error
    if not results:
        raise StoreError(f"The keyring did not answer within {KEYRING_SECONDS:.0f} s; is it locked?")
    return results[0]
