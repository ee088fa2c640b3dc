"""One exchange: a request and its answer, from the head of the one to the last byte of the other.

Theory of operation. The exchange does no I/O. To the caller's end (`Caller`) it is a call of the seam: the body is
written to it, and it may be paused and aborted. From the upstream it takes answers (`UpstreamAnswer`). Everything is
plain callbacks; a task runs only where something must be awaited (the two states marked so).

    NEW ──start──► TOKEN* ──────► SENDING ──body whole──► AWAITING ──head──► FLOWING ──end──► TAKING ──taken──► OVER
     │   no token   │              │  ▲ │                     │               ▲ │
     └──a token─────┼──────────────┘  │ └─early answer, not ──┼──────────────►│ └─ the token stands in it, it breaks
                    │                 │   of success          │ 401           │    off or stalls: refused as long as
                    │                 └─ stale connection:    ▼               │    nothing was sent, else cut
                    ▼                    once more          CURING* ──────────┘
                 refused                                     └─ renewal, replay from the spool; else the first 401

Two-sided completion: an exchange is over when the caller's end has taken the whole answer, or when either side is gone;
then its calls are aborted (nothing, if they came whole), its body is let go of, and one Relayed event tells of it. A
success that comes while the body is still on its way waits for the body's end; any other answer ends the upload, for
the upstream has said that it does not want it (RFC 9112 9.5).

SENDING is STUCK while the upstream takes nothing, and CURING is READING while the rest of a body is waited for. What it
means when a deadline passes depends on the stage alone (`expire`); deadlines are numbers that the sweeper compares.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from proxy.blame import PEEK_LIMIT, blames_token
from proxy.clock import Clock, monotonic
from proxy.errors import BadRequest, ProxyError, TokenEcho, UpstreamInvalid, UpstreamTimeout, defect
from proxy.events import Emit, Failed, Relayed, Warned
from proxy.headers import Field, Fields, first, masked_target
from proxy.request import Request
from proxy.spool import Spools
from proxy.tasks import Tasks
from proxy.token_echo import HIT, UNSEARCHED, Room, Search, Unsearched, is_in, search, searchable
from proxy.tokens import TokenSet
from proxy.transport.explanation import explained
from proxy.transport.seam import Trouble, Way, WrongLengthError
from proxy.upload import Behind, Upload
from proxy.upstream_answer import UpstreamAnswer
from proxy.upstreams import Match, Upstream
from proxy.usual_heads import AnswerHeads, RequestHeads

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})  # RFC 9110 9.2.2, of those that are relayed
UPLOAD_SHARE = 2 / 3
"""Share of its life that a token must have before it for an upload that would not be sent a second time (T23).

How long the upload will take nobody knows; that most of a life lies before it is all that can be promised.
"""

REFUSED_TOO: Field = (b"proxy-status", b'bearerproxy; received-status=401; details="a fresh token was refused too"')
NO_NEWER: Field = (b"proxy-status", b'bearerproxy; received-status=401; details="there is no newer token to try"')
NOT_HELD: Field = (
    b"proxy-status",
    b'bearerproxy; received-status=401; details="there is a newer token now, but the body is not held: send it again"',
)
UNANSWERED: Field = (
    b"proxy-status",
    b'bearerproxy; received-status=401; details="a second try with a newer token found no answer"',
)

_TOKEN, _SENDING, _STUCK, _AWAITING, _CURING, _READING, _FLOWING, _OVER = range(8)

T = TypeVar("T")


class Source(Protocol):
    """Where the token comes from (token_source.TokenSource)."""

    def current(self) -> TokenSet | None: ...
    async def token(self) -> TokenSet: ...
    async def fresh(self, share: float) -> TokenSet: ...
    async def reject(self, rejected: TokenSet, *, upstream: str) -> TokenSet | None: ...


class Caller(Protocol):
    """The caller's end of one exchange. `on_end`, `on_refusal` or `cut` is the last word; none follows an `abort`."""

    def on_head(self, status: int, fields: Fields) -> None:
        """Take the head of the answer; its first piece follows at once if it is there."""

    def on_data(self, data: bytes) -> None:
        """Take a piece of the answer's body."""

    def on_end(self) -> None:
        """Take note that the answer is whole, and say `taken` when the caller has been given all of it."""

    def on_refusal(self, error: ProxyError) -> None:
        """Answer in our own words: nothing of an answer has been given."""

    def cut(self) -> None:
        """End so that nobody takes what was given for complete (http-law H56, H57)."""

    def pause(self) -> None:
        """Give no more of the request's body for now; a little that has come already is taken."""

    def resume(self) -> None:
        """Give the request's body; before the first of these nobody wants it (H18)."""


