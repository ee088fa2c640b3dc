"""A ZIP that is written while it is read: stored, not compressed, ZIP64 where it must be, memory flat.

The standard library writes it, to a file that cannot seek: sizes and checksums then stand behind each member and in the
directory at the end, which is what all programs but the oldest read. Scientific files hardly compress, and stored
members cost no processor.
"""

import re
import zipfile
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from datetime import datetime
from io import RawIOBase
from typing import Any
from urllib.parse import quote

from proxy.datasets.s3 import Entry
from proxy.errors import BrokenOff

_EARLIEST, _LATEST = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)
_LARGE = 1 << 31
"""From this size on a member says that its sizes have 64 bits, with half of what would force it to spare."""


class _Written(RawIOBase):
    """Takes what zipfile writes, until it is taken away."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:  # Any: whatever buffer zipfile writes
        got = bytes(piece)
        self._pieces.append(got)
        return len(got)

    def taken(self) -> bytes:
        got = b"".join(self._pieces)
        self._pieces.clear()
        return got


async def zipped(
    entries: Iterable[Entry], read: Callable[[Entry], AsyncGenerator[bytes, None]], comment: str
) -> AsyncGenerator[bytes, None]:
    """Yield a ZIP of `entries`, each read by `read` when its turn comes.

    Raises BrokenOff if a file is not as long as its entry says, and what `read` raises: the ZIP then has no end.
    """
    written = _Written()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.comment = comment.encode()[:65535]
        for entry in entries:
            member = zipfile.ZipInfo(member_name(entry.path), _date(entry.modified))
            member.external_attr = 0o100644 << 16
            left = entry.size
            with archive.open(member, "w", force_zip64=entry.size >= _LARGE) as target:
                async with aclosing(read(entry)) as chunks:
                    async for chunk in chunks:
                        left -= len(chunk)
                        target.write(chunk)
                        yield written.taken()
            if left:
                raise BrokenOff(f"{entry.path} is not as long as it was listed")
    yield written.taken()


_LEADS_AWAY = re.compile(r"[\x00-\x1f\x7f-\x9f\\]|(?<=\A[A-Za-z]):")
_NO_NAMES = {"": "%2F", ".": "%2E", "..": "%2E%2E"}


def member_name(path: str) -> str:
    """Return a file's name in the ZIP: its path, percent-encoded where it would lead a careless program elsewhere.

    Names are chosen by whoever wrote the dataset: no `..`, no root, no drive, nothing that a terminal obeys.
    """
    parts = _LEADS_AWAY.sub(lambda found: quote(found[0]), path).split("/")
    return "/".join(_NO_NAMES.get(part, part) for part in parts)


def _date(modified: datetime) -> tuple[int, int, int, int, int, int]:
    date = (modified.year, modified.month, modified.day, modified.hour, modified.minute, modified.second)
    return min(max(date, _EARLIEST), _LATEST)
