"""One request and its answer: uvicorn's cycle with exact bytes towards the caller.

To HTTP/1.0 an answer is delimited by closing (P15), and one that breaks off never looks whole (http-law H56, H57).
"""

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from proxy.errors import BrokenOff, CallerGone, defect

STATUS_LINES = {
    number: b"HTTP/1.1 %d %s\r\n" % (number, HTTPStatus(number).phrase.encode() if number in set(HTTPStatus) else b"")
    for number in range(200, 600)
}


class Cycle(RequestResponseCycle):
    """One request and its answer. `on_taken` is called when the app has taken what there was of the body."""

    def __init__(self, *, on_taken: Callable[[], None], **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._on_taken = on_taken

    async def run_asgi(self, app: Any) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except (BrokenOff, CallerGone):
            self.cut()
        except asyncio.CancelledError:
            self.cut()
            raise
        except Exception as error:  # noqa: BLE001 - a connection outlives the defects of its requests
            self.cut()
            self.logger.error("a request ended with an unexpected error: %s", defect(error))  # noqa: TRY400 - no text
        else:
            if not self.response_complete:
                self.cut()
        finally:
            self.on_response = lambda: None

    def cut(self) -> None:
        """End the connection so that no caller takes the answer for complete (http-law H56, H57)."""
        if self.response_complete:
            return
        if self.response_started and self._is_close_delimited:
            # A clean end would look like the end of the body: reset instead.
            connection = self.transport.get_extra_info("socket")
            if connection is not None:
                shape = "hh" if sys.platform == "win32" else "ii"  # Winsock's linger holds two shorts
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(shape, 1, 0))
        self.transport.abort()

    _is_close_delimited = False

    async def receive(self) -> Any:
        """Return the next ASGI message: what came of the body since the last one, or that the caller is gone."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        message = {"type": "http.request", "body": bytes(self.body), "more_body": self.more_body}
        self.body = bytearray()
        self._on_taken()
        return message

    async def send(self, message: Any) -> None:
        """Write one ASGI message. Raises CallerGone if nobody is there to read it, BrokenOff for a second head."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected or self.transport.is_closing():
            raise CallerGone("the caller closed the connection")
        if message["type"] == "http.response.start":
            if self.response_started:
                raise BrokenOff("an answer had already begun")
            self._start(message["status"], message.get("headers", []))
        elif not self.response_complete:
            self._continue(message.get("body", b""), is_last=not message.get("more_body", False))
        else:
            raise RuntimeError("an answer was sent twice")

    def _start(self, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        head = [STATUS_LINES[status]]
        names = set()
        for name, value in fields:
            names.add(name)
            if name == b"content-length":
                self.expected_content_length = int(value)
            if name == b"connection" and value.lower() == b"close":
                self.keep_alive = False
                continue
            head.append(b"%s: %s\r\n" % (name, value))
        if b"date" not in names:  # RFC 9110 6.6.1
            head.append(b"date: %s\r\n" % _date(int(asyncio.get_running_loop().time())))
        has_body = self.scope["method"] != "HEAD" and status not in (204, 304)
        if has_body and b"content-length" not in names:
            if self.scope["http_version"] == "1.1":
                self.chunked_encoding = True
                head.append(b"transfer-encoding: chunked\r\n")
            else:
                self._is_close_delimited = True  # P15
        if not has_body:
            self.expected_content_length = 0
        if self.more_body:
            self.keep_alive = False  # H27: the answer came before the body was read
        if not self.keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"\r\n")
        self.transport.write(b"".join(head))

    def _continue(self, body: bytes, *, is_last: bool) -> None:
        if self.scope["method"] == "HEAD":
            body = b""
        if self.chunked_encoding:
            framed = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
            body = framed + b"0\r\n\r\n" if is_last else framed
        elif not self._is_close_delimited:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (is_last and self.expected_content_length):
                raise BrokenOff("the body does not have the announced length")
        if body:
            self.transport.write(body)
        if is_last:
            self.response_complete = True
            self.message_event.set()
            self.on_response()


_date_cache: tuple[int, bytes] = (-1, b"")


def _date(second: int) -> bytes:
    global _date_cache  # noqa: PLW0603 - formatting a date once a second instead of once an answer
    if _date_cache[0] != second:
        _date_cache = (second, formatdate(usegmt=True).encode("ascii"))
    return _date_cache[1]
