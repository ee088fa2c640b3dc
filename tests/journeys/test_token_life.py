"""What callers see of a token's life: the real listener, relay and token source, with an issuer that misbehaves."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest

from proxy.app import App
from proxy.clock import ManualClock, SystemClock, settle
from proxy.config import load
from proxy.events import RenewalFailed
from proxy.identities import Endpoints
from proxy.issuer import Issuer
from proxy.stores import MemoryStore
from proxy.token_source import TokenSource
from tests.bench import Bench, Gate
from tests.journeys.house import Answer, RawUpstream, Running, Script, Visit, calling, ok, raw_upstream, running
from tests.poll import eventually
from tests.scripted_issuer import BASE, error, identity, jwt

pytestmark = pytest.mark.usefixtures("client_end")


def presented(upstream: RawUpstream) -> list[str]:
    """Return the access tokens that the upstream was shown, in order."""
    return [upstream.field(b"authorization", number)[0].decode() for number in range(len(upstream.heads))]


def waiting() -> int:
    """Return how many callers wait for a renewal."""
    return sum(task.get_name() == "bound of a wait" for task in asyncio.all_tasks())


def real_bench(**scripted: Any) -> Bench:
    return Bench(clock=SystemClock(), **scripted)


# --- A33, A34: one renewal, whoever asks and whoever leaves


@pytest.mark.parametrize("life", [300, 5])
async def test_a33_a_hundred_requests_with_an_expired_token_cost_one_call(life: int) -> None:
    """All of them are served, with the same new token (T1)."""
    bench = real_bench(life=life)
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    gate = Gate(bench.issuer)
    bench.issuer.script.append(gate)
    async with (
        bench.source() as source,
        raw_upstream(ok) as upstream,
        running([upstream.upstream()], sources={"me": source}) as there,
    ):
        asking = [asyncio.ensure_future(there.ask("/data/x")) for _ in range(100)]
        await gate.reached.wait()
        await eventually(
            lambda: source.status().state == "starting" and len(asyncio.all_tasks()) > 200, what="hundred callers"
        )
        opened = bench.clock.boot()
        gate.open.set()
        answers = await asyncio.gather(*asking)
        is_due_again = bench.clock.boot() - opened > life / 2  # on a machine that needs seconds for a hundred answers

    assert {answer.status for answer in answers} == {200}
    assert bench.issuer.token_calls == 1 or is_due_again
    assert len(set(presented(upstream))) == 1 or is_due_again


async def test_a33_five_second_tokens_under_a_hundred_callers_at_once() -> None:
    """Three lives of one second each, a hundred requests in each wave: one call for each life."""
    bench = real_bench(life=1)
    await bench.sign_in()
    began = bench.clock.boot()
    async with (
        bench.source() as source,
        raw_upstream(ok) as upstream,
        running([upstream.upstream()], sources={"me": source}) as there,
    ):
        while bench.clock.boot() < began + 3:
            answers = await asyncio.gather(*(there.ask("/data/x") for _ in range(100)))
            assert {answer.status for answer in answers} == {200}
        lived = bench.clock.boot() - began

    assert bench.issuer.token_calls <= lived / (2 / 3) + 1
    assert bench.issuer.reuses == 0


async def test_a34_t25_the_caller_who_caused_a_renewal_hangs_up() -> None:
    """Rotation on: the answer arrives for nobody, is stored, and the next renewal spends the new refresh token."""
    bench = real_bench(life=300)
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    gate = Gate(bench.issuer)
    bench.issuer.script.append(gate)
    async with (
        bench.source() as source,
        raw_upstream(ok) as upstream,
        running([upstream.upstream()], sources={"me": source}) as there,
    ):
        async with calling(there.port) as caller:
            await caller.send(f"GET /data/x HTTP/1.1\r\nHost: localhost:{there.port}\r\n\r\n".encode())
            await gate.reached.wait()
            caller.abort()
        gate.open.set()
        kept = await eventually(source.current, what="the renewed token")
        assert kept is not None
        assert await bench.store.load("provena") == kept
        assert await source.reject(kept, upstream="data") is not None

    assert [form["refresh_token"] for form in bench.issuer.forms] == ["canary-refresh-1", "canary-refresh-2"]
    assert bench.issuer.reuses == 0
    assert upstream.heads == []


@pytest.mark.usefixtures("no_leaks")
async def test_a34_t25_who_hangs_up_while_a_renewal_is_waited_for_waits_no_longer() -> None:
    """Nothing of them is left while the renewal is still under way, which nobody's end touches."""
    bench = real_bench(life=300)
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    gate = Gate(bench.issuer)
    bench.issuer.script.append(gate)
    async with (
        bench.source() as source,
        raw_upstream(ok) as upstream,
        running([upstream.upstream()], sources={"me": source}) as there,
    ):
        async with AsyncExitStack() as open_connections:
            for _ in range(20):
                caller = await open_connections.enter_async_context(calling(there.port))
                await caller.send(f"GET /data/x HTTP/1.1\r\nHost: localhost:{there.port}\r\n\r\n".encode())
            await eventually(lambda: waiting() == 20, what="twenty waits")
        await eventually(lambda: waiting() == 0, 3, what="the end of the waits")
        assert source.current() is None
        gate.open.set()
        kept = await eventually(source.current, what="the renewed token")
        assert await bench.store.load("provena") == kept

    assert (upstream.heads, there.refusals, bench.issuer.reuses) == ([], [], 0)


