"""The direct way to an upstream: HTTP/1.1 over connections of our own, kept warm.

The connection that was used last is used first, so that the others grow old and can be closed. None is waited for: a
call that finds no idle connection opens one in a task of its own.
"""

import asyncio

from proxy.clock import monotonic
from proxy.outbox import Outbox
from proxy.tasks import Tasks
from proxy.transport.dialling import Dialler, raise_mmap_threshold
from proxy.transport.http1 import Connection, OwnCall
from proxy.transport.seam import Sink, Trouble
from proxy.upstreams import Upstream

IDLE_SECONDS = 20.0
SWEEP_SECONDS = 1.0


class DirectWay:
    """Calls to one upstream over connections of our own (seam.Way)."""

    def __init__(
        self,
        upstream: Upstream,
        *,
        dialler: Dialler | None = None,
        idle_seconds: float = IDLE_SECONDS,
        max_idle: int | None = None,
    ) -> None:
        """Keep `max_idle` connections when nothing uses them, None for as many as may be in use at once.

        A crowd of callers that is larger than what is kept would pay for a handshake with every other request.
        """
        self._dialler = dialler or Dialler(upstream)
        self._connect_timeout = upstream.connect_timeout
        self._idle_seconds = idle_seconds
        self._max_idle = upstream.max_requests if max_idle is None else max_idle
        self.outbox = Outbox()
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._none_open = asyncio.Event()
        self._tasks = Tasks()
        self._sweep_due: asyncio.TimerHandle | None = None
        raise_mmap_threshold()

    def start(self, head: bytes, length: int, sink: Sink, body: bytes = b"") -> OwnCall:
        call = OwnCall(head, length, sink)
        raw = head + call.framed(body) if body else head
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.is_open:
                connection.carry(call, raw)
                return call
        call.hold(raw)
        call.dialling = self._tasks.start(self._connect(call), name="upstream dial")
        call.dialling.add_done_callback(call.dialled)
        return call

    async def _connect(self, call: OwnCall) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._dialler.open(self._connection)
        except TimeoutError as error:
            call.failed(Trouble.NOT_IN_TIME, error)
        except (OSError, UnicodeError) as error:
            call.failed(Trouble.UNREACHABLE, error)
        else:
            if connection.is_open:
                # Not before: of one whose dialling is cancelled just when it is made, uvloop never tells the end.
                self._open.add(connection)
                call.connected(connection)
            else:
                call.failed(Trouble.CLOSED, None)

    def _connection(self) -> Connection:
        return Connection(self)

    def drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def close(self) -> None:
        if self._sweep_due is not None:
            self._sweep_due.cancel()
            self._sweep_due = None
        await self._tasks.close()
        self._idle.clear()
        while self._open:
            self._none_open.clear()
            for connection in self._open:
                connection.abort()
            await self._none_open.wait()

    # what connections tell (http1.Home) -------------------------------------------------------------------------------

    def idle(self, connection: Connection) -> None:
        connection.since = monotonic()
        self._idle.append(connection)
        if len(self._idle) > self._max_idle:
            self._idle.pop(0).close()
        if self._sweep_due is None:
            self._sweep_due = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._open:
            self._none_open.set()

    def _sweep(self) -> None:
        """Close what has been idle for too long; one timer for all, and none while nothing is idle."""
        oldest = monotonic() - self._idle_seconds
        while self._idle and self._idle[0].since <= oldest:
            self._idle.pop(0).close()
        is_on = bool(self._idle)
        self._sweep_due = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep) if is_on else None
