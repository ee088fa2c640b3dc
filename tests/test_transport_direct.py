"""The direct way to an upstream, over real sockets: connections kept, dropped, opened in time, and never mixed up."""

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from proxy.identities import Network
from proxy.transport.dialling import Dialler, first_reached
from proxy.transport.direct import DirectWay
from proxy.transport.http1 import Connection
from proxy.transport.seam import CHUNKED, Trouble, request_head
from proxy.upstreams import Upstream
from tests.heard import Heard
from tests.journeys.authority import Authority
from tests.journeys.house import OK, Script, Visit, answering, breaking_off, ok, raw_upstream
from tests.poll import eventually

pytestmark = pytest.mark.usefixtures("no_leaks")

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


async def over(sink: Heard, seconds: float = 10) -> Heard:
    await asyncio.wait_for(sink.is_over.wait(), seconds)
    return sink


async def asked(way: DirectWay, head: bytes = GET) -> Heard:
    """Send a request without a body and return what was heard."""
    sink = Heard()
    way.start(head, 0, sink)
    return await over(sink)


@asynccontextmanager
async def leading(script: Script, *, settings: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Any]:
    """Yield a way to an upstream that plays `script`, and that upstream."""
    tls = options.pop("tls", None)
    async with raw_upstream(script, tls=tls) as there:
        way = DirectWay(there.upstream(**(settings or {})), **options)
        try:
            yield way, there
        finally:
            await way.close()


# connections that are kept -------------------------------------------------------------------------------------------


async def test_calls_in_a_row_share_one_connection() -> None:
    async with leading(ok) as (way, there):
        for _ in range(5):
            assert (await asked(way)).said == [200, b"hello", "end"]

    assert there.connections == 1
    assert there.heads == [GET] * 5


async def test_calls_at_once_have_one_connection_each_and_the_last_one_used_comes_first() -> None:
    """Last in, first out."""
    served: list[int] = []

    async def script(visit: Visit) -> None:
        served.append(visit.writer.get_extra_info("peername")[1])
        if len(there.heads) <= 3:
            await all_there.wait()
        await visit.send(OK)

    all_there = asyncio.Event()
    async with leading(script) as (way, there):
        sinks = [Heard() for _ in range(3)]
        for sink in sinks:
            way.start(GET, 0, sink)
        await eventually(lambda: len(there.heads) == 3)
        all_there.set()
        for sink in sinks:
            assert (await over(sink)).status == 200
        for _ in range(4):
            await asked(way)

    assert len(set(served[:3])) == 3
    assert len(set(served[3:])) == 1


async def test_what_was_idle_for_too_long_is_closed_without_a_word() -> None:
    async with leading(ok, idle_seconds=0.0) as (way, there):
        await asked(way)
        await eventually(lambda: there.open == 0, what="the sweep")
        assert (await asked(way)).status == 200

    assert there.connections == 2


async def test_no_more_than_so_many_are_kept() -> None:
    async with leading(ok, max_idle=2) as (way, there):
        sinks = [Heard() for _ in range(6)]
        for sink in sinks:
            way.start(GET, 0, sink)
        for sink in sinks:
            await over(sink)
        await eventually(lambda: there.open == 2)


async def test_a_crowd_finds_its_connections_again_and_what_is_kept_has_the_bounds_of_what_may_be_in_use() -> None:
    """Who keeps fewer pays for a handshake with every other request of a crowd."""
    async with leading(ok, settings={"max_requests": 90}) as (way, there):

        def are_open(count: int) -> bool:
            return bool(there.open == count)

        for crowd, kept in ((80, 80), (80, 80), (100, 90)):
            sinks = [Heard() for _ in range(crowd)]
            for sink in sinks:
                way.start(GET, 0, sink)
            for sink in sinks:
                assert (await over(sink)).status == 200
            await eventually(partial(are_open, kept))

    assert there.connections == 100


async def test_idle_connections_can_be_dropped_and_the_next_call_opens_one() -> None:
    """After a suspend."""
    async with leading(ok) as (way, there):
        await asked(way)
        way.drop_idle()
        assert (await asked(way)).status == 200
        await eventually(lambda: there.open == 1)

    assert there.connections == 2


async def test_a_connection_that_the_upstream_closed_is_not_used_again() -> None:
    async with leading(breaking_off(OK)) as (way, there):
        for number in range(3):
            assert (await asked(way)).said == [200, b"hello", "end"]
            await eventually(lambda wanted=number + 1: there.open == 0 and there.connections == wanted)  # type: ignore[misc]
            await eventually(lambda: not way._idle)


