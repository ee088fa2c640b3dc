"""One connection and its call, fed with bytes: every transition of the state machine in proxy/transport/http1.py."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.outbox import Outbox, Writer
from proxy.transport.http1 import HEAD_BYTES, HELD_BYTES, INTERIM_BYTES, TOGETHER_BYTES, Connection, OwnCall
from proxy.transport.seam import CHUNKED, Trouble, WrongLengthError
from tests.heard import Heard

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
HEAD = b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CODED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nServer: old\r\n\r\n"


class Wire:
    """Stands in for asyncio's transport: keeps what is written, and how it ended."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.buffered = 0
        self.is_reading = True
        self.ended = ""
        self.on_write: Callable[[], None] = lambda: None  # asyncio's may pause the protocol out of a write

    def write(self, data: bytes) -> None:
        assert not self.ended, "written behind the end, which uvloop's transport does not take"
        self.written.append(data)
        self.on_write()

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def get_extra_info(self, _: str) -> None: ...

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class HandedOver(Outbox):
    """Lets a writer write when the test says so."""

    def post(self, writer: Writer) -> None:
        self.writer = writer


@dataclass
class Bench:
    """A connection that carries a call, and the home that it tells of itself."""

    wire: Wire = field(default_factory=Wire)
    sink: Heard = field(default_factory=Heard)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outbox = HandedOver()
        self.connection = Connection(self)
        self.connection.connection_made(self.wire)  # type: ignore[arg-type]  # a stand-in

    def idle(self, _: Connection) -> None:
        self.told.append("idle")

    def lost(self, _: Connection) -> None:
        self.told.append("lost")

    def drop_idle(self) -> None:
        self.told.append("drop_idle")

    def carry(self, head: bytes = GET, length: int = 0, sink: Heard | None = None) -> OwnCall:
        self.sink = sink or Heard()
        call = OwnCall(head, length, self.sink)
        self.connection.carry(call, head)
        self.outbox.writer.flush()
        return call

    def feed(self, *parts: bytes) -> "Bench":
        for part in parts:
            if not self.wire.ended:
                self.connection.data_received(part)
        return self

    @property
    def is_idle(self) -> bool:
        return self.told[-1:] == ["idle"] and not self.wire.ended


@pytest.fixture
def bench() -> Bench:
    return Bench()


def bytewise(raw: bytes) -> list[bytes]:
    return [raw[n : n + 1] for n in range(len(raw))]


# the head ------------------------------------------------------------------------------------------------------------


def test_a_request_goes_out_in_one_write(bench: Bench) -> None:
    bench.carry()

    assert bench.wire.written == [GET]


def test_what_is_written_before_a_request_has_gone_out_goes_with_it(bench: Bench) -> None:
    head = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n"
    call = OwnCall(head, 5, bench.sink)
    bench.connection.carry(call, head)
    call.write(b"hello")
    assert bench.wire.written == []

    bench.outbox.writer.flush()
    bench.outbox.writer.flush()
    assert bench.wire.written == [head + b"hello"]


@pytest.mark.parametrize("is_used", [False, True])
def test_what_comes_before_a_request_has_gone_out_is_not_its_answer(bench: Bench, *, is_used: bool) -> None:
    """An upstream may send a 408 before it closes; nobody can answer what nobody has sent."""
    if is_used:
        bench.carry()
        bench.feed(OK)
    before = len(bench.wire.written)
    sink = Heard()
    bench.connection.carry(OwnCall(GET, 0, sink), GET)
    bench.feed(OK)

    bench.outbox.writer.flush()
    assert sink.said == [Trouble.STALE if is_used else Trouble.CLOSED]
    assert bench.wire.ended == "aborted"
    assert len(bench.wire.written) == before


def test_a_call_that_is_aborted_before_it_has_gone_out_is_never_sent(bench: Bench) -> None:
    call = OwnCall(GET, 0, bench.sink)
    bench.connection.carry(call, GET)
    call.abort()

    bench.outbox.writer.flush()
    assert bench.wire.written == []


