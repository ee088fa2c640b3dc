"""The exchange's states, fed by hand: no socket, no listener, one test for each transition of its picture."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.clock import settle
from proxy.errors import BadRequest, IssuerUnavailable, Overloaded, UpstreamInvalid, UpstreamTimeout
from proxy.events import Failed, Relayed
from proxy.exchange import NO_NEWER, NOT_HELD, REFUSED_TOO, UNANSWERED
from proxy.transport.seam import Sink, Trouble
from proxy.upstream_answer import UpstreamAnswer
from tests.journeys.house import token_set
from tests.poll import eventually
from tests.recorded import LateSource, Make, RecordedCall, RecordedWay, Stage, stages

LENGTH_5 = (b"content-length", b"5")
CHUNKED = (b"transfer-encoding", b"chunked")


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    async with stages() as make:
        yield make


def told(stage: Stage) -> Relayed:
    (event,) = stage.events
    assert isinstance(event, Relayed)
    return event


# a request without a body --------------------------------------------------------------------------------------------


async def test_with_a_token_at_hand_the_request_goes_out_at_once_and_in_one_piece(make: Make) -> None:
    """No task, no wait: NEW to AWAITING."""
    stage = make(LateSource(token_set("held")))
    before = len(asyncio.all_tasks())
    caller, _, call = stage.asked()

    assert call.head.startswith(b"GET /x HTTP/1.1\r\nhost: data.example.org\r\n")
    assert call.head.endswith(b"authorization: Bearer held\r\n\r\n")
    assert len(asyncio.all_tasks()) == before
    call.answer()
    assert caller.said == [200, b"hello", "end"]
    assert (told(stage).sent, told(stage).is_complete) == (5, True)


async def test_where_no_token_is_ready_the_request_waits_for_one(make: Make) -> None:
    """TOKEN."""
    source = LateSource(None)
    stage = make(source)
    caller, exchange = stage.ask()
    exchange.start()
    await settle()
    assert stage.calls == []
    source.given.set_result(token_set("late"))
    await settle()

    assert b"Bearer late" in stage.calls[0].head
    stage.calls[0].answer()
    assert caller.said == [200, b"hello", "end"]


async def test_where_there_is_no_token_the_source_says_why(make: Make) -> None:
    source = LateSource(None)
    stage = make(source)
    caller, exchange = stage.ask()
    exchange.start()
    refusal = IssuerUnavailable("away")
    source.given.set_exception(refusal)
    await settle()

    assert caller.said == [refusal]
    assert not stage.calls
    assert not stage.events


async def test_a_defect_of_the_source_is_told_and_answered(make: Make) -> None:
    source = LateSource(None)
    stage = make(source)
    caller, exchange = stage.ask()
    exchange.start()
    source.given.set_exception(RuntimeError("with a s3cret"))
    await settle()

    assert [one.status for one in caller.said] == [500]
    (event,) = stage.events
    assert isinstance(event, Failed)
    assert "s3cret" not in event.error


@pytest.mark.parametrize("trouble", list(Trouble))
@pytest.mark.parametrize("has_begun", [False, True])
async def test_every_trouble_is_a_refusal_or_a_cut(make: Make, trouble: Trouble, *, has_begun: bool) -> None:
    """A21: nothing that was begun looks complete."""
    stage = make()
    caller, _, call = stage.asked("POST")
    if has_begun:
        call.sink.on_head(200, [])
    call.sink.on_error(trouble, None)

    assert caller.said[-1] == "cut" if has_begun else caller.said[0].status in (502, 504)
    assert [one.is_complete for one in stage.events if isinstance(one, Relayed)] == [False] * has_begun


async def test_a_stale_connection_costs_one_more_try_and_only_what_may_be_repeated(make: Make) -> None:
    """H63."""
    stage = make()
    caller, _, call = stage.asked("GET")
    call.sink.on_error(Trouble.STALE, None)
    stage.calls[1].sink.on_error(Trouble.STALE, None)
    (failure,) = caller.said
    assert isinstance(failure, UpstreamInvalid)
    for fields in ([], [LENGTH_5]):
        caller, _, call = stage.asked("POST" if not fields else "PUT", *fields)
        call.sink.on_error(Trouble.STALE, None)
        assert len(caller.said) == 1

    assert len(stage.calls) == 4


async def test_a_field_that_may_not_be_relayed_is_a_502(make: Make) -> None:
    """H51."""
    stage = make()
    caller, _, call = stage.asked()
    call.sink.on_head(200, [(b"X", b"a\x00b")])

    assert [one.status for one in caller.said] == [502]


# bodies --------------------------------------------------------------------------------------------------------------


async def test_h18_a_body_is_wanted_once_there_is_a_call_and_goes_up_as_it_comes(make: Make) -> None:
    """SENDING to AWAITING."""
    stage = make()
    caller, exchange = stage.ask("POST", LENGTH_5)
    assert not caller.wants_body
    exchange.start()
    (call,) = stage.calls
    assert caller.wants_body
    exchange.write(b"he")
    exchange.write(b"llo")
    exchange.end()
    call.answer()

    assert (call.body, call.is_ended, told(stage).received) == (b"hello", True, 5)


async def test_what_came_of_a_body_before_there_was_a_token_goes_out_with_the_head(make: Make) -> None:
    source = LateSource(None)
    stage = make(source)
    _, exchange = stage.ask("POST", CHUNKED)
    exchange.write(b"ear")
    exchange.start()
    exchange.write(b"ly")
    exchange.end()
    source.given.set_result(token_set())
    await settle()
    (call,) = stage.calls

    assert (call.body, call.is_ended) == (b"early", True)
    call.answer()


@pytest.mark.parametrize("body", [b"abc", b"abcdefg"], ids=["too-short", "too-long"])
async def test_h45_a_body_that_does_not_fit_its_length_is_explained(make: Make, body: bytes) -> None:
    """Our listener's parser would not let it in; another server might."""
    stage = make()
    caller, exchange, call = stage.asked("POST", LENGTH_5)
    exchange.write(body)
    exchange.end()

    (failure,) = caller.said
    assert isinstance(failure, BadRequest)
    assert "length that its head announced" in failure.detail
    assert call.is_aborted


