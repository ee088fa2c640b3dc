"""The seam between an exchange and its upstream: one request is pushed out, its answer is pushed back.

Theory of operation. `Way.start` opens a call; from then on both halves of it run at once and end on their own:

    request     body written ──write()*──► whole ──► (nothing more to say)
                  once the length is reached, or by end()
    answer      awaited ──on_head──► flowing ──on_data*──► on_end
                   └───────────────────┴──────────────────► on_error

    call.pause/resume   the caller of the exchange reads slowly: let the upstream wait
    sink.pause/resume   the upstream reads slowly: let the caller of the exchange wait
    call.abort          nobody wants the rest; no word comes back after it

Everything is a plain call, so parser callbacks can drive it without a task. The rules for all ways: `on_end` or
`on_error` comes once and is the last word about the answer; after `abort` none comes at all, and a method of a call
that is over does nothing. No `on_…` comes before `start` has returned; `pause` may.

A final answer may come while the request is still being written (RFC 9112 9.5). It is told as it comes, and even behind
its end the rest of the request may be written: who does not want that aborts. A call is over when both halves are, and
its connection is used again only if both came whole.
"""

from collections.abc import Iterable
from enum import Enum, auto
from typing import Protocol

from proxy.errors import BadRequest
from proxy.headers import Fields

CHUNKED = -1
"""Stands in the place of a body's length, where nobody knows it."""
_LENGTH, _CODING = b"content-length", b"transfer-encoding"
_FRAMING_SIZES = frozenset({len(_LENGTH), len(_CODING)})


class Trouble(Enum):
    """Why a call ended without a whole answer."""

    UNREACHABLE = auto()
    """No connection: name, route, refusal, TLS handshake; the error says which."""
    NOT_IN_TIME = auto()
    """No connection in time."""
    PROXY_REFUSED = auto()
    """The outbound proxy would not connect."""
    STALE = auto()
    """A *reused* connection ended before any byte of an answer: perhaps it was just being closed, so that a request
    that may be repeated deserves a second try (H63)."""
    CLOSED = auto()
    """A new connection ended before any byte of an answer."""
    CUT = auto()
    """The connection ended in the middle of an answer."""
    INVALID = auto()
    """The answer is not HTTP that may be relayed."""
    TLS_BROKEN = auto()
    """TLS failed on a connection that was established."""
    NOT_TAKEN = auto()
    """The upstream stopped taking the request."""


class Sink(Protocol):
    """Takes one answer."""

    def on_head(self, status: int, fields: Fields) -> None:
        """Take the head of the final answer: `status` is 200-599, names are as they were sent."""

    def on_data(self, data: bytes) -> None:
        """Take a piece of the body, transfer coding removed, content coding untouched."""

    def on_end(self) -> None:
        """Take note that the answer is whole."""

    def on_error(self, trouble: Trouble, error: BaseException | None) -> None:
        """Take note that no more comes; `error` is what lies below, if anything does."""

    def pause(self) -> None:
        """Stop writing the body: what cannot go out is held in memory."""

    def resume(self) -> None:
        """Go on writing."""


class Call(Protocol):
    """One request on its way."""

    def write(self, data: bytes) -> None:
        """Send a piece of the body; it is framed here. Raises WrongLengthError if it is more than was announced."""

    def end(self) -> None:
        """End the body. Raises WrongLengthError if it is less than was announced."""

    def abort(self) -> None:
        """Drop the call, whatever stage it is in; the upstream never takes the request for complete (H46)."""

    def pause(self) -> None:
        """Read no more of the answer than has been read; `on_data` and `on_end` may still tell of that."""

    def resume(self) -> None:
        """Go on reading."""


class NoCall:
    """Stands where a call was that is over: its methods do nothing, as the seam's rules have it."""

    def write(self, data: bytes) -> None: ...
    def end(self) -> None: ...
    def abort(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


OVER = NoCall()


class Way(Protocol):
    """A way to one upstream."""

    def start(self, head: bytes, length: int, sink: Sink, body: bytes = b"") -> Call:
        """Send a request and let `sink` have the answer.

        `head` is what goes out, from the request line to the empty line (see `request_head`); `length` is the body's in
        bytes, 0 for none, or CHUNKED; `body` is what is there of it already. With an idle connection all this goes out
        in one write as soon as the loop has told all that has come.
        """

    def drop_idle(self) -> None:
        """Close the connections that no call uses: after a suspend they are no longer what they seem."""

    async def close(self) -> None:
        """Close all connections, those in use too; their calls end with CLOSED or CUT."""


class WrongLengthError(ValueError):
    """A body does not have the length that its head announced (RFC 9110 8.6); the call is aborted."""


def request_head(method: bytes, target: bytes, fields: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, int]:
    """Return a request's head to the byte, in the given order and case, and the length of the body that it frames.

    Raises BadRequest if a part holds CR, LF or NUL, which would let it say more than one line, or if the head has more
    than one framing (http-law H44).
    """
    fields = list(fields)
    lines = [b"%s %s HTTP/1.1" % (method, target), *map(b": ".join, fields), b"", b""]
    head = checked_head(b"\r\n".join(lines), len(lines) - 1)
    lengths = [
        CHUNKED if len(name) == len(_CODING) else int(value)
        for name, value in fields
        if len(name) in _FRAMING_SIZES and name.lower() in (_LENGTH, _CODING)
    ]
    if len(lengths) > 1:
        raise BadRequest("The request's body has more than one framing.")
    return head, lengths[0] if lengths else 0


def checked_head(head: bytes, line_ends: int) -> bytes:
    """Return a head that has so many line ends, and nothing else that could end a line; raises BadRequest."""
    if head.count(b"\n") != line_ends or head.count(b"\r") != line_ends or b"\0" in head:
        raise BadRequest("The request's head holds a line break or a NUL where none may be.")
    return head
