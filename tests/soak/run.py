"""One soak from start to verdict: issuer, services, proxy, callers, and what goes wrong meanwhile."""

import asyncio
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from proxy.clock import Clock, SystemClock
from tests.command import Serving, login, resident_bytes, serving
from tests.poll import eventually
from tests.soak.callers import CSV, DOWNLOADS, SDMX, SEEDS, Caller, client, digest
from tests.soak.chaos import CLEAR, Answer, ChaosProxy, Hang, Lose, Refuse, Weather
from tests.soak.checks import RECOVERY_SECONDS, Outcome, Record, Sample, Seen, TokenCalls, Window
from tests.soak.issuers import LIFE_SECONDS, SoakIssuer, approve, demo_issuer, keycloak_issuer
from tests.soak.plan import AROUND_TOKENS, AT_UPSTREAMS, QUIET_SECONDS, Fault, Kind, plan
from tests.soak.services import Presenter, Services, services

PROGRESS_SECONDS = 10.0
SAMPLE_SECONDS = 1.0
STALL_STEP_SECONDS, STALL_SECONDS = 0.05, 0.5
LOSABLE = "nsi"
"""The upstream whose identity signs in again by itself, so that an answer of the issuer may be lost."""
RETRY_AFTER_SECONDS = 2

CLIENTS = {"data": "client-tools", "nsi": "dotstat-app", "transfer": "dotstat-svc"}
GRANTED = {"data": "REFRESH_TOKEN", "nsi": "REFRESH_TOKEN", "transfer": "CLIENT_LOGIN"}


@dataclass(frozen=True, slots=True)
class Options:
    """What a soak is asked for."""

    seconds: float
    seed: int = 1
    issuer: str = "keycloak"
    callers: int = 50
    log: Path | None = None
    """Where the proxy's log goes at the end."""


