"""What was seen, and whether it holds: pure verdicts over records."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from tests.soak.plan import Kind

RECOVERY_SECONDS = 12.0
"""How soon after its return a lost issuer must be in use again (A37)."""
SETTLE_SECONDS = 3.0
"""A first pause of one second, a renewal, and a machine that has other work."""
TOLD_SECONDS = 10.0
"""How soon after a fault of an upstream its callers must know: a broken answer that they wait for is not excused."""
TOKEN_MARGIN_SECONDS = 0.25
RESIDENT_RISE_BYTES = 8 * 1024 * 1024
DESCRIPTOR_RISE = 40.0
DESCRIPTORS_AT_REST = 3
CALLS_PER_LIFE = (0.7, 1.3)

AT_ISSUER = frozenset({Kind.RESTART, Kind.KILL, Kind.ERROR, Kind.BUSY, Kind.HANG, Kind.REFUSE, Kind.LOST, Kind.STALL})
MOST_STALLED = 0.1
"""Share of the time; a machine that stands still for longer proves nothing."""
STALLED = "time without a processor"
"""The row that tells of it."""


class Seen(StrEnum):
    """What a caller got."""

    GOOD = "good"
    LEFT = "left by the caller"
    AUTHENTICATION = "401, 403 or 503"
    BROKEN = "visibly broken, or 5xx"
    CORRUPT = "complete, and not what was sent"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request of one caller; times are wall times."""

    action: str
    upstream: str
    seen: Seen
    started: float
    ended: float
    status: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """When a fault was really there."""

    kind: Kind
    start: float
    end: float
    upstream: str = ""
    """Empty is all."""
    retry_after: float = 0.0

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def recovered(self) -> float:
        """When its last consequence must be over: pauses double from one second, so they are as long as the outage."""
        if self.kind in AT_ISSUER:
            return self.end + min(self.seconds + self.retry_after + SETTLE_SECONDS, RECOVERY_SECONDS)
        return self.end + 1.0

    def concerns(self, outcome: Outcome) -> bool:
        is_there = self.start <= outcome.ended and outcome.started <= self.recovered
        return is_there and self.is_of(outcome.upstream)

    def is_of(self, upstream: str) -> bool:
        return self.upstream in ("", upstream)


@dataclass(frozen=True, slots=True)
class Lease:
    """A token that an upstream saw, and until when it would accept it."""

    upstream: str
    issued: float
    first_seen: float
    until: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """A token that an upstream refused; times are wall times, the last two by the token itself."""

    upstream: str
    at: float
    why: str
    issued: float
    expires: float


def is_excused(outcome: Outcome, windows: Iterable[Window], leases: Iterable[Lease] = ()) -> bool:
    """Return whether a failure is what a fault must lead to.

    A refusal for want of a token is, in and soon after a fault of the issuer, unless the proxy demonstrably held a
    token: one that the upstream had seen before, that was not obtained during a fault, and that was good to the end.
    """
    windows = [*windows]
    match outcome.seen:
        case Seen.AUTHENTICATION:
            return _no_token_could_exist(outcome, windows, leases)
        case Seen.BROKEN:
            kinds = (Kind.RESET, Kind.PAUSE)
            there = [window for window in windows if window.kind in kinds and window.concerns(outcome)]
            if any(outcome.ended <= window.end + TOLD_SECONDS for window in there):
                return True
            # A large body that is refused early meets a close before its sender looks for an answer (H27).
            return (
                outcome.status == 0 and "upload" in outcome.action and _no_token_could_exist(outcome, windows, leases)
            )
        case _:
            return outcome.seen is not Seen.CORRUPT


def outages(windows: Iterable[Window], upstream: str) -> list[Window]:
    """Return when `upstream` had no issuer; a fault before the recovery from another one is the same outage.

    The one call that a pause of ten seconds allows may meet the second fault: then the next pause is as long.
    """
    joined: list[Window] = []
    at_issuer = [window for window in windows if window.kind in AT_ISSUER and window.is_of(upstream)]
    for window in sorted(at_issuer, key=lambda one: one.start):
        if joined and window.start <= joined[-1].recovered:
            before = joined[-1]
            end = max(before.end, window.end)
            joined[-1] = replace(before, end=end, retry_after=max(before.retry_after, window.retry_after))
        else:
            joined.append(window)
    return joined


def _no_token_could_exist(outcome: Outcome, windows: Sequence[Window], leases: Iterable[Lease]) -> bool:
    is_away = any(outage.concerns(outcome) for outage in outages(windows, outcome.upstream))
    return is_away and not any(_covers(lease, outcome, windows) for lease in leases)


def _covers(lease: Lease, outcome: Outcome, windows: Sequence[Window]) -> bool:
    return (
        lease.until >= outcome.ended + TOKEN_MARGIN_SECONDS
        and lease.first_seen <= outcome.started
        and lease.upstream == outcome.upstream
        # A call that took its time counts from its start for us, and from its end for the upstream.
        and not any(window.start - 1 <= lease.issued <= window.end + 1 for window in windows)
    )


