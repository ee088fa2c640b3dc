"""`serve --workers N`: the process that starts the workers and keeps them running (Linux).

Theory of operation. The parent binds the listeners and serves nobody. Each worker is forked from it, has an event loop
of its own and takes connections from the same sockets: the kernel gives each one to a worker that waits. Beyond the
sockets they share the token, through the store and its lock, as replicas do.

The parent has no event loop and no thread, so that a fork divides nothing that is under way. It waits for signals, one
after the other, and handles none in between:

    SIGCHLD            a worker has ended: another takes its place, at once if it had lived for a while
    SIGALRM            a pause before a new start is over
    SIGTERM, SIGINT    the listeners are closed and all workers drain; a second one, or too long a drain, kills them

A worker whose parent has gone drains too: the parent holds the other end of a pipe that every worker looks at.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.errors import defect
from proxy.events import Emit, Failed, Warned

assert sys.platform != "win32"  # noqa: S101 - a word to type checkers: nothing of this is there

LONGEST_PAUSE_SECONDS = 30.0
LIVED_SECONDS = 10.0
"""A worker that lived so long was no failed start: the next one is started without a pause."""
END_SECONDS = 10.0
"""How much longer than their drain workers may take to end."""


@dataclass(frozen=True, slots=True)
class _Worker:
    number: int
    started: float


class Workers:
    """Keeps `count` processes at `work`, which is given a descriptor for `ending` and returns an exit status.

    `close` closes the parent's own ends of the listeners.
    """

    def __init__(
        self,
        count: int,
        work: Callable[[int], int],
        *,
        close: Callable[[], None],
        drain_seconds: float,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._count = count
        self._work = work
        self._close = close
        self._drain_seconds = drain_seconds
        self._clock = clock
        self._emit = emit
        self._alive: dict[int, _Worker] = {}
        """By process id."""
        self._failures = dict.fromkeys(range(count), 0)
        """Starts in a row after which a worker did not live for long."""
        self._due: dict[int, float] = {}
        """When the next worker of a number is started, for those that wait."""

    def run(self) -> int:
        """Start the workers, see to them until a signal says that it is enough, and return the exit status."""
        awaited = {signal.SIGCHLD, signal.SIGALRM, signal.SIGTERM, signal.SIGINT}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        self._looked_at, self._held = os.pipe()
        try:
            for number in range(self._count):
                self._start(number)
            while (told := signal.sigwait(awaited)) in (signal.SIGCHLD, signal.SIGALRM):
                if told == signal.SIGCHLD:
                    for worker, status in self._ended():
                        self._replace(worker, status)
                self._start_due()
            return self._end(awaited)
        finally:
            os.close(self._looked_at)
            os.close(self._held)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _start(self, number: int) -> None:
        started = self._clock.boot()
        process = os.fork()
        if process == 0:
            self._be_worker()
        self._alive[process] = _Worker(number, started)

    def _be_worker(self) -> None:
        """Do the work and end: nothing of the parent's own runs on in a worker."""
        status = 1
        try:
            os.close(self._held)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches everybody, and the parent passes it on
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            status = self._work(self._looked_at)
        except BaseException as error:  # noqa: BLE001 - the last line of defence: told, and seen in the status
            self._emit(Failed("a worker", defect(error)))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _ended(self) -> list[tuple[_Worker, int]]:
        """Return the workers that have ended since the last look, and how: an exit status, or minus a signal."""
        ended = []
        while self._alive:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                break
            worker = self._alive.pop(process, None)
            if worker is not None:
                ended.append((worker, os.waitstatus_to_exitcode(status)))
        return ended

    def _replace(self, worker: _Worker, status: int) -> None:
        now = self._clock.boot()
        has_lived = now - worker.started >= LIVED_SECONDS
        failures = self._failures[worker.number] = 0 if has_lived else self._failures[worker.number] + 1
        pause = pause_after(failures)
        self._due[worker.number] = now + pause
        why = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        self._emit(Warned(f"Worker {worker.number + 1} {why}; another takes its place in {pause:g} s."))

    def _start_due(self) -> None:
        """Start those whose pause is over, and have the clock tell when the next one's is."""
        now = self._clock.boot()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._start(number)
        signal.setitimer(signal.ITIMER_REAL, max(min(self._due.values()) - now, 0.001) if self._due else 0)

    def _end(self, awaited: set[signal.Signals]) -> int:
        self._close()  # what is still in their queues would be answered by nobody
        self._send(signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, self._drain_seconds + END_SECONDS)
        has_failed = False
        while self._alive:
            if signal.sigwait(awaited) != signal.SIGCHLD:
                self._send(signal.SIGKILL)
            # A worker that had not come to its work yet is ended by the signal itself.
            has_failed |= any(status not in (0, -signal.SIGTERM) for _, status in self._ended())
        signal.setitimer(signal.ITIMER_REAL, 0)
        return int(has_failed)

    def _send(self, number: int) -> None:
        for process in self._alive:  # those that have ended meanwhile are there until they are looked at
            os.kill(process, number)


def pause_after(failures: int) -> float:
    """Return how long to wait before a start, in seconds, after so many in a row that did not last."""
    return min(2.0 ** (failures - 1), LONGEST_PAUSE_SECONDS) if failures else 0.0


def end_worker(stop: asyncio.Event, lifeline: int) -> None:
    """Set `stop` at SIGTERM, however often it comes, and when the parent has gone."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def gone() -> None:
        loop.remove_reader(lifeline)
        stop.set()

    loop.add_reader(lifeline, gone)  # nothing is ever written to it
