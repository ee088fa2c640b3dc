import base64
import json
from dataclasses import replace

import pytest

from proxy.tokens import TokenSet, claims


def jwt(**said: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()
    return f"e30.{payload}.c2ln"


NOW = 1_750_000_000.0
SET = TokenSet(
    access_token=jwt(preferred_username="ada"),
    expires_at=NOW + 300,
    obtained_at=NOW,
    client_id="client-tools",
    grant="device_code",
    refresh_token=jwt(typ="Refresh"),
    signed_in_at=NOW - 60,
    epoch=3,
    session_ends_at=NOW + 7_200,
    session_seconds=36_000.0,
)


def test_repr_and_str_show_no_secret() -> None:
    assert SET.access_token not in repr(SET) + str(SET)
    assert str(SET.refresh_token) not in repr(SET) + str(SET)


def test_what_the_store_writes_comes_back_as_the_same_set() -> None:
    assert TokenSet.from_json(json.loads(json.dumps(SET.to_json()))) == SET


@pytest.mark.parametrize("stored", [None, [], "text", {}, {"access_token": 5}])
def test_what_is_not_a_set_is_refused(stored: object) -> None:
    with pytest.raises(ValueError, match="not a token set"):
        TokenSet.from_json(stored)


def test_an_entry_without_an_absolute_expiry_counts_as_expired() -> None:
    stored = SET.to_json()
    del stored["expires_at"]
    assert TokenSet.from_json(stored).remaining(NOW, 0) < 0


@pytest.mark.parametrize(
    ("life", "leeway"),
    [(300, 30), (60, 10), (5, 1), (3, 1), (1.5, 0.5), (86400, 8640)],
)
def test_leeway_is_a_tenth_of_life_but_at_least_ten_seconds_and_at_most_a_fifth(life: float, leeway: float) -> None:
    assert replace(SET, expires_at=NOW + life).leeway == leeway


def test_either_clock_can_say_that_a_token_has_ended() -> None:
    entered = SET.entering(NOW, 1000)
    assert entered.remaining(NOW + 10, 1010) == 290
    assert entered.remaining(NOW + 400, 1010) < 0  # the wall clock was set forward
    assert entered.remaining(NOW + 10, 1400) < 0  # the machine slept


def test_a_wall_clock_set_back_never_lengthens_a_life() -> None:
    """Neither while the set is held, nor when it comes from a store that was written before the clock went back."""
    assert SET.entering(NOW, 1000).remaining(NOW - 3600, 1000) == 300
    assert SET.entering(NOW - 3600, 1000).boot_deadline == 1000 + 300
    assert SET.remaining(NOW - 3600, 0) == 300


def test_an_offline_token_is_known_by_its_type() -> None:
    assert replace(SET, refresh_token=jwt(typ="Offline")).is_offline
    assert not SET.is_offline
    assert not replace(SET, refresh_token=None).is_offline


def test_the_username_comes_from_the_claims_that_people_know() -> None:
    assert SET.username == "ada"
    assert replace(SET, access_token=jwt(sub="f00")).username == "f00"
    assert replace(SET, access_token="opaque").username is None


DEEP = f"a.{base64.urlsafe_b64encode(b'[' * 50_000).decode()}.c"


@pytest.mark.parametrize("token", ["", "opaque", "a.b", "a.%%%.c", "a.W10.c", "a." + "é" + ".c", DEEP])
def test_opaque_tokens_have_no_claims(token: str) -> None:
    assert claims(token) == {}
