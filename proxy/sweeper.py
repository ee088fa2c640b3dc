"""Deadlines without timers: whatever must not last for ever is looked at now and then, all of it at once.

A timer for each request would be made and cancelled at each of its bytes. Here a deadline is a number that its owner
moves; one timer for all compares it, and there is none while nothing runs.
"""

import asyncio
from typing import Protocol

from proxy.clock import monotonic

PERIOD_SECONDS = 1.0


class Mortal(Protocol):
    """Something that ends at its deadline."""

    due: float
    """By `time.monotonic()`; moved by the owner as often as it likes."""

    def expire(self, now: float) -> None:
        """Act on a deadline that has passed."""


class Sweeper:
    """Looks at deadlines; late by one period at most."""

    def __init__(self) -> None:
        self._period = PERIOD_SECONDS
        self._all: set[Mortal] = set()
        self._timer: asyncio.TimerHandle | None = None

    def be_finer_than(self, seconds: float) -> None:
        """Look often enough for a deadline of `seconds`, which somebody has configured."""
        self._period = min(self._period, seconds / 4)

    def add(self, one: Mortal) -> None:
        self._all.add(one)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._period, self._sweep)

    def remove(self, one: Mortal) -> None:
        self._all.discard(one)

    def _sweep(self) -> None:
        loop, now = asyncio.get_running_loop(), monotonic()
        for one in [one for one in self._all if one.due <= now]:
            try:
                one.expire(now)
            except Exception as error:  # noqa: BLE001 - told by the loop: the others have deadlines too
                loop.call_exception_handler({"message": "a deadline passed", "exception": error})
        self._timer = loop.call_later(self._period, self._sweep) if self._all else None
