"""What goes wrong, and when: a list of faults that the seed alone decides."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What goes wrong."""

    RESTART = "issuer restart"
    """Ended by SIGTERM and started again: an outage that outlasts a token of three seconds."""
    KILL = "issuer killed"
    """The same by SIGKILL."""
    ERROR = "issuer answers 500"
    BUSY = "issuer answers 429"
    HANG = "issuer hangs"
    REFUSE = "issuer resets connections"
    LOST = "token answer lost"
    """The issuer renewed, and its answer never arrives: only for identities that can sign in again by themselves."""
    REVOKE = "token revoked early"
    PAUSE = "proxy suspended"
    RESET = "upstream resets"
    SLOW = "upstream slow"
    STALL = "machine stalled"
    """Never planned: the soak itself, and with it the road to the issuer, stood still for want of a processor."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong: from `at` (seconds after the start) for `seconds`."""

    at: float
    kind: Kind
    seconds: float
    upstream: str = ""
    """Whom it concerns; empty is all."""

    @property
    def end(self) -> float:
        return self.at + self.seconds


QUIET_SECONDS = 4.0
"""At the beginning, and at the end: what is judged last is a proxy that nobody disturbs."""
BETWEEN_REVOCATIONS_SECONDS = 32.0
"""One forced renewal in 30 s is what an upstream gets (token-life T20)."""

SECONDS: dict[Kind, tuple[float, float]] = {
    # A restart lasts as long as it lasts; the time here is what the plan keeps free for it and for the recovery.
    Kind.RESTART: (24.0, 24.0),
    Kind.KILL: (24.0, 24.0),
    Kind.ERROR: (0.3, 2.0),
    Kind.BUSY: (0.3, 2.0),
    Kind.HANG: (0.5, 3.0),
    Kind.REFUSE: (0.3, 2.0),
    Kind.LOST: (2.0, 2.5),
    Kind.REVOKE: (0.0, 0.0),
    Kind.PAUSE: (1.0, 6.0),
    Kind.RESET: (1.0, 5.0),
    Kind.SLOW: (1.0, 5.0),
}
GAPS: dict[Kind, tuple[float, float]] = {
    # Shorter outages than the back-off after them would only be one long outage.
    Kind.ERROR: (4.0, 7.0),
    Kind.BUSY: (5.0, 8.0),
    Kind.HANG: (4.0, 7.0),
    Kind.REFUSE: (4.0, 7.0),
    Kind.LOST: (4.0, 7.0),
}
SHORT_GAP = (1.5, 4.0)

AROUND_TOKENS = (
    Kind.RESTART, Kind.KILL, Kind.ERROR, Kind.BUSY, Kind.HANG, Kind.REFUSE, Kind.LOST, Kind.REVOKE, Kind.REVOKE,
    Kind.PAUSE,
)  # fmt: skip
AT_UPSTREAMS = (Kind.RESET, Kind.SLOW)


def plan(seed: int, seconds: float, upstreams: Sequence[str]) -> tuple[Fault, ...]:
    """Return the faults of a soak of `seconds`, in the order of their beginning.

    Faults around tokens come one after the other, faults of the upstreams beside them. Of each of the two groups every
    kind comes once before one comes again, as far as it fits.
    """
    randomness = random.Random(seed)  # noqa: S311 - faults, not secrets
    faults = [*_around_tokens(randomness, seconds, upstreams), *_at_upstreams(randomness, seconds, upstreams)]
    return tuple(sorted(faults, key=lambda fault: (fault.at, fault.kind)))


def _around_tokens(randomness: random.Random, seconds: float, upstreams: Sequence[str]) -> Iterator[Fault]:
    revoked = dict.fromkeys(upstreams, -BETWEEN_REVOCATIONS_SECONDS)
    at = QUIET_SECONDS
    for kind in _dealt(randomness, AROUND_TOKENS):
        if at > seconds - QUIET_SECONDS:
            return
        lasts = randomness.uniform(*SECONDS[kind])
        upstream = ""
        if kind is Kind.REVOKE:
            upstream = min(revoked, key=lambda name: revoked[name])
            if at < revoked[upstream] + BETWEEN_REVOCATIONS_SECONDS:
                at += 0.1  # so that a deck of nothing else comes to its end
                continue
            revoked[upstream] = at
        if at + lasts > seconds - QUIET_SECONDS:
            at += 0.1
            continue
        yield Fault(at, kind, lasts, upstream)
        at += lasts + randomness.uniform(*GAPS.get(kind, SHORT_GAP))


def _at_upstreams(randomness: random.Random, seconds: float, upstreams: Sequence[str]) -> Iterator[Fault]:
    at = QUIET_SECONDS
    for kind in _dealt(randomness, AT_UPSTREAMS):
        at += randomness.uniform(3.0, 9.0)
        lasts = randomness.uniform(*SECONDS[kind])
        if at + lasts > seconds - QUIET_SECONDS:
            return
        yield Fault(at, kind, lasts, randomness.choice(list(upstreams)))
        at += lasts


def _dealt(randomness: random.Random, deck: Sequence[Kind]) -> Iterator[Kind]:
    while True:
        yield from randomness.sample(deck, len(deck))
