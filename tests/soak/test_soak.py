"""The soak's plan and verdicts, and a short soak itself."""

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import IS_CI, need
from tests.keycloak.server import MissingPartError, cache_folder, prepared
from tests.soak.checks import (
    STALLED,
    Lease,
    Outcome,
    Record,
    Refusal,
    Row,
    Sample,
    Seen,
    TokenCalls,
    Window,
    as_json,
    is_excused,
    judge,
    most_failed_calls,
    outages,
    percentile,
    rise,
    slope,
    table,
    without,
)
from tests.soak.plan import AROUND_TOKENS, AT_UPSTREAMS, BETWEEN_REVOCATIONS_SECONDS, QUIET_SECONDS, Kind, plan
from tests.soak.run import Options, soak

UPSTREAMS = ("data", "nsi", "transfer")

# the plan ------------------------------------------------------------------------------------------------------------


def test_the_seed_alone_decides() -> None:
    assert plan(7, 600, UPSTREAMS) == plan(7, 600, UPSTREAMS)
    assert plan(7, 600, UPSTREAMS) != plan(8, 600, UPSTREAMS)


@pytest.mark.parametrize("seconds", [20, 120, 900])
@pytest.mark.parametrize("seed", range(5))
def test_faults_around_tokens_come_one_after_the_other_between_two_quiet_times(seed: int, seconds: int) -> None:
    faults = plan(seed, seconds, UPSTREAMS)
    tokens = [one for one in faults if one.kind in AROUND_TOKENS]

    assert tokens
    assert all(one.at >= QUIET_SECONDS and one.end <= seconds - QUIET_SECONDS for one in faults)
    assert all(one.end < after.at for one, after in pairwise(tokens))


def test_every_kind_comes_in_a_few_minutes() -> None:
    for seed in range(5):
        assert {one.kind for one in plan(seed, 240, UPSTREAMS)} == {*AROUND_TOKENS, *AT_UPSTREAMS}


@pytest.mark.parametrize("seed", range(5))
def test_revocations_leave_time_for_one_forced_renewal_each(seed: int) -> None:
    faults = [one for one in plan(seed, 1800, UPSTREAMS) if one.kind is Kind.REVOKE]

    for upstream in UPSTREAMS:
        of_one = [one.at for one in faults if one.upstream == upstream]
        assert len(of_one) > 5
        assert all(after - before >= BETWEEN_REVOCATIONS_SECONDS for before, after in pairwise(of_one))


# excuses -------------------------------------------------------------------------------------------------------------

REFUSED = Outcome("read", "data", Seen.AUTHENTICATION, 103.0, 103.1, 503)
AWAY = Window(Kind.REFUSE, 100.0, 102.0)


@pytest.mark.parametrize(
    ("outcome", "window", "expected"),
    [
        pytest.param(REFUSED, AWAY, True, id="the issuer was away a moment ago"),
        pytest.param(replace(REFUSED, started=99.0, ended=101.0), AWAY, True, id="it went while we waited"),
        pytest.param(replace(REFUSED, started=98.0, ended=99.9), AWAY, False, id="it was still there"),
        pytest.param(replace(REFUSED, started=107.1, ended=107.2), AWAY, False, id="it has been back for long enough"),
        pytest.param(REFUSED, replace(AWAY, kind=Kind.RESET), False, id="a fault that costs no token"),
        pytest.param(REFUSED, replace(AWAY, kind=Kind.PAUSE), False, id="a suspend costs no token"),
        pytest.param(REFUSED, replace(AWAY, upstream="nsi"), False, id="another identity's fault"),
        pytest.param(replace(REFUSED, seen=Seen.BROKEN), AWAY, False, id="broken without a reset"),
        pytest.param(
            replace(REFUSED, seen=Seen.BROKEN, action="medium upload", status=0), AWAY, True, id="refused unread"
        ),
        pytest.param(replace(REFUSED, seen=Seen.BROKEN), replace(AWAY, kind=Kind.RESET, end=102.5), True, id="broken"),
        pytest.param(
            replace(REFUSED, seen=Seen.BROKEN, ended=161.0),
            replace(AWAY, kind=Kind.RESET, end=102.5),
            False,
            id="told late",
        ),
        pytest.param(replace(REFUSED, seen=Seen.CORRUPT), replace(AWAY, kind=Kind.RESET), False, id="corrupt"),
        pytest.param(replace(REFUSED, seen=Seen.LEFT), replace(AWAY, start=0, end=0), True, id="left"),
    ],
)
def test_a_failure_is_excused_by_its_own_kind_of_fault_alone(outcome: Outcome, window: Window, expected: bool) -> None:
    assert is_excused(outcome, [window]) is expected


