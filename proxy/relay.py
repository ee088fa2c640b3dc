"""Begins exchanges: finds what each needs, takes its place, and tells what became of it."""

import math
from collections.abc import Mapping

from proxy.clock import Clock
from proxy.events import Emit, Relayed
from proxy.exchange import Caller, Destination, Exchange, Source
from proxy.headers import Fields
from proxy.limits import Admission
from proxy.request import Request
from proxy.spool import Spools
from proxy.sweeper import Sweeper
from proxy.tasks import Tasks
from proxy.token_echo import Room
from proxy.transport.seam import Way
from proxy.upstreams import Match, Upstream
from proxy.usual_heads import AnswerHeads, RequestHeads


class Relay:
    """Begins exchanges; collaborators are the token sources and ways by name."""

    def __init__(
        self,
        *,
        sources: Mapping[str, Source],
        ways: Mapping[str, Way],
        spools: Spools,
        admission: Admission,
        pseudonym: bytes,
        clock: Clock,
        emit: Emit,
        room: Room | None = None,
    ) -> None:
        self.sources = sources
        self.ways = ways
        self.spools = spools
        self.admission = admission
        self.pseudonym = pseudonym
        self.clock = clock
        self.emit = emit
        self.room = room or Room()
        self.sweeper = Sweeper()
        self.tasks = Tasks()
        self._destinations: dict[str, Destination] = {}

    @property
    def in_flight(self) -> Mapping[str, int]:
        """Requests that are being relayed, by upstream."""
        known = self._destinations
        return {name: known[name].in_flight if name in known else 0 for name in self.ways}

    def exchange(self, request: Request, match: Match, caller: Caller, *, extra: Fields) -> Exchange:
        """Return an exchange that has a place, to be started; `extra` fields join its answer. Raises Overloaded."""
        upstream = match.upstream
        there = self._destinations.get(upstream.name)
        if there is None:
            there = self._get_to_know(upstream)
        self.admission.enter(upstream)
        there.in_flight += 1
        exchange = Exchange(self, there, request, match, caller, extra)
        self.sweeper.add(exchange)
        return exchange

    def _get_to_know(self, upstream: Upstream) -> Destination:
        self.sweeper.be_finer_than(
            min(upstream.idle_timeout, upstream.first_byte_timeout, upstream.total_timeout or math.inf)
        )
        there = self._destinations[upstream.name] = Destination(
            upstream=upstream,
            way=self.ways[upstream.name],
            source=None if upstream.identity is None else self.sources[upstream.identity],
            requests=RequestHeads(upstream, self.pseudonym),
            answers=AnswerHeads(),
        )
        return there

    def over(self, exchange: Exchange, there: Destination, outcome: Relayed | None) -> None:
        """Take an exchange's place back, and tell what became of it."""
        self.sweeper.remove(exchange)
        self.admission.leave(there.upstream)
        there.in_flight -= 1
        if outcome is not None:
            self.emit(outcome)

    async def close(self) -> None:
        """End what is still awaited."""
        await self.tasks.close()
