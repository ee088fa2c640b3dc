"""A valid token, please: the life of one identity's token set.

Theory of operation. At most one renewal (a *flight*) is under way for an identity. It is a task of its own that no
caller owns, so a caller who hangs up loses nothing; callers wait for it with a bound of their own. Under the renewal
lock, which excludes other processes too, it looks at the store again, because somebody may have renewed; then it asks
the issuer, stores the answer, and only then publishes it (persist before publish: a rotated refresh token that only
memory knew would be lost with the process, and the sign-in with it).

A background task starts flights ahead of expiry, with or without traffic, and looks at the store's fingerprint each
second, or as soon as the store is told of a write: that is how what another process did arrives.

What holds at any time:
- a token that both clocks call valid is used, whatever failed; an expired one is never handed out;
- `_epoch` counts explicit sign-ins and sign-outs; what a flight of an earlier epoch brings is thrown away;
- after a failure that time may cure nobody calls the issuer until the back-off is over, and nobody waits;
- after a final failure nobody calls at all, until a person or another process changes the stored set.
"""

import asyncio
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from proxy import grants
from proxy.clock import Clock
from proxy.errors import (
    BearerproxyError,
    GrantRefused,
    IdentityMisconfigured,
    IssuerUnavailable,
    ProxyError,
    SecretError,
    SignInRequired,
)
from proxy.events import (
    Emit,
    Failed,
    Misconfigured,
    RenewalFailed,
    SignedIn,
    SignedOut,
    SignInEnded,
    TokenRenewed,
    Warned,
    ignore,
)
from proxy.forecast import Forecast, Lookout, forecast
from proxy.grants import refresh_token
from proxy.identities import Grant, Identity
from proxy.issuer import Issuer, issuer_name
from proxy.renewal import Forced, Trouble, backed_off, is_usually_in_time, renew_after
from proxy.store_entry import Reading, StoreEntry
from proxy.stores import TokenStore, Trace
from proxy.tasks import Tasks
from proxy.tokens import TokenSet

WAIT_SECONDS = 10.0
"""How long a caller waits for a flight, and `close` for one that is under way."""
LOCK_SECONDS = 25.0
"""Longer than another process's renewal can take: metadata, token call and one retry."""
POLL_SECONDS = 1.0
SHORTEST_PAUSE_SECONDS = 0.05
BETWEEN_FLIGHTS_SECONDS = 0.5
"""The background never starts flights faster than this, whatever an issuer says about lives."""
BEGIN_AGAIN_SECONDS = 10.0
SKEW_SECONDS = 60.0
"""A clock that is this far from the issuer's is worth a word; nothing here depends on it (T6)."""


