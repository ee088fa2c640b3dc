"""Request bodies that are kept for a second try while they pass (token-life 5.4).

Theory of operation. A spool records what streams by: in memory to MEMORY_LIMIT, beyond that in a file without a name,
so that nothing is left behind however the process ends. It stays out of the way: what passes is not copied, and one
thread writes a piece while the body flows on and the next one collects; only where several have collected is the body
asked to wait. Each change of threads costs as much as some hundred KiB of copying, so pieces are large. Whatever is in
the way of keeping a body - its limit, what all spools may
hold, a disk that is full, read-only, missing or slow - ends the recording and frees what was held. It is nobody's
failure: that body passes as if there were no spool, and is not sent a second time.
"""

import asyncio
import io
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from proxy.events import Emit, Warned, ignore

MEMORY_LIMIT = 1 << 20
"""How much of a body is held before its spool takes to the disk, in bytes."""
PIECE_BYTES = 1 << 20
"""How much the thread is given to write, at least."""
BEHIND_BYTES = 2 << 20
"""How much may wait for the thread before the body has to."""
READ_BYTES = 1 << 19
_SMALL_BYTES = 16 * 1024
"""What is smaller is put together: thousands of chunks would hold more memory than body."""
TOTAL_LIMIT = 1 << 30
"""What all spools of the process may hold together, in memory and on disk, in bytes."""
PATIENCE_SECONDS = 5.0
"""How long a slow disk may hold up one body, in total."""
READ_SECONDS = 30.0
"""How long a slow disk may hold up a second try, each time that something is asked of it."""
CLOSE_SECONDS = 5.0

T = TypeVar("T")
OpenFile = Callable[[Path | None], IO[bytes]]


def nameless_file(folder: Path | None) -> IO[bytes]:
    """Open an unbuffered file of mode 0600 in `folder` (None is the platform's) that ends with its descriptor.

    Linux makes it without a name (O_TMPFILE) where the file system can; elsewhere the name is removed at once, and
    Windows deletes on close. Raises OSError.
    """
    return tempfile.TemporaryFile(dir=folder, buffering=0)


class Spools:
    """Where spools keep what they hold, and how much that may be. `close` last."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        emit: Emit = ignore,
        total: int = TOTAL_LIMIT,
        patience: float = PATIENCE_SECONDS,
        open_file: OpenFile = nameless_file,
    ) -> None:
        self.folder = folder
        self.patience = patience
        self.open_file = open_file
        self._emit = emit
        self._total = total
        self._held = 0
        # One thread: what concerns one file happens in order, and a disk that hangs takes no other work with it.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")
        self._running: set[asyncio.Future[None]] = set()
        self._is_trouble_told = False

    @property
    def held(self) -> int:
        """Bytes that all spools hold now."""
        return self._held

    def spool(self, limit: int) -> "Spool":
        """Return an empty spool for a body of at most `limit` bytes, to be dropped by its owner."""
        return Spool(self, limit)

    def take(self, size: int) -> bool:
        """Return whether `size` bytes more may be held, and count them if so."""
        if self._held + size > self._total:
            return False
        self._held += size
        return True

    def give_back(self, size: int) -> None:
        self._held -= size

    def run(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Let the thread do `work` when what it was given before is done."""
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    def discard(self, close: Callable[[], None], size: int) -> None:
        """Close a file of `size` bytes in the thread: to free what is large takes a file system its time."""
        closing = self.run(close)
        self._running.add(closing)

        def closed(_: "asyncio.Future[None]") -> None:
            self._running.discard(closing)
            self.give_back(size)

        closing.add_done_callback(closed)

    def tell(self, what: str) -> None:
        """Say once what is wrong with the disk, until it works again."""
        if not self._is_trouble_told:
            folder = self.folder or "the folder for temporary files"
            self._emit(Warned(f"Uploads are not kept for a second try in {folder}: {what}."))
        self._is_trouble_told = True

    def works(self) -> None:
        self._is_trouble_told = False

    async def close(self) -> None:
        """Wait for files that are being closed, within a bound, and end the thread."""
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_SECONDS)
        self._thread.shutdown(wait=False, cancel_futures=True)