@dataclass
class Soak:
    """Everything that runs, and what was seen of it."""

    issuer: SoakIssuer
    chaos: ChaosProxy
    upstreams: Services
    proxy: Serving
    clock: Clock
    tell: Callable[[str], None]
    began: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    now: set[Kind] = field(default_factory=set)
    """What is wrong at the moment."""

    # --- what goes wrong

    async def go_wrong(self, faults: tuple[Fault, ...], seconds: float) -> None:
        """Let the faults happen: those around tokens one after the other, those of the upstreams beside them."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._in_turn([one for one in faults if one.kind in AROUND_TOKENS], seconds))
            group.create_task(self._in_turn([one for one in faults if one.kind in AT_UPSTREAMS], seconds))

    async def _in_turn(self, faults: Sequence[Fault], seconds: float) -> None:
        """A fault that takes longer than planned, as a restart on a busy machine, puts off those behind it."""
        late = 0.0
        for fault in faults:
            if fault.end + late > seconds - QUIET_SECONDS:
                continue
            await self.clock.sleep(max(self.began + fault.at + late - self.clock.wall(), 0))
            await self._happen(fault)
            is_long = fault.kind in (Kind.RESTART, Kind.KILL)
            quiet = self.clock.wall() - self.began + (RECOVERY_SECONDS if is_long else 0.0)
            late = max(late, quiet - fault.end)

    async def _happen(self, fault: Fault) -> None:
        start = self.clock.wall()
        self.now.add(fault.kind)
        try:
            await self._carry_out(fault)
        finally:
            self.now.discard(fault.kind)
            upstream = LOSABLE if fault.kind is Kind.LOST else fault.upstream
            retry_after = RETRY_AFTER_SECONDS if fault.kind is Kind.BUSY else 0.0
            self.windows.append(Window(fault.kind, start, self.clock.wall(), upstream, retry_after))

    async def _carry_out(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.RESTART | Kind.KILL:
                await self._restart(by_force=fault.kind is Kind.KILL)
            case Kind.ERROR:
                await self._weather(Answer(_refusal(b"500 Internal Server Error")), fault.seconds)
            case Kind.BUSY:
                raw = _refusal(b"429 Too Many Requests", b"Retry-After: %d\r\n" % RETRY_AFTER_SECONDS)
                await self._weather(Answer(raw), fault.seconds)
            case Kind.HANG:
                await self._weather(Hang(), fault.seconds)
            case Kind.REFUSE:
                await self._weather(Refuse(), fault.seconds)
            case Kind.LOST:
                await self._weather(Lose(CLIENTS[LOSABLE].encode()), fault.seconds)
            case Kind.REVOKE:
                self.upstreams.gates[fault.upstream].revoke()
            case Kind.PAUSE:
                await self._suspend(fault.seconds)
            case Kind.RESET:
                gate = self.upstreams.gates[fault.upstream]
                gate.resets = True
                await self.clock.sleep(fault.seconds)
                gate.resets = False
            case Kind.SLOW:
                gate = self.upstreams.gates[fault.upstream]
                gate.is_slow = True
                await self.clock.sleep(fault.seconds)
                gate.is_slow = False

    async def _weather(self, weather: Weather, seconds: float) -> None:
        self.chaos.weather = weather
        await self.clock.sleep(seconds)
        self.chaos.weather = CLEAR

    async def _restart(self, *, by_force: bool) -> None:
        # A renewal that the issuer made and could not tell would end the sign-in by no fault of ours (token-life T11):
        # nothing is under way, and its database has had time to write, when it goes.
        self.chaos.weather = Refuse()
        await eventually(lambda: self.chaos.is_quiet, 10, what="the end of the calls under way")
        await self.clock.sleep(1.0)
        await self.issuer.stop(by_force=by_force)
        await self.issuer.start()
        self.chaos.weather = CLEAR

    async def _suspend(self, seconds: float) -> None:
        if sys.platform == "win32":
            raise NotImplementedError
        self.proxy.process.send_signal(signal.SIGSTOP)
        try:
            await self.clock.sleep(seconds)
        finally:
            self.proxy.process.send_signal(signal.SIGCONT)

    # --- what is seen

    async def observe(self) -> None:
        """Look at the process once a second, and ask it whether it lives."""
        async with client(self.proxy.url) as http:
            while True:
                await self.clock.sleep(SAMPLE_SECONDS)
                if Kind.PAUSE in self.now:
                    continue
                self.samples.append(await self.sample())
                asked = self.clock.boot()
                answer = await http.get("/-/live")
                assert answer.status_code == 200, answer.text
                if Kind.PAUSE not in self.now:
                    self.lags.append(self.clock.boot() - asked)

    async def notice_stalls(self) -> None:
        """Note when this process, in which the services and the road to the issuer are, did not come to its turn."""
        while True:
            before = self.clock.wall()
            await self.clock.sleep(STALL_STEP_SECONDS)
            if self.clock.wall() - before > STALL_SECONDS:
                self.windows.append(Window(Kind.STALL, before, self.clock.wall()))

    async def sample(self) -> Sample:
        resident = await resident_bytes(self.proxy.process)
        return Sample(self.clock.wall(), resident, descriptors(self.proxy.process.pid))

    async def progress(self) -> None:
        while True:
            await self.clock.sleep(PROGRESS_SECONDS)
            self.tell(self._line())

    def _line(self) -> str:
        minutes, seconds = divmod(int(self.clock.wall() - self.began), 60)
        refused = sum(one.seen is Seen.AUTHENTICATION for one in self.outcomes)
        last = self.samples[-1] if self.samples else Sample(0, 0, 0)
        wrong = ", ".join(sorted(self.now)) or "all well"
        return (
            f"{minutes:02}:{seconds:02}  {len(self.outcomes)} requests, {refused} refused, "
            f"{last.resident_bytes / 2**20:.0f} MiB, {last.descriptors} descriptors; {wrong}"
        )

    async def rested_descriptors(self, before: int) -> int:
        """Return the proxy's descriptors once its callers are gone and its upstreams have closed what was kept."""
        count = before
        for _ in range(20):
            self.upstreams.drop_connections()
            async with client(self.proxy.url) as http:
                for path in WARM:
                    await http.get(path)
            await self.clock.sleep(0.5)
            count = descriptors(self.proxy.process.pid)
            if count <= before:
                break
        return count


WARM = tuple(f"/{upstream}/soak/bytes/1?0" for upstream in CLIENTS)


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open (Linux)."""
    return len([*Path(f"/proc/{pid}/fd").iterdir()])


def _refusal(status: bytes, fields: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: 0\r\nConnection: close\r\n\r\n" % (status, fields)


async def soak(options: Options, tell: Callable[[str], None]) -> Record:
    """Run a soak and return what was seen. Everything that it started is gone afterwards, whatever happened."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        chaos = await stack.enter_async_context(ChaosProxy(0, seed=options.seed, clock=clock))
        tell(f"seed {options.seed}; starting the issuer ({options.issuer})")
        starting = keycloak_issuer if options.issuer == "keycloak" else demo_issuer
        issuer: SoakIssuer = await stack.enter_async_context(starting(chaos))
        presenters = {
            "data": Presenter(CLIENTS["data"], issuer.person[0]),
            "nsi": Presenter(CLIENTS["nsi"], issuer.other[0]),
            "transfer": Presenter(CLIENTS["transfer"], f"service-account-{CLIENTS['transfer']}"),
        }
        upstreams = await stack.enter_async_context(
            services(issuer.url, presenters, clock=clock, seed=options.seed),
        )
        config = _configuration(folder, issuer, upstreams)
        await _sign_in(config, issuer)
        proxy = await stack.enter_async_context(serving(config))
        if options.log is not None:
            stack.callback(lambda: options.log and options.log.write_text("".join(proxy.lines), encoding="utf-8"))
        running = Soak(issuer, chaos, upstreams, proxy, clock, tell)
        return await _run(running, options)


