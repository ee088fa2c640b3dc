"""Upstreams that are down, slow, wrong or hostile, and tokens that are refused (http-law 6 and 7, token-life 5)."""

import asyncio
import datetime as dt
import gzip
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import SignInRequired
from proxy.events import Event, Failed, Refused, Relayed
from proxy.identities import Network
from proxy.tokens import TokenSet
from proxy.upstreams import Upstream
from tests.ends import LISTENERS_OWN
from tests.journeys.authority import Authority
from tests.journeys.house import (
    CANARY,
    Answer,
    FixedSource,
    RawUpstream,
    Visit,
    answering,
    breaking_off,
    calling,
    ok,
    parsed,
    raw_upstream,
    running,
    token_set,
)
from tests.poll import eventually

pytestmark = pytest.mark.usefixtures("client_end")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def explained(got: Answer, status: int, kind: str, *words: str) -> str:
    """Check that `got` is a failure of our own and return its sentence, which holds no internals."""
    assert got.status == status
    assert got["content-type"] == b"application/problem+json"
    assert (got["proxy-status"] or b"").startswith(b"bearerproxy; error=")
    said = json.loads(got.body)
    assert said["type"] == f"/-/errors/{kind}"
    detail: str = said["detail"]
    for word in words:
        assert word in detail
    for internal in (CANARY, "httpx", "httpcore", "Errno", "Traceback", "_ssl.c", "Error("):
        assert internal not in got.body.decode()
    return detail


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority"))


# unreachable ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_refused_connection_is_explained(host: str, unused_port: int) -> None:
    """A22, S36."""
    async with running([Upstream("data", "http", host, unused_port, mount="/data")]) as proxy:
        got = await proxy.ask("/data/x", method="POST", body=b"x")

    explained(got, 502, "upstream-unreachable", "[upstream.data]", "refuses connections")
    (event,) = proxy.events
    assert isinstance(event, Refused)


async def test_a_name_that_does_not_exist_is_explained() -> None:
    """A22."""
    async with running([Upstream("data", "http", "no-such-host.invalid", 80, mount="/data")]) as proxy:
        got = await proxy.ask("/data/x")

    explained(got, 502, "upstream-unreachable", "cannot be resolved")


