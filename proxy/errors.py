"""The error tree. Every failure that a caller or a person can meet is one of these.

BearerproxyError
├── ConfigError            the configuration is wrong; carries *all* mistakes found (exit status 2)
├── SecretError            a secret reference cannot be read
├── StoreError             the token store cannot be read or written
│   └── StoreUnavailable   one that replicas share is away: nobody can be excluded from a renewal
├── NotTakenOver           another program's refresh token cannot become a sign-in of ours
├── GrantRefused           the issuer says that this grant has ended (RFC 6749 5.2 `invalid_grant` and its kin)
├── CallerGone             the local caller hung up; there is nobody to tell
├── BrokenOff              an answer that has begun cannot be finished: the connection must break, visibly
└── ProxyError             answered to the local caller; one subclass for each line of the table in docs/operations.md
    ├── CallerRefused · BadRequest · NoUpstream · NotAllowed · KeyRequired · NotImplementedHere
    ├── NotFound · NotPermitted
    ├── SignInRequired · IssuerUnavailable · IdentityMisconfigured · Overloaded
    └── UpstreamUnreachable · UpstreamInvalid · UpstreamTimeout · LoopDetected · TokenEcho

`detail` is one sentence for a person: what is wrong and what to do next. It never holds a secret, a token, an
upstream's or an issuer's body.
"""

import traceback
from dataclasses import dataclass
from pathlib import PurePath
from typing import ClassVar


class BearerproxyError(Exception):
    """Anything of ours."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong in the configuration."""

    where: str
    """File or variable, with the key: `proxy.toml: [upstream.data] url`, `BEARERPROXY_SERVER__PORT`."""
    what: str
    """What is wrong and, where there is one, the nearest valid name."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class ConfigError(BearerproxyError):
    """The configuration cannot be used; `mistakes` holds every reason, in the order of the file."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


class SecretError(BearerproxyError):
    """A secret reference (`env:`, `file:`, `keyring:`, `command:`) does not yield a value; the text names the cure."""


class StoreError(BearerproxyError):
    """The token store is not safe to use, not readable or not writable; the text names the cure."""


class StoreUnavailable(StoreError):
    """A store that replicas share cannot be reached; transient.

    Others may be renewing meanwhile, so nothing may be renewed that spends a refresh token.
    """


class NotTakenOver(BearerproxyError):
    """Another program's refresh token cannot become a sign-in of ours; the text says why, and repeats none of it."""


class GrantRefused(BearerproxyError):
    """The issuer refused the grant for good: another try with the same grant cannot succeed (RFC 6749 5.2)."""

    def __init__(self, code: str, description: str = "") -> None:
        super().__init__(f"{code}: {description}" if description else code)
        self.code = code
        """The wire's `error`, for example `invalid_grant`, `access_denied`, `expired_token`."""
        self.description = description
        """The wire's `error_description`, escaped and shortened for people; empty if there was none."""


class CallerGone(BearerproxyError):
    """The local caller closed its connection; the upstream call is to be dropped."""


class BrokenOff(BearerproxyError):
    """An answer broke off after its head was sent: whoever serves must cut the connection (RFC 9112 8)."""


