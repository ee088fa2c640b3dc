"""The way of one request: what arrives at the upstream, what comes back, and what never leaves."""

import asyncio
import gzip
import json

import pytest
import requests

from proxy.errors import LoopDetected
from proxy.events import Refused, Relayed
from proxy.guard import Guard
from proxy.upstreams import Upstream
from tests.ends import LISTENERS_OWN
from tests.journeys.house import (
    CANARY,
    FixedSource,
    RawUpstream,
    Running,
    Visit,
    all_parsed,
    answering,
    calling,
    ok,
    parsed,
    raw_upstream,
    running,
    token_set,
)

pytestmark = pytest.mark.usefixtures("client_end")

OURS = f"Bearer {CANARY}".encode()


async def test_a_request_and_its_answer_pass_byte_for_byte() -> None:
    """H28, H34, H43."""
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nX-Odd: caf\xe9\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\n"
        b"Cache-Control: max-age=9\r\nContent-Length: 5\r\n\r\nhello"
    )
    async with raw_upstream(answering(answer)) as there, running([there.upstream()]) as proxy:
        raw = await proxy.exchange(
            b"GET /data/a%%2Fb//c;v=1/AGO+ALB..Q..?x=%%2f&y=a+b;c&z=%%zz| HTTP/1.1\r\nHost: localhost:%d\r\n"
            b"X-Unknown: caf\xe9\r\nAccept: a\r\nAccept: b\r\nConnection: close\r\n\r\n" % proxy.port
        )

    assert there.heads == [
        b"GET /a%%2Fb//c;v=1/AGO+ALB..Q..?x=%%2f&y=a+b;c&z=%%zz| HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n"
        b"x-unknown: caf\xe9\r\naccept: a\r\naccept: b\r\nvia: 1.1 bearerproxy-test\r\n"
        b"authorization: Bearer canary-access-token\r\n\r\n" % there.port
    ]
    assert raw == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\nx-odd: caf\xe9\r\ndate: Tue, 15 Nov 1994 08:12:31 GMT\r\n"
        b"cache-control: max-age=9\r\ncontent-length: 5\r\nx-content-type-options: nosniff\r\n"
        b"connection: close\r\n\r\nhello"
    )


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/data", b"/"),
        pytest.param("/data?", b"/?", marks=LISTENERS_OWN),  # ASGI does not tell of an empty query
        ("/data/", b"/"),
        pytest.param("/data/x?", b"/x?", marks=LISTENERS_OWN),
        ("/data//x", b"//x"),
        ("/data/" + "k" * 32768, b"/" + b"k" * 32768),
        ("http://localhost/data/x", b"/x"),
    ],
)
async def test_targets_upstream(target: str, sent: bytes) -> None:
    """H28, H32, H34, S26, A14."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        assert (await proxy.ask(target)).status == 200

    assert there.heads[0].split(b" ")[1] == sent


async def test_a_kept_connection_serves_many_requests_and_is_reused_upstream() -> None:
    """H66."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy, calling(proxy.port) as caller:
        for _ in range(5):
            await caller.send(b"GET /data/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await caller.reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 ")

    assert len(there.heads) == 5
    assert there.connections == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    """H24."""

    async def telling(visit: Visit) -> None:
        target = visit.head.split(b" ")[1]
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(target), target))

    async with raw_upstream(telling) as there, running([there.upstream()]) as proxy:
        raw = await proxy.exchange(
            b"".join(b"GET /data/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % n for n in range(5))
            + b"GET /data/last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )

    assert [one.body for one in all_parsed(raw)] == [b"/0", b"/1", b"/2", b"/3", b"/4", b"/last"]


async def test_a_trace_goes_on_through_the_proxy() -> None:
    """W3C Trace Context: `traceparent` and `tracestate` are the caller's, and pass unchanged."""
    trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        assert (await proxy.ask("/data/x", trace, "tracestate: vendor=t61rcWkgMzE")).status == 200

    assert there.field(b"traceparent") == [b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]
    assert there.field(b"tracestate") == [b"vendor=t61rcWkgMzE"]


async def test_one_event_tells_what_happened_and_holds_no_secret() -> None:
    """S35."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        await proxy.ask("/data/x?X-Amz-Signature=s3cret", method="POST", body=b"abc")

    (event,) = proxy.events
    assert isinstance(event, Relayed)
    assert (event.upstream, event.method, event.target) == ("data", "POST", "/data/x?X-Amz-Signature=***")
    assert (event.status, event.received, event.sent) == (200, 3, 5)
    assert event.is_complete
    assert CANARY not in repr(event)


# bodies up -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
async def test_a_body_with_a_length_keeps_it(method: str) -> None:
    """H37, H44."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        assert (await proxy.ask("/data/x", method=method, body=b"hello")).status == 200

    assert there.field(b"content-length") == [b"5"]
    assert there.bodies == [b"hello"]


async def test_a_chunked_body_goes_up_chunked_and_its_trailer_stays() -> None:
    """H13, H44, A8."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        raw = await proxy.exchange(
            b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nAuthorization: Bearer evil\r\n\r\n"
        )

    assert parsed(raw).status == 200
    assert there.field(b"transfer-encoding") == [b"chunked"]
    assert there.field(b"authorization") == [OURS]
    assert there.bodies == [b"hello world"]


@pytest.mark.parametrize(
    ("method", "lines", "length"),
    [
        ("GET", ["Content-Length: 0"], []),
        ("GET", ["Transfer-Encoding: chunked"], []),
        ("HEAD", ["Transfer-Encoding: chunked"], []),
        ("POST", [], []),
        ("POST", ["Content-Length: 0"], [b"0"]),
        ("POST", ["Content-Length: 00"], [b"0"]),
    ],
)
async def test_no_body_in_none_out(method: str, lines: list[str], length: list[bytes]) -> None:
    """H23, H44, A18."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        assert (await proxy.ask("/data/x", *lines, method=method)).status == 200

    assert there.field(b"content-length") == length
    assert there.field(b"transfer-encoding") == []


H2C = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAM"]


# uvicorn takes the body behind an Upgrade for another protocol (its setting http = "h11" does not)
@pytest.mark.parametrize("lines", [pytest.param(H2C, marks=LISTENERS_OWN), []])
async def test_javas_default_client_reads_and_writes(lines: list[str]) -> None:
    """Java 17 asks to upgrade to h2c on each plain request and sends its body in a segment of its own (C4).

    P14, A15.
    """
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy, calling(proxy.port) as caller:
        head = ["POST /data/x HTTP/1.1", "Host: localhost", "Content-Length: 43", *lines, "", ""]
        await caller.send("\r\n".join(head).encode())
        await caller.send(b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await caller.reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 ")
        await caller.send(b"GET /data/y HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert parsed(await caller.rest()).status == 200

    assert [head.split(b" ")[1] for head in there.heads] == [b"/x", b"/y"]
    assert there.bodies[0] == b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert there.field(b"upgrade") == there.field(b"connection") == there.field(b"http2-settings") == []


@LISTENERS_OWN  # uvicorn waits for the body that it did not ask for
async def test_an_upload_that_will_be_refused_is_not_asked_for() -> None:
    """H18."""
    async with raw_upstream(ok) as there:
        denying = there.upstream(deny=("/secret",))
        async with running([denying]) as proxy, calling(proxy.port) as caller:
            await caller.send(
                b"POST /data/secret HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n"
                b"Expect: 100-continue\r\n\r\n"
            )
            answer = parsed(await caller.rest())

    assert answer.status == 403
    assert answer["connection"] == b"close"
    assert there.connections == 0


@pytest.mark.parametrize("size", [1, 900_000])
async def test_a_refused_upload_is_readable_for_a_tool_that_sends_before_it_reads(size: int) -> None:
    """H27."""
    async with raw_upstream(ok) as there, running([there.upstream(deny=("/secret",))]) as proxy:
        for _ in range(10):
            url = f"http://localhost:{proxy.port}/data/secret"
            got = await asyncio.to_thread(requests.post, url, data=b"x" * size, timeout=10)
            assert got.status_code == 403
            assert "never relayed" in got.json()["detail"]

    assert there.connections == 0


# bodies down ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd"])
async def test_encoded_bytes_come_down_as_they_are(coding: bytes) -> None:
    """H52, A27."""
    body = gzip.compress(b"a,b\n1,2\n" * 1000, mtime=0)
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s" % (coding, len(body), body)
    async with raw_upstream(answering(answer)) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x")

    assert got.body == body
    assert got["content-encoding"] == coding
    assert there.field(b"accept-encoding") == []


@pytest.mark.parametrize(
    ("status_line", "fields"),
    [
        (b"204 No Content", b""),
        (b"204 No Content", b"Content-Length: 0\r\n"),
        (b"304 Not Modified", b'ETag: "a"\r\n'),
        (b"304 Not Modified", b'ETag: "a"\r\nContent-Length: 99\r\n'),
    ],
)
async def test_an_answer_without_a_body_has_no_length(status_line: bytes, fields: bytes) -> None:
    """H49, A26."""
    raw = b"HTTP/1.1 %s\r\n%s\r\n" % (status_line, fields)
    async with raw_upstream(answering(raw)) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x")

    assert got.status == int(status_line[:3])
    assert got["content-length"] is got["transfer-encoding"] is None
    assert got["etag"] == (b'"a"' if b"ETag" in fields else None)
    assert got.rest == b""


async def test_head_keeps_the_length_of_what_a_get_would_bring() -> None:
    """H48, H49, A26."""
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nLast-Modified: Tue, 15 Nov 1994 08:12:31 GMT\r\n\r\n"
    async with raw_upstream(answering(raw)) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x", method="HEAD")

    assert got["content-length"] == b"1000000"
    assert got["transfer-encoding"] is None
    assert got.rest == b""


async def test_ranges_pass_in_both_directions() -> None:
    """H52, A26."""
    body = b"--a\r\nContent-Range: bytes 0-0/5\r\n\r\nh\r\n--a\r\nContent-Range: bytes 4-4/5\r\n\r\no\r\n--a--\r\n"
    raw = (
        b"HTTP/1.1 206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=a\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    async with raw_upstream(answering(raw)) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x", "Range: bytes=0-0,4-4", 'If-Range: "a"', "X-Range: values=0-9")

    assert (got.status, got.body) == (206, body)
    assert there.field(b"range") == [b"bytes=0-0,4-4"]
    assert there.field(b"if-range") == [b'"a"']
    assert there.field(b"x-range") == [b"values=0-9"]


async def test_a_chunked_answer_stays_chunked_and_its_trailer_stays_away() -> None:
    """H13, H47."""
    raw = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        b"5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\nAuthorization: Bearer x\r\n\r\n"
    )
    async with raw_upstream(answering(raw)) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x")

    assert (got.body, got.is_complete) == (b"hello", True)
    assert got["x-sum"] is got["trailer"] is got["authorization"] is None


async def test_redirects_are_relayed_and_never_followed() -> None:
    """H54, S29, A29."""
    async with raw_upstream(ok) as elsewhere:
        raw = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/x\r\nContent-Length: 0\r\n\r\n" % elsewhere.port
        async with raw_upstream(answering(raw)) as there, running([there.upstream()]) as proxy:
            got = await proxy.ask("/data/x")

    assert (got.status, got["location"]) == (302, b"http://127.0.0.1:%d/x" % elsewhere.port)
    assert elsewhere.connections == 0


async def test_a_redirect_within_the_upstream_leads_back_under_the_name_the_caller_used() -> None:
    """H54, A29."""

    async def elsewhere(visit: Visit) -> None:
        await visit.send(
            b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:%d/api/x/?y\r\nContent-Length: 0\r\n\r\n" % there.port
        )

    async with raw_upstream(elsewhere) as there, running([there.upstream(base_path=b"/api")]) as proxy:
        got = await proxy.ask("/data/x?y", f"Host: 127.0.0.1:{proxy.port}")

    assert got["location"] == b"http://127.0.0.1:%d/data/x/?y" % proxy.port


async def test_one_callers_cookie_is_not_in_the_next_request() -> None:
    """H41, S31, A30."""
    raw = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=s3cret; Path=/\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n"
    async with raw_upstream(answering(raw)) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x", "Cookie: mine=1")
        await proxy.ask("/data/x")

    assert got["set-cookie"] is None
    assert there.field(b"cookie", 0) == there.field(b"cookie", 1) == []


async def test_an_upstreams_page_goes_into_the_sandbox() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n"
    async with raw_upstream(answering(raw)) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x")

    assert got["content-security-policy"] == b"sandbox allow-scripts allow-forms allow-downloads"
    assert got["x-content-type-options"] == b"nosniff"


# what never leaves ---------------------------------------------------------------------------------------------------

CONTROL = ["/", "/-/", "/-/live", "/-/metrics", "/-/login/me"]


async def refused(
    proxy: Running, there: RawUpstream, source: FixedSource, *asked: str, method: str = "GET"
) -> list[int]:
    """Return the statuses with which each kind of path refuses the request lines `asked`; nothing may have happened."""
    statuses = [(await proxy.ask(target, *asked, method=method)).status for target in ["/data/x", *CONTROL]]
    assert there.connections == 0
    assert source.uses == 0
    assert all(isinstance(event, Refused) for event in proxy.events)
    return statuses


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (["Host: evil.com"], 403),
        (["Host: localhost."], 403),
        (["Host: localhost:1"], 403),
        (["Host: localhost", "Host: localhost"], 400),
        (["Host: "], 400),
        (["Host: a/b@c"], 400),
        (["Host: x@localhost"], 400),
        (["Origin: https://evil"], 403),
        (["Origin: null"], 403),
        (["Sec-Fetch-Site: cross-site"], 403),
        (["Sec-Fetch-Site: same-site"], 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_strangers_reach_nothing_on_any_path(asked: list[str], status: int, method: str) -> None:
    """S1-S3, S7, S22, A1, A2."""
    source = FixedSource()
    async with raw_upstream(ok) as there, running([there.upstream()], sources={"me": source}) as proxy:
        assert await refused(proxy, there, source, *asked, method=method) == [status] * 6


async def test_a_preflight_from_a_stranger_gets_no_permission() -> None:
    """S4, S5, A4."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask(
            "/data/x",
            "Origin: https://evil",
            "Access-Control-Request-Method: GET",
            "Access-Control-Request-Private-Network: true",
            method="OPTIONS",
        )

    assert got.status == 403
    assert not [name for name, _ in got.fields if name.startswith(b"access-control-")]
    assert there.connections == 0


async def test_an_allowed_origin_is_served_and_its_preflight_answered_here() -> None:
    """S4, A3."""
    guard = Guard(allowed_origins=frozenset({"https://app.example"}))
    async with raw_upstream(ok) as there, running([there.upstream()], guard=guard) as proxy:
        preflight = await proxy.ask(
            "/data/x", "Origin: https://app.example", "Access-Control-Request-Method: PUT", method="OPTIONS"
        )
        got = await proxy.ask("/data/x", "Origin: https://app.example", "Sec-Fetch-Site: cross-site")

    assert preflight.status == 204
    assert b"PUT" in (preflight["access-control-allow-methods"] or b"")
    assert preflight["access-control-allow-private-network"] is None
    for answer in (preflight, got):
        assert answer["access-control-allow-origin"] == b"https://app.example"
        assert answer["vary"] == b"Origin"
    assert (got.status, got.body) == (200, b"hello")
    assert there.field(b"origin") == []
    assert len(there.heads) == 1


async def test_an_upstreams_own_cross_origin_grants_are_dropped() -> None:
    """H53, S4."""
    raw = b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n\r\n"
    async with raw_upstream(answering(raw)) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x")

    assert got["access-control-allow-origin"] is None


async def test_the_api_key_opens_and_does_not_travel() -> None:
    """S12, A6."""
    source = FixedSource()
    async with (
        raw_upstream(ok) as there,
        running([there.upstream()], sources={"me": source}, guard=Guard(api_key="s3cret")) as proxy,
    ):
        assert await refused(proxy, there, source) == [403] * 6
        assert await refused(proxy, there, source, "X-Bearerproxy-Key: wrong") == [403] * 6
        assert (await proxy.ask("/data/x", "X-Bearerproxy-Key: s3cret")).status == 200
        assert (await proxy.ask("/data/x", "Authorization: Basic YW55OnMzY3JldA==")).status == 200

    assert all(b"s3cret" not in head and b"YW55OnMzY3JldA" not in head for head in there.heads)
    assert [there.field(b"authorization", number) for number in (0, 1)] == [[OURS], [OURS]]
    assert "s3cret" not in repr(proxy.events)


async def test_only_a_browser_that_asks_for_our_page_is_challenged_for_the_key() -> None:
    """S12."""
    async with raw_upstream(ok) as there, running([there.upstream()], guard=Guard(api_key="s3cret")) as proxy:
        page = await proxy.ask("/-/", "Accept: text/html,*/*;q=0.8")
        data = await proxy.ask("/data/x", "Accept: text/html,*/*;q=0.8")

    assert (page.status, page["www-authenticate"]) == (401, b'Basic realm="bearerproxy", charset="UTF-8"')
    assert (data.status, data["www-authenticate"]) == (403, None)


@pytest.mark.parametrize(
    "target",
    [
        "/data/../other/x",
        "/data/%2e%2e/other/x",
        "/data/..;/other",
        "/data/%2f..",
        "/data/x%00",
        pytest.param("/data/x%0d%0aHost:evil", marks=LISTENERS_OWN),  # Starlette mounts nothing there: its 404
        pytest.param("/data/x#y", marks=LISTENERS_OWN),  # uvicorn drops a fragment
        "//evil/data",
        "/data/a\\..\\b",
        "/data/caf%",
        pytest.param("ftp://localhost/data/x", marks=LISTENERS_OWN),  # and takes the path of whatever URL comes
        pytest.param("http://u:p@localhost/data/x", marks=LISTENERS_OWN),
        "/data/x?access_token=s3cret",
        "/data/x?a&Access%5Ftoken=s3cret",
    ],
)
async def test_targets_that_are_refused(target: str) -> None:
    """H30, H31, S26, A12."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask(target)

    assert got.status == 400
    assert there.connections == 0
    assert "s3cret" not in repr(proxy.events)
    assert b"s3cret" not in got.body


@LISTENERS_OWN  # ASGI does not tell of an absolute-form
async def test_a_foreign_authority_is_told_that_this_is_no_forward_proxy() -> None:
    """H29, S28, A12."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("http://evil.com/data/x")

    assert got.status == 403
    assert "not a forward proxy" in json.loads(got.body)["detail"]
    assert there.connections == 0


@pytest.mark.parametrize("target", ["/dat", "/database", "/data-evil/x", "/data%2Fx", "/Data/x", "/x/data"])
async def test_what_only_resembles_a_mount_is_not_one(target: str) -> None:
    """H33, A13."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask(target)

    assert got.status == 404
    assert "Mounts: /data." in json.loads(got.body)["detail"]
    assert there.connections == 0


async def test_two_mounts_never_mix_their_tokens() -> None:
    """S26, S27, A13."""
    sources = {"a": FixedSource(token_set("token-a")), "b": FixedSource(token_set("token-b"))}
    async with raw_upstream(ok) as first, raw_upstream(ok) as second:
        mounts = [
            first.upstream("a", mount="/p", identity="a"),
            second.upstream("b", mount="/p/q", identity="b"),
            second.upstream("c", mount="/c", identity=None),
        ]
        async with running(mounts, sources=sources) as proxy:
            for target in ["/p/x", "/p/q/x", "/p/qx", "/p/q%2Fx", "/p/q", "/c/x", "/c/p/q", "/p//q/x"]:
                await proxy.ask(target)

    assert [head.split(b" ")[1] for head in first.heads] == [b"/x", b"/qx", b"/q%2Fx", b"//q/x"]
    assert [head.split(b" ")[1] for head in second.heads] == [b"/x", b"/", b"/x", b"/p/q"]
    assert {*(value for n in range(4) for value in first.field(b"authorization", n))} == {b"Bearer token-a"}
    assert [second.field(b"authorization", n) for n in range(4)] == [[b"Bearer token-b"]] * 2 + [[]] * 2


@pytest.mark.parametrize("method", ["OPTIONS", "PROPFIND", "LOCK"])
@pytest.mark.parametrize("target", ["/data/x.csv", "/nowhere", "/"])
async def test_office_programs_ask_first_and_cost_no_token(method: str, target: str) -> None:
    source = FixedSource()
    async with raw_upstream(ok) as there, running([there.upstream()], sources={"me": source}) as proxy:
        got = await proxy.ask(target, method=method)

    assert got.status == 405
    assert b"GET, HEAD" in (got["allow"] or b"")
    assert got["dav"] is got["ms-author-via"] is None
    assert (there.connections, source.uses) == (0, 0)


async def test_allow_names_what_the_mount_allows() -> None:
    """H19."""
    async with raw_upstream(ok) as there, running([there.upstream(read_only=True)]) as proxy:
        got = await proxy.ask("/data/x", method="OPTIONS")

    assert (got.status, got["allow"]) == (405, b"GET, HEAD")


@LISTENERS_OWN  # `*` lies below no mount
async def test_options_of_everything_is_answered_here() -> None:
    """H22."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("*", method="OPTIONS")

    assert (got.status, got["content-length"]) == (200, b"0")
    assert b"GET" in (got["allow"] or b"")
    assert there.connections == 0


@pytest.mark.parametrize("method", ["TRACE", "PURGE", "M-SEARCH"])
async def test_methods_that_are_not_relayed_cost_no_token(method: str) -> None:
    """H19, H20, S30, A15."""
    source = FixedSource()
    async with raw_upstream(ok) as there, running([there.upstream()], sources={"me": source}) as proxy:
        got = await proxy.ask("/data/x", method=method)

    assert (got.status, got["allow"]) == (405, b"GET, HEAD, POST, PUT, PATCH, DELETE")
    assert b"canary" not in got.body
    assert (there.connections, source.uses) == (0, 0)


@pytest.mark.parametrize("target", ["/data/check-access/x", "/data//Check%2Daccess;x/y", "/data/%63heck-access"])
async def test_a_denied_path_costs_no_token(target: str) -> None:
    source = FixedSource()
    async with raw_upstream(ok) as there:
        denying = there.upstream(deny=("/check-access/",))
        async with running([denying], sources={"me": source}) as proxy:
            got = await proxy.ask(target)

    assert got.status == 403
    assert "never relayed" in json.loads(got.body)["detail"]
    assert (there.connections, source.uses) == (0, 0)


async def test_a_request_that_comes_around_again_is_a_loop() -> None:
    """H65, S28, A46."""
    async with running([Upstream("other", "http", "127.0.0.1", 9, mount="/other")]) as proxy:
        itself = Upstream("self", "http", "127.0.0.1", proxy.port, base_path=b"/other", mount="/self")
        async with running([itself]) as front:
            got = await front.ask("/self/x")

    assert got.status == 508
    (event,) = proxy.events
    assert isinstance(event, Refused)
    assert event.kind == LoopDetected.kind


async def test_an_own_port_carries_its_upstream_alone() -> None:
    async with raw_upstream(ok) as there, raw_upstream(ok) as other:
        mounts = [there.upstream("a", listen=("127.0.0.1", 0)), other.upstream("b")]
        async with running(mounts) as proxy:
            own = next(listener.port or 0 for listener in proxy.listeners if listener.port != proxy.port)
            for target in ["/x?y", "/b/x", "/-/", "/-/live", "/"]:
                assert (await proxy.ask(target, port=own)).body == b"hello"
            shared = await proxy.ask("/a/x")

    assert [head.split(b" ")[1] for head in there.heads] == [b"/x?y", b"/b/x", b"/-/", b"/-/live", b"/", b"/x"]
    assert other.connections == 0
    assert shared.status == 200


async def test_references_on_an_own_port_lead_back_to_it() -> None:
    raw = b"HTTP/1.1 201 Created\r\nLocation: /made/1\r\nContent-Length: 0\r\n\r\n"
    async with raw_upstream(answering(raw)) as there, running([there.upstream(listen=("127.0.0.1", 0))]) as proxy:
        own = next(listener.port or 0 for listener in proxy.listeners if listener.port != proxy.port)
        got = await proxy.ask("/x", port=own)

    assert got["location"] == b"http://localhost:%d/made/1" % own


async def test_the_control_plane_is_not_reached_through_a_mount() -> None:
    """S28."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        bodies = [(await proxy.ask(target)).body for target in ["/", "/-/", "/-/live", "/data/-/", "/data/-/live"]]

    assert bodies == [b"control"] * 3 + [b"hello"] * 2
