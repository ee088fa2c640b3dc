"""httpx2 behind the seam: the same words for what comes and what goes wrong."""

import asyncio
from typing import Any

import httpx2
import pytest

from proxy.identities import Network
from proxy.transport.connections import way_to
from proxy.transport.direct import DirectWay
from proxy.transport.seam import Trouble, WrongLengthError, request_head
from proxy.transport.through_httpx2 import HELD_BYTES, Httpx2Way, trouble_of
from proxy.upstreams import Upstream
from tests.heard import Heard
from tests.journeys.house import OK, Visit, answering, breaking_off, ok, raw_upstream
from tests.poll import eventually

pytestmark = pytest.mark.usefixtures("no_leaks")

GET = b"GET /a%2Fb?x={y} HTTP/1.1\r\nHost: h\r\nX-Odd: \xe9\r\n\r\n"
THERE = Upstream("data", "http", "127.0.0.1", 80)


async def over(sink: Heard) -> Heard:
    await asyncio.wait_for(sink.is_over.wait(), 10)
    return sink


def test_the_way_is_direct_unless_something_asks_for_more() -> None:
    proxied = Upstream("data", "http", "api.example.org", 80, network=Network(proxy="http://127.0.0.1:9"))

    assert isinstance(way_to(THERE), DirectWay)
    assert isinstance(way_to(proxied), Httpx2Way)
    assert isinstance(way_to(THERE, httpx2.MockTransport(lambda _: httpx2.Response(200))), Httpx2Way)


async def test_a_request_goes_out_to_the_byte_and_its_answer_comes_back() -> None:
    async with raw_upstream(ok) as there:
        way = Httpx2Way(there.upstream())
        sink = Heard()
        way.start(GET, 0, sink)
        await over(sink)
        await way.close()

    assert there.heads == [GET]
    assert (sink.status, sink.body, sink.said[-1]) == (200, b"hello", "end")
    assert sink.fields[0] == (b"Content-Type", b"text/csv")


@pytest.mark.parametrize("framing", [(b"Content-Length", b"200000"), (b"Transfer-Encoding", b"chunked")])
async def test_a_body_is_held_within_bounds_and_arrives_whole(framing: tuple[bytes, bytes]) -> None:
    async with raw_upstream(ok) as there:
        way = Httpx2Way(there.upstream())
        sink = Heard()
        head, length = request_head(b"POST", b"/x", [(b"Host", b"h"), framing])
        call = way.start(head, length, sink, b"x" * HELD_BYTES)
        assert sink.said == ["pause"]
        await eventually(lambda: "resume" in sink.said)
        call.write(b"x" * (200_000 - HELD_BYTES))
        call.end()
        await over(sink)
        await way.close()

    assert there.bodies == [b"x" * 200_000]
    assert sink.status == 200


async def test_an_answer_to_a_body_that_nobody_took_frees_who_waits_to_write() -> None:
    class Hasty(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, content=b"hello")

    way = Httpx2Way(THERE, Hasty())
    sink = Heard()
    head, length = request_head(b"PUT", b"/x", [(b"Host", b"h"), (b"Content-Length", b"200000")])
    way.start(head, length, sink, b"x" * HELD_BYTES)
    await over(sink)
    await way.close()

    assert sink.said == ["pause", 200, b"hello", "resume", "end"]


@pytest.mark.parametrize("body", [b"too long", b"s"])
async def test_a_body_of_another_length_never_completes_the_request(body: bytes) -> None:
    """H45, H46."""
    async with raw_upstream(ok) as there:
        way = Httpx2Way(there.upstream())
        head, length = request_head(b"POST", b"/x", [(b"Host", b"h"), (b"Content-Length", b"5")])
        call = way.start(head, length, Heard())
        with pytest.raises(WrongLengthError):
            sent(call, body)
        await eventually(lambda: there.open == 0)
        await way.close()

    assert there.bodies == []


def sent(call: Any, body: bytes) -> None:
    call.write(body)
    call.end()


async def test_abort_frees_the_connection_and_nothing_is_heard() -> None:
    async def hangs(visit: Visit) -> None:
        await visit.gone()

    async with raw_upstream(hangs) as there:
        way = Httpx2Way(there.upstream())
        sink = Heard()
        call = way.start(GET, 0, sink)
        await eventually(lambda: there.heads)
        call.abort()
        await eventually(lambda: there.open == 0)
        await way.close()

    assert sink.said == []


async def test_pause_lets_the_upstream_wait() -> None:
    sent_out = 0

    async def pours(visit: Visit) -> None:
        nonlocal sent_out
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(1000):
            await visit.send(b"x" * 100_000)
            sent_out += 100_000

    async with raw_upstream(pours) as there:
        way = Httpx2Way(there.upstream())
        sink = Heard()
        call = way.start(GET, 0, sink)
        sink.on["head"] = call.pause
        await eventually(lambda: sink.status == 200)
        heard = len(sink.body)
        call.resume()
        await eventually(lambda: len(sink.body) > heard)
        call.abort()
        await way.close()

    assert heard == 0
    assert sent_out < 100_000_000


async def test_what_stands_behind_an_answer_never_answers_the_next_request() -> None:
    """A24: httpx2 would take it for one."""
    async with raw_upstream(answering(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbogus!")) as there:
        way = Httpx2Way(there.upstream())
        for _ in range(3):
            sink = Heard()
            way.start(GET, 0, sink)
            assert (await over(sink)).body == b"hello"
        await way.close()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", [Trouble.STALE]),
        (b"garbage\r\n\r\n", [Trouble.INVALID]),
        (b"HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n", [Trouble.INVALID]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", [200, b"hello", Trouble.INVALID]),
    ],
)
async def test_what_goes_wrong_has_the_words_of_the_seam(raw: bytes, said: list[Any]) -> None:
    async with raw_upstream(breaking_off(raw)) as there:
        way = Httpx2Way(there.upstream())
        sink = Heard()
        way.start(GET, 0, sink)
        await over(sink)
        await way.close()

    assert sink.said == said


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (httpx2.ConnectTimeout("x"), Trouble.NOT_IN_TIME),
        (httpx2.PoolTimeout("x"), Trouble.NOT_IN_TIME),
        (httpx2.ProxyError("x"), Trouble.PROXY_REFUSED),
        (httpx2.ConnectError("x"), Trouble.UNREACHABLE),
        (httpx2.WriteTimeout("x"), Trouble.NOT_TAKEN),
        (httpx2.ReadError("x"), Trouble.STALE),
        (httpx2.RemoteProtocolError("x"), Trouble.INVALID),
    ],
)
def test_every_error_of_the_library_has_a_word(error: Exception, trouble: Trouble) -> None:
    assert trouble_of(error) is trouble


async def test_close_ends_every_call() -> None:
    async def hangs(visit: Visit) -> None:
        await visit.gone()

    async with raw_upstream(hangs) as there:
        way = Httpx2Way(there.upstream())
        sink = Heard()
        way.start(GET, 0, sink)
        await eventually(lambda: there.heads)
        await way.close()
        await over(sink)

    assert sink.said == [Trouble.CLOSED]
