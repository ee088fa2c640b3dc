"""An OpenID Connect issuer that behaves like Keycloak, small enough to be embedded.

URLs, error texts, lifetimes and the traps are Keycloak's: unknown scopes are dropped in silence, a granted `roles` is
not named in `scope`, an offline token says `refresh_expires_in: 0`, times in tokens are whole seconds. It is a demo and
a test part: its people's passwords are printed on its own page, and everything is forgotten when it stops.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from proxy.clock import Clock, SystemClock
from proxy.demo import sign_in_pages, token_endpoint
from proxy.demo.ledger import NO_STORE, IssuerEvent, Ledger, TokenResponse, parameters, required
from proxy.demo.mint import Claims
from proxy.demo.pages import style_sheet
from proxy.demo.realm import (
    AUTHORIZATION_CODE,
    CLIENT_CREDENTIALS,
    CLIENTS,
    DEVICE_CODE,
    PASSWORD,
    PEOPLE,
    REFRESH_TOKEN,
    Client,
    Lifetimes,
    Person,
)
from proxy.demo.sessions import Decision, DeviceCode, Refusal

_USERINFO = ("sub", "preferred_username", "name", "email", "email_verified", "groups")


class DemoIssuer:
    """The issuer, an ASGI application."""

    def __init__(
        self,
        origin: str,
        *,
        realm: str = "demo",
        clock: Clock | None = None,
        lifetimes: Lifetimes | None = None,
        rotation: bool = False,
        clients: Iterable[Client] = CLIENTS,
        people: Iterable[Person] = PEOPLE,
    ) -> None:
        """`origin` is where the issuer is reached, `http://127.0.0.1:8080`, without a trailing slash.

        `rotation` makes refresh tokens single-use (Keycloak's "Revoke Refresh Token").
        """
        self.realm = realm
        self.url = f"{origin}/auth/realms/{realm}"
        self._ledger = Ledger(
            self.url,
            clock=clock or SystemClock(),
            lifetimes=lifetimes or Lifetimes(),
            rotation=rotation,
            clients=clients,
            people=people,
        )
        self._app = Starlette(routes=self._routes(), exception_handlers={Refusal: _refused})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    # What a test or the demo asks of it directly

    @property
    def calls(self) -> Counter[tuple[str, str]]:
        """Requests to each endpoint as (endpoint, grant), refused ones included.

        Endpoint is `token`, `device_authorization`, `authorization`, `revocation`, `userinfo`, `certs`, `discovery` or
        `realm`; grant is the wire's `grant_type` at the token endpoint, else empty.
        """
        return self._ledger.calls

    @property
    def events(self) -> list[IssuerEvent]:
        """The journal, oldest first."""
        return self._ledger.events

    @property
    def rotation(self) -> bool:
        """Whether refresh tokens are single-use; may be switched while it runs."""
        return self._ledger.rotation

    @rotation.setter
    def rotation(self, rotation: bool) -> None:
        self._ledger.rotation = rotation

    def mint(self, client_id: str, username: str, scope: str = "") -> TokenResponse:
        """Return the token response of a sign-in as if `username` had just made it with `client_id`."""
        client = self._ledger.clients[client_id]
        person = self._ledger.people[username]
        return self._ledger.answer(
            client, self._ledger.sessions.open(person.username, client_id, client.scopes_for(scope))
        )

    def approve(self, user_code: str, username: str = "ada") -> None:
        """Allow a device code, as the person on the page would. Raises KeyError if it does not wait for one."""
        code = self._waiting(user_code)
        code.decision, code.username = Decision.ALLOWED, self._ledger.people[username].username

    def deny(self, user_code: str) -> None:
        """Deny a device code. Raises KeyError if it does not wait for a person."""
        self._waiting(user_code).decision = Decision.DENIED

    def _waiting(self, user_code: str) -> DeviceCode:
        code = self._ledger.device_codes.by_user_code(user_code)
        if code is None:
            raise KeyError(user_code)
        return code

    def end_sessions(self) -> None:
        """End every sign-in, offline ones too: the next refresh of each is `invalid_grant`."""
        self._ledger.sessions.end_all()

    def rotate_key(self, *, forget: bool = False) -> None:
        """Sign with a new key from now on; `forget` drops the old key from the JWKS, so that its tokens turn bad."""
        self._ledger.mint.rotate_key(forget=forget)

    # Routes

    def _routes(self) -> list[Route | Mount]:
        protocol = "/protocol/openid-connect"
        here = f"/auth/realms/{self.realm}"
        realm = [
            Route("/", self._realm_document),
            Route("/.well-known/openid-configuration", self._discovery),
            Route(f"{protocol}/certs", self._certs),
            Route(f"{protocol}/token", self._with(token_endpoint.token), methods=["POST"]),
            Route(f"{protocol}/auth/device", self._device_authorization, methods=["POST"]),
            Route(f"{protocol}/auth", self._with(sign_in_pages.authorization)),
            Route(f"{protocol}/revoke", self._revocation, methods=["POST"]),
            Route(f"{protocol}/userinfo", self._userinfo, methods=["GET", "POST"]),
            Route("/device", self._with(sign_in_pages.device), methods=["GET", "POST"]),
            Route("/login-actions/authenticate", self._with(sign_in_pages.authenticate), methods=["POST"]),
        ]
        return [
            Route(here, self._realm_document),
            Mount(here, routes=realm),
            Route("/auth/resources/demo.css", _style),
            Route("/{path:path}", _no_realm),
        ]

    def _with(
        self, endpoint: Callable[[Ledger, Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await endpoint(self._ledger, request)

        return answer

    async def _realm_document(self, _: Request) -> Response:
        self.calls["realm", ""] += 1
        return JSONResponse(
            {
                "realm": self.realm,
                "public_key": self._ledger.mint.public_key(),
                "token-service": f"{self.url}/protocol/openid-connect",
                "account-service": f"{self.url}/account",
                "tokens-not-before": 0,
            }
        )

    async def _discovery(self, _: Request) -> Response:
        self.calls["discovery", ""] += 1
        protocol = f"{self.url}/protocol/openid-connect"
        methods = ["client_secret_basic", "client_secret_post"]
        return JSONResponse(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{protocol}/auth",
                "token_endpoint": f"{protocol}/token",
                "userinfo_endpoint": f"{protocol}/userinfo",
                "jwks_uri": f"{protocol}/certs",
                "device_authorization_endpoint": f"{protocol}/auth/device",
                "revocation_endpoint": f"{protocol}/revoke",
                "grant_types_supported": [AUTHORIZATION_CODE, REFRESH_TOKEN, PASSWORD, CLIENT_CREDENTIALS, DEVICE_CODE],
                "response_types_supported": ["code"],
                "response_modes_supported": ["query"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "token_endpoint_auth_methods_supported": methods,
                "revocation_endpoint_auth_methods_supported": methods,
                "code_challenge_methods_supported": ["S256"],
                "scopes_supported": ["openid", "profile", "email", "roles", "offline_access"],
                "authorization_response_iss_parameter_supported": True,
            }
        )

    async def _certs(self, _: Request) -> Response:
        self.calls["certs", ""] += 1
        return JSONResponse(self._ledger.mint.jwks())

    async def _device_authorization(self, request: Request) -> Response:
        """RFC 8628 3.1 and 3.2."""
        self.calls["device_authorization", ""] += 1
        form = await parameters(request)
        client = self._ledger.authenticate(request, form)
        if DEVICE_CODE not in client.grants:
            text = "Client is not allowed to initiate OAuth 2.0 Device Authorization Grant. "
            raise Refusal("unauthorized_client", f"{text}The flow is disabled for the client.")
        challenge = form.get("code_challenge")
        if client.needs_pkce and not (challenge and form.get("code_challenge_method") == "S256"):
            raise Refusal("invalid_request", "Missing parameter: code_challenge_method")
        scopes = client.scopes_for(form.get("scope", ""))
        code = self._ledger.device_codes.issue(client.client_id, scopes, challenge)
        self._ledger.note("OAUTH2_DEVICE_AUTH", client.client_id)
        return JSONResponse(
            {
                "device_code": code.device_code,
                "user_code": code.user_code,
                "verification_uri": f"{self.url}/device",
                "verification_uri_complete": f"{self.url}/device?user_code={code.user_code}",
                "expires_in": self._ledger.lifetimes.device_code_seconds,
                "interval": self._ledger.lifetimes.device_interval_seconds,
            },
            headers=NO_STORE,
        )

    async def _revocation(self, request: Request) -> Response:
        """RFC 7009; a refresh token takes its whole session with it."""
        self.calls["revocation", ""] += 1
        form = await parameters(request)
        client = self._ledger.authenticate(request, form)
        claims = self._to_revoke(required(form, "token"))
        # > invalid tokens do not cause an error response (RFC 7009 2.2); another client's is no concern of this one
        if claims.get("azp") == client.client_id:
            if claims["typ"] == "Bearer":
                self._ledger.revoked.add(claims["jti"])
            else:
                self._ledger.sessions.end(claims["sid"])
            self._ledger.note("REVOKE_GRANT", client.client_id)
        return Response(headers=NO_STORE)

    def _to_revoke(self, token: str) -> Claims:
        try:
            return self._ledger.mint.read_refresh(token, self._ledger.clock.wall())
        except Refusal:
            return self._ledger.mint.read_access(token) or {}

    async def _userinfo(self, request: Request) -> Response:
        self.calls["userinfo", ""] += 1
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        claims = self._ledger.mint.read_access(token) if scheme.lower() == "bearer" else None
        if (
            claims is None
            or claims["exp"] <= self._ledger.clock.wall()
            or claims["jti"] in self._ledger.revoked
            or self._ledger.sessions.find(claims.get("sid", "")) is None
        ):
            raise Refusal("invalid_token", "Token verification failed", 401)
        if "openid" not in claims["scope"].split():
            raise Refusal("insufficient_scope", "Missing openid scope", 403)
        return JSONResponse({name: claims[name] for name in _USERINFO if name in claims})


async def _style(_: Request) -> Response:
    return style_sheet()


async def _no_realm(_: Request) -> Response:
    return JSONResponse({"error": "Realm does not exist"}, 404)


async def _refused(_: Request, refusal: Exception) -> Response:
    if not isinstance(refusal, Refusal):
        raise refusal
    headers = dict(NO_STORE)
    if refusal.error in {"invalid_token", "insufficient_scope"}:
        headers["WWW-Authenticate"] = f'Bearer error="{refusal.error}"'
    answer = {"error": refusal.error, "error_description": refusal.description}
    return JSONResponse(answer, refusal.status, headers)
