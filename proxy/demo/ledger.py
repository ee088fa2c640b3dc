"""Everything that the issuer knows, and what its endpoints share: clients, people, sign-ins, keys and the journal."""

import base64
import binascii
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from starlette.requests import Request

from proxy.clock import Clock
from proxy.demo.mint import Mint, access_claims, refresh_claims
from proxy.demo.realm import Client, Lifetimes, Person, scope_text
from proxy.demo.sessions import AuthorizationCodes, DeviceCodes, Refusal, Session, Sessions

TokenResponse = dict[str, Any]  # Any: the JSON of RFC 6749 5.1
Form = dict[str, str]

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}  # RFC 6749 5.1


@dataclass(frozen=True, slots=True)
class IssuerEvent:
    """One line of the issuer's journal; `kind` is the name that Keycloak gives such an event."""

    kind: str
    client_id: str
    username: str = ""
    error: str = ""


class Ledger:
    """The issuer's memory; forgotten when it stops."""

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        lifetimes: Lifetimes,
        rotation: bool,
        clients: Iterable[Client],
        people: Iterable[Person],
    ) -> None:
        self.url = url
        self.clock = clock
        self.lifetimes = lifetimes
        self.rotation = rotation
        self.clients = {one.client_id: one for one in clients}
        self.people = {one.username: one for one in people}
        self.mint = Mint(url)
        self.sessions = Sessions(clock, lifetimes)
        self.device_codes = DeviceCodes(clock, lifetimes)
        self.codes = AuthorizationCodes(clock, lifetimes, self.sessions)
        self.revoked: set[str] = set()
        """`jti` of revoked access tokens."""
        self.calls: Counter[tuple[str, str]] = Counter()
        self.events: list[IssuerEvent] = []

    def note(self, kind: str, client_id: str, username: str = "", error: str = "") -> None:
        self.events.append(IssuerEvent(kind, client_id, username, error))

    def person(self, form: Form) -> Person | None:
        """Return who typed the right user name and password into a form."""
        person = self.people.get(form.get("username", "").strip().lower())
        typed = form.get("password", "")
        return person if person is not None and secrets.compare_digest(_utf8(person.password), _utf8(typed)) else None

    def authenticate(self, request: Request, form: Form) -> Client:
        """Return the client that sent the request (RFC 6749 2.3.1, Basic or in the body). Raises Refusal."""
        client_id, secret = _basic(request) or (form.get("client_id", ""), form.get("client_secret", ""))
        client = self.clients.get(client_id)
        if client is None:
            raise Refusal("invalid_client", "Invalid client or Invalid client credentials", 401)
        # Keycloak says unauthorized_client with 401 where RFC 6749 5.2 has invalid_client
        if client.secret is not None and not secrets.compare_digest(_utf8(client.secret), _utf8(secret)):
            raise Refusal("unauthorized_client", "Invalid client or Invalid client credentials", 401)
        return client

    def answer(self, client: Client, session: Session, *, nonce: str | None = None) -> TokenResponse:
        """Return a token response for a session, with a new refresh token, which is its latest from now on."""
        now = int(self.clock.wall())
        person = self.people[session.username]
        access, life = self.access_token(client, person, session.scopes, session.sid)
        claims = {"iat": now, **refresh_claims(session)}
        refresh_life = 0  # Keycloak's word for "as long as it is used", though the idle limit is enforced
        if not session.is_offline:
            claims["exp"] = int(self.sessions.ends_at(session))
            refresh_life = claims["exp"] - now
        refresh, session.latest = self.mint.sign_refresh(claims)
        answer: TokenResponse = {
            "access_token": access,
            "expires_in": life,
            "refresh_expires_in": refresh_life,
            "refresh_token": refresh,
            "token_type": "Bearer",
            "not-before-policy": 0,
            "session_state": session.sid,
            "scope": scope_text(session.scopes),
        }
        if "openid" in session.scopes:
            said = access_claims(client, person, session.scopes, session.sid)
            said |= {"typ": "ID", "aud": client.client_id, "iat": now, "exp": now + life}
            answer["id_token"] = self.mint.sign(said | ({"nonce": nonce} if nonce else {}))
        return answer

    def access_token(
        self, client: Client, person: Person | None, scopes: tuple[str, ...], sid: str | None
    ) -> tuple[str, int]:
        """Return an access token and its life in seconds; `person` None is the client's service account."""
        now = int(self.clock.wall())  # whole seconds, as Keycloak: a token may end up to a second before it says
        life = client.access_seconds or self.lifetimes.access_seconds
        return self.mint.sign({"iat": now, "exp": now + life, **access_claims(client, person, scopes, sid)}), life


async def parameters(request: Request) -> Form:
    """Return a form's parameters. Raises Refusal for one that repeats (RFC 6749 3.2)."""
    pairs = parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True)
    form = dict(pairs)
    if len(form) != len(pairs):
        raise Refusal("invalid_request", "duplicated parameter")
    return form


def required(form: Form, name: str) -> str:
    """Return a parameter that must be there. Raises Refusal."""
    if not form.get(name):
        raise Refusal("invalid_request", f"Missing parameter: {name}")
    return form[name]


def _basic(request: Request) -> tuple[str, str] | None:
    """Return id and secret of an HTTP Basic field, form-decoded as RFC 6749 2.3.1 says."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return unquote_plus(client_id), unquote_plus(secret)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # compare_digest takes no text beyond ASCII
