"""Limits and hang-ups from end to end: who is refused, who is not, and that the upstream is let go in time."""

import asyncio
import socket
import struct

import pytest

from proxy.asgi import Receive, Send
from proxy.limits import Admission
from tests.ends import LISTENERS_OWN
from tests.journeys.house import (
    FixedSource,
    Script,
    Visit,
    all_parsed,
    calling,
    control_stub,
    ok,
    parsed,
    raw_upstream,
    running,
)
from tests.poll import eventually

pytestmark = pytest.mark.usefixtures("client_end")

GET = b"GET /%s/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
MEBIBYTE = 1 << 20


async def silent(visit: Visit) -> None:
    """Never answer."""
    await visit.gone()


async def test_s34_an_upstream_that_hangs_takes_its_own_places_and_nobody_elses() -> None:
    """503 `overloaded` with Retry-After and no use of a token; other mounts and our pages answer."""
    source = FixedSource()
    async with (
        raw_upstream(silent) as hanging,
        raw_upstream(ok) as there,
        running(
            [hanging.upstream("slow", max_requests=3), there.upstream("data", identity="other")],
            sources={"me": source},
        ) as proxy,
    ):
        waiting = [asyncio.ensure_future(proxy.ask("/slow/x")) for _ in range(3)]
        await eventually(lambda: len(hanging.heads) == 3)
        refused = await proxy.ask("/slow/x")
        uses = source.uses
        assert ((await proxy.ask("/data/x")).status, (await proxy.ask("/-/live")).status) == (200, 200)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await eventually(lambda: not hanging.open)
        again = asyncio.ensure_future(proxy.ask("/slow/x"))
        await eventually(lambda: len(hanging.heads) == 4)
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)

    assert (refused.status, refused["retry-after"]) == (503, b"1")
    assert b"/-/errors/overloaded" in refused.body
    assert b"[upstream.slow]" in refused.body
    assert uses == 3


async def test_s34_beyond_the_total_only_our_pages_answer() -> None:
    async with (
        raw_upstream(silent) as there,
        running([there.upstream("one"), there.upstream("two")], admission=Admission(2)) as proxy,
    ):
        waiting = [asyncio.ensure_future(proxy.ask(f"/{name}/x")) for name in ("one", "two")]
        await eventually(lambda: len(there.heads) == 2)
        refused, live = await proxy.ask("/one/x"), await proxy.ask("/-/live")
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    assert (refused.status, refused["retry-after"], live.status) == (503, b"1", 200)
    assert b"[server] max_requests" in refused.body


