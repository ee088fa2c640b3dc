"""An exchange with nothing real around it: a way that records calls, a caller's end that records what it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from proxy.clock import SystemClock
from proxy.errors import ProxyError
from proxy.events import Event
from proxy.exchange import Exchange
from proxy.headers import Fields
from proxy.limits import Admission
from proxy.relay import Relay
from proxy.request import Request
from proxy.spool import Spools
from proxy.tokens import TokenSet
from proxy.transport.seam import CHUNKED, Sink, WrongLengthError
from proxy.upstreams import Match, Upstream


@dataclass
class RecordedCall:
    """One call (seam.Call): what went up, and what was wanted of the answer."""

    head: bytes
    left: int
    sink: Sink
    body: bytes = b""
    is_ended: bool = False
    is_aborted: bool = False
    is_paused: bool = False
    on_write: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        self.body += data
        self.on_write()
        if self.left != CHUNKED:
            self.left -= len(data)
            if self.left < 0:
                raise WrongLengthError("too long")

    def end(self) -> None:
        if self.left > 0:
            raise WrongLengthError("too short")
        self.is_ended = True

    def abort(self) -> None:
        self.is_aborted = True

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def answer(self, status: int = 200, body: bytes = b"hello", *fields: tuple[bytes, bytes]) -> None:
        """Give a whole answer."""
        self.sink.on_head(status, [(b"Content-Length", b"%d" % len(body)), *fields])
        if body:
            self.sink.on_data(body)
        self.sink.on_end()


@dataclass
class RecordedWay:
    """A way (seam.Way) on which nothing moves but by the test's hand."""

    calls: list[RecordedCall] = field(default_factory=list)

    def start(self, head: bytes, length: int, sink: Sink, body: bytes = b"") -> RecordedCall:
        self.calls.append(RecordedCall(head, length, sink))
        if body:
            self.calls[-1].write(body)
        return self.calls[-1]

    def drop_idle(self) -> None: ...

    async def close(self) -> None: ...


@dataclass
class RecordedCaller:
    """A caller's end (exchange.Caller)."""

    said: list[Any] = field(default_factory=list)
    """Status, pieces, `end`, `cut` or a refusal, as they were told."""
    fields: Fields = field(default_factory=list)
    wants_body: bool = False
    exchange: Exchange | None = None
    takes: bool = True
    """Whether it takes the end of an answer at once."""

    def on_head(self, status: int, fields: Fields) -> None:
        self.said.append(status)
        self.fields = fields

    def on_data(self, data: bytes) -> None:
        self.said.append(data)

    def on_end(self) -> None:
        self.said.append("end")
        if self.takes and self.exchange is not None:
            self.exchange.taken()

    def on_refusal(self, error: ProxyError) -> None:
        self.said.append(error)

    def cut(self) -> None:
        self.said.append("cut")

    def pause(self) -> None:
        self.wants_body = False

    def resume(self) -> None:
        self.wants_body = True


class LateSource:
    """A token source that answers when the test lets it: `given` and `newer` are what it has then."""

    def __init__(self, held: TokenSet | None) -> None:
        self.held = held
        self.given: asyncio.Future[TokenSet] = asyncio.get_running_loop().create_future()
        self.newer: asyncio.Future[TokenSet | None] = asyncio.get_running_loop().create_future()
        self.rejected: list[str] = []

    def current(self) -> TokenSet | None:
        return self.held

    async def token(self) -> TokenSet:
        return await asyncio.shield(self.given)

    async def fresh(self, share: float) -> TokenSet:
        return await asyncio.shield(self.given)

    async def reject(self, rejected: TokenSet, *, upstream: str) -> TokenSet | None:
        self.rejected.append(rejected.access_token)
        return await asyncio.shield(self.newer)


class Stage:
    """Exchanges with one upstream, between a recorded way and recorded callers."""

    def __init__(self, source: LateSource | None = None, **settings: Any) -> None:
        identity = None if source is None else "me"
        self.upstream = Upstream("data", "http", "data.example.org", 80, mount="/data", identity=identity, **settings)
        self.way = RecordedWay()
        self.events: list[Event] = []
        self.spools = Spools()
        self.admission = Admission(10)
        self.relay = Relay(
            sources={} if source is None else {"me": source},
            ways={"data": self.way},
            spools=self.spools,
            admission=self.admission,
            pseudonym=b"bearerproxy-test",
            clock=SystemClock(),
            emit=self.events.append,
        )

    @property
    def calls(self) -> list[RecordedCall]:
        return self.way.calls

    def ask(self, method: str = "GET", *fields: tuple[bytes, bytes]) -> tuple[RecordedCaller, Exchange]:
        """Begin an exchange and return its two ends; it is not started."""
        caller = RecordedCaller()
        request = Request(method, b"/data/x", list(fields), b"http://localhost")
        exchange = self.relay.exchange(request, Match(self.upstream, b"/data", b"/x", b""), caller, extra=[])
        caller.exchange = exchange
        return caller, exchange

    def asked(self, method: str = "GET", *fields: tuple[bytes, bytes]) -> tuple[RecordedCaller, Exchange, RecordedCall]:
        """Begin and start an exchange that has a token, and return its ends and its call."""
        caller, exchange = self.ask(method, *fields)
        exchange.start()
        return caller, exchange, self.calls[-1]

    async def close(self) -> None:
        await self.relay.close()
        await self.spools.close()

    def is_clean(self) -> bool:
        """Whether nothing is held for anybody."""
        return self.relay.in_flight["data"] == 0 and self.spools.held == 0 and all(one.is_aborted for one in self.calls)


Make = Callable[..., Stage]


@asynccontextmanager
async def stages() -> AsyncIterator[Make]:
    """Yield what makes stages, as `Stage` does; at the end nothing may be left of them."""
    made: list[Stage] = []

    def make(source: LateSource | None = None, **settings: Any) -> Stage:
        made.append(Stage(source, **settings))
        return made[-1]

    yield make
    for one in made:
        await one.close()
        assert one.is_clean()
