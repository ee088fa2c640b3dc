"""Values that are kept for their life, in small numbers, and obtained once."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.clock import ManualClock, settle
from proxy.datasets.kept import Kept


class Service:
    """Gives numbered values of one life, once it may."""

    def __init__(self, life: float = 60.0) -> None:
        self.calls = 0
        self.life = life
        self.may = asyncio.Event()
        self.may.set()

    async def obtain(self) -> tuple[str, float]:
        self.calls += 1
        await self.may.wait()
        return f"value {self.calls}", self.life


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def kept(clock: ManualClock) -> AsyncIterator[Kept[str, str]]:
    made: Kept[str, str] = Kept(limit=3, clock=clock)
    yield made
    await made.close()


async def test_a_thousand_callers_cost_one_call(kept: Kept[str, str]) -> None:
    service = Service()
    service.may.clear()
    callers = [asyncio.ensure_future(kept.get("a", service.obtain)) for _ in range(1000)]
    await settle()
    service.may.set()

    assert set(await asyncio.gather(*callers)) == {"value 1"}
    assert service.calls == 1


async def test_a_value_is_kept_for_its_life_and_not_longer(kept: Kept[str, str], clock: ManualClock) -> None:
    service = Service(life=60)
    values = [await kept.get("a", service.obtain)]
    await clock.advance(59)
    values.append(await kept.get("a", service.obtain))
    await clock.advance(1)
    values.append(await kept.get("a", service.obtain))

    assert values == ["value 1", "value 1", "value 2"]


async def test_the_one_that_was_not_used_for_longest_gives_way(kept: Kept[str, str]) -> None:
    service = Service()
    for key in ("a", "b", "c", "a", "d"):
        await kept.get(key, service.obtain)

    assert (len(kept), service.calls) == (3, 4)
    await kept.get("a", service.obtain)
    assert service.calls == 4
    await kept.get("b", service.obtain)
    assert service.calls == 5


async def test_a_bad_value_is_forgotten_and_a_newer_one_is_not(kept: Kept[str, str]) -> None:
    """Many readers meet the 403 of one ended link; the second must not throw away what the first obtained."""
    service = Service()
    old = await kept.get("a", service.obtain)
    kept.forget("a", old)
    new = await kept.get("a", service.obtain)
    kept.forget("a", old)

    assert (new, await kept.get("a", service.obtain)) == ("value 2", "value 2")


async def test_a_failure_is_told_to_all_and_not_kept(kept: Kept[str, str]) -> None:
    calls = 0

    async def failing() -> tuple[str, float]:
        nonlocal calls
        calls += 1
        raise OSError("away")

    told = await asyncio.gather(*(kept.get("a", failing) for _ in range(3)), return_exceptions=True)

    assert [str(one) for one in told] == ["away"] * 3
    assert calls == 1
    assert await kept.get("a", Service().obtain) == "value 1"


async def test_a_caller_who_leaves_does_not_end_the_others_flight(kept: Kept[str, str]) -> None:
    service = Service()
    service.may.clear()
    first = asyncio.ensure_future(kept.get("a", service.obtain))
    second = asyncio.ensure_future(kept.get("a", service.obtain))
    await settle()
    first.cancel()
    await settle()
    service.may.set()

    assert await second == "value 1"
    assert service.calls == 1
