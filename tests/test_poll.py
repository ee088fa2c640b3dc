"""Waiting for real sockets (tests/poll.py)."""

import pytest

from tests.poll import eventually


async def test_eventually_returns_the_first_true_value() -> None:
    answers = iter([0, None, "ready"])

    assert await eventually(lambda: next(answers), 5, every=0.001) == "ready"


async def test_eventually_awaits_an_async_condition() -> None:
    async def condition() -> bool:
        return True

    assert await eventually(condition, 5)


async def test_eventually_names_what_never_came() -> None:
    with pytest.raises(TimeoutError, match=r"the moon not seen within 0.01 s; the last value was 0"):
        await eventually(lambda: 0, 0.01, every=0.001, what="the moon")