@dataclass(slots=True)
class Destination:
    """One upstream, and all that an exchange needs to get there."""

    upstream: Upstream
    way: Way
    source: Source | None
    """Where its tokens come from; None presents none."""
    requests: RequestHeads
    answers: AnswerHeads
    in_flight: int = 0
    """Requests that are being relayed."""


class Ground(Protocol):
    """What all exchanges stand on (relay.Relay)."""

    spools: Spools
    tasks: Tasks
    room: Room
    clock: Clock
    emit: Emit

    def over(self, exchange: "Exchange", there: Destination, outcome: Relayed | None) -> None:
        """Take an exchange's place back, and tell what became of it; None if the caller was given no head."""


class Exchange:
    """The state of one exchange (its own docstring is the module's)."""

    __slots__ = (
        "_answer", "_begun", "_caller", "_echo", "_end", "_extra", "_ground", "_is_reader_slow", "_is_replay",
        "_is_whole", "_may_retry", "_request", "_sent", "_source", "_stage", "_started", "_status", "_task", "_there",
        "_token", "_tokens", "_upload", "due", "match",
    )  # fmt: skip

    def __init__(
        self, ground: Ground, there: Destination, request: Request, match: Match, caller: Caller, extra: Fields
    ) -> None:
        upstream = match.upstream
        self.match = match
        self._ground = ground
        self._there = there
        self._request = request
        self._caller = caller
        self._extra = extra
        self._source = there.source
        self._end = math.inf if upstream.total_timeout is None else monotonic() + upstream.total_timeout
        self.due = self._end
        self._stage = _TOKEN
        self._started = ground.clock.boot()
        self._upload = self._new_upload() if request.has_body else None
        self._answer: UpstreamAnswer | None = None
        """The answer that is looked at, or flows."""
        self._begun: list[UpstreamAnswer] = []
        self._task: asyncio.Task[Any] | None = None
        self._token: TokenSet | None = None
        """The token that was presented last."""
        self._tokens: list[bytes] = []
        """Access tokens that the upstream has seen in this exchange, of those that are searched for."""
        self._may_retry = request.method in IDEMPOTENT and self._upload is None
        self._echo: Search | Unsearched = UNSEARCHED
        self._status = 0
        """0 until the caller has been given a head."""
        self._sent = 0
        self._is_reader_slow = False
        self._is_whole = False
        self._is_replay = False

    def _new_upload(self) -> Upload:
        limit = self.match.upstream.replay_limit
        is_kept = self._source is not None and self._request.length <= limit
        return Upload(self._caller, self._ground.spools.spool(limit) if is_kept else None, self._ground.tasks)

    # what the caller's end says (seam.Call) ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, unless the caller has gone. What was written before goes out with the head."""
        if self._stage == _OVER:
            return
        source = self._source
        try:
            if source is None:
                self._begin(None)
            elif self._request.length > self.match.upstream.replay_limit:
                self._await(source.fresh(UPLOAD_SHARE), self._begin, name="token for an upload")
            else:
                token = source.current()
                if token is not None:
                    self._begin(token)
                else:
                    self._await(source.token(), self._begin, name="token")
        except Exception as error:  # noqa: BLE001 - told, and answered as ours
            self.on_exception(error)

    def write(self, data: bytes) -> None:
        """Take a piece of the request's body."""
        if self._stage == _OVER or self._upload is None:
            return
        try:
            self._upload.write(data)
        except Exception as error:  # noqa: BLE001 - told, and answered as ours
            self.on_exception(error)
        else:
            if self._stage in (_SENDING, _READING):
                self._wait(self._stage, self.match.upstream.idle_timeout)

    def end(self) -> None:
        """Take note that the request's body is whole."""
        if self._stage == _OVER or self._upload is None or not self._upload.has_more:
            return
        try:
            self._upload.end()
            if self._stage == _SENDING:
                self._sent_whole()
        except Exception as error:  # noqa: BLE001 - told, and answered as ours
            self.on_exception(error)

    def abort(self) -> None:
        """Take note that the caller is gone, whatever stage this is in."""
        if self._stage != _OVER:
            self._finish()

    def pause(self) -> None:
        """Let the upstream wait: the caller reads slowly."""
        self._is_reader_slow = True
        if self._answer is not None:
            self._answer.call.pause()

    def resume(self) -> None:
        self._is_reader_slow = False
        if self._stage == _FLOWING:
            self._wait(_FLOWING, self.match.upstream.idle_timeout)
        if self._answer is not None:
            self._answer.call.resume()

    def taken(self) -> None:
        """Take note that the caller has been given the whole answer."""
        if self._stage != _OVER:
            self._is_whole = True
            self._finish()
            # They know the exchange too: a circle would be left to the collector, whose pauses everybody feels.
            self._upload = None
            del self._caller

    # the request's way up ---------------------------------------------------------------------------------------------

    def _begin(self, token: TokenSet | None) -> None:
        """Send the request for the first time."""
        upload = self._upload
        self._answer = answer = self._call(token, b"" if upload is None else upload.early())
        if upload is None:
            self._sent_whole()
            return
        self._stage = _SENDING
        upload.go_to(answer.call)
        self.on_congestion(answer)

    def _call(self, token: TokenSet | None, body: bytes) -> UpstreamAnswer:
        """Open a call that presents `token`. Raises BadRequest."""
        request, match = self._request, self.match
        authorization = None
        self._token = token
        if token is not None:
            credentials = token.access_token.encode("ascii")
            self._tokens += searchable(credentials)
            authorization = b"Bearer " + credentials
        head, length = self._there.requests.write(request, match, authorization)
        answer = UpstreamAnswer(self)
        answer.call = self._there.way.start(head, length, answer, body)
        self._begun.append(answer)
        return answer

    def _sent_whole(self) -> None:
        """Wait for the answer, or go on with the one that has waited for the end of the body."""
        # Total until the head is complete: a deadline that moves at each byte would let a dripping head live (H62).
        self._wait(_AWAITING, self.match.upstream.first_byte_timeout)
        if self._answer is not None and self._answer.status:
            self._look_at(self._answer)

    def on_congestion(self, answer: UpstreamAnswer) -> None:
        if answer is not self._answer or self._upload is None or self._stage not in (_SENDING, _STUCK):
            return
        if answer.is_congested:
            self._upload.wait_for(Behind.UPSTREAM)
            self._wait(_STUCK, self.match.upstream.idle_timeout)
            return
        self._wait(_SENDING, self.match.upstream.idle_timeout)
        self._upload.release(Behind.UPSTREAM)  # which may bring the rest of the body, or the caller's end, at once
        if self._stage == _SENDING and not self._upload.has_more:
            self._sent_whole()

    # the answer's way down --------------------------------------------------------------------------------------------

    def on_head(self, answer: UpstreamAnswer) -> None:
        if self._stage == _OVER or answer is not self._answer:
            return  # a second one is awaited in _cure
        if answer.status >= 300 or self._stage == _AWAITING:
            self._look_at(answer)

    def _look_at(self, answer: UpstreamAnswer) -> None:
        self._stage = _CURING
        self.due = self._end
        if self._upload is not None:
            self._upload.stop()  # which may bring the rest of the body, or the caller's end, at once
        if self._stage == _OVER:
            return
        if answer.status == 401 and self._source is not None and self._token is not None:
            self._await(self._cure(answer, self._source, self._token), self._let_flow, name="cure of a 401")
        else:
            self._let_flow((answer, self._extra))

    def _let_flow(self, chosen: tuple[UpstreamAnswer, Fields]) -> None:
        """Give the caller an answer as it comes. Raises UpstreamInvalid, TokenEcho."""
        answer, extra = chosen
        self._answer = answer
        if self._upload is not None:
            self._upload.forget()
            self._upload.release(Behind.DISK)
        if self._stage == _OVER:
            return
        fields = self._there.answers.fields(answer.fields, self.match, self._request.local_origin)
        if fields is None:
            raise UpstreamInvalid(f"[upstream.{self.match.upstream.name}] answered with a field that is not valid.")
        if answer.status in (204, 304):  # RFC 9110 8.6
            fields = [field for field in fields if field[0] != b"content-length"]
        self._wait(_FLOWING, self.match.upstream.idle_timeout)
        if not self.match.upstream.passes_token_echo:
            if is_in(fields, self._tokens):
                raise self._echoed()
            self._echo = search(fields, self._tokens, self._ground.room)
        self._extra = fields + extra
        if not self._echo.is_holding:
            self._give_head()
        answer.flow()
        if self._is_reader_slow:
            answer.call.pause()

    def _give_head(self) -> None:
        if self._answer is not None:
            self._status = self._answer.status
            fields, self._extra = self._extra, []
            self._caller.on_head(self._status, fields)

    def on_data(self, data: bytes) -> None:
        if self._stage == _OVER:
            return
        self._wait(_FLOWING, self.match.upstream.idle_timeout)
        piece = self._echo.feed(data)
        if piece is HIT:
            raise self._echoed()
        if piece:
            self._give(piece)

    def _give(self, piece: bytes) -> None:
        if not self._status:
            self._give_head()
        if self._stage != _OVER:  # a caller may go in the midst of what it is told
            self._sent += len(piece)
            self._caller.on_data(piece)

    def on_end(self) -> None:
        if self._stage == _OVER:
            return
        if rest := self._echo.end():
            self._give(rest)
        if not self._status:
            self._give_head()
        if self._stage != _OVER:
            self._caller.on_end()

    def _echoed(self) -> TokenEcho:
        name = self.match.upstream.name
        return TokenEcho(
            f"[upstream.{name}] sent the access token back in its answer, which is withheld; if that service is meant "
            f'to hand it out: token_echo = "pass" in [upstream.{name}].'
        )

    # a 401 ------------------------------------------------------------------------------------------------------------

    async def _cure(self, refusal: UpstreamAnswer, source: Source, token: TokenSet) -> tuple[UpstreamAnswer, Fields]:
        """Return the answer to a replay with a newer token if that helps, else the first one (token-life 5)."""
        if not await self._blames_token(refusal):
            return refusal, self._extra
        newer = await source.reject(token, upstream=self.match.upstream.name)
        if newer is None:
            return refusal, [*self._extra, NO_NEWER]
        if self._upload is not None:
            self._wait(_READING, self.match.upstream.idle_timeout)
            if not await self._upload.is_repeatable():
                return refusal, [*self._extra, NOT_HELD]
            self._wait(_CURING, math.inf)
        # A POST too: a 401 says that the request has not been applied (RFC 9110 15.5.2), which is what allows a
        # second try of what is not idempotent (9.2.2).
        second = await self._replay(newer)
        if second is None:
            return refusal, [*self._extra, UNANSWERED]
        if second.status == 401 and await self._blames_token(second):
            # About permission it is the answer that counts: the first one says that the token was bad, and it was.
            return refusal, [*self._extra, REFUSED_TOO]
        self._is_replay = True
        return second, self._extra

    async def _replay(self, token: TokenSet) -> UpstreamAnswer | None:
        """Send the request again with `token` and return the answer, None if there is none."""
        upstream = self.match.upstream
        answer = self._call(token, b"")
        try:
            if self._upload is not None:
                await self._upload.again(answer, upstream.idle_timeout)
            async with asyncio.timeout(upstream.first_byte_timeout):
                await answer.until(lambda: answer.status > 0 or answer.is_over)
        except (OSError, WrongLengthError):  # a TimeoutError is an OSError; the other one is the spool's disk
            return None
        if answer.trouble is Trouble.STALE and not answer.status and self._may_retry:
            self._may_retry = False
            return await self._replay(token)
        return answer if answer.status else None

    async def _blames_token(self, answer: UpstreamAnswer) -> bool:
        upstream = self.match.upstream
        if upstream.token_fault is None:
            return True
        try:
            async with asyncio.timeout(upstream.idle_timeout):
                await answer.until(lambda: answer.size > PEEK_LIMIT or answer.is_over)
        except TimeoutError as error:
            raise self._stall() from error
        if answer.trouble is not None:
            raise explained(answer.trouble, answer.error, upstream)
        lowered = ((name.lower(), value) for name, value in answer.fields)
        return blames_token(answer.held, first(lowered, b"content-encoding"), upstream.token_fault)

    # what goes wrong --------------------------------------------------------------------------------------------------

    def on_trouble(self, answer: UpstreamAnswer) -> None:
        if self._stage == _OVER or answer is not self._answer or answer.trouble is None:
            return
        if answer.trouble is Trouble.STALE and self._may_retry and not answer.status:
            self._may_retry = False
            self._answer = self._call(self._token, b"")
            return
        failure = explained(answer.trouble, answer.error, self.match.upstream)
        failure.__cause__ = answer.error
        raise failure

    def on_exception(self, error: BaseException) -> None:
        """Answer with a failure if nothing was sent, else cut; a defect is told and answered in our words too."""
        if self._stage == _OVER:
            return
        if isinstance(error, WrongLengthError):
            error = BadRequest("The request's body does not have the length that its head announced.")
        elif not isinstance(error, ProxyError):
            self._ground.emit(Failed("relay", defect(error)))
            error = ProxyError("An unexpected error; the log says more.")
        has_begun = self._status > 0
        if has_begun and isinstance(error, TokenEcho):  # no answer can say it any more
            self._ground.emit(Warned(error.detail))
        self._finish()
        if has_begun:
            self._caller.cut()
        else:
            self._caller.on_refusal(error)

    def expire(self, now: float) -> None:
        """Act on a deadline that has passed (sweeper.Mortal)."""
        upstream = self.match.upstream
        name = f"[upstream.{upstream.name}]"
        if now >= self._end:
            said = f"{name} did not end within its total_timeout, {upstream.total_timeout:g} seconds."
            self.on_exception(UpstreamTimeout(said))
        elif self._stage in (_SENDING, _READING):  # no byte of the body came in time: there is nobody to tell
            self._finish()
            self._caller.cut()
        elif self._stage == _STUCK:
            self.on_exception(explained(Trouble.NOT_TAKEN, None, upstream))
        elif self._stage == _AWAITING:
            said = f"{name} sent no answer within {upstream.first_byte_timeout:g} seconds."
            self.on_exception(UpstreamTimeout(said))
        else:
            self.on_exception(self._stall())

    def _wait(self, stage: int, seconds: float) -> None:
        """Be in `stage` for `seconds` at most, from now on."""
        self._stage = stage
        due = monotonic() + seconds
        self.due = due if due < self._end else self._end  # noqa: FURB136 - a call costs more, at each byte

    def _stall(self) -> UpstreamTimeout:
        return UpstreamTimeout(f"[upstream.{self.match.upstream.name}] stopped in the middle of its answer.")

    # the end ----------------------------------------------------------------------------------------------------------

    def _await(self, work: Coroutine[Any, Any, T], then: Callable[[T], None], *, name: str) -> None:
        """Let a task do `work`, and call `then` with what it returns."""
        self._task = self._ground.tasks.start(work, name=name)
        self._task.add_done_callback(partial(self._come, then))

    def _come(self, then: Callable[[T], None], task: "asyncio.Task[T]") -> None:
        if task.cancelled():
            self.abort()
            return
        self._task = None
        error = task.exception()
        if error is not None:
            self.on_exception(error)
            return
        try:
            if self._stage != _OVER:
                then(task.result())
        except Exception as failure:  # noqa: BLE001 - told, and answered as ours
            self.on_exception(failure)

    def _finish(self) -> None:
        """Let go of everything that the exchange holds, and tell what happened."""
        self._stage = _OVER
        if self._task is not None:
            self._task.cancel()
        for answer in self._begun:
            answer.drop()
        self._begun.clear()
        self._answer = None
        if self._upload is not None:
            self._upload.forget()
        self._echo.close()
        self._ground.over(self, self._there, self._outcome() if self._status else None)

    def _outcome(self) -> Relayed:
        clock, request, token = self._ground.clock, self._request, self._token
        age = None if token is None else clock.wall() - token.obtained_at
        return Relayed(  # by place: one is made for each request
            self.match.upstream.name,
            request.method,
            masked_target(request.target),
            self._status,
            0 if self._upload is None else self._upload.received,
            self._sent,
            clock.boot() - self._started,
            self._is_whole,
            self._is_replay,
            age if age is None or age > 0 else 0.0,
            request.peer,
            request.agent[:200].decode("latin-1"),
            request.traceparent[:55].decode("latin-1"),
        )
