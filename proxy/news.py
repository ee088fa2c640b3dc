"""Something has changed: a count that goes up, and people who wait for it to.

Telling costs an addition while nobody waits, so it may stand in the way of every request.
"""

import asyncio


class News:
    """Counts what is told; `close` ends the wait of everybody for good."""

    def __init__(self) -> None:
        self.count = 0
        self.is_closed = False
        self._waiting: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        self.count += 1
        if self._waiting:
            self._wake()

    async def after(self, count: int) -> None:
        """Return as soon as more than `count` has been told, or when there will be no more."""
        if self.count > count or self.is_closed:
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def close(self) -> None:
        self.is_closed = True
        self._wake()

    def _wake(self) -> None:
        for one in self._waiting:
            if not one.done():
                one.set_result(None)