def inexcusable(
    outcomes: Iterable[Outcome], windows: Sequence[Window], leases: Sequence[Lease], seen: Seen
) -> list[Outcome]:
    """Return the outcomes of this kind that no fault explains."""
    return [one for one in outcomes if one.seen is seen and not is_excused(one, windows, leases)]


@dataclass(frozen=True, slots=True)
class Sample:
    """The proxy's process at one moment."""

    at: float
    resident_bytes: int
    descriptors: int


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the least-squares slope, in units of y for one of x; 0 if there are too few points to say."""
    if len(points) < 3:
        return 0.0
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0


def rise(samples: Sequence[Sample], value: Callable[[Sample], float]) -> tuple[float, float]:
    """Return (slope for a minute, rise) of the last two thirds; the first third fills caches and pools."""
    late = samples[len(samples) // 3 :]
    if len(late) < 3:
        return 0.0, 0.0
    a_second = slope([(one.at, float(value(one))) for one in late])
    return a_second * 60, a_second * (late[-1].at - late[0].at)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


@dataclass(frozen=True, slots=True)
class TokenCalls:
    """What one identity cost the issuer."""

    identity: str
    granted: int
    refused: int
    may_be_refused: int = 0
    """How many refusals the faults account for."""


def without(seconds: float, spans: Iterable[tuple[float, float]]) -> float:
    """Return what is left of `seconds` when the union of these spans is taken away."""
    covered, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        covered += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return max(seconds - covered, 0.0)


def most_failed_calls(windows: Iterable[Window], identities: int) -> int:
    """Return how many token calls may meet a fault of the issuer: pauses of 1, 2, 4, 8, 10, 10 s, and two to spare."""
    total = 0
    for window in windows:
        if window.kind in AT_ISSUER:
            doubling = math.ceil(math.log2(min(window.seconds, 15.0) + 2))
            total += (doubling + math.ceil(max(window.seconds - 15.0, 0.0) / 10) + 2) * identities
    return total


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the verdict."""

    what: str
    value: str
    limit: str
    holds: bool


@dataclass(frozen=True)
class Record:
    """Everything that was seen in a soak."""

    seconds: float
    life: float
    outcomes: Sequence[Outcome]
    windows: Sequence[Window]
    leases: Sequence[Lease]
    wrong_tokens: Sequence[str]
    half_uploads: Sequence[str]
    """Uploads that a caller broke off and the upstream took for complete."""
    calls: Sequence[TokenCalls]
    failed_calls: int
    """Token calls that met a fault of the issuer."""
    samples: Sequence[Sample]
    lags: Sequence[float]
    """Seconds that the proxy took to say that it lives."""
    descriptors_before: int
    descriptors_after: int
    """At rest: callers gone, upstream connections closed."""
    defects: Sequence[str]
    """Unexpected errors in the proxy's log, and tracebacks."""
    exit_status: int | None
    """None if it did not end in time."""
    refusals: Sequence[Refusal] = ()
    """Tokens that upstreams refused; most are cured without a caller's knowledge."""