@pytest.mark.parametrize("split", [lambda raw: [raw], bytewise], ids=["at once", "bytewise"])
@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (OK, [200, b"hello", "end"]),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", [404, "end"]),
        (CODED + b"5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n", [200, b"hello", "end"]),
        (CODED + b"0\r\n\r\n", [200, "end"]),
        (b"HTTP/1.1 204 No Content\r\n\r\n", [204, "end"]),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", [304, "end"]),
        (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", [304, "end"]),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nContent-Length: 5\r\n\r\n" + OK, [200, b"hello", "end"]),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", [200, b"hello", "end"]),
        (b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\nx", [200, b"x", "end"]),
    ],
)  # fmt: skip
def test_a_whole_answer_leaves_the_connection_idle(
    bench: Bench, raw: bytes, said: list[Any], split: Callable[[bytes], list[bytes]]
) -> None:
    """H55, H49."""
    bench.carry()
    bench.feed(*split(raw))

    heard = [one for one in bench.sink.said if not isinstance(one, bytes)]
    assert heard == [one for one in said if not isinstance(one, bytes)]
    assert b"".join(one for one in bench.sink.said if isinstance(one, bytes)) == b"".join(
        one for one in said if isinstance(one, bytes)
    )
    assert bench.is_idle


@pytest.mark.parametrize("raw", [OK, CODED + b"5\r\nhello\r\n0\r\n\r\n", b"HTTP/1.1 204 No\r\n\r\n"])
def test_a_connection_carries_one_call_after_another(bench: Bench, raw: bytes) -> None:
    for _ in range(3):
        bench.carry()
        bench.feed(raw)
        assert bench.sink.said[-1] == "end"
        assert bench.is_idle