async def test_a23_a_dripping_answer_lives_as_long_as_total_timeout() -> None:
    """And is visibly cut then; idle_timeout, which each byte restarts, does not end it (H62)."""

    async def drip(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")

        async def one_more() -> bool:
            await visit.send(b"x")
            return False

        await eventually(one_more, 30, every=0.05)

    async with raw_upstream(drip) as there:
        upstream = there.upstream(total_timeout=1.0, idle_timeout=0.6)
        async with running([upstream]) as proxy, calling(proxy.port) as caller:
            started = asyncio.get_running_loop().time()
            await caller.send(GET % b"data")
            answer = parsed(await caller.rest())
            took = asyncio.get_running_loop().time() - started
            await eventually(lambda: not there.open, 1)

    assert answer.status == 200
    assert not answer.is_complete
    assert 0.9 < took < 5


@LISTENERS_OWN  # uvicorn goes on to read an upload that is answered
async def test_a18_a_dripping_upload_lives_as_long_as_total_timeout() -> None:
    """504, as nothing has been answered; the upstream's connection is closed and its request never whole (H16, H46)."""

    async def reading(visit: Visit) -> None:
        await visit.body()

    async with raw_upstream(reading) as there:
        upstream = there.upstream(total_timeout=1.0)
        async with running([upstream]) as proxy, calling(proxy.port) as caller:
            await caller.send(b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
            ending = asyncio.ensure_future(caller.rest())

            async def dripped() -> bool:
                caller.writer.write(b"x")
                return ending.done()

            await eventually(dripped, 8)
            answer = parsed(await ending)
            await eventually(lambda: not there.open, 1)

    assert answer.status == 504
    assert b"total_timeout" in answer.body
    assert there.bodies == []


async def reading_page(_scope: object, receive: Receive, send: Send) -> None:
    """A page of ours that takes a form."""
    while (await receive()).get("more_body"):
        pass
    await control_stub(_scope, receive, send)


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
async def test_s34_pages_of_ours_take_small_forms_alone(framing: str) -> None:
    """In both framings; the rest of what is too large is not waited for (H27)."""
    async with raw_upstream(ok) as there, running([there.upstream()], control=reading_page) as proxy:
        async with calling(proxy.port) as caller:
            head = "POST /-/login/me HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            await caller.send(f"{head}{framing}\r\n\r\n".encode())
            block = b"x" * 50_000
            for _ in range(2):
                await caller.send(block if "Length" in framing else b"%x\r\n%s\r\n" % (len(block), block))
            large = parsed(await caller.rest())
        small = await proxy.ask("/-/login/me", method="POST", body=b"nonce=1")

    assert (large.status, large["connection"], small.status) == (413, b"close", 200)
    assert b"at most 65536 bytes" in large.body


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_a18_an_upload_that_stalls_is_closed_and_so_is_the_upstreams_connection(framing: str) -> None:
    """In both framings (H16)."""

    async def reading(visit: Visit) -> None:
        await visit.body()

    async with raw_upstream(reading) as there:
        upstream = there.upstream(idle_timeout=0.5)
        async with running([upstream]) as proxy, calling(proxy.port) as caller:
            await caller.send(f"POST /data/x HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n5\r\nhello\r\n".encode())
            assert not [one for one in all_parsed(await caller.rest()) if one.status < 400]
            await eventually(lambda: not there.open, 1)

    assert there.bodies == []


@LISTENERS_OWN  # uvicorn keeps the connection for the chunk that does not come
async def test_a18_a_get_that_announces_chunks_and_sends_none_is_answered() -> None:
    """H23."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        raw = await proxy.exchange(b"GET /data/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")

    assert parsed(raw).body == b"hello"
    assert there.field(b"transfer-encoding") == []


# who goes ------------------------------------------------------------------------------------------------------------


async def unread(visit: Visit) -> None:
    """Take nothing of the body, for ever."""
    await asyncio.Event().wait()


async def late(visit: Visit) -> None:
    await visit.body()
    await visit.gone()


async def flooding(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await visit.send(b"%x\r\n%s\r\n" % (MEBIBYTE, bytes(MEBIBYTE)))


HEAD = b" /data/x HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("is_reset", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize(
    ("script", "message", "whole"),
    [
        pytest.param(late, b"GET" + HEAD + b"\r\n", [b""], id="before-the-head"),
        pytest.param(late, b"POST" + HEAD + b"Content-Length: 5\r\n\r\nhello", [b"hello"], id="behind-its-body"),
        pytest.param(late, b"POST" + HEAD + b"Content-Length: 9\r\n\r\nhello", [], id="within-its-body"),
        pytest.param(late, b"POST" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", [], id="within-a-chunk"),
        pytest.param(late, (b"GET" + HEAD + b"\r\n") * 50, [b""], id="with-others-behind-it", marks=LISTENERS_OWN),
        pytest.param(flooding, b"GET" + HEAD + b"\r\n", [], id="within-the-answer"),
    ],
)
async def test_a20_the_upstream_is_let_go_in_time_when_the_caller_goes(
    script: Script, message: bytes, whole: list[bytes], *, is_reset: bool
) -> None:
    """Whatever is being waited for, and though reading is paused (H46, H58-H60; A19)."""
    async with raw_upstream(script) as there, running([there.upstream()]) as proxy, calling(proxy.port) as caller:
        await caller.send(message)
        await eventually(lambda: there.heads and (there.bodies or not whole))
        started = asyncio.get_running_loop().time()
        caller.abort() if is_reset else caller.writer.close()
        await eventually(lambda: not there.open, 5)
        took = asyncio.get_running_loop().time() - started

    assert took < 3  # under one second where the machine has nothing else to do
    assert there.bodies == whole


@LISTENERS_OWN  # uvicorn does not look for a hang-up where it does not read
async def test_a19_an_upload_that_nobody_takes_ends_with_its_caller() -> None:
    """The upstream reads nothing, all buffers are full, and the caller goes: its place is free again (H46)."""
    admission = Admission(1)
    async with (
        raw_upstream(unread) as there,
        running([there.upstream()], admission=admission) as proxy,
        calling(proxy.port) as caller,
    ):
        head = b"POST" + HEAD + b"Content-Length: 99999999\r\n\r\n"
        sending = asyncio.ensure_future(caller.send(head + bytes(48 * MEBIBYTE)))
        await eventually(lambda: there.heads)
        left = -1

        def is_stuck() -> bool:
            nonlocal left
            before, left = left, caller.writer.transport.get_write_buffer_size()
            return before == left > 0

        await eventually(is_stuck, every=0.2)
        # Without this a FIN would queue behind bytes that nobody takes: such an end is not to be seen from here.
        caller.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.abort()
        await asyncio.gather(sending, return_exceptions=True)
        await eventually(lambda: admission._total == 0, 3)