def defect(error: BaseException) -> str:
    """Return what may be told of an error that nobody expected: its type and place, not its text.

    The text may hold what was worked on: a UnicodeEncodeError of a header carries the whole token.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {PurePath(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place


class ProxyError(BearerproxyError):
    """A failure of our own that a local caller gets to see."""

    status: int = 500
    """HTTP status of the answer; some failures have a sharper one than their class."""
    kind: ClassVar[str] = "internal"
    """Last segment of the problem's `type`: `/-/errors/KIND`."""
    title: ClassVar[str] = "Something went wrong inside bearerproxy"
    proxy_error: ClassVar[str] = "proxy_internal_error"
    """`error` parameter of Proxy-Status (RFC 9209 2.3)."""

    def __init__(self, detail: str, *, retry_after: int | None = None, login: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        """Whole seconds for Retry-After; None sends no such field."""
        self.login = login
        """Identity whose sign-in page cures this; None if signing in does not help."""


class CallerRefused(ProxyError):
    """Host, Origin or peer address is not one that the guard lets in."""

    status = 403
    kind = "caller-refused"
    title = "This caller is not let in"
    proxy_error = "http_request_denied"


class BadRequest(ProxyError):
    """Malformed target, framing or field."""

    status = 400
    kind = "bad-request"
    title = "The request is malformed"
    proxy_error = "http_request_error"

    def __init__(self, detail: str, *, status: int = 400) -> None:
        super().__init__(detail)
        self.status = status  # 414, 431 and 505 are the same failure with a sharper number


class NoUpstream(ProxyError):
    """No mount holds this path."""

    status = 404
    kind = "no-upstream"
    title = "Nothing is mounted here"
    proxy_error = "destination_not_found"


class NotAllowed(ProxyError):
    """The policy of the upstream forbids this method (405) or path (403)."""

    status = 403
    kind = "not-allowed"
    title = "The policy of this mount forbids that"
    proxy_error = "http_request_denied"

    def __init__(self, detail: str, *, allow: str | None = None) -> None:
        super().__init__(detail)
        self.allow = allow
        """Value of `Allow` (RFC 9110 10.2.1); None means that the path, not the method, is forbidden."""
        if allow is not None:
            self.status = 405  # RFC 9110 15.5.6


class NotFound(ProxyError):
    """There is no dataset or file of this name (the service says 400)."""

    status = 404
    kind = "not-found"
    title = "There is no such dataset or file"
    proxy_error = "destination_not_found"


class NotPermitted(ProxyError):
    """The signed-in person may not read this dataset (the service says 401)."""

    status = 403
    kind = "not-permitted"
    title = "You may not read this"
    proxy_error = "http_request_denied"


class KeyRequired(ProxyError):
    """`server.api_key` is set and the caller did not present it."""

    status = 403
    kind = "key-required"
    title = "This proxy asks for its API key"
    proxy_error = "http_request_denied"


class NotImplementedHere(ProxyError):
    """Upgrade, unknown transfer coding, unknown method."""

    status = 501
    kind = "not-implemented"
    title = "Not implemented"
    proxy_error = "http_request_error"


class SignInRequired(ProxyError):
    """A person has to sign in before this identity can serve."""

    status = 503
    kind = "sign-in-required"
    title = "Sign-in needed"
    proxy_error = "http_request_denied"


class IssuerUnavailable(ProxyError):
    """No valid token is left and the issuer cannot be reached or answers nonsense; transient."""

    status = 503
    kind = "issuer-unavailable"
    title = "The issuer cannot be reached"
    proxy_error = "destination_unavailable"


class IdentityMisconfigured(ProxyError):
    """The issuer refuses our client, secret, scope or grant; only a changed configuration helps."""

    status = 503
    kind = "identity-misconfigured"
    title = "The issuer refuses this client"
    proxy_error = "proxy_configuration_error"
    code = ""
    """The wire's `error` (RFC 6749 5.2), if it was the issuer that refused."""


class Overloaded(ProxyError):
    """Too much at once."""

    status = 503
    kind = "overloaded"
    title = "Too many requests at once"
    proxy_error = "connection_limit_reached"


class UpstreamUnreachable(ProxyError):
    """No connection: name, route, refusal, TLS."""

    status = 502
    kind = "upstream-unreachable"
    title = "The upstream cannot be reached"
    proxy_error = "destination_unavailable"


class UpstreamInvalid(ProxyError):
    """The upstream's answer is not HTTP that may be relayed."""

    status = 502
    kind = "upstream-invalid"
    title = "The upstream's answer is not valid HTTP"
    proxy_error = "http_protocol_error"


class UpstreamTimeout(ProxyError):
    """The upstream accepted the request and sent no header in time."""

    status = 504
    kind = "upstream-timeout"
    title = "The upstream is too slow"
    proxy_error = "http_response_timeout"


class LoopDetected(ProxyError):
    """The request has been here before."""

    status = 508
    kind = "loop-detected"
    title = "This request is going in a circle"
    proxy_error = "proxy_loop_detected"


class TokenEcho(ProxyError):
    """The answer holds the access token that we presented."""

    status = 502
    kind = "token-echo"
    title = "The answer holds your access token"
    proxy_error = "http_request_denied"


PROXY_ERRORS: tuple[type[ProxyError], ...] = (
    CallerRefused, BadRequest, NoUpstream, NotAllowed, NotFound, NotPermitted, KeyRequired, NotImplementedHere,
    SignInRequired, IssuerUnavailable, IdentityMisconfigured, Overloaded, UpstreamUnreachable, UpstreamInvalid,
    UpstreamTimeout, LoopDetected, TokenEcho,
)  # fmt: skip
