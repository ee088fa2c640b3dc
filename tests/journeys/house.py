"""A running proxy and scripted upstreams over real sockets, for journeys in which bytes matter."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from proxy.clock import SystemClock
from proxy.events import Event
from proxy.exchange import Relay, Source
from proxy.forward import ASGIApp, Forwarder
from proxy.guard import Guard
from proxy.protocol import Limits
from proxy.server import Listener, bind, run
from proxy.tokens import TokenSet
from proxy.transport.connections import Connections
from proxy.upstreams import Mounts, Upstream

CANARY = "canary-access-token"


def token_set(access_token: str = CANARY, *, life: float = 300.0) -> TokenSet:
    now = SystemClock().wall()
    return TokenSet(access_token, now + life, now, client_id="test", grant="device_code")


@dataclass
class FixedSource:
    """A token source that always has `token`; `newer` is what a rejection yields."""

    held: TokenSet = field(default_factory=token_set)
    newer: TokenSet | None = None
    rejected: list[str] = field(default_factory=list)
    uses: int = 0

    def current(self) -> TokenSet | None:
        self.uses += 1
        return self.held

    async def token(self) -> TokenSet:
        return self.held

    async def reject(self, rejected: TokenSet) -> TokenSet | None:
        self.rejected.append(rejected.access_token)
        if self.newer is not None:
            self.held = self.newer
        return self.newer


@dataclass
class Running:
    """A proxy that serves."""

    port: int
    events: list[Event]
    listeners: list[Listener]

    async def exchange(self, raw: bytes, *, timeout: float = 10.0) -> bytes:
        """Send raw bytes on a new connection and return everything until the proxy closes it."""
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(raw)
            try:
                return await reader.read()
            finally:
                writer.close()


async def _no_control(_scope: object, _receive: object, send: Callable[[dict[str, object]], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]})
    await send({"type": "http.response.body", "body": b"control"})


@asynccontextmanager
async def running(
    upstreams: Sequence[Upstream],
    *,
    sources: Mapping[str, Source] | None = None,
    guard: Guard | None = None,
    limits: Limits | None = None,
    control: ASGIApp | None = None,
    drain_seconds: int = 1,
) -> AsyncIterator[Running]:
    """Run the real listener, guard, forwarder and connections in front of `upstreams`."""
    events: list[Event] = []
    stop, is_ready = asyncio.Event(), asyncio.Event()
    guard = guard or Guard()
    connections = {one.name: Connections(one) for one in upstreams}
    forwarder = Forwarder(
        guard=guard,
        mounts=Mounts(upstreams),
        relay=Relay(
            sources=sources or {},
            connections=connections,
            pseudonym=b"bearerproxy-test",
            clock=SystemClock(),
            emit=events.append,
        ),
        control=control or _no_control,  # type: ignore[arg-type]  # a stand-in
        pseudonym=b"bearerproxy-test",
        emit=events.append,
    )
    listeners = bind("127.0.0.1", 0, allow_remote=False)
    own = {}
    for one in upstreams:
        if one.listen is not None:
            bound = bind(*one.listen, allow_remote=False)
            listeners += bound
            own |= {listener.port: one for listener in bound if listener.port is not None}
    forwarder.own_ports = own
    serving = asyncio.create_task(  # noqa: TID251 - awaited below
        run(
            forwarder,
            listeners,
            guard=guard,
            refused=lambda error, *_: events.append(error),  # type: ignore[arg-type]  # looked at by tests alone
            stop=stop,
            drain_seconds=drain_seconds,
            limits=limits or Limits(),
            ready=is_ready.set,
        )
    )
    await is_ready.wait()
    try:
        yield Running(listeners[0].port or 0, events, listeners)
    finally:
        stop.set()
        await serving
        for one in connections.values():
            await one.aclose()


@dataclass
class RawUpstream:
    """A scripted upstream: for each request it records the raw bytes of the head and plays its script."""

    port: int
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def upstream(self, name: str = "data", **settings: object) -> Upstream:
        values: dict[str, object] = {"mount": f"/{name}", "identity": "me"} | settings
        return Upstream(name=name, scheme="http", host="127.0.0.1", port=self.port, **values)  # type: ignore[arg-type]


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


def answering(raw: bytes) -> Script:
    """Return a script that answers each request with the same bytes."""

    async def script(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _head: bytes) -> None:
        writer.write(raw)
        await writer.drain()

    return script


@asynccontextmanager
async def raw_upstream(script: Script) -> AsyncIterator[RawUpstream]:
    """Listen on a free port and play `script` for each request head that arrives."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        there.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                there.heads.append(head)
                await script(reader, writer, head)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            there.closed.set()
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 20)
    there = RawUpstream(server.sockets[0].getsockname()[1])
    try:
        yield there
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
