"""The end of a connection on which more is coming than anybody wants (RFC 9112 9.6).

An answer that came before its request was read must be followed by reading: to close over unread bytes resets the
connection, which can take the answer with it. So the rest is read and dropped, within bounds of size and time.
"""

import asyncio
from collections.abc import Callable

from proxy.limits import Limits


class Linger:
    """One such end: begun when it is made, over when it calls `close`."""

    __slots__ = ("_close", "_heard_at", "_left", "_limits", "_loop", "_timer", "_until")

    def __init__(self, limits: Limits, close: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._limits = limits
        self._close = close
        self._loop = loop
        self._left = limits.linger_bytes
        self._heard_at = loop.time()
        self._until = self._heard_at + limits.linger_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._wait()

    def drop(self, data: bytes) -> None:
        """Take note of what came, and forget it."""
        self._heard_at = self._loop.time()
        self._left -= len(data)
        if self._left < 0:
            self._close()

    def cancel(self) -> None:
        """Wait for nothing more; harmless at any time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = None
        end = min(self._heard_at + self._limits.linger_quiet_seconds, self._until)
        if self._loop.time() < end:
            self._timer = self._loop.call_at(end, self._wait)
        else:
            self._close()
