"""An issuer in the test's own process: answers by script, counts calls, rotates refresh tokens, sees reuse."""

import base64
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import httpx2

from proxy.clock import Clock
from proxy.identities import Grant, Identity
from proxy.issuer import Issuer

BASE = "https://auth.example.org/auth/realms/rrap"
CONNECT = f"{BASE}/protocol/openid-connect"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"

Script = httpx2.Response | Exception | Callable[[dict[str, str]], Awaitable[httpx2.Response]]


def identity(grant: Grant = Grant.DEVICE_CODE, **settings: Any) -> Identity:
    """Return an identity at the scripted issuer; `settings` are fields of Identity."""
    return Identity(**{"name": "provena", "client_id": "client-tools", "grant": grant, "issuer": BASE, **settings})


def jwt(**said: Any) -> str:
    """Return an unsigned JWT with these claims: what the code under test reads without verifying."""
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, said)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


def error(code: str, description: str = "", *, status: int = 400, **fields: str) -> httpx2.Response:
    """Return an error answer (RFC 6749 5.2)."""
    said = {"error": code} | ({"error_description": description} if description else {})
    return httpx2.Response(status, json=said, headers=fields)


class ScriptedIssuer:
    """`script` holds the next answers of the token endpoint; when it is empty, answers are good ones."""

    def __init__(self, *, life: float | None = 300, rotates: bool = True) -> None:
        self.life = life
        self.rotates = rotates
        self.refresh_life: float | None = 1800
        self.sub = "alice"
        self.token_type = "Bearer"
        self.scope: str | None = "profile email"
        self.script: deque[Script] = deque()
        self.device_script: deque[Script] = deque()
        self.metadata: dict[str, Any] = {
            "issuer": BASE,
            "token_endpoint": f"{CONNECT}/token",
            "authorization_endpoint": f"{CONNECT}/auth",
            "device_authorization_endpoint": f"{CONNECT}/auth/device",
            "revocation_endpoint": f"{CONNECT}/revoke",
        }
        self.device: dict[str, Any] = {
            "device_code": "canary-device-code",
            "user_code": "ABCD-EFGH",
            "verification_uri": f"{CONNECT}/device",
            "verification_uri_complete": f"{CONNECT}/device?user_code=ABCD-EFGH",
            "expires_in": 600,
            "interval": 5,
        }
        self.is_down = False
        self.outage: Callable[[dict[str, str]], Awaitable[httpx2.Response]] | None = None
        """Answers every token request while it is set."""
        self.calls: Counter[str] = Counter()
        self.forms: list[dict[str, str]] = []
        """Parameters of each token request, in order."""
        self.pairs: list[list[tuple[str, str]]] = []
        """The same with repeated names."""
        self.requests: list[httpx2.Request] = []
        self.revoked: list[str] = []
        self.live: set[str] = set()
        """Refresh tokens that would be accepted."""
        self.reuses = 0
        self._serial = 0

    @property
    def token_calls(self) -> int:
        return self.calls["token"]

    def at(self, clock: Clock, who: Identity | None = None) -> Issuer:
        """Return the client side, connected to this issuer."""
        return Issuer(identity() if who is None else who, clock=clock, http=httpx2.MockTransport(self.answer))

    def grant(self) -> dict[str, Any]:
        """Return a good token answer's content, with fresh tokens."""
        self._serial += 1
        said: dict[str, Any] = {
            "access_token": jwt(sub=self.sub, azp="client-tools", preferred_username=self.sub, n=self._serial),
            "token_type": self.token_type,
        }
        if self.life is not None:
            said["expires_in"] = self.life
        if self.scope is not None:
            said["scope"] = self.scope
        if self.refresh_life is not None:
            said |= {"refresh_token": f"canary-refresh-{self._serial}", "refresh_expires_in": self.refresh_life}
            self.live.add(said["refresh_token"])
        return said

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        which = str(request.url).removeprefix(BASE).rpartition("/")[2]
        self.calls[which] += 1
        if self.is_down:
            raise httpx2.ConnectError("Connection refused")
        if "/.well-known/" in str(request.url):
            return httpx2.Response(200, json=self.metadata)
        pairs = parse_qsl((await request.aread()).decode(), keep_blank_values=True)
        form = dict(pairs)
        if which == "device":
            self.pairs.append(pairs)
            return await self._scripted(self.device_script, form) or httpx2.Response(200, json=self.device)
        if which == "revoke":
            self.revoked.append(form["token"])
            self.live.discard(form["token"])
            return httpx2.Response(200)
        self.forms.append(form)
        self.pairs.append(pairs)
        if self.outage is not None:
            return await self.outage(form)
        return await self._scripted(self.script, form) or self.judge(form)

    def judge(self, form: dict[str, str]) -> httpx2.Response:
        """Answer a token request as a real issuer does."""
        if form["grant_type"] != "refresh_token":
            return httpx2.Response(200, json=self.grant())
        spent = form["refresh_token"]
        if spent not in self.live:
            self.reuses += 1
            self.live.clear()  # reuse ends the whole session, the good new token included
            return error("invalid_grant", "Maximum allowed refresh token reuse exceeded")
        if self.rotates:
            self.live.discard(spent)
            return httpx2.Response(200, json=self.grant())
        said = self.grant()
        self.live.discard(said.pop("refresh_token", ""))
        return httpx2.Response(200, json=said)

    async def _scripted(self, script: deque[Script], form: dict[str, str]) -> httpx2.Response | None:
        if not script:
            return None
        step = script.popleft()
        if isinstance(step, Exception):
            raise step
        return step if isinstance(step, httpx2.Response) else await step(form)