def judge(record: Record) -> list[Row]:
    """Return the table; the soak has passed if every row holds."""
    seen = {kind: sum(one.seen is kind for one in record.outcomes) for kind in Seen}
    resident = rise(record.samples, lambda one: one.resident_bytes)
    descriptors = rise(record.samples, lambda one: one.descriptors)
    wanting = inexcusable(record.outcomes, record.windows, record.leases, Seen.AUTHENTICATION)
    broken = inexcusable(record.outcomes, record.windows, record.leases, Seen.BROKEN)
    corrupt = seen[Seen.CORRUPT] + len(record.half_uploads)
    most_failed = most_failed_calls(record.windows, len(record.calls))
    stalled = sum(window.seconds for window in record.windows if window.kind is Kind.STALL)
    rate = len(record.outcomes) / max(record.seconds, 1.0)
    last = record.samples[-1] if record.samples else Sample(0, 0, 0)
    return [
        Row("requests", f"{len(record.outcomes)} ({rate:.0f}/s)", "some good", seen[Seen.GOOD] > 0),
        Row("faults", _counted(record.windows), "-", holds=True),
        Row(
            STALLED,
            f"{stalled:.1f} s",
            f"at most {MOST_STALLED:.0%} of {record.seconds:.0f} s",
            stalled <= MOST_STALLED * record.seconds,
        ),
        Row("tokens refused by upstreams", _reasons(record.refusals), "-", holds=True),
        Row(
            "authentication failures",
            f"{len(wanting)} (and {seen[Seen.AUTHENTICATION] - len(wanting)} while no token could exist)",
            "0",
            not wanting,
        ),
        Row(
            "unexplained failures",
            f"{len(broken)} (and {seen[Seen.BROKEN] - len(broken)} of resets and suspends)",
            "0",
            not broken,
        ),
        Row("wrong tokens", f"{len(record.wrong_tokens)}", "0", not record.wrong_tokens),
        Row("truncated as complete", f"{corrupt}", "0", not corrupt),
        *(_calls_row(calls, record) for calls in record.calls),
        Row(
            "token calls that met a fault",
            str(record.failed_calls),
            f"at most {most_failed}",
            record.failed_calls <= most_failed,
        ),
        Row(
            "resident memory",
            f"{last.resident_bytes / 2**20:.1f} MiB, {resident[0] / 2**20:+.2f} MiB a minute",
            f"rises by less than {RESIDENT_RISE_BYTES // 2**20} MiB",
            resident[1] < RESIDENT_RISE_BYTES,
        ),
        Row(
            "descriptors",
            f"{last.descriptors}, {descriptors[0]:+.2f} a minute",
            f"rise by less than {DESCRIPTOR_RISE:.0f}",
            descriptors[1] < DESCRIPTOR_RISE,
        ),
        Row(
            "descriptors at rest",
            f"{record.descriptors_after} (before: {record.descriptors_before})",
            f"at most {DESCRIPTORS_AT_REST} more",
            record.descriptors_after <= record.descriptors_before + DESCRIPTORS_AT_REST,
        ),
        Row(
            "answers to /-/live",
            f"p50 {percentile(record.lags, 0.5) * 1000:.0f} ms, p99 {percentile(record.lags, 0.99) * 1000:.0f} ms",
            "-",
            holds=True,
        ),
        Row("defects in the log", str(len(record.defects)), "0", not record.defects),
        Row("exit status at SIGTERM", str(record.exit_status), "0", record.exit_status == 0),
    ]


def _calls_row(calls: TokenCalls, record: Record) -> Row:
    """Judge successful token calls for each life that a token has in use: two thirds of it, then it is renewed."""
    at_issuer = outages(record.windows, calls.identity)
    life = record.life * 2 / 3
    # While the issuer is away no call can succeed; until it is used again, none must.
    lives = without(record.seconds, [(window.start, window.end) for window in at_issuer]) / life
    quiet_lives = without(record.seconds, [(window.start, window.recovered) for window in at_issuer]) / life
    low, high = CALLS_PER_LIFE
    least, most = math.floor(low * quiet_lives), math.ceil(high * lives) + len(record.windows)
    return Row(
        f"token calls a life, {calls.identity}",
        f"{calls.granted / max(lives, 1.0):.2f} ({calls.granted} granted, {calls.refused} refused)",
        f"{least} to {most} granted, {calls.may_be_refused} refused",
        least <= calls.granted <= most and calls.refused <= calls.may_be_refused,
    )


def _counted(windows: Sequence[Window]) -> str:
    counts = Counter(window.kind.value for window in windows)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none"


def _reasons(refusals: Iterable[Refusal]) -> str:
    counts = Counter(refusal.why for refusal in refusals)
    return ", ".join(f"{count} times: {why}" for why, count in counts.items()) or "none"


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text for a terminal."""
    widths = [max(len(text) for text in column) for column in zip(*((r.what, r.limit) for r in rows), strict=True)]
    return "\n".join(
        f"{'ok  ' if row.holds else 'FAIL'}  {row.what:<{widths[0]}}  {row.limit:<{widths[1]}}  {row.value}"
        for row in rows
    )


def as_json(record: Record, rows: Sequence[Row], worst: int = 50) -> Mapping[str, object]:
    """Return the verdict for machines: rows, series, and the failures that nothing excuses."""
    kinds = (Seen.AUTHENTICATION, Seen.BROKEN, Seen.CORRUPT)
    failures = [
        one for seen in kinds for one in inexcusable(record.outcomes, record.windows, record.leases, seen)[:worst]
    ]
    return {
        "passed": all(row.holds for row in rows),
        "seconds": record.seconds,
        "rows": [{"what": r.what, "value": r.value, "limit": r.limit, "holds": r.holds} for r in rows],
        "windows": [
            {"kind": w.kind.value, "start": w.start, "end": w.end, "upstream": w.upstream} for w in record.windows
        ],
        "failures": [
            {
                "action": one.action,
                "upstream": one.upstream,
                "seen": one.seen.value,
                "started": one.started,
                "ended": one.ended,
                "status": one.status,
                "detail": one.detail,
            }
            for one in failures
        ],
        "refusals": [[r.upstream, r.at, r.why, r.issued, r.expires] for r in record.refusals],
        "wrong_tokens": [*record.wrong_tokens][:worst],
        "half_uploads": [*record.half_uploads][:worst],
        "defects": [*record.defects][:worst],
        "samples": [[round(s.at, 1), s.resident_bytes, s.descriptors] for s in record.samples],
        "lags_ms": [round(lag * 1000, 1) for lag in record.lags],
    }
