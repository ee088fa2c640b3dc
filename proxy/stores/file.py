"""The store in a folder: one JSON file that is replaced whole, and lock files apart from it.

How a write goes (S17, T11, T14): write lock · read again · temporary file in the same folder, 0600 · fsync · rename ·
fsync of the folder. A crash at any step leaves the old file or the new one, never a part.
"""

import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from filelock import AsyncFileLock, FileLock

from proxy.errors import StoreError
from proxy.events import Emit, StoreTrouble, ignore
from proxy.stores.cipher import Cipher, Plain, is_sealed_by_key
from proxy.stores.private import TEMPORARY, replace_private
from proxy.stores.store import Trace, after_deleting, after_saving
from proxy.tokens import TokenSet

T = TypeVar("T")

FILE = "tokens.json"
VERSION = 1
WRITE_LOCK_SECONDS = 5.0
"""A write takes milliseconds; who waits longer has met a stopped process or a network file system in trouble."""


@dataclass(slots=True)
class Contents:
    """The whole file, parsed."""

    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    traces: dict[str, Trace] = field(default_factory=dict)


class FileStore:
    """Keeps all sets in `folder`/tokens.json."""

    def __init__(self, folder: Path, *, emit: Emit = ignore, kind: str = "file", cipher: Cipher | None = None) -> None:
        self.kind = kind
        self.path = folder / FILE
        self._folder = folder
        self._emit = emit
        self._cipher = Plain() if cipher is None else cipher
        self._noticed: list[str] = []
        """Filled by the threads, emptied on the event loop: listeners are not made for threads."""

    def check_key(self) -> None:
        """Raise StoreError if the cipher's key does not open what is stored; blocks. Other trouble is `load`'s to tell.

        Asked before anything is served: with the wrong key there is nothing to serve from and nothing may be written.
        """
        try:
            sets = self._read().sets
        except (OSError, StoreError):
            return
        for name, entry in sets.items():
            if is_sealed_by_key(entry):
                self._cipher.open(name, entry)

    async def load(self, name: str) -> TokenSet | None:
        return await self._away(lambda: self._load(name))

    async def trace(self, name: str) -> Trace:
        return (await self._away(self._read)).traces.get(name, Trace())

    async def save(self, name: str, token_set: TokenSet) -> bool:
        return await self._away(lambda: self._save(name, token_set))

    async def delete(self, name: str, *, seed: str | None = None) -> Trace:
        return await self._away(lambda: self._delete(name, seed))

    async def names(self) -> tuple[str, ...]:
        return tuple(sorted((await self._away(self._read)).sets))

    @asynccontextmanager
    async def renewal_lock(self, name: str, *, timeout: float) -> AsyncIterator[None]:  # noqa: ASYNC109 - the seam's
        await self._away(self._make_folder)
        # The operating system ends the lock with its holder, so a killed process cannot leave it behind.
        path = self._folder / f"{name}.renewal.lock"
        lock = AsyncFileLock(path, timeout=timeout, mode=0o600, preserve_lock_file=True)
        try:
            await lock.acquire()
        except TimeoutError:
            raise
        except OSError as error:
            raise _cannot("locked", path, error) from error
        try:
            yield
        finally:
            await lock.release()

    def fingerprint(self) -> object:
        try:
            seen = self.path.stat()
        except OSError:
            return None
        return seen.st_mtime_ns, seen.st_size, seen.st_ino

    def watch(self, changed: Callable[[], None]) -> None:
        """Never calls: a look at the file is cheap."""

    async def close(self) -> None:
        """Nothing is open between two calls."""

    async def _away(self, work: Callable[[], T]) -> T:
        """Run blocking `work` in a thread; OS errors become StoreError, what it noticed is emitted here."""
        try:
            return await asyncio.to_thread(work)
        except TimeoutError as error:
            raise StoreError(
                f"The token store {self.path} is locked by another process for more than {WRITE_LOCK_SECONDS:.0f} s."
            ) from error
        except OSError as error:
            raise _cannot("used", self.path, error) from error
        finally:
            while self._noticed:
                self._emit(StoreTrouble(self._noticed.pop(0)))

    def _load(self, name: str) -> TokenSet | None:
        entry = self._read().sets.get(name)
        if entry is None:
            return None
        plain = self._cipher.open(name, entry)
        try:
            return TokenSet.from_json(plain)
        except (ValueError, OverflowError):
            self._noticed.append(f"The entry of '{name}' in {self.path} is damaged and is not used; sign in again.")
            return None

    def _save(self, name: str, token_set: TokenSet) -> bool:
        with self._writing() as contents:
            trace = after_saving(contents.traces.get(name, Trace()), token_set)
            if trace is None:
                return False
            contents.sets[name] = self._cipher.seal(name, token_set.to_json())
            contents.traces[name] = trace
            # A set that was read in plain under this cipher is sealed as soon as there is something to write.
            for other, entry in contents.sets.items():
                if "sealed" not in entry:
                    contents.sets[other] = self._cipher.seal(other, entry)
            self._replace(contents)
        return True

    def _delete(self, name: str, seed: str | None) -> Trace:
        with self._writing() as contents:
            contents.sets.pop(name, None)
            contents.traces[name] = after_deleting(contents.traces.get(name, Trace()), seed)
            self._replace(contents)
            return contents.traces[name]

    @contextmanager
    def _writing(self) -> Iterator[Contents]:
        """Hold the write lock and yield what the file holds now."""
        self._make_folder()
        with FileLock(f"{self.path}.lock", timeout=WRITE_LOCK_SECONDS, mode=0o600, preserve_lock_file=True):
            yield self._read(is_locked=True)

    def _read(self, *, is_locked: bool = False) -> Contents:
        text = _read_safely(self.path)
        if text is None:
            return Contents()
        try:
            return _parse(text, self.path)
        except ValueError:
            if is_locked:
                self._quarantine()
                return Contents()
        with self._writing() as contents:  # look again: nobody writes now, so what is still broken is broken for good
            return contents

    def _quarantine(self) -> None:
        number = 1
        while (broken := self.path.with_name(f"{FILE}.broken-{number}")).exists():
            number += 1
        self.path.rename(broken)
        self._noticed.append(
            f"The token store {self.path} was damaged; it is kept as {broken.name}, and you have to sign in again."
        )

    def _replace(self, contents: Contents) -> None:
        for stale in self._folder.glob(f"{TEMPORARY}*"):  # of a process that was killed while it held this lock
            stale.unlink()
        replace_private(self.path, _dump(contents))

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_folder(self._folder)


