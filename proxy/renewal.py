"""When to renew and when to leave the issuer in peace: what token_source decides, without its tasks (token-life 2)."""

import math
from dataclasses import dataclass

from proxy.errors import IdentityMisconfigured, IssuerUnavailable, ProxyError, SignInRequired
from proxy.tokens import TokenSet

LONGEST_ASKED_PAUSE_SECONDS = 10.0
LONGEST_IDLE_PAUSE_SECONDS = 60.0
FORCED_RENEWAL_SECONDS = 30.0
OFFLINE_RENEWAL_SECONDS = 0.9 * 86400
"""Below a day, jitter included: offline tokens have an idle limit that nobody tells (token-life T10)."""

_STATES: dict[type[ProxyError], str] = {
    SignInRequired: "sign-in-required",
    IssuerUnavailable: "issuer-unavailable",
    IdentityMisconfigured: "misconfigured",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why no newer token is to be had, and from when (on the boot clock) it may be tried again."""

    error: ProxyError
    since: float
    asked_at: float = math.inf
    """When a caller may cause the next call; never, if the trouble is final."""
    idle_at: float = math.inf
    """When the background makes it while nobody asks."""

    @property
    def is_final(self) -> bool:
        return math.isinf(self.asked_at)

    @property
    def state(self) -> str:
        return _STATES[type(self.error)]

    def next_call(self, asked_at: float) -> float:
        """Return when the background makes the next call, if a caller asked last at `asked_at`."""
        return self.asked_at if asked_at >= self.since else self.idle_at

    def told(self, boot: float) -> ProxyError:
        """Return a new exception for one caller; the same one raised again and again would grow its traceback."""
        wait = None if self.is_final else max(math.ceil(self.asked_at - boot), 1)
        return type(self.error)(self.error.detail, retry_after=wait, login=self.error.login)


def backed_off(error: ProxyError, *, failures: int, began: float, boot: float, jitter: float) -> Trouble:
    """Return the pause after the call that began at `began` and failed now, after `failures` failures before it.

    1, 2, 4, 8, 10 s and so on while callers ask, up to 60 s while nobody does, or longer if the issuer said so. Counted
    from the start of the call: one that hung for its whole time-out was itself a pause.
    """
    # Half of the jitter: under 70 calls in ten minutes, yet back within 12 s, leaves no room for more.
    jitter = (1 + jitter) / 2
    least = boot + max(float(error.retry_after or 0), 1.0)
    doubled = 2.0 ** min(failures, 6)
    return Trouble(
        error,
        since=boot,
        asked_at=max(least, began + min(doubled, LONGEST_ASKED_PAUSE_SECONDS) * jitter),
        idle_at=max(least, began + min(doubled, LONGEST_IDLE_PAUSE_SECONDS) * jitter),
    )


def is_usually_in_time(seconds: float, token_set: TokenSet) -> bool:
    """Return whether a call that takes `seconds`, as the last good one did, brings a token that callers can be given.

    Then one that came too late met a bad moment, and the next one is worth making at once (T5).
    """
    return seconds < token_set.life - token_set.leeway


def renew_after(token_set: TokenSet, jitter: float) -> float:
    """Return the age, in seconds, at which `token_set` is renewed in the background; `jitter` is about 1.

    At two thirds of the access token's life; at half of the refresh token's, where its end is known, because a sign-in
    dies at the issuer's idle time however long its access tokens live; an offline sign-in at least daily (T10).
    """
    ages = [token_set.life * 2 / 3]
    if token_set.refresh_expires_at is not None:
        ages.append(max((token_set.refresh_expires_at - token_set.obtained_at) / 2, 1.0))
    if token_set.is_offline:
        ages.append(OFFLINE_RENEWAL_SECONDS)
    return min(ages) * jitter


@dataclass(frozen=True, slots=True)
class Forced:
    """The last renewal that an upstream's 401 caused."""

    at: float
    access_token: str | None = None
    """What it brought; refused again, it is not to blame."""

    def allows(self, access_token: str, boot: float) -> bool:
        """Return whether a 401 to `access_token` may cause another one (T20)."""
        return boot - self.at >= FORCED_RENEWAL_SECONDS and access_token != self.access_token
