"""The listener's HTTP/1.1: uvicorn's httptools protocol, hardened.

Theory of operation. httptools refuses CL with TE, repeated lengths, bare LF, obs-fold and control characters by itself.
What it lets pass is closed here, under the numbers P1-P16 of the shared law:

  P1  a deadline for each request head, armed at the connection and at the first byte after a finished answer
  P2  a cap on bytes without parser progress and on the head; P3 on lines; P4 on the target
  P5  the field list is fixed when the head is complete, so trailers are never merged
  P6  exactly one Host; P7 HTTP/1.0 and 1.1 only; P8 Transfer-Encoding is exactly `chunked`, on 1.1 only
  P9  no 100 Continue to HTTP/1.0; P10 no refusal is written into or before a running answer
  P11 each refusal has its status and sentence; P12 the raw target goes into the scope; P13 absolute-form
  P14 the parser's upgrade mode, which loses bodies, never decides framing: the head is fed again without Upgrade
  P15 answers to HTTP/1.0 are delimited by closing; P16 peers from outside are dropped unread

`Cycle` replaces uvicorn's request/response cycle: same face towards the protocol, exact bytes towards the caller.
"""

import asyncio
import re
import socket
import struct
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from proxy.errors import BadRequest, BrokenOff, CallerRefused, NotImplementedHere, ProxyError
from proxy.guard import Arrival, Guard
from proxy.headers import first, values
from proxy.problems import answer


@dataclass(frozen=True, slots=True)
class Limits:
    """What a caller may send before it is refused."""

    head_seconds: float = 10.0
    head_bytes: int = 64 * 1024
    head_lines: int = 200
    target_bytes: int = 48 * 1024
    """SDMX keys need 32 KiB; httptools itself ends at 64 KiB."""


Refused = Callable[[ProxyError, str, bytes], None]
"""Called with the error, the method and the raw target of a request that was refused before it had an ASGI scope."""

_ABSOLUTE = re.compile(rb"(?i)([a-z][a-z0-9+.-]*)://([^/?#]*)")
_STATUS_LINES = {
    number: b"HTTP/1.1 %d %s\r\n" % (number, HTTPStatus(number).phrase.encode() if number in set(HTTPStatus) else b"")
    for number in range(200, 600)
}
_UPGRADE_FIELDS = (b"upgrade", b"http2-settings")