@pytest.mark.parametrize(
    ("lease", "expected"),
    [
        pytest.param(Lease("data", 98.0, 98.1, 105.0), False, id="the proxy had a good token"),
        pytest.param(Lease("data", 98.0, 98.1, 103.2), True, id="that was about to end"),
        pytest.param(Lease("data", 98.0, 103.05, 110.0), True, id="that it did not have yet"),
        pytest.param(Lease("data", 101.5, 102.1, 110.0), True, id="that it had asked for earlier than it came"),
        pytest.param(Lease("nsi", 98.0, 98.1, 105.0), True, id="of another identity"),
    ],
)
def test_an_outage_excuses_nobody_who_holds_a_good_token(lease: Lease, expected: bool) -> None:
    assert is_excused(REFUSED, [AWAY], [lease]) is expected


def test_recovery_takes_as_long_as_the_outage_and_no_longer_than_the_law_allows() -> None:
    assert Window(Kind.ERROR, 0, 1).recovered == 5
    assert Window(Kind.BUSY, 0, 1, retry_after=2).recovered == 7
    assert Window(Kind.KILL, 0, 30).recovered == 42
    assert Window(Kind.RESET, 0, 5).recovered == 6


def test_a_fault_before_the_recovery_from_another_is_the_same_outage() -> None:
    restart, soon = Window(Kind.RESTART, 100, 120), Window(Kind.ERROR, 131, 132)
    later, other = Window(Kind.ERROR, 133, 134), Window(Kind.LOST, 121, 122, "nsi")

    assert [(one.start, one.end, one.recovered) for one in outages([soon, restart], "data")] == [(100, 132, 144)]
    assert [(one.start, one.end) for one in outages([restart, later, other], "data")] == [(100, 120), (133, 134)]
    assert [(one.start, one.end) for one in outages([restart, later, other], "nsi")] == [(100, 134)]


# figures -------------------------------------------------------------------------------------------------------------


def test_slope_and_rise() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == 2
    assert slope([(0, 1), (1, 3)]) == 0
    assert slope([(1, 1), (1, 3), (1, 5)]) == 0
    samples = [Sample(at, 1000 if at < 30 else 1000 + 10 * at, 5) for at in range(90)]
    assert rise(samples, lambda one: one.resident_bytes) == pytest.approx((600, 590))
    assert rise(samples, lambda one: one.descriptors) == (0, 0)
    assert rise(samples[:2], lambda one: one.descriptors) == (0, 0)


def test_percentile() -> None:
    assert percentile([], 0.5) == 0
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([3, 1, 2], 1.0) == 3


def test_overlapping_times_are_taken_away_once() -> None:
    assert without(100, []) == 100
    assert without(100, [(10, 20), (15, 30), (16, 17), (50, 60)]) == 70
    assert without(5, [(0, 10)]) == 0


def test_failed_calls_grow_with_the_logarithm_of_an_outage() -> None:
    assert most_failed_calls([Window(Kind.ERROR, 0, 1)], identities=1) == 4
    assert most_failed_calls([Window(Kind.RESTART, 0, 60)], identities=2) == 2 * (5 + 5 + 2)
    assert most_failed_calls([Window(Kind.RESET, 0, 60)], identities=2) == 0


# the verdict ---------------------------------------------------------------------------------------------------------

GOOD = Record(
    seconds=60,
    life=3,
    outcomes=[Outcome("read", "data", Seen.GOOD, 1, 2, 200)],
    windows=[],
    leases=[],
    wrong_tokens=[],
    half_uploads=[],
    calls=[TokenCalls("data", 30, 0)],
    failed_calls=0,
    samples=[Sample(at, 70 * 2**20, 40) for at in range(60)],
    lags=[0.002],
    descriptors_before=20,
    descriptors_after=21,
    defects=[],
    exit_status=0,
)


def failing(record: Record) -> list[str]:
    return [row.what for row in judge(record) if not row.holds]