async def test_a_connection_that_is_not_taken_in_time_is_explained() -> None:
    """A22."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [await _connecting(port) for _ in range(4)]  # fill the backlog: the next one hangs
        async with running([Upstream("data", "http", "127.0.0.1", port, mount="/data", connect_timeout=0.3)]) as proxy:
            got = await proxy.ask("/data/x")
        for one in waiting:
            one.close()

    explained(got, 502, "upstream-unreachable", "does not accept connections in time")


async def _connecting(port: int) -> socket.socket:
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", port))
    return one


async def test_a_private_authority_is_trusted_by_its_ca_file(authority: Authority) -> None:
    trusting = Network(ca_file=str(authority.ca_file))
    async with raw_upstream(ok, tls=authority.context()) as there, running([there.upstream(network=trusting)]) as proxy:
        got = await proxy.ask("/data/x")

    assert (got.status, got.body) == (200, b"hello")


async def test_a_certificate_of_an_unknown_authority_is_explained(authority: Authority) -> None:
    """A22, S28."""
    async with raw_upstream(ok, tls=authority.context()) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x")

    explained(got, 502, "upstream-unreachable", "certificate", "ca_file")
    assert there.heads == []


@pytest.mark.parametrize(
    ("host", "until", "word"),
    [
        ("127.0.0.1", dt.datetime(2021, 1, 1, tzinfo=dt.UTC), "expired"),
        ("other.example.org", dt.datetime(2120, 1, 1, tzinfo=dt.UTC), "mismatch"),
    ],
)
async def test_an_expired_or_misnamed_certificate_is_explained(
    authority: Authority, host: str, until: dt.datetime, word: str
) -> None:
    """A22, S28."""
    trusting = Network(ca_file=str(authority.ca_file))
    context = authority.context(host, until=until)
    async with raw_upstream(ok, tls=context) as there, running([there.upstream(network=trusting)]) as proxy:
        got = await proxy.ask("/data/x", method="POST", body=b"x")

    explained(got, 502, "upstream-unreachable", "certificate", word)
    assert there.heads == []


async def test_tls_towards_a_plain_port_is_explained() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    wrong = Upstream("data", "https", "127.0.0.1", server.sockets[0].getsockname()[1], mount="/data")
    async with server, running([wrong]) as proxy:
        got = await proxy.ask("/data/x")

    explained(got, 502, "upstream-unreachable", "does not speak TLS")


@pytest.mark.parametrize("is_strict", [True, False])
async def test_tls_strict_off_accepts_an_authority_without_key_usage(tmp_path: Path, *, is_strict: bool) -> None:
    lax = Authority.create(tmp_path, is_lax=True)
    network = Network(ca_file=str(lax.ca_file), tls_strict=is_strict)
    async with raw_upstream(ok, tls=lax.context()) as there, running([there.upstream(network=network)]) as proxy:
        got = await proxy.ask("/data/x")

    is_strict_by_default = sys.version_info >= (3, 13)
    assert got.status == (502 if is_strict and is_strict_by_default else 200)


async def test_a_caller_who_leaves_during_the_tls_handshake_leaves_nothing() -> None:
    """H58, A20."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        while await reader.read(1 << 16):
            pass
        gone.set()
        writer.close()

    arrived, gone = asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, running([Upstream("data", "https", "127.0.0.1", port, mount="/data")]) as proxy:
        async with calling(proxy.port) as caller:
            await caller.send(b"GET /data/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await arrived.wait()
        await asyncio.wait_for(gone.wait(), 1)


async def test_certificates_of_the_environment_are_ignored(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S28, A32."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    async with raw_upstream(ok, tls=authority.context()) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x")

    explained(got, 502, "upstream-unreachable", "certificate")


async def test_outbound_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """S28, A32."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        assert (await proxy.ask("/data/x")).status == 200


async def test_a_configured_outbound_proxy_is_used_and_named_where_it_fails() -> None:
    refusing = breaking_off(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    async with raw_upstream(refusing) as office:
        network = Network(proxy=f"http://127.0.0.1:{office.port}")
        there = Upstream("data", "https", "api.example.org", 443, mount="/data", identity="me", network=network)
        async with running([there]) as proxy:
            got = await proxy.ask("/data/x")

    explained(got, 502, "upstream-unreachable", "outbound proxy")
    assert office.heads[0].startswith(b"CONNECT api.example.org:443 HTTP/1.1\r\n")
    assert CANARY.encode() not in office.heads[0]


# slow ----------------------------------------------------------------------------------------------------------------


async def _hangs(visit: Visit) -> None:
    await visit.body()
    await visit.gone()


async def _drips_its_head(visit: Visit) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000:
        await visit.send(bytes([byte]))
        done, _ = await asyncio.wait([reading := asyncio.ensure_future(visit.reader.read(1))], timeout=0.05)
        reading.cancel()
        if done:
            return


@pytest.mark.parametrize("script", [_hangs, _drips_its_head])
@pytest.mark.parametrize("body", [b"", b"hello"])
async def test_an_upstream_that_sends_no_whole_head_in_time_is_a_504(script: object, body: bytes) -> None:
    """H62, A23."""
    async with raw_upstream(script) as there:  # type: ignore[arg-type]  # a script
        slow = there.upstream(first_byte_timeout=0.4)
        async with running([slow]) as proxy:
            got = await proxy.ask("/data/x", method="POST" if body else "GET", body=body)
            await eventually(lambda: not there.open, 1)

    explained(got, 504, "upstream-timeout", "within 0.4 seconds")
    assert len(there.heads) == 1


async def test_the_time_to_answer_starts_behind_the_upload() -> None:
    time = asyncio.get_running_loop().time
    async with (
        raw_upstream(ok) as there,
        running([there.upstream(first_byte_timeout=0.3)]) as proxy,
        calling(proxy.port) as caller,
    ):
        await caller.send(b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\na")
        started = time()
        await eventually(lambda: time() > started + 0.6)
        await caller.send(b"b")
        assert b"200 OK" in await caller.head()


@LISTENERS_OWN  # uvicorn reads an upload to its end, though it is answered
async def test_an_upstream_that_takes_no_body_is_explained() -> None:
    """H61."""

    async def reads_nothing(visit: Visit) -> None:
        visit.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport reads too
        await asyncio.Event().wait()

    async with (
        raw_upstream(reads_nothing) as there,
        running([there.upstream(idle_timeout=0.4)]) as proxy,
        calling(proxy.port) as caller,
    ):
        await caller.send(b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
        sending = asyncio.ensure_future(_without_end(caller.writer))
        answer = parsed(await caller.rest())
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    explained(answer, 504, "upstream-timeout", "stopped taking the request")


# invalid -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"garbage\r\n\r\n", id="garbage"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n", id="nul"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n", id="control"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n", id="space-before-colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", id="two-lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", id="negative-length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n", id="no-number"),
        pytest.param(b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n", id="099"),
        pytest.param(b"HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n", id="600"),
        pytest.param(b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", id="999"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", id="101"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 40_000 + b"\r\n", id="200-KB-of-fields"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000 + b"\r\n\r\n", id="one-endless-field"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="coding"),
    ],
)
async def test_an_answer_that_is_not_http_is_a_502(raw: bytes) -> None:
    """H50, H51, H64, S25, A24."""
    async with raw_upstream(answering(raw)) as there, running([there.upstream(first_byte_timeout=2)]) as proxy:
        got = await proxy.ask("/data/x")
        await eventually(lambda: not there.open, 1)

    explained(got, 502, "upstream-invalid", "[upstream.data]")


async def test_length_and_coding_at_once_are_a_502_or_the_clean_answer() -> None:
    """H64, A24."""
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    async with raw_upstream(answering(raw)) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x")

    explained(got, 502, "upstream-invalid", "not valid HTTP")


async def test_a_flood_of_early_hints_ends_in_the_answer() -> None:
    """A24."""
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 5000 + OK
    async with raw_upstream(answering(raw)) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x")

    assert (got.status, got.body, got["link"]) == (200, b"hello", None)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_a_body_that_may_not_be_there_never_answers_the_next_request(method: str) -> None:
    """H49, H64."""
    status = b"200 OK" if method == "HEAD" else b"204 No Content"
    raw = b"HTTP/1.1 %s\r\nContent-Length: 5\r\n\r\nhello" % status
    async with raw_upstream(answering(raw)) as there, running([there.upstream()]) as proxy:
        got = [await proxy.ask("/data/x", method=method) for _ in range(3)]

    assert [one.status for one in got] == [int(status[:3])] * 3


async def test_a_second_answer_behind_the_first_never_answers_the_next_request() -> None:
    """H64, A24."""
    raw = OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbogus!"
    async with raw_upstream(answering(raw)) as there, running([there.upstream()]) as proxy:
        got = [(await proxy.ask("/data/x")).body for _ in range(3)]

    assert got == [b"hello"] * 3


@asynccontextmanager
async def tampered(port: int, *, after: int) -> AsyncIterator[int]:
    """Yield a port that leads to `port` and puts garbage into what comes back behind `after` bytes."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", port)

        async def up() -> None:
            while data := await reader.read(1 << 16):
                onward.write(data)

        rising = asyncio.ensure_future(up())
        left = after
        while left and (data := await onward_reader.read(left)):
            left -= len(data)
            writer.write(data)
        writer.write(b"this is no TLS record" * 5000)
        await asyncio.wait([rising])
        onward.close()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("after", [10, 700, 2500, 40_000])
