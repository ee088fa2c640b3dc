import asyncio
import dataclasses
import gc
import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from proxy.clock import ManualClock
from proxy.events import (
    Emit,
    Event,
    Failed,
    Refused,
    Relayed,
    RenewalFailed,
    SignedIn,
    SignInEnding,
    TokenRenewed,
    Warned,
)
from proxy.logs import (
    BATCH_LINES,
    Log,
    bridge_libraries,
    duration,
    json_line,
    level_of,
    name_of,
    printable,
    sentence,
    size,
)

RELAYED = Relayed("data", "GET", "/data/x", 200, 0, 2048, 0.25)


def logged(
    *events: Event, level: str = "info", is_json: bool = False, access: bool = True, is_combined: bool = False
) -> str:
    stream = io.StringIO()
    log = Log(ManualClock(), level=level, is_json=is_json, access=access, is_combined=is_combined, stream=stream)
    for event in events:
        log(event)
    return stream.getvalue()


def test_a_relayed_request_is_one_calm_line() -> None:
    assert logged(RELAYED).endswith("  GET /data/x  200  2.0 kB  0.250 s\n")


def test_json_lines_carry_the_event_and_all_its_values() -> None:
    said = json.loads(logged(RELAYED, is_json=True))
    assert said["event"] == "relayed"
    assert said["level"] == "info"
    assert said["sent"] == 2048
    assert said["time"].endswith("+00:00")


def test_requests_can_be_written_as_web_servers_do() -> None:
    asked = Relayed("data", "GET", '/data/x?"', 200, 0, 2048, 0.25, peer="::1", agent='libcurl/7.88.1 "\\\n')
    moment = "15/Jun/2025:15:06:40 +0000"

    assert logged(asked, is_combined=True, is_json=True) == (
        f'::1 - - [{moment}] "GET /data/x?\\" HTTP/1.1" 200 2048 "-" "libcurl/7.88.1 \\"\\\\\\n"\n'
    )
    own = logged(Refused("no-upstream", 404, "GET", "/y", "No mount holds /y."), is_combined=True)
    assert own == f'- - - [{moment}] "GET /y HTTP/1.1" 404 - "-" "-"\n'
    assert logged(Warned("look"), is_combined=True).endswith("  warning: look\n")


def test_without_access_requests_are_left_out_and_the_rest_stays() -> None:
    text = logged(RELAYED, Warned("look"), access=False)
    assert "GET" not in text
    assert "warning: look" in text


def test_below_the_level_nothing_is_said() -> None:
    assert logged(TokenRenewed("me", 300, 0.1)) == ""
    assert "renewed" in logged(TokenRenewed("me", 300, 0.1), level="debug")


def test_no_value_can_forge_a_line() -> None:
    """S25, S35."""
    forged = Refused("bad-request", 400, "GET", "/x", "first\n12:00:00  me: signed in\x1b[2J")
    assert logged(forged).count("\n") == 1
    assert "\x1b" not in logged(forged)
    assert logged(forged, is_json=True).count("\n") == 1


def test_what_is_said_of_a_request_is_what_json_dumps_would_say() -> None:
    odd = Relayed(
        "data", "PUT", '/x?"\\\x7f\N{SNOWMAN}', 503, 7, 0, 1e-7, is_complete=False, is_replay=True, token_age=12.25,
        peer="::1", agent="\x00\xff\n", traceparent="00-ab",
    )  # fmt: skip
    for event in (RELAYED, odd):
        line = json_line(event, 20, "1970-01-01T00:00:00.500+00:00")
        head = {"time": "1970-01-01T00:00:00.500+00:00", "level": "info", "event": "relayed"}
        assert line == json.dumps(head | dataclasses.asdict(event))


def test_the_time_of_a_line_is_its_own_whatever_second_was_before() -> None:
    clock, stream = ManualClock(), io.StringIO()
    log = Log(clock, level="info", is_json=True, access=True, stream=stream)
    moments = [86_399.999, 86_400.0, 0.5, 86_400.25]
    for moment in moments:
        clock.jump_wall(moment - clock.wall())
        log(RELAYED)
    told = [json.loads(line)["time"] for line in stream.getvalue().splitlines()]
    assert told == [datetime.fromtimestamp(one, UTC).isoformat(timespec="milliseconds") for one in moments]


async def test_a_batch_of_lines_is_bounded() -> None:
    """To write many at once would keep everybody waiting."""
    stream = io.StringIO()
    log = Log(ManualClock(), level="info", is_json=True, access=True, stream=stream)
    for _ in range(BATCH_LINES - 1):
        log(RELAYED)
    assert stream.getvalue() == ""
    log(RELAYED)
    assert stream.getvalue().count("\n") == BATCH_LINES


