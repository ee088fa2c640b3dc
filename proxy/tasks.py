"""Tasks with an owner: asyncio keeps only weak references, and a task that nobody holds may vanish in mid-flight."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """A bag of background tasks that live until `close`, which cancels and awaits them all."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()  # Any: the results differ, the owner does not look at them

    def start(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def close(self) -> None:
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