async def test_a_connection_that_is_about_to_end_is_not_used_again() -> None:
    async with leading(ok) as (way, there):
        await asked(way)
        way._idle[-1].abort()
        assert (await asked(way)).said == [200, b"hello", "end"]

    assert there.connections == 2


async def test_one_stale_connection_takes_its_elders_with_it() -> None:
    """H63: the second try must not meet the next dead one."""

    async def script(visit: Visit) -> None:
        if len(there.heads) <= 3:
            if len(there.heads) == 3:
                all_there.set()
            await all_there.wait()
            await visit.send(OK)
        elif len(there.heads) == 4:
            visit.writer.close()
        else:
            await visit.send(OK)

    all_there = asyncio.Event()
    async with leading(script) as (way, there):
        sinks = [Heard() for _ in range(3)]
        for sink in sinks:
            way.start(GET, 0, sink)
        for sink in sinks:
            await over(sink)
        assert (await asked(way)).said == [Trouble.STALE]
        assert (await asked(way)).said == [200, b"hello", "end"]

    assert there.connections == 4


async def test_requests_carry_no_timers() -> None:
    loop = asyncio.get_running_loop()
    async with leading(ok) as (way, _):
        await asked(way)
        before = _timers(loop)
        for _ in range(50):
            sink = Heard()
            way.start(GET, 0, sink)
            assert _timers(loop) == before
            await sink.is_over.wait()


def _timers(loop: asyncio.AbstractEventLoop) -> int:
    scheduled: list[Any] = getattr(loop, "_scheduled", [])  # asyncio's own loop has no word for it
    return len(scheduled)


# opening one ---------------------------------------------------------------------------------------------------------


async def test_what_is_written_before_there_is_a_connection_arrives_whole() -> None:
    body = b"x" * 300_000
    async with leading(ok) as (way, there):
        sink = Heard()
        head, length = request_head(b"POST", b"/x", [(b"Host", b"h"), (b"Transfer-Encoding", b"chunked")])
        call = way.start(head, length, sink, b"first,")
        assert length == CHUNKED
        call.write(body)
        assert sink.said == ["pause"]
        call.end()
        await over(sink)

    assert there.bodies == [b"first," + body]
    assert (sink.status, sink.body) == (200, b"hello")


async def test_a_refused_connection_is_told_with_its_reason(unused_port: int) -> None:
    way = DirectWay(Upstream("data", "http", "127.0.0.1", unused_port))
    sink = await asked(way)
    await way.close()

    assert sink.said == [Trouble.UNREACHABLE]
    assert isinstance(sink.error, ConnectionRefusedError)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 80 + ".example.org"])
async def test_a_name_that_leads_nowhere_is_told_with_its_reason(host: str) -> None:
    way = DirectWay(Upstream("data", "http", host, 80))
    sink = await asked(way)
    await way.close()

    assert sink.said == [Trouble.UNREACHABLE]
    assert isinstance(sink.error, (socket.gaierror, UnicodeError))


async def test_a_handshake_that_takes_too_long_is_told_as_that() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    way = DirectWay(Upstream("data", "https", "127.0.0.1", port, connect_timeout=0.2))
    async with server:
        sink = await asked(way)
        await way.close()

    assert sink.said == [Trouble.NOT_IN_TIME]


