"""One connection to an upstream, HTTP/1.1, and the call that it carries.

Theory of operation. A connection is idle or carries one call. Of a call, the request's half lives in OwnCall and the
answer's half here; `_stage` says what the next byte from the upstream is:

                 ┌──────────────── 1xx ───────────────┐
                 ▼                                    │
    IDLE ──carry──► HEAD ──final head──► COUNTED ──all of Content-Length──┐
     ▲ ▲             │ ├───────────────► CHUNKED ──last chunk─────────────┤
     │ │             │ ├───────────────► UNTIL_CLOSE ──end of stream──────┤
     │ │             │ └──no body (HEAD, 204, 304, length 0)──────────────┤ on_end
     │ │             │                                                    ▼
     │ ├─────────────┼───────────────────── the request, too, came whole ─┤
     │ └─────────────┼────────── the rest of the request ── ANSWERED ◄────┘
     │               │                                    or the connection ends, if it is not clean
     └ any byte      └ a head that is not valid, or too large: INVALID
       ends it         the stream ends: STALE, CLOSED or CUT; in COUNTED and CHUNKED: CUT

Clean is an answer behind which nothing stands, on a connection that both sides keep (RFC 9112 9.3). Whatever leaves the
picture in another way closes the connection, so that no call ever sees a byte that belongs to another.

httptools reads heads and chunks. It is given each head alone, to the byte, which is found by its empty line: behind a
Content-Length the bytes are counted and pass it by, and what it does not check by itself is checked here (http-law 7).
"""

import asyncio
import ssl
from typing import Protocol, cast

import httptools

from proxy.headers import Fields
from proxy.outbox import Outbox
from proxy.transport.seam import CHUNKED, Sink, Trouble, WrongLengthError

HEAD_BYTES = 128 * 1024
"""Of one head; and of chunk extensions and trailers, which carry nothing."""
INTERIM_BYTES = 1024 * 1024
"""Of all 1xx answers before one final answer."""
HELD_BYTES = 64 * 1024
"""How much of a request is held until there is a connection, before the sink is told to pause."""
TOGETHER_BYTES = 64 * 1024
"""How much of a request is put together into one write."""

LINGER_SECONDS = 10.0
"""For what was written behind an answer to go out before the connection is closed."""

_IDLE, _HEAD, _COUNTED, _CHUNKED, _UNTIL_CLOSE, _ANSWERED = range(6)
_VERSIONS = (b"HTTP/1.1 ", b"HTTP/1.0 ")


class Home(Protocol):
    """Where connections belong."""

    @property
    def outbox(self) -> Outbox:
        """Where they say that they have something to send."""

    def idle(self, connection: "Connection") -> None: ...
    def lost(self, connection: "Connection") -> None: ...
    def drop_idle(self) -> None: ...


