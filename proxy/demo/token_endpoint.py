"""The token endpoint (RFC 6749 3.2): five grants, one function each."""

import base64
import hashlib
import secrets
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from proxy.demo.ledger import NO_STORE, Form, Ledger, TokenResponse, parameters, required
from proxy.demo.realm import (
    AUTHORIZATION_CODE,
    CLIENT_CREDENTIALS,
    DEVICE_CODE,
    PASSWORD,
    REFRESH_TOKEN,
    Client,
    scope_text,
)
from proxy.demo.sessions import Refusal

Obtain = Callable[[Ledger, Client, Form], TokenResponse]


async def token(ledger: Ledger, request: Request) -> Response:
    """Answer a token request; each is counted and noted, a refused one as `..._ERROR`. Raises Refusal."""
    form = await parameters(request)
    grant = form.get("grant_type", "")
    ledger.calls["token", grant] += 1
    kind, obtain = _GRANTS.get(grant, ("TOKEN", _unsupported))
    try:
        client = ledger.authenticate(request, form)
        answer = obtain(ledger, client, form)
    except Refusal as refusal:
        ledger.note(f"{kind}_ERROR", form.get("client_id", ""), error=refusal.error)
        raise
    session = ledger.sessions.find(answer.get("session_state", ""))
    ledger.note(kind, client.client_id, session.username if session else f"service-account-{client.client_id}")
    return JSONResponse(answer, headers=NO_STORE)


def _by_device_code(ledger: Ledger, client: Client, form: Form) -> TokenResponse:
    _check_grant(client, DEVICE_CODE)
    code = ledger.device_codes.poll(required(form, "device_code"), client.client_id)
    _check_challenge(code.challenge, form.get("code_verifier"))
    return ledger.answer(client, ledger.sessions.open(code.username, client.client_id, code.scopes))


def _by_authorization_code(ledger: Ledger, client: Client, form: Form) -> TokenResponse:
    _check_grant(client, AUTHORIZATION_CODE)
    request = ledger.codes.exchange(required(form, "code"), client.client_id, form.get("redirect_uri", ""))
    session = ledger.sessions.find(request.sid)
    if session is None:
        raise Refusal("invalid_grant", "Session not active")
    try:
        _check_challenge(request.challenge, form.get("code_verifier"))
    except Refusal:
        ledger.sessions.end(request.sid)
        raise
    return ledger.answer(client, session, nonce=request.nonce)


def _by_client_credentials(ledger: Ledger, client: Client, form: Form) -> TokenResponse:
    _check_grant(client, CLIENT_CREDENTIALS)
    scopes = client.scopes_for(form.get("scope", ""))
    access, life = ledger.access_token(client, None, scopes, None)
    return {
        "access_token": access,
        "expires_in": life,
        "refresh_expires_in": 0,  # RFC 6749 4.4.3: no refresh token; Keycloak says so with a zero
        "token_type": "Bearer",
        "not-before-policy": 0,
        "scope": scope_text(scopes),
    }


def _by_password(ledger: Ledger, client: Client, form: Form) -> TokenResponse:
    _check_grant(client, PASSWORD)
    person = ledger.person(form)
    if person is None:
        raise Refusal("invalid_grant", "Invalid user credentials")
    scopes = client.scopes_for(form.get("scope", ""))
    return ledger.answer(client, ledger.sessions.open(person.username, client.client_id, scopes))


def _by_refresh_token(ledger: Ledger, client: Client, form: Form) -> TokenResponse:
    _check_grant(client, REFRESH_TOKEN)
    claims = ledger.mint.read_refresh(required(form, "refresh_token"), ledger.clock.wall())
    if claims["azp"] != client.client_id:
        raise Refusal("invalid_grant", "Invalid refresh token. Token client and authorized client don't match")
    return ledger.answer(client, ledger.sessions.use(claims["sid"], claims["jti"], rotation=ledger.rotation))


def _unsupported(_: Ledger, __: Client, ___: Form) -> TokenResponse:
    raise Refusal("unsupported_grant_type", "Unsupported grant_type")


_GRANTS: dict[str, tuple[str, Obtain]] = {
    DEVICE_CODE: ("OAUTH2_DEVICE_CODE_TO_TOKEN", _by_device_code),
    AUTHORIZATION_CODE: ("CODE_TO_TOKEN", _by_authorization_code),
    CLIENT_CREDENTIALS: ("CLIENT_LOGIN", _by_client_credentials),
    PASSWORD: ("LOGIN", _by_password),
    REFRESH_TOKEN: ("REFRESH_TOKEN", _by_refresh_token),
}
"""Wire name of the grant -> Keycloak's name for the event, and how it is answered."""


def _check_grant(client: Client, grant: str) -> None:
    if grant not in client.grants:
        raise Refusal("unauthorized_client", f"Client not allowed for the grant {grant}")


def _check_challenge(challenge: str | None, verifier: str | None) -> None:
    """Compare a verifier with its S256 challenge (RFC 7636 4.6). Raises Refusal."""
    if challenge is None:
        return
    if not verifier:
        raise Refusal("invalid_grant", "PKCE code verifier not specified")
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
    if not secrets.compare_digest(digest, challenge.encode()):
        raise Refusal("invalid_grant", "PKCE verification failed: Code mismatch")
