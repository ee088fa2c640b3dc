"""The listener's lane: each of its transitions, with bytes fed on the caller's side and calls recorded on the other."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from proxy.decision import Rules
from proxy.events import Event, Refused, Relayed
from proxy.exchange import Exchange
from proxy.guard import Guard
from proxy.lane import WRITE_BYTES, Lane, Lanes
from proxy.limits import Limits, Room
from proxy.protocol import Protocol
from proxy.refusals import Refusals
from proxy.transport.seam import Trouble
from proxy.upstream_answer import UpstreamAnswer
from proxy.upstreams import Mounts
from tests.journeys.house import token_set
from tests.poll import eventually
from tests.recorded import LateSource, RecordedCall, Stage

GET = b"GET /data/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /data/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
LENGTH = (b"Content-Length", b"5")
POST = b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"


class Wire(asyncio.Transport):
    """The connection of one caller: what is written to it, and whether it is read."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__({"peername": ("127.0.0.1", 5000), "sockname": ("127.0.0.1", 8400)})
        self.writes: list[bytes] = []
        self.is_read = True
        self.end = ""
        """`closed` or `aborted`."""
        self.protocol = protocol
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        assert not self.end, "written behind the end, which uvloop's transport does not take"
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return bool(self.end)

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def close(self) -> None:
        self._be_over("closed")

    def abort(self) -> None:
        self._be_over("aborted")

    def _be_over(self, how: str) -> None:
        if not self.end:
            self.end = how
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def lose(self) -> None:
        """Let the caller hang up."""
        self.end = "lost"
        self.protocol.connection_lost(None)

    @property
    def said(self) -> bytes:
        return b"".join(self.writes)


class House:
    """Wires of a listener whose lanes lead to a recorded upstream."""

    def __init__(self, source: LateSource | None = None, **settings: Any) -> None:
        self.stage = Stage(source, **settings)
        self.asked: list[str] = []
        rules = Rules(Guard(), Mounts([self.stage.upstream]), b"bearerproxy-test")
        self._lanes = Lanes(rules, self.stage.relay, Refusals(rules.guard, self.stage.events.append))
        self._state = ServerState()
        self._wires: list[Wire] = []

    async def _app(self, scope: Any, _receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"app"})

    def wire(self) -> Wire:
        protocol = Protocol(
            config=Config(self._app, interface="asgi3", lifespan="off", log_config=None),
            server_state=self._state,
            app_state={},
            guard=Guard(),
            limits=Limits(),
            room=Room(10),
            refused=lambda *_: None,
            lanes=self._lanes,
        )
        self._wires.append(Wire(protocol))
        return self._wires[-1]

    @property
    def calls(self) -> list[RecordedCall]:
        return self.stage.calls

    @property
    def events(self) -> list[Event]:
        return self.stage.events

    def is_free(self) -> bool:
        return self.stage.relay.in_flight["data"] == 0

    async def close(self) -> None:
        for wire in self._wires:
            wire.abort()
        await turn()
        await self.stage.close()


async def turn() -> None:
    """Let what was put off to the loop's next turn happen."""
    for _ in range(3):
        await asyncio.sleep(0)  # noqa: TID251 - yields, does not wait


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    await house.close()


def statuses(events: list[Event]) -> list[tuple[int, bool]]:
    return [(one.status, one.is_complete) for one in events if isinstance(one, Relayed)]


# the way down --------------------------------------------------------------------------------------------------------


async def test_a_connection_needs_no_table_for_its_names(house: House) -> None:
    """CPython shares one among all objects of a class that have thirty at most; else each has one, of 1.5 KiB."""
    wire = house.wire()
    wire.protocol.data_received(POST + b"\r\nbody")
    house.calls[0].answer()

    assert len(vars(wire.protocol)) <= 30


