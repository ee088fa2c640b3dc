"""One run: the upstream and all peers at once, each scenario by one peer after the other, round after round."""

import contextlib
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.about import about
from bench.load import LoadError, wrk
from bench.peers import OF_VARIANTS, OURS, PEERS, VARIANTS
from bench.peers.launch import Launch
from bench.proc import resident_bytes
from bench.programs import MissingPartError, StartError, await_answer, running
from bench.results import DIRECT, Results, Sample
from bench.scenarios import MIB, ONE, ROUND, STREAMS, UNKEPT, Effort, Running, Scenario
from bench.upstream import TOKEN, Site, Upstream, serving


@dataclass(frozen=True, slots=True)
class Plan:
    """How thorough a run is."""

    rounds: int
    seconds: int
    """Of requests at a time in the core scenarios; the others take half of it, but at least one."""
    bulk_bytes: int
    streams: int
    starts: int
    """Before the one that stays."""
    is_quick: bool = False
    """Scenarios that are not core ones are played once."""
    scenarios: Sequence[str] = ()
    """Those to play; all of them if empty."""
    minutes: float = 9.5
    """No round begins that would not end in this time, so that all of it takes twelve with the calls and the starts."""


QUICK = Plan(rounds=2, seconds=1, bulk_bytes=64 * MIB, streams=200, starts=1, is_quick=True)
FULL = Plan(rounds=5, seconds=2, bulk_bytes=256 * MIB, streams=1000, starts=2)

Say = Callable[[str], None]
Starters = Mapping[str, Callable[[Site], Launch]]


def bench(plan: Plan, peers: Starters, say: Say) -> Results:
    """Measure `peers` side by side. Raises MissingPartError if the upstream or the load tool is missing."""
    results, began = Results(about=about()), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, serving(Path(folder), plan.bulk_bytes) as upstream:
        results.about["upstream"] = upstream.version
        with contextlib.ExitStack() as stack:
            run = Run(plan, Effort(plan.seconds, upstream.bulk, plan.streams), upstream, results, say)
            standing = [*run.start_all(peers, stack)]
            results.about["rounds"] = str(run.rounds(standing, began))
    return results


@dataclass(frozen=True, slots=True)
class Run:
    """What every part of a run needs."""

    plan: Plan
    effort: Effort
    upstream: Upstream
    results: Results
    say: Say

    def start_all(self, peers: Starters, stack: contextlib.ExitStack) -> Iterator[Running]:
        """Start every peer that there is, and leave it running. Raises what the start of ours raises."""
        for name, starter in peers.items():
            try:
                yield stack.enter_context(self._start(name, starter))
            except (MissingPartError, StartError) as failure:
                if name == OURS:
                    raise
                self.say(f"{name} is left out: {failure}")
                self.results.missing[name] = str(failure)

    @contextmanager
    def _start(self, name: str, starter: Callable[[Site], Launch]) -> Iterator[Running]:
        """Start one peer a few times, for the time that it takes; the last one stays for the block."""
        launch = starter(self.upstream.site(name))
        self.say(f"{name}: {launch.version}")
        for number in range(self.plan.starts):
            with self._started(name, launch, number) as peer:
                if number == 0:  # memory that a process took for other work would be used again for this
                    self._play([STREAMS], [peer], number)
        with self._started(name, launch, self.plan.starts) as peer:
            self.results.versions[name] = launch.version
            yield peer

    def rounds(self, standing: Sequence[Running], began: float) -> int:
        """Play all rounds for which there is time, the first one in any case; return how many."""
        longest = 0.0
        for number in range(self.plan.rounds):
            before = time.monotonic()
            if number and before + longest > began + self.plan.minutes * 60:
                self.say(f"no time for round {number + 1} of {self.plan.rounds}")
                return number
            self.say(f"round {number + 1} of {self.plan.rounds}")
            self.round(number, standing)
            longest = max(longest, time.monotonic() - before)
        return self.plan.rounds

    def round(self, number: int, standing: Sequence[Running]) -> None:
        """Let everybody do everything once, in an order of this round's own."""
        shuffled = [*standing]
        random.Random(number).shuffle(shuffled)  # noqa: S311 - so that nobody always comes after the same neighbour
        # What is no target is played less often: every other round, and once if it has to be quick.
        is_full = number == 0 if self.plan.is_quick else number % 2 == 0
        due = [one for one in ROUND if one.is_core or is_full]
        self._play(due, shuffled, number)
        self._play([UNKEPT], [peer for peer in standing if peer.name == OURS], number)
        self._direct(number)

    @contextmanager
    def _started(self, name: str, launch: Launch, number: int) -> Iterator[Running]:
        log = self.upstream.folder / name / "log"
        with running(launch.argv, log, launch.environ) as process:
            seconds = await_answer(launch.url("tls", "/1k"), process, log)
            self.results.add(Sample(number, name, "start", {"ms": seconds * 1e3}))
            self.results.add(Sample(number, name, "idle", {"resident_mib": resident_bytes(process.pid) / MIB}))
            yield Running(name, launch, process.pid)

    def _play(self, scenarios: Iterable[Scenario], peers: Sequence[Running], number: int) -> None:
        wanted = [one for one in scenarios if not self.plan.scenarios or one.name in self.plan.scenarios]
        for scenario, peer in itertools.product(wanted, peers):
            if scenario.name not in OF_VARIANTS.get(peer.name, (scenario.name,)):
                continue
            try:
                values = scenario.run(peer, self.effort)
            except LoadError as failure:
                self.say(f"{peer.name}, {scenario.name}: {failure}")
                self.results.failures[f"{peer.name}, {scenario.name}"] = str(failure)
                continue
            self.results.add(Sample(number, peer.name, scenario.name, values))

    def _direct(self, number: int) -> None:
        """Measure the way without any proxy, which is what a proxy adds its latency to."""
        if self.plan.scenarios and ONE not in self.plan.scenarios:
            return
        url = f"https://127.0.0.1:{self.upstream.tls_port}/1k"
        seen = wrk(url, 1, max(1, self.plan.seconds // 2), (f"Authorization: Bearer {TOKEN}",))
        self.results.add(Sample(number, DIRECT, ONE, {"p50_us": seen.p50_us, "p99_us": seen.p99_us}))


def chosen(only: Iterable[str], more: Mapping[str, Callable[[Site], Launch]]) -> Starters:
    """Return the peers to run: those named, or all; ours always. Raises KeyError for a name that there is not."""
    everybody = dict(PEERS) | dict(VARIANTS) | dict(more)
    names = [*only]
    if unknown := [name for name in names if name not in everybody]:
        raise KeyError(f"no peer {unknown[0]}; there are {', '.join(everybody)}")
    return {name: starter for name, starter in everybody.items() if not names or name in names or name == OURS}


def say(text: str) -> None:
    """Tell the person who waits how far it is; the table alone goes to standard output."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