@dataclass(frozen=True, slots=True)
class IdentityStatus:
    """What there is to show about one identity."""

    name: str
    state: str
    """`ready`, `sign-in-required`, `issuer-unavailable`, `misconfigured` or `starting`."""
    username: str | None = None
    is_offline: bool = False
    expires_at: float | None = None
    refresh_expires_at: float | None = None
    """None is unknown."""
    signed_in_at: float | None = None
    detail: str = ""
    """What is wrong and what to do, also while a token is still valid; empty if all is well."""
    forecast: Forecast | None = None
    """When the sign-in ends; None if there is none."""
    renewals: int = 0
    """Newer sets from the issuer, since the start; so are the two below."""
    failed_renewals: Mapping[str, int] = field(default_factory=dict)
    """By what they led to: a state, as above."""
    replays: int = 0
    """Newer tokens handed out for a request that an upstream answered with 401."""
    clock_skew: float = 0.0
    """Seconds that the issuer's clock is ahead of this machine's."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """What a flight brought, and the epoch that must still be the current one for it to count."""

    token_set: TokenSet
    follows: int


class TokenSource:
    """Keeps the token set of one identity fresh. `start` first, `close` last; both belong to the owner."""

    def __init__(
        self,
        identity: Identity,
        *,
        issuer: Issuer,
        store: TokenStore,
        clock: Clock,
        emit: Emit = ignore,
        jitter: Callable[[], float] = lambda: random.uniform(0.9, 1.1),  # noqa: S311 - spreads load, guards nothing
    ) -> None:
        self.identity = identity
        self._issuer = issuer
        self._entry = StoreEntry(identity.name, store, clock=clock, emit=emit)
        self._clock = clock
        self._emit = emit
        self._jitter = jitter
        self._tasks = Tasks()
        self._flight: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._held: TokenSet | None = None
        self._renew_after = math.inf
        self._epoch = 0
        self._seed: str | None = None
        self._is_seeding = False
        self._is_begun = False
        self._news = asyncio.Event()
        """Set by the store when it is told that somebody wrote."""
        self._begin_again_at = -math.inf
        self._trouble: Trouble | None = None
        self._failures = 0
        self._late_answers = 0
        """Answers in a row whose token had ended on its way."""
        self._usual_seconds = math.inf
        """How long the last renewal took that brought a valid token."""
        self._asked_at = -math.inf
        self._departed_at = -math.inf
        self._forced: dict[str, Forced] = {}
        self._lookout = Lookout(identity.name)
        self._renewals = 0
        self._failed_renewals: Counter[str] = Counter()
        self._replays = 0
        self._is_skew_told = False

    async def start(self) -> None:
        """Take up what is stored and start the background task; the issuer is not waited for."""
        self._entry.watch(self._news.set)
        await self._begin()
        self._watching = self._tasks.start(self._watch(), name=f"token source {self.identity.name}")

    async def close(self) -> None:
        """End the background task; a flight under way may finish and store what it got, within a bound (T26)."""
        if self._watching is not None:
            self._watching.cancel()
        if self._flight is not None:
            await self._wait_for(self._flight)
        await self._tasks.close()

    def current(self) -> TokenSet | None:
        """Return the held set if it is valid beyond its leeway, else None; this is the way of nearly every request."""
        wall, boot = self._clock.wall(), self._clock.boot()
        self._asked_at = boot
        held = self._held
        return held if held is not None and held.remaining(wall, boot) > held.leeway else None

    async def token(self) -> TokenSet:
        """Return a set whose access token is valid now, waiting a bounded time for a renewal where one is needed.

        Raises SignInRequired, IssuerUnavailable or IdentityMisconfigured if there is none.
        """
        held = self.current()
        if held is not None:
            return held
        if self._may_call():
            held, flight = self._valid(), self._depart()
            await self._wait_for(flight, self._patience())
            if held is not None and self._valid() is None:  # it ended as we woke up, on a machine that is slow
                await self._wait_for(flight)
        held = self._valid()
        if held is None:
            raise self._refusal()
        return held

    async def fresh(self, share: float) -> TokenSet:
        """Return a valid set, renewed first if less than `share` of its life is left: for what is sent only once (T23).

        Where it cannot be renewed in time, the one that there is has to do. Raises as `token` does.
        """
        held = await self.token()
        is_old = held.remaining(self._clock.wall(), self._clock.boot()) < held.life * share
        if is_old and self._may_call() and self._can_renew(held):
            await self._wait_for(self._depart(), self._patience())
        return self._valid() or await self.token()

    async def reject(self, rejected: TokenSet, *, upstream: str = "") -> TokenSet | None:
        """Return a newer set to replay with after `upstream` answered 401 to `rejected`, else None.

        Compare and drop: another caller may have renewed already, and its fresh token is not to blame. At most one
        forced renewal in 30 s for each upstream, whatever the token's age; what it brought is not blamed again.
        """
        held = self._valid()
        if held is not None and held.access_token == rejected.access_token:
            if self._flight is None and not self._may_force(held, upstream):
                return None
            await self._wait_for(self._flight or self._force(held, upstream))
            held = self._valid()
        elif held is None:
            try:
                held = await self.token()
            except ProxyError:
                return None
        if held is None or held.access_token == rejected.access_token:
            return None
        self._replays += 1
        return held

    def status(self) -> IdentityStatus:
        held, trouble = self._held, self._trouble
        state = "starting" if trouble is None else trouble.state
        return IdentityStatus(
            name=self.identity.name,
            state=state if self._valid() is None else "ready",
            username=None if held is None else held.username,
            is_offline=held is not None and held.is_offline,
            expires_at=None if held is None else held.expires_at,
            refresh_expires_at=None if held is None else held.refresh_expires_at,
            signed_in_at=None if held is None else held.signed_in_at,
            detail=self._entry.trouble if trouble is None else trouble.error.detail,
            forecast=self._forecast(),
            renewals=self._renewals,
            failed_renewals=dict(self._failed_renewals),
            replays=self._replays,
            clock_skew=self._issuer.skew_seconds,
        )

    async def adopt(self, token_set: TokenSet) -> None:
        """Take up an explicit sign-in that was made in this process: a new epoch, which ends every flight's say."""
        async with self._entry.turn:
            reading = await self._look()
            if reading is not None and reading.token_set == token_set:
                return  # the sign-in had stored it itself
            self._is_begun = True
            self._epoch = max(self._epoch, 0 if reading is None else reading.trace.epoch) + 1
            adopted = replace(token_set, epoch=self._epoch, seed=token_set.seed or self._seed)
            await self._entry.save(adopted)
            self._publish(adopted)
        self._emit(SignedIn(self.identity.name, adopted.username, adopted.is_offline))

    async def sign_out(self) -> str:
        """Revoke the grant at the issuer (RFC 7009), forget it here, and return what happened in one sentence.

        Works without `start`, and without the issuer: then only the local part is done, and the sentence says so.
        """
        name = self.identity.name
        if self._flight is not None:
            await self._wait_for(self._flight)  # or we would revoke a refresh token that has just been replaced
        held, is_unsaved = self._held, self._entry.is_unsaved
        self._forget(self._epoch + 1, f"Signed out of '{name}'")
        async with AsyncExitStack() as stack:
            if self._flight is None:  # else it is our own flight that holds the lock, and hangs
                await self._entry.lock(stack, seconds=WAIT_SECONDS)
            async with self._entry.turn:
                reading = await self._entry.read()
                if reading is not None and reading.token_set is not None and not is_unsaved:
                    held = reading.token_set  # another process may have renewed since
                if held is None and reading is not None:
                    return f"Nobody was signed in as '{name}'."
                trouble = await self._end(held)
        self._emit(SignedOut(name))
        if trouble:
            return f"Signed out of '{name}' here, but not everywhere: {trouble}"
        return f"Signed out of '{name}', here and at the issuer."

    # --- deciding

    def _valid(self) -> TokenSet | None:
        held = self._held
        return held if held is not None and held.remaining(self._clock.wall(), self._clock.boot()) > 0 else None

    def _patience(self) -> float:
        """Return how long a caller waits for a flight: not so long that the token it could have had ends meanwhile."""
        held = self._valid()
        if held is None:
            return WAIT_SECONDS
        return min(WAIT_SECONDS, held.remaining(self._clock.wall(), self._clock.boot()) / 2)

    def _forecast(self) -> Forecast | None:
        held, trouble = self._held, self._trouble
        if held is None:
            return None
        if trouble is not None and trouble.is_final:
            return Forecast("known", held.expires_at)  # nothing comes after this token
        return forecast(held, is_repeatable=self.identity.grant in grants.REPEATABLE)

    def _may_call(self) -> bool:
        """Return whether a caller may cause a call now: no back-off, nothing final, and something to call with."""
        trouble = self._trouble
        return self._is_begun and (trouble is None or self._clock.boot() >= trouble.asked_at)

    def _may_force(self, held: TokenSet, upstream: str) -> bool:
        forced = self._forced.get(upstream)
        if forced is not None and not forced.allows(held.access_token, self._clock.boot()):
            return False
        return self._may_call() and self._can_renew(held)

    def _can_renew(self, held: TokenSet | None) -> bool:
        """Return whether a newer set can be had without a person."""
        has_refresh_token = held is not None and held.refresh_token is not None
        return has_refresh_token or self._is_seeding or self.identity.grant in grants.REPEATABLE

    def _seconds_to_renewal(self) -> float:
        """Return how long the background waits before the next flight; infinite if only an event can cause one."""
        trouble, held, boot = self._trouble, self._held, self._clock.boot()
        if not self._is_begun or self._flight is not None or not self._can_renew(held):
            return math.inf
        seconds = self._departed_at + BETWEEN_FLIGHTS_SECONDS - boot
        if held is not None:
            seconds = max(seconds, self._renew_after - self._age(held))
        if trouble is not None:
            seconds = max(seconds, trouble.next_call(self._asked_at) - boot)
        return seconds

    def _is_ours(self, stored: TokenSet) -> bool:
        """Return whether our issuer issued it; another one's tokens would be shown to a stranger (S27)."""
        return stored.issuer in (None, issuer_name(self.identity))

    def _suits(self, stored: TokenSet) -> bool:
        """Return whether a stored set is one that this configuration could have obtained.

        A service account's set is not a person's, and one service account's is not another's.
        """
        if not self._is_ours(stored):
            return False
        if self.identity.grant in grants.REPEATABLE:
            return stored.seed == self._seed or (stored.seed is None and stored.grant == self.identity.grant)
        return stored.grant not in grants.REPEATABLE

    def _refusal(self) -> ProxyError:
        """Return a new exception for one caller."""
        name, trouble = self.identity.name, self._trouble
        if trouble is None:
            return IssuerUnavailable(f"A token for '{name}' has been asked for and has not come yet.", retry_after=1)
        return trouble.told(self._clock.boot())

    # --- flying

    def _depart(self, blamed: str | None = None, upstream: str | None = None) -> asyncio.Task[None]:
        """Return the flight under way, or start one."""
        if self._flight is None:
            self._departed_at = self._clock.boot()
            name = f"renewal of {self.identity.name}"
            self._flight = self._tasks.start(self._fly(blamed, upstream), name=name)
            self._flight.add_done_callback(self._landed)
        return self._flight

    def _force(self, held: TokenSet, upstream: str) -> asyncio.Task[None]:
        self._forced[upstream] = Forced(self._clock.boot())
        return self._depart(held.access_token, upstream)

    def _landed(self, _: asyncio.Task[None]) -> None:
        self._flight = None

    async def _wait_for(self, flight: asyncio.Task[None], seconds: float = WAIT_SECONDS) -> None:
        """Wait for `flight`, bounded; neither the bound nor the caller's end touches it."""
        bound = self._tasks.start(self._clock.sleep(seconds), name="bound of a wait")
        try:
            await asyncio.wait({flight, bound}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            bound.cancel()

    async def _fly(self, blamed: str | None, upstream: str | None) -> None:
        """Renew; `blamed` is the access token that `upstream` refused. Never raises.

        A try that the machine slept through says nothing of the issuer, and callers wait: it is made again, once.
        """
        try:
            if await self._renew(blamed, may_repeat=True):
                _ = await self._renew(blamed, may_repeat=False)
        finally:
            if upstream is not None and self._held is not None and self._held.access_token != blamed:
                self._forced[upstream] = replace(self._forced[upstream], access_token=self._held.access_token)

    async def _renew(self, blamed: str | None, *, may_repeat: bool) -> bool:
        """Renew, or note why not; returns whether to do so again at once, which it asks for only if it may."""
        known = self._held.access_token if blamed is None and self._held is not None else blamed
        epoch, began, has_asked = self._epoch, self._clock.boot(), False
        try:
            async with self._alone():
                async with self._entry.turn:
                    _ = await self._look()
                self._refuse_blind()
                epoch, held = self._epoch, self._held
                is_renewed = held is not None and held.access_token != known and not self._is_due(held)
                if is_renewed or (self._trouble is not None and self._trouble.is_final):
                    return False  # another process did, while we waited for the lock; or it signed out
                has_asked, asked = True, self._clock.boot()
                new = await self._fetch(held)
                if new is None or not await self._keep(new):
                    return False
                return self._kept(new.token_set, began, asked, may_repeat=may_repeat)
        except BearerproxyError as error:
            is_passing = isinstance(error, IssuerUnavailable) and error.retry_after is None
            if may_repeat and has_asked and is_passing and self._issuer.was_slept_through:
                return True  # the connection did not live through it, most likely (T8)
            if epoch == self._epoch:
                await self._use_up_seed(error)
                self._failed(error, began)
        except Exception as error:  # noqa: BLE001 - a defect of ours must not end the renewals
            self._emit(Failed(f"renewal of {self.identity.name}", f"{type(error).__name__}: {error}"))
            self._failed(IssuerUnavailable(f"The renewal of '{self.identity.name}' failed inside bearerproxy."), began)
        return False

    def _age(self, held: TokenSet) -> float:
        return held.life - held.remaining(self._clock.wall(), self._clock.boot())

    def _is_due(self, held: TokenSet) -> bool:
        return self._age(held) >= self._renew_after

    async def _fetch(self, held: TokenSet | None) -> Fresh | None:
        """Return a set from the issuer, or None if the store turned out to hold a fresh one."""
        epoch = self._epoch  # read before anything is awaited: a sign-out meanwhile must show
        if self._is_seeding:
            fresh = await grants.obtain(self._issuer, self.identity)
            return Fresh(replace(fresh, epoch=epoch + 1, seed=self._seed), follows=epoch)
        refused = None
        for _ in range(2):  # one `invalid_grant` costs one call, two if the store held a newer token
            if held is None or held.refresh_token is None or held.grant == Grant.CLIENT_CREDENTIALS:
                break
            try:
                return Fresh(await refresh_token.renew(self._issuer, held), follows=held.epoch)
            except GrantRefused as error:
                refused, spent = error, held.refresh_token
            async with self._entry.turn:
                _ = await self._look()
            held = self._held
            if held is None or held.refresh_token == spent:
                break
            if not self._is_due(held):
                return None
        if self.identity.grant in grants.REPEATABLE:
            return Fresh(await self._repeat(held, epoch), follows=epoch)
        if refused is not None:
            raise refused
        raise SignInRequired(self._not_signed_in(), login=self.identity.name)

    async def _repeat(self, held: TokenSet | None, epoch: int) -> TokenSet:
        """Obtain anew what needs no person."""
        try:
            fresh = await grants.obtain(self._issuer, self.identity)
        except GrantRefused as refused:
            raise IdentityMisconfigured(
                f"The issuer refuses what is configured ({refused}); check username and password of "
                f"[identity.{self.identity.name}]."
            ) from refused
        signed_in_at = fresh.signed_in_at if held is None else held.signed_in_at
        return replace(fresh, epoch=epoch, seed=self._seed, signed_in_at=signed_in_at)

    async def _use_up_seed(self, error: BearerproxyError) -> None:
        """Remember a seed that the issuer refused, so that it is never sent again."""
        if not self._is_seeding or not isinstance(error, GrantRefused):
            return
        self._is_seeding = False
        async with self._entry.turn:
            trace = await self._entry.delete(self._seed)
            if trace is not None:
                self._epoch = trace.epoch

    async def _keep(self, new: Fresh) -> bool:
        """Persist, then publish; nothing of both if a sign-in or a sign-out came in between. Returns whether it did."""
        fresh, epoch = new.token_set, new.follows
        async with self._entry.turn:
            if epoch != self._epoch:
                return False
            if not await self._entry.save(fresh):
                reading = await self._look()
                if reading is not None and reading.token_set is not None and reading.token_set == self._held:
                    return False  # a newer sign-in; or we were so slow that another replica took over, and has renewed
                if epoch == self._epoch:  # neither a sign-out nor a sign-in that we could use
                    self._emit(Warned(f"Another configuration signed in as '{self.identity.name}' in the same store."))
            if epoch != self._epoch:
                return False  # signed out while we wrote; the deletion waits for its turn behind us
            is_first = self._held is None
            self._publish(fresh)
        if is_first:
            self._emit(SignedIn(self.identity.name, fresh.username, fresh.is_offline))
        return True

    def _kept(self, fresh: TokenSet, began: float, asked: float, *, may_repeat: bool) -> bool:
        """Tell of a renewal that was asked for at `asked`; returns whether to renew again at once."""
        boot = self._clock.boot()
        self._tell_skew()
        if self._valid() is None:  # its refresh token is what counts; asking again and again would be a loop (T5)
            is_odd = self._issuer.was_slept_through or is_usually_in_time(self._usual_seconds, fresh)
            is_again = may_repeat and is_odd and self._late_answers == 0
            # Pauses of their own: an issuer that answers again does not pay for the outage that was before.
            self._failures, self._late_answers = self._late_answers, self._late_answers + 1
            if not is_again:
                late = f"The issuer's answer for '{self.identity.name}' came so late that the token in it had ended."
                self._back_off(IssuerUnavailable(late), began)
            return is_again
        self._late_answers = 0
        self._usual_seconds = boot - asked
        self._renewals += 1
        self._emit(TokenRenewed(self.identity.name, fresh.life, boot - began))
        return False

    def _tell_skew(self) -> None:
        """Say once that this machine's clock is wrong, or the issuer's."""
        skew, name = self._issuer.skew_seconds, self.identity.name
        is_large = abs(skew) >= SKEW_SECONDS
        if is_large and not self._is_skew_told:
            seconds = f"{abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'}"
            self._emit(
                Warned(
                    f"The clock of this machine is {seconds} that of the issuer of '{name}'. "
                    "Tokens are counted from their requests and serve as they should; certificates may not."
                )
            )
        self._is_skew_told = is_large

    def _failed(self, error: BearerproxyError, began: float) -> None:
        name, boot = self.identity.name, self._clock.boot()
        if isinstance(error, GrantRefused):
            self._trouble = Trouble(SignInRequired(self._not_signed_in(f" ({error})"), login=name), boot)
            self._emit(SignInEnded(name, str(error)))
        elif isinstance(error, SignInRequired):
            self._trouble = Trouble(error, boot)
            self._emit(SignInEnded(name, "there is no refresh token"))
        elif isinstance(error, IdentityMisconfigured):
            self._trouble = Trouble(error, boot)
            self._emit(Misconfigured(name, error.detail))
        else:
            self._back_off(error, began)
        if self._trouble is not None:
            self._failed_renewals[self._trouble.state] += 1

    def _back_off(self, error: BearerproxyError, began: float) -> None:
        told = error if isinstance(error, IssuerUnavailable) else IdentityMisconfigured(str(error))
        boot = self._clock.boot()
        trouble = backed_off(told, failures=self._failures, began=began, boot=boot, jitter=self._jitter())
        self._failures += 1
        self._trouble = trouble
        has_valid_token = self._valid() is not None
        self._emit(RenewalFailed(self.identity.name, told.detail, trouble.asked_at - boot, has_valid_token))

    # --- holding and storing; `_begin` takes the turn of the entry, the others are called within it

    def _publish(self, token_set: TokenSet) -> None:
        """Make `token_set` the one that callers get."""
        if token_set.boot_deadline is None:
            token_set = token_set.entering(self._clock.wall(), self._clock.boot())
        self._held = token_set
        self._renew_after = renew_after(token_set, self._jitter())
        self._epoch = token_set.epoch
        self._is_seeding = False
        self._trouble = None
        self._failures = 0

    def _forget(self, epoch: int, reason: str) -> None:
        """Have nothing from now on, and do not fetch either: somebody signed out."""
        name = self.identity.name
        self._held = None
        self._epoch = epoch
        self._is_seeding = False
        self._entry.nothing_to_save()
        sentence = f"{reason}; to sign in again, run: bearerproxy login {name}"
        self._trouble = Trouble(SignInRequired(sentence, login=name), self._clock.boot())

    def _not_signed_in(self, why: str = "") -> str:
        name = self.identity.name
        if self.identity.grant is Grant.REFRESH_TOKEN:
            return f"The refresh token of '{name}' is no longer good{why}: put a new one into refresh_token."
        ended = f"The sign-in of '{name}' has ended" if why else f"Not signed in as '{name}'"
        return f"{ended}{why}: run: bearerproxy login {name}"

    async def _begin(self) -> None:
        """Take up what is stored, once; tried again by the background while the store or the seed cannot be read."""
        name, boot = self.identity.name, self._clock.boot()
        is_repeatable = self.identity.grant in grants.REPEATABLE
        async with self._entry.turn:
            try:
                self._seed = await grants.fingerprint(self.identity)
            except SecretError as error:
                self._begin_again_at = boot + BEGIN_AGAIN_SECONDS  # it may be a command that takes its time
                if self._trouble is None:
                    self._failed(IdentityMisconfigured(str(error)), boot)
                return
            reading = await self._entry.read()
            if reading is None and not is_repeatable:  # nor may a seed be sent that could be used up already
                sentence = f"Not signed in as '{name}': {self._entry.trouble}"
                is_passing = self._entry.is_unavailable
                self._trouble = Trouble(
                    IssuerUnavailable(sentence) if is_passing else SignInRequired(sentence, login=name), boot
                )
                return
            stored, trace = (None, Trace()) if reading is None else (reading.token_set, reading.trace)
            self._is_begun = True
            self._trouble = None
            self._epoch = trace.epoch
            self._is_seeding = self._seed is not None and not is_repeatable and trace.seed != self._seed
            if self._is_seeding:
                return
            if stored is not None and self._suits(stored):
                self._publish(stored)
                return
            if stored is not None:
                self._emit(Warned(f"The stored sign-in of '{name}' is of another issuer or grant and is not used."))
            if not is_repeatable:
                self._trouble = Trouble(SignInRequired(self._not_signed_in(), login=name), boot)

    async def _look(self) -> Reading | None:
        """Take up what another process did to our entry since we last read or wrote it."""
        reading = await self._entry.read()
        if reading is None:
            return None
        stored, epoch = reading.token_set, reading.trace.epoch
        if stored is None and epoch > self._epoch:
            self._vanished(epoch, was_ours=reading.was_known)
        if stored is None or not reading.is_news or stored.epoch < self._epoch:
            return reading
        if not self._suits(stored):
            self._emit(Warned(f"A new stored sign-in of '{self.identity.name}' is of another issuer or grant."))
            return reading
        is_new = stored.epoch > self._epoch or self._held is None
        self._entry.nothing_to_save()
        self._publish(stored)
        if is_new:
            self._emit(SignedIn(self.identity.name, stored.username, stored.is_offline))
        return reading

    def _vanished(self, epoch: int, *, was_ours: bool) -> None:
        """Another process signed out; unless we only now learn of a sign-out that was before our time."""
        if was_ours:
            self._forget(epoch, f"Signed out of '{self.identity.name}' elsewhere")
            self._emit(SignedOut(self.identity.name))
            return
        self._epoch = epoch
        if self._held is not None:
            self._held = replace(self._held, epoch=epoch)

    async def _end(self, held: TokenSet | None) -> str:
        """Revoke `held` and delete what is stored; returns what went wrong, in sentences."""
        troubles = []
        if held is not None and held.refresh_token is not None and self._is_ours(held):
            try:
                await self._issuer.revoke(held.refresh_token, client_id=held.client_id)
            except (ProxyError, GrantRefused, SecretError) as error:
                troubles.append(str(error))
        if self._seed is None:  # not started, as in the command
            try:
                self._seed = await grants.fingerprint(self.identity)
            except SecretError as error:
                troubles.append(str(error))
        trace = await self._entry.delete(self._seed)
        if trace is None:
            troubles.append(self._entry.trouble)
        else:
            self._epoch = max(self._epoch, trace.epoch)
        return " ".join(troubles)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Exclude renewals of this identity in other processes."""
        async with AsyncExitStack() as stack:
            is_alone = await self._entry.lock(stack, seconds=LOCK_SECONDS)
            self._refuse_blind()
            if not is_alone and not self._entry.is_unavailable:
                raise IssuerUnavailable(f"Another process has been renewing '{self.identity.name}' for too long.")
            yield

    def _refuse_blind(self) -> None:
        """Raise IssuerUnavailable if another replica may hold the lock, or may have spent the refresh token we know.

        What needs no person is obtained all the same: there is nothing to spend, and nothing to lose.
        """
        if self._entry.is_unavailable and self.identity.grant not in grants.REPEATABLE:
            raise IssuerUnavailable(f"'{self.identity.name}' is not renewed for now: {self._entry.trouble}")

    # --- the background

    async def _watch(self) -> None:
        while True:
            self._news.clear()  # before the look, so that a write during it counts
            try:
                await self._tick()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next second may be better
                self._emit(Failed(f"token source {self.identity.name}", f"{type(error).__name__}: {error}"))
            # At least each second, whatever a timer was set for: after suspend the clocks have moved on (T7).
            pause = min(self._seconds_to_renewal(), POLL_SECONDS)
            await self._rest(max(pause, SHORTEST_PAUSE_SECONDS))

    async def _rest(self, seconds: float) -> None:
        """Sleep, but no longer than until the store tells of a write."""
        sleep = self._tasks.start(self._clock.sleep(seconds), name="pause")
        news = self._tasks.start(self._news.wait(), name="news of the store")
        try:
            await asyncio.wait({sleep, news}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            news.cancel()

    async def _tick(self) -> None:
        if not self._is_begun:
            if self._clock.boot() >= self._begin_again_at:
                await self._begin()
        elif self._entry.has_changed:
            async with self._entry.turn:
                _ = await self._look()
        if self._entry.wants_saving:
            async with self._entry.turn:
                if self._held is not None and not await self._entry.save(self._held):
                    _ = await self._look()
        if self._trouble is None or not self._trouble.is_final:  # its end was told, with the reason
            for event in self._lookout.events(self._forecast(), self._clock.wall()):
                self._emit(event)
        if self._seconds_to_renewal() <= 0:
            _ = self._depart()  # nobody waits for it
