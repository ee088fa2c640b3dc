"""Which path shows what, and the fields that every answer of the control plane carries."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.control.accounts import identity_account, readiness, upstream_account
from proxy.control.explanations import KINDS
from proxy.control.pages import STYLE, Pages
from proxy.control.view import ControlView, IdentityStatus
from proxy.errors import NotAllowed, NoUpstream, ProxyError
from proxy.identities import Identity
from proxy.problems import answer

_METHODS = "GET, HEAD"
_CSP = (
    b"default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; "
    b"base-uri 'none'"
)
_FIELDS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", _CSP),
)


def control_app(view: ControlView) -> ASGIApp:
    """Return the ASGI application for `/` and `/-/…`, which trusts that the guard let the caller in."""
    control = _Control(view)
    endpoints: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/": control.status,
        "/-": control.status,
        "/-/": control.status,
        "/-/style.css": control.style,
        "/-/live": control.live,
        "/-/ready": control.ready,
        "/-/identities.json": control.identities,
        "/-/upstreams.json": control.upstreams,
        "/-/errors": control.errors,
        "/-/errors/": control.errors,
        "/-/errors/{kind}": control.error,
        "/-/login/{name}": control.login,
    }
    app = Starlette(
        debug=False,  # the debug page shows local variables
        routes=[Route(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.items()],
        exception_handlers={HTTPException: _not_routed, ProxyError: _problem, Exception: _problem},
    )
    app.router.redirect_slashes = False  # a redirect would be built from Host
    return _OwnFields(app)


class _Control:
    """What each path shows."""

    def __init__(self, view: ControlView) -> None:
        self._view = view
        self._pages = Pages(view)

    async def status(self, _: Request) -> Response:
        return HTMLResponse(self._pages.status())

    async def style(self, _: Request) -> Response:
        return Response(STYLE, media_type="text/css")

    async def live(self, _: Request) -> Response:
        return _Indented({"status": "live"})

    async def ready(self, request: Request) -> Response:
        name = request.query_params.get("identity")
        everyone = self._view.identities() if name is None else [self._named(name)]
        is_ready, account = readiness((status for _, status in everyone), self._view.clock.wall())
        return _Indented(account, 200 if is_ready else 503)

    async def identities(self, _: Request) -> Response:
        return _Indented([identity_account(identity, status) for identity, status in self._view.identities()])

    async def upstreams(self, _: Request) -> Response:
        base_url = self._view.base_url()
        return _Indented([upstream_account(upstream, base_url) for upstream in self._view.upstreams()])

    async def errors(self, _: Request) -> Response:
        return HTMLResponse(self._pages.errors())

    async def error(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in KINDS:
            raise NoUpstream("There is no failure of this name; all of them are listed at /-/errors/.")
        return HTMLResponse(self._pages.error(kind))

    async def login(self, request: Request) -> Response:
        return HTMLResponse(self._pages.login(*self._named(request.path_params["name"])))

    def _named(self, name: str) -> tuple[Identity, IdentityStatus]:
        everyone = self._view.identities()
        for identity, status in everyone:
            if identity.name == name:
                return identity, status
        known = ", ".join(identity.name for identity, _ in everyone) or "none"
        raise NoUpstream(f"No identity has this name; configured: {known}.")


class _Indented(JSONResponse):
    """JSON that people can read with curl."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"


async def _problem(request: Request, exc: Exception) -> Response:
    """Answer with the problem; of a defect nothing is told here, Starlette raises it again for the log."""
    error = exc if isinstance(exc, ProxyError) else ProxyError("bearerproxy failed here; its log has the reason.")
    accept = b",".join(value for name, value in request.scope["headers"] if name == b"accept") or None
    given = answer(error, accept=accept, head=request.method == "HEAD")
    response = Response(given.body, given.status)
    response.raw_headers = list(given.fields)
    return response


async def _not_routed(request: Request, exc: Exception) -> Response:
    """Put Starlette's own refusals into our words; the path is not repeated to whoever sent it."""
    if isinstance(exc, HTTPException) and exc.status_code == 405:
        error: ProxyError = NotAllowed(f"This page can only be read; allowed: {_METHODS}.", allow=_METHODS)
    else:
        error = NoUpstream("There is no page of bearerproxy at this path; the status page is at /-/.")
    return await _problem(request, error)


class _OwnFields:
    """Adds the fields that every answer of ours carries, and leaves the body of an answer to HEAD out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                added = [one for one in _FIELDS if one[0] not in present]
                message = {**message, "headers": [*message["headers"], *added]}
            elif message["type"] == "http.response.body" and is_head:
                message = {**message, "body": b""}
            await send(message)

        await self._app(scope, receive, sending)
