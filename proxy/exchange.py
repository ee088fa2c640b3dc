"""One relay, from the request's head to the last byte of the answer: token, replay, deadlines, back-pressure.

It speaks ASGI's `receive` and `send` to the caller and `Connections` to the upstream. No middleware stands between: any
that wraps bodies makes a truncated answer look complete (http-law section 1). One Relayed event tells what happened.
"""

import asyncio
import json
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self

from proxy.clock import Clock
from proxy.errors import (
    BadRequest,
    BrokenOff,
    CallerGone,
    ProxyError,
    TokenEcho,
    UpstreamInvalid,
    UpstreamTimeout,
    defect,
)
from proxy.events import Emit, Failed, Relayed, Warned
from proxy.headers import Field, Fields, first, for_downstream, for_upstream, has_token_in_query, masked_target
from proxy.spool import Spool, Spools
from proxy.token_echo import HIT, Room, Search, Unsearched, is_in, search
from proxy.tokens import TokenSet
from proxy.transport.connections import Connections, Disconnected, UpstreamResponse
from proxy.upstreams import Match, Upstream, judge

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})  # RFC 9110 9.2.2, of those that are relayed
PEEK_LIMIT = 64 * 1024
"""How much of a 401's body is read to learn whether it blames the token, in bytes."""
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


class Source(Protocol):
    """Where the token comes from (token_source.TokenSource)."""

    def current(self) -> TokenSet | None: ...
    async def token(self) -> TokenSet: ...
    async def fresh(self, share: float) -> TokenSet: ...
    async def reject(self, rejected: TokenSet, *, upstream: str) -> TokenSet | None: ...


@dataclass(frozen=True, slots=True)
class Request:
    """A local request as it arrived, its body still to be received."""

    method: str
    target: bytes
    """Raw request target in origin-form."""
    fields: Fields
    local_origin: bytes
    """`http://authority` as the caller wrote it, already let in by the guard."""
    peer: str = "-"
    """The caller's address, `-` on a unix socket."""

    @property
    def content_length(self) -> bytes | None:
        """The announced length, if a body (an empty one too, where the method expects one) is to be sent on."""
        length = first(self.fields, b"content-length")
        if length is None or (int(length) == 0 and self.method in ("GET", "HEAD", "DELETE")):
            return None
        return b"%d" % int(length)

    @property
    def length(self) -> int:
        """The announced length in bytes, 0 if there is none."""
        return int(self.content_length or 0)

    @property
    def is_chunked(self) -> bool:
        """Whether a chunked body is to be read and sent on.

        Never on GET and HEAD: urllib3 1.26 announces one there and sends no chunk, not even the last (H23).
        """
        return first(self.fields, b"transfer-encoding") is not None and self.method not in ("GET", "HEAD")

    @property
    def has_body(self) -> bool:
        return self.is_chunked or self.length > 0


