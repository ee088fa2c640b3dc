"""A 401 that a newer token cures, for requests with bodies too (A40, A41; token-life 5 and T19-T23)."""

import asyncio
import hashlib
import os
import re
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from proxy.app import App
from proxy.clock import ManualClock, SystemClock
from proxy.config import load
from proxy.demo import Demo
from proxy.events import Event, Relayed, RenewalFailed, Warned
from proxy.spool import MEMORY_LIMIT, PIECE_BYTES, Spools
from tests.bench import Bench
from tests.conftest import need
from tests.ends import LISTENERS_OWN
from tests.journeys.house import (
    CANARY,
    OK,
    Answer,
    FixedSource,
    RawUpstream,
    Running,
    Visit,
    breaking_off,
    calling,
    parsed,
    raw_upstream,
    running,
    token_set,
)
from tests.journeys.test_process import BLOCK, GROWTH_LIMIT, MEBIBYTE, alone
from tests.poll import eventually

pytestmark = pytest.mark.usefixtures("client_end")

FRESH = "fresh-token"
WORDS = b'{"detail": "Could not validate credentials"}'
REFUSAL = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n%s" % (len(WORDS), WORDS)
UNANSWERED = b"a second try with a newer token found no answer"
NOT_HELD = b"the body is not held: send it again"
SECONDS = 60.0
"""For one request on a busy machine."""
SMALL, LARGE = 300_000, 20 * MEBIBYTE
ON_DISK = MEMORY_LIMIT + 3 * PIECE_BYTES


@dataclass
class Service:
    """An upstream that hashes what it is sent, and accepts any token but those that were revoked."""

    revoked: set[str] = field(default_factory=lambda: {CANARY})
    received: list[tuple[int, str]] = field(default_factory=list)
    """Length and SHA-256 of each body, in the order in which they were complete."""
    refusal: bytes = REFUSAL
    is_hasty: bool = False
    """Answers before it reads; an answer to a body that it goes on reading."""

    async def __call__(self, visit: Visit) -> None:
        found = re.search(rb"authorization: Bearer (\S+)\r\n", visit.head)
        assert found is not None
        answer = self.refusal if found[1].decode() in self.revoked else OK
        if self.is_hasty:
            await visit.send(answer)
        length, sha256 = 0, hashlib.sha256()
        async for piece in visit.pieces():
            length += len(piece)
            sha256.update(piece)
        self.received.append((length, sha256.hexdigest()))
        if not self.is_hasty:
            await visit.send(answer)


def fingerprint(body: bytes) -> tuple[int, str]:
    return len(body), hashlib.sha256(body).hexdigest()


def head(length: int | None, method: str = "POST") -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"{method} /data/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{framing}\r\n\r\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def uploaded(port: int, body: bytes, *, framing: str = "length", method: str = "POST") -> Answer:
    """Send `body` in the framing `length` or `chunked`, and return the answer."""
    is_chunked = framing == "chunked"
    async with calling(port, seconds=SECONDS) as caller:
        await caller.send(head(None if is_chunked else len(body), method))
        for start in range(0, len(body), 100_000):
            piece = body[start : start + 100_000]
            await caller.send(chunk(piece) if is_chunked else piece)
        if is_chunked:
            await caller.send(b"0\r\n\r\n")
        return parsed(await caller.rest())


def relayed(proxy: Running) -> list[Relayed]:
    return [one for one in proxy.events if isinstance(one, Relayed)]


@asynccontextmanager
async def refusing(
    script: Any, *, source: Any = None, spools: Spools | None = None, transport: Any = None, **settings: Any
) -> AsyncIterator[tuple[Running, RawUpstream, Spools]]:
    """A proxy in front of one scripted upstream; what was kept of bodies is free again at the end."""
    spools = spools or Spools()
    source = source or FixedSource(newer=token_set(FRESH))
    transports = {} if transport is None else {"data": transport}
    async with raw_upstream(script) as there:
        async with running(
            [there.upstream(**settings)], sources={"me": source}, spools=spools, transports=transports
        ) as proxy:
            yield proxy, there, spools
            await eventually(lambda: spools.held == 0, what="every body to be let go of")
        await eventually(lambda: not there.open, what="every answer to be let go of")


