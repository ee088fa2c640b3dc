import asyncio

from proxy.clock import ManualClock, SystemClock, settle


async def test_sleepers_wake_in_the_order_of_their_moments_and_see_that_moment() -> None:
    clock = ManualClock()
    start, seen = clock.boot(), []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        seen.append(clock.boot() - start)

    tasks = [asyncio.create_task(sleeper(seconds)) for seconds in (3, 1, 2)]  # noqa: TID251 - awaited below
    await clock.advance(2.5)
    assert seen == [1, 2]
    await clock.advance(1)
    assert seen == [1, 2, 3]
    await asyncio.gather(*tasks)


async def test_a_jump_of_the_wall_clock_wakes_nobody() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(10))  # noqa: TID251 - awaited below
    await settle()
    clock.jump_wall(3600)
    await settle()
    assert not task.done()
    await clock.advance(10)
    await task


def test_boot_time_does_not_run_backwards() -> None:
    clock = SystemClock()
    assert clock.boot() <= clock.boot()