async def test_a_tampered_tls_connection_is_never_a_defect_of_ours(authority: Authority, after: int) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    network = Network(ca_file=str(authority.ca_file))
    async with (
        raw_upstream(answering(whole), tls=authority.context()) as there,
        tampered(there.port, after=after) as port,
    ):
        to_tampered = Upstream("data", "https", "127.0.0.1", port, mount="/data", network=network)
        async with running([to_tampered]) as proxy:
            got = await proxy.ask("/data/x")

    assert got.status == 502 or not got.is_complete
    assert not any(isinstance(event, Failed) for event in proxy.events)


# stale connections ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def closing_idle_connections() -> AsyncIterator[RawUpstream]:
    """An upstream that ends a kept connection in the moment in which the second request arrives on it."""
    seen: set[int] = set()

    async def script(visit: Visit) -> None:
        if id(visit.writer) in seen:
            visit.writer.close()
            raise ConnectionResetError
        seen.add(id(visit.writer))
        await visit.body()
        await visit.send(OK)

    async with raw_upstream(script) as there:
        yield there


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT"])
async def test_an_idempotent_request_gets_a_second_try_where_a_kept_connection_had_ended(method: str) -> None:
    """H63, A25."""
    async with closing_idle_connections() as there, running([there.upstream()]) as proxy:
        assert (await proxy.ask("/data/1")).status == 200
        assert (await proxy.ask("/data/2", method=method)).status == 200

    assert [head.split(b" ")[1] for head in there.heads] == [b"/1", b"/2", b"/2"]