async def test_t24_a_download_goes_on_past_the_end_of_its_token() -> None:
    """The token counts when the head goes out; an event stream is nobody's to cut afterwards."""
    bench = real_bench(life=1)
    await bench.sign_in()
    release = asyncio.Event()

    async def stream(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n")
        await release.wait()
        await visit.send(b"data: 2\n\n")
        visit.writer.close()

    async with (
        bench.source() as source,
        raw_upstream(stream) as upstream,
        running([upstream.upstream()], sources={"me": source}) as there,
        calling(there.port) as caller,
    ):
        first = await source.token()
        await caller.send(f"GET /data/x HTTP/1.1\r\nHost: localhost:{there.port}\r\nConnection: close\r\n\r\n".encode())
        await eventually(lambda: first.remaining(bench.clock.wall(), bench.clock.boot()) < -0.2, what="its end")
        release.set()
        assert b"data: 1\n\n" in (received := await caller.rest())
        assert b"data: 2\n\n" in received


# --- A37 over real sockets


class Moody:
    """A token endpoint on a real socket: good answers, or one and the same bad one while it is in that mood."""

    def __init__(self) -> None:
        self.mood: bytes | None = None
        self.calls = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        self.calls += 1
        body = json.dumps({"access_token": jwt(n=self.calls), "token_type": "Bearer", "expires_in": 60}).encode()
        good = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        try:
            writer.write(good if self.mood is None else self.mood)
            await writer.drain()
        except ConnectionError:
            return  # who would read ten megabytes to their end
        finally:
            writer.close()


MOODS: dict[str, bytes] = {
    "500": b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops",
    "captive portal": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "429": b"HTTP/1.1 429 Slow\r\nRetry-After: 6\r\nContent-Length: 0\r\n\r\n",
    "10 MB": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10000000\r\n\r\n"
    + b" " * 10_000_000,
    "cut": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    "name not found": b"",
}


async def survived(kind: str, resolves: dict[str, bool]) -> None:
    """Live through an outage of six seconds that begins when the token has four to live."""
    bench = real_bench()
    name = f"{kind.lower().replace(' ', '-')}.issuer.test"
    async with Moody() as moody, raw_upstream(ok) as upstream:
        who = identity(endpoints=Endpoints(token=f"http://{name}:{moody.port}/token"))
        issuer = Issuer(who, clock=bench.clock)
        source = TokenSource(who, issuer=issuer, store=bench.store, clock=bench.clock, emit=bench.events.append)
        moody.mood, resolves[name] = MOODS[kind], kind != "name not found"
        async with running([upstream.upstream()], sources={"me": source}) as there:
            held = await bench.sign_in(expires_at=bench.clock.wall() + 4)
            await source.start()
            served, refused = 0, 0
            while (asked_at := bench.clock.wall()) < held.expires_at + 2:
                answer = await there.ask("/data/x")
                if answer.status == 200:
                    served += 1
                    assert asked_at < held.expires_at
                else:
                    refused += 1
                    assert (answer.status, answer["retry-after"] is not None) == (503, True)
                    assert bench.clock.wall() > held.expires_at
                await bench.clock.sleep(0.1)
            assert served
            assert refused
            assert moody.calls <= 5
            moody.mood, resolves[name] = None, True

            async def is_served() -> bool:
                return (await there.ask("/data/x")).status == 200

            await eventually(is_served, 12, every=0.2, what=f"recovery from: {kind}")
        await source.close()
        await issuer.close()
    assert bench.told(RenewalFailed)


async def test_a37_real_outages_are_survived_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Served to the token's end, 503 with Retry-After, few calls, and back within 12 s (T2-T4): all kinds at once."""
    real, resolves = socket.getaddrinfo, dict[str, bool]()

    def getaddrinfo(host: Any, *arguments: Any, **keywords: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in resolves:
            return real(host, *arguments, **keywords)
        if not resolves[name]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real("127.0.0.1", *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with asyncio.TaskGroup() as outages:
        for kind in MOODS:
            _ = outages.create_task(survived(kind, resolves))


# --- A38: the whole program, on a clock that the test moves


class Whole:
    """The wired program on real sockets, its issuer scripted and its time in the test's hands."""

    def __init__(self, app: App, bench: Bench, there: Running, upstream: RawUpstream) -> None:
        self.app = app
        self.bench = bench
        self.upstream = upstream
        self._there = there

    async def get(self, target: str) -> Answer:
        return await self._there.ask(target)

    async def health(self) -> tuple[int, dict[str, Any]]:
        """Return the status of /-/ready and what /-/identities.json says of the identity."""
        ready = await self.get("/-/ready")
        return ready.status, json.loads((await self.get("/-/identities.json")).body)[0]


@asynccontextmanager
async def whole(tmp_path: Path, bench: Bench, script: Script = ok) -> AsyncIterator[Whole]:
    async with raw_upstream(script) as upstream:
        file = tmp_path / "proxy.toml"
        file.write_text(f"""
            [server]
            port = 0
            [identity.provena]
            issuer = "{BASE}"
            client_id = "client-tools"
            grant = "device_code"
            [upstream.data]
            url = "http://127.0.0.1:{upstream.port}"
            identity = "provena"
        """)
        app = App(
            load(file, {}),
            emit=bench.events.append,
            clock=bench.clock,
            store=bench.store,
            transports={"provena": httpx2.MockTransport(bench.issuer.answer)},
        )
        listeners, stop, is_ready = app.bind(), asyncio.Event(), asyncio.Event()
        async with app:
            serving = asyncio.ensure_future(app.serve(listeners, stop, ready=is_ready.set))
            await is_ready.wait()
            yield Whole(app, bench, Running(listeners), upstream)
            stop.set()
            await serving


@pytest.mark.parametrize(
    ("refusal", "kind", "words"),
    [
        (lambda: error("invalid_grant", "Session not active"), "sign-in-required", "bearerproxy login provena"),
        (lambda: error("invalid_client", status=401), "identity-misconfigured", "check client_id"),
    ],
    ids=["invalid_grant", "invalid_client"],
)
@pytest.mark.parametrize("has_successor", [False, True], ids=["one token", "another in the store"])
async def test_a38_a_final_refusal_is_seen_in_health_and_costs_no_further_call(
    tmp_path: Path, refusal: Callable[[], httpx2.Response], kind: str, words: str, has_successor: bool
) -> None:
    """One call, two if the store held another refresh token; ten minutes of traffic change nothing (T9, T16, T17)."""
    bench = Bench(store=MemoryStore(), clock=ManualClock())
    await bench.sign_in()
    successor = bench.a_set(obtained_at=bench.clock.wall() - 100)  # due as soon as it is met, good to the same moment

    async def refuse(_: dict[str, str]) -> httpx2.Response:
        if has_successor and bench.issuer.token_calls == 1:
            await bench.store.save("provena", successor)  # by a process that could not lock
        return refusal()

    bench.issuer.outage = refuse
    async with whole(tmp_path, bench) as here:
        assert (await here.get("/data/x")).status == 200
        assert (await here.health())[0] == 200
        await bench.manual.advance(250)
        status, told = await here.health()
        assert words in told["detail"]
        assert (await here.get("/data/x")).status == 200  # the token serves to its end
        await bench.manual.advance(60)
        for _ in range(60):
            answer = await here.get("/data/x")
            assert answer.status == 503
            assert json.loads(answer.body)["type"].endswith(kind)
            await bench.manual.advance(10)
            await settle()
        status, told = await here.health()
        assert (status, words in told["detail"]) == (503, True)

    assert bench.issuer.token_calls == 1 + has_successor


async def test_t29_the_program_starts_while_its_issuer_is_away(tmp_path: Path) -> None:
    """It listens, is live and not ready, tells callers when to come back, and becomes ready by itself (T2)."""
    bench = Bench(store=MemoryStore(), clock=ManualClock())
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.is_down = True
    async with whole(tmp_path, bench) as here:
        assert (await here.get("/-/live")).status == 200
        refused, (ready, told) = await here.get("/data/x"), await here.health()
        assert (refused.status, ready, told["state"]) == (503, 503, "issuer-unavailable")
        assert refused["retry-after"] is not None
        bench.issuer.is_down = False
        await bench.manual.advance(61)
        assert (await here.health())[0] == 200
        assert (await here.get("/data/x")).status == 200


async def test_t8_after_a_night_no_old_connection_is_used(tmp_path: Path) -> None:
    """Idle connections are closed within seconds after a resume, before a request could meet a dead one."""
    bench = Bench(store=MemoryStore(), clock=ManualClock())
    await bench.sign_in()
    async with whole(tmp_path, bench) as here:
        assert (await here.get("/data/x")).status == 200
        await bench.manual.advance(3)
        assert (await here.get("/data/x")).status == 200
        assert here.upstream.connections == 1
        bench.manual.suspend(120)
        await bench.manual.advance(3)
        await eventually(lambda: here.upstream.open == 0, what="the end of the old connection")
        assert (await here.get("/data/x")).status == 200

    assert here.upstream.connections == 2


async def test_t21_t22_a_401_that_never_ends_is_bounded(tmp_path: Path) -> None:
    """One forced renewal, whatever the traffic, and none for a 403: the answers are the upstream's (T20)."""
    bench = Bench(store=MemoryStore(), clock=ManualClock())
    await bench.sign_in()
    status = b"401 Unauthorized"

    async def refusing(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nno")

    async with whole(tmp_path, bench, refusing) as here:
        for _ in range(20):
            answer = await here.get("/data/x")
            assert (answer.status, answer.body) == (401, b"no")
            await bench.manual.advance(5)
        assert bench.issuer.token_calls == 1
        status = b"403 Forbidden"
        for _ in range(20):
            assert (await here.get("/data/x")).status == 403
        assert bench.issuer.token_calls == 1