async def test_abort_while_the_connection_is_opened_leaves_nothing() -> None:
    """A20: within a TLS handshake."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read(1 << 16)
        await reader.read()
        gone.set()
        writer.close()

    arrived, gone = asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    way = DirectWay(Upstream("data", "https", "127.0.0.1", server.sockets[0].getsockname()[1]))
    sink = Heard()
    async with server:
        call = way.start(GET, 0, sink)
        await asyncio.wait_for(arrived.wait(), 5)
        call.abort()
        await asyncio.wait_for(gone.wait(), 5)
        await way.close()

    assert sink.said == []


async def test_a_thousand_calls_that_are_dropped_at_any_stage_leave_a_way_that_works() -> None:
    """A20: cancellation never poisons what is kept."""
    async with leading(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)) as (
        way,
        there,
    ):
        for number in range(1000):
            call = way.start(GET, 0, Heard())
            for _ in range(number % 7):
                await _turn()
            call.abort()
        assert len((await asked(way)).body) == 100_000
        await eventually(lambda: there.open <= 1)


async def _turn() -> None:
    turned: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turned.set_result, None)
    await turned


async def test_close_ends_every_call() -> None:
    async def hangs(visit: Visit) -> None:
        await visit.gone()

    async with leading(hangs) as (way, there):
        waiting, dialling = Heard(), Heard()
        way.start(GET, 0, waiting)
        await eventually(lambda: there.heads)
        way.start(GET, 0, dialling)
        await way.close()

        assert waiting.said == dialling.said == [Trouble.CLOSED]
        await eventually(lambda: there.open == 0)


# TLS -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=["the loop's", "aiofastnet's"])
def tls(request: pytest.FixtureRequest) -> None:
    """Do the same with either TLS."""
    if request.param == "aiofastnet's":
        request.getfixturevalue("fast_tls")


@pytest.mark.usefixtures("tls")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_tls_names_and_verifies_the_host(authority: Authority, host: str) -> None:
    names: list[str | None] = []
    context = authority.context(host)
    context.sni_callback = lambda _, name, __: names.append(name)
    trusting = Network(ca_file=str(authority.ca_file))
    async with raw_upstream(ok, tls=context) as there:
        there.host = host
        way = DirectWay(there.upstream(network=trusting))
        assert (await asked(way)).status == 200
        assert (await asked(way)).status == 200
        await way.close()
        await eventually(lambda: there.open == 0)

    assert there.connections == 1
    assert names == [None if host == "127.0.0.1" else host]  # an address is no name (RFC 6066 3)


@pytest.mark.usefixtures("tls")
async def test_the_text_of_a_verified_certificate_is_let_go(authority: Authority) -> None:
    """It is more than a KiB of each connection."""
    kept: list[object] = []

    class Seen(Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            kept.append(transport.get_extra_info("peercert"))

    async with raw_upstream(ok, tls=authority.context()) as there:
        upstream = there.upstream(network=Network(ca_file=str(authority.ca_file)))
        way = DirectWay(upstream)
        connection = await Dialler(upstream).open(lambda: Seen(way))
        connection.abort()
        await eventually(lambda: there.open == 0)
        await way.close()

    assert kept == [{}]


@pytest.mark.usefixtures("tls")
@pytest.mark.parametrize(("host", "is_trusted"), [("other.example.org", True), ("127.0.0.1", False)])
async def test_a_certificate_that_proves_nothing_ends_the_call_before_the_request(
    authority: Authority, host: str, is_trusted: bool
) -> None:
    network = Network(ca_file=str(authority.ca_file)) if is_trusted else Network()
    async with leading(ok, tls=authority.context(host), settings={"network": network}) as (way, there):
        sink = await asked(way)

    assert sink.said == [Trouble.UNREACHABLE]
    assert there.heads == []


@pytest.mark.usefixtures("tls")
async def test_a_cut_body_over_tls_is_told(authority: Authority) -> None:
    """H56."""
    cut = breaking_off(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
    settings = {"network": Network(ca_file=str(authority.ca_file))}
    async with leading(cut, tls=authority.context(), settings=settings) as (way, _):
        assert (await asked(way)).said == [200, b"hello", Trouble.CUT]


@pytest.mark.usefixtures("tls")
@pytest.mark.parametrize("is_announced", [True, False], ids=["close_notify", "FIN alone"])
async def test_h56_a_body_that_ends_with_its_connection_is_whole_only_if_tls_says_so(
    authority: Authority, is_announced: bool
) -> None:
    """RFC 9112 9.8, A21: anybody on the line can send a FIN in the middle of it."""

    def serve(listener: socket.socket, context: ssl.SSLContext) -> None:
        with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nServer: old\r\n\r\nhello")
            if is_announced:
                connection.unwrap().close()

    network = Network(ca_file=str(authority.ca_file))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(serve, listener, authority.context()))  # noqa: TID251 - awaited
        way = DirectWay(Upstream("data", "https", "127.0.0.1", listener.getsockname()[1], network=network))
        sink = await asked(way)
        await serving
        await way.close()

    assert sink.said == [200, b"hello", "end" if is_announced else Trouble.CUT]


@pytest.mark.usefixtures("tls")
async def test_large_bodies_pass_over_tls_both_ways(authority: Authority) -> None:
    """Back-pressure: the sink is paused, the upstream is paused, all arrives."""
    whole = bytes(range(256)) * 40_000

    async def echo(visit: Visit) -> None:
        body = await visit.body()
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    settings = {"network": Network(ca_file=str(authority.ca_file))}
    async with leading(echo, tls=authority.context(), settings=settings) as (way, _):
        sink = Heard()
        head, length = request_head(b"POST", b"/x", [(b"Content-Length", b"%d" % len(whole))])
        call = way.start(head, length, sink)
        sink.on["data"] = lambda: _pause_for_a_turn(call)
        for start in range(0, len(whole), 100_000):
            call.write(whole[start : start + 100_000])
            await eventually(lambda: sink.said.count("pause") <= sink.said.count("resume"), every=0.001)
        await over(sink)

    assert (sink.status, sink.body) == (200, whole)
    assert "pause" in sink.said


def _pause_for_a_turn(call: Any) -> None:
    call.pause()
    asyncio.get_running_loop().call_soon(call.resume)


# happy eyeballs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def deaf() -> Any:
    """Yield an address that takes no connection: a listener whose queue is full."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for one in fillers:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        yield socket.AF_INET, full.getsockname()
        for one in fillers:
            one.close()