class Spool:
    """One body: `add` what passes, `end` behind it, `read` it again, `drop` it."""

    def __init__(self, spools: Spools, limit: int) -> None:
        self.is_on = True
        """False once the body is not held, whatever the reason."""
        self._spools = spools
        self._limit = limit
        self._size = 0
        self._on_disk = 0
        self._tail: list[bytes | bytearray] = []
        """What stands behind all that was handed to the disk."""
        self._tail_size = 0
        self._piece: Sequence[bytes | bytearray] = ()
        """What is being written."""
        self._writing: asyncio.Future[None] | None = None
        self._patience = spools.patience
        self._is_behind = False
        """Whether somebody waits in `caught_up`, who hands over what has come since."""
        self._is_ended = False
        self._file: IO[bytes] | None = None
        """Touched by the thread alone."""

    def add(self, chunk: bytes) -> bool:
        """Record `chunk`; returns whether the disk is behind, so that the body had better wait for `caught_up`."""
        if not self.is_on:
            return False
        if self._size + len(chunk) > self._limit or not self._spools.take(len(chunk)):
            self.drop()
            return False
        self._size += len(chunk)
        self._append(chunk)
        if self._tail_size <= (PIECE_BYTES if self._on_disk else MEMORY_LIMIT) or self._is_behind:
            return self._is_behind
        if self._writing is None or self._writing.done():
            self._hand_over()
        else:
            self._is_behind = self._tail_size > BEHIND_BYTES
        return self._is_behind

    def _append(self, chunk: bytes) -> None:
        self._tail_size += len(chunk)
        last = self._tail[-1] if self._tail else b""
        if len(chunk) >= _SMALL_BYTES:
            self._tail.append(chunk)
        elif isinstance(last, bytearray):
            last += chunk
        else:
            self._tail.append(bytearray(chunk))

    async def caught_up(self) -> None:
        """Wait for the disk, not for long, and give it what has come meanwhile.

        Behind the end it stays in memory: the file may be read from then on, and is written where it was read last.
        """
        clock = asyncio.get_running_loop()
        began = clock.time()
        if await self._is_written(self._patience) and not self._is_ended:
            self._patience -= clock.time() - began
            self._hand_over()
        self._is_behind = False

    def _hand_over(self) -> None:
        """Let the thread write what has come since the last piece, which is written."""
        if not self._is_good():
            return
        self._piece, self._tail = self._tail, []
        self._on_disk += self._tail_size
        self._tail_size = 0
        self._writing = self._spools.run(self._write)
        self._writing.add_done_callback(self._written)

    def _written(self, writing: "asyncio.Future[None]") -> None:
        """Go on with what has come meanwhile, if it is enough; a defect is left to who looks next."""
        if writing.cancelled() or writing is not self._writing or self._is_behind:
            return
        if isinstance(writing.exception(), OSError):
            self._is_good()  # of a short body nothing more may come
        elif self.is_on and not self._is_ended and self._tail_size > PIECE_BYTES and writing.exception() is None:
            self._hand_over()

    def end(self) -> None:
        """Note that the body is complete."""
        self._is_ended = True

    async def is_whole(self) -> bool:
        """Return whether the whole body is held, once that is certain."""
        return self._is_ended and await self._is_written(READ_SECONDS)

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Yield the body from its beginning; it must be whole. Raises OSError if the disk does not give it back."""
        position = 0
        while position < self._on_disk:
            async with asyncio.timeout(READ_SECONDS):
                piece = await self._spools.run(partial(self._read, position))
            if not piece:
                raise OSError("a spool is shorter than what was written to it")
            position += len(piece)
            yield piece
        for held in list(self._tail):
            yield bytes(held)

    def drop(self) -> None:
        """Free what is held, at once; harmless if nothing is."""
        if not self.is_on:
            return
        self.is_on = False
        self._tail = []
        self._piece = ()  # the thread has its own hold on it while it writes
        if self._writing is None:
            self._spools.give_back(self._size)
        else:
            self._writing.cancel()
            self._spools.discard(self._close, self._size)

    async def _is_written(self, seconds: float) -> bool:
        """Wait for the writes under way, `seconds` at most, and return whether the spool is still on."""
        clock = asyncio.get_running_loop()
        end = clock.time() + seconds
        while (writing := self._writing) is not None and not writing.done() and clock.time() < end:
            await asyncio.wait({writing}, timeout=end - clock.time())
        return self._is_good()

    def _is_good(self) -> bool:
        """Return whether the spool is on and what was handed over is written; what is not ends it."""
        writing = self._writing
        if writing is None or not self.is_on:
            return self.is_on
        error = writing.exception() if writing.done() else TimeoutError("the disk is too slow")
        if error is None:
            self._spools.works()
            return True
        if not isinstance(error, OSError):
            raise error
        self._spools.tell(error.strerror or str(error))
        self.drop()
        return False

    # --- in the thread

    def _write(self) -> None:
        if not self.is_on:
            return
        if self._file is None:
            self._file = self._spools.open_file(self._spools.folder)
        _write_all(self._file, self._piece)

    def _read(self, position: int) -> bytes:
        if self._file is None:
            raise OSError("a spool was dropped while it was read")
        self._file.seek(position)
        return self._file.read(READ_BYTES)

    def _close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # a file that nobody will read may fail to be written
                self._file.close()
        self._file = None


def _write_all(file: IO[bytes], pieces: Sequence[bytes | bytearray]) -> None:
    """Write `pieces` to an unbuffered file, if it takes them in one call: behind each the thread waits for its turn.

    There are some hundred of them at most, fewer than a call may have (IOV_MAX).
    """
    taken = 0
    if sys.platform != "win32" and isinstance(file, io.FileIO):
        taken = os.writev(file.fileno(), pieces)
    for piece in pieces:
        left = memoryview(piece)[taken:]
        taken = max(taken - len(piece), 0)
        while left:
            left = left[file.write(left) :]
