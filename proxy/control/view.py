"""What the control plane may look at, and the three things that it may do; no token is among them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from proxy.attempts import Attempts
from proxy.clock import Clock
from proxy.forecast import Forecast
from proxy.identities import Identity
from proxy.journal import Journal
from proxy.metrics import Metrics
from proxy.news import News
from proxy.upstreams import Upstream


class IdentityStatus(Protocol):
    """How an identity is doing, as its token source tells it."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str:
        """`ready`, `sign-in-required`, `issuer-unavailable`, `misconfigured` or `starting`."""

    @property
    def username(self) -> str | None: ...
    @property
    def is_offline(self) -> bool: ...
    @property
    def expires_at(self) -> float | None:
        """End of the access token, seconds since the epoch; None if there is none."""

    @property
    def refresh_expires_at(self) -> float | None:
        """End of the refresh token at hand, seconds since the epoch; None if the issuer did not tell."""

    @property
    def signed_in_at(self) -> float | None:
        """When the sign-in was made, seconds since the epoch."""

    @property
    def detail(self) -> str | None:
        """One sentence for a person: why it is not ready and what to do; None or empty when there is nothing to say."""

    @property
    def forecast(self) -> Forecast | None:
        """When the sign-in ends; None if there is none."""

    @property
    def renewals(self) -> int:
        """Newer tokens from the issuer, since the start of the process; so are the next two."""

    @property
    def failed_renewals(self) -> Mapping[str, int]:
        """Renewals that failed, by the state that they led to."""

    @property
    def replays(self) -> int:
        """Newer tokens handed out because an upstream answered 401."""

    @property
    def clock_skew(self) -> float:
        """Seconds that the issuer's clock is ahead of this machine's."""


@dataclass(frozen=True, slots=True)
class ControlView:
    """The view of the running proxy; whatever is not awaited answers at once, from memory."""

    identities: Callable[[], Sequence[tuple[Identity, IdentityStatus]]]
    """In the order of the configuration."""
    upstreams: Callable[[], Sequence[Upstream]]
    base_url: Callable[[], str]
    """`http://localhost:8400`, without a trailing slash."""
    warnings: Callable[[], Sequence[str]]
    """What the operator should know about the running configuration, one sentence each."""
    journal: Journal
    metrics: Metrics
    attempts: Attempts
    """Starts sign-ins, and shows how they go."""
    land: Callable[[str], Awaitable[str]]
    """Takes the query with which the issuer sends a browser back; returns what its page says, or raises BadCallback."""
    sign_out: Callable[[str], Awaitable[str]]
    """Signs an identity out, and returns what happened in one sentence."""
    watched: Callable[[str], AbstractContextManager[None]]
    """Entered for as long as a window shows the sign-in page of an identity."""
    news: News
    """Told when the state of an identity or of an attempt changes; closed when the proxy stops."""
    clock: Clock
    version: str
    datasets: Sequence[tuple[str, str]] = ()
    """(deployment, path of its datasets' pages)."""
