"""A TCP proxy that fails on command: the network between two programs that do not know of it.

    async with ChaosProxy(port, seed=7) as chaos:
        chaos.weather = Answer(b"HTTP/1.1 500 Oh\\r\\nContent-Length: 0\\r\\n\\r\\n")
        ...
        chaos.weather = CLEAR

It looks at the first request of each connection, because a lost answer or a false one needs to know where a request
ends; all else are bytes. A fault strikes before anything was forwarded, unless it says otherwise: whoever is behind it
has then done nothing that could be lost.
"""

import asyncio
import contextlib
import random
import re
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from proxy.clock import Clock, SystemClock

HEAD_LIMIT = 64 * 1024
BLOCK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Clear:
    """Everything passes."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Each new connection is reset before it said anything."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Nothing moves until the weather changes; then the new weather decides. Who gave up meanwhile is not forwarded."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Each request gets these bytes, then the connection closes."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class Lose:
    """Requests that contain `marker` are forwarded, and the connection is reset in place of the answer."""

    marker: bytes = b""


@dataclass(frozen=True, slots=True)
class Cut:
    """Answers are reset after a random number of bytes, at most `most`."""

    most: int


Weather = Clear | Refuse | Hang | Answer | Lose | Cut
CLEAR = Clear()


@dataclass(frozen=True, slots=True)
class Seen:
    """The first request of one connection."""

    at: float
    """Wall time."""
    line: bytes
    raw: bytes = field(repr=False)


class ChaosProxy:
    """Listens on a free loopback port and forwards to `target`; `seen` and `lost` are for who looks on."""

    def __init__(self, target: int, *, seed: int = 0, clock: Clock | None = None) -> None:
        """`target` is the port on 127.0.0.1 to forward to; it may be set later."""
        self.target = target
        self.port = 0
        self.seen: list[Seen] = []
        self.lost = 0
        """Answers that `Lose` swallowed."""
        self._clock = clock or SystemClock()
        self._randomness = random.Random(seed)  # noqa: S311 - faults, not secrets
        self._weather: Weather = CLEAR
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._forwarding = 0
        self._server: asyncio.Server | None = None

    @property
    def weather(self) -> Weather:
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        """From now on; connections that already move are left alone."""
        self._weather = weather
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is being forwarded."""
        return self._forwarding == 0

    @property
    def is_idle(self) -> bool:
        """Whether no connection is open."""
        return not self._tasks

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=HEAD_LIMIT)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await self._play(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            reset(writer)
        except asyncio.CancelledError:
            reset(writer)  # our own end: asyncio's server would report the cancellation
        finally:
            writer.close()

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self._weather, Refuse):
            reset(writer)
            return
        request = await first_request(reader)
        self.seen.append(Seen(self._clock.wall(), request.partition(b"\r\n")[0], request))
        while isinstance(self._weather, Hang):
            if not await self._is_still_there(reader):
                return
        match self._weather:
            case Refuse():
                reset(writer)
            case Answer(raw):
                writer.write(raw)
                await writer.drain()
            case weather:
                self._forwarding += 1
                try:
                    await self._forward(weather, request, reader, writer)
                finally:
                    self._forwarding -= 1

    async def _is_still_there(self, reader: asyncio.StreamReader) -> bool:
        """Return True when the weather changes, False as soon as the other side is gone."""
        changed = asyncio.ensure_future(self._changed.wait())
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({changed, gone}, return_when=asyncio.FIRST_COMPLETED)
            return not gone.done()
        finally:
            for waiting in (changed, gone):
                waiting.cancel()
            await asyncio.gather(changed, gone, return_exceptions=True)

    async def _forward(
        self, weather: Weather, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        there, to_there = await asyncio.open_connection("127.0.0.1", self.target, limit=BLOCK)
        try:
            to_there.write(request)
            await to_there.drain()
            if isinstance(weather, Lose) and weather.marker in request:
                await there.read(1)  # now it has been done
                self.lost += 1
                reset(writer)
                return
            left = self._randomness.randrange(weather.most + 1) if isinstance(weather, Cut) else None
            up = asyncio.ensure_future(_copy(reader, to_there))
            try:
                if not await _copy(there, writer, left):
                    reset(writer)
            finally:
                up.cancel()
                await asyncio.gather(up, return_exceptions=True)
        finally:
            to_there.close()


async def first_request(reader: asyncio.StreamReader) -> bytes:
    """Return one request, or as much of a longer one as is needed to go on from: its head and HEAD_LIMIT bytes.

    Raises what the streams raise if the connection ends before.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?mi)^content-length: *(\d+)\r$", head)
    body = await reader.readexactly(min(int(length[1]), HEAD_LIMIT)) if length is not None else b""
    return head + body


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None = None) -> bool:
    """Copy to the end, which is passed on; return False if `left` bytes were all that was allowed."""
    while block := await reader.read(BLOCK):
        if left is not None and len(block) > left:
            writer.write(block[:left])
            await writer.drain()
            return False
        writer.write(block)
        await writer.drain()
        left = None if left is None else left - len(block)
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()
    return True
