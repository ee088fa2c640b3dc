"""Noticing that the machine slept.

Connections rarely live through that, and nobody says so: the network has forgotten them, or is another one, and the
first request of the morning would find out by a time-out (token-life T8).
"""

from collections.abc import Callable

from proxy.clock import Clock

LOOK_SECONDS = 2.0
SLEPT_SECONDS = 10.0
"""A pause that was longer by so much was no pause of ours. A busy machine is late by less, and a wall clock that is set
forward costs no more than new connections."""


class ResumeWatch:
    """Calls `resumed` each time after the machine slept, within seconds."""

    def __init__(self, resumed: Callable[[], None], *, clock: Clock) -> None:
        self._resumed = resumed
        self._clock = clock

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            # Wall time too: on macOS the other clock stands still in suspend.
            wall, boot = self._clock.wall(), self._clock.boot()
            await self._clock.sleep(LOOK_SECONDS)
            passed = max(self._clock.wall() - wall, self._clock.boot() - boot)
            if passed > LOOK_SECONDS + SLEPT_SECONDS:
                self._resumed()
