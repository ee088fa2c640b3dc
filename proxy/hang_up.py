"""Has the other end hung up? Asked of the operating system while nobody reads the connection.

An event loop tells of a hang-up where it reads. While reading is paused, because the caller has sent more than is
wanted now, nobody would notice that it has gone, and its request would go on upstream.
"""

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
