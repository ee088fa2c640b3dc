"""Time as a parameter: nothing else in the package reads a clock or sleeps.

Two clocks, because either alone is wrong on a laptop: wall time jumps when it is set, and a monotonic clock that stops
in suspend would call a token fresh after a night with the lid closed. A token is expired if *either* says so.
"""

import asyncio
import heapq
import itertools
import sys
import time
from functools import partial
from typing import Protocol

monotonic = time.monotonic
"""What event loops count by, and so the deadlines of single connections: it stands still in suspend."""


class Clock(Protocol):
    """Where seconds come from."""

    def wall(self) -> float:
        """Return seconds since the Unix epoch; may jump in both directions."""

    def boot(self) -> float:
        """Return seconds since some fixed moment; never jumps back, counts suspend where the platform can."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of this clock's time."""


class SystemClock:
    """The real one."""

    # Asked several times for each request: without a function of ours around them they cost half.
    wall = staticmethod(time.time)  # noqa: TID251 - this is the clock's home
    if sys.platform == "linux":
        boot = staticmethod(partial(time.clock_gettime, time.CLOCK_BOOTTIME))
    else:
        boot = staticmethod(time.monotonic)  # the best there is on macOS and Windows

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # noqa: TID251 - this is the clock's home


class ManualClock:
    """A clock that moves only when told to: `await clock.advance(3)` runs every sleeper that is due, in order."""

    def __init__(self, wall: float = 1_750_000_000.0) -> None:
        self._wall = wall
        self._boot = 1_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def wall(self) -> float:
        return self._wall

    def boot(self) -> float:
        return self._boot

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._boot + seconds, next(self._order), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Move both clocks by `seconds`, waking sleepers at the moment each asked for."""
        end = self._boot + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            self._wall += max(due - self._boot, 0)
            self._boot = max(due, self._boot)
            if not woken.done():
                woken.set_result(None)
            await settle()
        self._wall += end - self._boot
        self._boot = end
        await settle()

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock as a person or NTP would: boot time does not notice."""
        self._wall += seconds

    def suspend(self, seconds: float) -> None:
        """Let `seconds` pass with the lid closed: both clocks move, while timers, which stood still, are late."""
        self._wall += seconds
        self._boot += seconds
        self._sleepers = [(due + seconds, order, woken) for due, order, woken in self._sleepers]


async def settle(rounds: int = 50) -> None:
    """Let every task that can run without time passing run; for tests with a ManualClock."""
    for _ in range(rounds):
        await asyncio.sleep(0)  # noqa: TID251 - yields, does not wait