async def test_a_small_answer_is_one_write_and_the_connection_goes_on(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(GET)
    house.calls[0].answer(200, b"hello")
    assert wire.writes == []
    await turn()

    (written,) = wire.writes
    assert written.startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n")
    assert written.endswith(b"\r\n\r\nhello")
    assert statuses(house.events) == [(200, True)]
    assert house.is_free()
    wire.protocol.data_received(GET)
    assert len(house.calls) == 2
    assert not wire.end


async def test_no_task_and_no_scope_is_made_for_a_relayed_request(house: House) -> None:
    wire = house.wire()
    before = asyncio.all_tasks()
    wire.protocol.data_received(GET)

    assert asyncio.all_tasks() == before
    assert house.asked == []


async def test_what_is_over_leaves_nothing_to_the_collector(house: House) -> None:
    """Its pauses are everybody's. What the newest answer was given by is known to its connection."""

    def alive() -> int:
        return sum(isinstance(one, (Exchange, Lane, UpstreamAnswer)) for one in gc.get_objects())

    wire = house.wire()
    gc.collect()
    gc.disable()
    try:
        before = alive()
        for _ in range(5):
            wire.protocol.data_received(GET)
            house.calls.pop().answer()
            await turn()
        assert alive() - before == 2
    finally:
        gc.enable()


async def test_what_is_no_relay_is_the_apps(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(GET.replace(b"/data/x", b"/-/live"))
    await turn()

    assert house.asked == ["/-/live"]
    assert wire.said.endswith(b"\r\n\r\napp")
    assert house.calls == []


async def test_a20_what_finds_no_place_is_refused_by_the_app() -> None:
    house = House(max_requests=1)
    one, other = house.wire(), house.wire()
    one.protocol.data_received(GET)
    other.protocol.data_received(GET)
    await turn()

    assert len(house.calls) == 1
    assert house.asked == ["/data/x"]
    await house.close()


async def test_a_head_alone_goes_out_in_the_loops_next_turn(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(GET)
    house.calls[0].sink.on_head(200, [])
    assert wire.writes == []
    await turn()

    assert b"transfer-encoding: chunked" in wire.said
    house.calls[0].sink.on_data(b"event")
    assert wire.writes[1:] == [b"5\r\nevent\r\n"]
    house.calls[0].sink.on_end()
    assert wire.writes[2:] == [b"0\r\n\r\n"]


async def test_an_answer_is_complete_once_it_is_written(house: House) -> None:
    """And not before: what stands behind its request must not be answered in front of it."""
    wire = house.wire()
    wire.protocol.data_received(GET + b"no request\r\n\r\n")
    house.calls[0].answer(200, b"hello")
    assert statuses(house.events) == []
    assert wire.writes == []
    await turn()

    assert statuses(house.events) == [(200, True)]
    assert wire.said.find(b"hello") < wire.said.find(b"HTTP/1.1 400 ")
    assert wire.said.count(b"HTTP/1.1 ") == 2


async def test_a_whole_answer_whose_caller_goes_before_it_is_written_broke_off(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(GET)
    house.calls[0].answer(200, b"hello")
    wire.lose()
    await turn()

    assert statuses(house.events) == [(200, False)]
    assert house.is_free()


async def test_a_slow_reader_of_what_came_first_gets_the_rest_in_order(house: House) -> None:
    """Its transport may tell that it is slow out of the very write."""
    wire = house.wire()
    wire.protocol.data_received(GET)
    house.calls[0].sink.on_head(200, [(b"Content-Length", b"%d" % (WRITE_BYTES + 6))])
    house.calls[0].sink.on_data(b"x" * (WRITE_BYTES + 1))
    wire.protocol.pause_writing()
    house.calls[0].sink.on_data(b"hello")
    house.calls[0].sink.on_end()
    await turn()
    assert statuses(house.events) == []
    wire.protocol.resume_writing()
    await turn()

    assert wire.said.endswith(b"xhello")
    assert statuses(house.events) == [(200, True)]


async def test_a_caller_who_reads_on_before_the_answer_is_written_completes_nothing(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(GET)
    wire.protocol.pause_writing()
    house.calls[0].answer(200, b"hello")
    wire.protocol.resume_writing()
    assert (statuses(house.events), wire.writes) == ([], [])
    await turn()

    assert statuses(house.events) == [(200, True)]
    assert wire.said.endswith(b"hello")


async def test_an_answer_that_was_complete_before_the_loop_came_by_is_so_once(house: House) -> None:
    """A second time it would be the next request's, and end the connection under it."""
    wire = house.wire()
    wire.protocol.data_received(GET + LAST)
    house.calls[0].answer(200, b"x" * (WRITE_BYTES + 1))
    await turn()
    assert len(house.calls) == 2
    assert not wire.end

    house.calls[1].answer(200, b"hello")
    await turn()
    assert wire.said.endswith(b"hello")


async def test_a_large_beginning_does_not_wait_for_its_end(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(GET)
    house.calls[0].sink.on_head(200, [])
    house.calls[0].sink.on_data(b"x" * (WRITE_BYTES + 1))

    assert len(wire.writes) == 1


@pytest.mark.parametrize(
    ("raw", "is_closed"),
    [(LAST, True), (GET.replace(b"1.1", b"1.0"), True), (GET, False)],
    ids=["close", "HTTP/1.0", "keep-alive"],
)
async def test_an_answer_ends_as_its_request_asked_for(house: House, raw: bytes, *, is_closed: bool) -> None:
    wire = house.wire()
    wire.protocol.data_received(raw)
    house.calls[0].answer()
    await turn()

    assert (wire.end == "closed") == is_closed
    assert (b"connection: close" in wire.said) == is_closed


async def test_p15_a_body_without_length_is_delimited_by_closing_for_http_1_0(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(GET.replace(b"1.1", b"1.0"))
    sink = house.calls[0].sink
    sink.on_head(200, [])
    sink.on_data(b"hello")
    sink.on_end()
    await turn()

    assert wire.said.endswith(b"\r\n\r\nhello")
    assert wire.end == "closed"


async def test_head_has_the_length_and_no_body(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(GET.replace(b"GET", b"HEAD"))
    sink = house.calls[0].sink
    sink.on_head(200, [LENGTH])
    sink.on_end()
    await turn()

    assert b"content-length: 5" in wire.said
    assert wire.said.endswith(b"\r\n\r\n")


# turns ---------------------------------------------------------------------------------------------------------------


async def test_h24_requests_in_a_pipeline_have_their_turns(house: House) -> None:
    """Relayed ones and others in one queue; what waits is not read."""
    wire = house.wire()
    wire.protocol.data_received(GET + GET.replace(b"/data/x", b"/-/live") + GET)
    assert len(house.calls) == 1
    assert not wire.is_read
    house.calls[0].answer(200, b"first")
    await turn()
    assert len(house.calls) == 2
    house.calls[1].answer(200, b"third")
    await turn()

    bodies = [wire.said.find(word) for word in (b"first", b"app", b"third")]
    assert bodies == sorted(bodies)
    assert -1 not in bodies
    assert wire.is_read


async def test_thousands_that_are_answered_at_once_are_no_deep_stack(house: House) -> None:
    """Each is answered while it is begun."""

    def answer_at_once(head: bytes, length: int, sink: Any, body: bytes = b"") -> RecordedCall:
        house.calls.append(RecordedCall(head, length, sink, body))
        raise ValueError("a defect below")  # answered in our words before `start` returns

    house.stage.way.start = answer_at_once  # type: ignore[method-assign]
    wire = house.wire()
    count = sys.getrecursionlimit()
    wire.protocol.data_received(GET * count + LAST)
    await eventually(lambda: bool(wire.end), what="the last answer")

    assert wire.said.count(b"HTTP/1.1 500 ") == count + 1
    assert wire.end == "closed"


# the way up ----------------------------------------------------------------------------------------------------------


async def test_a_body_that_came_with_its_head_goes_up_with_it(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(POST + b"\r\nbody")

    (call,) = house.calls
    assert (call.body, call.left) == (b"body", 0)
    assert wire.is_read


async def test_h18_a_body_is_not_read_before_it_is_wanted() -> None:
    source = LateSource(None)
    house = House(source)
    wire = house.wire()
    wire.protocol.data_received(POST + b"Expect: 100-continue\r\n\r\n")
    await turn()
    assert (wire.is_read, wire.writes) == (False, [])
    source.given.set_result(token_set())
    await turn()

    assert (wire.is_read, wire.writes) == (True, [b"HTTP/1.1 100 Continue\r\n\r\n"])
    wire.protocol.data_received(b"body")
    assert house.calls[0].body == b"body"
    await house.close()


async def test_h55_an_upstream_that_takes_nothing_stops_the_reading(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(POST + b"\r\nbo")
    house.calls[0].sink.pause()
    assert not wire.is_read
    house.calls[0].sink.resume()
    assert wire.is_read


async def test_h27_an_answer_before_the_body_was_read_is_the_last(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(POST + b"\r\nbo")
    house.calls[0].answer(403, b"no")
    await turn()

    assert b"connection: close" in wire.said
    wire.protocol.data_received(b"dy" + GET)
    assert len(house.calls) == 1


async def test_p10_a_bad_chunk_ends_the_connection_and_the_call(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(
        b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n"
    )
    wire.protocol.data_received(b"no chunk\r\n")

    assert (wire.end, wire.writes) == ("aborted", [])
    assert house.calls[0].is_aborted
    assert house.is_free()


async def test_a_bad_chunk_in_the_first_read_starts_nothing(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(
        b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n"
    )

    assert (wire.end, house.calls) == ("aborted", [])
    assert house.is_free()


# what goes wrong -----------------------------------------------------------------------------------------------------


async def test_a_failure_before_the_head_is_answered_in_our_words(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(GET)
    house.calls[0].sink.on_error(Trouble.INVALID, None)
    await turn()

    assert wire.said.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"/-/errors/upstream-invalid" in wire.said
    (event,) = house.events
    assert isinstance(event, Refused)
    assert not wire.end  # the next request may come


@pytest.mark.parametrize("is_late", [False, True], ids=["with its head", "later"])
async def test_h56_an_answer_that_breaks_off_is_cut(house: House, *, is_late: bool) -> None:
    """What came of it is given, even if all came at once."""
    wire = house.wire()
    wire.protocol.data_received(GET)
    call = house.calls[0]
    call.sink.on_head(200, [])
    call.sink.on_data(b"half")
    if is_late:
        await turn()
    call.sink.on_error(Trouble.CUT, None)
    await turn()

    assert wire.said.endswith(b"4\r\nhalf\r\n")
    assert wire.end == "aborted"
    assert statuses(house.events) == [(200, False)]


@pytest.mark.parametrize("stage", ["asked", "begun", "ended"])
async def test_a20_a_caller_who_goes_takes_the_call_along(house: House, stage: str) -> None:
    wire = house.wire()
    wire.protocol.data_received(GET)
    call = house.calls[0]
    if stage != "asked":
        call.sink.on_head(200, [LENGTH])
    if stage == "ended":
        wire.protocol.pause_writing()
        call.sink.on_data(b"hello")
        call.sink.on_end()
    wire.lose()

    assert call.is_aborted
    assert house.is_free()
    assert statuses(house.events) == ([] if stage == "asked" else [(200, False)])


async def test_h55_a_caller_who_reads_slowly_stops_the_upstream(house: House) -> None:
    """An answer is taken when the caller reads on, and not before."""
    wire = house.wire()
    wire.protocol.data_received(GET)
    call = house.calls[0]
    call.sink.on_head(200, [LENGTH])
    wire.protocol.pause_writing()
    assert call.is_paused
    call.sink.on_data(b"hello")
    call.sink.on_end()
    await turn()
    assert statuses(house.events) == []
    wire.protocol.resume_writing()

    assert statuses(house.events) == [(200, True)]


async def test_a45_a_drain_lets_the_answer_end_and_nothing_behind_it(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(GET + GET)
    wire.protocol.shutdown()
    house.calls[0].answer()
    await turn()

    assert b"connection: close" in wire.said
    assert wire.end == "closed"
    assert len(house.calls) == 1


async def test_a45_what_is_not_over_after_the_drain_is_cut(house: House) -> None:
    wire = house.wire()
    wire.protocol.data_received(GET)
    assert wire.protocol.is_answering
    wire.protocol.cut()

    assert wire.end == "aborted"
    assert house.calls[0].is_aborted
    assert house.is_free()
