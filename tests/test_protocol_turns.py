"""Many requests, many connections and callers who go, at the listener's own door."""

import asyncio
import gc
import json
import re
import socket
import tracemalloc
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from proxy.cycle import Cycle
from tests.conftest import need
from tests.journeys.house import Caller, all_parsed, calling, parsed, serving
from tests.listener import CLOSE, SMALL, House, Recorder, get, post
from tests.poll import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEBIBYTE = 1 << 20
LINGERING = replace(SMALL, linger_bytes=64 * MEBIBYTE, linger_quiet_seconds=1.0, linger_seconds=10.0)


def cycles() -> int:
    return sum(isinstance(one, Cycle) for one in gc.get_objects())


# pipelines -----------------------------------------------------------------------------------------------------------


async def test_h24_thousands_of_pipelined_requests_are_served_in_order(house: House) -> None:
    """Each in its turn, the rest as bytes: bounded work and memory."""
    count = 5000
    async with calling(house.there.port, limit=8 * MEBIBYTE, seconds=60) as caller:
        sending = asyncio.ensure_future(
            caller.send(b"".join(get(f"/n{number}") for number in range(count)) + get("/last", CLOSE))
        )
        raw = await caller.rest()
        await sending

    assert re.findall(rb'"target": "/(\w+)"', raw) == [b"n%d" % number for number in range(count)] + [b"last"]
    assert raw.count(b"HTTP/1.1 200 OK\r\n") == count + 1


async def test_of_a_pipeline_one_request_is_answered_and_the_rest_stays_bytes(house: House) -> None:
    """Ten thousand in one read would otherwise be ten thousand tasks to be (S34)."""
    before = cycles()
    async with calling(house.there.port) as caller:
        sending = asyncio.ensure_future(caller.send(get("/wait") + get("/") * 400_000))
        await eventually(lambda: house.app.seen)
        await eventually(lambda: cycles() > before)
        assert cycles() - before <= 1
        tracemalloc.start()
        await eventually(caller.writer.transport.get_write_buffer_size)  # it is not being read
        grown = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        caller.abort()  # or all of it would be served to the end

    assert grown < MEBIBYTE


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
async def test_bodies_in_a_pipeline_go_to_their_own_requests(house: House, framing: str) -> None:
    """H24 in both framings, in one read and byte by byte."""
    bodies = [b"one..", b"two..", b"\r\n\r\n!"]
    coded = [one if "Length" in framing else b"5\r\n%s\r\n0\r\n\r\n" % one for one in bodies]
    message = b"".join(post(framing, body=one) for one in coded) + get("/last", CLOSE)
    for size in (len(message), 1):
        async with calling(house.there.port) as caller:
            for start in range(0, len(message), size):
                await caller.send(message[start : start + size])
            raw = await caller.rest()
        assert [json.loads(one.body)["body"] for one in all_parsed(raw)] == ["one..", "two..", "\r\n\r\n!", ""]


async def test_a_drip_behind_a_running_answer_is_closed_by_the_deadline(house: House) -> None:
    """P1: the part of a head that came while another request was answered has its deadline from that answer's end."""
    async with calling(house.there.port) as caller:
        await caller.send(get("/wait") + b"GET / HT")
        await eventually(lambda: house.app.seen)
        house.app.gate.set()
        raw = await caller.rest()

    assert [one.status for one in all_parsed(raw)] == [200]


async def test_upgrades_in_a_pipeline_keep_their_bodies() -> None:
    """P14 (A15): the head is fed again without Upgrade, and the body behind it is not a request line."""
    app = Recorder()
    upgrade = ("Connection: Upgrade", "Upgrade: h2c")
    message = post(*upgrade, "Content-Length: 15", body=b"GET / RTSP/1.0\n") + get("/next", CLOSE)
    async with serving(app, limits=SMALL) as there:
        raw = await there.exchange(message)

    assert [one.status for one in all_parsed(raw)] == [200, 200]
    assert [one["body"] for one in app.seen] == ["GET / RTSP/1.0\n", ""]


# other protocols (P7) ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["GET / RTSP/1.0", "OPTIONS * RTSP/1.0", "POST / RTSP/1.1", "SOURCE / ICE/1.0"])
@pytest.mark.parametrize("way", ["at-once", "byte-by-byte", "behind-empty-lines", "second"])
async def test_p7_other_protocols_are_no_http(house: House, line: str, way: str) -> None:
    """The parser takes them for HTTP (A16, H15)."""
    message = f"{line}\r\nHost: localhost\r\n\r\n".encode()
    if way == "behind-empty-lines":
        message = b"\r\n\r\n" + message
    async with calling(house.there.port) as caller:
        if way == "second":
            await caller.send(get("/"))
            await caller.reader.readuntil(b"\r\n0\r\n\r\n")
        for start in range(len(message)) if way == "byte-by-byte" else [0]:
            await caller.send(message[start : start + 1] if way == "byte-by-byte" else message)
        raw = await caller.rest()

    assert parsed(raw).status == 505
    assert len(house.app.seen) == (way == "second")


