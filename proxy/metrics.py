"""Counters, fed by events and written down only when somebody asks (OpenMetrics, and Prometheus' older text).

It knows events and nothing else. Plain integers in slots: what a request costs here is a look-up and a few additions.
No label holds a path, a person or a token (S36).
"""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from proxy.events import Event, Misconfigured, Refused, Relayed, RenewalFailed, SignInEnded, TokenRenewed

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the histogram of durations, in seconds: a cached code list, a survey, a cube in one piece."""
RECENT = 60
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"
_OUTCOMES: Mapping[type, str] = {
    TokenRenewed: "renewed",
    RenewalFailed: "unavailable",
    SignInEnded: "ended",
    Misconfigured: "misconfigured",
}


@dataclass(slots=True)
class UpstreamCounts:
    """What has happened on one mount."""

    classes: list[int] = field(default_factory=lambda: [0] * 6)
    """Answers by the first digit of their status."""
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0
    received: int = 0
    sent: int = 0
    broken: int = 0
    replays: int = 0
    recent: deque[tuple[int, float, bool]] = field(default_factory=lambda: deque(maxlen=RECENT))
    """(status, seconds, is_complete) of the last answers, oldest first."""

    def add(self, event: Relayed) -> None:
        self.classes[event.status // 100] += 1
        self.buckets[bisect_left(BOUNDS, event.seconds)] += 1
        self.seconds += event.seconds
        self.received += event.received
        self.sent += event.sent
        self.recent.append((event.status, event.seconds, event.is_complete))
        if not event.is_complete:
            self.broken += 1
        if event.is_replay:
            self.replays += 1


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with all its samples."""

    name: str
    """Without the `_total` of a counter."""
    kind: str
    """`counter`, `gauge` or `histogram`."""
    text: str
    samples: tuple[tuple[str, Mapping[str, str], float], ...]
    """(what is added to the name, labels, value)."""


class Metrics:
    """Counts events."""

    def __init__(self, *, in_flight: Callable[[], Mapping[str, int]] = dict) -> None:
        self.upstreams: dict[str, UpstreamCounts] = {}
        self._in_flight = in_flight
        self._refusals: Counter[str] = Counter()
        self._renewals: Counter[tuple[str, str]] = Counter()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Relayed):
            counts = self.upstreams.get(event.upstream)
            if counts is None:
                counts = self.upstreams[event.upstream] = UpstreamCounts()
            counts.add(event)
        elif isinstance(event, Refused):
            self._refusals[event.kind] += 1
        elif isinstance(event, (TokenRenewed, RenewalFailed, SignInEnded, Misconfigured)):
            self._renewals[event.identity, _OUTCOMES[type(event)]] += 1

    def families(self) -> Iterator[Family]:
        """Yield what was counted."""
        per = self.upstreams.items()
        yield Family(
            "bearerproxy_requests",
            "counter",
            "Answers of upstreams, by the class of their status.",
            tuple(
                ("_total", {"upstream": name, "class": f"{digit}xx"}, count)
                for name, one in per
                for digit, count in enumerate(one.classes)
                if digit and (count or digit == 2)
            ),
        )
        yield Family(
            "bearerproxy_request_duration_seconds",
            "histogram",
            "From a request's head to the last byte of its answer.",
            tuple(sample for name, one in per for sample in _histogram(name, one)),
        )
        yield _by_upstream(
            "bearerproxy_received_bytes",
            "Bytes of request bodies that went to upstreams.",
            ((name, one.received) for name, one in per),
        )
        yield _by_upstream(
            "bearerproxy_sent_bytes", "Bytes of answers that went to callers.", ((name, one.sent) for name, one in per)
        )
        yield _by_upstream(
            "bearerproxy_broken_answers", "Answers that broke off.", ((name, one.broken) for name, one in per)
        )
        yield _by_upstream(
            "bearerproxy_replays", "Requests that a newer token cured.", ((name, one.replays) for name, one in per)
        )
        yield Family(
            "bearerproxy_requests_in_flight",
            "gauge",
            "Requests that are being relayed.",
            tuple(("", {"upstream": name}, count) for name, count in self._in_flight().items()),
        )
        yield Family(
            "bearerproxy_refusals",
            "counter",
            "Answers of our own, by the kind of failure; caller-refused and key-required are the guard's.",
            tuple(("_total", {"kind": kind}, count) for kind, count in self._refusals.items()),
        )
        yield Family(
            "bearerproxy_renewals",
            "counter",
            "Calls to the token endpoint, by outcome.",
            tuple(
                ("_total", {"identity": name, "outcome": outcome}, count)
                for (name, outcome), count in self._renewals.items()
            ),
        )


def exposition(families: Iterable[Family], *, is_openmetrics: bool) -> str:
    """Return the text that a scraper reads; without `is_openmetrics` in the form of before (version 0.0.4)."""
    lines: list[str] = []
    for family in families:
        name = family.name if is_openmetrics or family.kind != "counter" else f"{family.name}_total"
        lines += [f"# HELP {name} {_escaped(family.text)}", f"# TYPE {name} {family.kind}"]
        if is_openmetrics and (unit := next((u for u in ("seconds", "bytes") if name.endswith(f"_{u}")), "")):
            lines.append(f"# UNIT {name} {unit}")
        for suffix, labels, value in family.samples:
            shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
            lines.append(f"{family.name}{suffix}{f'{{{shown}}}' if shown else ''} {value}")
    return "\n".join([*lines, *(["# EOF"] if is_openmetrics else []), ""])


def _by_upstream(name: str, text: str, counts: Iterable[tuple[str, float]]) -> Family:
    return Family(name, "counter", text, tuple(("_total", {"upstream": upstream}, count) for upstream, count in counts))


def _histogram(name: str, counts: UpstreamCounts) -> Iterator[tuple[str, Mapping[str, str], float]]:
    total = 0
    for bound, count in zip((*map(repr, BOUNDS), "+Inf"), counts.buckets, strict=True):
        total += count
        yield "_bucket", {"upstream": name, "le": bound}, total
    yield "_sum", {"upstream": name}, counts.seconds
    yield "_count", {"upstream": name}, total


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