def refused(port: int) -> tuple[socket.AddressFamily, Any]:
    return socket.AF_INET, ("127.0.0.1", port)


async def test_an_address_that_is_slow_does_not_hold_up_the_next(deaf: Any) -> None:
    """RFC 8305 5."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connected = await asyncio.wait_for(
            first_reached([deaf, (socket.AF_INET, listening.getsockname())], head_start_seconds=0.05), 5
        )
        assert connected.getpeername() == listening.getsockname()
        connected.close()


async def test_an_address_that_refuses_hands_over_at_once(unused_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        addresses = [refused(unused_port), (socket.AF_INET, listening.getsockname())]
        connected = await asyncio.wait_for(first_reached(addresses, head_start_seconds=60), 5)
        connected.close()


async def test_if_no_address_can_be_reached_the_last_failure_is_told(unused_port: int) -> None:
    impossible = socket.AF_INET, ("255.255.255.255", 80)  # fails at once: a broadcast is nobody to connect to
    with pytest.raises(ConnectionRefusedError):
        await first_reached([impossible, refused(unused_port)])


async def test_of_two_addresses_reached_at_once_one_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    both_there = asyncio.Event()
    made: list[socket.socket] = []

    async def reached(*_: object) -> socket.socket:
        made.append(socket.socket())
        if len(made) == 2:
            both_there.set()
        await both_there.wait()
        return made.pop()

    monkeypatch.setattr("proxy.transport.dialling._reached", reached)
    connected = await first_reached([refused(1), refused(2)], head_start_seconds=0)

    assert connected.fileno() >= 0
    connected.close()
    assert made == []  # the other one, too, was handed over; what is left open fails this test's end


async def test_a_socket_that_becomes_no_connection_is_closed() -> None:
    given: list[socket.socket] = []

    async def failing(*_: object, sock: socket.socket) -> None:
        given.append(sock)
        raise OSError

    with socket.create_server(("127.0.0.1", 0)) as listening:
        dialler = Dialler(Upstream("data", "http", "127.0.0.1", listening.getsockname()[1]))
        dialler._create = failing
        with pytest.raises(OSError):
            await dialler.open(asyncio.Protocol)

    assert given[0].fileno() == -1


async def test_whoever_gives_up_leaves_no_attempt_behind(deaf: Any) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await first_reached([deaf, deaf], head_start_seconds=0.01)


# the faster TLS ------------------------------------------------------------------------------------------------------


def test_aiofastnet_is_used_only_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra `fast`."""

    class Module:
        OPENSSL_DYN_LIBS: Any = None
        create_connection: Any = "its own"

    monkeypatch.setitem(sys.modules, "aiofastnet", Module)
    there = Upstream("data", "http", "127.0.0.1", 80)
    assert Dialler(there)._create is None
    monkeypatch.setattr(Module, "OPENSSL_DYN_LIBS", object())
    assert Dialler(there)._create is Module.create_connection
    monkeypatch.setitem(sys.modules, "aiofastnet", None)
    assert Dialler(there)._create is None


async def test_aiofastnet_is_not_used_on_a_loop_that_would_lose_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller would wait for an upstream that is gone: uvloop may drop a descriptor with an error and tell nobody."""
    loops: list[str] = []

    class Module:
        OPENSSL_DYN_LIBS = object()

        @staticmethod
        async def create_connection(loop: asyncio.AbstractEventLoop, *arguments: Any, **options: Any) -> Any:
            loops.append(type(loop).__module__)
            return await loop.create_connection(*arguments, **options)

    monkeypatch.setitem(sys.modules, "aiofastnet", Module)
    for module in (type(asyncio.get_running_loop()).__module__, "uvloop.loop"):
        monkeypatch.setattr(type(asyncio.get_running_loop()), "__module__", module)
        async with raw_upstream(ok) as there:
            way = DirectWay(there.upstream())
            assert (await asked(way)).status == 200
            await way.close()

    assert len(loops) == 1
    assert not loops[0].startswith("uvloop")