class Relay:
    """Relays matched requests; collaborators are the token sources and connections by name."""

    def __init__(
        self,
        *,
        sources: Mapping[str, Source],
        connections: Mapping[str, Connections],
        spools: Spools,
        pseudonym: bytes,
        clock: Clock,
        emit: Emit,
        room: Room | None = None,
    ) -> None:
        self._sources = sources
        self._connections = connections
        self._spools = spools
        self._pseudonym = pseudonym
        self._clock = clock
        self._emit = emit
        self._room = room or Room()
        self.in_flight = Counter(dict.fromkeys(connections, 0))
        """Requests that are being relayed, by upstream."""

    async def __call__(self, request: Request, match: Match, receive: Any, send: Any, *, extra: Fields) -> None:
        """Relay `request` to `match`; `extra` fields join the answer. `receive` and `send` are ASGI's.

        Raises a ProxyError before anything was sent, BrokenOff after; returns quietly if the caller hung up.
        """
        started = self._clock.boot()
        judge(match, request.method)
        if has_token_in_query(match.query):
            raise BadRequest("Tokens do not travel in URLs: leave access_token= away, bearerproxy presents its own.")
        source = self._sources[match.upstream.identity] if match.upstream.identity is not None else None
        limit = match.upstream.replay_limit
        is_kept = source is not None and request.has_body and request.length <= limit
        exchange = _Exchange(
            request,
            match,
            self._connections[match.upstream.name],
            spool=self._spools.spool(limit) if is_kept else None,
            pseudonym=self._pseudonym,
            receive=receive,
            send=send,
            room=self._room,
        )
        self.in_flight[match.upstream.name] += 1
        try:
            async with exchange.inbox:  # a caller that hangs up while a token is waited for is let go, too
                if source is None:
                    token = None
                elif request.length > limit:
                    token = await source.fresh(UPLOAD_SHARE)
                else:
                    token = source.current() or await source.token()
                await self._run(exchange, source, token, extra)
        except CallerGone:
            return
        except (ProxyError, BrokenOff):
            raise
        except Exception as error:
            if exchange.status:  # too late for an answer of our own
                self._emit(Failed("relay", defect(error)))
                raise BrokenOff("the relay failed") from error
            raise
        finally:
            self.in_flight[match.upstream.name] -= 1
            if exchange.status:
                seconds, now = self._clock.boot() - started, self._clock.wall()
                self._emit(exchange.outcome(masked_target(request.target), seconds, now))

    async def _run(self, exchange: "_Exchange", source: Source | None, token: TokenSet | None, extra: Fields) -> None:
        try:
            response = await exchange.attempt(token)
            if response.status == 401 and source is not None and token is not None:
                response, extra = await self._cure(exchange, response, source, token, extra)
            await exchange.relay_down(response, extra)
        except BrokenOff as error:
            if isinstance(error.__cause__, TokenEcho):  # no answer can say it any more
                self._emit(Warned(error.__cause__.detail))
            raise
        finally:
            await exchange.close()

    async def _cure(
        self, exchange: "_Exchange", response: UpstreamResponse, source: Source, token: TokenSet, extra: Fields
    ) -> tuple[UpstreamResponse, Fields]:
        """Return the answer to a replay with a newer token if that helps, else the first one (token-life 5)."""
        upstream = exchange.match.upstream
        response, blames_token = await self._peeked(response, upstream)
        if not blames_token:
            return response, extra
        newer = await source.reject(token, upstream=upstream.name)
        if newer is None:
            return response, [*extra, NO_NEWER]
        if not await exchange.inbox.can_repeat():
            return response, [*extra, NOT_HELD]
        try:
            # A POST too: a 401 says that the request has not been applied (RFC 9110 15.5.2), which is what allows a
            # second try of what is not idempotent (9.2.2).
            second = await exchange.attempt(newer, is_second=True)
        except (ProxyError, OSError):  # OSError: the spool's disk
            return response, [*extra, UNANSWERED]
        if second.status == 401:
            # About permission it is the answer that counts: the first one says that the token was bad, and it was.
            second, blames_second = await self._peeked(second, upstream)
            if blames_second:
                return response, [*extra, REFUSED_TOO]
        exchange.is_replay = True
        return second, extra

    async def _peeked(self, response: UpstreamResponse, upstream: Upstream) -> tuple[UpstreamResponse, bool]:
        try:
            async with asyncio.timeout(upstream.idle_timeout):
                return await peeked(response, upstream.token_fault)
        except TimeoutError as error:
            raise UpstreamTimeout(f"[upstream.{upstream.name}] stopped in the middle of its answer.") from error


_Body = Callable[[Callable[[], None]], AsyncGenerator[bytes, None]]
"""Gives a request's body, and calls what it is given behind the last chunk."""


