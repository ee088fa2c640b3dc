"""The ASGI end: what the rules decide of a request is done here, whoever serves. The way of one request starts here.

An exchange knows nothing of ASGI. Two tasks stand between: one owns `receive` and tells the exchange of the body and of
a hang-up (H59), the other one owns `send` and gives the caller what the exchange says. No middleware may stand around
this: any that wraps bodies makes a truncated answer look complete (http-law section 1).
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol
from urllib.parse import quote, unquote_to_bytes

from proxy.asgi import ASGIApp, Message, Receive, Scope, Send
from proxy.decision import Control, Empty, Onward, Refusal, Rules, Within
from proxy.errors import BrokenOff, CallerGone, NoUpstream, ProxyError, defect
from proxy.events import Emit, Failed
from proxy.exchange import Exchange
from proxy.guard import Arrival, local_end
from proxy.headers import Fields, first
from proxy.limits import SmallBodies
from proxy.refusals import Refusals
from proxy.relay import Relay
from proxy.request import Request
from proxy.upstreams import Upstream

HELD_BYTES = 64 * 1024
"""How much of an answer waits for a `send` that waits, before the upstream has to."""


class Face(Protocol):
    """Something of ours below a mount that is no upstream: what it serves is made of several calls."""

    mount: bytes
    upstream: Upstream
    """Whose limits count for its requests."""

    async def __call__(self, request: Request, path: bytes, query: bytes, send: Send, *, extra: Fields) -> None: ...


class Forwarder:
    """Serves the shared port (mounts and control plane) and the ports that carry one upstream alone."""

    def __init__(
        self,
        rules: Rules,
        relay: Relay,
        *,
        control: ASGIApp | None,
        emit: Emit,
        faces: Sequence[Face] = (),
    ) -> None:
        """Without `control` there are no pages of ours."""
        self._rules = rules
        self._relay = relay
        self._control = None if control is None else SmallBodies(control)
        self._emit = emit
        self._refusals = Refusals(rules.guard, emit, has_pages=control is not None)
        self._faces = {face.mount: face for face in faces}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; raise BrokenOff if an answer that has begun cannot be finished."""
        target = raw_target(scope)
        fields: Fields = list(scope["headers"])
        try:
            await self._do(scope, receive, send, fields, target)
        except ProxyError as error:
            await self._refuse(error, scope, send, fields, target)
        except (BrokenOff, CallerGone):
            raise  # whoever serves cuts the connection
        except Exception as error:  # noqa: BLE001 - the last line of defence: told, and answered as ours
            self._emit(Failed("relay", defect(error)))
            await self._refuse(ProxyError("An unexpected error; the log says more."), scope, send, fields, target)

    async def _do(self, scope: Scope, receive: Receive, send: Send, fields: Fields, target: bytes) -> None:
        front, target = below(scope, target) if scope.get("root_path") else (b"", target)
        match self._rules.decide(scope["method"], target, fields, arrival(scope)):
            case Refusal(error):
                raise error
            case Control() if self._control is not None:
                await self._control(scope, receive, send)
            case Control():
                raise NoUpstream("Pages of the proxy's own are not served here.")
            case Empty(status, said):
                framing = [] if status == 204 else [(b"content-length", b"0")]  # RFC 9110 8.6
                await send({"type": "http.response.start", "status": status, "headers": [*said, *framing]})
                await send({"type": "http.response.body", "body": b""})
            case Within(mount, path, query, extra):
                face = self._faces[mount]
                with self._relay.admission.place(face.upstream):
                    await face(request_of(scope, target, fields), path, query, send, extra=extra)
            case Onward(match, extra):
                request = request_of(scope, target, fields)
                match = replace(match, mount=front + match.mount) if front else match
                end = _End(receive, send, has_body=request.has_body)
                await end.run(self._relay.exchange(request, match, end, extra=extra))

    async def _refuse(self, error: ProxyError, scope: Scope, send: Send, fields: Fields, target: bytes) -> None:
        problem, extra = self._refusals.answer(error, scope["method"], target, fields)
        await send({"type": "http.response.start", "status": problem.status, "headers": [*problem.fields, *extra]})
        await send({"type": "http.response.body", "body": problem.body})


