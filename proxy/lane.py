"""The listener's lane: a relayed request goes from the parser's callbacks into its exchange, without a task or a scope.

A lane is the caller's end of one exchange (exchange.Caller) over the listener's own connection:

    NEW ──start──► ASKED ──on_head──► BEGUN ──on_end──► ENDED ──the caller reads again──► COMPLETE
                     │                  │      └────────── if it reads as it comes ──────────▲
                     └─on_refusal───────┼────── an answer of ours ───────────────────────────┘
                                        └─cut, gone: the connection is no more

The head of an answer is written together with what has come behind it: the whole of a small one is one write, and goes
out with those of other callers (outbox.py). The answer is complete once it is written, not before. Until the exchange
asks for the request's body (`resume`), and while it waits (`pause`), the lane `is_full` and the connection is not read.
What is no relay, or finds no place, takes no lane: the ASGI app answers it, in the same words.
"""

import asyncio
from collections.abc import Callable

from proxy.decision import Onward, Rules
from proxy.errors import BrokenOff, Overloaded, ProxyError
from proxy.exchange import Exchange
from proxy.framing import CONTINUE, Framing, cut_off
from proxy.guard import Arrival
from proxy.headers import Fields, first
from proxy.outbox import Outbox
from proxy.refusals import Refusals
from proxy.relay import Relay
from proxy.request import Request

WRITE_BYTES = 64 * 1024
"""How much of an answer is put together into one write."""


class Lanes:
    """Opens lanes."""

    def __init__(self, rules: Rules, relay: Relay, refusals: Refusals) -> None:
        self._rules = rules
        self._relay = relay
        self._refusals = refusals
        self._outbox = Outbox()

    def open(
        self,
        method: str,
        target: bytes,
        fields: Fields,
        arrival: Arrival,
        transport: asyncio.Transport,
        framing: Framing,
        *,
        expects_continue: bool,
    ) -> "Lane | None":
        """Return the lane of a request that is to be relayed, None if something else is to be done with it.

        `target` is raw, in origin-form; `arrival` is where its connection came in.
        """
        try:
            decision = self._rules.decide(method, target, fields, arrival)
        except Exception:  # noqa: BLE001 - the app decides again: it tells of the defect, and answers it as ours
            return None
        if type(decision) is not Onward:
            return None
        authority = first(fields, b"host") or b""
        request = Request(method, target, fields, b"http://" + authority, peer=arrival.peer or "-")
        lane = Lane(request, self._outbox, self._refusals, transport, framing, expects_continue=expects_continue)
        try:
            lane.exchange = self._relay.exchange(request, decision.match, lane, extra=decision.extra)
        except Overloaded:
            return None
        return lane


class Lane:
    """One relayed request and its answer."""

    __slots__ = (
        "_expects_continue", "_is_ended", "_is_paused", "_is_reader_slow", "_out", "_outbox", "_refusals", "_request",
        "_size", "_transport", "exchange", "framing", "more_body", "on_complete", "on_wish", "response_complete",
    )  # fmt: skip

    exchange: Exchange
    on_complete: Callable[[], None]
    """Called when the caller has been given the whole answer."""
    on_wish: Callable[[], None]
    """Called when `is_full` may have changed."""

    def __init__(
        self,
        request: Request,
        outbox: Outbox,
        refusals: Refusals,
        transport: asyncio.Transport,
        framing: Framing,
        *,
        expects_continue: bool,
    ) -> None:
        self.framing = framing
        self.more_body = True
        """Whether the request is not whole."""
        self.response_complete = False
        self._request = request
        self._outbox = outbox
        self._refusals = refusals
        self._transport = transport
        self._expects_continue = expects_continue
        self._is_paused = request.has_body
        self._is_reader_slow = False
        self._is_ended = False
        self._out: list[bytes] | None = None
        """What waits to be written together; None if nothing is held back."""
        self._size = 0

    # what the connection tells ----------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether no more of the body is wanted for now."""
        return self._is_paused and self.more_body

    def start(self) -> None:
        self.exchange.start()

    def take(self, data: bytes) -> None:
        """Take a piece of the request's body."""
        self.exchange.write(data)

    def end(self) -> None:
        """Take note that the request is whole."""
        self.more_body = False
        self.exchange.end()

    def pause_writing(self) -> None:
        """Take note that the caller reads slowly."""
        self._is_reader_slow = True
        self.exchange.pause()

    def resume_writing(self) -> None:
        self._is_reader_slow = False
        if not self._is_ended:
            self.exchange.resume()
        elif self._out is None:
            self.flushed()

    def gone(self) -> None:
        """Take note that the caller is gone."""
        self._out = None
        self.exchange.abort()

    # what the exchange says -------------------------------------------------------------------------------------------

    def on_head(self, status: int, fields: Fields) -> None:
        self._expects_continue = False
        self._out = [self.framing.head(status, fields, is_early=self.more_body)]
        self._outbox.post(self)

    def on_data(self, data: bytes) -> None:
        try:
            self._write(self.framing.piece(data))
        except BrokenOff:
            self.cut()

    def on_end(self) -> None:
        try:
            self._write(self.framing.end())
        except BrokenOff:
            self.cut()
            return
        self._is_ended = True
        if self._out is None:
            self.flushed()

    def on_refusal(self, error: ProxyError) -> None:
        request = self._request
        problem, extra = self._refusals.answer(error, request.method, request.target, request.fields)
        self.on_head(problem.status, [*problem.fields, *extra])
        self._write(self.framing.piece(problem.body))
        self.on_end()

    def cut(self) -> None:
        if self.response_complete:
            return
        self.exchange.abort()
        if self._out is None:
            self._cut_off()
        else:  # what was given is seen: a loop that writes late would lose it
            self.flush()
            asyncio.get_running_loop().call_soon(self._cut_off)

    def _cut_off(self) -> None:
        if not self._transport.is_closing():
            cut_off(self._transport, is_close_delimited=self.framing.is_close_delimited)

    def pause(self) -> None:
        self._is_paused = True
        self.on_wish()

    def resume(self) -> None:
        self._is_paused = False
        if self._expects_continue and self.more_body and not self._transport.is_closing():
            self._expects_continue = False
            self._transport.write(CONTINUE)
        self.on_wish()

    def _write(self, data: bytes) -> None:
        if not data:
            return
        if self._out is None:
            if not self._transport.is_closing():  # uvloop's would raise; the loss is about to be told
                self._transport.write(data)
            return
        self._out.append(data)
        self._size += len(data)
        if self._size > WRITE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is held back, if there is anything."""
        out, self._out = self._out, None
        if out is not None and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def flushed(self) -> None:
        """Be complete, if the answer is whole and the caller reads as it comes."""
        is_taken = self._is_ended and not self._is_reader_slow
        if is_taken and not self.response_complete and not self._transport.is_closing():
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        self.exchange.taken()
        self.on_complete()
