"""The issuer: who turns grants into tokens, behind four endpoints (RFC 6749, 7009, 8414, 8628).

Every answer has one of three outcomes, told apart by the RFC's codes and never by their descriptions (token-life 3):
a token set · transient (IssuerUnavailable) · fatal, for the grant (GrantRefused) or the client (IdentityMisconfigured).

ID tokens are neither asked for nor looked at: who signed in is the issuer's and the upstream's business.
"""

import asyncio
import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn
from urllib.parse import quote_plus, unquote_plus, urlencode, urlsplit

import httpx2

from proxy import __version__
from proxy.clock import Clock
from proxy.errors import BearerproxyError, GrantRefused, IdentityMisconfigured, IssuerUnavailable
from proxy.identities import Identity
from proxy.secret_refs import Secret
from proxy.tokens import DEFAULT_LIFE_SECONDS, TokenSet
from proxy.transport.pool import Pool
from proxy.transport.tls import Trust, ssl_context

CALL_SECONDS = 10.0
"""Total time for one call to the issuer, from connecting to the last byte."""
REFRESH_SECONDS = 30.0
"""The same for a refresh token: one that is given up after it was sent may be spent, its successor lost (T12)."""
SLEPT_SHARE = 1.5
"""Of its time-out, a call takes that much only by clocks that went on without it, as in suspend, or that jumped."""
ANSWER_LIMIT = 1024 * 1024
"""An answer of more bytes is not one; metadata with every extension is some 10 KiB."""
RETRY_AFTER_LIMIT = 3600
LONGEST_LIFE_SECONDS = 10 * 366 * 86400.0
"""Nobody means more, and dates beyond the year 9999 cannot be shown."""
DEVICE_CODE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"

_ENDPOINTS = {
    "token": "token_endpoint",
    "authorization": "authorization_endpoint",
    "device_authorization": "device_authorization_endpoint",
    "revocation": "revocation_endpoint",
}
_SECRET_PARAMETERS = frozenset(
    {"client_secret", "code", "code_verifier", "device_code", "password", "refresh_token", "token"}
)
_GRANT_ENDED = frozenset({"invalid_grant"})
_DEVICE_ENDED = frozenset({"access_denied", "expired_token"})  # RFC 8628 3.5
_BEARER_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a field value can carry; RFC 6750 2.1 allows even less


