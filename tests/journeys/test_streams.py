"""Bytes as they come: streaming, truncation, and callers who go away (http-law H46, H55-H62)."""

import asyncio
import gc
import random
from pathlib import Path
from typing import Any

import pytest

from proxy.events import Relayed
from proxy.upstreams import Upstream
from tests.conftest import need
from tests.ends import LISTENERS_OWN
from tests.journeys.house import (
    RawUpstream,
    Running,
    Script,
    Visit,
    answering,
    breaking_off,
    calling,
    ok,
    parsed,
    raw_upstream,
    running,
)
from tests.poll import eventually

pytestmark = pytest.mark.usefixtures("client_end")

HEAD_CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /data/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
WITHIN_A_SECOND = 1.0


async def test_events_arrive_as_they_are_sent() -> None:
    """H55, A28."""
    step = asyncio.Event()

    async def events(visit: Visit) -> None:
        await visit.send(HEAD_CHUNKED)
        for number in range(3):
            await step.wait()
            step.clear()
            await visit.send(b"9\r\ndata: %d\n\n\r\n" % number)
        await visit.send(b"0\r\n\r\n")

    async with raw_upstream(events) as there, running([there.upstream()]) as proxy, calling(proxy.port) as caller:
        await caller.send(GET)
        assert b"200 OK" in await caller.head()  # the head does not wait for the first event
        for number in range(3):
            step.set()
            assert await caller.reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: %d\n\n\r\n" % number
        assert await caller.reader.readexactly(5) == b"0\r\n\r\n"


