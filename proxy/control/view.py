"""What the control plane may look at: callables handed in by the composition root, and no token among them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.clock import Clock
from proxy.forecast import Forecast
from proxy.identities import Identity
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
    """The view of the running proxy; each callable answers at once, from memory."""

    identities: Callable[[], Sequence[tuple[Identity, IdentityStatus]]]
    """In the order of the configuration."""
    upstreams: Callable[[], Sequence[Upstream]]
    base_url: Callable[[], str]
    """`http://localhost:8400`, without a trailing slash."""
    warnings: Callable[[], Sequence[str]]
    """What the operator should know about the running configuration, one sentence each."""
    clock: Clock
    version: str