async def test_words_of_other_protocols_may_stand_anywhere_else(house: House) -> None:
    raw = await house.exchange(post("X: RTSP/1.0", "Content-Length: 15", CLOSE, body=b"GET / RTSP/1.0\n"))

    assert parsed(raw).status == 200


@pytest.mark.parametrize("filler", [b"\r\n", b"X: " + b"a" * 1000 + b"\r\n"], ids=["empty-lines", "fields"])
async def test_p2_a_large_head_is_refused_at_its_limit_and_not_five_times_behind_it(
    house: House, filler: bytes
) -> None:
    """H14: what has come is counted piece by piece, not by the read."""
    start = b"" if filler == b"\r\n" else get("/")[:-2]
    async with calling(house.there.port) as caller:
        sent = start + filler * ((SMALL.head_bytes + 2048) // len(filler))
        await caller.send(sent)
        raw = await caller.rest()

    assert parsed(raw).status == 431


# hang-ups ------------------------------------------------------------------------------------------------------------


def vanish(caller: Caller) -> None:
    caller.abort()


async def say_goodbye(caller: Caller) -> None:
    caller.writer.close()


@pytest.mark.parametrize("is_reset", [True, False], ids=["reset", "closed"])
async def test_a20_a_hang_up_is_seen_though_more_requests_wait_than_are_read(house: House, *, is_reset: bool) -> None:
    """Reading is paused then, and an event loop that does not read sees nobody go (H58)."""
    need_linux()
    async with calling(house.there.port) as caller:
        await caller.send(get("/hold") + get("/queued") * 200)
        await caller.reader.readuntil(b"begun\r\n")
        vanish(caller) if is_reset else await say_goodbye(caller)
        await eventually(lambda: house.app.hang_ups == 1, 3)


@pytest.mark.parametrize("is_reset", [True, False], ids=["reset", "closed"])
async def test_a19_a_hang_up_is_seen_though_the_body_is_not_being_taken(house: House, *, is_reset: bool) -> None:
    """More of an upload has come than anybody takes; the caller goes (H46)."""
    need_linux()
    async with calling(house.there.port) as caller:
        caller.writer.write(post(f"Content-Length: {8 * MEBIBYTE}", body=b"x" * MEBIBYTE, target="/held-up"))
        await eventually(lambda: house.app.seen)
        vanish(caller) if is_reset else await say_goodbye(caller)
        await eventually(lambda: house.app.hang_ups == 1, 3)


def need_linux() -> None:
    import select

    if not hasattr(select, "POLLRDHUP"):
        need("a kernel that tells of a hang-up behind unread bytes", how="run this test on Linux")


# unread uploads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
async def test_h27_the_answer_to_an_unread_upload_reaches_a_tool_that_sends_all_of_it_first(*, chunked: bool) -> None:
    """Many tools look for an answer only when they have sent all; a reset would take it from them."""
    size = 32
    block = b"x" * MEBIBYTE
    app = Recorder()
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size * MEBIBYTE}"
    async with serving(app, limits=LINGERING) as there, calling(there.port, seconds=30) as caller:
        await caller.send(post(framing, target="/unread"))
        for _ in range(size):
            await caller.send(b"%x\r\n%s\r\n" % (MEBIBYTE, block) if chunked else block)
        if chunked:
            await caller.send(b"0\r\n\r\n")
        raw = await caller.rest()

    assert parsed(raw).status == 200
    assert not caller.was_reset


async def test_h27_what_is_dropped_of_an_unread_upload_ends_in_time_though_bytes_keep_coming() -> None:
    """S34: a drip behind an answer is no way to stay."""
    app = Recorder()
    limits = replace(LINGERING, linger_quiet_seconds=0.5, linger_seconds=1.0)
    loop = asyncio.get_running_loop()
    async with serving(app, limits=limits) as there, calling(there.port) as caller:
        await caller.send(post(f"Content-Length: {MEBIBYTE}", target="/unread"))
        await caller.head()
        started = loop.time()

        async def dripped() -> bool:
            caller.writer.write(b"x")
            return caller.writer.transport.is_closing()

        await eventually(dripped, 8, every=0.1)
        took = loop.time() - started

    assert 0.8 < took < 6


# room ----------------------------------------------------------------------------------------------------------------


