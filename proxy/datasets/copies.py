"""Copying a dataset to a folder: what to fetch, and fetching it so that a file is whole or not there.

Theory of operation. A file grows in a part file beside its place, named after version and place, so that the next run
goes on where this one was killed, and never with the half of another version. It takes its final name after size and,
where the ETag is one, MD5 are right. Its time of change is the storage's: size and time tell the next run that nothing
is to do.
"""

import asyncio
import errno
import hashlib
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, Protocol

from proxy.datasets.download import Changed, Download
from proxy.datasets.s3 import Entry
from proxy.errors import BearerproxyError, BrokenOff, ProxyError, SignInRequired

_WINDOWS_NAMES = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$", *(one + n for one in ("com", "lpt") for n in "123456789¹²³")}
)
_FULL = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
_PIECE = 1 << 20


class NotCopied(BearerproxyError):
    """One file could not be copied; the text says why."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files of a dataset are wanted."""

    paths: tuple[str, ...] = ()
    """Files, or folders with all below them; none means all."""
    include: tuple[str, ...] = ()
    """Shell patterns of which a path must fit one; `*` crosses folders."""
    exclude: tuple[str, ...] = ()

    def chosen(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the files that are wanted."""
        return [one for one in entries if self._wants(one.path)]

    def missing(self, entries: Sequence[Entry]) -> list[str]:
        """Return the paths for which there is no file."""
        return [path for path in self.paths if not any(_is_at(path, one.path) for one in entries)]

    def _wants(self, path: str) -> bool:
        return (
            (not self.paths or any(_is_at(one, path) for one in self.paths))
            and (not self.include or any(fnmatchcase(path, one) for one in self.include))
            and not any(fnmatchcase(path, one) for one in self.exclude)
        )


def _is_at(place: str, path: str) -> bool:
    return path == place or path.startswith(place.rstrip("/") + "/")


def local_place(folder: Path, path: str, *, is_windows: bool = sys.platform == "win32") -> Path:
    """Return where a file of the dataset goes below `folder`. Raises NotCopied for a name that leads elsewhere.

    Names are chosen by whoever wrote the dataset: no `..`, no root, no drive, no device.
    """
    parts = path.split("/")
    if any(one in ("", ".", "..") or any(ord(letter) < 0x20 for letter in one) for one in parts):
        raise NotCopied("its name has no place below a folder")
    if is_windows and any(_is_bad_on_windows(one) for one in parts):
        raise NotCopied("Windows cannot have a file of this name")
    return folder.joinpath(*parts)


def _is_bad_on_windows(name: str) -> bool:
    stem = name.partition(".")[0].rstrip(" ").casefold()
    return any(letter in '<>:"\\|?*' for letter in name) or name[-1] in ". " or stem in _WINDOWS_NAMES


def twins_of(entries: Iterable[Entry]) -> dict[str, str]:
    """Return the paths that differ from an earlier one in case or in the spelling of accents alone, each with that one.

    Folders of Windows and macOS usually cannot tell them apart: the second would take the place of the first.
    """
    firsts: dict[str, str] = {}
    twins: dict[str, str] = {}
    for entry in entries:
        first = firsts.setdefault(unicodedata.normalize("NFC", entry.path).casefold(), entry.path)
        if first != entry.path:
            twins[entry.path] = first
    return twins


def part_of(place: Path, entry: Entry) -> Path:
    """Return the part file of one version of a file: a name of fixed length beside its place."""
    named = hashlib.sha256(f"{place.name}\n{entry.etag}\n{entry.size}".encode("utf-8", "surrogateescape")).hexdigest()
    return place.with_name(f".bearerproxy-{named[:24]}.part")


def is_current(place: Path, entry: Entry) -> bool:
    """Return whether the file is there already: size and time are the storage's, or size and content are."""
    try:
        found = place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not place.is_file() or found.st_size != entry.size:
        return False
    if int(found.st_mtime) == int(entry.modified.timestamp()):
        return True
    return entry.md5 is not None and _digest(place).hexdigest() == entry.md5


def _verify(part: Path, entry: Entry, digest: "_Hash") -> None:
    """Remove a part file whose content is not what the storage names, and raise NotCopied."""
    if entry.md5 is not None and digest.hexdigest() != entry.md5:
        part.unlink()
        raise NotCopied("what arrived does not have the checksum that the storage names; run again")


class _Hash(Protocol):
    def update(self, piece: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class _NoHash:
    """Where the storage names no checksum there is nothing to compare, and MD5 takes as long as the network."""

    def update(self, piece: bytes, /) -> None:
        pass

    def hexdigest(self) -> str:
        return ""


def _digest(place: Path) -> _Hash:
    digest = hashlib.md5(usedforsecurity=False)
    with place.open("rb") as source:
        while piece := source.read(_PIECE):
            digest.update(piece)
    return digest


@dataclass
class Copies:
    """Copies chosen files to a folder, `parallel` at a time, and keeps count for whoever shows it."""

    folder: Path
    download: Callable[[str], Download]
    """Gives a file of the dataset to be read, by its path."""
    parallel: int = 4
    count: int = 0
    """All chosen files."""
    total: int = 0
    """Bytes of all chosen files."""
    done: int = 0
    """Bytes that are there, those of earlier runs included."""
    fetched: int = 0
    """Bytes that this run read."""
    written: list[Entry] = field(default_factory=list)
    kept: list[Entry] = field(default_factory=list)
    """Files that were there already."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """(path, why)."""

    @property
    def finished(self) -> int:
        """How many files are there."""
        return len(self.written) + len(self.kept)

    async def run(self, entries: Sequence[Entry]) -> None:
        """Fetch what is not there yet. Raises SignInRequired, and OSError when the disk is full or may not be written.

        Every other failure is noted in `failed`, and the other files go on.
        """
        self.count, self.total = len(entries), sum(one.size for one in entries)
        twins = twins_of(entries)
        waiting = iter([one for one in entries if one.path not in twins])
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self.parallel, len(entries))):
                    workers.create_task(self._work(waiting))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        await self._work(self._apart(iter(one for one in entries if one.path in twins), twins))

    def _apart(self, waiting: Iterator[Entry], twins: Mapping[str, str]) -> Iterator[Entry]:
        """Yield those whose place is not the place of their twin, which is there by now."""
        for entry in waiting:
            place, other = (self.folder.joinpath(*one.split("/")) for one in (entry.path, twins[entry.path]))
            if place.exists() and other.exists() and place.samefile(other):
                self.failed.append((entry.path, f"this folder cannot tell its name from {twins[entry.path]}"))
            else:
                yield entry

    async def _work(self, waiting: "Iterable[Entry]") -> None:
        for entry in waiting:
            try:
                await self._copy(entry)
            except SignInRequired:
                raise
            except (ProxyError, BrokenOff, NotCopied) as error:
                self.failed.append((entry.path, str(error)))
            except OSError as error:
                if error.errno in _FULL:
                    raise
                self.failed.append((entry.path, error.strerror or str(error)))

    async def _copy(self, entry: Entry) -> None:
        place = local_place(self.folder, entry.path)
        if await asyncio.to_thread(is_current, place, entry):
            self.kept.append(entry)
            self.done += entry.size
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(place, entry)
        before = self.done
        try:
            with part.open("ab") as target:
                digest = await self._grown(target, part, entry)
                target.flush()
                await asyncio.to_thread(os.fsync, target.fileno())
            _verify(part, entry, digest)
            moment = entry.modified.timestamp()
            os.utime(part, (moment, moment))
            part.replace(place)
        except BaseException:
            self.done = min(self.done, before)
            raise
        self.written.append(entry)

    async def _grown(self, target: BinaryIO, part: Path, entry: Entry) -> _Hash:
        """Write what is missing behind what is there, and return the digest of all of it."""
        size = target.tell()
        if size > entry.size:
            target.truncate(0)
            size = 0
        digest = await asyncio.to_thread(_digest, part) if entry.md5 is not None else _NoHash()
        self.done += size
        if size == entry.size:
            return digest
        download = self.download(entry.path)
        try:
            fields = [(b"if-match", entry.etag.encode("latin-1"))] if entry.etag else []
            reading = await download.open([*fields, (b"range", b"bytes=%d-" % size)] if size else fields)
            if reading.status != (206 if size else 200):
                raise Changed("it has changed since it was listed; run again")
            async for chunk in download.chunks():
                target.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                self.done += len(chunk)
                self.fetched += len(chunk)
        finally:
            await download.aclose()
        if size != entry.size:
            raise Changed("it is not as long as it was listed; run again")
        return digest
