"""The listener's HTTP/1.1: uvicorn's httptools protocol, hardened.

Theory of operation. httptools refuses CL with TE, repeated lengths, bare LF, obs-fold and control characters by itself.
What it lets pass is closed here, under the numbers P1-P16 of the shared law:

  P1  a deadline for each request head, armed at the connection and at the first byte after a finished answer
  P2  a cap on bytes without parser progress and on the head; P3 on lines; P4 on the target
  P5  the field list is fixed when the head is complete, so trailers are never merged
  P6  exactly one Host; P7 HTTP/1.0 and 1.1 only; P8 Transfer-Encoding is exactly `chunked`, on 1.1 only (heads.py)
  P9  no 100 Continue to HTTP/1.0; P10 no refusal is written into or before a running answer
  P11 each refusal has its status and sentence; P12 the raw target goes into the scope; P13 absolute-form (heads.py)
  P14 the parser's upgrade mode, which loses bodies, never decides framing: the head is fed again without Upgrade
  P15 answers to HTTP/1.0 are delimited by closing (framing.py); P16 strangers are dropped or refused unread

What comes is parsed piece by piece (pieces.py) and no further than the end of the request that is being answered: what
stands behind it stays bytes until its turn, so that neither its number nor its faults touch that answer, and reading
pauses. While it does, the caller is asked for now and then (hang_up.py). One request at a time has its turn: a relayed
one in a lane of its own (lane.py), any other as uvicorn's cycle, which an ASGI app answers (cycle.py).

A connection ends in one of three ways. `close` lets what is written go out, watched so that a caller who reads nothing
cannot hold it for ever. `linger` follows an answer that came before its request was read (linger.py). A turn's `cut`
ends an answer so that nobody takes it for complete. Behind the last request of a connection, and behind a refusal, the
protocol is deaf: no byte that still comes may disturb what is being said.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy.cycle import Cycle, Flow, scope_of
from proxy.errors import BadRequest, CallerRefused, Overloaded, ProxyError
from proxy.framing import STATUS_LINES, Framing
from proxy.guard import Arrival, Guard, local_end
from proxy.hang_up import HangUpWatch
from proxy.headers import first
from proxy.heads import check_head, check_request_line, check_upgrade, origin_form, without_upgrade
from proxy.lane import Lane, Lanes
from proxy.limits import RETRY_AFTER_SECONDS, Limits, Room
from proxy.linger import Linger
from proxy.peers import uid_of_peer
from proxy.pieces import Pieces
from proxy.problems import answer

Refused = Callable[[ProxyError, str, bytes], None]
"""Called with the error, the method and the raw target of a request that was refused before it had an ASGI scope."""


class Protocol(HttpToolsProtocol):
    """One local connection."""

    # With uvicorn's they would be more than thirty names, for which CPython gives each object a table of 1.5 KiB.
    __slots__ = (
        "_answering", "_arrival", "_deadline", "_guard", "_hang_up_watch", "_head_bytes", "_head_lines",
        "_idle_since", "_is_advancing", "_is_deaf", "_is_head_complete", "_is_upgrading", "_lanes", "_limits",
        "_linger", "_pieces", "_quiet_bytes", "_refused", "_request_line", "_room", "_running",
        "_stranger", "_unparsed", "_unstarted",
    )  # fmt: skip

    _hang_up_watch: HangUpWatch

    def __init__(
        self, *, guard: Guard, limits: Limits, room: Room, refused: Refused, lanes: Lanes | None, **uvicorn: Any
    ) -> None:
        """Take, besides uvicorn's own, `lanes`; without them the app answers relayed requests too."""
        super().__init__(**uvicorn)
        del self.pipeline  # unused: requests behind the one that is answered stay bytes
        self._guard = guard
        self._lanes = lanes
        self._limits = limits
        self._room = room
        self._stranger: CallerRefused | None = None
        """Why nothing of this connection is read."""
        self._refused = refused
        self._deadline: asyncio.TimerHandle | None = None
        self._pieces = Pieces()
        self._unparsed = b""
        """What came behind the request that is being answered."""
        self._request_line: bytes | None = b""
        """As much of it as has come; None once it is checked."""
        self._quiet_bytes = 0
        self._head_bytes = 0
        self._head_lines = 0
        self._is_head_complete = False
        self._is_upgrading = False
        self._is_deaf = False
        self._linger: Linger | None = None
        self._idle_since = 0.0
        self._is_advancing = False
        self._answering: Cycle | Lane | None = None
        """The newest request."""
        self._unstarted: Lane | None = None
        """The same one, while what came with its head is still being parsed."""
        self._running: asyncio.Task[None] | None = None
        """What answers it, if it has no lane."""

    # connection ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        made = cast("asyncio.Transport", transport)  # uvloop's have asyncio's methods without being its classes
        super().connection_made(made)
        self.flow = Flow(made)
        self._hang_up_watch = HangUpWatch(made, self._limits.hang_up_seconds, self.loop)
        self._arrival = arrival = Arrival(local_end(self.server), self.client[0] if self.client else None)
        try:
            self._guard.check_peer(arrival)  # P16
        except CallerRefused:
            self.transport.abort()
            return
        try:
            self._guard.check_owner(arrival, lambda: uid_of_peer(transport.get_extra_info("socket")))
        except CallerRefused as stranger:
            self._stranger = stranger
        if self._room.enter(self):
            self._arm()
            return
        crowd = f"{len(self._room) - 1} connections are open, and each is being answered; try again."
        self._refuse(Overloaded(crowd, retry_after=RETRY_AFTER_SECONDS))

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._unset_keepalive_if_required()
        self._hang_up_watch.turn(on=False)
        self._room.leave(self)
        self._unparsed = b""
        if isinstance(self._answering, Lane):
            self._answering.gone()
        elif self.is_answering and self._running is not None:  # it may wait for something else than its caller
            self.loop.call_later(self._limits.hang_up_seconds, self._running.cancel)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if isinstance(self._answering, Lane):
            self._answering.pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if isinstance(self._answering, Lane):
            self._answering.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            if self._linger is not None:
                self._linger.drop(data)
            return
        if self._stranger is not None:  # told at the first byte: who only tries whether the port is open leaves no line
            self._refuse(self._stranger)
            return
        self._unparsed += data
        self._advance()

    def _advance(self) -> None:
        """Parse what there is, as far as it is wanted now."""
        if self._is_advancing:  # an answer was whole at once
            return
        self._is_advancing = True
        while self._unparsed and self._is_wanted:
            self._parse()
            if self._unstarted is not None:
                lane, self._unstarted = self._unstarted, None
                lane.start()
        self._is_advancing = False
        answering = self._answering
        if self._unparsed or self.flow.read_paused or (answering is not None and answering.is_full):
            self._balance_reading()
        if answering is not None and answering.response_complete and not self._is_deaf:
            self._await_next()

    def _parse(self) -> None:
        """Parse to the end of what belongs to one request."""
        data, start = self._unparsed, 0
        self._unparsed = b""
        while start < len(data) and self._is_wanted:
            end = self._pieces.end(data, start)
            self._feed(data[start:end])
            start = end
        if not self._is_deaf:
            self._unparsed = data[start:]

    @property
    def _is_wanted(self) -> bool:
        """Whether what comes next belongs to a request whose turn it is."""
        answering = self._answering
        return not self._is_deaf and (answering is None or answering.response_complete or answering.more_body)

    def _balance_reading(self) -> None:
        """Read on if what would come is wanted, or dropped; else pause, and watch for the caller's hang-up."""
        if self._is_advancing:
            return  # it ends with this
        answering = self._answering
        is_enough = bool(self._unparsed) or (answering is not None and self.is_answering and answering.is_full)
        is_to_pause = is_enough and not self._is_deaf
        if is_to_pause != self.flow.read_paused:
            if is_to_pause:
                self.flow.pause_reading()
            else:
                self.flow.resume_reading()
        self._hang_up_watch.turn(on=is_to_pause)

    def _arm(self) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(self._limits.head_seconds, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._linger is not None:
            self._linger.cancel()

    def _expire(self) -> None:
        self._deadline = None
        self.close()

    def timeout_keep_alive_handler(self) -> None:
        """Close what has been idle for long enough: one timer serves many requests, and none is cancelled for one."""
        self.timeout_keep_alive_task = None
        if self.is_answering or self._is_deaf or not self._is_between:
            return
        left = self._idle_since + self._limits.keep_alive_seconds - self.loop.time()
        if left <= 0:
            self.close()
        else:
            self._look_again_in(left)

    def shutdown(self) -> None:
        """Begin to end, as the server does: answer what has come whole or in part, and nothing behind it."""
        if self._answering is None or not self.is_answering:
            self.close()
            return
        self._answering.framing.keep_alive = False
        self._unparsed = b""
        self._is_deaf = not self._answering.more_body
        self._balance_reading()

    def give_way(self) -> None:
        """Close at once, in favour of another connection."""
        if self.transport.is_closing():
            self.transport.abort()
        else:
            self.close()

    def cut(self) -> None:
        """End at once, visibly if in the middle of an answer."""
        if self._answering is not None:
            self._answering.cut()
        self.transport.abort()  # whoever does not read the end of its answer

    @property
    def is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def close(self) -> None:
        """Close when what was written has gone out, or when the caller has stopped reading it."""
        self._is_deaf = True
        self._disarm()
        self._room.idle(self)
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
        """Stop writing, read and drop a bounded rest of the request, then close (linger.py)."""
        self._is_deaf = True
        self._unparsed = b""
        self._disarm()
        self._room.idle(self)
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._balance_reading()
        self._linger = Linger(self._limits, self.close, self.loop)

    # refusals --------------------------------------------------------------------------------------------------------

    def _refuse(self, error: ProxyError) -> None:
        """P11: each refusal has its status and its sentence."""
        self._is_deaf = True
        self._disarm()
        self._refused(error, "-", getattr(self, "url", b""))
        if self.is_answering and self._answering is not None:  # P10
            self._answering.cut()
            return
        problem = answer(error, accept=None)
        head = [STATUS_LINES[problem.status], b"connection: close\r\n"]
        head += [b"%s: %s\r\n" % field for field in problem.fields]
        self.transport.write(b"".join(head) + b"\r\n" + problem.body)
        self.linger()

    # parser ----------------------------------------------------------------------------------------------------------

    def _feed(self, piece: bytes) -> None:
        try:
            if self._request_line is not None:
                # Of nearly all requests it comes whole and ends like this: nothing but HTTP does.
                if self._request_line == b"" and piece.startswith(b" HTTP/1.", max(piece.find(b"\n") - 10, 0)):
                    self._request_line = None
                else:
                    self._check_request_line(piece)
            self._quiet_bytes += len(piece)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade:  # a piece that ends a head: there is nothing behind it
                self._feed_without_upgrade()
        except httptools.HttpParserError as error:
            if not self._is_deaf:  # RFC 9112 9.6: nothing behind the last request matters
                cause = error.__context__  # what a callback raised
                ours = cause if isinstance(cause, ProxyError) else BadRequest("The request is not valid HTTP/1.1.")
                self._refuse(ours)
        except ProxyError as error:
            self._refuse(error)
        else:
            if self._quiet_bytes > self._limits.head_bytes:  # P2
                self._refuse(BadRequest("The request's head is too large.", status=431))

    def _check_request_line(self, piece: bytes) -> None:
        line = (self._request_line or b"") + piece[: piece.find(b"\n") + 1 or None]
        line = line.lstrip(b"\r\n")  # RFC 9112 2.2
        if line.endswith(b"\n"):
            check_request_line(line[:-1])
            self._request_line = None
        else:
            self._request_line = line

    def _feed_without_upgrade(self) -> None:
        """P14: give the head, without what asked for an upgrade, to a parser that starts afresh."""
        head = without_upgrade(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
        self._is_upgrading = False
        self._request_line = None
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(head)

    def on_message_begin(self) -> None:
        if self._is_deaf:
            raise ValueError("nothing is read behind the last request of a connection")  # RFC 9112 9.6
        self.url = b""
        self.headers = []
        self._quiet_bytes = self._head_bytes = self._head_lines = 0
        self._is_head_complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._quiet_bytes = 0
        if len(self.url) > self._limits.target_bytes:  # P4
            self.url = self.url[:200]
            raise BadRequest(f"The request target is longer than {self._limits.target_bytes} bytes.", status=414)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._quiet_bytes = 0
        self._head_lines += 1
        self._head_bytes += len(name) + len(value) + 4
        limits = self._limits
        if self._head_bytes > limits.head_bytes or self._head_lines > limits.head_lines:  # P2, P3
            raise BadRequest("The request's fields are too many or too large.", status=431)
        if not self._is_head_complete:  # P5: what comes later is a trailer
            self.headers.append((name.lower(), value.rstrip(b" \t")))  # RFC 9110 5.5: the parser strips in front alone

    def on_headers_complete(self) -> None:
        self._is_head_complete = True
        self._quiet_bytes = 0
        version = self.parser.get_http_version()
        names = [name for name, _ in self.headers]
        check_head(version, names, self.headers)
        if self.parser.should_upgrade():
            check_upgrade(self.parser.get_method(), version, self.headers)
            self._is_upgrading = True
            return
        self._disarm()
        is_coded = b"transfer-encoding" in names
        if is_coded:
            self._pieces.begin_chunks()
        elif b"content-length" in names:
            self._pieces.begin_body(int(first(self.headers, b"content-length") or 0))
        target = self.url
        if not target.startswith(b"/"):
            target, self.headers = origin_form(target, self.headers)  # P13
        method = self.parser.get_method().decode("ascii")
        may_never_come = is_coded and method in ("GET", "HEAD")  # H23: do not wait for it, close instead
        framing = Framing(
            is_head=method == "HEAD",
            version=version,
            keep_alive=version == "1.1" and self.parser.should_keep_alive() and not may_never_come,
        )
        expected = first(self.headers, b"expect") if b"expect" in names else None
        expects_continue = version == "1.1" and expected is not None and expected.lower() == b"100-continue"  # P9
        turn = self._lane(method, target, framing, expects_continue=expects_continue) or self._cycle(
            scope_of(method, target, version, self.headers), framing, expects_continue=expects_continue
        )
        self._begin(turn)
        if may_never_come:
            turn.end()
            self._is_deaf = True

    def on_body(self, body: bytes) -> None:
        self._quiet_bytes = 0
        if not self._is_deaf and self._answering is not None:
            self._answering.take(body)

    def on_message_complete(self) -> None:
        self._quiet_bytes = 0
        self._pieces.begin_head()
        self._request_line = b""
        if self._is_upgrading or self._is_deaf or self._answering is None:
            return
        self._is_deaf = not self._answering.framing.keep_alive
        self._answering.end()

    # turns -----------------------------------------------------------------------------------------------------------

    def _lane(self, method: str, target: bytes, framing: Framing, *, expects_continue: bool) -> Lane | None:
        if self._lanes is None:
            return None
        lane = self._lanes.open(
            method, target, self.headers, self._arrival, self.transport, framing, expects_continue=expects_continue
        )
        if lane is not None:
            lane.on_complete = self.on_response_complete
            lane.on_wish = self._balance_reading
        return lane

    def _cycle(self, scope: Any, framing: Framing, *, expects_continue: bool) -> Cycle:
        return Cycle(
            scope=scope | {"server": self.server, "client": self.client},
            framing=framing,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=expects_continue,
            on_response=self.on_response_complete,
            on_taken=self._balance_reading,
        )

    def _begin(self, turn: Cycle | Lane) -> None:
        self._answering = turn
        self._room.busy(self)
        if isinstance(turn, Lane):
            self.cycle = None  # type: ignore[assignment]  # uvicorn's, as it is before the first request
            self._unstarted = turn
            return
        self.cycle = turn
        self._running = self.loop.create_task(turn.run_asgi(self.app), name="request")
        self.tasks.add(self._running)
        self._running.add_done_callback(self.tasks.discard)

    def on_response_complete(self) -> None:
        """Go on behind an answer that is whole: with what came behind its request, or idle."""
        turn = self._answering
        if turn is None or self.transport.is_closing():
            return
        if not turn.framing.keep_alive:
            if turn.more_body:
                self.linger()
            else:
                self.close()
            return
        self._room.idle(self)
        self._advance()

    def _await_next(self) -> None:
        if self._is_between:
            self._idle_since = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._look_again_in(self._limits.keep_alive_seconds)
        elif self._deadline is None:
            self._arm()  # P1: not in on_message_begin, or a drip of CRLFs holds the connection for ever

    def _look_again_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    @property
    def _is_between(self) -> bool:
        """Whether nothing of a next request has come."""
        return self._request_line == b"" and not self._quiet_bytes
