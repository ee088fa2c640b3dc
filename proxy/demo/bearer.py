"""The services' side of a bearer token: taking it from the request, and verifying it for real."""

import asyncio

import httpx2
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from proxy.clock import Clock
from proxy.demo.mint import Claims

_REFETCH_SECONDS = 60.0


class InvalidToken(Exception):
    """The token is not one that this service accepts; the text says why."""


def authorization(headers: list[tuple[bytes, bytes]]) -> tuple[str, str] | None:
    """Return the lower-case scheme and the credentials of the *first* Authorization field, or None.

    Provena's services read the first one of several; a proxy that appends its own behind the caller's is refused.
    """
    for name, value in headers:
        if name == b"authorization":
            scheme, _, credentials = value.decode("latin-1").partition(" ")
            return scheme.lower(), credentials.strip()
    return None


class Verifier:
    """Verifies access tokens against the issuer's JWK set, which is fetched over HTTP and kept.

    An unknown `kid` fetches the set again, at most once a minute.
    """

    def __init__(self, issuer: str, *, clock: Clock, audience: str | None = None, checks_issuer: bool = True) -> None:
        """`audience` None accepts any `aud`, `checks_issuer` False any `iss`: both as Provena's services do."""
        self._issuer = issuer
        self._clock = clock
        self._audience = audience
        self._checks_issuer = checks_issuer
        self._keys = KeySet([])
        self._fetched: float | None = None
        self._lock = asyncio.Lock()

    async def verify(self, token: str) -> Claims:
        """Return the claims of a good token. Raises InvalidToken, and httpx2.HTTPError if the issuer is away."""
        claims = await self._read(token)
        # > on or after which the JWT MUST NOT be accepted for processing (RFC 7519 4.1.4); no leeway
        expires = claims.get("exp")
        if not isinstance(expires, int | float) or expires <= self._clock.wall():
            raise InvalidToken("The token expired")
        if self._checks_issuer and claims.get("iss") != self._issuer:
            raise InvalidToken("The issuer is invalid")
        if self._audience is not None and self._audience not in _listed(claims.get("aud")):
            raise InvalidToken("The audience is invalid")
        if claims.get("typ") != "Bearer":
            raise InvalidToken("The token is not an access token")
        return claims

    async def _read(self, token: str) -> Claims:
        try:
            kid = _kid(token)
            if not any(key.kid == kid for key in self._keys):
                await self._fetch()
            return dict(jwt.decode(token, self._keys, algorithms=["RS256"]).claims)
        except (JoseError, ValueError) as exc:
            raise InvalidToken("The signature is invalid") from exc

    async def _fetch(self) -> None:
        async with self._lock:
            now = self._clock.boot()
            if self._fetched is not None and now - self._fetched < _REFETCH_SECONDS:
                return
            async with httpx2.AsyncClient(trust_env=False) as http:
                answer = await http.get(f"{self._issuer}/protocol/openid-connect/certs")
            answer.raise_for_status()
            self._keys = KeySet.import_key_set(answer.json())
            self._fetched = now


def _kid(token: str) -> str | None:
    from joserfc.jws import extract_compact

    kid = extract_compact(token.encode()).headers().get("kid")
    return kid if isinstance(kid, str) else None


def _listed(audience: object) -> list[object]:
    return audience if isinstance(audience, list) else [audience]
