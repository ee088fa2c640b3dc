"""Something dear that is kept for its life and obtained once, however many ask at the same time.

Links and credentials cost a call each to a service that may be slow and limits its callers: a thousand ranged reads of
one file must not be a thousand calls.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from typing import Generic, TypeVar

from proxy.clock import Clock
from proxy.tasks import Tasks

K = TypeVar("K")
V = TypeVar("V")


class Kept(Generic[K, V]):
    """At most `limit` values, the least recently used one gives way."""

    def __init__(self, *, limit: int, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        self._values: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._flights: dict[K, asyncio.Task[V]] = {}
        self._tasks = Tasks()

    async def get(self, key: K, obtain: Callable[[], Awaitable[tuple[V, float]]]) -> V:
        """Return the value of `key`, from `obtain` if none is kept: it returns the value and its life in seconds.

        Raises what `obtain` raises, to all who wait for it; a failure is not kept. A caller who is cancelled leaves
        the others their flight.
        """
        value = self.peek(key)
        if value is not None:
            self._values.move_to_end(key)
            return value
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = self._tasks.start(self._fly(key, obtain), name="kept value")
            flight.add_done_callback(_looked_at)
        return await asyncio.shield(flight)

    def peek(self, key: K) -> V | None:
        """Return the value of `key` if it is kept and good."""
        value, ends = self._values.get(key, (None, 0.0))
        return value if self._clock.boot() < ends else None

    async def _fly(self, key: K, obtain: Callable[[], Awaitable[tuple[V, float]]]) -> V:
        try:
            value, life = await obtain()
        finally:
            del self._flights[key]
        self._values[key] = (value, self._clock.boot() + life)
        self._values.move_to_end(key)
        while len(self._values) > self._limit:
            self._values.popitem(last=False)
        return value

    def forget(self, key: K, value: V) -> None:
        """Drop `value` if it is still the one that is kept: of many who find it bad, none drops a newer one."""
        if self._values.get(key, (None, 0.0))[0] is value:
            del self._values[key]

    async def close(self) -> None:
        """Cancel what is being obtained, and forget everything."""
        await self._tasks.close()
        self._values.clear()

    def __iter__(self) -> Iterator[K]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _looked_at(task: "asyncio.Task[object]") -> None:
    """Look at a failure whose every waiter was cancelled, or asyncio would report it as nobody's."""
    if not task.cancelled():
        task.exception()
