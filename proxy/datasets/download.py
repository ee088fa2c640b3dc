"""Reading one file to its end, whatever ends on the way: a connection, a link, the storage's patience.

Theory of operation. An answer is opened with a link; a link that has ended (400 and 401 for a token, 403 for a
signature) is renewed once. When the body breaks, the rest is asked for by range from where it broke, under If-Match and
If-Range with the version that the first answer named: another version, or none, ends the download, since two halves of
two files are no file. As long as bytes arrive there is no limit on how often; without any, TRIES in a row.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

from proxy.clock import Clock
from proxy.datasets.links import Link
from proxy.datasets.permissions import Links
from proxy.datasets.refusals import failure, refusal_of
from proxy.datasets.storage import IDLE_SECONDS, Reading, Storage
from proxy.errors import BrokenOff, IssuerUnavailable, UpstreamInvalid, UpstreamTimeout, UpstreamUnreachable
from proxy.headers import Fields, first

TRIES = 5
_ANSWERS = (200, 206, 304, 412, 416)
_CONTENT_RANGE = re.compile(rb"bytes (\d+)-(\d+)/(\d+|\*)")


class Download:
    """One file being read. `open` first, then `chunks`; always `aclose`."""

    def __init__(self, storage: Storage, links: Links, clock: Clock) -> None:
        self._storage = storage
        self._links = links
        self._clock = clock
        self._reading: Reading | None = None

    async def open(self, fields: Fields, instead: Fields | None = None) -> Reading:
        """Return the answer to a GET with `fields`; after a 412, to one with the fields `instead`.

        Its status is 200, 206, 304, 412 or 416. Raises NotFound, and what Storage.get and the links raise.
        """
        reading = await self._opened(fields)
        if reading.status == 412 and instead is not None:
            await self.aclose()
            reading = await self._opened(instead)
        return reading

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body of what was opened. Raises Changed, or what ended it for good."""
        if self._reading is None:
            raise RuntimeError("open comes first")
        position, end = extent(self._reading)
        version = first(self._reading.fields, b"etag") or b"W/"
        failures = 0
        while True:
            try:
                if self._reading is None:
                    await self._clock.sleep(pause(failures))
                    await self._go_on(position, end, version)
                async with aclosing(self._reading.response.body) as body:
                    while chunk := await _next(body, is_whole=end in (None, position)):
                        position += len(chunk)
                        failures = 0
                        yield chunk
            except (UpstreamInvalid, UpstreamTimeout, UpstreamUnreachable, IssuerUnavailable):
                failures += 1
                await self.aclose()
                if end is None or version.startswith(b"W/") or failures >= TRIES:
                    raise
            else:
                return

    async def _go_on(self, position: int, end: int | None, version: bytes) -> None:
        wanted = b"bytes=%d-%d" % (position, (end or 0) - 1)
        reading = await self._opened([(b"range", wanted), (b"if-range", version), (b"if-match", version)])
        is_same = reading.status == 206 and first(reading.fields, b"etag") == version
        if not is_same or extent(reading) != (position, end):
            raise Changed("The file has changed while it was being read; read it again.")

    async def _opened(self, fields: Fields) -> Reading:
        told = set[str]()
        moved: Link | None = None
        for attempt in range(1, TRIES + 1):
            link = await self._links.current()
            self._reading = reading = await self._storage.get(moved or link, fields)
            if reading.status in _ANSWERS:
                return await _with_size(reading)
            refusal = await refusal_of(reading)
            await self.aclose()
            if refusal.is_busy and attempt < TRIES:
                await self._clock.sleep(pause(attempt))
                continue
            if refusal.status == 307 and moved is None:
                moved = link.moved(first(reading.fields, b"location"))
                if moved is not None:
                    continue
            if not self._links.refused(link, refusal) or refusal.words in told:
                break  # the same refusal twice is meant
            told.add(refusal.words)
            moved = None
        raise failure(refusal)

    async def aclose(self) -> None:
        """Let go of the connection, if there is one."""
        if self._reading is not None:
            await self._reading.aclose()
            self._reading = None


class Changed(BrokenOff):
    """The file is another one than it was when it was opened."""


def extent(reading: Reading) -> tuple[int, int | None]:
    """Return the first byte's position and that behind the last one (None: not known) of an answer's body."""
    if reading.status == 206:
        found = _CONTENT_RANGE.fullmatch(first(reading.fields, b"content-range") or b"")
        if not found:
            raise UpstreamInvalid("The file storage answered with a range that it does not name.")
        return int(found[1]), int(found[2]) + 1
    length = first(reading.fields, b"content-length")
    return 0, int(length) if length is not None and length.isdigit() else None


async def _with_size(reading: Reading) -> Reading:
    """Return a 416 with the size of the file (RFC 9110 15.5.17), which S3 tells in the body alone; others as given."""
    if reading.status == 416 and first(reading.fields, b"content-range") is None:
        size = (await refusal_of(reading)).size
        if size is not None:
            reading.tell((b"content-range", b"bytes */%d" % size))
    return reading


def total(fields: Fields) -> int | None:
    """Return the whole file's size from the Content-Range of a 206; None if it is not told."""
    found = _CONTENT_RANGE.fullmatch(first(fields, b"content-range") or b"")
    return int(found[3]) if found and found[3] != b"*" else None


def pause(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row."""
    return min(0.2 * 2.0 ** (failures - 1), 5.0)


async def _next(body: AsyncGenerator[bytes, None], *, is_whole: bool) -> bytes:
    """Return the next bytes, or none at the end. Raises UpstreamInvalid if it comes before the file `is_whole`."""
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            chunk = await anext(body, b"")
    except TimeoutError as error:
        raise UpstreamTimeout("The file storage stopped in the middle of a file.") from error
    if not chunk and not is_whole:
        raise UpstreamInvalid("The file storage ended the file too early.")
    return chunk
