"""A running proxy and scripted upstreams over real sockets, for journeys in which bytes matter."""

import asyncio
import re
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from proxy.asgi import ASGIApp
from proxy.clock import SystemClock
from proxy.decision import Rules
from proxy.errors import ProxyError
from proxy.events import Event
from proxy.exchange import Source
from proxy.forward import Forwarder
from proxy.guard import Guard
from proxy.headers import Fields, first
from proxy.lane import Lanes
from proxy.limits import Admission, Limits
from proxy.refusals import Refusals
from proxy.relay import Relay
from proxy.server import Listener, bind, run
from proxy.spool import Spools
from proxy.tokens import TokenSet
from proxy.transport.connections import Connections
from proxy.upstreams import Mounts, Upstream
from tests.poll import eventually

END = "listener"
"""Which of the two client ends `running` relays through: `asgi` is the forwarder in somebody's application."""

CANARY = "canary-access-token"
PSEUDONYM = b"bearerproxy-test"


def token_set(access_token: str = CANARY, *, life: float = 300.0) -> TokenSet:
    now = SystemClock().wall()
    return TokenSet(access_token, now + life, now, client_id="test", grant="device_code")


@dataclass
class FixedSource:
    """A token source that always has `held`; `newer` is what a rejection yields."""

    held: TokenSet = field(default_factory=token_set)
    newer: TokenSet | None = None
    rejected: list[str] = field(default_factory=list)
    blamed_by: list[str] = field(default_factory=list)
    """Names of the upstreams that answered 401."""
    shares: list[float] = field(default_factory=list)
    """What uploads that are sent only once asked for."""
    uses: int = 0

    def current(self) -> TokenSet | None:
        self.uses += 1
        return self.held

    async def token(self) -> TokenSet:
        return self.held

    async def fresh(self, share: float) -> TokenSet:
        self.shares.append(share)
        return self.held

    async def reject(self, rejected: TokenSet, *, upstream: str) -> TokenSet | None:
        self.rejected.append(rejected.access_token)
        self.blamed_by.append(upstream)
        if self.newer is not None:
            self.held = self.newer
        return self.newer


# what a caller sees --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One answer as a strict reader of HTTP/1.1 sees it."""

    status: int
    fields: Fields
    body: bytes
    is_complete: bool
    rest: bytes
    """What stands behind it."""

    def __getitem__(self, name: str) -> bytes | None:
        return first(self.fields, name.encode())


def parsed(raw: bytes, *, method: str = "GET") -> Answer:
    """Read the first answer of `raw`; what is delimited by closing counts as complete."""
    head, mark, rest = raw.partition(b"\r\n\r\n")
    assert mark, f"no whole head: {raw[:200]!r}"
    status_line, *lines = head.split(b"\r\n")
    found = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [^\r\n]*", status_line)
    assert found, status_line
    fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    status, length = int(found[1]), first(fields, b"content-length")
    is_chunked = first(fields, b"transfer-encoding") is not None
    assert not (is_chunked and length is not None), "two framings"
    if status < 200 or status in (204, 304) or method == "HEAD":
        return Answer(status, fields, b"", is_complete=True, rest=rest)
    if is_chunked:
        body, is_complete, rest = _dechunked(rest)
        return Answer(status, fields, body, is_complete, rest)
    if length is not None:
        wanted = int(length)
        return Answer(status, fields, rest[:wanted], len(rest) >= wanted, rest[wanted:])
    return Answer(status, fields, rest, is_complete=True, rest=b"")


def _dechunked(raw: bytes) -> tuple[bytes, bool, bytes]:
    body = b""
    while found := re.match(rb"([0-9a-fA-F]+)\r\n", raw):
        size = int(found[1], 16)
        chunk, raw = raw[found.end() : found.end() + size], raw[found.end() + size :]
        body += chunk
        if not raw.startswith(b"\r\n"):
            return body, False, raw
        raw = raw[2:]
        if size == 0:
            return body, True, raw
    return body, False, raw


def all_parsed(raw: bytes) -> list[Answer]:
    """Read all answers of `raw`, each to a GET."""
    answers = []
    while raw:
        answers.append(parsed(raw))
        raw = answers[-1].rest
    return answers


