"""Token sources of several replicas on one Redis: what one does the others know, and nobody spends a token twice."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from proxy.clock import SystemClock
from proxy.errors import IssuerUnavailable
from proxy.events import Event, StoreTrouble
from proxy.identities import Grant, Identity
from proxy.secret_refs import Secret
from proxy.stores import redis
from proxy.stores.redis import RedisStore
from proxy.stores.redis_url import parse
from proxy.token_source import TokenSource
from proxy.tokens import TokenSet
from tests.bench import Bench, Gate
from tests.command import pause
from tests.poll import eventually
from tests.redis_server import RedisServer
from tests.scripted_issuer import identity


class Deployment:
    """Replicas of one configuration in front of one scripted issuer that rotates and sees reuse."""

    def __init__(self, server: RedisServer, *, life: float = 300) -> None:
        self.server = server
        self.bench = Bench(clock=SystemClock(), life=life)
        self.issuer = self.bench.issuer
        self.events: list[Event] = []
        self._prefix = f"test-{secrets.token_hex(4)}"

    def store(self, **settings: Any) -> RedisStore:
        return RedisStore(parse(self.server.url), prefix=self._prefix, emit=self.events.append, **settings)

    async def sign_in(self, **changes: Any) -> TokenSet:
        store, token_set = self.store(), self.bench.a_set(**changes)
        assert await store.save("provena", token_set)
        await store.close()
        return token_set

    @asynccontextmanager
    async def replica(
        self, who: Identity | None = None, *, jitter: float = 1.0, **settings: Any
    ) -> AsyncIterator[TokenSource]:
        who = identity() if who is None else who
        clock, store = SystemClock(), self.store(**settings)
        source = TokenSource(
            who, issuer=self.issuer.at(clock, who), store=store, clock=clock, emit=self.events.append,
            jitter=lambda: jitter,
        )  # fmt: skip
        await source.start()
        try:
            yield source
        finally:
            await source.close()
            await store.close()

    def troubles(self) -> list[StoreTrouble]:
        return [event for event in self.events if isinstance(event, StoreTrouble)]


def presented(source: TokenSource) -> str | None:
    held = source.current()
    return None if held is None else held.access_token


@pytest.fixture
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let replicas know of a write by its message alone."""
    monkeypatch.setattr(redis, "WATCH_SECONDS", 60.0)


@pytest.mark.usefixtures("nobody_looks")
async def test_renewal_of_one_replica_reaches_the_others(shared_redis: RedisServer) -> None:
    """One token call for all of them, and they are told of the new token (T13)."""
    deployment = Deployment(shared_redis)
    signed_in = await deployment.sign_in()
    async with AsyncExitStack() as stack:
        one, *others = [await stack.enter_async_context(deployment.replica()) for _ in range(3)]
        await pause(0.5)  # they listen by now
        newer = await one.reject(signed_in)
        assert newer is not None
        await eventually(
            lambda: all(presented(other) == newer.access_token for other in others), 5, what="the newer token"
        )

    assert deployment.issuer.token_calls == 1


async def test_replicas_renew_once_for_each_life(shared_redis: RedisServer) -> None:
    """All are due at the same moment, again and again; a rotated refresh token is never sent twice."""
    deployment = Deployment(shared_redis, life=1.5)
    await deployment.sign_in()
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(deployment.replica())
        await eventually(lambda: deployment.issuer.token_calls >= 6, 30, what="six renewals")

    assert deployment.issuer.reuses == 0
    spent = [form["refresh_token"] for form in deployment.issuer.forms]
    assert len(spent) == len(set(spent))


async def test_seed_is_used_up_once_by_replicas_that_start_together(shared_redis: RedisServer) -> None:
    """Each finds it unused, or used up and its successor beside it, whatever the moment at which it looks (T13)."""
    deployment = Deployment(shared_redis)
    deployment.issuer.live.add("canary-seed")
    who = identity(Grant.REFRESH_TOKEN, refresh_token=Secret.parse("canary-seed", literal=True))
    async with AsyncExitStack() as stack:
        sources = [await stack.enter_async_context(deployment.replica(who)) for _ in range(3)]
        tokens = await asyncio.gather(*(source.token() for source in sources))

    assert len({token.access_token for token in tokens}) == 1
    assert deployment.issuer.reuses == 0