# --- A41: a token that is revoked early


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [1, SMALL, ON_DISK, LARGE], ids=["one byte", "in memory", "on disk", "larger"])
async def test_a41_t19_a_revoked_token_is_not_noticed_by_an_upload(size: int, framing: str) -> None:
    """The real token source renews once; the service gets the same body twice, in the same framing."""
    body = os.urandom(size)
    bench = Bench(clock=SystemClock())
    revoked = await bench.sign_in()
    service = Service({revoked.access_token})
    async with bench.source() as source, refusing(service, source=source) as (proxy, there, _):
        answers = [await uploaded(proxy.port, body, framing=framing) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 200]
    assert service.received == [fingerprint(body)] * 3  # refused, replayed, and the next one at once
    first, second = ([one for one in there.fields(n) if one[0].lower() != b"authorization"] for n in (0, 1))
    assert first == second
    assert bench.issuer.token_calls == 1
    assert source.status().replays == 1
    assert [(one.is_replay, one.received, one.is_complete) for one in relayed(proxy)] == [
        (True, size, True),
        (False, size, True),
    ]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("body", [b"", b'{"name": "reef"}'], ids=["empty", "json"])
async def test_a41_every_method_is_replayed(method: str, body: bytes) -> None:
    """A 401 says that nothing was done (RFC 9110 15.5.2), so that a POST may be sent again as well."""
    service = Service()
    async with refusing(service) as (proxy, _, _):
        got = await proxy.ask("/data/x", method=method, body=body)

    assert got.status == 200
    assert service.received == [fingerprint(body)] * 2


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("limit", "size"), [(100_000, 100_001), (ON_DISK, ON_DISK + 1), (0, 1)], ids=["in memory", "on disk", "off"]
)
async def test_a41_t23_beyond_the_limit_the_401_is_relayed_and_the_body_sent_once(
    framing: str, limit: int, size: int
) -> None:
    """The renewal is made all the same: the next try has a token that serves."""
    body = os.urandom(size)
    bench = Bench(clock=SystemClock())
    revoked = await bench.sign_in()
    service = Service({revoked.access_token})
    async with bench.source() as source, refusing(service, source=source, replay_limit=limit) as (proxy, _, _):
        refused = await uploaded(proxy.port, body, framing=framing)
        assert service.received == [fingerprint(body)]
        served = await uploaded(proxy.port, body, framing=framing)

    assert (refused.status, refused.body, served.status) == (401, WORDS, 200)
    assert NOT_HELD in (refused["proxy-status"] or b"")
    assert bench.issuer.token_calls == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a41_up_to_the_limit_it_is_replayed(framing: str) -> None:
    service = Service()
    body = os.urandom(ON_DISK)
    async with refusing(service, replay_limit=ON_DISK) as (proxy, _, _):
        assert (await uploaded(proxy.port, body, framing=framing)).status == 200

    assert service.received == [fingerprint(body)] * 2


async def test_a41_the_demos_issuer_forgets_its_key_and_neither_reads_nor_uploads_notice(tmp_path: Path) -> None:
    """The wired program, the demo's services and their real check of signatures; Transfer refuses before it reads."""
    clock, events = ManualClock(), list[Event]()
    async with Demo(clock=clock, allow_anonymous=False) as demo:
        file = tmp_path / "proxy.toml"
        file.write_text(f"""
            [server]
            port = 0
            spool = "{tmp_path}"
            [store]
            kind = "memory"
            [dotstat]
            issuer = "{demo.issuer_url}"
            client_id = "dotstat-svc"
            grant = "client_credentials"
            client_secret = "env:SECRET"
            nsi = "{demo.nsi_url}"
            transfer = "{demo.transfer_url}"
        """)
        app = App(load(file, {"SECRET": "svc-secret"}), emit=events.append, clock=clock)
        listeners, stop, is_ready = app.bind(), asyncio.Event(), asyncio.Event()
        async with app, httpx2.AsyncClient(trust_env=False, timeout=SECONDS) as http:
            serving = asyncio.ensure_future(app.serve(listeners, stop, ready=is_ready.set))
            await is_ready.wait()
            base = f"http://localhost:{listeners[0].port}/dotstat"
            form = {"dataspace": "design"}
            upload = {"file": ("arrivals.csv", os.urandom(ON_DISK), "text/csv")}

            async def used() -> list[int]:
                read = await http.get(f"{base}/rest/dataflow/all/all/latest")
                wrote = await http.post(f"{base}/transfer/import/sdmxFile", data=form, files=upload)
                return [read.status_code, wrote.status_code]

            assert await used() == [200, 200]
            demo.issuer.rotate_key(forget=True)
            await clock.advance(61)  # the services fetch keys at most once a minute
            other = {"Authorization": f"Bearer {demo.issuer.mint('dotstat-app', 'ada')['access_token']}"}
            for url in (f"{demo.nsi_url}/rest/dataflow/all/all/latest", f"{demo.transfer_url}/status/request"):
                _ = await http.request("GET" if "rest" in url else "POST", url, headers=other)
            calls = demo.issuer.calls["token", "client_credentials"]
            assert await used() == [200, 200]
            assert demo.issuer.calls["token", "client_credentials"] == calls + 1
            stop.set()
            await serving

    assert len({one.sha256 for one in demo.transfer.imports}) == 1
    assert [one.is_replay for one in events if isinstance(one, Relayed)] == [False, False, True, False]


