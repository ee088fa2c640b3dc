"""Waiting for the real world: sockets, processes and pages answer when they answer, so tests look until they do."""

# ruff: noqa: ASYNC109 - `timeout` is a deadline between looks; a look itself is not cut off

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from proxy.clock import SystemClock

T = TypeVar("T")


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]], timeout: float = ..., *, every: float = ..., what: str = ...
) -> T: ...
@overload
async def eventually(condition: Callable[[], T], timeout: float = ..., *, every: float = ..., what: str = ...) -> T: ...
async def eventually(
    condition: Callable[[], Any],
    timeout: float = 10.0,
    *,
    every: float = 0.05,
    what: str = "",
) -> Any:
    """Return the first true value of `condition`, looked at every `every` seconds.

    `condition` may be a plain or an async function. An exception in it is the test's failure at once. Raises
    TimeoutError, naming `what` was waited for and the last value seen, after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        seen = condition()
        if inspect.isawaitable(seen):
            seen = await seen
        if seen:
            return seen
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what or condition} not seen within {timeout} s; the last value was {seen!r}")
        await SystemClock().sleep(every)