async def _run(running: Soak, options: Options) -> Record:
    proxy, clock = running.proxy, running.clock
    await eventually(lambda: _is_warm(proxy), 30, what="an answer of every upstream")
    before = {name: await _counts(running.issuer, name) for name in CLIENTS}
    descriptors_before = descriptors(proxy.process.pid)
    faults = plan(options.seed, options.seconds, [*CLIENTS])
    running.tell(f"{options.callers} callers for {options.seconds:.0f} s; {len(faults)} faults")
    _ = [digest(size, seed) for size in DOWNLOADS for seed in SEEDS]  # before it would stall what runs
    running.began = clock.wall()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        watching = [
            group.create_task(watch) for watch in (running.observe(), running.progress(), running.notice_stalls())
        ]
        callers = [
            group.create_task(Caller(n, proxy.url, options.seed, clock, running.outcomes.append).run(stop))
            for n in range(options.callers)
        ]
        await running.go_wrong(faults, options.seconds)
        await clock.sleep(max(running.began + options.seconds - clock.wall(), 0))
        stop.set()
        await asyncio.wait(callers)
        for task in watching:
            task.cancel()
    seconds = clock.wall() - running.began
    after = {name: await _counts(running.issuer, name) for name in CLIENTS}
    descriptors_after = await running.rested_descriptors(descriptors_before)
    try:
        exit_status = await proxy.stop()
    except TimeoutError:
        exit_status = None  # a row of the verdict, not the end of it
    gates = running.upstreams.gates.values()
    return Record(
        seconds=seconds,
        life=LIFE_SECONDS,
        outcomes=running.outcomes,
        windows=running.windows,
        leases=[lease for gate in gates for token, lease in gate.leases.items() if token not in gate.revoked],
        wrong_tokens=[text for gate in gates for text in gate.wrong],
        half_uploads=[text for gate in gates for text in gate.half_uploads],
        calls=[
            TokenCalls(
                name,
                granted=after[name][0] - before[name][0],
                refused=after[name][1] - before[name][1],
                may_be_refused=running.chaos.lost if name == LOSABLE else 0,
            )
            for name in CLIENTS
        ],
        failed_calls=_failed_calls(running),
        samples=running.samples,
        lags=running.lags,
        descriptors_before=descriptors_before,
        descriptors_after=descriptors_after,
        defects=[line for line in proxy.lines if _is_defect(line)],
        exit_status=exit_status,
        refusals=[refusal for gate in gates for refusal in gate.refusals],
    )


def _failed_calls(running: Soak) -> int:
    """Count the calls that met a fault of the issuer by what the proxy says of them."""
    return sum(event["event"] == "renewal-failed" for event in running.proxy.events)


def _is_defect(line: str) -> bool:
    return bool(re.search(r'"event": "failed"|Traceback', line)) or not line.startswith("{")


async def _counts(issuer: SoakIssuer, upstream: str) -> tuple[int, int]:
    kind, client = GRANTED[upstream], CLIENTS[upstream]
    return await issuer.events(kind, client), await issuer.events(f"{kind}_ERROR", client)


async def _is_warm(proxy: Serving) -> bool:
    """Return whether every service answers; then each, and its gate, has fetched the issuer's keys."""
    async with client(proxy.url) as http:
        answers = [await http.get(path) for path in (*WARM, f"/data{CSV}", f"/nsi{SDMX}")]
        answers.append(await http.post("/transfer/import/sdmxFile"))  # a 400: there is nothing to import
    return all(answer.status_code in (200, 400) for answer in answers)


def _configuration(folder: Path, issuer: SoakIssuer, upstreams: Services) -> Path:
    (folder / "password").write_text(issuer.other[1], encoding="utf-8")
    (folder / "secret").write_text("svc-secret", encoding="utf-8")
    file = folder / "proxy.toml"
    file.write_text(
        f"""
        [identity.data]
        issuer = "{issuer.url}"
        client_id = "{CLIENTS["data"]}"

        [identity.nsi]
        issuer = "{issuer.url}"
        client_id = "{CLIENTS["nsi"]}"
        grant = "password"
        username = "{issuer.other[0]}"
        password = "file:{folder / "password"}"

        [identity.transfer]
        issuer = "{issuer.url}"
        client_id = "{CLIENTS["transfer"]}"
        grant = "client_credentials"
        client_secret = "file:{folder / "secret"}"

        [upstream.data]
        url = "{upstreams.urls["data"]}"
        identity = "data"
        token_fault = "Could not validate credentials"

        [upstream.nsi]
        url = "{upstreams.urls["nsi"]}"
        identity = "nsi"

        [upstream.transfer]
        url = "{upstreams.urls["transfer"]}"
        identity = "transfer"

        [store]
        kind = "file"
        path = "{folder / "store"}"

        [log]
        level = "debug"
        format = "json"
        access = true
        """,
        encoding="utf-8",
    )
    return file


async def _sign_in(config: Path, issuer: SoakIssuer) -> None:
    async with login("data", "--config", config) as waiting:
        await approve(waiting.link, *issuer.person)
        ended = await waiting.end()
    assert ended.exit_status == 0, ended.complaint
