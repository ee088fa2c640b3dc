"""Where a person decides: the authorization endpoint (RFC 6749 4.1) and the device page (RFC 8628 3.3)."""

from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from proxy.demo.ledger import NO_STORE, Form, Ledger, parameters
from proxy.demo.pages import page
from proxy.demo.realm import AUTHORIZATION_CODE, Client
from proxy.demo.sessions import AuthorizationRequest, Decision

_EXPIRED = "You took too long, or this form was sent twice. Start the sign-in again."


async def device(ledger: Ledger, request: Request) -> Response:
    """Show the sign-in page of a device code, and take the person's decision."""
    form = await parameters(request) if request.method == "POST" else dict(request.query_params)
    typed = form.get("user_code", "")
    if not typed:
        return page("code.html")
    code = ledger.device_codes.by_user_code(typed)
    if code is None:
        return page("code.html", 400, problem="This code is not known, used or too old.")
    decision = form.get("decision", "")
    if decision == "deny":
        code.decision = Decision.DENIED
        return page("message.html", title="Access denied", text="Nothing was handed out. You may close this page.")
    person = ledger.person(form)
    if decision == "allow" and person is not None:
        code.decision, code.username = Decision.ALLOWED, person.username
        ledger.note("LOGIN", code.client_id, person.username)
        text = "You may close this page and go back to your device."
        return page("message.html", title="Device Login Successful", text=text, is_good=True)
    values = {"action": request.url.path, "user_code": code.user_code, "is_offline": "offline_access" in code.scopes}
    return _sign_in(ledger, code.client_id, form if decision else None, values)


async def authorization(ledger: Ledger, request: Request) -> Response:
    """Answer an authorization request: the sign-in page, or an error by RFC 6749 4.1.2.1."""
    ledger.calls["authorization", ""] += 1
    asked = dict(request.query_params)
    client = ledger.clients.get(asked.get("client_id", ""))
    redirect_uri = asked.get("redirect_uri", "")
    # > If the request fails due to a missing, invalid, or mismatching redirection URI, or if the client identifier
    # > is missing or invalid, the authorization server SHOULD inform the resource owner of the error and MUST NOT
    # > automatically redirect (RFC 6749 4.1.2.1)
    if client is None:
        return page("message.html", 400, title="We are sorry...", text="Client not found.")
    if not client.accepts_redirect(redirect_uri):
        return page("message.html", 400, title="We are sorry...", text="Invalid parameter: redirect_uri")
    error = _error(client, asked)
    if error is not None:
        return _redirect(ledger, redirect_uri, asked.get("state"), error)
    waiting = AuthorizationRequest(
        client.client_id,
        redirect_uri,
        client.scopes_for(asked.get("scope", "")),
        asked.get("state"),
        asked.get("code_challenge"),
        asked.get("nonce"),
        expires=0,
    )
    return _code_sign_in(ledger, ledger.codes.wait(waiting), waiting, None)


async def authenticate(ledger: Ledger, request: Request) -> Response:
    """Take the person's decision on an authorization request."""
    form = await parameters(request)
    key = form.get("session_code", "")
    waiting = ledger.codes.waiting(key)
    if waiting is None:
        return page("message.html", 400, title="Page has expired", text=_EXPIRED)
    if form.get("decision") == "deny":
        ledger.codes.decide(key, None)
        return _redirect(ledger, waiting.redirect_uri, waiting.state, {"error": "access_denied"})
    person = ledger.person(form)
    if person is None:
        return _code_sign_in(ledger, key, waiting, form)
    code = ledger.codes.decide(key, person.username) or ""
    ledger.note("LOGIN", waiting.client_id, person.username)
    return _redirect(ledger, waiting.redirect_uri, waiting.state, {"session_state": waiting.sid, "code": code})


def _error(client: Client, asked: Form) -> Form | None:
    """Return the error of an authorization request whose client and redirect URI are good, or None."""
    if AUTHORIZATION_CODE not in client.grants:
        return {"error": "unauthorized_client"}
    if asked.get("response_type") != "code":
        return {"error": "unsupported_response_type"}
    for name in ("code_challenge", "code_challenge_method"):
        if not asked.get(name) and (client.needs_pkce or "code_challenge" in asked):
            return {"error": "invalid_request", "error_description": f"Missing parameter: {name}"}
    if asked.get("code_challenge_method", "S256") != "S256":
        return {"error": "invalid_request", "error_description": "Invalid parameter: code_challenge_method"}
    if "none" in asked.get("prompt", "").split():
        return {"error": "login_required"}  # this page keeps nobody signed in
    return None


def _redirect(ledger: Ledger, redirect_uri: str, state: str | None, answer: Form) -> Response:
    # RFC 9207 2: `iss` in every authorization response, error responses included
    whole = {**({} if state is None else {"state": state}), "iss": ledger.url, **answer}
    mark = "&" if "?" in redirect_uri else "?"
    return Response(status_code=302, headers={"Location": redirect_uri + mark + urlencode(whole), **NO_STORE})


def _code_sign_in(ledger: Ledger, key: str, waiting: AuthorizationRequest, form: Form | None) -> Response:
    asked = urlsplit(waiting.redirect_uri)
    values = {
        "action": f"{urlsplit(ledger.url).path}/login-actions/authenticate",
        "session_code": key,
        "returns_to": f"{asked.scheme}://{asked.netloc}",
        "is_offline": "offline_access" in waiting.scopes,
    }
    return _sign_in(ledger, waiting.client_id, form, values)


def _sign_in(ledger: Ledger, client_id: str, form: Form | None, values: dict[str, object]) -> Response:
    """Return the sign-in page; `form` is what was typed wrongly before."""
    people = list(ledger.people.values())
    return page(
        "sign_in.html",
        200,
        str(values.get("returns_to", "")),
        client=ledger.clients[client_id],
        people=people,
        problem="Invalid username or password." if form is not None else "",
        username=people[0].username if form is None else form.get("username", ""),
        **values,
    )