@dataclass
class Caller:
    """A local tool's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def rest(self) -> bytes:
        """Return everything until the proxy closes; a reset ends it too and is told by `was_reset`."""
        received = b""
        try:
            while chunk := await self.reader.read(1 << 16):
                received += chunk
        except ConnectionResetError:
            self.was_reset = True
        return received

    async def pieces(self, *, is_chunked: bool, length: int) -> AsyncIterator[bytes]:
        """Yield a body behind its head in pieces, without ever holding it whole."""
        left = length
        while not is_chunked and left:
            piece = await self.reader.read(min(left, 1 << 16))
            assert piece, "the body broke off"
            left -= len(piece)
            yield piece
        while is_chunked and (size := int(await self.reader.readuntil(b"\r\n"), 16)):
            yield await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"

    was_reset: bool = False

    def abort(self) -> None:
        """Vanish as a killed program does."""
        self.writer.transport.abort()


@asynccontextmanager
async def calling(
    port: int, *, uds: str | None = None, limit: int = 1 << 16, seconds: float = 10
) -> AsyncIterator[Caller]:
    """Open one connection; everything within has `seconds`."""
    async with asyncio.timeout(seconds):
        if sys.platform == "win32" or uds is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
        else:
            reader, writer = await asyncio.open_unix_connection(uds, limit=limit)
        try:
            yield Caller(reader, writer)
        finally:
            writer.close()


# the proxy -----------------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """Something of ours that serves."""

    listeners: list[Listener]
    refusals: list[ProxyError] = field(default_factory=list)
    """What the listener refused before there was a request."""
    events: list[Event] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def port(self) -> int:
        return self.listeners[0].port or 0

    async def exchange(self, raw: bytes) -> bytes:
        """Send raw bytes on a new connection and return everything until the proxy closes it."""
        async with calling(self.port) as caller:
            await caller.send(raw)
            return await caller.rest()

    async def ask(self, target: str, *fields: str, method: str = "GET", body: bytes = b"", port: int = 0) -> Answer:
        """Ask for `target` as a tool does, on a connection of its own, and return the answer."""
        lines = [f"{method} {target} HTTP/1.1", *fields, "Connection: close"]
        if not any(one.lower().startswith("host:") for one in fields):
            lines.append(f"Host: localhost:{port or self.port}")
        if body:
            lines.append(f"Content-Length: {len(body)}")
        async with calling(port or self.port) as caller:
            await caller.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            return parsed(await caller.rest(), method=method)


class _Host(uvicorn.Server):
    """uvicorn as anybody runs it, but for signals, which are the test's, and its end, which it waits for."""

    def __init__(self, config: uvicorn.Config, stop: asyncio.Event) -> None:
        super().__init__(config)
        self._stop = stop

    async def main_loop(self) -> None:
        await self._stop.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def hosting(
    app: ASGIApp,
    *,
    listeners: list[Listener] | None = None,
    drain_seconds: float = 1,
    lifespan: Literal["on", "off"] = "off",
) -> AsyncIterator[Running]:
    """Run an application of somebody's own under plain uvicorn."""
    there = Running(listeners or bind("127.0.0.1", 0, allow_remote=False))
    config = uvicorn.Config(
        app,
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=int(drain_seconds),
    )
    server = _Host(config, there.stop)
    serve = server.serve([one.socket for one in there.listeners])
    task = asyncio.get_running_loop().create_task(serve, name="somebody's server")
    await eventually(lambda: server.started, 5, what="uvicorn's start")
    try:
        yield there
    finally:
        there.stop.set()
        await task


@asynccontextmanager
async def serving(
    app: ASGIApp,
    *,
    listeners: list[Listener] | None = None,
    guard: Guard | None = None,
    limits: Limits | None = None,
    drain_seconds: float = 1,
    lanes: Lanes | None = None,
) -> AsyncIterator[Running]:
    """Run the real listener in front of any ASGI app."""
    there = Running(listeners or bind("127.0.0.1", 0, allow_remote=False))
    is_ready = asyncio.Event()
    task = asyncio.get_running_loop().create_task(
        run(
            app,
            there.listeners,
            guard=guard or Guard(),
            refused=lambda error, *_: there.refusals.append(error),
            stop=there.stop,
            lanes=lanes,
            drain_seconds=drain_seconds,
            limits=limits or Limits(),
            ready=is_ready.set,
        ),
        name="serving",
    )
    await is_ready.wait()
    try:
        yield there
    finally:
        there.stop.set()
        await task


async def control_stub(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]})
    await send({"type": "http.response.body", "body": b"control"})


