"""The ASGI face: guard, route, relay or refuse. The way of one request starts here (DESIGN.md 3)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from proxy.asgi import ASGIApp, Receive, Scope, Send
from proxy.errors import BrokenOff, CallerGone, KeyRequired, LoopDetected, NotAllowed, NoUpstream, ProxyError, defect
from proxy.events import Emit, Failed, Refused
from proxy.exchange import Relay, Request
from proxy.guard import Arrival, Callback, Guard, local_end
from proxy.headers import Fields, first, masked_target, values
from proxy.limits import Admission, SmallBodies, in_time
from proxy.problems import answer
from proxy.upstreams import RELAYED_METHODS, Match, Mounts, Upstream, split_target

# Office programs ask before they read, signed in or not; a 503 here would stop them (facts on clients, C9).
ANSWERED_HERE = frozenset({"OPTIONS", "PROPFIND", "LOCK"})
CALLBACK = b"/-/callback"
"""The page to which the issuer sends a browser back."""
_ALL_METHODS = ", ".join(RELAYED_METHODS).encode()


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
        *,
        guard: Guard,
        mounts: Mounts,
        relay: Relay,
        control: ASGIApp,
        admission: Admission,
        pseudonym: bytes,
        emit: Emit,
        faces: Sequence[Face] = (),
        is_callback_awaited: Callable[[], bool] = lambda: False,
    ) -> None:
        self.own_ports: Mapping[int, Upstream] = {}
        """Upstream by the port that it has to itself; set when the listeners are bound."""
        self._guard = guard
        self._mounts = mounts
        self._relay = relay
        self._control = SmallBodies(control)
        self._admission = admission
        self._pseudonym = pseudonym
        self._emit = emit
        self._faces = faces
        self._is_callback_awaited = is_callback_awaited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; raise BrokenOff if an answer that has begun cannot be finished."""
        target = raw_target(scope)
        fields: Fields = list(scope["headers"])
        try:
            self._guard.check(fields, arrival(scope), callback=self._callback(scope, target))
            await self._route(scope, receive, send, fields, target)
        except ProxyError as error:
            await self._refuse(error, scope, send, fields, target)
        except (BrokenOff, CallerGone):
            raise  # whoever serves cuts the connection
        except Exception as error:  # noqa: BLE001 - the last line of defence: told, and answered as ours
            self._emit(Failed("relay", defect(error)))
            await self._refuse(ProxyError("An unexpected error; the log says more."), scope, send, fields, target)

    async def _route(self, scope: Scope, receive: Receive, send: Send, fields: Fields, target: bytes) -> None:
        if any(self._pseudonym in line for line in values(fields, b"via")):  # H65: our own pages are no way out of it
            raise LoopDetected("An upstream of this proxy leads back to it; correct its url.")
        method: str = scope["method"]
        extra = self._guard.cross_origin_fields(fields)
        if target == b"*" and method == "OPTIONS":
            await self._answer_empty(send, 200, [(b"allow", _ALL_METHODS), *extra])
            return
        path, query = split_target(target)
        match = self._match(scope, path, query)
        if method in ANSWERED_HERE:
            await self._answer_options(method, send, fields, match, extra)
            return
        authority = first(fields, b"host") or b""
        caller = scope.get("client")
        request = Request(method, target, fields, b"http://" + authority, peer=caller[0] if caller else "-")
        face = self._face(scope, path)
        if face is not None:
            with self._admission.place(face.upstream):
                await face(request, path[len(face.mount) :], query, send, extra=extra)
            return
        if match is None:
            if is_page(path):
                await self._control(scope, receive, send)
                return
            raise NoUpstream(self._what_is_mounted(path))
        with self._admission.place(match.upstream):
            await in_time(
                match.upstream, send, lambda sending: self._relay(request, match, receive, sending, extra=extra)
            )

    def _callback(self, scope: Scope, target: bytes) -> Callback:
        """Return what the request is to the sign-ins that wait; upstreams' own ports know no page of ours."""
        server = scope.get("server")
        is_own = server is not None and server[1] in self.own_ports
        if scope["method"] != "GET" or target.partition(b"?")[0] != CALLBACK or is_own:
            return Callback.NONE
        return Callback.AWAITED if self._is_callback_awaited() else Callback.UNCALLED

    def _match(self, scope: Scope, path: bytes, query: bytes) -> Match | None:
        server = scope.get("server")
        own = self.own_ports.get(server[1]) if server is not None else None
        return self._mounts.match(path, query) if own is None else Match(own, b"", path, query)

    def _face(self, scope: Scope, path: bytes) -> Face | None:
        server = scope.get("server")
        if server is not None and server[1] in self.own_ports:
            return None
        return next((one for one in self._faces if path == one.mount or path.startswith(one.mount + b"/")), None)

    def _what_is_mounted(self, path: bytes) -> str:
        names = ", ".join(self._mounts.names) or "none"
        return f"No mount holds {masked_target(path[:200])}. Mounts: {names}."

    async def _answer_options(
        self, method: str, send: Send, fields: Fields, match: Match | None, extra: Fields
    ) -> None:
        """Answer OPTIONS and its kin without a token; a preflight only for an allow-listed origin (S4)."""
        allow = ", ".join(match.upstream.allowed_methods).encode() if match is not None else _ALL_METHODS
        if method == "OPTIONS" and extra and first(fields, b"access-control-request-method") is not None:
            permission = [
                (b"access-control-allow-methods", allow),
                (b"access-control-allow-headers", first(fields, b"access-control-request-headers") or b"*"),
                (b"access-control-max-age", b"600"),
            ]
            await self._answer_empty(send, 204, [*extra, *permission])
            return
        raise NotAllowed(f"{method} is not relayed; read with GET.", allow=allow.decode())

    async def _answer_empty(self, send: Send, status: int, fields: Fields) -> None:
        framing = [] if status == 204 else [(b"content-length", b"0")]  # RFC 9110 8.6
        await send({"type": "http.response.start", "status": status, "headers": [*fields, *framing]})
        await send({"type": "http.response.body", "body": b""})

    async def _refuse(self, error: ProxyError, scope: Scope, send: Send, fields: Fields, target: bytes) -> None:
        accept = b",".join(values(fields, b"accept")) or None
        if isinstance(error, KeyRequired) and is_page(target) and accept is not None and b"text/html" in accept:
            error.status = 401  # the one 401 of ours: a browser that asks for a page can ask its person (DESIGN.md 3)
        base_url = "http://" + (first(fields, b"host") or b"localhost").decode("latin-1")
        problem = answer(error, accept=accept, base_url=base_url, head=scope["method"] == "HEAD")
        extra = self._guard.cross_origin_fields(fields)
        self._emit(Refused(error.kind, problem.status, scope["method"], masked_target(target), error.detail))
        await send({"type": "http.response.start", "status": problem.status, "headers": [*problem.fields, *extra]})
        await send({"type": "http.response.body", "body": problem.body})


def raw_target(scope: Scope) -> bytes:
    """Return the request target as received: the listener's raw bytes, or what another ASGI server kept of them."""
    ours = scope.get("extensions", {}).get("bearerproxy")
    if ours is not None:
        return bytes(ours["target"])
    query: bytes = scope.get("query_string", b"")
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    return path + b"?" + query if query else path


def arrival(scope: Scope) -> Arrival:
    """Return where the connection came in and from, as ASGI tells it; a unix socket has neither."""
    local, caller = local_end(scope.get("server")), scope.get("client")
    return Arrival(local, caller[0] if caller and local is not None else None)


def is_page(target: bytes) -> bool:
    """Return whether a target is one of our own pages."""
    path = target.partition(b"?")[0]
    return path in (b"/", b"/-") or path.startswith(b"/-/")
