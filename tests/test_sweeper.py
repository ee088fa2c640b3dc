"""Deadlines that are looked at together: none is late by more than a period, whatever the others do."""

import asyncio
import math
from dataclasses import dataclass, field
from typing import Any

from proxy.sweeper import Sweeper
from tests.poll import eventually


@dataclass(eq=False)
class Mortal:
    sweeper: Sweeper
    due: float = 0.0
    ended: list[float] = field(default_factory=list)

    def expire(self, now: float) -> None:
        self.ended.append(now)
        self.sweeper.remove(self)


class Immortal(Mortal):
    """One that fails each time."""

    def expire(self, now: float) -> None:
        self.ended.append(now)
        raise RuntimeError("canary: whatever it was working on")


def sweeping() -> Sweeper:
    sweeper = Sweeper()
    sweeper.be_finer_than(0.02)
    return sweeper


async def test_what_is_due_expires_and_what_is_not_goes_on() -> None:
    sweeper = sweeping()
    due, later = Mortal(sweeper), Mortal(sweeper, math.inf)
    sweeper.add(due)
    sweeper.add(later)
    await eventually(lambda: due.ended)

    assert later.ended == []
    sweeper.remove(later)


async def test_s34_h61_one_that_fails_starves_no_other_now_or_later() -> None:
    """A defect behind one deadline must not be the end of all deadlines of the process."""
    loop, told = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: told.append(context))
    sweeper = sweeping()
    failing, others = Immortal(sweeper), [Mortal(sweeper) for _ in range(20)]
    for one in (failing, *others):
        sweeper.add(one)
    await eventually(lambda: all(one.ended for one in others) and len(failing.ended) > 1)
    newcomer = Mortal(sweeper)
    sweeper.add(newcomer)
    await eventually(lambda: newcomer.ended)

    assert {str(one["exception"])[:6] for one in told} == {"canary"}
    sweeper.remove(failing)


async def test_while_nothing_runs_there_is_no_timer() -> None:
    sweeper = sweeping()
    one = Mortal(sweeper)
    sweeper.add(one)
    await eventually(lambda: one.ended and sweeper._timer is None)
