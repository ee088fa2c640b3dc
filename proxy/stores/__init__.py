"""Where token sets are kept, one module for each place, behind `TokenStore`."""

from pathlib import Path

from proxy.errors import SecretError, StoreError
from proxy.events import Emit, Warned, ignore
from proxy.secret_refs import Secret, may_have_keyring
from proxy.stores.cipher import Cipher
from proxy.stores.file import FileStore
from proxy.stores.memory import MemoryStore
from proxy.stores.store import TokenStore, Trace

__all__ = ["FileStore", "MemoryStore", "TokenStore", "Trace", "open_store"]


def open_store(
    kind: str,
    path: Path,
    *,
    key: Secret | None = None,
    url: Secret | None = None,
    prefix: str = "bearerproxy",
    emit: Emit = ignore,
) -> TokenStore:
    """Return the store of `kind`: `auto`, `keyring`, `file` in the folder `path`, `memory`, or `redis` at `url`.

    With a `key`, what `file` and `redis` keep is encrypted, and `auto` is the file. Without, `auto` is the keyring
    where the machine has a working one, else the file. Looking for a keyring, or revealing `key` or `url`, may block
    for a few seconds: open the store before serving. Raises StoreError if `keyring` was asked for and there is none, if
    `key` is not the one that the file was encrypted with, or if Redis is not usable for what the configuration or the
    installation lacks.
    """
    cipher = None if key is None or kind == "memory" else _key_sealed(key)
    if kind == "memory":
        return MemoryStore()
    if kind == "redis":
        return _redis_store(url, prefix, emit, cipher)
    if kind == "file" or cipher is not None:
        store = FileStore(path, emit=emit, cipher=cipher)
        store.check_key()
        return store
    if kind == "keyring":
        from proxy.stores.keyring import keyring_store

        return keyring_store(path, emit=emit)
    return _keyring_or_file(path, emit)


def _keyring_or_file(path: Path, emit: Emit) -> TokenStore:
    if may_have_keyring():
        from proxy.stores.keyring import bounded, keyring_store, real_backend

        try:
            backend = bounded(real_backend)
            if backend is not None:
                return keyring_store(path, emit=emit, backend=backend)
        except StoreError as error:
            emit(Warned(f"{error} Token sets are kept in the file {path / 'tokens.json'} instead."))
    return FileStore(path, emit=emit)


def _key_sealed(key: Secret) -> Cipher:
    from proxy.stores.sealing import KeySealed  # cryptography, which is used with a key alone

    return KeySealed(_revealed(key, "key"))


def _redis_store(url: Secret | None, prefix: str, emit: Emit, cipher: Cipher | None) -> TokenStore:
    from proxy.stores.redis import RedisStore
    from proxy.stores.redis_url import parse

    if url is None:
        raise StoreError('[store] kind = "redis" needs url, such as rediss://redis.example.org:6379/0.')
    try:
        parsed = parse(_revealed(url, "url"))
    except ValueError as error:
        raise StoreError(f"[store] url {error}.") from error
    return RedisStore(parsed, prefix=prefix, emit=emit, cipher=cipher)


def _revealed(secret: Secret, name: str) -> str:
    try:
        return secret.reveal()
    except SecretError as error:
        raise StoreError(f"[store] {name} cannot be read: {error}.") from error
