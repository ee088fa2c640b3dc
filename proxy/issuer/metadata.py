"""Where an issuer's endpoints are: as configured, else as its metadata say (RFC 8414, OpenID Connect Discovery)."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from proxy.errors import IdentityMisconfigured, IssuerUnavailable
from proxy.identities import Identity
from proxy.issuer.answer import for_people, retry_after
from proxy.issuer.calls import Calls
from proxy.issuer.refusal import misconfigured

_ENDPOINTS = {
    "token": "token_endpoint",
    "authorization": "authorization_endpoint",
    "device_authorization": "device_authorization_endpoint",
    "revocation": "revocation_endpoint",
}


class Metadata:
    """Those of one identity's issuer, asked for when they are needed, and then kept."""

    def __init__(self, identity: Identity, calls: Calls) -> None:
        self._identity = identity
        self._calls = calls
        self._said: Mapping[str, Any] | None = None

    def announced(self, name: str) -> object:
        """Return a value (RFC 8414 2) if metadata have been fetched and hold it, else None."""
        return None if self._said is None else self._said.get(name)

    def forget(self) -> None:
        """Ask again next time: the issuer may have moved its endpoints."""
        self._said = None

    async def endpoint(self, which: str) -> str:
        """Return the URL of the `token`, `authorization`, `device_authorization` or `revocation` endpoint.

        Raises IssuerUnavailable if the metadata cannot be had now, IdentityMisconfigured if they can never serve.
        """
        override: str | None = getattr(self._identity.endpoints, which)
        if override is not None:
            return override
        key = _ENDPOINTS[which]
        if self._said is None:
            self._said = await self._discover()
        url = self._said.get(key)
        if not isinstance(url, str):
            raise self._misconfigured(
                f"The issuer has no {key.replace('_', ' ')}", f"set {key}, or choose another grant"
            )
        if _origin(url) != _origin(self._identity.issuer or ""):
            # A tampered or misread document must not send credentials elsewhere (RFC 9700 2.1, S38).
            elsewhere = for_people(urlsplit(url).netloc)
            raise self._misconfigured(
                f"The issuer names a {key} on another host, {elsewhere}", f"set {key} if that is right"
            )
        return url

    async def _discover(self) -> Mapping[str, Any]:
        issuer = self._identity.issuer
        if issuer is None:
            raise self._misconfigured("There is no issuer to ask for endpoints", "set issuer, or every endpoint")
        parts = urlsplit(issuer)
        oidc = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        answer = await self._calls.call("GET", oidc)
        if answer.status == 404:  # RFC 8414 3.1 puts the word between host and path
            path = parts.path.rstrip("/")
            answer = await self._calls.call(
                "GET", f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{path}"
            )
        said = answer.json
        if answer.status != 200 or said is None:
            raise IssuerUnavailable(
                f"The issuer's metadata cannot be read: {oidc} answers with status {answer.status}. "
                f"If that lasts, check issuer of [identity.{self._identity.name}].",
                retry_after=retry_after(answer),
            )
        self._check_issuer(said.get("issuer"))
        return said

    def _check_issuer(self, said: object) -> None:
        """Compare exactly, without any normalisation (RFC 8414 3.3)."""
        ours = self._identity.issuer or ""
        if said == ours:
            return
        theirs = for_people(said) if isinstance(said, str) else "nothing"
        cure = f'set issuer = "{theirs}" if that is the one you trust'
        if isinstance(said, str) and said.rstrip("/") == ours.rstrip("/"):
            cure = f'set issuer = "{theirs}" (only the slash at the end differs)'
        raise self._misconfigured(f"The issuer at {ours} calls itself {theirs}", cure)

    def _misconfigured(self, what: str, cure: str) -> IdentityMisconfigured:
        return misconfigured(self._identity, what, cure)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, parts.hostname, port or {"http": 80, "https": 443}.get(parts.scheme)