def _parse(text: bytes, path: Path) -> Contents:
    """Return the contents; raises ValueError if the file is damaged, StoreError if it is of a later version."""
    document = json.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("version"), int):
        raise ValueError("not a token store")  # noqa: TRY004 - a damaged file, not a caller's mistake
    if document["version"] > VERSION:
        raise StoreError(f"The token store {path} was written by a newer bearerproxy; use that one, or another folder.")
    sets, traces = document.get("sets"), document.get("traces", {})
    if not isinstance(sets, dict) or not isinstance(traces, dict):
        raise ValueError("not a token store")  # noqa: TRY004
    if not all(isinstance(entry, dict) for entry in (*sets.values(), *traces.values())):
        raise ValueError("not a token store")
    return Contents(sets, {name: Trace(int(one.get("epoch", 0)), one.get("seed")) for name, one in traces.items()})


def _dump(contents: Contents) -> bytes:
    traces = {name: {"epoch": trace.epoch, "seed": trace.seed} for name, trace in contents.traces.items()}
    document = {"version": VERSION, "sets": contents.sets, "traces": traces}
    return json.dumps(document, indent=1).encode("ascii")


def _read_safely(path: Path) -> bytes | None:
    """Return the file's bytes, or None; raises StoreError if others could have read it or put it there."""
    if path.is_symlink():
        raise StoreError(
            f"The token store {path} is a symbolic link; replace it by a file: mv $(readlink {path}) {path}"
        )
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return None
    except PermissionError:
        _check_file(path, path.lstat())  # "belongs to another user" says more, and what to do
        raise
    with os.fdopen(descriptor, "rb") as file:
        _check_file(path, os.fstat(file.fileno()))
        return file.read()


def _check_file(path: Path, seen: os.stat_result) -> None:
    if not stat.S_ISREG(seen.st_mode):
        raise StoreError(f"The token store {path} is not a regular file; move it away.")
    if sys.platform == "win32":
        return  # the profile folder's access list protects it; modes say nothing there
    if seen.st_uid != os.geteuid():
        raise StoreError(f"The token store {path} belongs to another user; make it yours: sudo chown $(id -u) {path}")
    if seen.st_mode & 0o077:
        raise StoreError(f"The token store {path} can be read by other users; close it: chmod 600 {path}")


def _check_folder(folder: Path) -> None:
    """Raise StoreError if anybody may put files into `folder`: they could choose whose token we present."""
    if sys.platform == "win32":
        return
    seen = folder.stat()
    if seen.st_mode & 0o002 and not seen.st_mode & stat.S_ISVTX:
        raise StoreError(f"The token store's folder {folder} can be written by everybody; close it: chmod 700 {folder}")


def _cannot(verb: str, path: Path, error: OSError) -> StoreError:
    return StoreError(f"The token store {path} cannot be {verb}: {error.strerror or error}.")
