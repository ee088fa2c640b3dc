"""How an answer is said to a caller: the bytes of its head, and where its body ends (http-law H44-H49, P15).

Both of the listener's ends speak through it. It writes nothing itself; that nobody takes an answer which breaks off for
complete is `cut_off`.
"""

import asyncio
import socket
import struct
import sys
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from itertools import compress

from proxy.errors import BrokenOff
from proxy.headers import Fields
from proxy.remembered import Names, by_names

STATUS_LINES = {
    number: b"HTTP/1.1 %d %s\r\n" % (number, HTTPStatus(number).phrase.encode() if number in set(HTTPStatus) else b"")
    for number in range(200, 600)
}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_NO_BODY, _COUNTED, _CHUNKED, _UNTIL_CLOSE = range(4)


@dataclass(frozen=True, slots=True)
class _Lines:
    """What the names of an answer's fields say of its head."""

    lines: bytes
    """A format for the values of those that are sent as they are."""
    is_sent: tuple[bool, ...]
    length: int
    connection: int
    """Where these stand last, -1 if nowhere."""
    has_date: bool


def _lines(names: Names) -> _Lines:
    is_sent = tuple(name != b"connection" for name in names)
    last = {name: place for place, name in enumerate(names)}
    return _Lines(
        b"".join(name.replace(b"%", b"%%") + b": %b\r\n" for name in compress(names, is_sent)),
        is_sent,
        last.get(b"content-length", -1),
        last.get(b"connection", -1),
        b"date" in last,
    )


_usual = by_names(_lines)


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
        names, values = zip(*fields, strict=True) if fields else ((), ())
        said = _usual[names]
        if said.length >= 0:
            self._left = int(values[said.length])
        if said.connection >= 0 and values[said.connection].lower() == b"close":
            self.keep_alive = False
        if is_early:
            self.keep_alive = False
        self._kind = self._kind_of(status, has_length=said.length >= 0)
        return b"".join(
            (
                STATUS_LINES[status],
                said.lines % (*compress(values, said.is_sent),),
                b"" if said.has_date else date_line(),  # RFC 9110 6.6.1
                b"transfer-encoding: chunked\r\n" if self._kind == _CHUNKED else b"",
                b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n",
            )
        )

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
