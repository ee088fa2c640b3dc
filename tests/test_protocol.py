"""The listener's HTTP/1.1, bytes in and bytes out over real sockets (http-law P1-P16, H1-H27)."""

import asyncio
import json
import re

import pytest

from proxy.guard import Arrival, Guard
from tests.journeys.house import all_parsed, calling, parsed, serving
from tests.listener import CLOSE, SMALL, House, Recorder, get, post
from tests.poll import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

# what is understood --------------------------------------------------------------------------------------------------


async def test_a_request_arrives_as_it_was_sent(house: House) -> None:
    """P12, H28."""
    raw = await house.exchange(get("/a%2Fb?x=%2f&y=a+b;c&z=%zz|", "X-Odd: caf\xe9", "X-Odd: \t2 ", CLOSE))

    assert parsed(raw).status == 200
    assert house.request()["target"] == "/a%2Fb?x=%2f&y=a+b;c&z=%zz|"
    assert house.request()["fields"] == [
        ["host", "localhost"],
        ["x-odd", "caf\xe9"],
        ["x-odd", "2"],
        ["connection", "close"],
    ]


async def test_an_empty_query_keeps_its_mark(house: House) -> None:
    """P12, H28, A14."""
    await house.exchange(get("/a?", CLOSE))

    assert house.request()["target"] == "/a?"


async def test_an_empty_line_before_the_request_is_ignored(house: House) -> None:
    """H7."""
    raw = await house.exchange(b"\r\n" + get("/", CLOSE))

    assert parsed(raw).status == 200


async def test_there_is_one_date_and_it_is_a_date(house: House) -> None:
    """H47, A26."""
    raw = await house.exchange(get("/", CLOSE))

    assert len(re.findall(rb"(?i)^date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r$", raw, re.MULTILINE)) == 1


async def test_nothing_of_the_server_is_told(house: House) -> None:
    raw = await house.exchange(get("/", CLOSE))

    assert parsed(raw)["server"] is None


