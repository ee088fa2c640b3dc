"""Which path shows what, which does what, and the fields that every answer of the control plane carries."""

import json
from collections.abc import Awaitable, Callable
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.control.accounts import identity_account, readiness, upstream_account
from proxy.control.explanations import KINDS
from proxy.control.forms import form_of
from proxy.control.gauges import gauges
from proxy.control.nonces import Nonces
from proxy.control.requests import Filter, as_csv
from proxy.control.streams import Streams
from proxy.control.view import ControlView, IdentityStatus
from proxy.errors import NotAllowed, NoUpstream, ProxyError
from proxy.grants.way_back import UNKNOWN, BadCallback, refuse_all_but_navigations
from proxy.identities import Identity
from proxy.metrics import OPENMETRICS, PLAIN, exposition
from proxy.problems import answer

if TYPE_CHECKING:
    from proxy.control.pages import Pages

_METHODS = "GET, HEAD"
_CSP = (
    b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_FIELDS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    # Not no-referrer: a browser would then send our own forms with `Origin: null` (Fetch standard 3.2).
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", _CSP),
)
_PATH_MARKS = "/?!$&'()*+,;=:@%~"
"""What a path to try keeps as it was typed (RFC 3986 3.3, 3.4)."""
_NEWS = "event: news\ndata:\n\n"

_Endpoint = Callable[[Request], Awaitable[Response]]


def control_app(view: ControlView) -> ASGIApp:
    """Return the ASGI application for `/` and `/-/…`, which trusts that the guard let the caller in."""
    control = _Control(view)
    shown: dict[str, _Endpoint] = {
        "/": control.status,
        "/-": control.status,
        "/-/": control.status,
        "/-/style.css": control.style,
        "/-/page.js": control.script,
        "/-/live": control.live,
        "/-/ready": control.ready,
        "/-/identities.json": control.identities,
        "/-/upstreams.json": control.upstreams,
        "/-/metrics": control.metrics,
        "/-/events": control.events,
        "/-/requests": control.requests,
        "/-/requests.csv": control.requests_csv,
        "/-/requests/events": control.requests_events,
        "/-/use/{name}": control.use,
        "/-/errors": control.errors,
        "/-/errors/": control.errors,
        "/-/errors/{kind}": control.error,
        "/-/login/{name}": control.login,
        "/-/callback": control.callback,
    }
    done: dict[str, _Endpoint] = {
        "/-/login/{name}": control.begin,
        "/-/login/{name}/cancel": control.cancel,
        "/-/logout/{name}": control.sign_out,
    }
    app = Starlette(
        debug=False,  # the debug page shows local variables
        routes=[
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in done.items()),
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in shown.items()),
        ],
        exception_handlers={HTTPException: _not_routed, ProxyError: _problem, Exception: _problem},
    )
    app.router.redirect_slashes = False  # a redirect would be built from Host
    return _OwnFields(app)


