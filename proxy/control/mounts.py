"""One upstream as the page shows it: addresses to copy, its policy, and how it has been answering. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from proxy.control.accounts import own_base_url
from proxy.control.words import brief_words
from proxy.metrics import UpstreamCounts
from proxy.upstreams import Upstream

SPARK_WIDTH, SPARK_HEIGHT = 120.0, 28.0


@dataclass(frozen=True, slots=True)
class Spark:
    """The last answers as a small picture, and in words for those who do not see it."""

    line: str
    """Points of an SVG polyline: the time that each answer took, oldest first."""
    faults: tuple[tuple[float, float], ...]
    """Where an answer failed."""
    words: str


@dataclass(frozen=True, slots=True)
class Health:
    """How an upstream has been answering."""

    count: int
    """Answers since the start."""
    last: tuple[tuple[str, str], ...]
    """(class of the status, what to show) of the last answers, newest first."""
    error_rate: str
    """Share of the recent answers that failed, in words."""
    has_errors: bool
    spark: Spark


@dataclass(frozen=True, slots=True)
class MountRow:
    """One upstream, as the page shows it."""

    name: str
    base_url: str
    own_base_url: str | None
    curl: str
    url: str
    identity: str | None
    static_fields: tuple[str, ...]
    chips: tuple[tuple[str, str], ...]
    """(kind, text): what the policy says, in a few words each."""
    denied: tuple[str, ...]
    """Paths that are never relayed, where they are too many for such words."""
    health: Health | None
    """None before the first answer."""


def mount_row(upstream: Upstream, base_url: str, counts: UpstreamCounts | None = None) -> MountRow:
    """Return one upstream as the page shows it."""
    local = base_url + upstream.mount
    return MountRow(
        name=upstream.name,
        base_url=local,
        own_base_url=own_base_url(upstream),
        curl=f"curl {local}/",
        url=upstream.url,
        identity=upstream.identity,
        static_fields=tuple(name for name, _ in upstream.headers),
        chips=tuple(policy_chips(upstream)),
        denied=upstream.deny if len(upstream.deny) > 1 else (),
        health=None if counts is None or not counts.recent else health(counts),
    )


def health(counts: UpstreamCounts) -> Health:
    """Return how an upstream has been answering; there is at least one answer."""
    recent = tuple(counts.recent)
    failed = sum(1 for status, _, is_complete in recent if status >= 500 or not is_complete)
    times = "1 answer" if len(recent) == 1 else f"{len(recent)} answers"
    return Health(
        count=sum(counts.classes),
        last=tuple((_class_of(*one), _shown(*one)) for one in recent[:-6:-1]),
        error_rate=f"{failed / len(recent):.0%} of {times} failed" if failed else f"none of {times} failed",
        has_errors=failed > 0,
        spark=spark(recent),
    )


def spark(recent: Sequence[tuple[int, float, bool]]) -> Spark:
    """Return the picture of (status, seconds, is_complete), oldest first.

    What takes ten times as long as usual, or more, reaches its top: one slow answer must not flatten all others.
    """
    slowest, middle = max(seconds for _, seconds, _ in recent), median(seconds for _, seconds, _ in recent)
    top = min(slowest, 10 * middle) or 1.0
    step = SPARK_WIDTH / max(len(recent) - 1, 1)
    points = [
        (round(at * step, 1), round(SPARK_HEIGHT - 2 - min(seconds / top, 1) * (SPARK_HEIGHT - 4), 1))
        for at, (_, seconds, _) in enumerate(recent)
    ]
    faults = tuple(
        point for point, (status, _, whole) in zip(points, recent, strict=True) if status >= 500 or not whole
    )
    if len(points) == 1:
        points.append((SPARK_WIDTH, points[0][1]))
    words = f"usually {brief_words(middle)}, {brief_words(slowest)} at most"
    return Spark(" ".join(f"{x:g},{y:g}" for x, y in points), faults, words)


def _class_of(status: int, _: float, is_complete: bool) -> str:
    return f"{status // 100}xx" if is_complete else "5xx"


def _shown(status: int, _: float, is_complete: bool) -> str:
    return str(status) if is_complete else f"{status}, broke off"


def policy_chips(upstream: Upstream) -> Sequence[tuple[str, str]]:
    """Return (kind, text) for each rule of the upstream's policy."""
    chips = [("read-only", "read only")] if upstream.read_only else []
    if upstream.methods is not None:
        chips.append(("methods", " ".join(upstream.allowed_methods)))
    if len(upstream.deny) == 1:
        chips.append(("deny", f"never {upstream.deny[0]}"))
    if upstream.accept is not None:
        chips.append(("accept", f"default {upstream.accept}"))
    if upstream.accept_language is not None:
        chips.append(("accept", f"language {upstream.accept_language}"))
    return chips
