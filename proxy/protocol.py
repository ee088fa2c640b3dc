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

A connection ends in one of three ways. `close` lets what is written go out, watched so that a caller who reads nothing
cannot hold it for ever. `linger` follows an answer that came before its request was read: we stop writing, and drop a
bounded rest of the request, because closing over unread bytes resets the connection and can take the answer with it
(RFC 9112 9.6). `Cycle.cut` ends an answer so that nobody takes it for complete. Behind the last request of a
connection, and behind a refusal, the protocol is deaf: no byte that still comes may disturb what is being said.

`Cycle` replaces uvicorn's request/response cycle: same face towards the protocol, exact bytes towards the caller.
"""

import asyncio
import re
import socket
import struct
import sys
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from proxy.errors import BadRequest, BrokenOff, CallerGone, CallerRefused, NotImplementedHere, ProxyError, defect
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
    keep_alive_seconds: float = 5.0
    """How long a connection waits for its next request."""
    linger_bytes: int = 1024 * 1024
    """How much of an unread request is read and dropped behind its answer, so that the caller can read that answer."""
    linger_seconds: float = 2.0
    flush_seconds: float = 30.0
    """How long a caller may read nothing of a finished answer before the connection is dropped."""


Refused = Callable[[ProxyError, str, bytes], None]
"""Called with the error, the method and the raw target of a request that was refused before it had an ASGI scope."""

_ABSOLUTE = re.compile(rb"(?i)([a-z][a-z0-9+.-]*)://([^/?#]*)")
_STATUS_LINES = {
    number: b"HTTP/1.1 %d %s\r\n" % (number, HTTPStatus(number).phrase.encode() if number in set(HTTPStatus) else b"")
    for number in range(200, 600)
}
_UPGRADE_FIELDS = (b"upgrade", b"http2-settings")


def _without_upgrade_options(connection: bytes) -> bytes:
    options = [option.strip() for option in connection.split(b",")]
    return b", ".join(option for option in options if option and option.lower() not in _UPGRADE_FIELDS)


class Protocol(HttpToolsProtocol):
    """One local connection."""

    def __init__(self, *, guard: Guard, limits: Limits, refused: Refused, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._guard = guard
        self._limits = limits
        self.timeout_keep_alive = limits.keep_alive_seconds  # type: ignore[assignment]  # uvicorn says int, any number does
        self._refused = refused
        self._deadline: asyncio.TimerHandle | None = None
        self._quiet_bytes = 0
        self._head_bytes = 0
        self._head_lines = 0
        self._is_head_complete = False
        self._is_upgrading = False
        self._is_deaf = False
        self._linger_left: int | None = None
        self._refusal: ProxyError | None = None
        self._answering: Cycle | None = None
        """The request whose turn it is; `cycle` is the newest, which may still be queued behind it."""

    # connection ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's methods without being its classes.
        super().connection_made(cast("asyncio.Transport", transport))
        try:
            self._guard.check_peer(Arrival(None, self.client[0] if self.client else None))  # P16
        except CallerRefused:
            self.transport.abort()
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        if self._answering is not None and not self._answering.response_complete:
            # uvicorn tells the newest cycle alone, which may be queued: the one that is running must know too.
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            if self._linger_left is not None:
                self._linger_left -= len(data)
                if self._linger_left < 0:
                    self.close()
            return
        self._unset_keepalive_if_required()
        if self._deadline is None and not self._is_answering:
            self._arm()  # P1: not in on_message_begin, or a drip of CRLFs holds the connection for ever
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        while data:
            self._quiet_bytes += len(data)
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                if not self._is_deaf:  # RFC 9112 9.6: nothing behind the last request matters
                    self._refuse(self._refusal or BadRequest("The request is not valid HTTP/1.1."))
                return
            else:
                break
        if self._quiet_bytes > self._limits.head_bytes + HIGH_WATER_LIMIT * 4:  # P2: one read may hold 256 KiB
            self._refuse(BadRequest("The request's head is too large.", status=431))

    def _without_upgrade(self) -> bytes:
        """P14: return the head without what asked for an upgrade (RFC 9110 7.8), for a parser that starts afresh."""
        self._is_upgrading = False
        lines = [b"%s %s HTTP/1.1\r\n" % (self.parser.get_method(), self.url)]
        for name, value in self.headers:
            if name in _UPGRADE_FIELDS:
                continue
            kept = _without_upgrade_options(value) if name == b"connection" else value
            if kept or name != b"connection":
                lines.append(b"%s: %s\r\n" % (name, kept))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"".join(lines) + b"\r\n"

    def _arm(self) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(self._limits.head_seconds, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        self.close()

    def timeout_keep_alive_handler(self) -> None:
        self.close()

    def shutdown(self) -> None:
        if self._is_answering:
            super().shutdown()
        else:
            self.close()

    @property
    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def close(self) -> None:
        """Close when what was written has gone out, or when the caller has stopped reading it."""
        self._is_deaf = True
        self._disarm()
        if not self.transport.is_closing():
            self.transport.close()
            self._watch_flush(0)

    def _watch_flush(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left and left == before:
            self.transport.abort()
        elif left:
            self.loop.call_later(self._limits.flush_seconds, self._watch_flush, left)

    def linger(self) -> None:
        """Stop writing, read and drop a bounded rest of the request, then close (RFC 9112 9.6)."""
        self._is_deaf = True
        self._disarm()
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._linger_left = self._limits.linger_bytes
        self._deadline = self.loop.call_later(self._limits.linger_seconds, self._expire)

    def on_response_complete(self) -> None:
        cycle = self._answering
        if cycle is None or cycle.keep_alive:
            super().on_response_complete()
        elif cycle.more_body:
            self.linger()
        else:
            self.close()

    # refusals --------------------------------------------------------------------------------------------------------

    def _note(self, error: ProxyError) -> None:
        """P11: remember what is wrong; the exception ends the parser's run and _feed answers."""
        self._refusal = error
        raise ValueError(error.detail)

    def _refuse(self, error: ProxyError) -> None:
        self._is_deaf = True
        self._disarm()
        self._refused(error, "-", getattr(self, "url", b""))
        if self._is_answering and self._answering is not None:  # P10
            self.pipeline.clear()
            self._answering.cut()
            return
        problem = answer(error, accept=None)
        head = [_STATUS_LINES[problem.status], b"connection: close\r\n"]
        head += [b"%s: %s\r\n" % field for field in problem.fields]
        self.transport.write(b"".join(head) + b"\r\n" + problem.body)
        self.linger()

    # parser callbacks ------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_deaf:
            raise ValueError("nothing is read behind the last request of a connection")  # RFC 9112 9.6
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
            self.headers.append((name.lower(), value.rstrip(b" \t")))  # RFC 9110 5.5: the parser strips in front alone

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
        may_never_come = self._is_coded_read()
        cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=is_1_1 and (first(self.headers, b"expect") or b"").lower() == b"100-continue",  # P9
            keep_alive=is_1_1 and self.parser.should_keep_alive() and not may_never_come,
            on_response=self.on_response_complete,
        )
        self.cycle = cycle
        if may_never_come:
            cycle.more_body = False
            cycle.message_event.set()
            self._is_deaf = True
        if self._is_answering:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        else:
            self._start_asgi_task(cycle, self.app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cast("Cycle", cycle)
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._quiet_bytes = 0
        if not self._is_upgrading and not self._is_deaf:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._quiet_bytes = 0
        if self._is_upgrading or self._is_deaf:
            return
        super().on_message_complete()
        self._is_deaf = not self.cycle.keep_alive

    def _is_coded_read(self) -> bool:
        """H23: a chunked body announced on GET may never come; do not wait for it, close instead."""
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
            if names[-1] == b"chunked" and any(name != b"chunked" for name in names):
                self._note(NotImplementedHere("The only transfer coding that is read here is chunked."))
            if codings[1:] or names != [b"chunked"]:
                self._note(BadRequest("Transfer-Encoding must be chunked, and say so once."))
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
            self.on_response()


_date_cache: tuple[int, bytes] = (-1, b"")


def _date(second: int) -> bytes:
    global _date_cache  # noqa: PLW0603 - formatting a date once a second instead of once an answer
    if _date_cache[0] != second:
        _date_cache = (second, formatdate(usegmt=True).encode("ascii"))
    return _date_cache[1]