class FullWay(RecordedWay):
    """Has no connection yet, and can hold no more than what came with the head."""

    def start(self, head: bytes, length: int, sink: Sink, body: bytes = b"") -> RecordedCall:
        sink.pause()
        return super().start(head, length, sink, body)


async def test_of_an_answer_that_flows_no_head_is_kept(make: Make) -> None:
    """A stream may last for days, and its head is two KiB of memory."""
    stage = make()
    caller, _, call = stage.asked()
    call.sink.on_head(200, [(b"Content-Type", b"text/csv")])
    assert (b"content-type", b"text/csv") in caller.fields
    assert isinstance(call.sink, UpstreamAnswer)

    assert call.sink.fields == []
    call.sink.on_end()
    assert caller.said == [200, "end"]


async def test_h55_what_comes_with_a_head_may_be_all_that_is_held_until_there_is_a_connection(make: Make) -> None:
    stage = make()
    stage.relay.ways = {"data": FullWay(stage.calls)}
    caller, exchange = stage.ask("POST", CHUNKED)
    exchange.write(b"hello")
    exchange.start()
    assert not caller.wants_body
    stage.calls[-1].sink.resume()
    assert caller.wants_body
    exchange.end()
    stage.calls[-1].answer()

    assert stage.calls[-1].body == b"hello"


async def test_h55_back_pressure_crosswise(make: Make) -> None:
    """The upstream reads slowly: the caller waits. The caller reads slowly: the upstream waits."""
    stage = make()
    caller, exchange, call = stage.asked("POST", CHUNKED)
    call.sink.pause()
    assert not caller.wants_body
    call.sink.resume()
    assert caller.wants_body
    exchange.end()
    call.sink.on_head(200, [])
    exchange.pause()
    assert call.is_paused
    exchange.resume()
    assert not call.is_paused
    call.sink.on_end()


async def test_an_early_refusal_of_an_upload_is_given_at_once_and_ends_it(make: Make) -> None:
    """RFC 9112 9.5: the upstream does not want the rest."""
    stage = make()
    caller, exchange, call = stage.asked("POST", CHUNKED)
    exchange.write(b"he")
    call.sink.on_head(413, [])
    exchange.write(b"llo")
    call.sink.on_end()

    assert caller.said == [413, "end"]
    assert (call.body, call.is_ended) == (b"he", False)
    assert told(stage).received == 2


async def test_an_early_success_waits_for_the_end_of_the_upload(make: Make) -> None:
    stage = make()
    caller, exchange, call = stage.asked("POST", CHUNKED)
    call.answer(200, b"got it")
    assert caller.said == []
    exchange.write(b"hello")
    exchange.end()

    assert caller.said == [200, b"got it", "end"]
    assert call.body == b"hello"


