import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.clock import ManualClock, SystemClock, settle
from tests.conftest import need


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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the clock stands still in suspend, or nobody says")
def test_t7_boot_time_counts_what_was_slept() -> None:
    """In a namespace in which the machine has slept for a day since it was started: no other clock knows of that."""
    a_day = 86_400
    in_namespace = ("unshare", "--time", "--fork", "--boottime", str(a_day))
    if shutil.which("unshare") is None or subprocess.run([*in_namespace, "true"], check=False).returncode:
        need("the right to make a time namespace", how="run the suite as root, as CI does, on Linux 5.6 or newer")
    program = "from proxy.clock import SystemClock; print(SystemClock().boot())"

    answer = subprocess.run(
        [*in_namespace, sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )

    assert float(answer.stdout) - SystemClock().boot() == pytest.approx(a_day, abs=60)