# --- T23: what will not be sent a second time goes out with a token that has most of its life before it


@pytest.mark.parametrize(
    ("left", "size", "calls"), [(150, SMALL + 1, 1), (250, SMALL + 1, 0), (150, SMALL, 0)], ids=["old", "new", "kept"]
)
async def test_t23_an_upload_beyond_the_limit_has_its_token_renewed_ahead(left: int, size: int, calls: int) -> None:
    bench = Bench(clock=SystemClock())
    now = bench.clock.wall()
    held = await bench.sign_in(expires_at=now + left, obtained_at=now + left - 300)
    service = Service(set())
    async with (
        bench.source(jitter=1.2) as source,
        refusing(service, source=source, replay_limit=SMALL) as (proxy, there, _),
    ):
        assert (await proxy.ask("/data/x")).status == 200
        assert bench.issuer.token_calls == 0
        assert (await uploaded(proxy.port, os.urandom(size))).status == 200

    assert bench.issuer.token_calls == calls
    is_the_same = there.field(b"authorization", 1) == [f"Bearer {held.access_token}".encode()]
    assert is_the_same == (calls == 0)


async def test_t23_where_the_issuer_is_away_the_token_that_there_is_has_to_do() -> None:
    bench = Bench(clock=SystemClock())
    now = bench.clock.wall()
    await bench.sign_in(expires_at=now + 150, obtained_at=now - 150)
    bench.issuer.is_down = True
    async with (
        bench.source(jitter=1.2) as source,
        refusing(Service(set()), source=source, replay_limit=0) as (proxy, _, _),
    ):
        assert [(await proxy.ask("/data/x", method="POST", body=b"x")).status for _ in range(5)] == [200] * 5

    assert 0 < len(bench.told(RenewalFailed)) < 5  # the back-off is for these, too


# --- A40: what a 401 may cost


async def test_a40_t20_t22_an_upstream_that_always_says_401_costs_one_replay_each_and_one_renewal() -> None:
    """Fifty at once, uploads among them, and fifty more: one forced renewal in 30 s, and nobody tries a third time."""
    bench = Bench(clock=SystemClock())
    await bench.sign_in()
    service = Service()
    service.revoked = Everything()

    async with bench.source() as source, refusing(service, source=source) as (proxy, there, _):

        async def one(number: int) -> Answer:
            if number % 2:
                return await uploaded(proxy.port, b"x" * 10_000, framing="length" if number % 4 == 1 else "chunked")
            return await proxy.ask("/data/x")

        first = await asyncio.gather(*(one(number) for number in range(50)))
        seen = len(there.heads)
        second = await asyncio.gather(*(one(number) for number in range(50)))

    assert {(answer.status, answer.body) for answer in first + second} == {(401, WORDS)}
    assert 50 < seen <= 100
    assert len(there.heads) == seen + 50  # the token that the renewal brought is not blamed again
    assert bench.issuer.token_calls == 1


class Everything(set[str]):
    def __contains__(self, _: object) -> bool:
        return True