def test_a_good_soak_holds_in_every_row() -> None:
    assert failing(GOOD) == []


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (replace(GOOD, outcomes=[]), "requests"),
        (replace(GOOD, outcomes=[*GOOD.outcomes, REFUSED]), "authentication failures"),
        (replace(GOOD, outcomes=[*GOOD.outcomes, replace(REFUSED, seen=Seen.BROKEN)]), "unexplained failures"),
        (replace(GOOD, outcomes=[*GOOD.outcomes, replace(REFUSED, seen=Seen.CORRUPT)]), "truncated as complete"),
        (replace(GOOD, half_uploads=["one"]), "truncated as complete"),
        (replace(GOOD, wrong_tokens=["one"]), "wrong tokens"),
        (replace(GOOD, windows=[Window(Kind.STALL, 0, 7)]), STALLED),
        (replace(GOOD, calls=[TokenCalls("data", 60, 0)]), "token calls a life, data"),
        (replace(GOOD, calls=[TokenCalls("data", 10, 0)]), "token calls a life, data"),
        (replace(GOOD, calls=[TokenCalls("data", 30, 1)]), "token calls a life, data"),
        (replace(GOOD, failed_calls=1), "token calls that met a fault"),
        (replace(GOOD, samples=[Sample(at, at * 2**20, 40) for at in range(60)]), "resident memory"),
        (replace(GOOD, samples=[Sample(at, 2**20, 2 * at) for at in range(60)]), "descriptors"),
        (replace(GOOD, descriptors_after=24), "descriptors at rest"),
        (replace(GOOD, defects=["Traceback"]), "defects in the log"),
        (replace(GOOD, exit_status=-9), "exit status at SIGTERM"),
    ],
)
def test_each_failure_fails_its_row(record: Record, what: str) -> None:
    assert failing(record) == [what]


def test_the_table_and_the_report_say_what_failed() -> None:
    record = replace(
        GOOD,
        outcomes=[REFUSED],
        windows=[Window(Kind.RESET, 1, 2, "nsi")],
        refusals=[Refusal("data", 3.0, "revoked", 1.0, 4.0)],
    )
    rows: Sequence[Row] = judge(record)

    assert "FAIL  authentication failures" in table(rows)
    assert "1 upstream resets" in table(rows)
    report = json.loads(json.dumps(as_json(record, rows)))
    assert report["passed"] is False
    assert [one["status"] for one in report["failures"]] == [503]


# the soak itself -----------------------------------------------------------------------------------------------------


@pytest.fixture
def linux() -> None:
    if sys.platform != "linux":
        need("/proc, which tells memory and descriptors of a process", how="run these tests on Linux")


@pytest.mark.long
@pytest.mark.usefixtures("linux")
@pytest.mark.keycloak
async def test_a47_a_soak_against_keycloak_holds(is_long: bool) -> None:
    """Two minutes in CI and with --long; longer ones by hand: `scripts/soak --minutes 15`."""
    try:
        await asyncio.to_thread(prepared, cache_folder())
    except MissingPartError as missing:
        need(missing.what, how=missing.how)
    said: list[str] = []

    record = await soak(Options(120.0 if IS_CI or is_long else 20.0, seed=1), said.append)

    rows = judge(record)
    assert all(row.holds for row in rows), table(rows) + "\n" + "\n".join(map(repr, _failures(record)))


def _failures(record: Record) -> list[object]:
    report = as_json(record, judge(record), worst=10)
    return [report["failures"], report["defects"]]


async def _started(*arguments: str | Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.soak", "--issuer", "demo", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.long
@pytest.mark.usefixtures("linux")
async def test_the_command_needs_no_java_and_reports_to_machines(tmp_path: Path) -> None:
    process = await _started("--minutes", "0.2", "--seed", "1", "--callers", "10", "--json", tmp_path / "out.json")

    output, complaint = await asyncio.wait_for(process.communicate(), 120)

    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert process.returncode == (0 if report["passed"] else 1), complaint.decode()
    assert report["passed"], output.decode()


@pytest.mark.long
@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_soak_leaves_nothing_running(number: signal.Signals) -> None:
    process = await _started("--minutes", "5", "--seed", "1", "--callers", "10")
    assert process.stdout is not None
    while b"callers for" not in await asyncio.wait_for(process.stdout.readline(), 60):
        pass
    children = _children(process.pid)
    assert children

    process.send_signal(number)

    _, complaint = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, complaint.decode().splitlines()[-1][:11]) == (130, "Interrupted")
    assert _still_there(children) == []


def _still_there(processes: Sequence[int]) -> list[int]:
    return [process for process in processes if Path(f"/proc/{process}").exists()]


def _children(pid: int) -> list[int]:
    """Return the processes that `pid` started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