async def test_an_upload_goes_up_as_it_comes() -> None:
    """H55."""
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def listening(visit: Visit) -> None:
        async for chunk in visit.chunks():
            arrived.put_nowait(chunk)
        await visit.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    async with raw_upstream(listening) as there, running([there.upstream()]) as proxy, calling(proxy.port) as caller:
        await caller.send(b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (b"one", b"two", b"six"):
            await caller.send(b"3\r\n%s\r\n" % part)
            assert await arrived.get() == part
        await caller.send(b"0\r\n\r\n")
        assert b"201 Created" in await caller.head()


# truncation ----------------------------------------------------------------------------------------------------------


async def _reset_after_a_part(visit: Visit) -> None:
    await visit.send(HEAD_CHUNKED + b"5\r\nhello\r\n")
    visit.reset()


async def _stall_after_a_part(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    await visit.gone()


async def _stall_without_a_length(visit: Visit) -> None:
    await visit.send(HEAD_CHUNKED + b"5\r\nhello\r\n")
    await visit.gone()


TRUNCATED = {
    "short-length": breaking_off(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
    "no-last-chunk": breaking_off(HEAD_CHUNKED + b"5\r\nhello\r\n"),
    "in-a-chunk": breaking_off(HEAD_CHUNKED + b"10\r\nhello"),
    "garbage-for-a-chunk": breaking_off(HEAD_CHUNKED + b"5\r\nhello\r\nzz\r\n"),
    "reset": _reset_after_a_part,
    "stall": _stall_after_a_part,
    "stall-without-length": _stall_without_a_length,
}


@pytest.mark.parametrize("script", TRUNCATED.values(), ids=TRUNCATED.keys())
# To HTTP/1.0 a cut can only be told by a reset, which ASGI has no word for
@pytest.mark.parametrize("version", [pytest.param(b"1.0", marks=LISTENERS_OWN), b"1.1"])
async def test_a_truncated_answer_never_looks_complete(script: Script, version: bytes) -> None:
    """H56, H57, A21."""
    async with raw_upstream(script) as there, running([there.upstream(idle_timeout=0.3)]) as proxy:
        async with calling(proxy.port) as caller:
            await caller.send(GET.replace(b"1.1", version))
            raw = await caller.rest()
        await asyncio.wait_for(there.closed.wait(), WITHIN_A_SECOND)

    has_length = b"content-length" in raw
    if version == b"1.0" and not has_length:
        assert caller.was_reset
    else:
        assert not parsed(raw).is_complete
    (event,) = proxy.events
    assert isinstance(event, Relayed)
    assert not event.is_complete


async def test_a_killed_upstream_breaks_curls_download(tmp_path: Path) -> None:
    """H56, A21."""
    async with raw_upstream(TRUNCATED["no-last-chunk"]) as there, running([there.upstream()]) as proxy:
        curl = await asyncio.create_subprocess_exec(
            "curl", "-sS", "-o", str(tmp_path / "out"), f"http://localhost:{proxy.port}/data/x"
        )
        assert await curl.wait() in (18, 56)  # partial file; failure in receiving


@pytest.mark.parametrize(
    "body",
    [b"x" * 10, b"Content-Length: 3\r\n\r\nabc" * 1000],
)
async def test_what_is_delimited_by_closing_arrives_whole(body: bytes) -> None:
    script = breaking_off(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + body)
    async with raw_upstream(script) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x")

    assert (got.body, got.is_complete, got["transfer-encoding"]) == (body, True, b"chunked")


# callers who go away -------------------------------------------------------------------------------------------------


async def _never_answering(visit: Visit) -> None:
    await visit.gone()


async def _endless(visit: Visit) -> None:
    await visit.send(HEAD_CHUNKED)
    while not visit.writer.is_closing():
        await visit.send(b"10000\r\n%s\r\n" % (b"x" * 65536))


async def _silent_after_the_head(visit: Visit) -> None:
    await visit.send(HEAD_CHUNKED)
    await visit.gone()


async def _closed_soon(there: RawUpstream) -> None:
    await eventually(lambda: there.connections and not there.open, WITHIN_A_SECOND, what="the upstream's end")


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_caller_gone_before_the_headers_ends_the_upstream_call(end: str) -> None:
    """H58, A20."""
    async with raw_upstream(_never_answering) as there, running([there.upstream()]) as proxy:
        async with calling(proxy.port) as caller:
            await caller.send(GET)
            await eventually(lambda: there.heads)
            if end == "reset":
                caller.abort()
        await _closed_soon(there)

    assert proxy.events == []


@pytest.mark.parametrize("script", [_endless, _silent_after_the_head], ids=["in-the-flow", "in-a-silence"])
@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_caller_gone_in_mid_download_ends_the_upstream_call(script: Script, end: str) -> None:
    """H60, A20."""
    async with raw_upstream(script) as there, running([there.upstream()]) as proxy:
        async with calling(proxy.port) as caller:
            await caller.send(GET)
            await caller.head()
            if end == "reset":
                caller.abort()
        await _closed_soon(there)
        await eventually(lambda: proxy.events)

    (event,) = proxy.events
    assert isinstance(event, Relayed)
    assert not event.is_complete


@pytest.mark.parametrize(
    "framed",
    [
        (b"Content-Length: 1000000\r\n\r\n", b"x" * 1000),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"3e8\r\n%s\r\n" % (b"x" * 1000)),
    ],
    ids=["content-length", "chunked"],
)
async def test_a_caller_gone_in_mid_upload_never_completes_the_request(framed: tuple[bytes, bytes]) -> None:
    """H46, A19."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        async with calling(proxy.port) as caller:
            await caller.send(b"POST /data/x HTTP/1.1\r\nHost: localhost\r\n" + b"".join(framed))
            await eventually(lambda: there.heads)
        await _closed_soon(there)

    assert there.bodies == []


async def test_a_malformed_chunk_in_mid_upload_never_completes_the_request(client_end: str) -> None:
    """H46, A19."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        async with calling(proxy.port) as caller:
            await caller.send(
                b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
            )
            await eventually(lambda: there.heads)
            await caller.send(b"zz\r\n0\r\n\r\n")
            said = await caller.rest()
            assert said == b"" if client_end == "listener" else b" 400 " in said  # uvicorn answers before it closes
        await _closed_soon(there)

    assert there.bodies == []


@LISTENERS_OWN  # uvicorn keeps a caller whose upload has stalled
async def test_an_upload_that_stalls_is_closed_on_both_sides() -> None:
    """H16, H61, A18."""
    async with raw_upstream(ok) as there, running([there.upstream(idle_timeout=0.3)]) as proxy:
        async with calling(proxy.port) as caller:
            await caller.send(b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc")
            assert await caller.rest() == b""
        await _closed_soon(there)

    assert there.bodies == []


async def test_an_upload_that_drips_is_not_a_stall() -> None:
    time = asyncio.get_running_loop().time
    async with (
        raw_upstream(ok) as there,
        running([there.upstream(idle_timeout=0.5)]) as proxy,
        calling(proxy.port) as caller,
    ):
        await caller.send(b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\n")
        due = time()
        for _ in range(6):
            due += 0.15
            await eventually(lambda: time() > due)  # noqa: B023 - looked at before it changes
            await caller.send(b"x")
        assert b"200 OK" in await caller.head()

    assert there.bodies == [b"xxxxxx"]


async def test_a_reader_who_stops_is_dropped_and_the_upstream_call_with_it() -> None:
    """H61, A20."""
    async with (
        raw_upstream(_endless) as there,
        running([there.upstream(idle_timeout=0.3)]) as proxy,
        calling(proxy.port) as caller,
    ):
        await caller.send(GET)
        await caller.head()
        await eventually(lambda: not there.open, 5)  # we read nothing in the meantime

    (event,) = proxy.events
    assert isinstance(event, Relayed)
    assert not event.is_complete


@LISTENERS_OWN  # a page of ours is not told of a hang-up there
async def test_a_caller_gone_in_the_middle_of_a_page_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    ended = asyncio.Event()

    async def pages(_scope: Any, _receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        finally:
            ended.set()

    async with running([], control=pages) as proxy:
        async with calling(proxy.port) as caller:
            await caller.send(GET.replace(b"/data/x", b"/-/"))
            await caller.head()
        await asyncio.wait_for(ended.wait(), WITHIN_A_SECOND)

    assert proxy.events == []
    assert caplog.text == ""


@LISTENERS_OWN  # uvicorn does not read on while it serves
async def test_a_hang_up_with_more_requests_in_the_pipe_starts_none_of_them() -> None:
    """H59."""
    async with raw_upstream(_endless) as there, running([there.upstream()]) as proxy:
        async with calling(proxy.port) as caller:
            await caller.send(GET * 3)
            await caller.head()
        await _closed_soon(there)

    assert len(there.heads) == 1


@LISTENERS_OWN
async def test_requests_in_flight_are_cut_visibly_when_the_time_to_drain_is_over() -> None:
    """H56, A45."""
    async with raw_upstream(_endless) as there, running([there.upstream()], drain_seconds=1) as proxy:
        async with calling(proxy.port, limit=1 << 24) as caller:
            await caller.send(GET)
            await caller.head()
            proxy.stop.set()
            raw = await caller.rest()
        await _closed_soon(there)

    assert not raw.endswith(b"\r\n0\r\n\r\n")


@LISTENERS_OWN
async def test_requests_in_flight_may_finish_after_the_stop() -> None:
    go_on = asyncio.Event()

    async def slow(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
        await go_on.wait()
        await visit.send(b"llo")

    async with (
        raw_upstream(slow) as there,
        running([there.upstream()], drain_seconds=5) as proxy,
        calling(proxy.port) as caller,
        calling(proxy.port) as idle,
    ):
        await caller.send(GET)
        await caller.reader.readuntil(b"\r\n\r\nhe")
        proxy.stop.set()
        assert await idle.rest() == b""  # an idle connection ends at once
        await eventually(lambda: _is_refused(proxy.port))
        go_on.set()
        assert await caller.rest() == b"llo"


async def _is_refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


# nothing is left behind ----------------------------------------------------------------------------------------------


def _descriptors() -> int:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        need("/proc", how="run this test on Linux")
    return len([*folder.iterdir()])


async def _abort_somewhere(proxy: Running, chance: random.Random) -> None:
    """Send one of the requests that a busy day sees, and vanish at a moment nobody chose."""
    requests = [
        GET,
        GET * 3,
        b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + b"x" * 5000,
        b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n" + b"x" * 5000,
        b"GET /slow/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /endless/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /hasty/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /refused/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /forbidden/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ]
    async with calling(proxy.port) as caller:
        message = chance.choice(requests)
        await caller.send(message[: chance.randrange(1, len(message) + 1)] if chance.random() < 0.2 else message)
        for _ in range(chance.randrange(6)):
            if chance.random() < 0.5:
                await asyncio.wait([reading := asyncio.ensure_future(caller.reader.read(100))], timeout=0.002)
                reading.cancel()
            else:
                await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.001)
        if chance.random() < 0.5:
            caller.abort()


@pytest.mark.long
async def test_aborted_requests_leave_no_descriptor_and_no_task(*, is_long: bool) -> None:
    """H60, A20."""
    chance = random.Random(3)  # noqa: S311 - the same aborts in each run
    forbidden = answering(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nagain")
    async with (
        raw_upstream(ok) as quick,
        raw_upstream(_never_answering) as slow,
        raw_upstream(_endless) as endless,
        raw_upstream(forbidden) as forbidding,
    ):
        refused = Upstream("refused", "http", "127.0.0.1", 1, mount="/refused", identity="me")
        mounts = [
            quick.upstream(),
            slow.upstream("slow"),
            slow.upstream("hasty", first_byte_timeout=0.003),
            endless.upstream("endless"),
        ]
        mounts += [forbidding.upstream("forbidden"), refused]
        async with running(mounts) as proxy:
            await proxy.ask("/data/x")
            before, tasks_before = _descriptors(), len(asyncio.all_tasks())
            for _ in range(100 if is_long else 30):
                await asyncio.gather(*(_abort_somewhere(proxy, chance) for _ in range(10)))
            there = [slow, endless]
            await eventually(lambda: not any(one.open for one in there), 5, what="the end of all slow calls")
            idle = quick.open + forbidding.open  # kept for the next request, with an end on each side
            gc.collect()
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before + idle, 5, what="the end of all tasks")
            await eventually(lambda: _descriptors() <= before + 2 * idle, 5, what="the end of all descriptors")
            assert (await proxy.ask("/data/x")).body == b"hello"
