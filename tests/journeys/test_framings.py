"""What must not depend on how a message is framed, which HTTP version a caller speaks, or whether it stays."""

import asyncio
import json

import pytest

from proxy.events import Relayed
from proxy.limits import Admission
from tests.journeys.house import (
    CANARY,
    FixedSource,
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

BODY = b"a,b\n1,2\n" * 100
STAYS = {"1.1-keep": ("1.1", "keep-alive"), "1.1-close": ("1.1", "close"), "1.0": ("1.0", "close"),
         "1.0-keep": ("1.0", "keep-alive")}  # fmt: skip
callers = pytest.mark.parametrize(("version", "stays"), STAYS.values(), ids=STAYS.keys())
"""Each version of HTTP, with either wish for the connection."""
UPLOADS = {"no-body": ("1.1", "none"), "length": ("1.1", "length"), "chunked": ("1.1", "chunked"),
           "1.0-no-body": ("1.0", "none"), "1.0-length": ("1.0", "length")}  # fmt: skip
uploads = pytest.mark.parametrize(("version", "framing"), UPLOADS.values(), ids=UPLOADS.keys())
"""Each framing of a request, in the versions that have it."""
bodies = pytest.mark.parametrize(
    ("version", "framing"), [one for one in UPLOADS.values() if one[1] != "none"],
    ids=[name for name, one in UPLOADS.items() if one[1] != "none"],
)  # fmt: skip


def head(method: str, version: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} /data/x HTTP/{version}", "Host: localhost", *lines, "", ""]).encode()


def framed(framing: str, body: bytes) -> tuple[list[str], bytes]:
    """Return the field that frames `body`, and its bytes on the wire."""
    if framing == "chunked":
        return ["Transfer-Encoding: chunked"], b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return ([f"Content-Length: {len(body)}"], body) if framing == "length" else ([], b"")


def said(framing: str, body: bytes = BODY, fields: str = "") -> bytes:
    """Return an upstream's answer."""
    lines, raw = framed(framing, body)
    start = "\r\n".join(["HTTP/1.1 200 OK", "Content-Type: text/csv", *lines, fields]).rstrip("\r\n")
    return start.encode() + b"\r\n\r\n" + (raw if lines else body)


# answers -------------------------------------------------------------------------------------------------------------


@callers
@pytest.mark.parametrize("framing", ["length", "chunked", "closing"])
async def test_h48_h52_a_whole_answer_is_whole_in_every_framing(version: str, stays: str, framing: str) -> None:
    """H25, H55, H66, P15, A26: one framing, the upstream's length where it has one, no chunks to HTTP/1.0."""
    script = answering(said(framing)) if framing != "closing" else breaking_off(said(framing))
    async with raw_upstream(script) as there, running([there.upstream()]) as proxy, calling(proxy.port) as caller:
        await caller.send(head("GET", version, f"Connection: {stays}"))
        is_kept = version == "1.1" and stays == "keep-alive"
        if is_kept:
            await caller.send(head("GET", version, "Connection: close"))
        raw = await caller.rest()

    first = parsed(raw)
    assert (first.status, first.body, first.is_complete, caller.was_reset) == (200, BODY, True, False)
    assert first["content-length"] == (b"%d" % len(BODY) if framing == "length" else None)
    assert first["transfer-encoding"] == (b"chunked" if framing != "length" and version == "1.1" else None)
    assert first["connection"] == (None if is_kept else b"close")
    assert (parsed(first.rest).body if is_kept else BODY) == BODY
    assert len(proxy.events) == 1 + is_kept
    assert all(isinstance(one, Relayed) and one.is_complete for one in proxy.events)


@callers
@pytest.mark.parametrize(
    ("method", "raw"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 800\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 800\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 800\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
    ids=["head-length", "head-chunked", "head-searched", "204", "204-chunked", "304", "empty"],
)
async def test_h49_what_has_no_body_ends_with_its_head(version: str, stays: str, method: str, raw: bytes) -> None:
    """A26: and the next answer begins right behind it."""
    async with (
        raw_upstream(answering(raw)) as there,
        running([there.upstream()]) as proxy,
        calling(proxy.port) as caller,
    ):
        await caller.send(head(method, version, f"Connection: {stays}"))
        is_kept = version == "1.1" and stays == "keep-alive"
        if is_kept:
            await caller.send(head(method, version, "Connection: close"))
        got = await caller.rest()

    answers = got.split(b"HTTP/1.1 ")[1:]
    assert len(answers) == (2 if is_kept else 1)
    assert all(one.endswith(b"\r\n\r\n") and one.count(b"\r\n\r\n") == 1 for one in answers)
    assert b"transfer-encoding" not in got
    assert (b"content-length: 800" in got) is (method == "HEAD" and b"800" in raw)


@callers
@pytest.mark.parametrize("framing", ["length", "chunked", "closing"])
async def test_s30_an_echo_is_withheld_in_every_framing(version: str, stays: str, framing: str) -> None:
    """A31: as JSON it is held to its end, and a 502 of ours stands in its place."""
    echo = said(framing, b'{"you": "Bearer %s"}' % CANARY.encode()).replace(b"text/csv", b"application/json")
    script = answering(echo) if framing != "closing" else breaking_off(echo)
    async with raw_upstream(script) as there, running([there.upstream()]) as proxy, calling(proxy.port) as caller:
        await caller.send(head("GET", version, f"Connection: {stays}"))
        if version == "1.1" and stays == "keep-alive":
            await caller.send(head("GET", version, "Connection: close"))
        got = await caller.rest()

    assert (parsed(got).status, json.loads(parsed(got).body)["type"]) == (502, "/-/errors/token-echo")
    assert CANARY.encode() not in got


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n", b"HTTP/1.1 600 X\r\n\r\n"])
@pytest.mark.parametrize("framing", ["none", "length", "chunked"])
async def test_h50_h51_what_is_no_answer_is_a_502_to_whatever_was_asked(version: str, raw: bytes, framing: str) -> None:
    """A24."""
    framing = "length" if (version, framing) == ("1.0", "chunked") else framing
    lines, body = framed(framing, BODY)
    async with raw_upstream(answering(raw)) as there, running([there.upstream()]) as proxy:
        got = await proxy.exchange(head("POST", version, *lines, "Connection: close") + body)

    assert (parsed(got).status, parsed(got).is_complete) == (502, True)
    assert parsed(got)["transfer-encoding"] is None


# requests ------------------------------------------------------------------------------------------------------------


@uploads
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_h44_h66_a_request_goes_up_in_http_1_1_and_in_one_framing(
    version: str, framing: str, method: str
) -> None:
    """H37: whatever the caller speaks."""
    lines, body = framed(framing, BODY)
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        got = await proxy.exchange(head(method, version, *lines, "Connection: close") + body)

    assert parsed(got).body == b"hello"
    assert there.heads[0].startswith(f"{method} /x HTTP/1.1\r\n".encode())
    assert there.bodies == [BODY if lines else b""]
    assert there.field(b"transfer-encoding") == ([b"chunked"] if framing == "chunked" else [])
    assert there.field(b"content-length") == ([b"%d" % len(BODY)] if framing == "length" else [])


@uploads
@pytest.mark.parametrize("is_early", [False, True], ids=["behind-the-body", "before-its-end"])
async def test_a41_a_401_is_cured_in_every_framing(version: str, framing: str, *, is_early: bool) -> None:
    """The body goes up a second time as it went the first time, though the 401 came while it was on its way."""
    fresh = token_set("fresh-token")

    async def script(visit: Visit) -> None:
        is_fresh = b"Bearer fresh-token" in visit.head
        is_read = is_fresh or not is_early or framing == "none"
        if is_read:
            await visit.body()
        await visit.send(OK_OR_WHO[is_fresh])
        if not is_read:
            await visit.gone()

    lines, body = framed(framing, BODY)
    async with (
        raw_upstream(script) as there,
        running([there.upstream()], sources={"me": FixedSource(newer=fresh)}) as proxy,
        calling(proxy.port) as caller,
    ):
        await caller.send(head("POST", version, *lines, "Connection: close") + body[:5])
        await eventually(lambda: there.heads)
        await caller.send(body[5:])
        got = parsed(await caller.rest())

    assert (got.status, got.body) == (200, b"hello")
    assert there.bodies[-1] == (BODY if lines else b"")
    assert [there.field(b"authorization", n) for n in (0, 1)] == [
        [b"Bearer %s" % CANARY.encode()],
        [b"Bearer fresh-token"],
    ]


OK_OR_WHO = {
    True: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    False: b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nwho?",
}


@bodies
async def test_h27_s34_a_refused_upload_is_answered_readably(version: str, framing: str) -> None:
    """And costs neither the token nor a connection."""
    lines, body = framed(framing, bytes(200_000))
    source = FixedSource()
    async with raw_upstream(ok) as there, running([there.upstream(read_only=True)], sources={"me": source}) as proxy:
        got = await proxy.exchange(head("POST", version, *lines) + body)

    assert (parsed(got).status, parsed(got)["connection"], parsed(got).is_complete) == (405, b"close", True)
    assert (there.connections, source.uses) == (0, 0)


@bodies
@pytest.mark.parametrize("status", [200, 413])
async def test_an_early_answer_by_an_upstream_that_reads_no_more_reaches_the_caller(
    version: str, framing: str, status: int
) -> None:
    """RFC 9112 9.5: its buffers are full, it closes behind its answer, and the caller sends all before it looks."""

    async def hasty(visit: Visit) -> None:
        visit.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport reads too
        await visit.send(b"HTTP/1.1 %d Early\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello" % status)
        await over.wait()

    over = asyncio.Event()
    lines, body = framed(framing, bytes(12 << 20))
    async with raw_upstream(hasty) as there, running([there.upstream()]) as proxy:
        try:
            got = parsed(await proxy.exchange(head("POST", version, *lines, "Connection: close") + body))
        finally:
            over.set()

    assert (got.status, got.body, there.bodies) == (status, b"hello", [])


@bodies
async def test_h46_h58_an_upload_whose_caller_goes_is_let_go(version: str, framing: str) -> None:
    """A19, A20: in its midst."""
    lines, body = framed(framing, BODY)
    admission = Admission(1)
    async with raw_upstream(ok) as there, running([there.upstream()], admission=admission) as proxy:
        async with calling(proxy.port) as caller:
            await caller.send(head("POST", version, *lines) + body[:50])
            await eventually(lambda: there.heads)
            caller.abort()
        await eventually(lambda: not there.open, 3)
        assert (await proxy.ask("/data/x")).status == 200  # its place is free

    assert there.bodies == [b""]


@bodies
async def test_h16_h61_an_upload_that_stalls_ends_on_both_sides(version: str, framing: str) -> None:
    """A18."""
    lines, body = framed(framing, BODY)
    async with raw_upstream(ok) as there, running([there.upstream(idle_timeout=0.3)]) as proxy:
        assert await proxy.exchange(head("POST", version, *lines) + body[:50]) == b""
        await eventually(lambda: not there.open, 3)

    assert there.bodies == []


@bodies
async def test_h18_an_upload_is_asked_for_once_it_is_wanted(version: str, framing: str) -> None:
    """H25: HTTP/1.0 knows no 100."""
    lines, body = framed(framing, BODY)
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy, calling(proxy.port) as caller:
        await caller.send(head("POST", version, *lines, "Expect: 100-continue", "Connection: close"))
        if version == "1.1":
            assert await caller.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await caller.send(body)
        got = parsed(await caller.rest())

    assert (got.status, there.bodies) == (200, [BODY])
    assert there.field(b"expect") == []