class _Exchange:
    """The state of one relay."""

    def __init__(
        self,
        request: Request,
        match: Match,
        connections: Connections,
        *,
        spool: Spool | None,
        pseudonym: bytes,
        receive: Any,
        send: Any,
        room: Room,
    ) -> None:
        self.request = request
        self.match = match
        self.inbox = _Inbox(receive, spool, has_body=request.has_body, idle_timeout=match.upstream.idle_timeout)
        self.is_replay = False
        self.status = 0
        self._connections = connections
        self._pseudonym = pseudonym
        self._send = send
        self._room = room
        self._sent = 0
        self._is_complete = False
        self._presented: TokenSet | None = None
        self._tokens: list[str] = []
        """Access tokens that the upstream has seen in this exchange."""
        self._begun: list[UpstreamResponse] = []

    async def attempt(self, token: TokenSet | None, *, is_second: bool = False) -> UpstreamResponse:
        """Send the request with `token` and return the head of the answer; a stale connection gets one more try.

        The body comes from the caller, or from the spool if `is_second`.
        """
        may_retry = self.request.method in IDEMPOTENT and not self.request.has_body
        while True:
            try:
                return await self._attempt(token, self.inbox.again if is_second else self.inbox.body)
            except Disconnected:
                if not may_retry:
                    raise
                may_retry = False

    async def _attempt(self, token: TokenSet | None, body_of: _Body) -> UpstreamResponse:
        upstream, request = self.match.upstream, self.request
        self._presented = token
        if token is not None:
            self._tokens.append(token.access_token)
        fields = for_upstream(
            request.fields,
            self.match,
            request.method,
            authorization=None if token is None else b"Bearer " + token.access_token.encode("ascii"),
            content_length=request.content_length,
            is_chunked=request.is_chunked,
            pseudonym=self._pseudonym,
        )
        loop = asyncio.get_running_loop()
        try:
            # Total until the head is complete: a timeout that restarts at each byte lets a dripping head live (H62).
            async with asyncio.timeout(None if request.has_body else upstream.first_byte_timeout) as deadline:
                body = body_of(lambda: deadline.reschedule(loop.time() + upstream.first_byte_timeout))
                response = await self._connections.send(
                    request.method, self.match.target, fields, body if request.has_body else None
                )
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"[upstream.{upstream.name}] sent no answer within {upstream.first_byte_timeout:g} seconds."
            ) from error
        self._begun.append(response)
        if not 200 <= response.status <= 599:
            raise UpstreamInvalid(f"[upstream.{upstream.name}] answered with the status {response.status}.")
        return response

    async def relay_down(self, response: UpstreamResponse, extra: Fields) -> None:
        """Send the answer to the caller as it comes.

        Raises a ProxyError as long as nothing of it was sent, BrokenOff once the head is out and the rest fails.
        """
        self.inbox.release()
        fields = for_downstream(response.fields, self.match, self.request.local_origin)
        if fields is None:
            raise UpstreamInvalid(f"[upstream.{self.match.upstream.name}] answered with a field that is not valid.")
        if response.status in (204, 304):  # RFC 9110 8.6
            fields = [field for field in fields if field[0] != b"content-length"]
        head = {"type": "http.response.start", "status": response.status, "headers": fields + extra}
        try:
            with closing(self._search(fields)) as echo:
                await self._send_answer(head, response.body, echo)
        except (ProxyError, TimeoutError) as error:
            if self.status:
                raise BrokenOff(f"the answer broke off after {self._sent} bytes") from error
            if isinstance(error, TimeoutError):
                raise UpstreamTimeout(
                    f"[upstream.{self.match.upstream.name}] stopped in the middle of its answer."
                ) from error
            raise
        self._is_complete = True

    async def _send_answer(
        self, head: Mapping[str, Any], chunks: AsyncGenerator[bytes, None], echo: Search | Unsearched
    ) -> None:
        loop, idle = asyncio.get_running_loop(), self.match.upstream.idle_timeout
        async with asyncio.timeout(idle) as stall, aclosing(chunks) as body:
            if not echo.is_holding:
                await self._begin(head)
            async for chunk in body:
                piece = echo.feed(chunk)
                if piece is HIT:
                    raise self._echoed()
                if piece:
                    await self._begin(head)
                    await self._send({"type": "http.response.body", "body": piece, "more_body": True})
                    self._sent += len(piece)
                stall.reschedule(loop.time() + idle)
            await self._begin(head)
            rest = echo.end()
            await self._send({"type": "http.response.body", "body": rest, "more_body": False})
            self._sent += len(rest)
            self.inbox.dismiss()

    async def _begin(self, head: Mapping[str, Any]) -> None:
        if not self.status:
            self.status = head["status"]
            await self._send(head)

    def _search(self, fields: Fields) -> Search | Unsearched:
        """Return the search through the answer's body; raises TokenEcho if a field holds the token."""
        if self.match.upstream.passes_token_echo:
            return Unsearched()
        if is_in(fields, self._tokens):
            raise self._echoed()
        return search(fields, self._tokens, self._room)

    def _echoed(self) -> TokenEcho:
        name = self.match.upstream.name
        return TokenEcho(
            f"[upstream.{name}] sent the access token back in its answer, which is withheld; if that service is meant "
            f'to hand it out: token_echo = "pass" in [upstream.{name}].'
        )

    async def close(self) -> None:
        """Let go of every answer that was begun, and of the body."""
        self.inbox.forget()
        for closed in [response.close() for response in self._begun]:
            await asyncio.shield(closed)

    def outcome(self, target: str, seconds: float, now: float) -> Relayed:
        token = self._presented
        return Relayed(
            upstream=self.match.upstream.name,
            method=self.request.method,
            target=target,
            status=self.status,
            received=self.inbox.received,
            sent=self._sent,
            seconds=seconds,
            is_complete=self._is_complete,
            is_replay=self.is_replay,
            token_age=None if token is None else max(now - token.obtained_at, 0.0),
            peer=self.request.peer,
            agent=(first(self.request.fields, b"user-agent") or b"-")[:200].decode("latin-1"),
        )


