"""Three replicas on one Redis, killed in turn: whoever asks a living one is served, and nobody reuses a token."""

import asyncio
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.clock import SystemClock
from proxy.demo import Demo, Lifetimes
from proxy.demo.provena import ProvenaDataApi
from proxy.stores.redis import LEASE_SECONDS, RedisStore
from proxy.stores.redis_url import parse
from proxy.tokens import TokenSet
from tests.command import Serving, pause, serving
from tests.poll import eventually
from tests.redis_server import RedisServer

LIFE_SECONDS = 3
READ = "/provena/data/demo/coral-cover.csv"
REPLICAS = 3


class Lenient(SystemClock):
    """The service's clock. A demo token ends up to a second before it says: its times are whole seconds."""

    def wall(self) -> float:
        return super().wall() - 1


class Door:
    """Stands before the issuer. Shut, it keeps the next token request from it until the one who sent it is gone."""

    def __init__(self, issuer: ASGIApp) -> None:
        self._issuer = issuer
        self.is_shut = False
        self.knocked = asyncio.Event()
        self.kept = 0

    def shut(self) -> None:
        self.is_shut = True
        self.knocked.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.is_shut and scope["path"].endswith("/token"):
            self.is_shut = False
            self.kept += 1
            self.knocked.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await self._issuer(scope, receive, send)


@dataclass
class Cluster:
    """Replicas of one configuration, in processes of their own, and what callers got from them."""

    config: Path
    replicas: list[Serving | None] = field(default_factory=lambda: [None] * REPLICAS)
    answers: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """What replicas that are gone wrote."""
    _stacks: list[AsyncExitStack] = field(default_factory=lambda: [AsyncExitStack() for _ in range(REPLICAS)])

    async def start(self, number: int) -> None:
        self.replicas[number] = await self._stacks[number].enter_async_context(serving(self.config))

    async def kill(self, number: int) -> None:
        """End a replica by SIGKILL; callers do not find it any more."""
        replica = self.replicas[number]
        assert replica is not None
        self.replicas[number] = None
        replica.process.kill()
        await replica.process.wait()
        await self._stacks[number].aclose()
        self.lines += replica.lines

    async def close(self) -> None:
        for number in range(REPLICAS):
            await self._stacks[number].aclose()
            replica = self.replicas[number]
            self.lines += [] if replica is None else replica.lines

    def pid(self, number: int) -> int:
        replica = self.replicas[number]
        return 0 if replica is None else replica.process.pid

    async def ask(self, http: httpx2.AsyncClient, first: int) -> None:
        """Ask one replica, and the next if it dies meanwhile, as a balancer does with a GET."""
        for number in itertools.islice(itertools.cycle(range(REPLICAS)), first, first + 10 * REPLICAS):
            replica = self.replicas[number]
            if replica is None:
                continue
            try:
                answer = await http.get(replica.url + READ)
            except httpx2.TransportError as error:
                if self.replicas[number] is replica and replica.process.returncode is None:
                    self.failures.append(f"{number}: {error!r}")
                continue
            self.answers[answer.status_code] += 1
            if answer.status_code != 200:
                self.failures.append(f"{number}: {answer.status_code} {answer.text}")
            return
        self.failures.append("no replica answered")

    async def call(self, first: int) -> None:
        """Ask, one request after the other, until cancelled."""
        async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
            for number in itertools.count(first):
                await self.ask(http, number % REPLICAS)
                await pause(0.05)


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(parse(redis_server.url))
    yield store
    await store.close()


def signed_in(demo: Demo) -> TokenSet:
    answer, now = demo.issuer.mint("client-tools", "ada"), SystemClock().wall()
    return TokenSet(
        access_token=answer["access_token"],
        expires_at=now + answer["expires_in"],
        obtained_at=now,
        client_id="client-tools",
        issuer=demo.issuer_url,
        grant="device_code",
        refresh_token=answer["refresh_token"],
        refresh_expires_at=now + answer["refresh_expires_in"],
        signed_in_at=now,
        epoch=1,
    )


async def holder(cluster: Cluster, redis: RedisStore) -> int | None:
    """Return which replica has the lease."""
    owner = await redis._client.get(redis._lease("provena"))
    assert not isinstance(owner, str)  # bytes, unless the client is told to decode them
    pid = 0 if owner is None else int(owner.split(b":")[1])
    return next((number for number in range(REPLICAS) if pid and cluster.pid(number) == pid), None)


