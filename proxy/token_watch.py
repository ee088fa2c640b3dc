"""The background of one token source: renews ahead of expiry, with or without traffic, and watches the store.

It looks at the store's fingerprint each second, or as soon as the store is told of a write: that is how what another
process did arrives. Here, too, a write that failed is tried again, and the near end of a sign-in is told.
"""

import asyncio
import math

from proxy.clock import Clock
from proxy.events import Emit, Failed
from proxy.flights import Flights
from proxy.forecast import Lookout
from proxy.holding import Holding
from proxy.secret_watch import SecretWatch
from proxy.tasks import Tasks
from proxy.uptake import Uptake

POLL_SECONDS = 1.0
SHORTEST_PAUSE_SECONDS = 0.05
BETWEEN_FLIGHTS_SECONDS = 0.5
"""The background never starts flights faster than this, whatever an issuer says about lives."""


class TokenWatch:
    """Looks each second, from `start` to `stop`."""

    def __init__(
        self,
        holding: Holding,
        uptake: Uptake,
        flights: Flights,
        secrets: SecretWatch,
        *,
        tasks: Tasks,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._holding = holding
        self._uptake = uptake
        self._flights = flights
        self._secrets = secrets
        self._entry = holding.entry
        self._name = f"token source {holding.identity.name}"
        self._lookout = Lookout(holding.identity.name)
        self._tasks = tasks
        self._clock = clock
        self._emit = emit
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        """Set by the store when it is told that somebody wrote."""

    async def start(self) -> None:
        """Take up what is stored, and look after it from now on."""
        self._entry.watch(self._news.set)
        await self._uptake.begin()
        self._task = self._tasks.start(self._run(), name=self._name)

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            self._news.clear()  # before the look, so that a write during it counts
            try:
                await self._tick()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next second may be better
                self._emit(Failed(self._name, f"{type(error).__name__}: {error}"))
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
        holding, entry = self._holding, self._entry
        if not holding.is_begun:
            if self._uptake.wants_to_begin:
                await self._uptake.begin()
        elif entry.has_changed:
            await self._uptake.look()
        if entry.wants_saving:
            async with entry.turn:
                if holding.held is not None and not await entry.save(holding.held):
                    _ = await self._uptake.look_within_turn()
        if holding.trouble is None or not holding.trouble.is_final:  # its end was told, with the reason
            for event in self._lookout.events(holding.forecast(), self._clock.wall()):
                self._emit(event)
        self._secrets.tick()
        if self._seconds_to_renewal() <= 0:
            _ = self._flights.depart()  # nobody waits for it

    def _seconds_to_renewal(self) -> float:
        """Return how long to wait before the next flight; infinite if only an event can cause one."""
        holding, boot = self._holding, self._clock.boot()
        if not holding.is_begun or self._flights.under_way is not None or not holding.can_renew(holding.held):
            return math.inf
        seconds = self._flights.departed_at + BETWEEN_FLIGHTS_SECONDS - boot
        if holding.held is not None:
            seconds = max(seconds, holding.seconds_to_renewal(holding.held))
        if holding.trouble is not None:
            seconds = max(seconds, holding.trouble.next_call(holding.asked_at) - boot)
        return seconds