@pytest.mark.parametrize("body", [b"", b"hello"])
async def test_a_post_is_sent_once(body: bytes) -> None:
    """H63, A22, A25."""
    async with closing_idle_connections() as there, running([there.upstream()]) as proxy:
        assert (await proxy.ask("/data/1")).status == 200
        got = await proxy.ask("/data/2", method="POST", body=body)

    explained(got, 502, "upstream-invalid", "closed the connection before it answered")
    assert len(there.heads) == 2


async def test_the_second_try_is_the_last() -> None:
    """H63."""

    async def script(visit: Visit) -> None:
        if len(there.heads) == 1:
            await visit.send(OK)
        else:
            visit.writer.close()

    async with raw_upstream(script) as there, running([there.upstream()]) as proxy:
        assert (await proxy.ask("/data/1")).status == 200
        got = await proxy.ask("/data/2")

    explained(got, 502, "upstream-invalid", "closed the connection before it answered")
    assert len(there.heads) == 3


async def test_a_new_connection_that_ends_unanswered_is_no_stale_one() -> None:
    """H63."""

    async def script(visit: Visit) -> None:
        visit.writer.close()

    async with raw_upstream(script) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x")

    explained(got, 502, "upstream-invalid", "closed the connection before it answered")
    assert len(there.heads) == 1


# refused tokens ------------------------------------------------------------------------------------------------------

FRESH = token_set("fresh-token")


def asking_for(token: str, refusal: bytes = b'{"detail": "expired"}', fields: bytes = b"") -> object:
    """Return a script that answers 200 to `token` and 401 with `refusal` to any other."""

    async def script(visit: Visit) -> None:
        await visit.body()
        if f"authorization: Bearer {token}\r\n".encode() in visit.head:
            await visit.send(OK)
        else:
            await visit.send(
                b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\n%sContent-Length: %d\r\n\r\n%s"
                % (fields, len(refusal), refusal)
            )

    return script


async def tried(
    script: object, *, newer: TokenSet | None = FRESH, method: str = "GET", body: bytes = b"", **settings: Any
) -> tuple[Answer, RawUpstream, FixedSource, list[Event]]:
    source = FixedSource(newer=newer)
    async with raw_upstream(script) as there:  # type: ignore[arg-type]  # a script
        async with running([there.upstream(**settings)], sources={"me": source}) as proxy:
            got = await proxy.ask("/data/x?y", method=method, body=body)
        await eventually(lambda: not there.open, 1, what="every answer to be let go of")
    return got, there, source, proxy.events


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
@pytest.mark.parametrize("refusal", [b"", b"x" * 1_000_000], ids=["empty", "large"])
async def test_a_401_that_a_newer_token_cures_is_never_seen(method: str, refusal: bytes) -> None:
    got, there, source, events = await tried(asking_for("fresh-token", refusal), method=method)

    assert got.status == 200
    assert (source.rejected, source.blamed_by) == ([CANARY], ["data"])
    assert [there.field(b"authorization", n) for n in (0, 1)] == [
        [f"Bearer {CANARY}".encode()],
        [b"Bearer fresh-token"],
    ]
    assert there.heads[0].split(b"\r\n")[0] == there.heads[1].split(b"\r\n")[0]
    (event,) = events
    assert isinstance(event, Relayed)
    assert event.is_replay


