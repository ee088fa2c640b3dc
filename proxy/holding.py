"""What this process holds of one identity: its token set, the epoch of that, and why no newer one is to be had.

The parts of a token source share it and change it on the event loop, never across an await. What holds at any time:
- a token that both clocks call valid is used, whatever failed; an expired one is never handed out;
- `epoch` counts explicit sign-ins and sign-outs; what a flight of an earlier epoch brings is thrown away;
- after a failure that time may cure nobody calls the issuer until the back-off is over, and nobody waits;
- after a final failure nobody calls at all, until a person or another process changes the stored set, or somebody the
  secret that was refused.
"""

import math
from collections import Counter
from collections.abc import Callable

from proxy import grants
from proxy.clock import Clock
from proxy.errors import (
    BearerproxyError,
    GrantRefused,
    IdentityMisconfigured,
    IssuerUnavailable,
    ProxyError,
    SignInRequired,
)
from proxy.events import Emit, Misconfigured, RenewalFailed, SignInEnded
from proxy.forecast import Forecast, forecast
from proxy.identities import Grant, Identity
from proxy.renewal import Trouble, backed_off, renew_after
from proxy.store_entry import StoreEntry
from proxy.tokens import TokenSet


class Holding:
    """The state of one token source. Where it is published or forgotten, the turn of `entry` is held."""

    def __init__(
        self, identity: Identity, entry: StoreEntry, *, clock: Clock, emit: Emit, jitter: Callable[[], float]
    ) -> None:
        self.identity = identity
        self.entry = entry
        self.held: TokenSet | None = None
        self.epoch = 0
        self.trouble: Trouble | None = None
        self.is_begun = False
        """True once the store has been read: before that nobody knows what there is to renew."""
        self.seed: str | None = None
        """Fingerprint of what the configuration itself signs in as."""
        self.is_seeding = False
        """True while the next renewal spends the configured refresh token."""
        self.asked_at = -math.inf
        """When a caller last asked, on the boot clock."""
        self.failures = 0
        """Those in a row that time may cure."""
        self.failed_renewals: Counter[str] = Counter()
        self.is_repeatable = identity.grant in grants.REPEATABLE
        self._clock = clock
        self._emit = emit
        self._jitter = jitter
        self._renew_after = math.inf

    # --- deciding

    def valid(self) -> TokenSet | None:
        """Return what both clocks call valid, also within its leeway."""
        return self.held if self.held is not None and self.remaining(self.held) > 0 else None

    def remaining(self, held: TokenSet) -> float:
        return held.remaining(self._clock.wall(), self._clock.boot())

    def is_due(self, held: TokenSet) -> bool:
        return self.seconds_to_renewal(held) <= 0

    def seconds_to_renewal(self, held: TokenSet) -> float:
        age = held.life - self.remaining(held)
        return self._renew_after - age

    def can_renew(self, held: TokenSet | None) -> bool:
        """Return whether a newer set can be had without a person."""
        has_refresh_token = held is not None and held.refresh_token is not None
        return has_refresh_token or self.is_seeding or self.is_repeatable

    def may_call(self) -> bool:
        """Return whether a caller may cause a call now: no back-off, nothing final, and something to call with."""
        return self.is_begun and (self.trouble is None or self._clock.boot() >= self.trouble.asked_at)

    def forecast(self) -> Forecast | None:
        if self.held is None:
            return None
        if self.trouble is not None and self.trouble.is_final:
            return Forecast("known", self.held.expires_at)  # nothing comes after this token
        return forecast(self.held, is_repeatable=self.is_repeatable)

    def refusal(self) -> ProxyError:
        """Return a new exception for one caller."""
        if self.trouble is None:
            name = self.identity.name
            return IssuerUnavailable(f"A token for '{name}' has been asked for and has not come yet.", retry_after=1)
        return self.trouble.told(self._clock.boot())

    def not_signed_in(self, why: str = "") -> str:
        """Return one sentence for a person, with what to do."""
        name = self.identity.name
        if self.identity.grant is Grant.REFRESH_TOKEN:
            return f"The refresh token of '{name}' is no longer good{why}: put a new one into refresh_token."
        ended = f"The sign-in of '{name}' has ended" if why else f"Not signed in as '{name}'"
        return f"{ended}{why}: run: bearerproxy login {name}"

    # --- what changes it

    def publish(self, token_set: TokenSet) -> None:
        """Make `token_set` the one that callers get."""
        if token_set.boot_deadline is None:
            token_set = token_set.entering(self._clock.wall(), self._clock.boot())
        self.held = token_set
        self._renew_after = renew_after(token_set, self._jitter())
        self.epoch = token_set.epoch
        self.is_seeding = False
        self.trouble = None
        self.failures = 0

    def forget(self, epoch: int, reason: str) -> None:
        """Have nothing from now on, and do not fetch either: somebody signed out."""
        name = self.identity.name
        self.held = None
        self.epoch = epoch
        self.is_seeding = False
        self.entry.nothing_to_save()
        self.stop(SignInRequired(f"{reason}; to sign in again, run: bearerproxy login {name}", login=name))

    def stop(self, error: ProxyError) -> None:
        """Make no further call because of `error`, until something changes."""
        self.trouble = Trouble(error, self._clock.boot())

    def failed(self, error: BearerproxyError, began: float) -> None:
        """Note and tell why the renewal that began at `began` brought nothing: final, or to be tried again."""
        name = self.identity.name
        match error:
            case GrantRefused():
                self.stop(SignInRequired(self.not_signed_in(f" ({error})"), login=name))
                self._emit(SignInEnded(name, str(error)))
            case SignInRequired():
                self.stop(error)
                self._emit(SignInEnded(name, "there is no refresh token"))
            case IdentityMisconfigured():
                self.stop(error)
                self._emit(Misconfigured(name, error.detail))
            case _:
                self.back_off(error, began)
        if self.trouble is not None:
            self.failed_renewals[self.trouble.state] += 1

    def back_off(self, error: BearerproxyError, began: float) -> None:
        """Pause, for longer after each failure in a row."""
        told = error if isinstance(error, IssuerUnavailable) else IdentityMisconfigured(str(error))
        boot = self._clock.boot()
        self.trouble = backed_off(told, failures=self.failures, began=began, boot=boot, jitter=self._jitter())
        self.failures += 1
        pause, has_valid_token = self.trouble.asked_at - boot, self.valid() is not None
        self._emit(RenewalFailed(self.identity.name, told.detail, pause, has_valid_token))
