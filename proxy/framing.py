"""How an answer is said to a caller: the bytes of its head, and where its body ends (http-law H44-H49, P15).

Both of the listener's ends speak through it. It writes nothing itself; that nobody takes an answer which breaks off for
complete is `cut_off`.
"""

import asyncio
import socket
import struct
import sys
from email.utils import formatdate
from http import HTTPStatus

from proxy.errors import BrokenOff
from proxy.headers import Fields

STATUS_LINES = {
    number: b"HTTP/1.1 %d %s\r\n" % (number, HTTPStatus(number).phrase.encode() if number in set(HTTPStatus) else b"")
    for number in range(200, 600)
}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_NO_BODY, _COUNTED, _CHUNKED, _UNTIL_CLOSE = range(4)


class Framing:
    """One answer as bytes: `head`, then `piece` by piece, then `end`."""

    __slots__ = ("_is_head", "_kind", "_left", "_version", "keep_alive")

    def __init__(self, *, is_head: bool, version: str, keep_alive: bool) -> None:
        """Take what the request says of its answer: whether its method is HEAD, its version, and whether to go on."""
        self.keep_alive = keep_alive
        """Whether the connection serves another request behind this answer."""
        self._is_head = is_head
        self._version = version
        self._kind = _NO_BODY
        self._left = 0

    @property
    def is_close_delimited(self) -> bool:
        return self._kind == _UNTIL_CLOSE

    def head(self, status: int, fields: Fields, *, is_early: bool) -> bytes:
        """Return the head of an answer, which `is_early` if its request has not been read whole (H27)."""
        lines = [STATUS_LINES[status]]
        has_date = has_length = False
        for name, value in fields:
            if name == b"content-length":
                has_length = True
                self._left = int(value)
            elif name == b"date":
                has_date = True
            elif name == b"connection":
                self.keep_alive = self.keep_alive and value.lower() != b"close"
                continue
            lines.append(b"%s: %s\r\n" % (name, value))
        if not has_date:
            lines.append(date_line())  # RFC 9110 6.6.1
        self._kind = self._kind_of(status, has_length=has_length)
        if self._kind == _CHUNKED:
            lines.append(b"transfer-encoding: chunked\r\n")
        if is_early:
            self.keep_alive = False
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        return b"".join(lines)

    def _kind_of(self, status: int, *, has_length: bool) -> int:
        if self._is_head or status in (204, 304):
            self._left = 0
            return _NO_BODY if self._is_head else _COUNTED
        if has_length:
            return _COUNTED
        return _CHUNKED if self._version == "1.1" else _UNTIL_CLOSE  # P15

    def piece(self, data: bytes) -> bytes:
        """Return a piece of the body as it goes out. Raises BrokenOff if that is more than was announced."""
        if self._kind == _COUNTED:
            self._left -= len(data)
            if self._left < 0:
                raise BrokenOff("the body is longer than the announced length")
            return data
        if self._kind == _CHUNKED:
            return b"%x\r\n%s\r\n" % (len(data), data) if data else b""
        return data if self._kind == _UNTIL_CLOSE else b""

    def end(self) -> bytes:
        """Return what ends the body. Raises BrokenOff if it is shorter than was announced."""
        if self._left:
            raise BrokenOff("the body is shorter than the announced length")
        return b"0\r\n\r\n" if self._kind == _CHUNKED else b""


def cut_off(transport: asyncio.Transport, *, is_close_delimited: bool) -> None:
    """End a connection in the middle of an answer, so that no caller takes that for complete (http-law H56, H57)."""
    connection = transport.get_extra_info("socket")
    if is_close_delimited and connection is not None:
        # A clean end would look like the end of the body: reset instead.
        shape = "hh" if sys.platform == "win32" else "ii"  # Winsock's linger holds two shorts
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(shape, 1, 0))
    transport.abort()


_date: tuple[int, bytes] = (-1, b"")


def date_line() -> bytes:
    """Return the field line of now, formatted once a second instead of once an answer."""
    global _date  # noqa: PLW0603 - a cache
    second = int(asyncio.get_running_loop().time())
    if _date[0] != second:
        _date = (second, b"date: %s\r\n" % formatdate(usegmt=True).encode("ascii"))
    return _date[1]