async def test_a_permission_401_to_the_fresh_token_is_the_answer_and_not_the_first_one() -> None:
    async def script(visit: Visit) -> None:
        is_fresh = b"Bearer fresh-token" in visit.head
        said = b'{"detail": "You lack the role."}' if is_fresh else b'{"detail": "Could not validate credentials"}'
        await visit.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))

    got, there, source, _ = await tried(script, token_fault="Could not validate credentials")

    assert (got.status, got.body) == (401, b'{"detail": "You lack the role."}')
    assert len(there.heads) == 2
    assert source.rejected == [CANARY]


async def test_a_401_that_a_newer_token_does_not_cure_is_relayed_with_its_body() -> None:
    got, there, source, events = await tried(asking_for("another-token", b'{"detail": "who are you?"}'))

    assert (got.status, got.body) == (401, b'{"detail": "who are you?"}')
    assert got["www-authenticate"] == b"Bearer"
    assert got["proxy-status"] == b'bearerproxy; received-status=401; details="a fresh token was refused too"'
    assert len(there.heads) == 2
    assert source.rejected == [CANARY]
    (event,) = events
    assert isinstance(event, Relayed)
    assert not event.is_replay


async def test_a_401_without_a_newer_token_is_relayed_and_says_so() -> None:
    got, there, source, _ = await tried(asking_for("another-token"), newer=None)

    assert (got.status, got.body) == (401, b'{"detail": "expired"}')
    assert got["proxy-status"] == b'bearerproxy; received-status=401; details="there is no newer token to try"'
    assert len(there.heads) == 1
    assert source.rejected == [CANARY]


@pytest.mark.parametrize(
    "refusal",
    [b'{"detail": "You lack the role."}', gzip.compress(b'{"detail": "No role."}')],
    ids=["plain", "gzip"],
)
async def test_a_401_about_permission_costs_no_renewal(refusal: bytes) -> None:
    fields = b"Content-Encoding: gzip\r\n" if refusal.startswith(b"\x1f\x8b") else b""
    script = asking_for("fresh-token", refusal, fields)
    got, there, source, _ = await tried(script, token_fault="Could not validate credentials")

    assert (got.status, got.body) == (401, refusal)
    assert got["proxy-status"] is None
    assert source.rejected == []
    assert len(there.heads) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        b'{"detail": "Could not validate credentials"}',
        b'{"error": "invalid_token"}',
        b"not JSON",
        b"[]",
        b"",
        b'{"detail": "' + b"x" * 1_000_000 + b'"}',
        b"[" * 60_000,
    ],
    ids=["named", "no-detail", "text", "list", "empty", "large", "nested-without-end"],
)
async def test_a_401_that_blames_the_token_or_says_nothing_is_cured(refusal: bytes) -> None:
    got, _, source, _ = await tried(asking_for("fresh-token", refusal), token_fault="Could not validate credentials")

    assert got.status == 200
    assert source.rejected == [CANARY]


async def test_a_large_401_that_is_not_cured_is_relayed_whole() -> None:
    refusal = bytes(range(256)) * 1000
    got, *_ = await tried(asking_for("another-token", refusal), token_fault="Could not validate credentials")

    assert (got.status, got.body, got.is_complete) == (401, refusal, True)


async def test_a_401_that_stalls_while_it_is_looked_into_is_a_504() -> None:
    async def stalls(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\n{")
        await visit.gone()

    got, _, source, _ = await tried(stalls, token_fault="x", idle_timeout=0.3)

    explained(got, 504, "upstream-timeout", "in the middle of its answer")
    assert source.rejected == []


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 503])
async def test_no_other_status_costs_a_renewal(status: int) -> None:
    raw = b"HTTP/1.1 %d Odd\r\nRetry-After: 3\r\nContent-Length: 3\r\n\r\nwhy" % status
    got, there, source, _ = await tried(answering(raw))

    assert (got.status, got.body, got["retry-after"]) == (status, b"why", b"3")
    assert source.rejected == []
    assert len(there.heads) == 1


