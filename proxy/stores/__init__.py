"""Where token sets are kept, one module for each place, behind `TokenStore`."""

from pathlib import Path

from proxy.errors import SecretError, StoreError
from proxy.events import Emit, Warned, ignore
from proxy.secret_refs import Secret
from proxy.stores.file import FileStore
from proxy.stores.memory import MemoryStore
from proxy.stores.redis_url import parse
from proxy.stores.store import TokenStore, Trace

__all__ = ["FileStore", "MemoryStore", "TokenStore", "Trace", "open_store"]


def open_store(
    kind: str, path: Path, *, url: Secret | None = None, prefix: str = "bearerproxy", emit: Emit = ignore
) -> TokenStore:
    """Return the store of `kind`: `auto`, `keyring`, `file` in the folder `path`, `memory`, or `redis` at `url`.

    `auto` is the keyring where the machine has a working one, else the file. Looking for a keyring, or revealing `url`,
    may block for a few seconds: open the store before serving. Raises StoreError if `keyring` was asked for and there
    is none, or if Redis is not usable for what the configuration or the installation lacks.
    """
    if kind == "memory":
        return MemoryStore()
    if kind == "redis":
        return _redis_store(url, prefix, emit)
    if kind == "file":
        return FileStore(path, emit=emit)
    from proxy.stores.keyring import bounded, keyring_store, real_backend

    if kind == "keyring":
        return keyring_store(path, emit=emit)
    try:
        backend = bounded(real_backend)
        if backend is not None:
            return keyring_store(path, emit=emit, backend=backend)
    except StoreError as error:
        emit(Warned(f"{error} Token sets are kept in the file {path / 'tokens.json'} instead."))
    return FileStore(path, emit=emit)


def _redis_store(url: Secret | None, prefix: str, emit: Emit) -> TokenStore:
    from proxy.stores.redis import RedisStore

    if url is None:
        raise StoreError('[store] kind = "redis" needs url, such as rediss://redis.example.org:6379/0.')
    try:
        parsed = parse(url.reveal())
    except SecretError as error:
        raise StoreError(f"[store] url cannot be read: {error}.") from error
    except ValueError as error:
        raise StoreError(f"[store] url {error}.") from error
    return RedisStore(parsed, prefix=prefix, emit=emit)
