"""The last requests, for a person to look at: a ring of events with the moment of each.

It knows events and nothing else, and it is asked nothing while requests are relayed: an append to a bounded deque is
all that one costs. Targets are masked before they get here (events).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.events import Event, Refused, Relayed
from proxy.news import News

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
        self.news = News()
        """Counts the requests; its count is the number of the newest entry."""

    def __call__(self, event: Event) -> None:
        """Take note of a request; every other event is none of ours."""
        if isinstance(event, (Relayed, Refused)) and self.is_on:
            self._ring.append((self._wall(), event))
            self.news.tell()

    def entries(self, *, after: int = 0, wanted: Callable[[Entry], bool] = lambda _: True) -> list[Entry]:
        """Return the entries numbered higher than `after` that are `wanted`, oldest first."""
        first = self.news.count - len(self._ring) + 1
        found = (
            Entry(first + at, moment, event) for at, (moment, event) in enumerate(self._ring) if first + at > after
        )
        return [entry for entry in found if wanted(entry)]
