"""The upstream's side where others are not looking: connections that are still being made, bombs, tokens sent back."""

import asyncio
import gzip
import socket
import tracemalloc
import zlib

import pytest

from proxy.upstreams import Upstream
from tests.journeys.house import answering, breaking_off, calling, parsed, raw_upstream, running
from tests.poll import eventually

pytestmark = pytest.mark.usefixtures("client_end")

GET = b"GET /data/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
MIB = 1 << 20


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a20_a_caller_who_leaves_while_we_connect_leaves_nothing(scheme: str, end: str) -> None:
    """H58: the attempt ends within a second, though it could have gone on for thirty."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [_connecting(port) for _ in range(4)]  # fill the backlog: the next one hangs
        try:
            there = Upstream("data", scheme, "127.0.0.1", port, mount="/data", connect_timeout=30)
            async with running([there]) as proxy:
                before = asyncio.all_tasks()
                async with calling(proxy.port) as caller:
                    await caller.send(GET)
                    await eventually(lambda: asyncio.all_tasks() - before, what="the relay's task")
                    if end == "reset":
                        caller.abort()
                await eventually(lambda: asyncio.all_tasks() <= before, 1, what="the end of the attempt")
        finally:
            for one in waiting:
                one.close()


def _connecting(port: int) -> socket.socket:
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", port))
    return one


# bombs ---------------------------------------------------------------------------------------------------------------

BOMB = gzip.compress(bytes(20 * MIB))
"""20 KB that want to become 20 MB."""
BOMBS = {"gzip": BOMB, "deflate": zlib.compress(bytes(20 * MIB)), "br": b"\xcf\xff\xff\x7f\xf8" * 10_000}


@pytest.mark.parametrize("media_type", [b"application/json", b"text/html"])
@pytest.mark.parametrize("coding", BOMBS)
@pytest.mark.parametrize("status", [b"200 OK", b"401 Unauthorized"])
async def test_a27_a_bomb_is_relayed_and_not_unpacked(status: bytes, coding: str, media_type: bytes) -> None:
    """S32: a 401 too, which is looked into for whether it blames the token, and no further than 64 KiB."""
    bomb = BOMBS[coding]
    head = b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n"
    raw = head % (status, media_type, coding.encode(), len(bomb)) + bomb
    async with raw_upstream(answering(raw)) as there, running([there.upstream(token_fault="expired")]) as proxy:
        await proxy.ask("/data/x")  # what is allocated once
        tracemalloc.start()
        try:
            got = await proxy.ask("/data/x")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert (got.status, got.body == bomb) == (int(status[:3]), True)
    assert got["content-encoding"] == coding.encode()
    assert there.field(b"accept-encoding") == []
    assert peak < 2 * MIB


# a cut in each framing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n", b"Connection: close\r\n"])
@pytest.mark.parametrize(
    ("framing", "part"),
    [
        (b"Content-Length: 100", b"half"),
        (b"Transfer-Encoding: chunked", b"4\r\nhalf\r\n"),
        (b"Transfer-Encoding: chunked", b"4\r\nhalf\r\n0\r\n"),
    ],
    ids=["length", "chunked", "no-end-of-trailers"],
)
async def test_a21_a_cut_is_seen_whatever_the_caller_asked_for(
    version: bytes, connection: bytes, framing: bytes, part: bytes
) -> None:
    """H56, H57."""
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n%s\r\n\r\n%s" % (framing, part)

    async with raw_upstream(breaking_off(raw)) as there, running([there.upstream()]) as proxy:
        async with calling(proxy.port) as caller:
            await caller.send(b"GET /data/x HTTP/%s\r\nHost: localhost\r\n%s\r\n" % (version, connection))
            got = await caller.rest()
        await eventually(lambda: not there.open, 1, what="the upstream's end")

    assert caller.was_reset or not parsed(got).is_complete
