"""Has the other end hung up? Asked of the operating system while nobody reads the connection.

An event loop tells of a hang-up where it reads. While reading is paused, because the caller has sent more than is
wanted now, nobody would notice that it has gone, and its request would go on upstream.
"""

import asyncio
import select
import socket
import sys


def has_hung_up(connection: socket.socket) -> bool:
    """Return whether the peer has closed or reset `connection`, unread bytes or not. False where nobody can tell."""
    if sys.platform == "win32" or connection.fileno() < 0:
        return False
    told = select.poll()
    # Linux tells of the peer's FIN behind unread bytes; elsewhere only of a connection that has wholly ended.
    told.register(connection.fileno(), getattr(select, "POLLRDHUP", 0))
    return bool(told.poll(0))


class HangUpWatch:
    """Asks every so often, while it is on, for the caller of one connection, and aborts it once there is none."""

    __slots__ = ("_loop", "_seconds", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._seconds = seconds
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def turn(self, *, on: bool) -> None:
        if on and self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)
        elif not on and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if has_hung_up(self._transport.get_extra_info("socket")):
            self._transport.abort()
        else:
            self.turn(on=True)