class _End:
    """The caller's end of one exchange (exchange.Caller) over ASGI's `receive` and `send`."""

    def __init__(self, receive: Receive, send: Send, *, has_body: bool) -> None:
        self._receive = receive
        self._send = send
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """How it ended: with a ProxyError to be answered, BrokenOff, or nothing more to do."""
        self._may_receive = asyncio.Event()
        if not has_body:
            self._may_receive.set()
        self._said: deque[Message] = deque()
        self._held = 0
        self._news = asyncio.Event()
        self._has_begun = False
        self._is_ended = False
        """Whether the last piece is on its way: what `receive` says from then on is no hang-up."""

    async def run(self, exchange: Exchange) -> None:
        """Let the exchange take place. Raises a ProxyError before anything was sent, BrokenOff after."""
        self._exchange = exchange
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(self._listen(), name="caller watch"),
            loop.create_task(self._speak(), name="answer"),
        ]
        for task in tasks:
            task.add_done_callback(self._ended)
        exchange.start()
        try:
            await self._over
        finally:
            exchange.abort()
            for task in tasks:
                task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._be_over(error)

    def _be_over(self, error: BaseException | None = None) -> None:
        if self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)

    async def _listen(self) -> None:
        while True:
            await self._may_receive.wait()
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
            if body := message.get("body", b""):
                self._exchange.write(body)
            if not message.get("more_body", False):
                self._exchange.end()
                self._may_receive.set()
        if not self._is_ended:
            self._be_over()

    async def _speak(self) -> None:
        while not self._is_ended:
            await self._news.wait()
            self._news.clear()
            while self._said:
                message = self._said.popleft()
                self._is_ended = message["type"] == "http.response.body" and not message["more_body"]
                await self._send(message)
                self._let_go(len(message.get("body", b"")))
        self._exchange.taken()
        self._be_over()

    def _let_go(self, size: int) -> None:
        was_full = self._held >= HELD_BYTES
        self._held -= size
        if was_full and self._held < HELD_BYTES:
            self._exchange.resume()

    # what the exchange says -------------------------------------------------------------------------------------------

    def on_head(self, status: int, fields: Fields) -> None:
        self._has_begun = True
        self._say({"type": "http.response.start", "status": status, "headers": fields})

    def on_data(self, data: bytes) -> None:
        was_full = self._held >= HELD_BYTES
        self._held += len(data)
        self._say({"type": "http.response.body", "body": data, "more_body": True})
        if not was_full and self._held >= HELD_BYTES:
            self._exchange.pause()

    def on_end(self) -> None:
        if self._said and self._said[-1]["type"] == "http.response.body":
            self._said[-1]["more_body"] = False
        else:
            self._say({"type": "http.response.body", "body": b"", "more_body": False})

    def _say(self, message: Message) -> None:
        self._said.append(message)
        self._news.set()

    def on_refusal(self, error: ProxyError) -> None:
        self._be_over(error)

    def cut(self) -> None:
        self._be_over(BrokenOff("the answer broke off") if self._has_begun else None)

    def pause(self) -> None:
        self._may_receive.clear()

    def resume(self) -> None:
        self._may_receive.set()


def raw_target(scope: Scope) -> bytes:
    """Return the request target as received: the listener's raw bytes, or what another ASGI server kept of them."""
    ours = scope.get("extensions", {}).get("bearerproxy")
    if ours is not None:
        return bytes(ours["target"])
    query: bytes = scope.get("query_string", b"")
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    return path + b"?" + query if query else path


def below(scope: Scope, target: bytes) -> tuple[bytes, bytes]:
    """Return where this is mounted in another application, as callers write it, and the target below; both raw.

    ASGI tells of the mount as decoded text (root_path). A proxy in front of that application may have taken a part of
    it away already, which frameworks put back there though the path does not have it. Raises NoUpstream where the path
    is not below the mount at all.
    """
    root: str = scope["root_path"].rstrip("/")
    outer: str = scope.get("app_root_path", "").rstrip("/")
    segments = target.partition(b"?")[0].split(b"/")
    for taken, inner in (("", root), (outer, root.removeprefix(outer))):
        front = b"/".join(segments[: inner.count("/") + 1])
        if unquote_to_bytes(front) == inner.encode():
            rest = target[len(front) :]
            return quote(taken).encode() + front, rest if rest.startswith(b"/") else b"/" + rest
    raise NoUpstream("The application in which this proxy is mounted has sent a path that is not below the mount.")


def arrival(scope: Scope) -> Arrival:
    """Return where the connection came in and from, as ASGI tells it; a unix socket has neither."""
    local, caller = local_end(scope.get("server")), scope.get("client")
    return Arrival(local, caller[0] if caller and local is not None else None)


def request_of(scope: Scope, target: bytes, fields: Fields) -> Request:
    """Return the request that a scope tells of; the guard has let it in."""
    caller = scope.get("client")
    authority = first(fields, b"host") or b""
    origin = scope.get("scheme", "http").encode() + b"://" + authority
    return Request(scope["method"], target, fields, origin, peer=caller[0] if caller else "-")