@pytest.mark.usefixtures("nobody_looks")
async def test_sign_out_reaches_the_others(shared_redis: RedisServer) -> None:
    deployment = Deployment(shared_redis)
    await deployment.sign_in()
    async with deployment.replica() as one, deployment.replica() as other:
        await pause(0.5)
        assert "here and at the issuer" in await one.sign_out()
        await eventually(lambda: other.status().state == "sign-in-required", 2, what="the sign-out")


async def test_memory_serves_while_redis_is_away(redis_server: RedisServer) -> None:
    """The trouble is told once for each replica, and its end needs no restart."""
    deployment = Deployment(redis_server)
    signed_in = await deployment.sign_in()
    async with deployment.replica() as source:
        redis_server.kill()
        await eventually(deployment.troubles, 5, what="the trouble")
        await pause(2.5)
        assert presented(source) == signed_in.access_token
        assert source.status().state == "ready"
        assert "cannot be reached" in source.status().detail
        redis_server.start()
        await eventually(lambda: not source.status().detail, 5, what="the recovery")
        assert await source.reject(signed_in) is not None

    assert len(deployment.troubles()) == 1


async def test_nothing_is_spent_while_redis_is_away(redis_server: RedisServer) -> None:
    """Another replica may be renewing at that moment, and two of them with one refresh token end the sign-in."""
    deployment = Deployment(redis_server, life=2)
    await deployment.sign_in()
    async with deployment.replica() as source:
        redis_server.kill()
        await pause(3)
        with pytest.raises(IssuerUnavailable, match="not renewed for now"):
            await source.token()
        assert deployment.issuer.token_calls == 0
        redis_server.start()
        await eventually(lambda: presented(source), 15, what="a token")

    assert deployment.issuer.reuses == 0


async def test_service_account_is_renewed_while_redis_is_away(redis_server: RedisServer) -> None:
    """There is no refresh token that could be spent twice, so each replica helps itself."""
    deployment = Deployment(redis_server)
    deployment.issuer.refresh_life = None
    who = identity(Grant.CLIENT_CREDENTIALS, client_secret=Secret.parse("canary", literal=True))
    redis_server.kill()
    async with deployment.replica(who) as source:
        await eventually(lambda: presented(source), 15, what="a token")
        redis_server.start()
        await eventually(lambda: not source.status().detail, 15, what="the recovery")


async def test_start_without_redis_is_transient(redis_server: RedisServer) -> None:
    """Nobody has to sign in because of a server that is away: the store says who is, when it is back."""
    deployment = Deployment(redis_server)
    signed_in = await deployment.sign_in()
    redis_server.kill()
    async with deployment.replica() as source:
        assert source.status().state == "issuer-unavailable"
        redis_server.start()
        await eventually(lambda: presented(source) == signed_in.access_token, 10, what="the stored token")


async def test_answer_that_redis_missed_is_saved_when_it_is_back(redis_server: RedisServer) -> None:
    """The issuer has rotated, and the server went before the answer was kept: the others wait until it is."""
    deployment = Deployment(redis_server)
    signed_in = await deployment.sign_in()
    async with deployment.replica() as one, deployment.replica() as other:
        gate = Gate(deployment.issuer)
        deployment.issuer.script.append(gate)
        rejecting = asyncio.ensure_future(one.reject(signed_in))
        await gate.reached.wait()
        redis_server.kill()
        gate.open.set()
        newer = await rejecting  # after the patience of the save
        assert newer is not None
        await asyncio.to_thread(redis_server.start)
        await eventually(lambda: presented(other) == newer.access_token, 10, what="the newer token")
        assert await other.reject(newer) is not None

    assert deployment.issuer.reuses == 0


async def test_slow_replica_takes_what_its_successor_has(shared_redis: RedisServer) -> None:
    """A replica that lost its lease in mid-renewal neither stores nor presents its older answer."""
    deployment = Deployment(shared_redis)
    deployment.issuer.rotates = False  # or the second call could not succeed at all
    signed_in = await deployment.sign_in()
    async with deployment.replica(lease_seconds=0.6) as slow, deployment.replica() as successor:
        gate = Gate(deployment.issuer)
        deployment.issuer.script.append(gate)
        rejecting = asyncio.ensure_future(slow.reject(signed_in))
        await gate.reached.wait()
        store = slow._entry._store
        assert isinstance(store, RedisStore)
        for task in [*store._tasks._running]:
            if task.get_name() == "lease of provena":
                task.cancel()
        newer = await successor.reject(signed_in)
        assert newer is not None
        gate.open.set()
        assert await rejecting == newer
        assert presented(slow) == presented(successor) == newer.access_token