class Told(io.StringIO):
    """A stream that says when something has been written through it."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed = asyncio.Event()

    def flush(self) -> None:
        self.flushed.set()


async def test_lines_of_requests_wait_for_each_other_a_moment() -> None:
    stream = Told()
    log = Log(ManualClock(), level="info", is_json=True, access=True, stream=stream)
    for _ in range(3):
        log(RELAYED)

    assert stream.getvalue() == ""
    async with asyncio.timeout(10):
        await stream.flushed.wait()
    assert stream.getvalue().count("\n") == 3


async def test_whatever_is_no_request_goes_out_at_once_behind_what_waits() -> None:
    for told in (
        Warned("look"),
        SignedIn("me", "ada", is_offline=False),
        dataclasses.replace(RELAYED, is_complete=False),
    ):
        stream = io.StringIO()
        log = Log(ManualClock(), level="info", is_json=True, access=True, stream=stream)
        log(RELAYED)
        log(told)
        said = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
        assert said == ["relayed", name_of(told)]


def test_a_loop_that_ends_takes_no_line_with_it() -> None:
    stream = io.StringIO()
    log = Log(ManualClock(), level="info", is_json=True, access=True, stream=stream)

    async def ask() -> None:
        log(RELAYED)

    asyncio.run(ask())
    asyncio.run(ask())
    log.flush()
    log.flush()
    assert stream.getvalue().count("\n") == 2


async def test_a_line_from_another_thread_is_written_there() -> None:
    stream = io.StringIO()
    log = Log(ManualClock(), level="info", is_json=True, access=True, stream=stream)
    await asyncio.to_thread(log, RELAYED)
    assert stream.getvalue().count("\n") == 1


async def test_a_person_sees_each_request_at_once() -> None:
    shown = list[Event]()
    log = Log(ManualClock(), level="info", is_json=False, access=True, show=lambda _, event: shown.append(event))
    log(RELAYED)
    assert shown == [RELAYED]


def test_a_closed_terminal_does_not_stop_anything() -> None:
    stream = io.StringIO()
    stream.close()
    Log(ManualClock(), level="info", is_json=False, access=True, stream=stream)(RELAYED)


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (RELAYED, 20),
        (Relayed("data", "GET", "/", 200, 0, 1, 0.1, is_complete=False), 30),
        (RenewalFailed("me", "timeout", 2, has_valid_token=True), 30),
        (SignInEnding("me", 1_750_000_600.0, 600), 30),
        (Failed("relay", "oops"), 40),
        (TokenRenewed("me", 300, 0.1), 10),
    ],
)
def test_each_event_has_its_level(event: Event, level: int) -> None:
    assert level_of(event) == level


def test_an_ended_answer_is_told_apart_from_a_whole_one() -> None:
    assert sentence(Relayed("data", "GET", "/", 200, 0, 1, 0.1, is_complete=False)).endswith("broke off")


def test_a_sign_in_says_who_and_how() -> None:
    assert sentence(SignedIn("provena", "ada", is_offline=True)) == "provena: signed in as ada with an offline token"


def test_a_near_end_says_when_and_what_to_run() -> None:
    said = sentence(SignInEnding("me", 1_750_000_600.0, 600))
    assert re.fullmatch(
        r"me: the sign-in ends \w{3} \d\d \w{3} \d\d:\d\d, in 10 min\. "
        r"To go on without a break, run: bearerproxy login me",
        said,
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(40, "40 s"), (89, "89 s"), (599.6, "10 min"), (3_600, "1 h 0 min"), (86_399, "24 h 0 min")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_names_on_the_wire_are_words_with_dashes() -> None:
    assert name_of(TokenRenewed("me", 1, 1)) == "token-renewed"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (3_200_000_000_000, "3200.0 GB")]
)
def test_sizes_read_well(count: int, text: str) -> None:
    assert size(count) == text


def test_printable_keeps_letters_of_all_languages() -> None:
    assert printable("Ünïcode\t✓") == "Ünïcode\\t✓"


@contextmanager
def bridged(emit: Emit) -> Iterator[None]:
    """Have what libraries log become events meanwhile."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        bridge_libraries(emit)
        yield
    finally:
        root.handlers[:], root.level = before, level


def test_the_libraries_errors_become_events_and_their_chatter_is_silent() -> None:
    """S35."""
    events: list[Event] = []
    with bridged(events.append):
        logging.getLogger("httpx2").info("HTTP Request: GET https://x/?access_token=canary")
        logging.getLogger("uvicorn.error").error("bind failed")

    assert [event.error for event in events if isinstance(event, Failed)] == ["bind failed"]


async def test_a31_s35_what_asyncio_says_of_a_defect_holds_nothing_of_what_was_worked_on() -> None:
    """A task that nobody looks at and a callback that fails, each with a token in its hands."""
    loop, events = asyncio.get_running_loop(), list[Event]()

    async def fail(token: str) -> None:
        token.encode("ascii")

    with bridged(events.append):
        loop.call_soon(lambda token: token.encode("ascii"), "canary-\N{SNOWMAN}")
        failing = loop.create_task(fail("canary-\N{SNOWMAN}"), name="renewal")
        await asyncio.wait([failing])
        del failing
        gc.collect()

    told = [event.error for event in events if isinstance(event, Failed)]
    assert len(told) == 2
    assert all("UnicodeEncodeError in test_logs.py line " in one for one in told)
    assert "canary" not in repr(events)