class OwnCall:
    """The request's half of one call: frames the body, and holds it until there is a connection."""

    __slots__ = ("connection", "dialling", "had_body", "held", "is_head", "is_paused", "left", "sink")

    def __init__(self, head: bytes, length: int, sink: Sink) -> None:
        self.sink = sink
        self.left = length
        """What is still to come of the body: its length, CHUNKED until the last chunk is written, 0."""
        self.had_body = length != 0
        self.is_head = head.startswith(b"HEAD ")
        self.is_paused = False
        self.connection: Connection | None = None
        self.held: bytearray | None = None
        self.dialling: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        if not data or (self.connection is None and self.held is None):
            return
        self._pass_on(self.framed(data))

    def _pass_on(self, framed: bytes) -> None:
        if self.connection is None:
            self._hold(framed)
            return
        self.connection.send(framed)
        if self.left == 0:
            self.connection.sent()

    def framed(self, data: bytes) -> bytes:
        """Return a piece of the body as it goes out; raises WrongLengthError if there is too much of it."""
        if self.left == CHUNKED:
            return b"%x\r\n%s\r\n" % (len(data), data)
        self.left -= len(data)
        if self.left < 0:
            self.abort()
            raise WrongLengthError("the body is longer than its head announced")
        return data

    def end(self) -> None:
        if self.connection is None and self.held is None:
            return
        if self.left > 0:
            self.abort()
            raise WrongLengthError("the body is shorter than its head announced")
        if self.left == CHUNKED:
            self.left = 0
            self._pass_on(b"0\r\n\r\n")

    def hold(self, raw: bytes) -> None:
        """Hold `raw`, the head and what came with it; its sink may be told to pause at once."""
        self.held = bytearray()
        self._hold(raw)

    def _hold(self, data: bytes) -> None:
        held = cast("bytearray", self.held)
        is_full = len(held) >= HELD_BYTES
        held += data
        if len(held) >= HELD_BYTES and not is_full:
            self.sink.pause()

    def abort(self) -> None:
        self.held = None
        if self.connection is not None:
            self.connection.drop()
        elif self.dialling is not None:
            self.dialling.cancel()

    def pause(self) -> None:
        self.is_paused = True
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        self.is_paused = False
        if self.connection is not None:
            self.connection.resume()

    def connected(self, connection: "Connection") -> None:
        """Send what is held over a new connection."""
        held, self.held, self.dialling = cast("bytearray", self.held), None, None
        connection.carry(self, bytes(held))
        connection.flush()  # so that it is known at once whether the upstream takes it
        if self.is_paused:
            connection.pause()
        if len(held) >= HELD_BYTES and not connection.is_congested:
            self.sink.resume()

    def dialled(self, _: asyncio.Task[None]) -> None:
        """End the call if there is still no connection: somebody closes the way, perhaps before it was begun."""
        self.failed(Trouble.CLOSED, None)

    def failed(self, trouble: Trouble, error: BaseException | None) -> None:
        """End a call that never had a connection."""
        if self.held is not None:
            self.held = self.dialling = None
            self.sink.on_error(trouble, error)


