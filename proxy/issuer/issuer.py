"""What is asked of an issuer: tokens, a code for a device, the end of a grant (RFC 6749, 8628, 7009)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx2

from proxy.clock import Clock
from proxy.errors import BearerproxyError, IssuerUnavailable
from proxy.identities import Identity
from proxy.issuer.answer import Answer, is_link, is_shown, is_token, life, number
from proxy.issuer.calls import Calls
from proxy.issuer.client import Client
from proxy.issuer.metadata import Metadata
from proxy.issuer.refusal import DEVICE_CODE_GRANT, refusal
from proxy.secret_refs import Secret
from proxy.tokens import TokenSet
from proxy.transport.tls import Trust, ssl_context

REFRESH_SECONDS = 30.0
"""Total time for a call with a refresh token: one that is given up after it was sent may be spent, its successor lost
(T12)."""
_SECRET_PARAMETERS = frozenset(
    {"client_secret", "code", "code_verifier", "device_code", "password", "refresh_token", "token"}
)


@dataclass(frozen=True, slots=True)
class DeviceAuthorization:
    """The answer of the device authorization endpoint (RFC 8628 3.2)."""

    device_code: str = field(repr=False)
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    """The same with the user code in it; optional."""
    expires_in: float
    """Seconds of life of both codes, from the start of the request."""
    interval: float
    """Seconds between two polls."""


class Issuer:
    """The issuer of one identity; `close` last."""

    def __init__(
        self,
        identity: Identity,
        *,
        clock: Clock,
        http: httpx2.AsyncBaseTransport | None = None,
        trust: Trust = ssl_context,
    ) -> None:
        self.identity = identity
        self._clock = clock
        self._calls = Calls(identity, clock=clock, http=http, trust=trust)
        self._metadata = Metadata(identity, self._calls)
        self._client = Client(identity)

    @property
    def skew_seconds(self) -> float:
        """How far the issuer's clock was ahead of ours in its last answer; 0 if it agrees or does not say."""
        return self._calls.skew_seconds

    @property
    def was_slept_through(self) -> bool:
        """Whether the machine stood still during the last call: how it ended then says nothing of the issuer (T7)."""
        return self._calls.was_slept_through

    @property
    def shown(self) -> dict[Secret, bytes]:
        """By `digest`, what the issuer was shown: if it refuses us, another value may be the right one (T16)."""
        return self._client.shown

    async def close(self) -> None:
        await self._calls.close()

    async def endpoint(self, which: str) -> str:
        """Return the URL of the `token`, `authorization`, `device_authorization` or `revocation` endpoint.

        Raises IssuerUnavailable if the metadata cannot be had now, IdentityMisconfigured if they can never serve.
        """
        return await self._metadata.endpoint(which)

    def announced(self, name: str) -> object:
        """Return a metadata value (RFC 8414 2) if metadata have been fetched and hold it, else None."""
        return self._metadata.announced(name)

    async def reveal(self, secret: Secret) -> str:
        """Return a secret that is about to be shown to the issuer, and remember its digest. Raises SecretError."""
        return await self._client.reveal(secret)

    async def token_request(self, params: Sequence[tuple[str, str]], *, client_id: str | None = None) -> TokenSet:
        """Send `params` to the token endpoint as `client_id` (the identity's own if None), return the new set.

        Its access token may have ended already, at an issuer that was slow; its refresh token is the one that counts.
        Raises GrantRefused, IdentityMisconfigured, IssuerUnavailable, StillPending (device grant alone), SecretError.
        """
        sent = dict(params)
        client_id = client_id or self.identity.client_id
        answer, secrets = await self._post("token", [*params, *self.identity.extra], client_id)
        grant_type = sent.get("grant_type", "")
        said = self._judged(answer, secrets, client_id, grant_type)
        seconds = life(said.get("expires_in"))
        access_token, token_type = said.get("access_token"), said.get("token_type")
        if said.get("error") or not is_token(access_token):
            raise IssuerUnavailable(f"The issuer {answer.host} answers without a token that can be used.")
        if not isinstance(token_type, str) or token_type.lower() != "bearer":
            raise IssuerUnavailable(f"The issuer {answer.host} answers with a token that is not a bearer token.")
        if seconds is None:
            raise IssuerUnavailable(f"The issuer {answer.host} answers with a token whose life is no number.")
        # Keycloak says 0 for offline tokens, which do have an idle limit: unknown, not endless.
        refresh_life = None if said.get("refresh_expires_in") is None else life(said["refresh_expires_in"]) or None
        refresh_token, scope = said.get("refresh_token"), said.get("scope")
        return TokenSet(
            access_token=access_token,
            expires_at=answer.wall + seconds,
            obtained_at=answer.wall,
            client_id=client_id,
            grant=self.identity.grant.value,
            refresh_token=refresh_token if isinstance(refresh_token, str) and refresh_token else None,
            refresh_expires_at=None if refresh_life is None else answer.wall + refresh_life,
            scope=scope if isinstance(scope, str) else sent.get("scope"),
            signed_in_at=answer.wall,
            issuer=issuer_name(self.identity),
            boot_deadline=answer.boot + seconds,
        )

    async def device_authorization(
        self, scope: str | None, extra: Iterable[tuple[str, str]] = ()
    ) -> DeviceAuthorization:
        """Ask for a user code (RFC 8628 3.1); raises as `token_request` does."""
        params = [*([("scope", scope)] if scope else []), *extra, *self.identity.extra]
        answer, secrets = await self._post("device_authorization", params, self.identity.client_id)
        said = self._judged(answer, secrets, self.identity.client_id, DEVICE_CODE_GRANT)
        seconds = life(said.get("expires_in"))
        interval = number(said.get("interval"))
        device_code, user_code = said.get("device_code"), said.get("user_code")
        uri, complete = said.get("verification_uri"), said.get("verification_uri_complete")
        if not isinstance(device_code, str) or not is_shown(user_code) or not is_link(uri) or not seconds:
            raise IssuerUnavailable(f"The issuer {answer.host} answers without a code that can be used.")
        return DeviceAuthorization(
            device_code=device_code,
            user_code=str(user_code),
            verification_uri=str(uri),
            verification_uri_complete=str(complete) if is_link(complete) else None,
            expires_in=seconds,
            interval=interval if interval is not None and interval > 0 else 5.0,  # RFC 8628 3.2
        )

    async def revoke(self, refresh_token: str, *, client_id: str | None = None) -> None:
        """End the grant behind `refresh_token` at the issuer (RFC 7009); raises as `token_request` does."""
        params = [("token", refresh_token), ("token_type_hint", "refresh_token")]
        client_id = client_id or self.identity.client_id
        answer, secrets = await self._post("revocation", params, client_id)
        if answer.status != 200:  # RFC 7009 2.2: also for a token that is no longer valid
            raise self._refusal(answer, secrets, client_id, "")

    async def _post(
        self, which: str, params: Sequence[tuple[str, str]], client_id: str
    ) -> tuple[Answer, Sequence[str]]:
        """Send a form, authenticated as the client; returns the answer and the secrets that must not be repeated."""
        url = await self.endpoint(which)
        proof = await self._client.proof(client_id, self.announced("token_endpoint_auth_methods_supported"))
        form = [*params, *proof.params]
        secrets = [value for name, value in form if name in _SECRET_PARAMETERS]
        seconds = REFRESH_SECONDS if ("grant_type", "refresh_token") in params else None
        content = urlencode(form).encode("ascii")
        answer = await self._calls.call("POST", url, proof.fields, content, seconds=seconds)
        if answer.status in (404, 410):
            self._metadata.forget()
        return answer, [*secrets, *proof.secrets]

    def _judged(self, answer: Answer, secrets: Sequence[str], client_id: str, grant_type: str) -> dict[str, Any]:
        """Return the JSON object of a good answer; raises for every other."""
        if answer.status != 200:
            raise self._refusal(answer, secrets, client_id, grant_type)
        said = answer.json
        if said is None:
            raise IssuerUnavailable(
                f"The issuer {answer.host} answers with something that is not JSON; is a sign-in page of the network "
                "in between?"
            )
        return said

    def _refusal(self, answer: Answer, secrets: Sequence[str], client_id: str, grant_type: str) -> BearerproxyError:
        return refusal(
            answer, self.identity, client_id=client_id, grant_type=grant_type, secrets=secrets, now=self._clock.wall()
        )


def issuer_name(identity: Identity) -> str:
    """Return what tells this identity's issuer from others: its identifier, else its token endpoint."""
    return identity.issuer or identity.endpoints.token or ""
