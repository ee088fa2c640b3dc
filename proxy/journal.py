"""The last requests, for a person to look at: a ring of events with the moment of each.

It knows events and nothing else, and it is asked nothing while requests are relayed: an append to a bounded deque is
all that one costs. Targets are masked before they get here (events).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.events import Event, Refused, Relayed

LENGTH = 500


@dataclass(frozen=True, slots=True)
class Entry:
    """One request, as it ended."""

    number: int
    """Counted from the start of the process."""
    moment: float
    """Seconds since the epoch."""
    event: Relayed | Refused

    @property
    def is_own(self) -> bool:
        """Whether the answer was one of ours and not the upstream's."""
        return isinstance(self.event, Refused)

    @property
    def upstream(self) -> str:
        """The upstream's name; empty if the answer was ours."""
        return self.event.upstream if isinstance(self.event, Relayed) else ""


class Journal:
    """Remembers the last `length` requests, oldest first; 0 remembers none."""

    def __init__(self, clock: Clock, *, length: int = LENGTH) -> None:
        self.is_on = length > 0
        self._wall = clock.wall
        self._ring: deque[tuple[float, Relayed | Refused]] = deque(maxlen=length)
        self._count = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def __call__(self, event: Event) -> None:
        """Take note of a request; every other event is none of ours."""
        if isinstance(event, (Relayed, Refused)) and self.is_on:
            self._ring.append((self._wall(), event))
            self._count += 1
            if self._waiting:
                self.wake()

    @property
    def count(self) -> int:
        """How many requests there have been; the number of the newest entry."""
        return self._count

    def entries(self, *, after: int = 0, wanted: Callable[[Entry], bool] = lambda _: True) -> list[Entry]:
        """Return the entries numbered higher than `after` that are `wanted`, oldest first."""
        first = self._count - len(self._ring) + 1
        found = (
            Entry(first + at, moment, event) for at, (moment, event) in enumerate(self._ring) if first + at > after
        )
        return [entry for entry in found if wanted(entry)]

    async def news(self, after: int) -> None:
        """Return as soon as there is an entry numbered higher than `after`, or at `wake`."""
        if self._count > after:
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def wake(self) -> None:
        """Let everybody who waits for news look again."""
        for one in self._waiting:
            if not one.done():
                one.set_result(None)