@pytest.mark.parametrize(
    ("refusal", "settings"),
    [
        (b"HTTP/1.1 401 No\r\nContent-Length: 22\r\n\r\n" + b'{"detail": "No role."}', {"token_fault": "Could not"}),
        (b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", {}),
    ],
    ids=["permission", "403"],
)
async def test_a40_t21_an_answer_about_permission_costs_neither_renewal_nor_replay(
    refusal: bytes, settings: dict[str, Any]
) -> None:
    source, service = FixedSource(newer=token_set(FRESH)), Service(refusal=refusal)
    async with refusing(service, source=source, **settings) as (proxy, _, _):
        got = await uploaded(proxy.port, b"x" * SMALL)

    assert got.status == int(refusal[9:12])
    assert got.body == refusal.partition(b"\r\n\r\n")[2]
    assert source.rejected == []
    assert service.received == [fingerprint(b"x" * SMALL)]


@pytest.mark.parametrize("size", [SMALL, ON_DISK], ids=["in memory", "on disk"])
async def test_where_the_replay_of_an_upload_finds_no_answer_the_first_401_is_relayed(size: int) -> None:
    service = Service()
    gone = breaking_off(b"")

    async def script(visit: Visit) -> None:
        await (gone if FRESH.encode() in visit.head else service)(visit)

    async with refusing(script) as (proxy, there, _):
        got = await uploaded(proxy.port, os.urandom(size))

    assert (got.status, got.body, got.is_complete) == (401, WORDS, True)
    assert b"a second try with a newer token found no answer" in (got["proxy-status"] or b"")
    assert len(there.heads) == 2


# --- a 401 that comes while the upload is still under way


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_early_401_of_a_service_that_reads_on_is_cured(framing: str) -> None:
    service = Service(is_hasty=True)
    body = os.urandom(LARGE)
    async with refusing(service) as (proxy, _, _):
        assert (await uploaded(proxy.port, body, framing=framing)).status == 200

    assert service.received == [fingerprint(body)]  # the first try ended where its answer came


# uvicorn does not stay for those who send all of an upload before they read
@pytest.mark.parametrize("size", [SMALL, pytest.param(LARGE, marks=LISTENERS_OWN)])
async def test_an_early_401_of_a_service_that_hangs_up_is_cured_or_explained(size: int) -> None:
    """RFC 9112 9.6: what stands in front of a reset may be lost with it; nothing is sent again on a guess."""
    service = Service()

    async def hasty(visit: Visit) -> None:
        if FRESH.encode() in visit.head:
            await service(visit)
        else:
            await visit.send(REFUSAL)
            visit.reset()

    body = os.urandom(size)
    async with refusing(hasty) as (proxy, there, _):
        got = await uploaded(proxy.port, body)

    is_explained = got.status == 502 or UNANSWERED in (got["proxy-status"] or b"")
    assert (got.status, len(there.heads)) == (200, 2) or (is_explained and len(there.heads) == 1)


class Early(httpx2.AsyncBaseTransport):
    """Gives the first answer, a 401, as soon as a piece of the body went out: as an HTTP/2 connection would."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.is_answered = asyncio.Event()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        self.bodies.append(b"")
        chunks = aiter(request.stream)
        async for piece in chunks:
            self.bodies[-1] += piece
            if len(self.bodies) == 1:
                await chunks.aclose()  # type: ignore[attr-defined]  # a generator
                self.is_answered.set()
                return httpx2.Response(401, content=WORDS)
        return httpx2.Response(200, content=b"hello")


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
async def test_an_early_401_waits_for_the_rest_of_the_body_and_is_cured(*, is_chunked: bool) -> None:
    transport, rest = Early(), os.urandom(ON_DISK)
    begun = chunk(b"begun") if is_chunked else b"begun"
    async with (
        refusing(Service(), transport=transport) as (proxy, _, _),
        calling(proxy.port, seconds=SECONDS) as caller,
    ):
        await caller.send(head(None if is_chunked else 5 + len(rest)) + begun)
        await transport.is_answered.wait()
        await caller.send(chunk(rest) + b"0\r\n\r\n" if is_chunked else rest)
        assert parsed(await caller.rest()).body == b"hello"

    assert transport.bodies == [b"begun", b"begun" + rest]


async def test_an_early_401_to_a_body_that_grows_beyond_the_limit_is_relayed_and_the_body_sent_once() -> None:
    transport = Early()
    async with (
        refusing(Service(), transport=transport, replay_limit=SMALL) as (proxy, _, _),
        calling(proxy.port, seconds=SECONDS) as caller,
    ):
        await caller.send(head(None) + chunk(b"begun"))
        await transport.is_answered.wait()
        await caller.send(chunk(b"x" * SMALL))
        got = parsed(await caller.rest())

    assert (got.status, got.body) == (401, WORDS)
    assert NOT_HELD in (got["proxy-status"] or b"")
    assert transport.bodies == [b"begun"]


async def test_a_caller_who_goes_while_the_rest_is_awaited_leaves_nothing_behind() -> None:
    transport, spools = Early(), Spools()
    async with refusing(Service(), transport=transport, spools=spools) as (proxy, _, _):
        async with calling(proxy.port, seconds=SECONDS) as caller:
            await caller.send(head(LARGE) + b"begun")
            await transport.is_answered.wait()
            await caller.send(BLOCK * 2)
            await eventually(lambda: spools.held > MEMORY_LIMIT)
            caller.abort()
        await eventually(lambda: spools.held == 0)

    assert transport.bodies == [b"begun"]


# --- what is in the way


@pytest.mark.parametrize("token", [CANARY, FRESH], ids=["in the upload", "in the replay"])
async def test_a_caller_who_goes_frees_what_was_kept(token: str) -> None:
    """In the first try, or in the second, while the service has not answered."""
    service, is_stuck = Service(), asyncio.Event()

    async def script(visit: Visit) -> None:
        if token.encode() in visit.head:
            is_stuck.set()
            await visit.gone()
        await service(visit)

    spools = Spools()
    async with refusing(script, spools=spools) as (proxy, there, _):
        async with calling(proxy.port, seconds=SECONDS) as caller:
            await caller.send(head(ON_DISK))
            await caller.send(os.urandom(ON_DISK - 1))
            await caller.send(b"x" if token == FRESH else b"")
            await is_stuck.wait()
            await eventually(lambda: spools.held >= ON_DISK - 1)
            caller.abort()
        await eventually(lambda: spools.held == 0 and not there.open)

    assert relayed(proxy) == []


async def test_what_all_uploads_together_may_take_is_bounded() -> None:
    """The one that finds no room is relayed as ever, and its 401 too; what comes later finds room again."""
    service, spools = Service(Everything()), Spools(total=2 * SMALL)
    async with refusing(service, spools=spools, source=FixedSource(newer=token_set(FRESH))) as (proxy, _, _):
        async with calling(proxy.port, seconds=SECONDS) as waiting:
            await waiting.send(head(2 * SMALL) + b"x" * (SMALL + 1))
            await eventually(lambda: spools.held == SMALL + 1)
            without = await uploaded(proxy.port, b"y" * SMALL)
            await waiting.send(b"x" * (SMALL - 1))
            assert b" 401 " in await waiting.head()
        await eventually(lambda: spools.held == 0)
        again = await uploaded(proxy.port, b"z" * SMALL)

    assert NOT_HELD in (without["proxy-status"] or b"")
    assert b"refused too" in (again["proxy-status"] or b"")
    assert sorted(service.received) == sorted(
        [fingerprint(b"y" * SMALL)] + [fingerprint(b"x" * 2 * SMALL)] * 2 + [fingerprint(b"z" * SMALL)] * 2
    )


async def test_a_folder_that_cannot_be_written_only_switches_replay_off(tmp_path: Path) -> None:
    service = Service()
    events: list[Event] = []
    spools = Spools(tmp_path / "missing", emit=events.append)
    async with refusing(service, spools=spools) as (proxy, _, _):
        refused = await uploaded(proxy.port, b"x" * ON_DISK)
        served = await uploaded(proxy.port, b"y" * ON_DISK)

    assert (refused.status, refused.body, served.status) == (401, WORDS, 200)
    assert service.received == [fingerprint(b"x" * ON_DISK), fingerprint(b"y" * ON_DISK)]
    (told,) = events
    assert isinstance(told, Warned)
    assert "No such file or directory" in told.message


async def test_without_an_identity_nothing_is_kept(tmp_path: Path) -> None:
    def none(_: Path | None) -> Any:
        raise AssertionError("a file was opened")

    spools = Spools(tmp_path, total=0, open_file=none)

    async def script(visit: Visit) -> None:
        await visit.body()
        await visit.send(REFUSAL)

    async with refusing(script, spools=spools, identity=None) as (proxy, there, _):
        assert (await uploaded(proxy.port, b"x" * ON_DISK)).status == 401

    assert len(there.bodies) == 1


# --- the process and its disk


def _limited(pid: int, size: int) -> None:
    if sys.platform != "linux":
        need("prlimit", how="run this test on Linux")
    import resource

    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, size))


async def test_a_disk_that_is_full_only_switches_replay_off(tmp_path: Path) -> None:
    """No file of the process may grow beyond 1.5 MiB: what fits in memory is replayed, what does not is relayed."""
    service = Service()
    async with raw_upstream(service) as there, alone(there.port, more=["--spool", str(tmp_path)]) as proxy:
        _limited(proxy.process.pid, MEMORY_LIMIT + PIECE_BYTES)
        served = [await _sent(proxy.port, service, LARGE, accepts=CANARY) for _ in range(2)]
    async with (
        raw_upstream(service) as there,
        alone(there.port, more=["--spool", str(tmp_path), "--newer", FRESH]) as proxy,
    ):
        _limited(proxy.process.pid, MEMORY_LIMIT + PIECE_BYTES)
        refused = await _sent(proxy.port, service, LARGE, accepts=FRESH)

    assert served == [200, 200]
    assert refused == 401
    assert len(service.received) == 3
    assert {one for one, _ in service.received} == {LARGE}
    assert names(tmp_path) == []


def names(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()]


async def _sent(port: int, service: Service, size: int, *, accepts: str) -> int:
    service.revoked = {CANARY, FRESH} - {accepts}
    async with calling(port, seconds=SECONDS) as caller:
        await caller.send(head(size).replace(b"/data/", b"/0/"))
        for _ in range(size // MEBIBYTE):
            await caller.send(BLOCK)
        return parsed(await caller.rest()).status


async def test_a_killed_process_leaves_no_name_behind(tmp_path: Path) -> None:
    """What it kept has no name from the beginning, and is readable for its owner alone while it is there."""
    if sys.platform != "linux":
        need("/proc", how="run this test on Linux")

    async def stuck(visit: Visit) -> None:
        async for _ in visit.pieces():
            pass

    async with (
        raw_upstream(stuck) as there,
        alone(there.port, more=["--spool", str(tmp_path)]) as proxy,
        calling(proxy.port, seconds=SECONDS) as caller,
    ):
        await caller.send(head(LARGE).replace(b"/data/", b"/0/"))
        await caller.send(BLOCK * 5)

        def kept() -> list[Path]:
            links = [*Path(f"/proc/{proxy.process.pid}/fd").iterdir()]
            return [one for one in links if str(one.readlink()).startswith(f"{tmp_path}/")]

        (link,) = await eventually(kept, what="the file of the spool")
        assert str(link.readlink()).endswith("(deleted)")
        assert stat.S_IMODE(link.stat().st_mode) == 0o600
        assert names(tmp_path) == []
        proxy.process.send_signal(signal.SIGKILL)
        await proxy.process.wait()

    assert names(tmp_path) == []


@pytest.mark.long
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_large_upload_is_replayed_in_flat_memory(loop: str, tmp_path: Path, *, is_long: bool) -> None:
    service = Service(set())
    blocks = 200 if is_long else 64
    more = ["--spool", str(tmp_path), "--newer", FRESH]
    async with raw_upstream(service) as there, alone(there.port, loop=loop, more=more) as proxy:
        async with calling(proxy.port, seconds=SECONDS) as caller:
            await caller.send(b"GET /0/warm HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            await caller.rest()
        service.received.clear()
        before = proxy.memory("VmRSS")
        status = await _sent(proxy.port, service, blocks * MEBIBYTE, accepts=FRESH)
        growth = proxy.memory("VmHWM") - before

    assert status == 200
    wanted = fingerprint(BLOCK * blocks)
    assert service.received == [wanted, wanted]
    assert growth < GROWTH_LIMIT