async def kill_the_holder(cluster: Cluster, redis: RedisStore, door: Door) -> int:
    """Kill the replica that renews, between its request and the issuer's look at it; return which it was."""
    door.shut()
    await asyncio.wait_for(door.knocked.wait(), 30)
    number = await eventually(lambda: found(cluster, redis), what="the holder of the lease")
    await cluster.kill(number - 1)
    return int(number) - 1


async def found(cluster: Cluster, redis: RedisStore) -> int:
    number = await holder(cluster, redis)
    return 0 if number is None else number + 1


async def kill_one_that_does_not_renew(cluster: Cluster, redis: RedisStore, number: int) -> None:
    """Kill a replica at any moment but this: between the issuer's answer and its storing nobody can be saved (T11)."""
    while True:
        replica = cluster.replicas[number]
        assert replica is not None
        replica.process.send_signal(signal.Signals["SIGSTOP"])  # by name: Windows has neither it nor a redis-server
        if await holder(cluster, redis) != number:
            await cluster.kill(number)
            return
        replica.process.send_signal(signal.Signals["SIGCONT"])
        await pause(0.1)


@pytest.mark.long
async def test_replicas_that_are_killed_cost_no_request_and_no_sign_in(
    redis_server: RedisServer, redis: RedisStore, tmp_path: Path, is_long: bool
) -> None:
    """T13 beyond one machine: 200 renewals with rotation and reuse detection, and a kill at every seventh."""
    wanted, every = (200, 7) if is_long else (20, 6)
    demo = Demo(lifetimes=Lifetimes(access_seconds=LIFE_SECONDS), rotation=True)
    door = Door(demo.issuer)
    demo._apps |= {"issuer": door, "data": ProvenaDataApi(demo.issuer_url, clock=Lenient())}
    config = tmp_path / "proxy.toml"
    config.write_text(f"""
        [provena]
        issuer = "{demo.issuer_url}"
        data = "{demo.data_url}"
        [store]
        kind = "redis"
        url = "{redis_server.url}"
        [log]
        level = "debug"
        access = false
    """)
    cluster = Cluster(config)

    def events(kind: str) -> int:
        return sum(event.kind == kind for event in demo.issuer.events)

    async with demo:
        assert await redis.save("provena", signed_in(demo))
        try:
            await asyncio.gather(*(cluster.start(number) for number in range(REPLICAS)))
            callers = [asyncio.ensure_future(cluster.call(number)) for number in range(2 * REPLICAS)]
            began, kills = SystemClock().boot(), 0
            while (renewals := events("REFRESH_TOKEN")) < wanted:
                assert not cluster.failures
                if renewals < (kills + 1) * every:
                    await pause(0.05)
                    continue
                number = kills % REPLICAS
                if kills % 2:
                    await kill_one_that_does_not_renew(cluster, redis, number)
                else:
                    number = await kill_the_holder(cluster, redis, door)
                kills += 1
                await cluster.start(number)
                assert SystemClock().boot() - began < wanted * 10, "renewals have stopped"
            took = SystemClock().boot() - began
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
        finally:
            await cluster.close()

    assert cluster.failures == []
    assert set(cluster.answers) == {200}
    assert events("REFRESH_TOKEN_ERROR") == 0
    assert kills >= 3
    # One call for each two thirds of a life, less the jitter; the calls that the door kept reached nobody.
    assert events("REFRESH_TOKEN") <= took / (LIFE_SECONDS * 2 / 3 * 0.9) + 2 + kills
    assert demo.issuer.calls["token", "refresh_token"] == events("REFRESH_TOKEN")
    assert took < wanted * LIFE_SECONDS + kills * (LEASE_SECONDS + 30)
    assert not [line for line in cluster.lines if '"event": "sign-in-ended"' in line]
    assert not behind_the_first_traceback(cluster.lines)


def behind_the_first_traceback(lines: list[str]) -> list[str]:
    """Return what a replica wrote that did not end well, to be read; empty if all went well."""
    return [*itertools.dropwhile(lambda line: "Traceback" not in line, lines)][:40]
