"""One upstream's connections, for whoever awaits answers: the push seam, pulled.

    send() ──► upload task ─── body: chunk by chunk, paused with the sink ──► Call
       │                                                                        │
       └─ waits for the head ◄── Answer, which is the sink ◄────────────────────┘
                                    └──► UpstreamResponse.body, which pauses the call when nobody reads

An answer that comes while the body is still being sent and is none of success ends the upload: the upstream has said
that it does not want it (RFC 9112 9.5). With a success the upload goes on, and the answer waits for its end.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx2

from proxy.errors import BadRequest, ProxyError
from proxy.headers import Fields
from proxy.tasks import Tasks
from proxy.transport.dialling import Dialler
from proxy.transport.direct import DirectWay
from proxy.transport.explanation import Disconnected, explained
from proxy.transport.seam import Call, Trouble, Way, WrongLengthError, request_head
from proxy.transport.through_httpx2 import Httpx2Way
from proxy.transport.tls import Trust, ssl_context
from proxy.upstreams import Upstream

__all__ = ["Connections", "Disconnected", "UpstreamResponse", "way_to"]

READ_AHEAD_BYTES = 256 * 1024
"""How much of an answer waits for its reader before the upstream has to."""


def way_to(upstream: Upstream, transport: httpx2.AsyncBaseTransport | None = None, trust: Trust = ssl_context) -> Way:
    """Return the way to `upstream`: direct unless HTTP/2 or an outbound proxy is asked for, or `transport` is given."""
    if transport is not None or upstream.network.proxy is not None or upstream.http2:
        return Httpx2Way(upstream, transport)
    return DirectWay(upstream, dialler=Dialler(upstream, trust))


@dataclass(frozen=True, slots=True)
class UpstreamResponse:
    """The head of an answer, its body still to be read."""

    status: int
    fields: Fields
    """Names in lower case."""
    body: AsyncGenerator[bytes, None]
    """The body's bytes as they came, transfer coding removed, content coding untouched."""
    call: Call
    tasks: Tasks = field(repr=False)
    """Owner of what still has to be closed when nobody waits for it any more."""

    def close(self) -> asyncio.Task[None]:
        """Give the connection back, or close it if the body was not read to its end.

        The task has an owner of its own, so that a caller who is cancelled while it waits loses no connection.
        """
        return self.tasks.start(self._close(), name="upstream close")

    async def aclose(self) -> None:
        """Close, and wait for it."""
        await asyncio.shield(self.close())

    async def _close(self) -> None:
        self.call.abort()  # nothing, if the answer came whole
        await self.body.aclose()


class Answer:
    """Takes one answer (seam.Sink) and gives it to one reader."""

    call: Call

    def __init__(self) -> None:
        self.head: asyncio.Future[tuple[int, Fields]] = asyncio.get_running_loop().create_future()
        """The status and fields, or None of them if there will be no answer."""
        self.trouble: tuple[Trouble, BaseException | None] | None = None
        self.may_write = asyncio.Event()
        self.may_write.set()
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._is_over = False
        self._is_paused = False
        self._news = asyncio.Event()

    def on_head(self, status: int, fields: Fields) -> None:
        if not self.head.done():
            self.head.set_result((status, fields))

    def on_data(self, data: bytes) -> None:
        self._pieces.append(data)
        self._held += len(data)
        self._news.set()
        if self._held >= READ_AHEAD_BYTES and not self._is_paused:
            self._is_paused = True
            self.call.pause()

    def on_end(self) -> None:
        self._is_over = True
        self._news.set()
        self.may_write.set()

    def on_error(self, trouble: Trouble, error: BaseException | None) -> None:
        self.trouble = trouble, error
        self.head.cancel()
        self.on_end()

    def pause(self) -> None:
        self.may_write.clear()

    def resume(self) -> None:
        self.may_write.set()

    async def piece(self) -> bytes | None:
        """Return what came since the last look, None at the end of the body or of the connection."""
        while not self._pieces and not self._is_over:
            self._news.clear()
            await self._news.wait()
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        self._held -= len(piece)
        if self._is_paused and self._held < READ_AHEAD_BYTES:
            self._is_paused = False
            self.call.resume()
        return piece


class Connections:
    """Sends requests to one upstream; reuses idle connections."""

    def __init__(
        self, upstream: Upstream, transport: httpx2.AsyncBaseTransport | None = None, trust: Trust = ssl_context
    ) -> None:
        self._upstream = upstream
        self.way = way_to(upstream, transport, trust)
        self._tasks = Tasks()

    async def send(
        self, method: str, target: bytes, fields: Fields, body: AsyncGenerator[bytes, None] | None
    ) -> UpstreamResponse:
        """Send one request, the target exactly as given, and return the head of the answer.

        Raises UpstreamUnreachable, UpstreamTimeout, UpstreamInvalid (Disconnected where another try may help),
        BadRequest if the body does not fit its Content-Length; and whatever `body` raises.
        """
        head, length = request_head(method.encode("ascii"), target, fields)
        answer = Answer()
        answer.call = self.way.start(head, length, answer)
        upload = self._tasks.start(self._upload(answer, body), name="upload")
        try:
            status, raw_fields = await self._head(answer, upload)
        except BaseException:
            answer.call.abort()
            raise
        finally:
            if not upload.done():
                upload.cancel()
                await asyncio.wait({upload})  # what it reads from is somebody else's now
            elif not upload.cancelled():
                upload.exception()  # looked at, though the answer may have said more
        return UpstreamResponse(
            status,
            [(name.lower(), value) for name, value in raw_fields],
            self._body(answer),
            answer.call,
            self._tasks,
        )

    async def _head(self, answer: Answer, upload: asyncio.Task[None]) -> tuple[int, Fields]:
        """Return the head when it may be acted on; raises what ended the upload if that came first."""
        both: set[asyncio.Future[Any]] = {answer.head, upload}  # Any: their results are of two kinds
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not answer.head.done() or (not answer.head.cancelled() and answer.head.result()[0] < 300):
            await upload
        await asyncio.wait({answer.head})
        if answer.head.cancelled():
            raise self._failure(answer)
        return answer.head.result()

    async def _upload(self, answer: Answer, body: AsyncGenerator[bytes, None] | None) -> None:
        try:
            if body is not None:
                async with aclosing(body):
                    async for chunk in body:
                        answer.call.write(chunk)
                        if not answer.may_write.is_set():
                            await self._drained(answer)
            answer.call.end()
        except WrongLengthError as error:
            raise BadRequest("The request's body does not have the length that its head announced.") from error

    async def _drained(self, answer: Answer) -> None:
        try:
            async with asyncio.timeout(self._upstream.idle_timeout):
                await answer.may_write.wait()
        except TimeoutError as error:
            raise explained(Trouble.NOT_TAKEN, error, self._upstream) from error

    async def _body(self, answer: Answer) -> AsyncGenerator[bytes, None]:
        while (piece := await answer.piece()) is not None:
            yield piece
        if answer.trouble is not None:
            raise self._failure(answer)

    def _failure(self, answer: Answer) -> ProxyError:
        trouble, error = answer.trouble or (Trouble.CLOSED, None)
        failure = explained(trouble, error, self._upstream)
        failure.__cause__ = error
        return failure

    def drop_idle(self) -> None:
        """Close connections that nothing uses, after a suspend."""
        self.way.drop_idle()

    async def aclose(self) -> None:
        """Close all connections, those in use too."""
        await self._tasks.close()
        await self.way.close()
