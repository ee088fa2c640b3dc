import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from proxy.clock import ManualClock
from proxy.resume_watch import ResumeWatch
from proxy.tasks import Tasks


@dataclass
class Bench:
    clock: ManualClock = field(default_factory=ManualClock)
    resumed: list[float] = field(default_factory=list)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench, tasks = Bench(), Tasks()
    watch = ResumeWatch(lambda: bench.resumed.append(bench.clock.boot()), clock=bench.clock)
    _ = tasks.start(watch.run(), name="resume watch")
    await asyncio.sleep(0)  # noqa: TID251 - lets it begin
    yield bench
    await tasks.close()


async def test_t8_a_night_is_noticed_once_and_soon(bench: Bench) -> None:
    await bench.clock.advance(60)
    assert bench.resumed == []
    bench.clock.suspend(8 * 3600)
    woken = bench.clock.boot()
    await bench.clock.advance(60)

    [noticed] = bench.resumed
    assert noticed <= woken + 2


async def test_t8_every_night_is_noticed(bench: Bench) -> None:
    for _ in range(5):
        bench.clock.suspend(60)
        await bench.clock.advance(60)

    assert len(bench.resumed) == 5


async def test_t7_t8_a_machine_whose_boot_clock_stands_still_in_suspend(bench: Bench) -> None:
    """As on macOS: wall time alone moves on, as it does where somebody sets it forward."""
    bench.clock.jump_wall(3600)
    await bench.clock.advance(60)
    assert len(bench.resumed) == 1

    bench.clock.jump_wall(-7200)
    await bench.clock.advance(60)
    assert len(bench.resumed) == 1


async def test_a_busy_machine_is_not_a_sleeping_one(bench: Bench) -> None:
    """A loop that is held up for seconds keeps its connections."""
    bench.clock.suspend(5)
    await bench.clock.advance(60)

    assert bench.resumed == []