class StillPending(BearerproxyError):
    """The person has not decided yet (RFC 8628 3.5); `is_too_fast` is the issuer's `slow_down`."""

    def __init__(self, *, is_too_fast: bool) -> None:
        super().__init__("slow_down" if is_too_fast else "authorization_pending")
        self.is_too_fast = is_too_fast


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


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and when the call began."""

    host: str
    status: int
    fields: httpx2.Headers
    body: bytes = field(repr=False)
    wall: float
    boot: float

    @property
    def json(self) -> dict[str, Any] | None:
        """The JSON object in the body; None if it is anything else or not said to be JSON."""
        kind = self.fields.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            return None
        try:
            said = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return said if isinstance(said, dict) else None


class Issuer:
    """The issuer of one identity. Its calls are rare, so each has a connection of its own: none can be stale (T8)."""

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
        self._trust = trust
        self._http = http
        self._metadata: Mapping[str, Any] | None = None
        self.skew_seconds = 0.0
        """How far the issuer's clock was ahead of ours in its last answer; 0 if it agrees or does not say."""
        self.was_slept_through = False
        """Whether the machine stood still during the last call: how it ended then says nothing of the issuer (T7)."""
        self.shown: dict[Secret, bytes] = {}
        """By `digest`, what the issuer was shown: if it refuses us, another value may be the right one (T16)."""

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def endpoint(self, which: str) -> str:
        """Return the URL of the `token`, `authorization`, `device_authorization` or `revocation` endpoint.

        Raises IssuerUnavailable if the metadata cannot be had now, IdentityMisconfigured if they can never serve.
        """
        override: str | None = getattr(self.identity.endpoints, which)
        if override is not None:
            return override
        key = _ENDPOINTS[which]
        url = (await self._discovered()).get(key)
        if not isinstance(url, str):
            raise self._misconfigured(
                f"The issuer has no {key.replace('_', ' ')}", f"set {key}, or choose another grant"
            )
        if _origin(url) != _origin(self.identity.issuer or ""):
            # A tampered or misread document must not send credentials elsewhere (RFC 9700 2.1, S38).
            elsewhere = for_people(urlsplit(url).netloc)
            raise self._misconfigured(
                f"The issuer names a {key} on another host, {elsewhere}", f"set {key} if that is right"
            )
        return url

    def announced(self, name: str) -> object:
        """Return a metadata value (RFC 8414 2) if metadata have been fetched and hold it, else None."""
        return None if self._metadata is None else self._metadata.get(name)

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
        life = _life(said.get("expires_in"))
        access_token, token_type = said.get("access_token"), said.get("token_type")
        if said.get("error") or not isinstance(access_token, str) or not _BEARER_TOKEN.fullmatch(access_token):
            raise IssuerUnavailable(f"The issuer {answer.host} answers without a token that can be used.")
        if not isinstance(token_type, str) or token_type.lower() != "bearer":
            raise IssuerUnavailable(f"The issuer {answer.host} answers with a token that is not a bearer token.")
        if life is None:
            raise IssuerUnavailable(f"The issuer {answer.host} answers with a token whose life is no number.")
        # Keycloak says 0 for offline tokens, which do have an idle limit: unknown, not endless.
        refresh_life = None if said.get("refresh_expires_in") is None else _life(said["refresh_expires_in"]) or None
        refresh_token, scope = said.get("refresh_token"), said.get("scope")
        return TokenSet(
            access_token=access_token,
            expires_at=answer.wall + life,
            obtained_at=answer.wall,
            client_id=client_id,
            grant=self.identity.grant.value,
            refresh_token=refresh_token if isinstance(refresh_token, str) and refresh_token else None,
            refresh_expires_at=None if refresh_life is None else answer.wall + refresh_life,
            scope=scope if isinstance(scope, str) else sent.get("scope"),
            signed_in_at=answer.wall,
            issuer=issuer_name(self.identity),
            boot_deadline=answer.boot + life,
        )

    async def device_authorization(
        self, scope: str | None, extra: Iterable[tuple[str, str]] = ()
    ) -> DeviceAuthorization:
        """Ask for a user code (RFC 8628 3.1); raises as `token_request` does."""
        params = [*([("scope", scope)] if scope else []), *extra, *self.identity.extra]
        answer, secrets = await self._post("device_authorization", params, self.identity.client_id)
        said = self._judged(answer, secrets, self.identity.client_id, DEVICE_CODE_GRANT)
        life = _life(said.get("expires_in"))
        interval = _number(said.get("interval"))
        device_code, user_code = said.get("device_code"), said.get("user_code")
        uri, complete = said.get("verification_uri"), said.get("verification_uri_complete")
        if not isinstance(device_code, str) or not _is_shown(user_code) or not _is_link(uri) or not life:
            raise IssuerUnavailable(f"The issuer {answer.host} answers without a code that can be used.")
        return DeviceAuthorization(
            device_code=device_code,
            user_code=str(user_code),
            verification_uri=str(uri),
            verification_uri_complete=str(complete) if _is_link(complete) else None,
            expires_in=life,
            interval=interval if interval is not None and interval > 0 else 5.0,  # RFC 8628 3.2
        )

    async def revoke(self, refresh_token: str, *, client_id: str | None = None) -> None:
        """End the grant behind `refresh_token` at the issuer (RFC 7009); raises as `token_request` does."""
        params = [("token", refresh_token), ("token_type_hint", "refresh_token")]
        client_id = client_id or self.identity.client_id
        answer, secrets = await self._post("revocation", params, client_id)
        if answer.status != 200:  # RFC 7009 2.2: also for a token that is no longer valid
            self._refuse(answer, secrets, client_id, "")

    async def _post(
        self, which: str, params: Sequence[tuple[str, str]], client_id: str
    ) -> tuple[Answer, Sequence[str]]:
        """Send a form, authenticated as the client; returns the answer and the secrets that must not be repeated."""
        url = await self.endpoint(which)
        fields, proof = await self._authentication(client_id)
        form = [*params, *proof]
        secrets = [value for name, value in form if name in _SECRET_PARAMETERS]
        secrets += [one for field_value in fields.values() for one in _parts(field_value)]
        seconds = REFRESH_SECONDS if ("grant_type", "refresh_token") in params else CALL_SECONDS
        answer = await self._call("POST", url, fields, urlencode(form).encode("ascii"), seconds=seconds)
        if answer.status in (404, 410):
            self._metadata = None  # the issuer may have moved its endpoints: ask again next time
        return answer, secrets

    async def _authentication(self, client_id: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
        """Return header fields and parameters that show who we are: one style, never probed.

        A first try in the wrong style can spend the refresh token (S46).
        """
        secret = self.identity.client_secret if client_id == self.identity.client_id else None
        if secret is None:
            return {}, [("client_id", client_id)]  # RFC 6749 3.2.1, a public client
        text = await self.reveal(secret)
        styles = self.announced("token_endpoint_auth_methods_supported")
        if isinstance(styles, list) and styles and "client_secret_basic" not in styles:
            return {}, [("client_id", client_id), ("client_secret", text)]
        # > encoded using the "application/x-www-form-urlencoded" encoding algorithm per Appendix B (RFC 6749 2.3.1),
        # which many clients forget: a secret with + : % or & then fails.
        pair = f"{quote_plus(client_id)}:{quote_plus(text)}".encode("ascii")
        return {"authorization": "Basic " + base64.b64encode(pair).decode("ascii")}, []

    async def reveal(self, secret: Secret) -> str:
        """Return a secret that is about to be shown to the issuer, and remember its digest. Raises SecretError."""
        text = await revealed(secret)
        self.shown[secret] = digest(text)
        return text

    async def _discovered(self) -> Mapping[str, Any]:
        if self._metadata is None:
            self._metadata = await self._discover()
        return self._metadata

    async def _discover(self) -> Mapping[str, Any]:
        issuer = self.identity.issuer
        if issuer is None:
            raise self._misconfigured("There is no issuer to ask for endpoints", "set issuer, or every endpoint")
        parts = urlsplit(issuer)
        oidc = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        answer = await self._call("GET", oidc)
        if answer.status == 404:  # RFC 8414 3.1 puts the word between host and path
            path = parts.path.rstrip("/")
            answer = await self._call(
                "GET", f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{path}"
            )
        said = answer.json
        if answer.status != 200 or said is None:
            raise IssuerUnavailable(
                f"The issuer's metadata cannot be read: {oidc} answers with status {answer.status}. "
                f"If that lasts, check issuer of [identity.{self.identity.name}].",
                retry_after=_retry_after(answer),
            )
        self._check_issuer(said.get("issuer"))
        return said

    def _check_issuer(self, said: object) -> None:
        """Compare exactly, without any normalisation (RFC 8414 3.3)."""
        ours = self.identity.issuer or ""
        if said == ours:
            return
        theirs = for_people(said) if isinstance(said, str) else "nothing"
        cure = f'set issuer = "{theirs}" if that is the one you trust'
        if isinstance(said, str) and said.rstrip("/") == ours.rstrip("/"):
            cure = f'set issuer = "{theirs}" (only the slash at the end differs)'
        raise self._misconfigured(f"The issuer at {ours} calls itself {theirs}", cure)

    async def _call(
        self,
        method: str,
        url: str,
        fields: Mapping[str, str] | None = None,
        content: bytes | None = None,
        *,
        seconds: float | None = None,
    ) -> Answer:
        """Make one call: no redirects, no cookies, nothing from the environment, capped in time and size (S46)."""
        seconds = CALL_SECONDS if seconds is None else seconds
        host = urlsplit(url).netloc.rpartition("@")[2]
        wall, boot = self._clock.wall(), self._clock.boot()
        try:
            async with asyncio.timeout(seconds):
                request = _request(method, url, fields or {}, content, seconds)
                response = await self._transport().handle_async_request(request)
                try:
                    body = await _read(response, host)
                finally:
                    await response.aclose()
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise IssuerUnavailable(f"The issuer {host} did not answer within {seconds:.0f} s.") from error
        except (httpx2.TransportError, OSError) as error:
            reason = for_people(str(error)) or type(error).__name__
            raise IssuerUnavailable(f"The issuer {host} cannot be reached: {reason}.") from error
        finally:
            self.was_slept_through = max(self._clock.wall() - wall, self._clock.boot() - boot) > SLEPT_SHARE * seconds
        self.skew_seconds = _skew(_date(response.headers.get("date", "")), wall, self._clock.wall())
        return Answer(host, response.status_code, response.headers, body, wall, boot)

    def _transport(self) -> httpx2.AsyncBaseTransport:
        if self._http is None:
            network = self.identity.network
            try:
                context = self._trust(network)
            except OSError as error:
                raise self._misconfigured(
                    f"The CA file {network.ca_file} cannot be used ({error.strerror or error})", "correct ca_file"
                ) from error
            proxy = None
            if network.proxy is not None:
                is_tls = urlsplit(network.proxy).scheme == "https"
                proxy = httpx2.Proxy(network.proxy, ssl_context=context if is_tls else None)
            limits = httpx2.Limits(max_keepalive_connections=0)
            self._http = Pool(verify=context, trust_env=False, proxy=proxy, limits=limits)
        return self._http

    def _judged(self, answer: Answer, secrets: Sequence[str], client_id: str, grant_type: str) -> dict[str, Any]:
        """Return the JSON object of a good answer; raises for every other."""
        if answer.status != 200:
            self._refuse(answer, secrets, client_id, grant_type)
        said = answer.json
        if said is None:
            raise IssuerUnavailable(
                f"The issuer {answer.host} answers with something that is not JSON; is a sign-in page of the network "
                "in between?"
            )
        return said

    def _refuse(self, answer: Answer, secrets: Sequence[str], client_id: str, grant_type: str) -> NoReturn:
        """Raise what `answer`, which is not a good one, means (RFC 6749 5.2, RFC 8628 3.5)."""
        said = answer.json or {}
        code = said.get("error")
        is_final = 400 <= answer.status < 500 and answer.status not in (408, 429)
        if is_final and isinstance(code, str):
            told = said.get("error_description")
            description = for_people(told, secrets) if isinstance(told, str) else ""
            is_device = grant_type == DEVICE_CODE_GRANT
            if is_device and code in ("authorization_pending", "slow_down"):
                raise StillPending(is_too_fast=code == "slow_down")
            if code in _GRANT_ENDED or (is_device and code in _DEVICE_ENDED):
                raise GrantRefused(code, description)
            told = f"{code}: {description}" if description else code
            cure = _cure(code, answer.status)
            if cure is not None:
                refusal = self._misconfigured(f"The issuer refuses client '{client_id}' ({told})", cure)
                refusal.code = code
                raise refusal
            raise IssuerUnavailable(f"The issuer {answer.host} refuses the request ({for_people(told, secrets)}).")
        raise IssuerUnavailable(_transient(answer), retry_after=_retry_after(answer, now=self._clock.wall()))

    def _misconfigured(self, what: str, cure: str) -> IdentityMisconfigured:
        return IdentityMisconfigured(f"{what}; in [identity.{self.identity.name}] {cure}.")


def issuer_name(identity: Identity) -> str:
    """Return what tells this identity's issuer from others: its identifier, else its token endpoint."""
    return identity.issuer or identity.endpoints.token or ""


async def revealed(secret: Secret) -> str:
    """Return the secret; raises SecretError. What may block (a command, a keyring) is read in a thread."""
    return secret.reveal() if secret.is_literal else await asyncio.to_thread(secret.reveal)


def digest(text: str) -> bytes:
    """Return what tells one value of a secret from another, and is kept in memory alone."""
    return hashlib.sha256(text.encode()).digest()


def for_people(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` from the wire as something to show: no secret, no control characters, at most 200 of them."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "…")
    text = "".join(one if one.isprintable() else " " for one in text)
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:199] + "…"


def _parts(basic: str) -> tuple[str, ...]:
    """Return every form in which a Basic credential could come back: encoded, and its secret."""
    encoded = basic.removeprefix("Basic ")
    password = base64.b64decode(encoded).decode("ascii").partition(":")[2]
    return basic, encoded, password, unquote_plus(password)


def _cure(code: str, status: int) -> str | None:
    """Return what to change when a code means that the configuration is wrong; None if it does not mean that."""
    if code == "unauthorized_client":  # Keycloak says this with 401 for a wrong secret
        return "check client_secret" if status == 401 else "choose a grant that the client may use"
    return {
        "invalid_client": "check client_id and client_secret",
        "unsupported_grant_type": "choose another grant",
        "invalid_scope": "check scope",
    }.get(code)


def _transient(answer: Answer) -> str:
    if 300 <= answer.status < 400:
        return f"The issuer {answer.host} sends us elsewhere (status {answer.status}), which is not followed."
    if answer.status == 429:
        return f"The issuer {answer.host} asks for fewer requests (status 429)."
    return f"The issuer {answer.host} answers with status {answer.status}."


def _retry_after(answer: Answer, now: float | None = None) -> int | None:
    """Return the whole seconds of Retry-After (RFC 9110 10.2.3), 0 to 3600; None if there is none to read.

    A date is counted from the issuer's own `Date` where it sends one, so that a wrong clock of ours does no harm.
    """
    text = answer.fields.get("retry-after", "").strip()
    if text.isdecimal() and text.isascii():
        return min(int(text[:9]), RETRY_AFTER_LIMIT)
    until, sent = _date(text), _date(answer.fields.get("date", ""))
    start = sent if sent is not None else answer.wall if now is None else now
    return None if until is None else min(max(math.ceil(until - start), 0), RETRY_AFTER_LIMIT)


def _skew(date: float | None, began: float, ended: float) -> float:
    """Return how far `date`, a whole second between the call's begin and end by another clock, is ahead of ours."""
    if date is None or began - 1 <= date <= ended:
        return 0.0
    return date - ended if date > ended else date + 1 - began


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _request(method: str, url: str, fields: Mapping[str, str], content: bytes | None, seconds: float) -> httpx2.Request:
    headers = {
        "accept": "application/json",
        "accept-encoding": "identity",  # a compressed answer could be a bomb, and none is worth compressing (S32)
        "user-agent": f"bearerproxy/{__version__}",
        **fields,
    }
    if content is not None:
        headers["content-type"] = "application/x-www-form-urlencoded"
    timeouts = {**dict.fromkeys(("read", "write", "pool"), seconds), "connect": CALL_SECONDS}
    return httpx2.Request(method, url, headers=headers, content=content, extensions={"timeout": timeouts})


async def _read(response: httpx2.Response, host: str) -> bytes:
    stream = response.stream  # not `aiter_raw`, which refuses an answer that a test made in memory
    if not isinstance(stream, httpx2.AsyncByteStream):
        raise TypeError("the transport is not an asynchronous one")
    body = bytearray()
    async for piece in stream:
        body += piece
        if len(body) > ANSWER_LIMIT:
            raise IssuerUnavailable(f"The issuer {host} answers with more than {ANSWER_LIMIT} bytes.")
    return bytes(body)


def _life(said: object) -> float | None:
    """Return seconds of life: the default where nothing was said, 0 for less, None for nonsense."""
    if said is None:
        return DEFAULT_LIFE_SECONDS
    seconds = _number(said)
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_LIFE_SECONDS)


def _number(said: object) -> float | None:
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        return None
    try:
        number = float(said)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_shown(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= 64 and text.isprintable()


def _is_link(text: object) -> bool:
    """Return whether `text` may be shown and opened: a web address without anything that a terminal would act on."""
    return (
        isinstance(text, str)
        and len(text) <= 2000
        and text.startswith(("https://", "http://"))
        and _BEARER_TOKEN.fullmatch(text) is not None
    )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, parts.hostname, port or {"http": 80, "https": 443}.get(parts.scheme)
