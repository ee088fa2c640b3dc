"""A store that ends with the process: for containers that seed themselves, and for tests."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from proxy.stores.store import Trace, after_deleting, after_saving
from proxy.tokens import TokenSet


class MemoryStore:
    """Keeps sets in this process alone."""

    kind = "memory"

    def __init__(self) -> None:
        self._sets: dict[str, TokenSet] = {}
        self._traces: dict[str, Trace] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._writes = 0

    async def load(self, name: str) -> TokenSet | None:
        return self._sets.get(name)

    async def trace(self, name: str) -> Trace:
        return self._traces.get(name, Trace())

    async def save(self, name: str, token_set: TokenSet) -> bool:
        trace = after_saving(self._traces.get(name, Trace()), token_set)
        if trace is None:
            return False
        self._sets[name], self._traces[name] = token_set, trace
        self._writes += 1
        return True

    async def delete(self, name: str, *, seed: str | None = None) -> Trace:
        self._sets.pop(name, None)
        self._traces[name] = after_deleting(self._traces.get(name, Trace()), seed)
        self._writes += 1
        return self._traces[name]

    async def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._sets))

    @asynccontextmanager
    async def renewal_lock(self, name: str, *, timeout: float) -> AsyncIterator[None]:  # noqa: ASYNC109 - the seam's
        async with asyncio.timeout(timeout):
            await self._locks[name].acquire()
        try:
            yield
        finally:
            self._locks[name].release()

    def fingerprint(self) -> object:
        return self._writes

    def watch(self, changed: Callable[[], None]) -> None:
        """Never calls: there is no other process."""

    async def close(self) -> None:
        """Nothing is open."""
