"""Answers that hold our own token."""

import json
from typing import Any

import pytest

from proxy.events import Event, Refused, Relayed, Warned
from tests.journeys.house import (
    CANARY,
    Answer,
    FixedSource,
    Visit,
    answering,
    breaking_off,
    calling,
    parsed,
    raw_upstream,
    running,
    token_set,
)
from tests.poll import eventually

pytestmark = pytest.mark.usefixtures("client_end")

# an answer that holds our own token ----------------------------------------------------------------------------------

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: {}\r\n"


def whole(media_type: str, body: bytes, *, framing: str = "length", fields: str = "") -> bytes:
    head = (HEAD.format(media_type) + fields).encode()
    if framing == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"


async def answered(raw: bytes, *, target: str = "/data/x", **settings: Any) -> tuple[Answer, list[Event]]:
    async with raw_upstream(answering(raw)) as there:
        async with running([there.upstream(**settings)]) as proxy:
            got = await proxy.ask(target)
        await eventually(lambda: not there.open, 1, what="the upstream's end")
    return got, proxy.events


LARGE = b"x" * 3_000_000
ECHOES = {
    "json": ("application/json", b'{"token": "' + CANARY.encode() + b'"}', "length"),
    "chunked-json": ("application/json", b'{"token": "' + CANARY.encode() + b'"}', "chunked"),
    "short-text": ("text/plain", CANARY.encode(), "length"),
    "untyped": ("", b"Bearer " + CANARY.encode(), "length"),
}


@pytest.mark.parametrize(("media_type", "body", "framing"), ECHOES.values(), ids=ECHOES.keys())
async def test_a_short_answer_with_our_token_is_a_502(media_type: str, body: bytes, framing: str) -> None:
    """S30, A31."""
    got, events = await answered(whole(media_type, body, framing=framing))

    assert (got.status, json.loads(got.body)["type"]) == (502, "/-/errors/token-echo")
    assert CANARY.encode() not in got.body
    (event,) = events
    assert isinstance(event, Refused)
    assert event.kind == "token-echo"


@pytest.mark.parametrize("field", ["X-Token: Bearer {}", "Location: /login?access_token={}", "Refresh: 0;url=/?{}"])
async def test_a_field_with_our_token_is_a_502(field: str) -> None:
    """S30, A31: whatever the body is."""
    raw = whole("image/png", b"\x89PNG", fields=field.format(CANARY) + "\r\n")
    got, _ = await answered(raw)

    assert got.status == 502
    assert not [value for _, value in got.fields if CANARY.encode() in value]


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_long_answer_is_cut_before_our_token(framing: str, version: str) -> None:
    """S30, A21, A31: never a clean end, and the log says why."""
    raw = whole("text/csv", LARGE + CANARY.encode() + LARGE, framing=framing)
    async with raw_upstream(answering(raw)) as there, running([there.upstream()]) as proxy:
        async with calling(proxy.port) as caller:
            await caller.send(f"GET /data/x HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
            got = await caller.rest()
        await eventually(lambda: not there.open, 1, what="the upstream's end")

    assert LARGE[:1000] in got
    assert CANARY[:5].encode() not in got
    assert caller.was_reset or not parsed(got).is_complete
    warned, relayed = proxy.events
    assert isinstance(warned, Warned)
    assert "[upstream.data] sent the access token back" in warned.message
    assert isinstance(relayed, Relayed)
    assert not relayed.is_complete


async def test_a_token_split_over_packets_is_found() -> None:
    """S30."""

    async def script(visit: Visit) -> None:
        await visit.send(HEAD.format("text/event-stream").encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        for byte in b"data: " + CANARY.encode() + b"\n\n":
            await visit.send(b"1\r\n%c\r\n" % byte)
        await visit.send(b"0\r\n\r\n")

    async with raw_upstream(script) as there, running([there.upstream()]) as proxy, calling(proxy.port) as caller:
        await caller.send(b"GET /data/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got = parsed(await caller.rest())

    assert b"data: ".startswith(got.body)  # what was on its way when the connection broke may be lost
    assert not got.is_complete


@pytest.mark.parametrize("media_type", ["application/json", "text/csv", "image/png", ""])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [0, 5, 70_000, 3_000_000])
async def test_what_holds_no_token_arrives_as_it_is(media_type: str, framing: str, size: int) -> None:
    """S30: searched, held or neither, and the same for the caller."""
    body = (b"canary-access-toke " * (size // 19 + 1))[:size]
    raw = whole(media_type, body, framing=framing) if body else whole(media_type, b"")
    got, _ = await answered(raw)

    assert (got.status, got.body, got.is_complete) == (200, body, True)


async def test_a_first_token_is_not_echoed_after_a_replay_either() -> None:
    """S30."""
    newer = token_set("fresh-access-token")

    async def script(visit: Visit) -> None:
        if newer.access_token.encode() in visit.head:
            await visit.send(whole("application/json", b'{"was": "%s"}' % CANARY.encode()))
        else:
            await visit.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    async with (
        raw_upstream(script) as there,
        running([there.upstream()], sources={"me": FixedSource(newer=newer)}) as proxy,
    ):
        got = await proxy.ask("/data/x")

    assert (got.status, len(there.heads)) == (502, 2)
    assert CANARY.encode() not in got.body


@pytest.mark.parametrize(
    "raw",
    [
        whole("application/json", b'{"token": "%s"}' % CANARY.encode()),
        whole("text/plain", b"", fields=f"X-Token: {CANARY}\r\n"),
    ],
    ids=["body", "field"],
)
async def test_token_echo_pass_lets_it_through(raw: bytes) -> None:
    got, _ = await answered(raw, passes_token_echo=True)

    assert got.status == 200
    assert CANARY.encode() in got.body + (got["x-token"] or b"")


async def test_an_answer_that_is_held_and_breaks_off_is_a_502() -> None:
    """A21: nothing of it was sent, so the caller can be told."""
    cut = whole("application/json", b'{"a": 1234567890, "b": 1234567890}')[:-5]
    async with raw_upstream(breaking_off(cut)) as there, running([there.upstream()]) as proxy:
        got = await proxy.ask("/data/x")

    assert (got.status, json.loads(got.body)["type"]) == (502, "/-/errors/upstream-invalid")


async def test_an_answer_that_is_held_and_stalls_is_a_504() -> None:
    """A21, A23."""

    async def script(visit: Visit) -> None:
        await visit.send(whole("application/json", b'{"a": 1234567890, "b": 1234567890}')[:-5])
        await visit.gone()

    async with raw_upstream(script) as there, running([there.upstream(idle_timeout=0.3)]) as proxy:
        got = await proxy.ask("/data/x")

    assert (got.status, json.loads(got.body)["type"]) == (504, "/-/errors/upstream-timeout")