async def test_a17_where_all_connections_are_taken_the_longest_idle_one_makes_room() -> None:
    """Idle, silent and dripping ones alike; whoever is being answered stays (S34)."""
    app = Recorder()
    limits = replace(SMALL, connections=3, head_seconds=30, keep_alive_seconds=30)
    async with (
        serving(app, limits=limits) as there,
        calling(there.port) as silent,
        calling(there.port) as idle,
        calling(there.port) as busy,
    ):
        await idle.send(get("/"))
        await idle.reader.readuntil(b"\r\n0\r\n\r\n")
        await busy.send(get("/wait", CLOSE))
        await eventually(lambda: len(app.seen) == 2)
        assert [parsed(await there.exchange(get("/", CLOSE))).status for _ in range(3)] == [200] * 3
        assert await silent.rest() == b""
        app.gate.set()
        assert parsed(await busy.rest()).status == 200
        await idle.send(get("/", CLOSE))
        assert parsed(await idle.rest()).status == 200


@pytest.mark.parametrize(
    "message",
    [get("/"), post("Content-Length: 9", target="/unread"), get("/big", CLOSE)],
    ids=["idle-behind-an-answer", "lingering", "not-reading-its-answer"],
)
async def test_a17_whoever_has_its_answer_makes_room(message: bytes) -> None:
    """The first to have got one goes first (S34)."""
    app = Recorder()
    limits = replace(LINGERING, connections=2, head_seconds=30, keep_alive_seconds=30, flush_seconds=30)
    async with serving(app, limits=limits) as there, calling(there.port) as first, calling(there.port) as second:
        for caller in (first, second):
            await caller.send(message)
            await caller.head()
        if b"/big" in message:
            await eventually(lambda: len(app.seen) == 2)
        assert parsed(await there.exchange(get("/", CLOSE))).status == 200
        await first.rest()  # which ends, long before any of those times is over


async def test_s34_where_every_connection_is_being_answered_the_next_one_is_told_to_come_again() -> None:
    app = Recorder()
    limits = replace(SMALL, connections=2)
    async with serving(app, limits=limits) as there, calling(there.port) as one, calling(there.port) as two:
        await one.send(get("/wait", CLOSE))
        await two.send(get("/wait", CLOSE))
        await eventually(lambda: len(app.seen) == 2)
        refused = parsed(await there.exchange(b""))
        app.gate.set()
        assert [parsed(await caller.rest()).status for caller in (one, two)] == [200, 200]
        assert parsed(await there.exchange(get("/", CLOSE))).status == 200

    assert (refused.status, refused["retry-after"]) == (503, b"1")
    assert b"overloaded" in refused.body


async def test_room_is_free_again_behind_every_way_to_end() -> None:
    """Closed, reset, refused, cut and lingering connections are all forgotten (A17)."""
    app = Recorder()
    app.gate.set()
    limits = replace(SMALL, connections=1)
    async with serving(app, limits=limits) as there:
        for _ in range(3):
            for message in (
                get("/", CLOSE),
                b"garbage\r\n\r\n",
                get("/half"),
                post("Content-Length: 9", target="/unread"),
            ):
                assert await there.exchange(message) != b""
            with socket.create_connection(("127.0.0.1", there.port)):
                pass
        assert parsed(await there.exchange(get("/", CLOSE))).status == 200


# the end -------------------------------------------------------------------------------------------------------------


async def test_a45_at_the_end_idle_connections_close_at_once_and_running_requests_finish() -> None:
    """Also an upload whose body is still to come; what waits behind a running request is left to another try (H26)."""
    app = Recorder()
    limits = replace(SMALL, head_seconds=30, keep_alive_seconds=30)
    async with (
        serving(app, limits=limits, drain_seconds=10) as there,
        calling(there.port) as silent,
        calling(there.port) as half,
        calling(there.port) as idle,
        calling(there.port) as running,
        calling(there.port) as upload,
    ):
        await half.send(get("/")[:-2])
        await idle.send(get("/"))
        await idle.reader.readuntil(b"\r\n0\r\n\r\n")
        await running.send(get("/wait") + get("/behind"))
        await upload.send(post("Content-Length: 2", body=b"a"))
        await eventually(lambda: len(app.seen) == 3)
        there.stop.set()
        assert [await one.rest() for one in (silent, half, idle)] == [b"", b"", b""]
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", there.port)
        app.gate.set()
        await upload.send(b"b")
        first, second = parsed(await running.rest()), parsed(await upload.rest())

    assert (first.status, first["connection"], first.rest) == (200, b"close", b"")
    assert (second.status, second["connection"], json.loads(second.body)["body"]) == (200, b"close", "ab")
    assert "/behind" not in [one["target"] for one in app.seen]


async def test_a45_a_caller_who_reads_nothing_does_not_hold_the_end() -> None:
    app = Recorder()
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as callers:
        async with serving(app, limits=replace(SMALL, flush_seconds=60), drain_seconds=0.5) as there:
            caller = await callers.enter_async_context(calling(there.port))
            await caller.send(get("/big", CLOSE))
            await eventually(lambda: app.seen)
            ending = loop.time()
        assert loop.time() - ending < 8
        assert not parsed(await caller.rest()).is_complete