BODY = [
    pytest.param(["Content-Length: 11"], b"hello world", id="content-length"),
    pytest.param(["Transfer-Encoding: chunked"], b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n", id="chunked"),
    pytest.param(["Transfer-Encoding: Chunked"], b"00b\r\nhello world\r\n0\r\n\r\n", id="chunked-in-odd-case"),
]


@pytest.mark.parametrize(("framing", "body"), BODY)
@pytest.mark.parametrize("is_split", [False, True], ids=["at-once", "byte-by-byte"])
async def test_a_body_arrives_whole(house: House, framing: list[str], body: bytes, *, is_split: bool) -> None:
    """H12, A7."""
    message = post(*framing, CLOSE, body=body)
    async with calling(house.there.port) as caller:
        for part in [message[n : n + 1] for n in range(len(message))] if is_split else [message]:
            await caller.send(part)
        raw = await caller.rest()

    assert parsed(raw).status == 200
    assert house.request()["body"] == "hello world"


async def test_pipelined_requests_are_answered_in_order(house: House) -> None:
    """H24."""
    house.app.gate.set()
    raw = await house.exchange(
        get("/wait") + post("Content-Length: 1", body=b"b", target="/2") + get("/3") + get("/4", CLOSE)
    )

    assert [json.loads(one.body)["target"] for one in all_parsed(raw)] == ["/wait", "/2", "/3", "/4"]


async def test_nothing_behind_a_last_request_is_served_or_disturbs_its_answer(house: House) -> None:
    """H26."""
    async with calling(house.there.port) as caller:
        await caller.send(get("/wait", CLOSE) + get("/2") + b"\0garbage")
        await eventually(lambda: house.app.seen)
        await caller.send(b"\0more garbage\r\n\r\n")
        house.app.gate.set()
        raw = await caller.rest()

    assert [one.status for one in all_parsed(raw)] == [200]
    assert [one["target"] for one in house.app.seen] == ["/wait"]


# who is asked for (P6, P13) ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil.com"]])
async def test_there_must_be_exactly_one_host(house: House, version: str, hosts: list[str]) -> None:
    """H1, P6, A1."""
    raw = await house.exchange(get("/", *[f"Host: {one}" for one in hosts], version=version, host=None))

    assert parsed(raw).status == 400
    assert not house.app.seen


@pytest.mark.parametrize(
    ("absolute", "target"),
    [
        ("http://localhost:8400/a?b", "/a?b"),
        ("HTTP://LOCALHOST/a", "/a"),
        ("http://localhost", "/"),
        ("http://localhost?b", "/?b"),
        ("http://evil.com/a", "/a"),
    ],
)
async def test_absolute_form_replaces_host(house: House, absolute: str, target: str) -> None:
    """H29, P13, A12."""
    raw = await house.exchange(get(absolute, CLOSE, host="other"))

    assert parsed(raw).status == 200
    assert house.request()["target"] == target
    authority = absolute.split("/")[2].split("?", maxsplit=1)[0]
    assert [value for name, value in house.request()["fields"] if name == "host"] == [authority]


@pytest.mark.parametrize("absolute", ["ftp://localhost/a", "https://localhost/a", "http://u:p@localhost/a"])
async def test_another_scheme_or_userinfo_is_refused(house: House, absolute: str) -> None:
    """H29, P13, A12."""
    raw = await house.exchange(get(absolute))

    assert parsed(raw).status == 400
    assert b"not a forward proxy" in parsed(raw).body
    assert not house.app.seen


# framing (H8-H12, P5, P7, P8) ----------------------------------------------------------------------------------------

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("message", "status"),
    [
        pytest.param(post("Content-Length: 4", CHUNKED, body=b"0\r\n\r\n"), 400, id="cl-te"),
        pytest.param(post(CHUNKED, "Content-Length: 4", body=b"0\r\n\r\n"), 400, id="te-cl"),
        pytest.param(post("Content-Length: 1", "Content-Length: 2", body=b"xx"), 400, id="two-lengths"),
        pytest.param(post("Content-Length: 1", "Content-Length: 1", body=b"x"), 400, id="a-repeated-length"),
        pytest.param(post("Content-Length: 2, 2", body=b"xx"), 400, id="listed-length"),
        pytest.param(post("Content-Length: +2", body=b"xx"), 400, id="plus"),
        pytest.param(post("Content-Length: -2", body=b"xx"), 400, id="minus"),
        pytest.param(post("Content-Length: 0x2", body=b"xx"), 400, id="hex"),
        pytest.param(post("Content-Length: 2_0", body=b"x" * 20), 400, id="underscore"),
        pytest.param(post("Content-Length: ", body=b"xx"), 400, id="empty-length"),
        pytest.param(post("Content-Length: 99999999999999999999999", body=b"xx"), 400, id="huge"),
        pytest.param(post("Transfer-Encoding: gzip", body=b"0\r\n\r\n"), 400, id="gzip"),
        pytest.param(post("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501, id="gzip-chunked"),
        pytest.param(post("Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), 400, id="chunked-gzip"),
        pytest.param(post("Transfer-Encoding: identity", body=b"0\r\n\r\n"), 400, id="identity"),
        pytest.param(post("Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400, id="xchunked"),
        pytest.param(post("Transfer-Encoding: chunked x", body=b"0\r\n\r\n"), 400, id="chunked-x"),
        pytest.param(post('Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), 400, id="quoted-chunked"),
        pytest.param(post("Transfer-Encoding: ", body=b"0\r\n\r\n"), 400, id="empty-coding"),
        pytest.param(post("Transfer-Encoding: gzip", CHUNKED, body=b"0\r\n\r\n"), 501, id="gzip-then-chunked"),
        pytest.param(post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"), 400, id="chunked-twice"),
        pytest.param(post("Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), 400, id="chunked-chunked"),
        pytest.param(post("Transfer-Encoding : chunked", body=b"0\r\n\r\n"), 400, id="space-before-colon"),
        pytest.param(post("Transfer-Encoding:\x0bchunked", body=b"0\r\n\r\n"), 400, id="vertical-tab"),
        pytest.param(post(CHUNKED, body=b"0\r\n\r\n", version="1.0"), 400, id="chunked-on-1.0"),
        pytest.param(get("/", "X: a\r\n b"), 400, id="obs-fold"),
        pytest.param(get("/", " X: a"), 400, id="leading-space"),
        pytest.param(get("/").replace(b"\r\n", b"\n"), 400, id="bare-lf"),
        pytest.param(get("/", "X: a\rY: b"), 400, id="bare-cr"),
        pytest.param(get("/", "X: a\nY: b"), 400, id="lf-in-a-field"),
        pytest.param(get("/", "X: a\0b"), 400, id="nul"),
        pytest.param(get("/", "X: a\x01b"), 400, id="control-character"),
        pytest.param(get("/", "X\x00: a"), 400, id="nul-in-a-name"),
        pytest.param(get("/", ": a"), 400, id="no-name"),
        pytest.param(get("/", version="0.9"), 505, id="version-0.9"),
        pytest.param(get("/", version="2.0"), 505, id="version-2.0"),
        pytest.param(get("/", version="3.7"), 400, id="version-3.7"),
        pytest.param(b"GET /\r\n\r\n", 505, id="no-version"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="pri"),
        pytest.param(b"CONNECT evil.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 501, id="connect"),
        pytest.param(b"TRACK / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, id="track"),
        pytest.param(b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, id="lower-case-method"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="tls"),
        pytest.param(get("noslash"), 400, id="no-slash"),
        pytest.param(get("/caf\xe9"), 400, id="non-ascii"),
    ],
)
async def test_a_message_that_could_be_read_in_two_ways_is_refused(house: House, message: bytes, status: int) -> None:
    """H2-H6, H8-H12, H15, H20, P7, P8, P11, A7."""
    raw = await house.exchange(message + SMUGGLED)

    answers = all_parsed(raw)
    assert [answer.status for answer in answers] == [status]
    assert answers[0]["connection"] == b"close"
    assert answers[0]["content-type"] == b"application/problem+json"
    assert house.app.seen == []
    assert len(house.there.refusals) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"5\r\nhello\r\n0\r\nX : a\r\n\r\n",
    ],
)
async def test_a_malformed_chunk_ends_the_connection_and_the_body_is_never_whole(house: House, body: bytes) -> None:
    """H5, H12, A7, A18."""
    raw = await house.exchange(post(CHUNKED, body=body + SMUGGLED))

    assert raw == b""
    await eventually(lambda: house.app.hang_ups == len(house.app.seen))
    assert all(one["target"] == "/" for one in house.app.seen)


async def test_a_body_that_ends_early_is_never_whole(house: House) -> None:
    """H46, A19."""
    async with calling(house.there.port) as caller:
        await caller.send(post("Content-Length: 10", body=b"hello"))
        await eventually(lambda: house.app.seen)

    await eventually(lambda: house.app.hang_ups == 1)


@pytest.mark.parametrize("is_split", [False, True], ids=["at-once", "in-segments"])
async def test_trailers_are_not_fields(house: House, *, is_split: bool) -> None:
    """H13, P5, A8."""
    trailers = [b"Authorization: Bearer x\r\n", b"Host: evil.com\r\n", b"\r\n"]
    parts = [post(CHUNKED, CLOSE, body=b"1\r\na\r\n0\r\n"), *trailers]
    async with calling(house.there.port) as caller:
        for part in parts if is_split else [b"".join(parts)]:
            await caller.send(part)
        raw = await caller.rest()

    assert parsed(raw).status == 200
    assert [name for name, _ in house.request()["fields"]] == ["host", "transfer-encoding", "connection"]


async def test_a_trailer_that_frames_ends_the_connection(house: House) -> None:
    """H13, P5, A8."""
    raw = await house.exchange(post(CHUNKED, body=b"1\r\na\r\n0\r\nContent-Length: 7\r\n\r\n" + SMUGGLED))

    assert raw == b""
    await eventually(lambda: house.app.hang_ups == len(house.app.seen))


@pytest.mark.parametrize("is_begun", [True, False])
async def test_a_refusal_is_not_written_into_a_running_answer(house: House, *, is_begun: bool) -> None:
    """P10, A19: a fault in the body of a request ends its answer, visibly, and is no answer itself."""
    async with calling(house.there.port) as caller:
        await caller.send(post(CHUNKED, target="/early" if is_begun else "/held-up"))
        if is_begun:
            await caller.reader.readuntil(b"begun\r\n")
        await eventually(lambda: house.app.seen)
        await caller.send(b"garbage\r\n\r\n")
        raw = await caller.rest()

    assert raw == b""  # above all no last chunk
    await eventually(lambda: house.app.hang_ups == 1)


@pytest.mark.parametrize(
    ("behind", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (get("/", "Upgrade: websocket", "Connection: Upgrade"), 501),
        (get("/", host=None), 400),
        (get("/" + "a" * 3000), 414),
        (b"GET / RTSP/1.0\r\n\r\n", 505),
    ],
)
@pytest.mark.parametrize("is_split", [False, True], ids=["in-one-read", "later"])
async def test_a_refusal_waits_for_the_answers_before_it(
    house: House, behind: bytes, status: int, *, is_split: bool
) -> None:
    """P10, H24: what stands behind a request is looked at in its turn, and its faults touch no answer but its own."""
    async with calling(house.there.port) as caller:
        first = get("/wait") + get("/queued")
        await caller.send(first if is_split else first + behind)
        await eventually(lambda: house.app.seen)
        if is_split:
            await caller.send(behind)
        house.app.gate.set()
        raw = await caller.rest()

    assert [one.status for one in all_parsed(raw)] == [200, 200, status]
    assert [one["target"] for one in house.app.seen] == ["/wait", "/queued"]


async def test_a_refusal_behind_a_finished_answer_is_written(house: House) -> None:
    """P10, P11."""
    async with calling(house.there.port) as caller:
        await caller.send(get("/"))
        await eventually(lambda: house.app.seen)
        await caller.reader.readuntil(b"\r\n0\r\n\r\n")
        await caller.send(b"garbage\r\n\r\n")
        raw = await caller.rest()

    assert parsed(raw).status == 400


# limits (P1-P4) ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "status"),
    [
        pytest.param(get("/" + "a" * 3000), 414, id="target"),
        pytest.param(get("/" + "a" * 1_000_000), 414, id="one-megabyte-target"),
        pytest.param(get("/", "X: " + "a" * 5000), 431, id="one-field"),
        pytest.param(get("/", *["X: " + "a" * 1000] * 6), 431, id="fields-together"),
        pytest.param(get("/", *["X: a"] * 30), 431, id="lines"),
        pytest.param(get("/", *["X: a"] * 10_000), 431, id="ten-thousand-lines"),
        pytest.param(get("/", "X: " + "a" * 2_000_000), 431, id="endless-field"),
        pytest.param(b"\r\n" * 1_000_000, 431, id="leading-empty-lines"),
        pytest.param(get("/", "a" * 2_000_000 + ": x"), 431, id="endless-name"),
    ],
)
async def test_a_head_that_is_too_large_is_refused(house: House, message: bytes, status: int) -> None:
    """H14, P2-P4, S34, A16."""
    async with calling(house.there.port) as caller:
        sending = asyncio.ensure_future(caller.send(message))
        raw = await caller.rest()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert parsed(raw).status == status
    assert not house.app.seen


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(b"0\r\n" + b"X: y\r\n" * 30 + b"\r\n", id="trailer-lines"),
        pytest.param(b"0\r\nX: " + b"y" * 5000 + b"\r\n\r\n", id="trailer"),
        pytest.param(b"0\r\nX: " + b"y" * 2_000_000, id="endless-trailer"),
        pytest.param(b"1;x=" + b"y" * 2_000_000, id="endless-extension"),
        pytest.param(b"0" * 2_000_000, id="endless-size"),
    ],
)
async def test_what_is_endless_in_a_chunked_body_ends_the_connection(house: House, tail: bytes) -> None:
    """H12, P2, P3, A16."""
    async with calling(house.there.port) as caller:
        sending = asyncio.ensure_future(caller.send(post(CHUNKED, body=b"1\r\na\r\n" + tail)))
        raw = await caller.rest()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert raw == b""
    await eventually(lambda: house.app.hang_ups == len(house.app.seen) == 1)


async def test_a_target_of_32_kib_passes_by_default() -> None:
    """P4, A14."""
    app = Recorder()
    async with serving(app) as there:
        raw = await there.exchange(get("/" + "k" * 32768 + "?x", CLOSE))

    assert parsed(raw).status == 200
    assert len(app.seen[0]["target"]) == 32771


@pytest.mark.parametrize(
    "first",
    [b"", b"GET / HT", b"\r\n", get("/")[:-2], b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "],
    ids=["silent", "request-line", "empty-line", "all-but-the-end", "in-a-field"],
)
async def test_a_head_that_does_not_come_in_time_is_closed(house: House, first: bytes) -> None:
    """H16, P1, A17."""
    started = asyncio.get_running_loop().time()
    raw = await house.exchange(first)

    assert raw == b""
    assert 0.3 < asyncio.get_running_loop().time() - started < 3


@pytest.mark.parametrize("drip", [b"\r\n", b"G", b"a"], ids=["empty-lines", "a-method", "letters"])
@pytest.mark.parametrize("is_second", [False, True], ids=["first-request", "second-request"])
async def test_a_drip_is_closed_by_the_same_deadline(house: House, drip: bytes, *, is_second: bool) -> None:
    """H16, P1, A17."""
    async with calling(house.there.port) as caller:
        if is_second:
            await caller.send(get("/"))
            await caller.reader.readuntil(b"\r\n0\r\n\r\n")
        first = b"GET /" if drip == b"a" else b""
        await caller.send(first)
        ending = asyncio.ensure_future(caller.rest())

        async def dripped() -> bool:
            caller.writer.write(drip)
            return ending.done()

        await eventually(dripped, timeout=3)

    assert len(house.app.seen) == is_second


async def test_a_slow_answer_and_a_slow_body_are_not_the_heads_deadline(house: House) -> None:
    """P1."""
    async with calling(house.there.port) as caller:
        await caller.send(post("Content-Length: 2", CLOSE, body=b"a", target="/wait"))
        started = asyncio.get_running_loop().time()
        await eventually(lambda: asyncio.get_running_loop().time() > started + 2 * SMALL.head_seconds)
        await caller.send(b"b")
        house.app.gate.set()
        raw = await caller.rest()

    assert parsed(raw).status == 200
    assert house.request()["body"] == "ab"


async def test_an_idle_connection_is_kept_for_a_second_request(house: House) -> None:
    async with calling(house.there.port) as caller:
        for _ in range(3):
            await caller.send(get("/"))
            await caller.reader.readuntil(b"\r\n0\r\n\r\n")

    assert len(house.app.seen) == 3


async def test_an_idle_connection_is_closed_in_the_end(house: House) -> None:
    started = asyncio.get_running_loop().time()
    raw = await house.exchange(get("/"))

    assert parsed(raw).is_complete
    assert asyncio.get_running_loop().time() - started > 0.4


async def test_a_second_request_outlives_the_time_in_which_it_had_to_come(house: House) -> None:
    async with calling(house.there.port) as caller:
        await caller.send(get("/"))
        await caller.reader.readuntil(b"\r\n0\r\n\r\n")
        await caller.send(get("/wait", CLOSE))
        started = asyncio.get_running_loop().time()
        await eventually(lambda: asyncio.get_running_loop().time() > started + 2 * SMALL.keep_alive_seconds)
        house.app.gate.set()
        assert parsed(await caller.rest()).is_complete


# upgrade (P14) -------------------------------------------------------------------------------------------------------

H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")


@pytest.mark.parametrize("when", ["with-the-head", "later"])
@pytest.mark.parametrize(
    ("message", "body"),
    [
        pytest.param(get("/j", *H2C), "", id="get"),
        pytest.param(get("/j", "Content-Length: 0", *H2C), "", id="get-with-length"),
        pytest.param(post(*H2C, "Content-Length: 5", body=b"hello", target="/j"), "hello", id="content-length"),
        pytest.param(post(*H2C, CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n", target="/j"), "hello", id="chunked"),
        pytest.param(post(*H2C, "Content-Length: 43", body=SMUGGLED, target="/j"), SMUGGLED.decode(), id="bait"),
    ],
)
async def test_an_upgrade_is_ignored_and_the_body_is_whole(house: House, message: bytes, body: str, when: str) -> None:
    """H17, P14, A7, A15."""
    head, mark, rest = message.partition(b"\r\n\r\n")
    async with calling(house.there.port) as caller:
        for part in [head + mark, rest] if when == "later" else [message]:
            await caller.send(part)
            await eventually(lambda: house.app.seen)
        await caller.send(get("/next", CLOSE))
        raw = await caller.rest()

    assert [one.status for one in all_parsed(raw)] == [200, 200]
    assert [(one["target"], one["body"]) for one in house.app.seen] == [("/j", body), ("/next", "")]
    assert not {"upgrade", "http2-settings"} & {name for name, _ in house.request()["fields"]}


async def test_pipelined_upgrades_are_all_served_however_many(house: House) -> None:
    """H17, P14."""
    async with calling(house.there.port, limit=1 << 20) as caller:
        await caller.send(get("/", *H2C) * 1500 + get("/last", CLOSE))
        raw = await caller.rest()

    assert raw.count(b"HTTP/1.1 200 OK\r\n") == 1501
    assert house.app.seen[-1]["target"] == "/last"


async def test_other_connection_options_survive_an_ignored_upgrade(house: House) -> None:
    """H17, P14."""
    await house.exchange(get("/", "Connection: Upgrade, close, X-A", "Upgrade: h2c", "X-A: 1"))

    assert ["connection", "close, X-A"] in house.request()["fields"]


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
@pytest.mark.parametrize("when", ["with-the-head", "later"])
async def test_h17_in_http_1_0_no_upgrade_is_one(house: House, upgrade: str, when: str) -> None:
    """P14, P15, A15: its body is whole, and the answer ends with the connection (RFC 9110 7.8)."""
    lines = (f"Upgrade: {upgrade}", "Connection: Upgrade, keep-alive", f"Content-Length: {len(SMUGGLED)}")
    head, body = post(*lines, version="1.0"), SMUGGLED
    async with calling(house.there.port) as caller:
        for part in [head, body] if when == "later" else [head + body]:
            await caller.send(part)
            await eventually(lambda: house.app.seen)
        raw = await caller.rest()

    assert parsed(raw).status == 200
    assert parsed(raw)["transfer-encoding"] is None
    assert [(one["target"], one["body"]) for one in house.app.seen] == [("/", SMUGGLED.decode())]
    assert "upgrade" not in {name for name, _ in house.request()["fields"]}


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "h2c, websocket"])
async def test_websocket_is_refused(house: House, upgrade: str) -> None:
    """H17, P14, S6, A15."""
    raw = await house.exchange(get("/", "Connection: Upgrade", f"Upgrade: {upgrade}", "Sec-WebSocket-Version: 13"))

    assert parsed(raw).status == 501
    assert b"WebSocket is not relayed" in parsed(raw).body
    assert not house.app.seen


# Expect, HTTP/1.0, HEAD, ends of answers (P9, P15, H23, H27, H56, H57) -----------------------------------------------


async def test_continue_is_said_when_the_body_is_asked_for(house: House) -> None:
    """H18."""
    async with calling(house.there.port) as caller:
        await caller.send(post("Content-Length: 5", "Expect: 100-continue", CLOSE))
        assert await caller.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await caller.send(b"hello")
        raw = await caller.rest()

    assert parsed(raw).status == 200
    assert house.request()["body"] == "hello"


async def test_continue_is_not_said_to_an_upload_that_is_not_read(house: House) -> None:
    """H18, S34."""
    raw = await house.exchange(post("Content-Length: 5", "Expect: 100-continue", target="/unread"))

    assert parsed(raw).status == 200
    assert parsed(raw)["connection"] == b"close"


async def test_continue_is_not_said_to_http_1_0(house: House) -> None:
    """H18, H25, P9."""
    raw = await house.exchange(post("Content-Length: 5", "Expect: 100-continue", body=b"hello", version="1.0"))

    assert parsed(raw).status == 200


async def test_an_unread_upload_is_answered_readably_and_then_ended(house: House) -> None:
    """H27, S34."""
    async with calling(house.there.port) as caller:
        await caller.send(post(f"Content-Length: {1 << 30}", target="/unread"))
        sent = 4096
        await caller.send(b"x" * sent)
        answer = await caller.reader.readuntil(b"\r\n0\r\n\r\n")
        with pytest.raises(ConnectionError):  # noqa: PT012 - the first write that fails is not to be foretold
            while True:
                await caller.send(b"x" * 65536)
                sent += 65536

    assert parsed(answer).status == 200
    assert parsed(answer)["connection"] == b"close"
    assert sent < 16 << 20  # what is dropped, and what the kernel holds


@pytest.mark.parametrize("target", ["/unread", "/caf\xe9"], ids=["answered", "refused"])
async def test_a_small_upload_may_end_behind_its_answer_without_a_reset(house: House, target: str) -> None:
    async with calling(house.there.port) as caller:
        await caller.send(post("Content-Length: 50000", CLOSE, target=target))
        await caller.head()
        for _ in range(10):
            await caller.send(b"x" * 5000)
        caller.writer.write_eof()
        await caller.rest()

    assert not caller.was_reset


async def test_an_unread_upload_that_stalls_is_closed(house: House) -> None:
    """H16, H27."""
    raw = await house.exchange(post("Content-Length: 100", body=b"x", target="/unread"))

    assert parsed(raw).status == 200
    assert house.there.refusals == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("tail", [b"", b"3\r\nabc\r\n0\r\n\r\n", b"garbage"], ids=["nothing", "chunks", "garbage"])
async def test_a_chunked_body_announced_on_a_get_is_not_waited_for(house: House, method: str, tail: bytes) -> None:
    """H23, A18."""
    raw = await house.exchange(get("/", CHUNKED).replace(b"GET", method.encode()) + tail)

    assert parsed(raw, method=method).status == 200
    assert parsed(raw, method=method)["connection"] == b"close"
    assert house.request()["body"] == ""


@pytest.mark.parametrize("lines", [(), ("Connection: keep-alive",)])
async def test_an_answer_to_http_1_0_is_delimited_by_closing(house: House, lines: tuple[str, ...]) -> None:
    """H25, P15."""
    raw = await house.exchange(get("/", *lines, version="1.0"))

    answer = parsed(raw)
    assert answer["transfer-encoding"] is None
    assert answer["connection"] == b"close"
    assert json.loads(answer.body)["target"] == "/"


async def test_head_has_the_fields_and_no_body(house: House) -> None:
    """H49, A26."""
    raw = await house.exchange(get("/", CLOSE).replace(b"GET", b"HEAD"))

    assert raw.endswith(b"\r\n\r\n")
    assert parsed(raw, method="HEAD")["content-type"] == b"application/json"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_204_has_no_framing_at_all(house: House, version: str) -> None:
    """H49, A26."""
    raw = await house.exchange(get("/204", CLOSE, version=version))

    assert parsed(raw).status == 204
    assert parsed(raw)["content-length"] is parsed(raw)["transfer-encoding"] is None
    assert raw.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("target", ["/half", "/half-of-ten", "/twice", "/defect-later"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_that_breaks_off_never_looks_complete(
    house: House, target: str, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    """H56, H57, A21."""
    async with calling(house.there.port) as caller:
        await caller.send(get(target, version=version))
        raw = await caller.rest()

    is_delimited_by_closing = version == "1.0" and target != "/half-of-ten"
    assert caller.was_reset if is_delimited_by_closing else not (raw and parsed(raw).is_complete)
    assert ("RuntimeError" in caplog.text) is (target == "/defect-later")
    assert "a defect of the app" not in caplog.text  # an unexpected error's text may hold anything


@pytest.mark.parametrize("target", ["/defect", "/nothing"])
async def test_an_app_that_answers_nothing_gets_its_connection_closed(house: House, target: str) -> None:
    assert await house.exchange(get(target)) == b""


async def test_a_running_request_learns_of_a_hang_up_though_another_is_queued(house: House) -> None:
    """H59."""
    async with calling(house.there.port) as caller:
        await caller.send(get("/hold") + get("/queued"))
        await caller.reader.readuntil(b"begun\r\n")

    await eventually(lambda: house.app.hang_ups == 1)
    house.app.gate.set()
    assert [one["target"] for one in house.app.seen] == ["/hold"]


async def test_a_caller_who_reads_nothing_of_a_finished_answer_is_dropped(house: House) -> None:
    """H61."""
    async with calling(house.there.port) as caller:
        await caller.send(get("/big", CLOSE))
        started = asyncio.get_running_loop().time()
        await eventually(lambda: asyncio.get_running_loop().time() > started + 5 * SMALL.flush_seconds)
        raw = await caller.rest()

    assert not parsed(raw).is_complete


async def test_a_peer_from_outside_is_dropped_unread() -> None:
    """P16, S10, A6."""

    class Stranger(Guard):
        def check_peer(self, arrival: Arrival) -> None:
            super().check_peer(Arrival(arrival.local, "192.0.2.1"))

    app = Recorder()
    async with serving(app, guard=Stranger()) as there, calling(there.port) as caller:
        await caller.send(get("/"))
        assert await caller.rest() == b""

    assert app.seen == []
