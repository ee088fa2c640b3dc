"""One upstream's connections, by httpx2's transport.

No Client: its cookie jar, default fields, redirects and URL normalisation are all wrong for a relay (http-law H34).
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import h11
import httpx2

from proxy.errors import BadRequest, ProxyError, UpstreamInvalid, UpstreamTimeout, UpstreamUnreachable
from proxy.headers import Fields
from proxy.tasks import Tasks
from proxy.transport.pool import Pool
from proxy.transport.tls import ssl_context
from proxy.upstreams import Upstream

LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=20.0)


_ERRORS = (httpx2.HTTPError, h11.LocalProtocolError, OSError)
"""What the library raises: its own errors, and two kinds that it forgets to translate (broken TLS is an OSError)."""


class Disconnected(UpstreamInvalid):
    """The connection ended before any byte of an answer: perhaps it was an idle one that had just been closed (H63)."""


@dataclass(frozen=True, slots=True)
class UpstreamResponse:
    """The head of an answer, its body still to be read."""

    status: int
    fields: Fields
    """Names in lower case."""
    body: AsyncGenerator[bytes, None]
    """The body's bytes as they came, transfer coding removed, content coding untouched."""
    stream: httpx2.AsyncByteStream
    connection: "_Stream"
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
        try:
            await self.body.aclose()
            if _holds_more(self.stream):
                await self.connection.aclose()
        finally:
            await self.stream.aclose()


class _Stream(Protocol):
    """What carries a connection's bytes, by httpcore2's name a network stream."""

    async def aclose(self) -> None: ...


def _holds_more(stream: httpx2.AsyncByteStream) -> bool:
    """Return whether bytes came behind the answer, which httpx2 would take for the answer to the next request.

    It has no public word for this, so we look inside; journeys/test_faults.py notices when that stops working.
    """
    inner: Any = stream
    for name in ("_httpcore_stream", "_stream", "_connection", "_h11_state"):
        inner = getattr(inner, name, None)
    return inner is not None and bool(inner.trailing_data[0])


class _Body(httpx2.AsyncByteStream):
    def __init__(self, chunks: AsyncGenerator[bytes, None] | None) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._chunks is not None:
            async with aclosing(self._chunks) as chunks:
                async for chunk in chunks:
                    yield chunk


class Connections:
    """Sends requests to one upstream; reuses idle connections."""

    def __init__(self, upstream: Upstream, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._upstream = upstream
        self._origin = httpx2.URL(upstream.origin)
        self._tasks = Tasks()
        self._is_negotiated = upstream.scheme == "https" or upstream.network.proxy is not None
        self._transport = transport or Pool(
            verify=ssl_context(upstream.network), trust_env=False, limits=LIMITS, proxy=upstream.network.proxy
        )

    async def send(
        self, method: str, target: bytes, fields: Fields, body: AsyncGenerator[bytes, None] | None
    ) -> UpstreamResponse:
        """Send one request, the target exactly as given, and return the head of the answer.

        Raises UpstreamUnreachable, UpstreamTimeout, UpstreamInvalid (Disconnected where another try may help),
        BadRequest if the body does not fit its Content-Length; and whatever `body` raises.
        """
        request = httpx2.Request(method, self._origin, headers=fields, stream=_Body(body))
        request.extensions = {
            "target": target,
            "timeout": {
                "connect": self._upstream.connect_timeout,
                "write": self._upstream.idle_timeout,
                "read": None,  # the relay's own deadlines say more precisely which silence is too long
                "pool": self._upstream.connect_timeout,
            },
        }
        opened: list[_Stream] = []
        if self._is_negotiated:
            request.extensions["trace"] = partial(_note_opened, opened)
        try:
            response = await self._transport.handle_async_request(request)
        except _ERRORS as error:
            raise self._translated(error) from error
        except asyncio.CancelledError:
            # httpx2 forgets a connection that is cancelled in its TLS handshake.
            closing = [self._tasks.start(one.aclose(), name="upstream close") for one in opened]
            await asyncio.gather(*closing)
            raise
        stream = response.stream
        if not isinstance(stream, httpx2.AsyncByteStream):
            raise TypeError("the transport returned a synchronous stream")
        return UpstreamResponse(
            response.status_code,
            [(name.lower(), value) for name, value in response.headers.raw],
            self._translating(stream),
            stream,
            response.extensions.get("network_stream", stream),
            self._tasks,
        )

    async def _translating(self, stream: httpx2.AsyncByteStream) -> AsyncGenerator[bytes, None]:
        try:
            chunks = aiter(stream)
            try:
                async for chunk in chunks:
                    yield chunk
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
        except _ERRORS as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> ProxyError:  # noqa: PLR0911 - a table
        """Return our error for the library's; the text names our upstream and no internals of its answer."""
        name = f"[upstream.{self._upstream.name}] ({self._upstream.origin})"
        match error:
            case httpx2.ConnectTimeout() | httpx2.PoolTimeout():
                return UpstreamUnreachable(f"{name} does not accept connections in time.")
            case httpx2.ProxyError():
                return UpstreamUnreachable(f"The outbound proxy refuses to connect to {name}.")
            case httpx2.ConnectError():
                return UpstreamUnreachable(f"{name} {_why_unreachable(error)}")
            case httpx2.WriteTimeout() | httpx2.ReadTimeout():
                return UpstreamTimeout(f"{name} stopped taking the request.")
            case h11.LocalProtocolError() | httpx2.LocalProtocolError():
                return BadRequest("The request's body does not have the length that its head announced.")
            case ssl.SSLError():
                return UpstreamInvalid(f"{name} broke its TLS connection.")
            case httpx2.NetworkError() | OSError():
                return Disconnected(f"{name} closed the connection before it answered.")
            case httpx2.RemoteProtocolError() if "without sending a response" in str(error):
                return Disconnected(f"{name} closed the connection before it answered.")
            case _:
                return UpstreamInvalid(f"{name} answered something that is not valid HTTP.")

    async def aclose(self) -> None:
        """Close all connections, those in use too."""
        await self._tasks.close()
        await self._transport.aclose()


async def _note_opened(opened: list[_Stream], event: str, told: dict[str, Any]) -> None:
    if event == "connection.connect_tcp.complete":
        opened.append(told["return_value"])


def _why_unreachable(error: BaseException) -> str:
    """Return the end of a sentence about a failed connection, from the chain of causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):  # one for each address of the name; they fail alike
            cause = cause.exceptions[0]
        match cause:
            case ssl.SSLCertVerificationError():
                return (
                    f"shows a certificate that is not trusted here: {cause.verify_message}. "
                    "A private authority goes into ca_file."
                )
            case ssl.SSLError():
                return "does not speak TLS as it should; is the URL's scheme right?"
            case socket.gaierror():
                return "has a name that cannot be resolved; check its url and the network."
            case ConnectionRefusedError():
                return "refuses connections; is it running, and is its port right?"
        cause = cause.__cause__ or cause.__context__
    return "cannot be reached; check its url, the network and [network] proxy."
