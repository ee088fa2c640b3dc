"""Renewals under way. At most one *flight* for an identity, in a task that no caller owns (token-life, laws 1 to 4).

Under the renewal lock, which excludes other processes too, it looks at the store again, because somebody may have
renewed; then it asks the issuer, stores the answer, and only then publishes it: a rotated refresh token that only
memory knew would be lost with the process, and the sign-in with it.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from proxy.clock import Clock
from proxy.errors import BearerproxyError, GrantRefused, IssuerUnavailable
from proxy.events import Emit, Failed, SignedIn, TokenRenewed, Warned
from proxy.fetch import Fresh, fetch
from proxy.holding import Holding
from proxy.issuer import Issuer
from proxy.renewal import is_usually_in_time
from proxy.tasks import Tasks
from proxy.tokens import TokenSet
from proxy.uptake import Uptake

WAIT_SECONDS = 10.0
"""How long a caller waits for a flight, and a shutdown for one that is under way."""
LOCK_SECONDS = 25.0
"""Longer than another process's renewal can take: metadata, token call and one retry."""
TRIES = 3
"""How many calls a flight makes at most (T5): three that outlast their tokens' lives are no bad moment any more."""
SKEW_SECONDS = 60.0
"""A clock that is this far from the issuer's is worth a word; nothing here depends on it (T6)."""


