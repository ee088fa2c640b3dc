from dataclasses import replace
from typing import Any

import pytest

from proxy.errors import IdentityMisconfigured, IssuerUnavailable, ProxyError, SignInRequired
from proxy.renewal import Forced, Trouble, backed_off, renew_after
from proxy.tokens import TokenSet
from tests.scripted_issuer import jwt


@pytest.mark.parametrize(
    ("changes", "age"),
    [
        ({}, 200),
        ({"refresh_expires_at": 1_000 + 120.0}, 60),
        ({"expires_at": 1_000 + 30 * 86400.0}, 20 * 86400),
        ({"expires_at": 1_000 + 30 * 86400.0, "refresh_token": jwt(typ="Offline")}, 0.9 * 86400),
        ({"expires_at": 1_000 + 30 * 86400.0, "refresh_expires_at": 1_000 + 1800.0}, 900),
        ({"refresh_expires_at": 1_000.5}, 1),
    ],
)
def test_renew_after(changes: dict[str, Any], age: float) -> None:
    """T1, T10: whatever ends first rules: the access token, the session's idle time, an offline token's unknown one."""
    token_set = TokenSet("a", expires_at=1_300.0, obtained_at=1_000.0, client_id="c", grant="device_code")

    assert renew_after(replace(token_set, **changes), 1.0) == pytest.approx(age)


def pauses(failures: int, *, lasted: float = 0.0, retry_after: int | None = None) -> tuple[float, float]:
    """Return how long after the failure a caller and the background may cause the next call."""
    error = IssuerUnavailable("down", retry_after=retry_after)
    trouble = backed_off(error, failures=failures, began=100.0 - lasted, boot=100.0, jitter=1.0)
    return trouble.asked_at - 100, trouble.idle_at - 100


def test_back_off_doubles() -> None:
    """T2: to 10 s while callers ask, to 60 s while nobody does."""
    assert [pauses(failures)[0] for failures in range(8)] == [1, 2, 4, 8, 10, 10, 10, 10]
    assert [pauses(failures)[1] for failures in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pauses(5_000) == (10, 60)


def test_call_that_hung_was_a_pause() -> None:
    assert pauses(4, lasted=10) == (1, 6)


@pytest.mark.parametrize(("retry_after", "expected"), [(120, (120, 120)), (3, (10, 16)), (0, (10, 16))])
def test_retry_after_is_the_least(retry_after: int, expected: tuple[float, float]) -> None:
    """T3: what the issuer asked for is waited out, and never shortens a pause."""
    assert pauses(4, retry_after=retry_after) == expected


def test_who_asked_decides_the_pause() -> None:
    trouble = Trouble(IssuerUnavailable("down"), since=100, asked_at=110, idle_at=160)

    assert (trouble.next_call(99), trouble.next_call(100)) == (160, 110)


@pytest.mark.parametrize("error", [SignInRequired("x", login="me"), IdentityMisconfigured("x"), IssuerUnavailable("x")])
def test_each_caller_gets_an_exception_of_its_own(error: ProxyError) -> None:
    trouble = Trouble(error, since=0)
    one, other = trouble.told(5), trouble.told(5)

    assert one is not other
    assert (type(one), one.detail, one.login, one.retry_after) == (type(error), "x", error.login, None)


def test_told_says_when_to_come_back() -> None:
    trouble = Trouble(IssuerUnavailable("down"), since=0, asked_at=7.2, idle_at=60)

    assert [trouble.told(boot).retry_after for boot in (0, 7, 9)] == [8, 1, 1]


@pytest.mark.parametrize(
    ("boot", "token", "is_allowed"), [(29, "a", False), (30, "a", True), (30, "b", False), (999, "b", False)]
)
def test_forced(boot: float, token: str, is_allowed: bool) -> None:
    """T20: once in 30 s, and never because of what the last one brought."""
    assert Forced(0, "b").allows(token, boot) is is_allowed
