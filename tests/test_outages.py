"""Ten minutes without a usable answer, for each way in which an issuer can fail (A37; token-life T2, T3, T4)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate

import httpx2
import pytest

from proxy.clock import settle
from proxy.errors import IssuerUnavailable
from proxy.token_source import TokenSource
from proxy.tokens import TokenSet
from tests.bench import Bench, Gate

OUTAGE_SECONDS = 600
RETRY_AFTER_SECONDS = 120


class Flood(httpx2.AsyncByteStream):
    """Ten megabytes that count how many of them were taken."""

    taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(160):
            Flood.taken += 1 << 16
            yield b" " * (1 << 16)


async def _hang(bench: Bench) -> httpx2.Response:
    await bench.manual.sleep(10)
    raise httpx2.ReadTimeout("")


def _until(bench: Bench) -> str:
    return formatdate(bench.clock.wall() + RETRY_AFTER_SECONDS, usegmt=True)


KINDS: dict[str, Callable[[Bench], httpx2.Response | Exception | Awaitable[httpx2.Response]]] = {
    "name not found": lambda _: httpx2.ConnectError("[Errno -2] Name or service not known"),
    "refused": lambda _: httpx2.ConnectError("[Errno 111] Connection refused"),
    "time-out": _hang,
    "reset": lambda _: httpx2.ReadError("Connection reset by peer"),
    "500": lambda _: httpx2.Response(500, text="oops"),
    "captive portal": lambda _: httpx2.Response(200, html="<form>Hotel Wi-Fi</form>"),
    "redirect": lambda _: httpx2.Response(302, headers={"location": "https://hotel.example.org/"}),
    "10 MB": lambda _: httpx2.Response(200, headers={"content-type": "application/json"}, stream=Flood()),
    "200 with an error": lambda _: httpx2.Response(200, json={"error": "invalid_grant"}),
    "429 with seconds": lambda _: httpx2.Response(429, headers={"retry-after": str(RETRY_AFTER_SECONDS)}),
    "503 with a date": lambda bench: httpx2.Response(503, headers={"retry-after": _until(bench)}),
}
"""What the token endpoint does while it is out of order."""


def begin(kind: str, bench: Bench) -> None:
    """Let every token request meet an outage of this kind from now on."""

    async def answer(_: dict[str, str]) -> httpx2.Response:
        made = KINDS[kind](bench)
        if isinstance(made, Exception):
            raise made
        return made if isinstance(made, httpx2.Response) else await made

    bench.issuer.outage = answer


def recovers_within(kind: str) -> float:
    """Return the seconds from the end of an outage in which whoever asks is served again."""
    return RETRY_AFTER_SECONDS + 1 if kind.startswith(("429", "503 ")) else 12


class Traffic:
    """Callers who ask all the time, and what became of each."""

    def __init__(self, bench: Bench, source: TokenSource) -> None:
        self._bench = bench
        self._source = source
        self._asking: set[asyncio.Task[None]] = set()
        self.refusals: list[tuple[float, int]] = []
        """When, and what Retry-After said."""
        self.served: list[float] = []

    async def run(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            for _ in range(2):
                task = asyncio.ensure_future(self._ask())
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
            await self._bench.manual.advance(0.5)

    async def _ask(self) -> None:
        clock = self._bench.manual
        try:
            token_set: TokenSet = self._source.current() or await self._source.token()
        except IssuerUnavailable as error:
            self.refusals.append((clock.boot(), error.retry_after or 0))
            return
        assert token_set.remaining(clock.wall(), clock.boot()) > 0
        self.served.append(clock.boot())


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("jitter", [0.9, 1.1])
@pytest.mark.parametrize("kind", KINDS)
async def test_a37_ten_minutes_of_outage_with_traffic(bench: Bench, kind: str, jitter: float) -> None:
    """Served to the token's end, then told when to come back; under 70 calls; back 12 s after the issuer is (T2-T4)."""
    await bench.sign_in()
    began = bench.clock.boot()
    Flood.taken = 0
    async with bench.source(jitter=jitter) as source:
        traffic = Traffic(bench, source)
        begin(kind, bench)
        await traffic.run(OUTAGE_SECONDS)

        assert min(when for when, _ in traffic.refusals) >= began + 300
        assert max(traffic.served) >= began + 299
        assert all(1 <= wait <= RETRY_AFTER_SECONDS for _, wait in traffic.refusals)
        assert bench.issuer.token_calls < 70
        assert Flood.taken <= (1 + 16) * (1 << 16) * bench.issuer.token_calls
        assert source.status().state == "issuer-unavailable"

        bench.issuer.outage = None
        traffic.served.clear()
        await traffic.run(recovers_within(kind))
        assert traffic.served
        assert source.status().state == "ready"
    assert bench.issuer.reuses == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a37_ten_minutes_of_outage_without_traffic(bench: Bench, kind: str) -> None:
    """Under 20 calls while nobody asks (T2-T4); who asks afterwards is served within the same 12 s."""
    await bench.sign_in()
    async with bench.source() as source:
        begin(kind, bench)
        await bench.manual.advance(OUTAGE_SECONDS)
        assert bench.issuer.token_calls < 20
        assert source.status().state == "issuer-unavailable"

        bench.issuer.outage = None
        traffic = Traffic(bench, source)
        await traffic.run(recovers_within(kind))
        assert traffic.served
        assert source.status().state == "ready"