class Flights:
    """Renews `holding`, one flight at a time."""

    def __init__(
        self, holding: Holding, uptake: Uptake, issuer: Issuer, *, tasks: Tasks, clock: Clock, emit: Emit
    ) -> None:
        self.under_way: asyncio.Task[None] | None = None
        self.departed_at = -math.inf
        """When the last one began, on the boot clock."""
        self.renewals = 0
        self._holding = holding
        self._uptake = uptake
        self._issuer = issuer
        self._entry = holding.entry
        self._name = holding.identity.name
        self._tasks = tasks
        self._clock = clock
        self._emit = emit
        self._late_flights = 0
        """Flights in a row whose token had ended on its way."""
        self._is_usually_in_time = False
        """Whether the issuer was quick enough with the last token that was valid when it came."""
        self._is_skew_told = False

    def depart(self, blamed: str | None = None) -> asyncio.Task[None]:
        """Return the flight under way, or start one; `blamed` is the access token that an upstream refused."""
        if self.under_way is None:
            self.departed_at = self._clock.boot()
            self.under_way = self._tasks.start(self._fly(blamed), name=f"renewal of {self._name}")
            self.under_way.add_done_callback(self._landed)
        return self.under_way

    def _landed(self, _: asyncio.Task[None]) -> None:
        self.under_way = None

    async def wait_for(self, flight: asyncio.Task[None], seconds: float = WAIT_SECONDS) -> None:
        """Wait for `flight`, bounded; neither the bound nor the caller's end touches it."""
        bound = self._tasks.start(self._clock.sleep(seconds), name="bound of a wait")
        try:
            await asyncio.wait({flight, bound}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            bound.cancel()

    async def _fly(self, blamed: str | None) -> None:
        """Renew. Never raises.

        Callers wait. A try that the machine slept through says nothing of the issuer, and an answer that came too late
        to be of use was a pause itself, as after an issuer's cold start: then another one is made at once.
        """
        for left in reversed(range(TRIES)):
            if not await self._renew(blamed, may_repeat=left > 0):
                return
            blamed = None  # from now on it is what we hold that a newer set must follow

    async def _renew(self, blamed: str | None, *, may_repeat: bool) -> bool:
        """Renew, or note why not; returns whether to do so again at once, which it asks for only if it may."""
        holding = self._holding
        known = holding.held.access_token if blamed is None and holding.held is not None else blamed
        epoch, began, has_asked = holding.epoch, self._clock.boot(), False
        try:
            async with self._alone():
                await self._uptake.look()
                self._refuse_blind()
                epoch, held = holding.epoch, holding.held
                is_renewed = held is not None and held.access_token != known and not holding.is_due(held)
                if is_renewed or (holding.trouble is not None and holding.trouble.is_final):
                    return False  # another process did, while we waited for the lock; or it signed out
                has_asked, asked = True, self._clock.boot()
                new = await fetch(holding, self._uptake, self._issuer)
                if new is None or not await self._keep(new):
                    return False
                return self._kept(new.token_set, began, asked, may_repeat=may_repeat)
        except BearerproxyError as error:
            is_passing = isinstance(error, IssuerUnavailable) and error.retry_after is None
            if may_repeat and has_asked and is_passing and self._issuer.was_slept_through:
                return True  # the connection did not live through it, most likely (T8)
            if epoch == holding.epoch:
                await self._use_up_seed(error)
                holding.failed(error, began)
        except Exception as error:  # noqa: BLE001 - a defect of ours must not end the renewals
            self._emit(Failed(f"renewal of {self._name}", f"{type(error).__name__}: {error}"))
            holding.failed(IssuerUnavailable(f"The renewal of '{self._name}' failed inside bearerproxy."), began)
        return False

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Exclude renewals of this identity in other processes."""
        async with AsyncExitStack() as stack:
            is_alone = await self._entry.lock(stack, seconds=LOCK_SECONDS)
            self._refuse_blind()
            if not is_alone and not self._entry.is_unavailable:
                raise IssuerUnavailable(f"Another process has been renewing '{self._name}' for too long.")
            yield

    def _refuse_blind(self) -> None:
        """Raise IssuerUnavailable if another replica may hold the lock, or may have spent the refresh token we know.

        What needs no person is obtained all the same: there is nothing to spend, and nothing to lose.
        """
        if self._entry.is_unavailable and not self._holding.is_repeatable:
            raise IssuerUnavailable(f"'{self._name}' is not renewed for now: {self._entry.trouble}")

    async def _keep(self, new: Fresh) -> bool:
        """Persist, then publish; nothing of both if a sign-in or a sign-out came in between. Returns whether it did."""
        holding, fresh, epoch = self._holding, new.token_set, new.follows
        async with self._entry.turn:
            if epoch != holding.epoch:
                return False
            if not await self._entry.save(fresh):
                reading = await self._uptake.look_within_turn()
                if reading is not None and reading.token_set is not None and reading.token_set == holding.held:
                    return False  # a newer sign-in; or we were so slow that another replica took over, and has renewed
                if epoch == holding.epoch:  # neither a sign-out nor a sign-in that we could use
                    self._emit(Warned(f"Another configuration signed in as '{self._name}' in the same store."))
            if epoch != holding.epoch:
                return False  # signed out while we wrote; the deletion waits for its turn behind us
            is_first = holding.held is None
            holding.publish(fresh)
        if is_first:
            self._emit(SignedIn(self._name, fresh.username, fresh.is_offline))
        return True

    def _kept(self, fresh: TokenSet, began: float, asked: float, *, may_repeat: bool) -> bool:
        """Tell of a renewal that was asked for at `asked`; returns whether to renew again at once."""
        holding, boot = self._holding, self._clock.boot()
        self._tell_skew()
        is_odd = self._issuer.was_slept_through or self._is_usually_in_time
        is_late = holding.remaining(fresh) <= fresh.leeway
        is_again = is_late and is_odd and may_repeat and self._late_flights == 0
        if holding.valid() is None:  # its refresh token is what counts; asking again and again would be a loop (T5)
            if not is_again:
                # Pauses of their own: an issuer that answers again does not pay for the outage that was before.
                holding.failures, self._late_flights = self._late_flights, self._late_flights + 1
                late = f"The issuer's answer for '{self._name}' came so late that the token in it had ended."
                holding.back_off(IssuerUnavailable(late), began)
            return is_again
        if not is_again:
            self._late_flights = 0
            self._is_usually_in_time = is_usually_in_time(boot - asked, fresh)
        self.renewals += 1
        self._emit(TokenRenewed(self._name, fresh.life, boot - began))
        return is_again

    async def _use_up_seed(self, error: BearerproxyError) -> None:
        """Remember a seed that the issuer refused, so that it is never sent again."""
        if not self._holding.is_seeding or not isinstance(error, GrantRefused):
            return
        self._holding.is_seeding = False
        async with self._entry.turn:
            trace = await self._entry.delete(self._holding.seed)
            if trace is not None:
                self._holding.epoch = trace.epoch

    def _tell_skew(self) -> None:
        """Say once that this machine's clock is wrong, or the issuer's."""
        skew = self._issuer.skew_seconds
        is_large = abs(skew) >= SKEW_SECONDS
        if is_large and not self._is_skew_told:
            seconds = f"{abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'}"
            self._emit(
                Warned(
                    f"The clock of this machine is {seconds} that of the issuer of '{self._name}'. "
                    "Tokens are counted from their requests and serve as they should; certificates may not."
                )
            )
        self._is_skew_told = is_large
