"""When does this sign-in end? Nobody tells, so it is read from what the issuer says and does. Pure.

What an issuer with sessions does (Keycloak; token-life 8): each renewal gives a refresh token that lasts for the idle
time, so its end moves on with every renewal. Near the end of the session the new refresh token ends with the session:
its end stands still, and what is left of it shrinks. From then on the end is known. Before, only this is known: the
sign-in lasts at least as long as the refresh token at hand, and longer while it is renewed.

A session that was seen to its end also tells how long the next one lasts, if the issuer says when each began
(`auth_time`, OpenID Connect Core 2): a person may have signed in to the browser long before the proxy was confirmed.

Offline tokens have no told end: Keycloak says 0, though an idle limit is enforced. That is *unknown*, not *never*.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from proxy.events import Event, SignInEnding
from proxy.tokens import TokenSet, claims

AHEAD_SECONDS = (86_400.0, 3_600.0, 600.0)
"""How long before a known end it is told."""
ROUNDING_SECONDS = 1.5
"""Issuers count whole seconds, so an end that stands still may seem to move by one."""
SAME_END_SECONDS = 60.0
"""Two ends that are no further apart are the same one, told about once."""

Kind = Literal["known", "at-least", "unknown", "none"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a sign-in ends, as far as anybody can know."""

    kind: Kind
    """`known`: at `ends_at`. `at-least`: not before `ends_at` while it is renewed. `unknown`: nobody says.
    `none`: there is no sign-in that could end, because all that is needed is configured."""
    ends_at: float | None = None
    """Seconds since the epoch."""
    is_lasting: bool = False
    """True for an offline sign-in, which outlives sessions."""

    def covers(self, moment: float) -> bool:
        """Return whether the sign-in lasts until `moment` for all that is known; an offline one is trusted to."""
        if self.ends_at is not None:
            return self.ends_at >= moment
        return self.kind == "none" or self.is_lasting


def forecast(held: TokenSet, *, is_repeatable: bool = False) -> Forecast:
    """Return when the sign-in behind `held` ends; `is_repeatable` if its grant needs no person to be made again."""
    if is_repeatable:
        return Forecast("none")
    is_lasting = held.refresh_token is not None and (held.is_offline or "offline_access" in (held.scope or "").split())
    if held.refresh_token is None:
        return Forecast("known", held.expires_at)
    if held.session_ends_at is not None:
        return Forecast("known", held.session_ends_at, is_lasting)
    until = refresh_end(held)
    if until is None:
        return Forecast("unknown", None, is_lasting)
    start = session_start(held)
    if start is not None and held.session_seconds is not None:
        learned = start + held.session_seconds
        if learned > until - SAME_END_SECONDS:  # else the issuer itself promises more than the last session had
            return Forecast("known", max(learned, until), is_lasting)
    return Forecast("at-least", until, is_lasting)


def refresh_end(held: TokenSet) -> float | None:
    """Return when the refresh token at hand ends: as the issuer told, else by its own claims; None is unknown."""
    if held.refresh_expires_at is not None or held.refresh_token is None:
        return held.refresh_expires_at
    said = claims(held.refresh_token)
    began, ends = _moment(said.get("iat")), _moment(said.get("exp"))
    # Both are of the issuer's clock; ours is compared with neither (T6).
    return held.obtained_at + (ends - began) if began is not None and ends is not None and ends > began else None


def session_start(held: TokenSet) -> float | None:
    """Return when the person signed in at the issuer, by our clock; None if the access token does not tell."""
    said = claims(held.access_token)
    began, issued = _moment(said.get("auth_time")), _moment(said.get("iat"))
    return held.obtained_at - (issued - began) if began is not None and issued is not None and issued >= began else None


def fixed_end(held: TokenSet, fresh: TokenSet) -> float | None:
    """Return the end of the sign-in if the renewal of `held` to `fresh` shows it: the refresh token's end stood still.

    None while that end moves on, or is not told.
    """
    before, after = refresh_end(held), refresh_end(fresh)
    if before is None or after is None or before == after:
        return after
    known = held.session_ends_at
    if known is not None:
        return min(known, after) if after <= known + ROUNDING_SECONDS else None
    # What is left of both, and not their ends, are compared: a wall clock that jumped in between changes neither.
    shrunk = (before - held.obtained_at) - (after - fresh.obtained_at)
    elapsed = fresh.obtained_at - held.obtained_at
    return after if shrunk > max(ROUNDING_SECONDS, elapsed / 2) else None


def learned_seconds(before: TokenSet | None, fresh: TokenSet) -> float | None:
    """Return how long the session of `fresh` may last, learned from the sign-in `before` it; None if nothing was."""
    if before is None or (before.issuer, before.client_id, before.is_offline) != (
        fresh.issuer, fresh.client_id, fresh.is_offline,
    ):  # fmt: skip
        return None
    start = session_start(before)
    if before.session_ends_at is None or start is None:
        return before.session_seconds
    return max(before.session_ends_at - start, 0.0)


class Lookout:
    """Tells each near end once. Asked each second; a restart of the process tells again."""

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._ends_at = 0.0
        self._told: set[float] = set()

    def events(self, seen: Forecast | None, now: float) -> Iterator[Event]:
        """Yield what there is to tell at `now`, seconds since the epoch."""
        if seen is None or seen.kind != "known" or seen.ends_at is None:
            return
        if abs(seen.ends_at - self._ends_at) > SAME_END_SECONDS:
            self._told = set()
            self._ends_at = seen.ends_at
        left = seen.ends_at - now
        passed = {ahead for ahead in AHEAD_SECONDS if 0 < left <= ahead}
        if passed - self._told:
            yield SignInEnding(self._identity, seen.ends_at, left)
        self._told |= passed


def _moment(said: object) -> float | None:
    is_number = isinstance(said, int | float) and not isinstance(said, bool)
    return float(said) if is_number and isinstance(said, int | float) and 0 < said < 1e12 else None