class _Inbox:
    """The one owner of ASGI's `receive`: the request's body, then the news that the caller hung up (H59).

    As a context it cancels the task inside when the caller goes, and turns that into CallerGone.
    """

    def __init__(self, receive: Any, spool: Spool | None, *, has_body: bool, idle_timeout: float) -> None:
        self.received = 0
        self._receive = receive
        self._spool = spool
        self._idle_timeout = idle_timeout
        self._has_body = self._has_more = has_body
        self._is_read = asyncio.Event()
        self._is_gone = False
        if not has_body:
            self._is_read.set()

    async def body(self, on_end: Callable[[], None]) -> AsyncGenerator[bytes, None]:
        """Yield the body's chunks and call `on_end` behind the last; raise CallerGone if it breaks off (H46)."""
        while self._has_more:
            if chunk := await self._next():
                yield chunk
        on_end()
        self._is_read.set()

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle_timeout):
                message = await self._receive()
        except TimeoutError as error:
            raise CallerGone("no byte of the request's body came in time") from error
        if message["type"] == "http.disconnect":
            raise CallerGone("the caller hung up in the middle of its request")
        chunk: bytes = message.get("body", b"")
        self.received += len(chunk)
        self._has_more = message.get("more_body", False)  # noted now: a transport need not come back for more
        if self._spool is not None:
            await self._spool.add(chunk)
            if not self._has_more:
                self._spool.end()
        return chunk

    async def can_repeat(self) -> bool:
        """Return whether the request can be sent a second time, its body from the spool.

        An upstream may answer before it has read all; what is still to come is then read here first.
        """
        if not self._has_body or self._spool is None:
            return not self._has_body
        while self._has_more and self._spool.is_on:
            _ = await self._next()
        if not self._has_more:
            self._is_read.set()
        return await self._spool.is_whole()

    async def again(self, on_end: Callable[[], None]) -> AsyncGenerator[bytes, None]:
        """Yield the body from the spool and call `on_end` behind it; raise OSError if the disk fails."""
        if self._spool is None:
            return
        async with aclosing(self._spool.read()) as chunks:
            async for chunk in chunks:
                yield chunk
        on_end()

    async def _watch(self, task: asyncio.Task[Any]) -> None:
        await self._is_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        task.cancel()

    def release(self) -> None:
        """Forget the body, and read what is still to come of it for the watch alone: nobody will ask for it."""
        self.forget()
        self._is_read.set()

    def forget(self) -> None:
        """Free what is held of the body."""
        if self._spool is not None:
            self._spool.drop()

    def dismiss(self) -> None:
        """Stop watching: the answer is complete, and whatever ASGI's `receive` says now is no hang-up."""
        self._watcher.cancel()

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a relay runs in a task")
        self._task = task
        self._watcher = asyncio.get_running_loop().create_task(self._watch(task), name="caller watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.dismiss()
        if not self._is_gone:
            return
        is_ours_alone = self._task.uncancel() == 0  # else the server, too, wants this task to end
        if isinstance(error, asyncio.CancelledError) and is_ours_alone:
            raise CallerGone("the caller hung up") from error
        if isinstance(error, (ProxyError, BrokenOff)):  # nobody is left to be told
            raise CallerGone("the caller hung up") from error


async def peeked(response: UpstreamResponse, token_fault: str | None) -> tuple[UpstreamResponse, bool]:
    """Return the answer, its body still whole, and whether its 401 blames the token.

    `token_fault` is the JSON `detail` that does; None lets every 401 do so. At most PEEK_LIMIT bytes are read ahead.
    """
    if token_fault is None:
        return response, True
    head = b""
    async for chunk in response.body:
        head += chunk
        if len(head) > PEEK_LIMIT:
            break
    whole = replace(response, body=_rejoined(head, response.body))
    try:
        said = json.loads(_decoded(head, first(response.fields, b"content-encoding")))
    except (ValueError, RecursionError, zlib.error):  # RecursionError: JSON that is nested without end
        return whole, True
    detail = said.get("detail") if isinstance(said, dict) else None
    return whole, detail is None or detail == token_fault


def _decoded(body: bytes, coding: bytes | None) -> bytes:
    """Return a copy of `body` to look into, at most PEEK_LIMIT bytes of it; what is relayed stays as it came."""
    if coding is None or coding.lower() not in (b"gzip", b"deflate"):
        return body
    return zlib.decompressobj(wbits=47).decompress(body, PEEK_LIMIT)  # 47: gzip or zlib, by its head


async def _rejoined(head: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    if head:
        yield head
    async with aclosing(rest):
        async for chunk in rest:
            yield chunk