async def test_a37_an_outage_that_begins_with_no_token(bench: Bench) -> None:
    """From the first second: under 70 calls in ten minutes however many ask (T2)."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    async with bench.source(jitter=0.9) as source:
        begin("500", bench)
        traffic = Traffic(bench, source)
        await traffic.run(OUTAGE_SECONDS)
        assert not traffic.served
        assert 50 <= bench.issuer.token_calls < 70


async def test_t2_a_caller_who_wakes_up_too_late_waits_on(bench: Bench) -> None:
    """On a machine that stalled, the token has ended before it could be sent; the renewal is still coming."""
    await bench.sign_in(expires_at=bench.clock.wall() + 5, obtained_at=bench.clock.wall() - 295)
    gate = Gate(bench.issuer)
    bench.issuer.script.append(gate)
    async with bench.source() as source:
        asking = asyncio.ensure_future(source.token())
        await settle()
        bench.manual.suspend(4)
        await bench.manual.advance(2.6)
        assert not asking.done()
        gate.open.set()
        renewed = await asking

    assert renewed.remaining(bench.clock.wall(), bench.clock.boot()) > 0
    assert bench.issuer.token_calls == 1


async def test_t2_a_caller_never_waits_a_valid_token_away(bench: Bench) -> None:
    """Five seconds before its end, with an issuer that hangs for ten: the token is sent, not waited to death."""
    await bench.sign_in(expires_at=bench.clock.wall() + 5, obtained_at=bench.clock.wall() - 295)
    begin("time-out", bench)
    async with bench.source() as source:
        asking = asyncio.ensure_future(source.token())
        await bench.manual.advance(2.6)
        assert asking.done()
        assert asking.result().remaining(bench.clock.wall(), bench.clock.boot()) > 2


async def test_a_late_answer_is_not_held_against_the_issuer_for_the_outage_before(bench: Bench) -> None:
    """After an outage one slow first answer, whose token ended on its way, costs a short pause, not the outage's."""
    bench.issuer.life = 3
    await bench.sign_in()
    async with bench.source() as source:
        bench.issuer.is_down = True
        for _ in range(60):
            source.current()
            await bench.manual.advance(0.5)
        bench.issuer.is_down = False

        async def slow(_: dict[str, str]) -> httpx2.Response:
            await bench.clock.sleep(3.5)
            return httpx2.Response(200, json=bench.issuer.grant())

        bench.issuer.script.append(slow)
        calls = bench.issuer.token_calls
        while bench.issuer.token_calls == calls:
            source.current()
            await bench.manual.advance(0.1)
        await bench.manual.advance(3.6)
        for _ in range(25):
            source.current()
            await bench.manual.advance(0.1)

        assert source.current() is not None
