"""The other way to an upstream: through httpx2's transport, behind the same seam.

For HTTP/2, for outbound proxies, and for transports that tests hand in. One task for each call does what a direct
connection does in callbacks. Without a Client: its cookie jar, default fields, redirects and URL normalisation are all
wrong for a relay (http-law H34).
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Protocol

import h11
import httpx2

from proxy.headers import Field
from proxy.tasks import Tasks
from proxy.transport.pool import Pool
from proxy.transport.seam import CHUNKED, Sink, Trouble, WrongLengthError
from proxy.transport.tls import ssl_context
from proxy.upstreams import Upstream

LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=20.0)
HELD_BYTES = 64 * 1024
"""How much of a body waits here before the sink is told to pause."""


class _Stream(Protocol):
    """What carries a connection's bytes, by httpcore2's name a network stream."""

    async def aclose(self) -> None: ...


class Httpx2Way:
    """Calls to one upstream through `transport` (seam.Way)."""

    def __init__(self, upstream: Upstream, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._origin = httpx2.URL(upstream.origin)
        self._timeouts = {
            "connect": upstream.connect_timeout,
            "write": upstream.idle_timeout,
            "read": None,  # the relay's own deadlines say more precisely which silence is too long
            "pool": upstream.connect_timeout,
        }
        self._tasks = Tasks()
        self._is_negotiated = upstream.scheme == "https" or upstream.network.proxy is not None
        self._transport = transport or Pool(
            verify=ssl_context(upstream.network),
            trust_env=False,
            limits=LIMITS,
            proxy=upstream.network.proxy,
            http2=upstream.http2,
        )

    def start(self, head: bytes, length: int, sink: Sink, body: bytes = b"") -> "Httpx2Call":
        call = Httpx2Call(length, sink)
        if body:
            call.write(body)
        call.task = self._tasks.start(self._run(call, head), name="upstream call")
        return call

    async def _run(self, call: "Httpx2Call", head: bytes) -> None:
        try:
            await self._exchange(call, head)
        except _ERRORS as error:
            call.fail(trouble_of(error), error)
        except asyncio.CancelledError:
            call.fail(Trouble.CLOSED, None)
            raise
        except Exception as error:
            call.fail(Trouble.INVALID, error)
            raise
        else:
            call.finish()

    async def _exchange(self, call: "Httpx2Call", head: bytes) -> None:
        opened: list[_Stream] = []
        try:
            response = await self._transport.handle_async_request(self._request(call, head, opened))
        except asyncio.CancelledError:
            # httpx2 forgets a connection that is cancelled in its TLS handshake.
            await asyncio.gather(*(self._tasks.start(one.aclose(), name="upstream close") for one in opened))
            raise
        stream = response.stream
        if not isinstance(stream, httpx2.AsyncByteStream):
            raise TypeError("the transport returned a synchronous stream")
        try:
            if not 200 <= response.status_code <= 599:
                raise httpx2.RemoteProtocolError(f"status {response.status_code}")
            call.tell_head(response.status_code, list(response.headers.raw))
            async for chunk in stream:
                await call.tell(chunk)
        finally:
            if _holds_more(stream):
                connection: _Stream = response.extensions["network_stream"]
                await asyncio.shield(self._tasks.start(connection.aclose(), name="upstream close"))
            await asyncio.shield(self._tasks.start(stream.aclose(), name="upstream close"))

    def _request(self, call: "Httpx2Call", head: bytes, opened: list[_Stream]) -> httpx2.Request:
        line, *lines = head[:-4].split(b"\r\n")
        method, target, _ = line.split(b" ")
        fields: list[Field] = [(name, value) for name, _, value in (one.partition(b": ") for one in lines)]
        request = httpx2.Request(method.decode("ascii"), self._origin, headers=fields, stream=_Body(call))
        request.extensions = {"target": target, "timeout": self._timeouts}
        if self._is_negotiated:
            request.extensions["trace"] = partial(_note_opened, opened)
        return request

    def drop_idle(self) -> None:
        """Do nothing: httpx2 looks at an idle connection before it uses it, and has no word for this."""

    async def close(self) -> None:
        await self._tasks.close()
        await self._transport.aclose()


class Httpx2Call:
    """One call: what is written waits here until httpx2 asks for it (seam.Call)."""

    task: asyncio.Task[None]

    def __init__(self, length: int, sink: Sink) -> None:
        self.left = length
        self._sink: Sink | None = sink
        self._pieces: list[bytes] = []
        self._held = 0
        self._is_whole = length == 0
        self._has_more = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._is_withheld = False

    def write(self, data: bytes) -> None:
        if self._sink is None or not data:
            return
        if self.left != CHUNKED:
            self.left -= len(data)
            if self.left < 0:
                self.abort()
                raise WrongLengthError("the body is longer than its head announced")
            self._is_whole = self.left == 0
        self._pieces.append(data)
        self._held += len(data)
        self._has_more.set()
        if self._held >= HELD_BYTES and not self._is_withheld:
            self._is_withheld = True
            self._sink.pause()

    def end(self) -> None:
        if self._sink is None:
            return
        if self.left > 0:
            self.abort()
            raise WrongLengthError("the body is shorter than its head announced")
        self._is_whole = True
        self._has_more.set()

    def abort(self) -> None:
        self._sink = None
        self.task.cancel()

    def pause(self) -> None:
        self._may_read.clear()

    def resume(self) -> None:
        self._may_read.set()

    async def body(self) -> AsyncIterator[bytes]:
        """Yield what is written until all is."""
        while True:
            pieces, self._pieces, self._held = self._pieces, [], 0
            if self._is_withheld and self._sink is not None:
                self._is_withheld = False
                self._sink.resume()
            for piece in pieces:
                yield piece
            if self._pieces:
                continue
            if self._is_whole:
                return
            self._has_more.clear()
            await self._has_more.wait()

    def tell_head(self, status: int, fields: list[Field]) -> None:
        if self._sink is not None:
            self._sink.on_head(status, fields)

    async def tell(self, data: bytes) -> None:
        await self._may_read.wait()
        if self._sink is not None and data:
            self._sink.on_data(data)

    def finish(self) -> None:
        sink, self._sink = self._sink, None
        if sink is None:
            return
        if self._is_withheld:
            sink.resume()  # the answer came though the body was not taken: nobody need wait for that
        sink.on_end()

    def fail(self, trouble: Trouble, error: BaseException | None) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.on_error(trouble, error)


class _Body(httpx2.AsyncByteStream):
    def __init__(self, call: Httpx2Call) -> None:
        self._call = call

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._call.body()


async def _note_opened(opened: list[_Stream], event: str, told: dict[str, Any]) -> None:
    if event == "connection.connect_tcp.complete":
        opened.append(told["return_value"])


def _holds_more(stream: httpx2.AsyncByteStream) -> bool:
    """Return whether bytes came behind the answer, which httpx2 would take for the answer to the next request.

    It has no public word for this, so we look inside; test_transport_through_httpx2.py notices when that stops working.
    """
    inner: Any = stream
    for name in ("_httpcore_stream", "_stream", "_connection", "_h11_state"):
        inner = getattr(inner, name, None)
    return inner is not None and bool(inner.trailing_data[0])


_ERRORS = (httpx2.HTTPError, h11.LocalProtocolError, OSError)
"""What the library raises: its own errors, and two kinds that it forgets to translate (broken TLS is an OSError)."""


def trouble_of(error: BaseException) -> Trouble:  # noqa: PLR0911 - a table
    """Return what the library's error means to us."""
    match error:
        case httpx2.ConnectTimeout() | httpx2.PoolTimeout():
            return Trouble.NOT_IN_TIME
        case httpx2.ProxyError():
            return Trouble.PROXY_REFUSED
        case httpx2.ConnectError():
            return Trouble.UNREACHABLE
        case httpx2.WriteTimeout() | httpx2.ReadTimeout():
            return Trouble.NOT_TAKEN
        case ssl.SSLError():
            return Trouble.TLS_BROKEN
        case httpx2.NetworkError() | OSError():
            return Trouble.STALE  # of a new connection too, perhaps: the library does not say
        case httpx2.RemoteProtocolError() if "without sending a response" in str(error):
            return Trouble.STALE
        case _:
            return Trouble.INVALID
