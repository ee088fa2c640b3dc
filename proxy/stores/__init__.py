"""Where token sets are kept, one module for each place, behind `TokenStore`."""

from pathlib import Path

from proxy.errors import StoreError
from proxy.events import Emit, Warned, ignore
from proxy.stores.file import FileStore
from proxy.stores.memory import MemoryStore
from proxy.stores.store import TokenStore, Trace

__all__ = ["FileStore", "MemoryStore", "TokenStore", "Trace", "open_store"]


def open_store(kind: str, path: Path, *, emit: Emit = ignore) -> TokenStore:
    """Return the store of `kind` (`auto`, `keyring`, `file`, `memory`) in the folder `path`.

    `auto` is the keyring where the machine has a working one, else the file. Looking for a keyring may block for a few
    seconds: open the store before serving. Raises StoreError if `keyring` was asked for and there is none.
    """
    if kind == "memory":
        return MemoryStore()
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
