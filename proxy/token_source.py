"""A valid token, please: what callers ask of the token set of one identity.

Theory of operation, in the order in which a token comes: `token_watch` or a caller finds that one is due; `flights`
renews, in a task of its own and under the lock of all processes; `uptake` looks whether another process has done so;
`fetch` asks the issuer; `flights` stores the answer and then publishes it in `holding`, where this module finds it.
`renewal` decides when, `store_entry` minds the store, `secret_watch` the secrets of an identity that was refused, and
`sign_out` ends it all.

A caller who hangs up loses nothing: nobody owns the flight, and each waits for it with a bound of its own.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from proxy.clock import Clock
from proxy.errors import ProxyError
from proxy.events import Emit, ignore
from proxy.flights import WAIT_SECONDS, Flights
from proxy.forecast import Forecast
from proxy.holding import Holding
from proxy.identities import Identity
from proxy.issuer import Issuer
from proxy.renewal import Forced
from proxy.secret_watch import SecretWatch
from proxy.sign_out import sign_out
from proxy.store_entry import StoreEntry
from proxy.stores import TokenStore
from proxy.tasks import Tasks
from proxy.token_watch import TokenWatch
from proxy.tokens import TokenSet
from proxy.uptake import Uptake


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
        self._clock = clock
        self._emit = emit
        self._tasks = tasks = Tasks()
        self._entry = StoreEntry(identity.name, store, clock=clock, emit=emit)
        self._holding = holding = Holding(identity, self._entry, clock=clock, emit=emit, jitter=jitter)
        self._uptake = uptake = Uptake(holding, clock=clock, emit=emit)
        self._flights = flights = Flights(holding, uptake, issuer, tasks=tasks, clock=clock, emit=emit)
        secrets = SecretWatch(holding, uptake, issuer, tasks=tasks, clock=clock)
        self._watch = TokenWatch(holding, uptake, flights, secrets, tasks=tasks, clock=clock, emit=emit)
        self._forced: dict[str, Forced] = {}
        """By upstream."""
        self._replays = 0

    async def start(self) -> None:
        """Take up what is stored and start the background task; the issuer is not waited for."""
        await self._watch.start()

    async def close(self) -> None:
        """End the background task; a flight under way may finish and store what it got, within a bound (T26)."""
        self._watch.stop()
        if self._flights.under_way is not None:
            await self._flights.wait_for(self._flights.under_way)
        await self._tasks.close()

    def current(self) -> TokenSet | None:
        """Return the held set if it is valid beyond its leeway, else None; this is the way of nearly every request."""
        wall, boot = self._clock.wall(), self._clock.boot()
        holding = self._holding
        holding.asked_at = boot
        held = holding.held
        return held if held is not None and held.remaining(wall, boot) > held.leeway else None

    async def token(self) -> TokenSet:
        """Return a set whose access token is valid now, waiting a bounded time for a renewal where one is needed.

        Raises SignInRequired, IssuerUnavailable or IdentityMisconfigured if there is none.
        """
        held = self.current()
        if held is not None:
            return held
        holding, flights = self._holding, self._flights
        if holding.may_call():
            held, flight = holding.valid(), flights.depart()
            await flights.wait_for(flight, self._patience())
            if held is not None and holding.valid() is None:  # it ended as we woke up, on a machine that is slow
                await flights.wait_for(flight)
        held = holding.valid()
        if held is None:
            raise holding.refusal()
        return held

    async def fresh(self, share: float) -> TokenSet:
        """Return a valid set, renewed first if less than `share` of its life is left: for what is sent only once (T23).

        Where it cannot be renewed in time, the one that there is has to do. Raises as `token` does.
        """
        held, holding = await self.token(), self._holding
        is_old = holding.remaining(held) < held.life * share
        if is_old and holding.may_call() and holding.can_renew(held):
            await self._flights.wait_for(self._flights.depart(), self._patience())
        return holding.valid() or await self.token()

    async def reject(self, rejected: TokenSet, *, upstream: str = "") -> TokenSet | None:
        """Return a newer set to replay with after `upstream` answered 401 to `rejected`, else None.

        Compare and drop: another caller may have renewed already, and its fresh token is not to blame. A token that is
        due anyway, or has ended on its way, costs what it would have cost without the 401. Any other costs at most one
        forced renewal in 30 s for each upstream, and what that brought is not blamed again.
        """
        held = self._holding.valid()
        if held is not None and held.access_token == rejected.access_token:
            flight = self._flights.under_way or self._replacement(held, upstream)
            if flight is None:
                return None
            await self._flights.wait_for(flight)
        try:
            newer = await self.token()
        except ProxyError:
            return None
        if newer.access_token == rejected.access_token:
            return None
        self._replays += 1
        return newer

    def status(self) -> IdentityStatus:
        holding, held, trouble = self._holding, self._holding.held, self._holding.trouble
        state = "starting" if trouble is None else trouble.state
        return IdentityStatus(
            name=self.identity.name,
            state=state if holding.valid() is None else "ready",
            username=None if held is None else held.username,
            is_offline=held is not None and held.is_offline,
            expires_at=None if held is None else held.expires_at,
            refresh_expires_at=None if held is None else held.refresh_expires_at,
            signed_in_at=None if held is None else held.signed_in_at,
            detail=self._entry.trouble if trouble is None else trouble.error.detail,
            forecast=holding.forecast(),
            renewals=self._flights.renewals,
            failed_renewals=dict(holding.failed_renewals),
            replays=self._replays,
            clock_skew=self._issuer.skew_seconds,
        )

    async def adopt(self, token_set: TokenSet) -> None:
        """Take up an explicit sign-in that was made in this process: a new epoch, which ends every flight's say."""
        await self._uptake.adopt(token_set)

    async def sign_out(self) -> str:
        """Revoke the grant at the issuer (RFC 7009), forget it here, and return what happened in one sentence.

        Works without `start`, and without the issuer: then only the local part is done, and the sentence says so.
        """
        return await sign_out(self._holding, self._uptake, self._flights, self._issuer, emit=self._emit)

    def _patience(self) -> float:
        """Return how long a caller waits for a flight: not so long that the token it could have had ends meanwhile."""
        held = self._holding.valid()
        return WAIT_SECONDS if held is None else min(WAIT_SECONDS, self._holding.remaining(held) / 2)

    def _replacement(self, held: TokenSet, upstream: str) -> asyncio.Task[None] | None:
        """Return a renewal that `upstream` may cause by refusing `held`; None if it may not cause one."""
        holding = self._holding
        if not holding.may_call() or not holding.can_renew(held):
            return None
        if holding.is_due(held) or holding.remaining(held) <= held.leeway:
            return self._flights.depart()  # its turn has come, whatever the upstream says: nothing is forced
        forced = self._forced.get(upstream)
        if forced is not None and not forced.allows(held.access_token, self._clock.boot()):
            return None
        return self._force(held, upstream)

    def _force(self, held: TokenSet, upstream: str) -> asyncio.Task[None]:
        """Renew though nothing is due, and remember for `upstream` what that brings."""
        self._forced[upstream] = forced = Forced(self._clock.boot())
        flight = self._flights.depart(held.access_token)

        def landed(_: asyncio.Task[None]) -> None:
            newer = self._holding.held
            if newer is not None and newer.access_token != held.access_token:
                self._forced[upstream] = replace(forced, access_token=newer.access_token)

        flight.add_done_callback(landed)
        return flight