@asynccontextmanager
async def running(
    upstreams: Sequence[Upstream],
    *,
    sources: Mapping[str, Source] | None = None,
    guard: Guard | None = None,
    limits: Limits | None = None,
    control: ASGIApp = control_stub,
    admission: Admission | None = None,
    drain_seconds: float = 1,
    listeners: Sequence[Listener] = (),
    spools: Spools | None = None,
    transports: Mapping[str, httpx2.AsyncBaseTransport] | None = None,
) -> AsyncIterator[Running]:
    """Run guard, forwarder and connections in front of `upstreams`, behind the real listener or that of somebody else.

    Each identity has a FixedSource unless `sources` names another. `listeners` come on top of one on loopback.
    """
    events: list[Event] = []
    guard = guard or Guard()
    named = {one.identity for one in upstreams if one.identity is not None}
    connections = {one.name: Connections(one, (transports or {}).get(one.name)) for one in upstreams}
    spools = spools or Spools(emit=events.append)
    relay = Relay(
        sources={name: FixedSource() for name in named} | dict(sources or {}),
        ways={name: one.way for name, one in connections.items()},
        spools=spools,
        admission=admission or Admission(1000),
        pseudonym=PSEUDONYM,
        clock=SystemClock(),
        emit=events.append,
    )
    rules = Rules(guard, Mounts(upstreams), PSEUDONYM)
    forwarder = Forwarder(rules, relay, control=control, emit=events.append)
    lanes = Lanes(rules, relay, Refusals(guard, events.append))
    bound = [*bind("127.0.0.1", 0, allow_remote=False), *listeners]
    own: dict[int, Upstream] = {}
    for one in upstreams:
        if one.listen is not None:
            alone = bind(*one.listen, allow_remote=False)
            bound += alone
            own |= {listener.port: one for listener in alone if listener.port is not None}
    rules.own_ports = own
    try:
        front: AbstractAsyncContextManager[Running]
        if END == "listener":
            front = serving(
                forwarder, listeners=bound, guard=guard, limits=limits, drain_seconds=drain_seconds, lanes=lanes
            )
        else:
            assert limits is None, "limits are the listener's own"
            theirs = Starlette(routes=[Mount("/", app=forwarder)])
            front = hosting(theirs, listeners=bound, drain_seconds=drain_seconds)
        async with front as there:
            there.events = events
            yield there
    finally:
        await relay.close()
        for opened in connections.values():
            await opened.aclose()
        await spools.close()


# the upstream --------------------------------------------------------------------------------------------------------


@dataclass
class RawUpstream:
    """A scripted upstream: it records the raw bytes of each request that it parsed, strictly, and plays its script."""

    port: int
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    """Bodies that came whole, by scripts that read them."""
    connections: int = 0
    open: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a connection has ended."""
    scheme: str = "http"
    host: str = "127.0.0.1"

    def upstream(self, name: str = "data", **settings: Any) -> Upstream:
        values: dict[str, Any] = {"mount": f"/{name}", "identity": "me"} | settings
        return Upstream(name=name, scheme=self.scheme, host=self.host, port=self.port, **values)

    def fields(self, number: int = 0) -> Fields:
        """Return the field lines of a request, names as sent."""
        lines = self.heads[number].split(b"\r\n")[1:-2]
        return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]

    def field(self, name: bytes, number: int = 0) -> list[bytes]:
        return [value for have, value in self.fields(number) if have.lower() == name]


@dataclass
class Visit:
    """One request at the upstream."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes
    there: RawUpstream

    async def body(self) -> bytes:
        """Read the request's body by its framing, strictly, and record it."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body and record it once it came whole."""
        whole: list[bytes] = []
        async for chunk in self.pieces():
            whole.append(chunk)
            yield chunk
        self.there.bodies.append(b"".join(whole))

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body and keep nothing of it."""
        lengths = re.findall(rb"(?mi)^content-length: (\d+)\r$", self.head)
        codings = re.findall(rb"(?mi)^transfer-encoding: (.*)\r$", self.head)
        assert len(lengths) + len(codings) <= 1, f"two framings: {self.head!r}"
        if codings:
            assert codings == [b"chunked"]
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                yield await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n", "a trailer"
        elif lengths:
            left = int(lengths[0])
            while left:
                chunk = await self.reader.read(min(left, 1 << 16))
                if not chunk:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(chunk)
                yield chunk

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def gone(self) -> None:
        """Return when the proxy has closed this connection."""
        while await self.reader.read(1 << 16):
            pass

    def reset(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Visit], Awaitable[None]]


def answering(raw: bytes) -> Script:
    """Return a script that reads each request whole and answers it with the same bytes."""

    async def script(visit: Visit) -> None:
        await visit.body()
        await visit.send(raw)

    return script


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nContent-Length: 5\r\n\r\nhello"
ok = answering(OK)


def breaking_off(raw: bytes) -> Script:
    """Return a script that answers with `raw` and closes the connection."""

    async def script(visit: Visit) -> None:
        await visit.body()
        await visit.send(raw)
        visit.writer.close()
        await visit.writer.wait_closed()

    return script


@asynccontextmanager
async def raw_upstream(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawUpstream]:
    """Listen on a free port and play `script` for each request head that arrives."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        there.connections += 1
        there.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                there.heads.append(head)
                await script(Visit(reader, writer, head, there))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            there.open -= 1
            there.closed.set()
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 20, ssl=tls)
    there = RawUpstream(server.sockets[0].getsockname()[1], scheme="https" if tls else "http")
    try:
        yield there
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