class Connection(asyncio.Protocol):
    """A connection; tells its `home` when it opened, when it is idle, and when it is no more."""

    __slots__ = (
        "_call", "_fields", "_has_coding", "_home", "_interim", "_is_chunked_whole", "_is_head_read", "_is_used",
        "_keeps", "_left", "_out", "_parser", "_partial", "_pieces", "_quiet", "_stage", "_transport", "is_congested",
        "since",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, home: Home) -> None:
        self._home = home
        self._call: OwnCall | None = None
        self._stage = _IDLE
        self._is_used = False
        self._out: bytes | None = None
        """What waits to be sent, None if nothing does."""
        self._parser = httptools.HttpResponseParser(self)
        self._partial: bytearray | None = None
        self._fields: Fields = []
        self._pieces: list[bytes] = []
        self._left = -1
        self._has_coding = False
        self._is_head_read = False
        self._is_chunked_whole = False
        self._keeps = False
        self._interim = 0
        self._quiet = 0
        self.is_congested = False
        """Whether more was written than the upstream takes."""
        self.since = 0.0
        """When it became idle, by `time.monotonic()`."""

    # the call ---------------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def carry(self, call: OwnCall, raw: bytes) -> None:
        """Take a call and send `raw`, its head and perhaps more, with what others have to send."""
        self._call = call
        call.connection = self
        self._stage = _HEAD
        self._out = raw
        self._home.outbox.post(self)

    def flush(self) -> None:
        """Send what a call began with."""
        out, self._out = self._out, None
        if out is not None:
            self.send(out)

    def flushed(self) -> None:
        """Nothing waits for that (outbox.Writer)."""

    def send(self, raw: bytes) -> None:
        if self._out is not None:
            if len(self._out) + len(raw) <= TOGETHER_BYTES:
                self._out += raw
                return
            self.flush()  # many reads of a body may be told before the loop comes to what waits
        if not self._transport.is_closing():  # uvloop's would raise; the loss is about to be told
            self._transport.write(raw)

    def sent(self) -> None:
        """Take note that the request is whole."""
        if self._stage == _ANSWERED and self._call is not None:
            self._release(self._call)

    def pause(self) -> None:
        if self._stage != _ANSWERED and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def drop(self) -> None:
        """Close at once and tell nobody."""
        if self._call is not None:
            self._call.connection = None
            self._call = None
        self._out = None
        self._transport.abort()

    def close(self) -> None:
        """Close when what was written has gone out, or within a bound."""
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.abort)
        self._transport.close()

    def abort(self) -> None:
        """Close at once; the call, if there is one, is told."""
        self._transport.abort()

    def _fail(self, trouble: Trouble, error: BaseException | None = None) -> None:
        call = self._call
        self.drop()
        if trouble is Trouble.STALE:
            self._home.drop_idle()  # all of it was used before this one, and will have ended like it
        if call is not None:
            call.sink.on_error(trouble, error)

    # what the loop tells ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if certificate := transport.get_extra_info("peercert"):
            certificate.clear()  # it was verified; a loop keeps its text for who asks, more than a KiB, and nobody does

    def data_received(self, data: bytes) -> None:
        call = self._call
        if call is None or self._stage == _ANSWERED:  # what comes unasked must not answer the next request
            self._let_go()
        elif self._out is not None:  # nor the one that is about to be sent
            self._fail(self._broken())
        elif self._stage == _COUNTED:
            self._take_counted(call, data)
        elif self._stage == _HEAD:
            self._take_head(call, data)
        elif self._stage == _CHUNKED:
            self._take_chunked(call, data)
        else:
            call.sink.on_data(data)

    def eof_received(self) -> None:
        if self._call is None or self._stage == _ANSWERED:
            self._let_go()
        elif self._stage == _UNTIL_CLOSE and self._is_end_announced():
            self._end(self._call, is_clean=False)
        else:
            self._fail(self._broken())

    def _is_end_announced(self) -> bool:
        """Return whether the end of the stream is the upstream's own word (RFC 9112 9.8).

        Anybody on the line can send a FIN, and nobody else TLS's close_notify. asyncio tells of both alike; uvloop and
        aiofastnet, whose object is one of its own, tell of the second alone.
        """
        tls = self._transport.get_extra_info("ssl_object")
        try:
            return not isinstance(tls, ssl.SSLObject) or not tls.read(1)
        except ssl.SSLError:  # it wants to read on: nobody has said that no more comes
            return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._home.lost(self)
        if self._call is None or self._stage == _ANSWERED:
            self._let_go()
        else:
            self._fail(Trouble.TLS_BROKEN if isinstance(exc, ssl.SSLError) else self._broken(), exc)

    def _let_go(self) -> None:
        """Close where there is no more to tell; a sink that waits to write need not wait."""
        call = self._call
        self.drop()
        if call is not None and self.is_congested:
            call.sink.resume()

    def _broken(self) -> Trouble:
        if self._stage != _HEAD or self._partial is not None or self._interim:
            return Trouble.CUT
        return Trouble.STALE if self._is_used else Trouble.CLOSED

    def pause_writing(self) -> None:
        self.is_congested = True
        if self._call is not None:
            self._call.sink.pause()

    def resume_writing(self) -> None:
        self.is_congested = False
        if self._call is not None:
            self._call.sink.resume()

    # the head of an answer --------------------------------------------------------------------------------------------

    def _take_head(self, call: OwnCall, data: bytes) -> None:
        searched = 0
        if self._partial is not None:
            searched = max(len(self._partial) - 3, 0)
            self._partial += data
            data = cast("bytes", self._partial)  # a bytearray; it finds and slices alike
        start = 0
        while (found := data.find(b"\r\n\r\n", searched)) >= 0:
            end = found + 4
            status = self._read_head(bytes(data[start:end]), is_head=call.is_head)
            if status >= 200:
                self._partial = None
                self._interim = 0
                self._begin(call, status, bytes(data[end:]))
                return
            self._interim += end - start
            if status == 0 or self._interim > INTERIM_BYTES:
                self._fail(Trouble.INVALID)
                return
            searched = start = end
        if len(data) - start > HEAD_BYTES:
            self._fail(Trouble.INVALID)
        elif start < len(data):
            self._partial = bytearray(data[start:]) if start or self._partial is None else self._partial
        else:
            self._partial = None

    def _read_head(self, head: bytes, *, is_head: bool) -> int:
        """Return the status of a head that may be relayed or, if it is 1xx, passed over; 0 for any other."""
        if len(head) > HEAD_BYTES or not head.startswith(_VERSIONS):
            return 0
        self._fields = []
        self._left = -1
        self._has_coding = self._is_head_read = False
        try:
            self._parser.feed_data(head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # Upgrade: a 101 unasked (RFC 9110 15.2.2)
            return 0
        status = self._parser.get_status_code()
        if not self._is_head_read or not 100 <= status <= 599:
            return 0
        if self._has_coding and head.startswith(b"HTTP/1.0"):  # RFC 9112 6.1: faulty framing
            return 0
        if is_head and not self._keeps:
            # The parser knows nothing of the request, and believes that such an answer ends with the connection.
            self._keeps = head.startswith(b"HTTP/1.1") and not _says_close(self._fields)
        return status

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage != _HEAD:
            return  # a trailer: never merged into the fields (RFC 9110 6.5.1)
        value = value.rstrip(b" \t")  # RFC 9110 5.5: the parser strips in front alone
        self._fields.append((name, value))
        size = len(name)
        if size == 14 and name.lower() == b"content-length":
            self._left = int(value)
        elif size == 17 and name.lower() == b"transfer-encoding":
            if self._has_coding or value.lower() != b"chunked":
                raise ValueError("chunked is the one coding that is read here, and said once")
            self._has_coding = True

    def on_headers_complete(self) -> None:
        self._is_head_read = True
        self._keeps = self._parser.should_keep_alive()

    def _begin(self, call: OwnCall, status: int, rest: bytes) -> None:
        """Tell the head, then what came behind it; RFC 9112 6.3 decides where the body ends."""
        fields = self._fields
        if call.is_head or status in (204, 304):
            left = 0
        else:
            left = self._left
            if self._has_coding:
                self._stage = _CHUNKED
            elif left >= 0:
                self._stage = _COUNTED
            else:
                self._stage = _UNTIL_CLOSE
        self._fields = []
        call.sink.on_head(status, fields)
        if self._call is not call:
            return
        if self._stage == _HEAD or left == 0:
            if self._left != 0:
                self._parser = httptools.HttpResponseParser(self)  # the old one waits for a body
            self._end(call, is_clean=not rest)
        elif rest:
            self.data_received(rest)

    # its body ---------------------------------------------------------------------------------------------------------

    def _take_counted(self, call: OwnCall, data: bytes) -> None:
        left = self._left = self._left - len(data)
        if left > 0:
            call.sink.on_data(data)
            return
        call.sink.on_data(data[:left] if left else data)
        if self._call is call:
            self._parser = httptools.HttpResponseParser(self)
            self._end(call, is_clean=not left)

    def _take_chunked(self, call: OwnCall, data: bytes) -> None:
        is_valid = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            is_valid = False
        pieces = self._pieces
        if pieces:
            self._pieces = []
            self._quiet = 0
            call.sink.on_data(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            if self._call is not call:
                return
        else:
            self._quiet += len(data)
        if self._is_chunked_whole:
            self._is_chunked_whole = False
            self._quiet = 0
            self._end(call, is_clean=is_valid)
        elif not is_valid or self._quiet > HEAD_BYTES:
            self._fail(Trouble.INVALID)

    def on_body(self, data: bytes) -> None:
        if self._stage == _CHUNKED:
            self._pieces.append(data)

    def on_message_begin(self) -> None:
        if self._is_chunked_whole:
            raise ValueError("something stands behind the answer")

    def on_message_complete(self) -> None:
        self._is_chunked_whole = self._stage == _CHUNKED

    # its end ----------------------------------------------------------------------------------------------------------

    def _end(self, call: OwnCall, *, is_clean: bool) -> None:
        sink = call.sink
        if call.is_paused:
            self.resume()  # an end of the stream has to be seen
        if not is_clean or not self._keeps or self._transport.is_closing():
            self._stage = _IDLE
            self._call = call.connection = None
            if call.left == 0:
                self.close()
            else:
                self._transport.abort()  # what is held of the request would go to somebody who closes
        elif call.left == 0:
            self._release(call)
        else:
            self._stage = _ANSWERED
        if self.is_congested and self._call is None:
            sink.resume()  # nobody reads the rest of the request any more, and nobody need wait for that
        sink.on_end()

    def _release(self, call: OwnCall) -> None:
        """Become idle: both halves of the call are whole."""
        self._stage = _IDLE
        self._call = call.connection = None
        if call.had_body and self._transport.get_write_buffer_size():
            self.close()  # answered by somebody who has not read it all, and may never: nothing more is sent there
        else:
            self._is_used = True
            self._home.idle(self)


def _says_close(fields: Fields) -> bool:
    return any(b"close" in value.lower() for name, value in fields if name.lower() == b"connection")