class _Control:
    """What each path shows or does."""

    def __init__(self, view: ControlView) -> None:
        self._view = view
        self._nonces = Nonces(view.clock)
        self._streams = Streams(view.clock)
        self._notices: dict[str, str] = {}
        """What became of the last sign-out, by identity, until somebody signs in again."""

    @cached_property
    def _pages(self) -> "Pages":
        from proxy.control.pages import Pages  # the templates, which probes and scrapers have no use for

        return Pages(self._view)

    async def status(self, request: Request) -> Response:
        address = request.query_params.get("address", "")
        return HTMLResponse(self._pages.status(nonce=self._nonces.give(), address=address, notices=self._notices))

    async def style(self, _: Request) -> Response:
        return Response(self._pages.style, media_type="text/css")

    async def script(self, _: Request) -> Response:
        return Response(self._pages.script, media_type="text/javascript")

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
        base_url, counts = self._view.base_url(), self._view.metrics.upstreams
        return _Indented([upstream_account(one, base_url, counts.get(one.name)) for one in self._view.upstreams()])

    async def metrics(self, request: Request) -> Response:
        """Prometheus asks for OpenMetrics by name; whatever does not gets the text of before."""
        is_openmetrics = "application/openmetrics-text" in request.headers.get("accept", "")
        statuses = [status for _, status in self._view.identities()]
        families = [*self._view.metrics.families(), *gauges(statuses, self._view.clock.wall(), self._view.version)]
        text = exposition(families, is_openmetrics=is_openmetrics)
        return Response(text, headers={"content-type": OPENMETRICS if is_openmetrics else PLAIN})

    async def events(self, request: Request) -> Response:
        """Say that something has changed; a sign-in page tells by `identity` that it is open."""
        name = request.query_params.get("identity")
        watched = None if name is None else self._view.watched(self._named(name)[0].name)
        return self._streams.answer(request, self._view.news, lambda: _NEWS, watched=watched)

    async def requests(self, request: Request) -> Response:
        return HTMLResponse(self._pages.requests(Filter.of(request.query_params)))

    async def requests_csv(self, request: Request) -> Response:
        wanted = Filter.of(request.query_params)
        text = as_csv(self._view.journal.entries(wanted=wanted.lets_through))
        named = {"content-disposition": 'attachment; filename="requests.csv"'}
        return Response(text, media_type="text/csv", headers=named)

    async def requests_events(self, request: Request) -> Response:
        """Send the rows that are new since the page was made, or since the stream broke."""
        wanted, journal = Filter.of(request.query_params), self._view.journal
        given = request.headers.get("last-event-id") or request.query_params.get("after", "")
        seen = int(given) if given.isdecimal() and len(given) < 20 else journal.news.count

        def said() -> str:
            nonlocal seen
            after, seen = seen, journal.news.count
            entries = journal.entries(after=after, wanted=wanted.lets_through)
            if not entries:
                return ""
            lines = "".join(f"data: {line}\n" for line in self._pages.request_rows(entries).splitlines())
            return f"event: rows\nid: {seen}\n{lines}\n"

        return self._streams.answer(request, journal.news, said)

    async def use(self, request: Request) -> Response:
        """Show how to use an upstream; a path to try leads to it, for browsers without scripts."""
        for upstream in self._view.upstreams():
            if upstream.name == request.path_params["name"]:
                if (path := request.query_params.get("path")) is not None:
                    return _see_other(f"{upstream.mount}/{quote(path.lstrip('/'), safe=_PATH_MARKS)}")
                return HTMLResponse(self._pages.use(upstream))
        raise NoUpstream("No upstream has this name; all of them are on the status page, /-/.")

    async def errors(self, _: Request) -> Response:
        return HTMLResponse(self._pages.errors())

    async def error(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in KINDS:
            raise NoUpstream("There is no failure of this name; all of them are listed at /-/errors/.")
        return HTMLResponse(self._pages.error(kind))

    async def login(self, request: Request) -> Response:
        identity, status = self._named(request.path_params["name"])
        attempt, notice = self._view.attempts.of(identity.name), self._notices.get(identity.name, "")
        page = self._pages.login(identity, status, attempt, nonce=self._nonces.give(), notice=notice)
        return HTMLResponse(page)

    async def callback(self, request: Request) -> Response:
        """Take a browser back that has been at the issuer."""
        try:
            refuse_all_but_navigations(request.headers.items())
            said, status = await self._view.land(request.scope["query_string"].decode("latin-1")), HTTPStatus.OK
        except BadCallback as bad:
            said, status = UNKNOWN, bad.status
        no_referrer = {"referrer-policy": "no-referrer"}  # the address bar holds the code
        return HTMLResponse(self._pages.landed(said), status, headers=no_referrer)

    async def begin(self, request: Request) -> Response:
        """Start a sign-in: a person pressed the button."""
        said = await form_of(request, self._nonces)
        identity = self._person(request)
        self._notices.pop(identity.name, None)
        self._view.attempts.begin(identity.name, is_offline="offline" in said)
        return _see_other(f"/-/login/{quote(identity.name, safe='')}")

    async def cancel(self, request: Request) -> Response:
        _ = await form_of(request, self._nonces)
        identity = self._person(request)
        self._view.attempts.cancel(identity.name)
        return _see_other(f"/-/login/{quote(identity.name, safe='')}")

    async def sign_out(self, request: Request) -> Response:
        _ = await form_of(request, self._nonces)
        identity = self._person(request)
        self._view.attempts.cancel(identity.name)
        self._notices[identity.name] = await self._view.sign_out(identity.name)
        self._view.attempts.forget(identity.name)
        return _see_other(f"/-/login/{quote(identity.name, safe='')}")

    def _named(self, name: str) -> tuple[Identity, IdentityStatus]:
        everyone = self._view.identities()
        for identity, status in everyone:
            if identity.name == name:
                return identity, status
        known = ", ".join(identity.name for identity, _ in everyone) or "none"
        raise NoUpstream(f"No identity has this name; configured: {known}.")

    def _person(self, request: Request) -> Identity:
        """Return the identity that is asked for, one that a person signs in as."""
        identity, _ = self._named(request.path_params["name"])
        if not identity.grant.needs_person:
            raise NotAllowed(f"Nobody signs in as {identity.name}: its grant is {identity.grant.value}.")
        return identity


def _see_other(path: str) -> Response:
    """Have the browser read the page anew, so that loading it again does nothing again (RFC 9110 15.4.4)."""
    return RedirectResponse(path, status_code=303)


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
    path = request.scope["path"]
    if isinstance(exc, HTTPException) and exc.status_code == 405:
        is_button = path.startswith("/-/logout/") or path.endswith("/cancel")
        allow = "POST" if is_button else f"{_METHODS}, POST" if path.startswith("/-/login/") else _METHODS
        error: ProxyError = NotAllowed(f"This page cannot do that; allowed: {allow}.", allow=allow)
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