async def test_where_a_replay_fails_the_first_401_is_relayed() -> None:
    async def script(visit: Visit) -> None:
        if b"Bearer fresh-token" in visit.head:
            visit.writer.close()
        else:
            await visit.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 8\r\n\r\nwho are?")

    got, there, _, _ = await tried(script)

    assert (got.status, got.body) == (401, b"who are?")
    assert b"a second try with a newer token found no answer" in (got["proxy-status"] or b"")
    assert len(there.heads) == 3  # the replay, too, may have met a stale connection


async def test_without_a_token_nothing_is_asked() -> None:
    class SignedOut(FixedSource):
        def current(self) -> TokenSet | None:
            return None

        async def token(self) -> TokenSet:
            raise SignInRequired("Nobody is signed in as 'me': run bearerproxy login me.", login="me")

    async with raw_upstream(ok) as there, running([there.upstream()], sources={"me": SignedOut()}) as proxy:
        got = await proxy.ask("/data/x")

    explained(got, 503, "sign-in-required", "bearerproxy login me")
    assert there.connections == 0


async def test_a_defect_of_ours_is_told_without_the_token_that_it_met() -> None:
    odd = FixedSource(held=token_set("canary-\N{SNOWMAN}-token"))
    async with raw_upstream(ok) as there, running([there.upstream()], sources={"me": odd}) as proxy:
        got = await proxy.ask("/data/x")

    assert got.status == 500
    assert [type(event) for event in proxy.events] == [Failed, Refused]
    assert "UnicodeEncodeError in exchange.py line " in repr(proxy.events)
    assert "canary" not in repr(proxy.events) + got.body.decode()


async def test_a_defect_in_the_decision_is_ours_and_not_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: bytes) -> tuple[bytes, bytes]:
        raise ZeroDivisionError("canary")

    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        monkeypatch.setattr("proxy.decision.split_target", broken)
        got = await proxy.ask("/data/x")

    assert got.status == 500
    assert [type(event) for event in proxy.events] == [Failed, Refused]
    assert "canary" not in repr(proxy.events) + got.body.decode()
    assert there.connections == 0


async def test_a_caller_who_leaves_during_the_replay_leaves_nothing() -> None:
    async def script(visit: Visit) -> None:
        if b"Bearer fresh-token" in visit.head:
            await visit.gone()
        else:
            await visit.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 1000000\r\n\r\nx")
            await visit.gone()

    async with (
        raw_upstream(script) as there,
        running([there.upstream()], sources={"me": FixedSource(newer=FRESH)}) as proxy,
    ):
        async with calling(proxy.port) as caller:
            await caller.send(b"GET /data/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await eventually(lambda: len(there.heads) == 2)
        await eventually(lambda: not there.open, 1)


async def test_an_anonymous_upstreams_401_is_its_own_affair() -> None:
    got, there, source, _ = await tried(asking_for("fresh-token"), identity=None)

    assert (got.status, got["proxy-status"]) == (401, None)
    assert there.field(b"authorization") == []
    assert source.uses == 0


# answers that come early ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hangs_up", [False, True])
@LISTENERS_OWN  # the same
async def test_an_early_refusal_by_the_upstream_stops_the_upload(*, hangs_up: bool) -> None:
    """RFC 9112 9.5; what stands in front of a reset may be lost with it, and is a 502 then (9.6)."""

    async def refusing(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        if not hangs_up:
            await visit.gone()
        visit.writer.close()
        raise ConnectionResetError

    async with raw_upstream(refusing) as there, running([there.upstream()]) as proxy, calling(proxy.port) as caller:
        await caller.send(b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
        sending = asyncio.ensure_future(_without_end(caller.writer))
        answer = parsed(await caller.rest())
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert answer.status in ((413, 502) if hangs_up else (413,))
    assert answer["connection"] == b"close"


async def _without_end(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()