async def test_an_answer_that_is_held_is_bounded(make: Make) -> None:
    stage = make()
    _, exchange, call = stage.asked("POST", CHUNKED)
    call.sink.on_head(200, [])
    for _ in range(300):
        call.sink.on_data(b"x" * 1024)
    assert call.is_paused
    exchange.end()
    assert not call.is_paused
    call.sink.on_end()


# the end of the answer -----------------------------------------------------------------------------------------------


async def test_an_exchange_is_over_when_its_caller_has_taken_all(make: Make) -> None:
    """TAKING: who vanishes before that has not had the whole answer."""
    stage = make()
    caller, exchange, call = stage.asked()
    caller.takes = False
    call.answer()
    assert stage.events == []
    exchange.abort()

    assert not told(stage).is_complete
    assert caller.said == [200, b"hello", "end"]


@pytest.mark.parametrize("moment", ["new", "token", "sending", "awaiting", "flowing", "curing"])
async def test_a20_a_caller_may_go_at_any_moment(make: Make, moment: str) -> None:
    """H58, H60: everything is let go of, and nobody is told anything."""
    source = LateSource(None if moment in ("new", "token") else token_set())
    stage = make(source)
    caller, exchange = stage.ask("POST" if moment == "sending" else "GET", *([CHUNKED] if moment == "sending" else []))
    if moment != "new":
        exchange.start()
    if moment == "flowing":
        stage.calls[0].sink.on_head(200, [])
    if moment == "curing":
        stage.calls[0].answer(401)
        await eventually(lambda: source.rejected)
    heard = list(caller.said)
    exchange.abort()
    exchange.write(b"late")
    exchange.end()
    await settle()
    source.given.set_result(token_set())
    source.newer.set_result(token_set("newer"))
    await settle()

    assert caller.said == heard
    assert len(stage.calls) == (moment not in ("new", "token"))


async def test_s34_a_place_is_given_back_whatever_the_end(make: Make) -> None:
    stage = make(max_requests=1)
    _, exchange, call = stage.asked()
    with pytest.raises(Overloaded):
        stage.ask()
    call.answer()
    exchange.taken()
    _, exchange, _ = stage.asked()
    exchange.abort()
    _, exchange, _ = stage.asked()
    exchange.abort()


# a 401 (token-life 5) ------------------------------------------------------------------------------------------------


async def cured(stage: Stage, source: LateSource, newer: str | None) -> None:
    stage.calls[0].answer(401, b"who?")
    source.newer.set_result(None if newer is None else token_set(newer))
    await settle()


@pytest.mark.parametrize("fields", [[], [LENGTH_5], [CHUNKED]], ids=["no-body", "length", "chunked"])
async def test_a41_a_401_is_cured_by_a_newer_token(make: Make, fields: list[tuple[bytes, bytes]]) -> None:
    source = LateSource(token_set("old"))
    stage = make(source)
    caller, exchange, call = stage.asked("POST", *fields)
    if fields:
        exchange.write(b"hello")
        exchange.end()
    await cured(stage, source, "new")
    second = stage.calls[1]
    second.answer(200, b"welcome")

    await eventually(lambda: caller.said)
    assert caller.said == [200, b"welcome", "end"]
    assert (second.body, second.is_ended) == ((b"hello", True) if fields else (b"", False))
    assert second.head == call.head.replace(b"Bearer old", b"Bearer new")
    assert told(stage).is_replay


async def test_a_second_401_brings_the_first_one_and_the_reason(make: Make) -> None:
    source = LateSource(token_set())
    stage = make(source)
    caller, _, _ = stage.asked()
    await cured(stage, source, "new")
    stage.calls[1].answer(401, b"still not")

    await eventually(lambda: caller.said)
    assert caller.said == [401, b"who?", "end"]
    assert REFUSED_TOO in caller.fields


async def test_without_a_newer_token_the_401_is_relayed(make: Make) -> None:
    source = LateSource(token_set())
    stage = make(source)
    caller, _, _ = stage.asked()
    await cured(stage, source, None)

    assert caller.said == [401, b"who?", "end"]
    assert NO_NEWER in caller.fields


async def test_a_body_that_is_not_held_is_not_sent_twice(make: Make) -> None:
    source = LateSource(token_set())
    source.given.set_result(token_set())
    stage = make(source, replay_limit=4)
    caller, exchange = stage.ask("POST", LENGTH_5)
    exchange.start()
    await settle()
    exchange.write(b"hello")
    exchange.end()
    await cured(stage, source, "new")

    assert caller.said == [401, b"who?", "end"]
    assert NOT_HELD in caller.fields


