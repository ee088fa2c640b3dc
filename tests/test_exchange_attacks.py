"""What an upstream says at a bad moment, and callers that act in the midst of what they are told."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from typing import Any

import pytest

from proxy.clock import settle
from proxy.events import Relayed
from proxy.exchange import Exchange
from proxy.headers import Fields
from proxy.request import Request
from proxy.spool import MEMORY_LIMIT, Spools
from proxy.tasks import Tasks
from proxy.transport.seam import Trouble
from proxy.upload import Upload
from proxy.upstreams import Match
from tests.journeys.house import CANARY, token_set
from tests.poll import eventually
from tests.recorded import LateSource, Make, RecordedCall, RecordedCaller, Stage, stages

CHUNKED = (b"transfer-encoding", b"chunked")


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    async with stages() as make:
        yield make


def whole_but_stuck(stage: Stage) -> tuple[RecordedCaller, RecordedCall]:
    """Return both ends of an upload that is whole here, while the upstream takes nothing for the moment."""
    caller, exchange, call = stage.asked("POST", CHUNKED)
    exchange.write(b"hello")
    call.sink.pause()
    exchange.end()
    return caller, call


# answers at a bad moment ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "body", "kind"),
    [((b"X", b"a\x00b"), b"", "upstream-invalid"), ((b"X-Token", CANARY.encode()), b"", "token-echo"),
     ((b"Content-Type", b"text/plain"), CANARY.encode(), "token-echo")],
    ids=["invalid-field", "token-in-a-field", "token-in-the-body"],
)  # fmt: skip
async def test_s30_h51_an_early_answer_that_may_not_be_relayed_is_refused_when_its_turn_comes(
    make: Make, field: tuple[bytes, bytes], body: bytes, kind: str
) -> None:
    """It is judged where the upstream takes the rest of the upload: nothing may get lost in the event loop there."""
    stage = make(LateSource(token_set()))
    caller, call = whole_but_stuck(stage)
    call.answer(200, body, field)
    assert caller.said == []
    call.sink.resume()

    assert [one.kind for one in caller.said] == [kind]


async def test_a21_an_early_answer_that_breaks_off_lets_the_caller_go_on_to_its_end(make: Make) -> None:
    """No more will be taken, so there is nothing to wait for; what became of it is said where it was to be given."""
    stage = make()
    caller, exchange, call = stage.asked("POST", CHUNKED)
    call.sink.pause()
    call.sink.on_head(200, [(b"Content-Length", b"5")])
    call.sink.on_error(Trouble.CUT, None)
    assert caller.wants_body
    exchange.write(b"x")
    exchange.end()

    assert caller.said == [200, "cut"]


async def test_an_early_success_is_given_though_the_upstream_reads_no_more(make: Make) -> None:
    """RFC 9112 9.5: as the direct way tells of it, on a connection that the upstream closes."""
    stage = make()
    caller, exchange, call = stage.asked("POST", CHUNKED)
    call.sink.pause()
    call.sink.on_head(200, [(b"Connection", b"close"), (b"Content-Length", b"5")])
    call.sink.on_data(b"hello")
    call.sink.resume()
    call.sink.on_end()
    assert caller.wants_body
    exchange.end()

    assert caller.said == [200, b"hello", "end"]


# callers who act at once ---------------------------------------------------------------------------------------------


class Hasty(RecordedCaller):
    """Does something as soon as it is told something."""

    def __init__(self, **on: Callable[[Exchange], None]) -> None:
        super().__init__()
        self.on = on

    def _act(self, moment: str) -> None:
        act = self.on.get(moment)
        if act is not None and self.exchange is not None:
            act(self.exchange)

    def on_head(self, status: int, fields: Fields) -> None:
        super().on_head(status, fields)
        self._act("head")

    def on_data(self, data: bytes) -> None:
        super().on_data(data)
        self._act("data")

    def resume(self) -> None:
        super().resume()
        self._act("resume")


def hasty(stage: Stage, *fields: tuple[bytes, bytes], **on: Callable[[Exchange], None]) -> tuple[Hasty, Exchange]:
    """Begin an exchange whose caller acts at once."""
    caller = Hasty(**on)
    request = Request("POST", b"/data/x", list(fields), b"http://localhost")
    caller.exchange = stage.relay.exchange(request, Match(stage.upstream, b"/data", b"/x", b""), caller, extra=[])
    return caller, caller.exchange


@pytest.mark.parametrize("moment", ["head", "data"])
@pytest.mark.parametrize("media_type", [b"application/json", b"text/csv", b"image/png"])
async def test_a20_who_goes_in_the_midst_of_an_answer_is_told_no_more(
    make: Make, moment: str, media_type: bytes
) -> None:
    """H60: whether the answer was held, searched, or neither."""
    stage = make(LateSource(token_set()))
    caller, exchange = hasty(stage, **{moment: Exchange.abort})
    exchange.start()
    body = b"hello" * 20  # longer than a token, so that it is looked at
    stage.calls[0].answer(200, body, (b"Content-Type", media_type))

    assert caller.said == ([200] if moment == "head" else [200, body])
    (event,) = stage.events
    assert isinstance(event, Relayed)
    assert not event.is_complete


def _rest(exchange: Exchange) -> None:
    exchange.write(b"rest")
    exchange.end()


@pytest.mark.parametrize("status", [200, 401, 413])
@pytest.mark.parametrize("is_stuck", [False, True])
async def test_a41_who_gives_the_rest_of_a_body_as_soon_as_it_is_wanted_is_answered_once(
    make: Make, status: int, *, is_stuck: bool
) -> None:
    """H24: one head, one end, one cure, though the rest comes out of the midst of a decision."""
    source = LateSource(token_set("old"))
    source.newer.set_result(None)
    stage = make(source)
    wishes: list[Callable[[Exchange], None]] = []
    caller, exchange = hasty(stage, CHUNKED, resume=lambda one: wishes.pop()(one) if wishes else None)
    exchange.start()
    exchange.write(b"begun ")
    (call,) = stage.calls
    wishes.append(_rest)
    if is_stuck:
        call.sink.pause()
    call.answer(status, b"hello")
    if is_stuck:
        call.sink.resume()
    elif status == 200:
        _rest(exchange)
    await settle()

    assert caller.said == [status, b"hello", "end"]
    assert (len(stage.events), len(source.rejected), len(stage.calls)) == (1, status == 401, 1)


@pytest.mark.parametrize("status", [200, 401, 413])
async def test_a20_who_goes_as_soon_as_its_body_is_wanted_is_gone(make: Make, status: int) -> None:
    """H58: nothing comes back to life, no second call begins."""
    source = LateSource(token_set("old"))
    stage = make(source)
    resumed: list[str] = []

    def go(exchange: Exchange) -> None:
        resumed.append("resume")
        if len(resumed) == 2:
            exchange.abort()

    caller, exchange = hasty(stage, CHUNKED, resume=go)
    exchange.start()
    (call,) = stage.calls
    call.sink.pause()
    call.answer(status, b"hello")
    call.sink.resume()
    await settle()

    assert caller.said == []
    assert (source.rejected, stage.events, len(stage.calls)) == ([], [], 1)


async def test_h61_an_upstream_that_stops_as_soon_as_it_goes_on_is_stuck_and_told_so(make: Make) -> None:
    """504 `stopped taking the request`, and not the silence in which a caller who sends nothing ends."""
    stage = make(idle_timeout=0.02)
    caller, exchange = hasty(stage, CHUNKED, resume=lambda one: one.write(b"more"))
    exchange.start()
    (call,) = stage.calls
    call.on_write = call.sink.pause  # it takes a piece at a time
    call.sink.pause()
    call.sink.resume()
    await eventually(lambda: caller.said)

    assert caller.said[0].status == 504


# the deadline of all -------------------------------------------------------------------------------------------------


def _held(call: RecordedCall, exchange: Exchange) -> None:
    exchange.end()
    call.sink.on_head(200, [(b"Content-Type", b"application/json"), (b"Content-Length", b"1000")])
    call.sink.on_data(b"{")


STAGES: dict[str, Callable[[RecordedCall, Exchange], None]] = {
    "sending": lambda call, exchange: None,
    "stuck": lambda call, exchange: call.sink.pause(),
    "early": lambda call, exchange: call.answer(200),
    "awaiting": lambda call, exchange: exchange.end(),
    "curing": lambda call, exchange: call.answer(401),
    "holding": _held,
}
"""How an upload gets there."""


@pytest.mark.parametrize("stage", ["token", *STAGES, "reading"])
async def test_a23_total_timeout_is_the_end_in_every_stage(make: Make, stage: str) -> None:
    """H62, S34: a 504 wherever nothing was given, and nothing is left of it."""
    source = LateSource(None if stage == "token" else token_set("a-token-that-is-searched-for"))
    there = make(source, total_timeout=0.05)
    caller, exchange = there.ask("POST", CHUNKED)
    exchange.start()
    if stage == "reading":
        source.newer.set_result(token_set("newer"))
    if stage != "token":
        STAGES.get(stage, STAGES["curing"])(there.calls[0], exchange)
    await eventually(lambda: caller.said)

    assert [one.status for one in caller.said] == [504]
    assert "total_timeout" in caller.said[0].detail
    assert len(there.calls) == (stage != "token")


# behind the end ------------------------------------------------------------------------------------------------------


class Giver:
    """A caller's end that keeps what it is asked."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def pause(self) -> None:
        self.said.append("pause")

    def resume(self) -> None:
        self.said.append("resume")


async def test_nobody_is_asked_to_go_on_behind_the_end_by_a_disk_that_was_slow() -> None:
    """The caller's connection may be serving its next request by then."""
    gate = threading.Event()

    class Slow(BytesIO):
        def write(self, data: Any) -> int:
            gate.wait(10)
            return super().write(data)

    spools, tasks, giver = Spools(open_file=lambda _: Slow()), Tasks(), Giver()
    upload = Upload(giver, spools.spool(1 << 30), tasks)
    upload.go_to(RecordedCall(b"", -1, None))  # type: ignore[arg-type]  # it is told nothing
    for _ in range(6):
        upload.write(bytes(MEMORY_LIMIT))
    assert giver.said == ["resume", "pause"]
    upload.forget()
    gate.set()
    await eventually(lambda: not spools.held)
    await asyncio.wait({asyncio.ensure_future(tasks.close())})
    await spools.close()

    assert giver.said == ["resume", "pause"]
