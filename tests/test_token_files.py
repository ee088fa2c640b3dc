"""The cache files of the existing clients, as those programs write them."""

import json

import pytest

from proxy.errors import NotTakenOver
from proxy.token_files import LIMIT, FoundTokens, found_tokens

TOKENS = {"access_token": "canary-access", "refresh_token": "canary-refresh"}
FOUND = FoundTokens("canary-refresh", "canary-access")


def staged(**stages: object) -> str:
    return json.dumps({"stages": {"TEST": None, "DEV": None, "STAGE": None, "PROD": None} | stages})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param(staged(PROD=TOKENS), {"PROD": FOUND}, id="mds-is-client-tools"),
        pytest.param(
            staged(PROD=TOKENS, DEV={"access_token": "a", "refresh_token": "r"}),
            {"PROD": FOUND, "DEV": FoundTokens("r", "a")},
            id="two stages",
        ),
        pytest.param(staged(PROD=TOKENS, DEV={"access_token": "a"}), {"PROD": FOUND}, id="one of an offline token"),
        pytest.param(json.dumps(TOKENS), {None: FOUND}, id="provenaclient"),
        pytest.param(json.dumps({"refresh_token": "r", "more": 1}), {None: FoundTokens("r")}, id="the least"),
        pytest.param("canary-refresh\n", {None: FoundTokens("canary-refresh")}, id="a bare token"),
        pytest.param("  e30.e30.c2ln\r\n", {None: FoundTokens("e30.e30.c2ln")}, id="a bare JWT"),
    ],
)
def test_refresh_tokens_are_found(text: str, found: dict[str | None, FoundTokens]) -> None:
    assert found_tokens(text) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "neither"),
        ("two canary-words", "neither"),
        ("canary-ü", "neither"),
        ("canary\nsecond", "neither"),
        ('{"canary', "not"),
        ("[" * 10_000, "not"),
        ("[]", "not the token cache"),
        ("{}", "no refresh token"),
        (staged(), "no refresh token"),
        (staged(PROD={"access_token": "canary"}), "offline token"),
        ('{"stages": ["canary"]}', "no refresh token"),
        ('{"refresh_token": "canary with a space"}', "no refresh token"),
        ("x" * (LIMIT + 1), "too long"),
    ],
)
def test_what_holds_none_is_told_without_repeating_it(text: str, why: str) -> None:
    with pytest.raises(NotTakenOver, match=why) as told:
        found_tokens(text)
    assert "canary" not in str(told.value)


def test_no_repr_shows_a_token() -> None:
    assert "canary" not in repr(FOUND)
