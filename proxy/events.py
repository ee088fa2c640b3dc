"""Facts, one frozen type each. The core emits them; logs (and later counters and the journal) listen.

No event carries a token, a code or a secret; targets are masked before they get here (headers.masked_target).
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Listening:
    """Listeners are open and requests are served."""

    urls: tuple[str, ...]


@dataclass(slots=True)
class Relayed:
    """A request went to an upstream and something of an answer came back."""

    upstream: str
    method: str
    target: str
    """The local request target, signatures masked."""
    status: int
    received: int
    """Bytes of the request body that went to the upstream."""
    sent: int
    """Bytes of the answer's body that went to the caller."""
    seconds: float
    """From the request's head to the last byte of the answer."""
    is_complete: bool = True
    """False if the answer broke off; the caller saw a broken connection."""
    is_replay: bool = False
    """True if a first 401 was cured by a newer token."""
    token_age: float | None = None
    """Seconds since the token that was presented last had been issued; None if none was."""
    peer: str = "-"
    """The caller's address, `-` on a unix socket."""
    agent: str = "-"
    """The caller's User-Agent, shortened; `-` if there was none."""
    traceparent: str = "-"
    """The caller's place in a trace (W3C Trace Context), as it went to the upstream; `-` if it said none."""


@dataclass(slots=True)
class Refused:
    """A request got an answer of our own instead of an upstream's."""

    kind: str
    status: int
    method: str
    target: str
    detail: str


@dataclass(slots=True)
class SignedIn:
    """An identity has a sign-in that it did not have before."""

    identity: str
    username: str | None
    is_offline: bool


@dataclass(slots=True)
class SignedOut:
    """A sign-in was removed on purpose."""

    identity: str


@dataclass(slots=True)
class SignInEnded:
    """The issuer ended the sign-in; a person has to act."""

    identity: str
    reason: str


@dataclass(slots=True)
class SignInEnding:
    """A known end of the sign-in is near: told 24 h, 1 h and 10 min before, once each."""

    identity: str
    ends_at: float
    """Seconds since the epoch."""
    seconds: float
    """From now to then."""


@dataclass(slots=True)
class SignInAwaited:
    """A request is held until a person has signed in on the page, which has been shown to them."""

    identity: str
    url: str
    seconds: float
    """How long it is held at most."""


@dataclass(slots=True)
class TokenRenewed:
    """A newer access token is stored and published."""

    identity: str
    life_seconds: float
    seconds: float
    """How long the token call took."""


@dataclass(slots=True)
class RenewalFailed:
    """A token call failed in a way that time may cure; the old token keeps serving while it lives."""

    identity: str
    reason: str
    retry_seconds: float
    has_valid_token: bool


@dataclass(slots=True)
class Misconfigured:
    """The issuer refuses the client, its secret, scope or grant; no further call until the configuration changes."""

    identity: str
    reason: str


@dataclass(slots=True)
class StoreTrouble:
    """The token store could not be read or written; memory keeps serving where it has a token."""

    reason: str


@dataclass(slots=True)
class Warned:
    """Something that the operator should know and may want to change."""

    message: str


@dataclass(slots=True)
class Failed:
    """A defect of ours: a task ended with an exception that nobody expected."""

    where: str
    error: str


Event = (
    Listening | Relayed | Refused | SignedIn | SignedOut | SignInEnded | SignInEnding | SignInAwaited | TokenRenewed
    | RenewalFailed | Misconfigured | StoreTrouble | Warned | Failed
)  # fmt: skip
Emit = Callable[[Event], None]


def ignore(_: Event) -> None:
    """Emit to nobody."""