async def test_a_replay_without_an_answer_brings_the_first_one(make: Make) -> None:
    source = LateSource(token_set())
    stage = make(source)
    caller, _, _ = stage.asked("POST")
    await cured(stage, source, "new")
    stage.calls[1].sink.on_error(Trouble.UNREACHABLE, None)
    await eventually(lambda: caller.said)

    assert caller.said == [401, b"who?", "end"]
    assert UNANSWERED in caller.fields


async def test_an_early_401_waits_for_the_rest_of_the_body(make: Make) -> None:
    source = LateSource(token_set())
    stage = make(source)
    caller, exchange, call = stage.asked("POST", CHUNKED)
    exchange.write(b"he")
    await cured(stage, source, "new")
    assert len(stage.calls) == 1
    exchange.write(b"llo")
    exchange.end()
    await eventually(lambda: len(stage.calls) == 2 and stage.calls[1].is_ended)

    assert (call.body, stage.calls[1].body) == (b"he", b"hello")
    stage.calls[1].answer()
    await eventually(lambda: caller.said)


@pytest.mark.parametrize(("detail", "is_blamed"), [(b"bad token", True), (b"no permission", False)])
async def test_a_401_about_permission_costs_no_renewal(make: Make, detail: bytes, *, is_blamed: bool) -> None:
    source = LateSource(token_set())
    source.newer.set_result(None)
    stage = make(source, token_fault="bad token")
    caller, _, call = stage.asked()
    body = b'{"detail": "%s"}' % detail
    call.answer(401, body)
    await eventually(lambda: "end" in caller.said)

    assert caller.said == [401, body, "end"]
    assert bool(source.rejected) == is_blamed


# deadlines -----------------------------------------------------------------------------------------------------------


async def test_a23_no_head_in_time_is_a_504(make: Make) -> None:
    stage = make(first_byte_timeout=0.02)
    caller, _, call = stage.asked()
    await eventually(lambda: caller.said)

    assert isinstance(caller.said[0], UpstreamTimeout)
    assert call.is_aborted


async def test_h62_a_body_that_stops_is_a_cut_and_one_that_moves_is_none(make: Make) -> None:
    stage = make(idle_timeout=0.2)
    caller, _, call = stage.asked()
    call.sink.on_head(200, [])
    for _ in range(6):
        await eventually(lambda: True)
        await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.05)
        call.sink.on_data(b"x")
    assert "cut" not in caller.said
    await eventually(lambda: caller.said[-1] == "cut")


async def test_h61_a_caller_who_stops_reading_is_cut(make: Make) -> None:
    stage = make(idle_timeout=0.02)
    caller, exchange, call = stage.asked()
    call.sink.on_head(200, [])
    exchange.pause()
    await eventually(lambda: caller.said[-1] == "cut")

    assert not told(stage).is_complete


async def test_h16_a_body_that_does_not_come_ends_without_an_answer(make: Make) -> None:
    stage = make(idle_timeout=0.02)
    caller, exchange, call = stage.asked("POST", LENGTH_5)
    exchange.write(b"he")
    await eventually(lambda: caller.said)

    assert caller.said == ["cut"]
    assert call.is_aborted
    assert stage.events == []


async def test_an_upstream_that_takes_nothing_is_a_504(make: Make) -> None:
    """STUCK."""
    stage = make(idle_timeout=0.02)
    caller, exchange, call = stage.asked("POST", CHUNKED)
    call.sink.pause()
    exchange.write(b"x")
    await eventually(lambda: caller.said)

    assert isinstance(caller.said[0], UpstreamTimeout)
    assert "stopped taking" in caller.said[0].detail


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a23_total_timeout_is_a_504_or_a_cut(make: Make, *, has_begun: bool) -> None:
    """A body that drips is cut by the configured cap."""
    stage = make(total_timeout=0.05)
    caller, _, call = stage.asked()
    if has_begun:
        call.sink.on_head(200, [])
    await eventually(lambda: caller.said and caller.said[-1] != 200)

    if has_begun:
        assert caller.said == [200, "cut"]
    else:
        assert "total_timeout" in caller.said[0].detail


async def test_a_token_is_waited_for_without_a_deadline_of_ours(make: Make) -> None:
    """The source has its own, and a person may have to sign in."""
    source = LateSource(None)
    stage = make(source, first_byte_timeout=0.01, idle_timeout=0.01)
    caller, exchange = stage.ask()
    exchange.start()
    await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.06)

    assert caller.said == []
    exchange.abort()