@pytest.mark.parametrize("fields", [b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_an_answer_to_head_ends_with_its_head(bench: Bench, fields: bytes) -> None:
    """The parser would wait for the announced body (http-law 7)."""
    bench.carry(HEAD)
    bench.feed(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")

    assert bench.sink.said == [200, "end"]
    assert bench.is_idle
    bench.carry()
    bench.feed(OK)
    assert bench.sink.said == [200, b"hello", "end"]


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nconnection: x, Close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
def test_a_connection_that_the_upstream_does_not_keep_is_closed(bench: Bench, raw: bytes) -> None:
    bench.carry()
    bench.feed(raw)

    assert bench.sink.said == [200, b"hello", "end"]
    assert bench.wire.ended == "closed"


@pytest.mark.parametrize(
    "raw", [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"]
)
def test_head_does_not_keep_what_the_upstream_does_not_keep(bench: Bench, raw: bytes) -> None:
    bench.carry(HEAD)
    bench.feed(raw)

    assert bench.sink.said == [200, "end"]
    assert bench.wire.ended == "closed"


def test_fields_keep_their_order_case_and_bytes(bench: Bench) -> None:
    bench.carry()
    bench.feed(b"HTTP/1.1 200 OK\r\nX-B: \xe9 \t\r\nx-a:\r\nX-B: 2\r\nContent-Length:  0\r\n\r\n")

    assert bench.sink.fields == [(b"X-B", b"\xe9"), (b"x-a", b""), (b"X-B", b"2"), (b"Content-Length", b"0")]


def test_trailers_are_never_fields(bench: Bench) -> None:
    """P5, on the other side."""
    bench.carry()
    bench.feed(CODED, b"0\r\nAuthorization: Bearer x\r\nHost: h\r\n\r\n")

    assert bench.sink.fields == [(b"Transfer-Encoding", b"chunked")]
    assert bench.is_idle


INVALID = {
    "garbage": b"garbage\r\n\r\n",
    "empty": b"\r\n\r\n" + OK,
    "nul": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "control": b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "bare-lf": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n\r\n\r\n",
    "bare-cr": b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
    "obs-fold": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
    "space-before-colon": b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
    "length-and-coding": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding-and-length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "listed-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nxxx",
    "signed-length": b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nxxx",
    "huge-length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    "other-coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "gzip-alone": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "two-codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding-in-1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "http-2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "icy": b"ICE/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "099": b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n",
    "600": b"HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    "101-bare": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "large-head": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (HEAD_BYTES // 6) + b"\r\n",
    "endless-field": b"HTTP/1.1 200 OK\r\nX: " + b"y" * HEAD_BYTES,
    "chunk-size": CODED + b"zz\r\n",
    "chunk-end": CODED + b"1\r\nabc\r\n",
    "endless-extension": CODED + b"1;" + b"x" * (HEAD_BYTES * 2),
    "endless-trailer": CODED + b"0\r\n" + b"X: y\r\n" * (HEAD_BYTES // 3),
}


@pytest.mark.parametrize("size", [1 << 20, 1000, 1], ids=["at once", "in pieces", "bytewise"])
@pytest.mark.parametrize("name", INVALID)
def test_an_answer_that_is_not_valid_ends_the_connection(bench: Bench, name: str, size: int) -> None:
    """A24, H50, H51, H64; every cap."""
    raw = INVALID[name]
    if size == 1 and len(raw) > 1000:
        size = 50
    bench.carry()
    bench.feed(*(raw[n : n + size] for n in range(0, len(raw), size)))

    assert bench.sink.said[-1] is Trouble.INVALID
    assert bench.sink.said[:-1] in ([], [200], [200, b"a"])
    assert bench.wire.ended == "aborted"


def test_a_flood_of_hints_is_passed_over_within_bounds(bench: Bench) -> None:
    """A24: 5,000 of them."""
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    bench.carry()
    flood = hint * 5000 + OK
    bench.feed(*(flood[n : n + 65536] for n in range(0, len(flood), 65536)))
    assert bench.sink.said == [200, b"hello", "end"]

    bench.carry()
    bench.feed(hint * (INTERIM_BYTES // len(hint) + 1))
    assert bench.sink.said == [Trouble.INVALID]


@pytest.mark.parametrize(
    ("head", "raw"),
    [
        (GET, OK + OK),
        (GET, OK + b"x"),
        (GET, CODED + b"0\r\n\r\n" + OK),
        (GET, CODED + b"0\r\n\r\ngarbage"),
        (GET, b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello"),
        (HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ],
)
def test_what_stands_behind_an_answer_ends_the_connection(bench: Bench, head: bytes, raw: bytes) -> None:
    """A24: the clean first answer is told, and no next request sees the second."""
    bench.carry(head)
    bench.feed(raw)

    assert bench.sink.said[-1] == "end"
    assert Trouble.INVALID not in bench.sink.said
    assert bench.wire.ended == "closed"
    assert "idle" not in bench.told


def test_a_byte_that_nobody_asked_for_ends_an_idle_connection(bench: Bench) -> None:
    bench.carry()
    bench.feed(OK, b"H")

    assert bench.wire.ended == "aborted"
    assert not bench.connection.is_open


# the end of the stream -----------------------------------------------------------------------------------------------


def test_a_body_without_framing_ends_with_the_connection(bench: Bench) -> None:
    bench.carry()
    bench.feed(ENDLESS + b"hel", b"lo")
    bench.connection.eof_received()

    assert bench.sink.said == [200, b"hel", b"lo", "end"]
    assert bench.wire.ended == "closed"


@pytest.mark.parametrize(
    ("raw", "trouble"),
    [
        (b"", Trouble.CLOSED),
        (b"HTTP/1.1 2", Trouble.CUT),
        (b"HTTP/1.1 100 Continue\r\n\r\n", Trouble.CUT),
        (OK[:-1], Trouble.CUT),
        (CODED + b"5\r\nhello\r\n", Trouble.CUT),
        (CODED + b"5\r\nhello\r\n0\r\n", Trouble.CUT),
    ],
)
@pytest.mark.parametrize("how", ["end of stream", "reset"])
def test_a_connection_that_ends_too_early_is_told(bench: Bench, raw: bytes, trouble: Trouble, how: str) -> None:
    """H56: never a whole answer."""
    bench.carry()
    bench.feed(*([raw] if raw else []))
    if how == "reset":
        bench.connection.connection_lost(ConnectionResetError())
    else:
        bench.connection.eof_received()

    assert bench.sink.said[-1] is trouble
    assert "end" not in bench.sink.said


def test_a_reset_body_without_framing_is_cut(bench: Bench) -> None:
    bench.carry()
    bench.feed(ENDLESS + b"hel")
    bench.connection.connection_lost(ConnectionResetError())

    assert bench.sink.said[-1] is Trouble.CUT


def test_a_used_connection_that_ends_unanswered_is_stale_and_so_is_what_is_older(bench: Bench) -> None:
    """H63."""
    bench.carry()
    bench.feed(OK)
    bench.carry()
    bench.connection.connection_lost(None)

    assert bench.sink.said == [Trouble.STALE]
    assert bench.told == ["idle", "lost", "drop_idle"]


def test_a_used_connection_that_begins_to_answer_is_not_stale(bench: Bench) -> None:
    """H63: the upstream has had the request."""
    bench.carry()
    bench.feed(OK)
    bench.carry()
    bench.feed(b"H")
    bench.connection.connection_lost(None)

    assert bench.sink.said == [Trouble.CUT]


def test_broken_tls_is_told_as_what_it_is(bench: Bench) -> None:
    error = ssl.SSLError()
    bench.carry()
    bench.connection.connection_lost(error)

    assert bench.sink.said == [Trouble.TLS_BROKEN]
    assert bench.sink.error is error


def test_an_idle_connection_that_ends_tells_its_home_alone(bench: Bench) -> None:
    bench.carry()
    bench.feed(OK)
    bench.connection.eof_received()
    bench.connection.connection_lost(None)

    assert bench.sink.said == [200, b"hello", "end"]
    assert bench.told == ["idle", "lost"]


# the request's body --------------------------------------------------------------------------------------------------


def test_a_body_of_known_length_goes_out_as_it_is(bench: Bench) -> None:
    call = bench.carry(length=5)
    call.write(b"hel")
    call.write(b"")
    call.write(b"lo")
    call.end()

    assert bench.wire.written == [GET, b"hel", b"lo"]
    assert bench.feed(OK).is_idle


def test_a_body_of_unknown_length_is_chunked(bench: Bench) -> None:
    call = bench.carry(length=CHUNKED)
    call.write(b"hello worlds, all of you")
    call.write(b"")
    call.end()
    call.end()

    assert bench.wire.written == [GET, b"18\r\nhello worlds, all of you\r\n", b"0\r\n\r\n"]
    assert bench.feed(OK).is_idle


def sent(call: OwnCall, body: bytes) -> None:
    call.write(body)
    call.end()


@pytest.mark.parametrize(("length", "body"), [(5, b"longer than five"), (5, b"four"), (0, b"x")])
def test_a_body_of_another_length_never_completes_the_request(bench: Bench, length: int, body: bytes) -> None:
    """H45, H46."""
    call = bench.carry(length=length)
    with pytest.raises(WrongLengthError):
        sent(call, body)

    assert bench.wire.ended == "aborted"
    assert sum(map(len, bench.wire.written[1:])) < max(length, 1)
    assert bench.sink.said == []


EARLY = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"


def test_an_answer_before_the_body_is_whole_is_told_at_once(bench: Bench) -> None:
    """RFC 9112 9.5: the early 413; who does not want to go on aborts."""
    call = bench.carry(length=10)
    call.write(b"hello")
    bench.feed(EARLY)
    assert bench.sink.said == [413, b"no", "end"]
    call.abort()
    call.write(b"world")

    assert bench.wire.written == [GET, b"hello"]
    assert bench.wire.ended == "aborted"


@pytest.mark.parametrize("length", [10, CHUNKED])
def test_the_rest_of_a_request_may_follow_behind_its_answer(bench: Bench, length: int) -> None:
    call = bench.carry(length=length)
    call.write(b"hello")
    bench.feed(OK)
    call.pause()
    assert bench.wire.is_reading
    assert not bench.is_idle
    call.write(b"world")
    call.end()

    assert bench.sink.said == [200, b"hello", "end"]
    assert len(bench.wire.written) == (3 if length == 10 else 4)
    assert bench.is_idle


def test_behind_an_answer_that_ends_the_connection_nothing_is_sent(bench: Bench) -> None:
    call = bench.carry(length=10)
    bench.feed(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    call.write(b"helloworld")

    assert bench.sink.said == [413, "end"]
    assert bench.wire.written == [GET]
    assert bench.wire.ended == "aborted"


@pytest.mark.parametrize(
    "trouble",
    [
        lambda bench: bench.feed(OK),
        lambda bench: bench.connection.eof_received(),
        lambda bench: bench.connection.connection_lost(None),
    ],
    ids=["second answer", "end of stream", "loss"],
)
def test_what_happens_behind_an_answer_only_frees_who_waits_to_write(
    bench: Bench, trouble: Callable[[Bench], None]
) -> None:
    call = bench.carry(length=10)
    bench.connection.pause_writing()
    bench.feed(OK)
    trouble(bench)
    call.write(b"helloworld")

    assert bench.sink.said == ["pause", 200, b"hello", "end", "resume"]
    assert bench.wire.written == [GET]
    assert bench.wire.ended == "aborted"


@pytest.mark.parametrize("length", [5, 10, CHUNKED], ids=["sent-whole", "in-its-midst", "chunked"])
@pytest.mark.parametrize("fields", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
async def test_whoever_waits_to_write_is_freed_where_the_answer_ends_the_connection(
    bench: Bench, length: int, fields: bytes
) -> None:
    """RFC 9112 9.5: the upstream has answered and reads no more, so that the loop would never tell of it."""
    call = bench.carry(length=length)
    call.write(b"hello")
    bench.wire.buffered = 5
    bench.connection.pause_writing()
    bench.feed(OK.replace(b"Content", fields + b"Content"))

    is_over = bool(fields) or length == 5
    assert bench.sink.said == ["pause", 200, b"hello", *["resume"] * is_over, "end"]
    assert bool(bench.wire.ended) == is_over


def test_an_answer_may_flow_while_the_body_does(bench: Bench) -> None:
    call = bench.carry(length=CHUNKED)
    bench.feed(CODED + b"1\r\na\r\n")
    call.write(b"b")
    bench.feed(b"1\r\nc\r\n")
    call.end()
    bench.feed(b"0\r\n\r\n")

    assert bench.sink.said == [200, b"a", b"c", "end"]
    assert bench.is_idle


async def test_an_answer_to_a_body_that_has_not_gone_out_yet_ends_the_connection(bench: Bench) -> None:
    call = bench.carry(length=5)
    call.write(b"hello")
    bench.wire.buffered = 3
    bench.feed(OK)

    assert bench.sink.said[-1] == "end"
    assert bench.wire.ended == "closed"
    assert "idle" not in bench.told


# abort and pause -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["head", "data", "end"])
@pytest.mark.parametrize("raw", [OK, CODED + b"5\r\nhello\r\n0\r\n\r\n", ENDLESS + b"hello"])
def test_abort_is_the_last_word_at_every_stage(bench: Bench, stage: str, raw: bytes) -> None:
    """H60: also out of the midst of what is being told."""
    sink = Heard()
    call = bench.carry(sink=sink)
    sink.on[stage] = call.abort
    bench.feed(raw)
    assert stage == "end" or bench.wire.ended == "aborted"
    bench.connection.eof_received()

    words = {"head": [200], "data": [200, b"hello"], "end": [200, b"hello", "end"]}
    assert sink.said == words[stage]
    bench.connection.connection_lost(None)
    assert sink.said == words[stage]


def test_abort_of_an_old_call_does_nothing_to_the_next_one(bench: Bench) -> None:
    old = bench.carry()
    bench.feed(OK)
    bench.carry()
    old.write(b"x")
    old.pause()
    old.end()
    old.abort()

    assert bench.wire.written == [GET, GET]
    assert (bench.wire.ended, bench.wire.is_reading) == ("", True)
    assert bench.feed(OK).sink.said == [200, b"hello", "end"]


def test_the_next_call_may_begin_where_the_last_one_ends(bench: Bench) -> None:
    second = Heard()
    first = Heard(on={"end": lambda: bench.connection.carry(OwnCall(GET, 0, second), GET)})
    bench.carry(sink=first)
    bench.feed(OK)
    bench.outbox.writer.flush()
    bench.feed(OK)

    assert first.said == second.said == [200, b"hello", "end"]
    assert bench.wire.written == [GET, GET]


def test_pause_lets_the_upstream_wait_and_ends_with_the_call(bench: Bench) -> None:
    call = bench.carry()
    bench.feed(OK[:-2])
    call.pause()
    assert not bench.wire.is_reading
    call.resume()
    assert bench.wire.is_reading
    call.pause()
    bench.feed(OK[-2:])

    assert bench.wire.is_reading
    assert bench.is_idle


def test_a_slow_upstream_pauses_the_sink(bench: Bench) -> None:
    bench.carry(length=10)
    bench.connection.pause_writing()
    bench.connection.resume_writing()

    assert bench.sink.said == ["pause", "resume"]


# before there is a connection ----------------------------------------------------------------------------------------


def held(length: int, sink: Heard) -> OwnCall:
    call = OwnCall(GET, length, sink)
    call.hold(GET)
    return call


def test_what_is_written_before_there_is_a_connection_goes_out_in_one_write(bench: Bench) -> None:
    call = held(CHUNKED, bench.sink)
    call.write(b"hello")
    call.end()
    call.connected(bench.connection)

    assert bench.wire.written == [GET + b"5\r\nhello\r\n0\r\n\r\n"]
    assert bench.feed(OK).sink.said == [200, b"hello", "end"]


def test_no_more_is_held_than_there_is_room_for(bench: Bench) -> None:
    call = held(HELD_BYTES * 2, bench.sink)
    call.write(b"x" * HELD_BYTES)
    call.write(b"x")
    assert bench.sink.said == ["pause"]
    call.connected(bench.connection)

    assert bench.sink.said == ["pause", "resume"]


def test_a_large_body_does_not_wait_to_go_out_with_its_head(bench: Bench) -> None:
    """A loop may read megabytes of it before it comes to what waits to be written: only a write tells of congestion."""
    sink = Heard()
    call = OwnCall(GET, TOGETHER_BYTES * 2, sink)
    bench.connection.carry(call, GET)
    call.write(b"x" * 100)
    assert bench.wire.written == []
    bench.wire.on_write = bench.connection.pause_writing
    call.write(b"y" * TOGETHER_BYTES)
    bench.outbox.writer.flush()

    assert bench.wire.written == [GET + b"x" * 100, b"y" * TOGETHER_BYTES]
    assert "pause" in sink.said


def test_what_came_with_the_head_counts_among_what_is_held(bench: Bench) -> None:
    """Else an upload whose beginning is large is held whole until there is a connection, or none."""
    call = OwnCall(GET, HELD_BYTES * 2, bench.sink)
    call.hold(GET + call.framed(b"x" * HELD_BYTES))
    assert bench.sink.said == ["pause"]
    call.write(b"x")
    call.connected(bench.connection)

    assert bench.sink.said == ["pause", "resume"]


def test_a_slow_upstream_stays_slow_behind_what_was_held(bench: Bench) -> None:
    call = held(HELD_BYTES * 2, bench.sink)
    call.write(b"x" * HELD_BYTES)
    bench.wire.on_write = bench.connection.pause_writing
    call.connected(bench.connection)

    assert bench.sink.said == ["pause", "pause"]


def test_a_pause_before_there_is_a_connection_holds(bench: Bench) -> None:
    call = held(0, bench.sink)
    call.pause()
    call.connected(bench.connection)

    assert not bench.wire.is_reading


def test_a_call_that_finds_no_connection_is_told_once(bench: Bench) -> None:
    call = held(0, bench.sink)
    call.failed(Trouble.UNREACHABLE, OSError())
    call.failed(Trouble.CLOSED, None)
    call.write(b"x")

    assert bench.sink.said == [Trouble.UNREACHABLE]


def test_an_aborted_call_hears_nothing_of_its_connection(bench: Bench) -> None:
    call = held(5, bench.sink)
    call.abort()
    call.failed(Trouble.CLOSED, None)
    call.write(b"hello")

    assert bench.sink.said == []