class Protocol(HttpToolsProtocol):
    """One local connection."""

    def __init__(self, *, guard: Guard, limits: Limits, refused: Refused, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._guard = guard
        self._limits = limits
        self._refused = refused
        self._deadline: asyncio.TimerHandle | None = None
        self._quiet_bytes = 0
        self._head_bytes = 0
        self._head_lines = 0
        self._is_head_complete = False
        self._is_upgrading = False
        self._refusal: ProxyError | None = None
        self._has_refused = False

    # connection ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a listener's transport reads and writes")
        super().connection_made(transport)
        try:
            self._guard.check_peer(Arrival(None, self.client[0] if self.client else None))  # P16
        except CallerRefused:
            transport.abort()
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._has_refused:
            return
        self._unset_keepalive_if_required()
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._arm()  # P1: not in on_message_begin, or a drip of CRLFs holds the connection for ever
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        self._quiet_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._feed_without_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse(self._refusal or BadRequest("The request is not valid HTTP/1.1."))
            return
        if self._quiet_bytes > self._limits.head_bytes + HIGH_WATER_LIMIT * 4:  # P2: one read may hold 256 KiB
            self._refuse(BadRequest("The request's head is too large.", status=431))

    def _feed_without_upgrade(self, rest: bytes) -> None:
        """P14: ignore the upgrade (RFC 9110 7.8) by feeding the same head again without what asked for it."""
        if not self._is_upgrading:
            self._refuse(self._refusal or BadRequest("The request is not valid HTTP/1.1."))
            return
        self._is_upgrading = False
        method = self.parser.get_method()
        lines = [b"%s %s HTTP/1.1\r\n" % (method, self.url)]
        for name, value in self.headers:
            if name == b"connection":
                options = [one.strip() for one in value.split(b",")]
                value = b", ".join(one for one in options if one and one.lower() not in _UPGRADE_FIELDS)  # noqa: PLW2901
            if name not in _UPGRADE_FIELDS and (value or name != b"connection"):
                lines.append(b"%s: %s\r\n" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(b"".join(lines) + b"\r\n" + rest)

    def _arm(self) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(self._limits.head_seconds, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()

    # refusals --------------------------------------------------------------------------------------------------------

    def _note(self, error: ProxyError) -> None:
        """P11: remember what is wrong; the exception ends the parser's run and _feed answers."""
        self._refusal = error
        raise ValueError(error.detail)

    def _refuse(self, error: ProxyError) -> None:
        self._has_refused = True
        self._disarm()
        target = getattr(self, "url", b"") or b""
        self._refused(error, "-", target)
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering or self.pipeline:  # P10
            self.pipeline.clear()
            if self.cycle is not None and not self.cycle.response_started:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self.transport.close()
            return
        problem = answer(error, accept=None)
        head = [_STATUS_LINES[problem.status], b"connection: close\r\n"]
        head += [b"%s: %s\r\n" % field for field in problem.fields]
        self.transport.write(b"".join(head) + b"\r\n" + problem.body)
        self.transport.close()

    # parser callbacks ------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._quiet_bytes = self._head_bytes = self._head_lines = 0
        self._is_head_complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._quiet_bytes = 0
        if len(self.url) > self._limits.target_bytes:  # P4
            self.url = self.url[:200]
            self._note(BadRequest(f"The request target is longer than {self._limits.target_bytes} bytes.", status=414))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._quiet_bytes = 0
        self._head_lines += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._limits.head_bytes or self._head_lines > self._limits.head_lines:  # P2, P3
            self._note(BadRequest("The request's fields are too many or too large.", status=431))
        if not self._is_head_complete:  # P5: what comes later is a trailer
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._is_head_complete = True
        self._quiet_bytes = 0
        self._check_head()
        if self.parser.should_upgrade():
            self._refuse_websocket()
            self._is_upgrading = True
            return
        self._disarm()
        target = self._take_absolute_form()
        self.scope = self._scope(target)
        is_1_1 = self.scope["http_version"] == "1.1"
        existing = self.cycle
        self.cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=is_1_1 and (first(self.headers, b"expect") or b"").lower() == b"100-continue",  # P9
            keep_alive=is_1_1 and self.parser.should_keep_alive() and not self._has_unread_coding(),
            on_response=self.on_response_complete,
        )
        if existing is None or existing.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        self._quiet_bytes = 0
        if not self._is_upgrading:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._quiet_bytes = 0
        if not self._is_upgrading:
            super().on_message_complete()

    def _has_unread_coding(self) -> bool:
        """H23: an announced chunked body on GET may never come; do not wait for it, close instead."""
        return self.parser.get_method() in (b"GET", b"HEAD") and bool(values(self.headers, b"transfer-encoding"))

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):  # P7
            self._note(BadRequest("Only HTTP/1.1 and HTTP/1.0 are spoken here.", status=505))
        if len(values(self.headers, b"host")) != 1:  # P6
            self._note(BadRequest("The request needs exactly one Host field."))
        codings = values(self.headers, b"transfer-encoding")  # P8
        if codings:
            if version == "1.0":
                self._note(BadRequest("Transfer-Encoding does not exist in HTTP/1.0."))
            names = [name.strip().lower() for line in codings for name in line.split(b",")]
            if len(codings) != 1 or names != [b"chunked"]:
                if names and names[-1] == b"chunked":
                    self._note(NotImplementedHere("The only transfer coding that is read here is chunked."))
                self._note(BadRequest("Transfer-Encoding must end with chunked."))
        length = first(self.headers, b"content-length")
        if length is not None and not length.isdigit():
            self._note(BadRequest("Content-Length is not a number."))

    def _refuse_websocket(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            self._note(NotImplementedHere("This is a base URL for tools, not a forward proxy: ask for a path."))
        if any(b"websocket" in value.lower() for value in values(self.headers, b"upgrade")):
            self._note(NotImplementedHere("WebSocket is not relayed."))
        if self.parser.get_http_version() != "1.1":
            self._note(NotImplementedHere("Upgrade does not exist in HTTP/1.0."))

    def _take_absolute_form(self) -> bytes:
        """P13: return the target in origin-form; an absolute-form authority replaces Host (RFC 9112 3.2.2)."""
        absolute = _ABSOLUTE.match(self.url)
        if absolute is None:
            return self.url
        scheme, authority = absolute[1].lower(), absolute[2]
        if scheme != b"http" or b"@" in authority:
            self._note(BadRequest("This is a base URL for tools, not a forward proxy: ask for a path."))
        self.headers = [(b"host", authority), *(field for field in self.headers if field[0] != b"host")]
        rest = self.url[absolute.end() :]
        return rest if rest.startswith(b"/") else b"/" + rest

    def _scope(self, target: bytes) -> Any:
        raw_path, _, query = target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": self.parser.get_http_version(),
            "method": self.parser.get_method().decode("ascii"),
            "scheme": "http",
            "server": self.server,
            "client": self.client,
            "root_path": "",
            "path": urllib.parse.unquote(raw_path.decode("latin-1")),
            "raw_path": raw_path,
            "query_string": query,
            "headers": list(self.headers),
            "state": {},
            "extensions": {"bearerproxy": {"target": target}},  # P12
        }


class Cycle(RequestResponseCycle):
    """One request and its answer: exact bytes, close-delimited for HTTP/1.0, visibly broken when broken off."""

    async def run_asgi(self, app: Any) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except BrokenOff:
            self._break()
        except asyncio.CancelledError:
            self._break()
            raise
        except BaseException:
            self._break()
            self.logger.exception("a request ended with an unexpected error")
        else:
            if not self.response_complete and not self.disconnected:
                self._break()
        finally:
            self.on_response = lambda: None

    def _break(self) -> None:
        """Cut the connection so that no caller takes the answer for complete (http-law H56, H57)."""
        if self.transport.is_closing():
            return
        if self.response_started and self._is_close_delimited:
            # A clean end would look like the end of the body: reset instead.
            connection = self.transport.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    _is_close_delimited = False

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected or self.transport.is_closing():
            return
        if not self.response_started:
            self._start(message["status"], message["headers"])
        elif not self.response_complete:
            self._continue(message.get("body", b""), is_last=not message.get("more_body", False))
        else:
            raise RuntimeError("an answer was sent twice")

    def _start(self, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        head = [_STATUS_LINES[status]]
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
            if not self.keep_alive:
                self.transport.close()
            self.on_response()


_date_cache: tuple[int, bytes] = (-1, b"")


def _date(second: int) -> bytes:
    global _date_cache  # noqa: PLW0603 - formatting a date once a second instead of once an answer
    if _date_cache[0] != second:
        _date_cache = (second, formatdate(usegmt=True).encode("ascii"))
    return _date_cache[1]
