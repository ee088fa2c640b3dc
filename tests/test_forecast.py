"""When does a sign-in end? What the issuer says and does, as a table."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from proxy.clock import ManualClock
from proxy.events import Event, SignInEnding
from proxy.forecast import Forecast, Lookout, fixed_end, forecast, learned_seconds, refresh_end, session_start
from proxy.grants import refresh_token
from proxy.tokens import TokenSet
from tests.scripted_issuer import ScriptedIssuer, error, identity, jwt

NOW = 1_750_000_000.0
IDLE, SESSION = 1_800.0, 36_000.0
SET = TokenSet(
    access_token=jwt(sub="alice", iat=5_000, auth_time=2_000),
    expires_at=NOW + 300,
    obtained_at=NOW,
    client_id="client-tools",
    grant="device_code",
    refresh_token="opaque",
    refresh_expires_at=NOW + IDLE,
    signed_in_at=NOW,
    issuer="https://auth.example.org",
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, Forecast("at-least", NOW + IDLE), id="it slides"),
        pytest.param({"session_ends_at": NOW + 900}, Forecast("known", NOW + 900), id="it stood still"),
        pytest.param({"refresh_expires_at": None}, Forecast("unknown"), id="nobody says"),
        pytest.param({"refresh_token": None}, Forecast("known", NOW + 300), id="nothing to renew with"),
        pytest.param(
            {"refresh_token": jwt(typ="Offline"), "refresh_expires_at": None},
            Forecast("unknown", None, is_lasting=True),
            id="offline, by its type",
        ),
        pytest.param(
            {"scope": "profile offline_access", "refresh_expires_at": None},
            Forecast("unknown", None, is_lasting=True),
            id="offline, by the scope",
        ),
        pytest.param(
            {"refresh_token": jwt(typ="Refresh", iat=77, exp=77 + 1_200), "refresh_expires_at": None},
            Forecast("at-least", NOW + 1_200),
            id="only the token's own claims say, by a clock that is not ours",
        ),
        pytest.param(
            {"session_seconds": SESSION}, Forecast("known", NOW - 3_000 + SESSION), id="one was seen to end before"
        ),
        pytest.param(
            {"session_seconds": 4_000.0}, Forecast("at-least", NOW + IDLE), id="the issuer promises more"
        ),
        pytest.param(
            {"session_seconds": SESSION, "access_token": "opaque"},
            Forecast("at-least", NOW + IDLE),
            id="nobody says when this one began",
        ),
    ],
)  # fmt: skip
def test_when_a_sign_in_ends(changes: dict[str, Any], expected: Forecast) -> None:
    assert forecast(replace(SET, **changes)) == expected


def test_what_needs_no_person_has_no_end() -> None:
    assert forecast(SET, is_repeatable=True) == Forecast("none")


@pytest.mark.parametrize(
    ("seen", "is_covered"),
    [
        (Forecast("known", NOW + 100), True),
        (Forecast("known", NOW + 99), False),
        (Forecast("at-least", NOW + 100), True),
        (Forecast("at-least", NOW + 99), False),
        (Forecast("unknown"), False),
        (Forecast("unknown", None, is_lasting=True), True),
        (Forecast("known", NOW + 99, is_lasting=True), False),
        (Forecast("none"), True),
    ],
)
def test_whether_it_lasts_until_a_moment(seen: Forecast, is_covered: bool) -> None:
    assert seen.covers(NOW + 100) is is_covered


@pytest.mark.parametrize(
    "token", [None, "opaque", jwt(exp=5), jwt(iat=9, exp=5), jwt(iat="x", exp=True), jwt(iat=1, exp=0)]
)
def test_claims_that_make_no_sense_tell_no_end(token: str | None) -> None:
    assert refresh_end(replace(SET, refresh_token=token, refresh_expires_at=None)) is None


@pytest.mark.parametrize("access_token", ["opaque", jwt(iat=5), jwt(auth_time=0, iat=5), jwt(auth_time=9, iat=5)])
def test_a_start_that_is_not_told_is_not_known(access_token: str) -> None:
    assert session_start(replace(SET, access_token=access_token)) is None


def test_the_start_is_counted_by_our_clock() -> None:
    assert session_start(SET) == NOW - 3_000


# What renewals show


class Session(ScriptedIssuer):
    """An issuer whose refresh tokens end after the idle time, or with the session."""

    def __init__(self, clock: ManualClock, *, idle: float, ends_at: float) -> None:
        super().__init__()
        self._clock, self._idle, self._ends_at = clock, idle, ends_at

    def grant(self) -> dict[str, Any]:
        self.refresh_life = int(min(self._idle, self._ends_at - self._clock.wall()))
        return super().grant()


def renewed(held: TokenSet, after: float, end: float | None, **changes: Any) -> TokenSet:
    at = held.obtained_at + after
    fresh = replace(held, obtained_at=at, expires_at=at + 300, refresh_expires_at=end, **changes)
    return replace(fresh, session_ends_at=fixed_end(held, fresh))


@pytest.mark.parametrize(
    ("after", "end", "known"),
    [
        pytest.param(200, NOW + 200 + IDLE, None, id="it moves on with each renewal"),
        pytest.param(200, NOW + 200 + IDLE - 1, None, id="rounded to seconds"),
        pytest.param(200, NOW + IDLE, NOW + IDLE, id="it stands still"),
        pytest.param(200, NOW + IDLE + 1, NOW + IDLE + 1, id="it stands still, rounded"),
        pytest.param(200, NOW + 900, NOW + 900, id="it shrinks"),
        pytest.param(0.5, NOW + IDLE, NOW + IDLE, id="the same refresh token after half a second"),
        pytest.param(2, NOW + IDLE + 2, None, id="moves on with a token of three seconds"),
        pytest.param(2, NOW + IDLE + 0.2, NOW + IDLE + 0.2, id="stands still with a token of three seconds"),
        pytest.param(200, None, None, id="no longer told"),
        pytest.param(3_600, NOW + 3_600 + IDLE, None, id="after a clock that was set forward"),
        pytest.param(-3_600, NOW - 3_600 + IDLE, None, id="after a clock that was set back"),
    ],
)
def test_an_end_that_stands_still_is_the_end(after: float, end: float | None, known: float | None) -> None:
    assert renewed(SET, after, end).session_ends_at == known


def test_a_known_end_stays_known_until_it_moves_on() -> None:
    first = renewed(SET, 200, NOW + 1_700)
    second = renewed(first, 200, NOW + 1_701)
    third = renewed(second, 0.5, NOW + 1_699)
    longer = renewed(third, 100, NOW + 500.5 + IDLE)

    assert (first.session_ends_at, second.session_ends_at, third.session_ends_at) == (
        NOW + 1_700,
        NOW + 1_700,
        NOW + 1_699,
    )
    assert longer.session_ends_at is None


async def test_a_session_is_seen_to_its_end() -> None:
    """Idle time and maximum as Keycloak counts them: known once less than the idle time is left."""
    clock = ManualClock(NOW)
    issuer = Session(clock, idle=600, ends_at=NOW + 3_000)
    held = replace(SET, refresh_token=issuer.grant()["refresh_token"], refresh_expires_at=NOW + 600)
    seen = []
    for _ in range(14):
        await clock.advance(200)
        held = await refresh_token.renew(issuer.at(clock), held)
        seen.append(forecast(held))

    assert [one.kind for one in seen] == ["at-least"] * 12 + ["known"] * 2
    assert seen[-1] == Forecast("known", NOW + 3_000)


def ended(**changes: Any) -> TokenSet:
    """Return the last set of a session that lasted ten hours."""
    return replace(SET, obtained_at=NOW - 60, session_ends_at=NOW - 60 - 3_000 + SESSION, **changes)


@pytest.mark.parametrize(
    ("before", "seconds"),
    [
        (None, None),
        (SET, None),
        (ended(), SESSION),
        (ended(access_token="opaque"), None),
        (ended(access_token="opaque", session_seconds=SESSION), SESSION),
        (replace(SET, session_seconds=SESSION), SESSION),
        (ended(client_id="another"), None),
        (ended(issuer="https://another.example"), None),
        (ended(refresh_token=jwt(typ="Offline")), None),
    ],
)
def test_a_session_that_was_seen_to_end_tells_how_long_the_next_one_lasts(
    before: TokenSet | None, seconds: float | None
) -> None:
    assert learned_seconds(before, SET) == seconds


async def test_a_renewal_keeps_what_was_learned() -> None:
    clock, issuer = ManualClock(NOW), ScriptedIssuer()
    held = replace(SET, refresh_token=issuer.grant()["refresh_token"], session_seconds=SESSION)
    await clock.advance(200)

    assert (await refresh_token.renew(issuer.at(clock), held)).session_seconds == SESSION


# Telling it


def told(lookout: Lookout, seen: Forecast | None, *moments: float) -> Iterator[float]:
    for now in moments:
        for event in lookout.events(seen, now):
            assert isinstance(event, SignInEnding)
            yield event.seconds


def test_a_known_end_is_told_three_times() -> None:
    lookout = Lookout("me")
    end = Forecast("known", NOW)
    lefts = (90_000, 86_400, 86_399, 7_200, 3_600, 3_599, 601, 600, 599, 10, 0, -5)

    assert list(told(lookout, end, *(NOW - left for left in lefts))) == [86_400, 3_600, 600]


def test_an_end_that_becomes_known_late_is_told_at_once_and_once() -> None:
    assert list(told(Lookout("me"), Forecast("known", NOW), NOW - 1_700, NOW - 1_699, NOW - 500)) == [1_700, 500]


def test_an_end_that_wavers_by_a_second_is_the_same_end() -> None:
    lookout = Lookout("me")

    assert list(told(lookout, Forecast("known", NOW), NOW - 1_000)) == [1_000]
    assert list(told(lookout, Forecast("known", NOW + 1), NOW - 999)) == []
    assert list(told(lookout, Forecast("known", NOW + 2_000), NOW - 900)) == [2_900]


@pytest.mark.parametrize("seen", [None, Forecast("at-least", NOW), Forecast("unknown"), Forecast("none")])
def test_what_is_not_known_is_not_told(seen: Forecast | None) -> None:
    assert list(told(Lookout("me"), seen, NOW - 10)) == []


# In the running source, with its background


async def test_a_source_tells_the_end_and_counts_what_it_did() -> None:
    from proxy.stores import MemoryStore
    from proxy.token_source import TokenSource

    clock, store = ManualClock(NOW), MemoryStore()
    issuer = Session(clock, idle=9_000, ends_at=NOW + 4_000)
    events: list[Event] = []
    held = replace(SET, issuer=identity().issuer, refresh_token=issuer.grant()["refresh_token"], epoch=1)
    held = replace(held, refresh_expires_at=NOW + 4_000)
    assert await store.save("provena", held)
    issuer.script.append(error("temporarily_unavailable", status=503))
    source = TokenSource(
        identity(), issuer=issuer.at(clock), store=store, clock=clock, emit=events.append, jitter=lambda: 1.0
    )
    await source.start()
    await clock.advance(3_600)
    status = source.status()
    replayed = await source.reject(held)
    await source.close()

    assert [event.seconds // 60 for event in events if isinstance(event, SignInEnding)] == [63, 60, 10]
    assert status.forecast is not None
    assert status.forecast.kind == "known"
    assert status.forecast.ends_at == pytest.approx(NOW + 4_000, abs=10)
    assert status.renewals == issuer.token_calls - 1 > 10
    assert status.failed_renewals == {"issuer-unavailable": 1}
    assert replayed is not None
    assert (status.replays, source.status().replays) == (0, 1)


async def test_a_refused_renewal_makes_the_end_known() -> None:
    """What is left is the access token; that the sign-in has ended was told already."""
    from proxy.stores import MemoryStore
    from proxy.token_source import TokenSource

    clock, issuer, store = ManualClock(NOW), ScriptedIssuer(), MemoryStore()
    events: list[Event] = []
    assert await store.save("provena", replace(SET, issuer=identity().issuer, epoch=1))
    source = TokenSource(
        identity(), issuer=issuer.at(clock), store=store, clock=clock, emit=events.append, jitter=lambda: 1.0
    )
    await source.start()
    await clock.advance(210)
    status = source.status()
    await source.close()

    assert (status.state, status.forecast) == ("ready", Forecast("known", NOW + 300))
    assert status.failed_renewals == {"sign-in-required": 1}
    assert not [event for event in events if isinstance(event, SignInEnding)]
