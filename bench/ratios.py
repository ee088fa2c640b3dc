"""From samples to ratios: what is compared, and with which target. Pure."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from bench.peers import OURS, PEERS
from bench.results import DIRECT, Results


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, and the least and the greatest of what it was made of."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Mapping[int, float]) -> "Spread | None":
        if not values:
            return None
        return cls(statistics.median(values.values()), min(values.values()), max(values.values()))


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of one scenario."""

    key: str
    title: str
    unit: str
    scenario: str
    value: str
    against: str = ""
    """The peers' scenario, where it is another than ours."""
    is_added: bool = False
    """What counts is the difference to the way without any proxy."""

    def values(self, results: Results, peer: str) -> dict[int, float]:
        """Return the peer's figure by round."""
        scenario = self.against if self.against and peer != OURS else self.scenario
        values = results.values(peer, scenario, self.value)
        if not self.is_added:
            return values
        direct = results.values(DIRECT, scenario, self.value)
        return {number: value - direct[number] for number, value in values.items() if number in direct}

    def absolute(self, results: Results, peer: str) -> Spread | None:
        """Return the figure itself, in `unit`."""
        return Spread.of(self.values(results, peer))

    def ratio(self, results: Results, peer: str, of: str = OURS) -> Spread | None:
        """Return ours, or another's, ÷ the peer's of the same round; None where one of them was not measured."""
        ours, theirs = self.values(results, of), self.values(results, peer)
        return Spread.of(
            {number: ours[number] / value for number, value in theirs.items() if number in ours and value > 0}
        )


METRICS = (
    Metric("cpu-bare", "CPU per request, bare", "µs", "bare", "cpu_us"),
    Metric("cpu-fields", "CPU per request, 7 fields", "µs", "fields", "cpu_us"),
    Metric("cpu-plain", "CPU per request, upstream without TLS", "µs", "plain", "cpu_us"),
    Metric("rate-1", "requests per second, 1 connection", "/s", "one", "per_second"),
    Metric("rate-32", "requests per second, 32 connections", "/s", "bare", "per_second"),
    Metric("rate-256", "requests per second, 256 connections", "/s", "many", "per_second"),
    Metric("p50-1", "p50, 1 connection", "µs", "one", "p50_us"),
    Metric("added-1", "p50 added to the direct way, 1 connection", "µs", "one", "p50_us", is_added=True),
    Metric("p99-1", "p99, 1 connection", "µs", "one", "p99_us"),
    Metric("p50-32", "p50, 32 connections", "µs", "bare", "p50_us"),
    Metric("p99-32", "p99, 32 connections", "µs", "bare", "p99_us"),
    Metric("down", "CPU per GiB down", "s", "down", "cpu_s_per_gib"),
    Metric("up", "CPU per GiB up, kept for a replay", "s", "up", "cpu_s_per_gib"),
    Metric("up-unkept", "CPU per GiB up, not kept", "s", "up-unkept", "cpu_s_per_gib", against="up"),
    Metric("idle", "resident memory, idle", "MiB", "idle", "resident_mib"),
    Metric("loaded", "resident memory, 256 connections", "MiB", "many", "resident_mib"),
    Metric("grown-down", "memory grown by a large download", "MiB", "down", "grown_mib"),
    Metric("grown-up", "memory grown by a large upload", "MiB", "up", "grown_mib"),
    Metric("stream", "memory per slow stream", "KiB", "streams", "kib_per_stream"),
    Metric("faults", "minor page faults per request", "", "bare", "faults"),
    Metric("start", "start to first answer", "ms", "start", "ms"),
)
BY_KEY = {metric.key: metric for metric in METRICS}


@dataclass(frozen=True, slots=True)
class Target:
    """What we set out to reach: a ratio to `peer`, or our own figure where there is none."""

    key: str
    bound: float
    peer: str = ""
    is_least: bool = False
    """The figure must be at least the bound."""
    of: str = OURS
    """Whose figure: that of a variant of bearerproxy, where it is not ours."""

    def seen(self, results: Results) -> Spread | None:
        """Return the figure that the bound is for; None if it was not measured."""
        if self.key == "calls":
            gains = {number: tool["direct"] / tool["through"] for number, tool in enumerate(results.calls.values())}
            return Spread.of(gains)
        metric = BY_KEY[self.key]
        if not self.peer:
            return metric.absolute(results, self.of)
        return metric.ratio(results, best_peer(results, metric) if self.peer == BEST else self.peer, self.of)

    def is_reached(self, results: Results) -> bool | None:
        """Return whether the median keeps the bound; None if it was not measured."""
        seen = self.seen(results)
        if seen is None:
            return None
        return seen.median >= self.bound if self.is_least else seen.median <= self.bound


BEST = "best"
"""In the place of a peer: the one with the lowest figure."""

FAST = "fast"
"""bearerproxy with its extra of that name."""


def best_peer(results: Results, metric: Metric) -> str:
    """Return the peer with the lowest median, or "" if none was measured."""
    others = [peer for peer in results.versions if peer in PEERS and peer != OURS]
    found = [(seen.median, peer) for peer in others if (seen := metric.absolute(results, peer))]
    return min(found, default=(0.0, ""))[1]


TARGETS = (
    Target("cpu-bare", 1.0, "envoy"),
    Target("cpu-fields", 1.15, "envoy"),
    Target("cpu-bare", 0.60, "caddy-debian"),
    Target("cpu-fields", 0.65, "caddy-debian"),
    Target("cpu-bare", 0.50, "caddy-current"),
    Target("cpu-fields", 0.55, "caddy-current"),
    Target("cpu-bare", 2.6, "nginx"),
    Target("cpu-fields", 3.2, "nginx"),
    Target("cpu-bare", 0.05, "naive"),
    Target("added-1", 0.75, "caddy-current"),
    Target("added-1", 0.75, "envoy"),
    Target("p99-32", 0.8, "envoy"),
    Target("down", 1.6, "envoy"),
    Target("down", 1.2, "envoy", of=FAST),
    Target("up", 1.5, BEST),
    Target("grown-down", 16),
    Target("grown-up", 16),
    Target("stream", 48),
    Target("idle", 60),
    Target("calls", 1.8, is_least=True),
)
