"""Connections for whoever awaits: uploads that run beside their answers, slow readers, callers who go."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.errors import BadRequest, CallerGone, UpstreamInvalid, UpstreamTimeout
from proxy.headers import Fields
from proxy.transport.connections import READ_AHEAD_BYTES, Connections
from tests.journeys.house import OK, RawUpstream, Script, Visit, answering, ok, raw_upstream
from tests.poll import eventually

pytestmark = pytest.mark.usefixtures("no_leaks")

HOST = (b"host", b"h")
CODED: Fields = [HOST, (b"transfer-encoding", b"chunked")]


@asynccontextmanager
async def connected(script: Script, **settings: Any) -> AsyncIterator[tuple[Connections, RawUpstream]]:
    async with raw_upstream(script) as there:
        connections = Connections(there.upstream(**settings))
        try:
            yield connections, there
        finally:
            await connections.aclose()


async def pieces(*given: bytes, until: asyncio.Event | None = None) -> AsyncGenerator[bytes, None]:
    """Yield the first piece, and the others when `until` is set."""
    for number, piece in enumerate(given):
        if number and until is not None:
            await until.wait()
        yield piece


async def test_an_answer_of_success_waits_for_the_upload_which_arrives_whole() -> None:
    """RFC 9112 9.5: an answer may come early, and the service reads on."""

    async def hasty(visit: Visit) -> None:
        await visit.send(OK)
        answered.set()
        await visit.body()

    answered = asyncio.Event()
    async with connected(hasty) as (connections, there):
        response = await connections.send("POST", b"/x", CODED, pieces(b"begun, ", b"done", until=answered))
        body = b"".join([chunk async for chunk in response.body])
        await response.aclose()
        await eventually(lambda: there.bodies)

    assert (response.status, body) == (200, b"hello")
    assert there.bodies == [b"begun, done"]


async def test_an_early_refusal_ends_the_upload_and_closes_its_source() -> None:
    """N3: httpx2 lost such an answer."""
    is_closed = False

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal is_closed
        try:
            while True:
                yield b"x" * 10_000
                await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.001)
        finally:
            is_closed = True

    async def refusing(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await visit.gone()

    async with connected(refusing) as (connections, there):
        response = await connections.send("POST", b"/x", CODED, endless())
        assert is_closed
        assert [chunk async for chunk in response.body] == [b"no"]
        await response.aclose()
        await eventually(lambda: there.open == 0)

    assert response.status == 413
    assert there.bodies == []


async def test_a_body_that_breaks_off_never_completes_the_request() -> None:
    """H46."""

    async def broken() -> AsyncGenerator[bytes, None]:
        yield b"begun"
        raise CallerGone

    async with connected(ok) as (connections, there):
        with pytest.raises(CallerGone):
            await connections.send("POST", b"/x", CODED, broken())
        await eventually(lambda: there.open == 0)

    assert there.bodies == []


@pytest.mark.parametrize("body", [b"four", b"seven77"])
async def test_a_body_of_another_length_is_the_callers_mistake(body: bytes) -> None:
    """H45."""
    async with connected(ok) as (connections, there):
        with pytest.raises(BadRequest):
            await connections.send("POST", b"/x", [HOST, (b"content-length", b"5")], pieces(body))
        await eventually(lambda: there.open == 0)

    assert there.bodies == []


async def test_an_upstream_that_takes_no_body_is_too_slow() -> None:
    async def reads_nothing(visit: Visit) -> None:
        visit.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport reads too
        await asyncio.Event().wait()

    async with connected(reads_nothing, idle_timeout=0.2) as (connections, _):
        with pytest.raises(UpstreamTimeout, match="stopped taking the request"):
            await connections.send("POST", b"/x", CODED, pieces(*[b"x" * 100_000] * 200))


async def test_a_slow_reader_makes_the_upstream_wait() -> None:
    """H55: bounded memory."""
    size = 50_000_000
    async with connected(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)) as (
        connections,
        _,
    ):
        response = await connections.send("GET", b"/x", [HOST], None)
        answer: Any = response.call
        await eventually(lambda: answer.is_paused)
        length = 0
        async for chunk in response.body:
            assert len(chunk) <= 4 * READ_AHEAD_BYTES
            length += len(chunk)
        await response.aclose()

    assert length == size


async def test_a_caller_who_goes_while_the_answer_is_awaited_frees_the_connection() -> None:
    """H58."""

    async def hangs(visit: Visit) -> None:
        await visit.gone()

    async with connected(hangs) as (connections, there):
        sending = asyncio.ensure_future(
            connections.send("POST", b"/x", CODED, pieces(b"a", b"b", until=asyncio.Event()))
        )
        await eventually(lambda: there.heads)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await eventually(lambda: there.open == 0)


async def test_an_answer_that_is_not_read_to_its_end_frees_the_connection() -> None:
    """H60."""
    async with connected(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")) as (connections, there):
        response = await connections.send("GET", b"/x", [HOST], None)
        await response.aclose()
        await eventually(lambda: there.open == 0)


async def test_an_answer_that_breaks_off_is_never_complete() -> None:
    """H56."""

    async def cut(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
        visit.writer.close()

    async with connected(cut) as (connections, _):
        response = await connections.send("GET", b"/x", [HOST], None)
        assert await anext(response.body) == b"hello"
        with pytest.raises(UpstreamInvalid, match="in the middle of its answer"):
            await anext(response.body)
        await response.aclose()
