"""The store in Redis, on a real server: leases, fences, notifications, and the server going away."""

import asyncio
import re
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import StoreError, StoreUnavailable
from proxy.events import Event, StoreTrouble, Warned
from proxy.secret_refs import Secret
from proxy.stores import open_store, redis
from proxy.stores.redis import RedisStore
from proxy.stores.redis_url import parse
from tests.command import pause
from tests.conftest import free_port
from tests.journeys.authority import Authority
from tests.poll import eventually
from tests.redis_server import RedisServer
from tests.test_stores_common import TOKENS

RENEWED = replace(TOKENS, access_token="canary-access-2", refresh_token="canary-refresh-2")

Open = Callable[..., RedisStore]


@pytest.fixture
async def stores() -> AsyncIterator[Callable[[RedisServer], Open]]:
    """Open stores of one prefix, as the replicas of one deployment; all are closed at the end."""
    opened: list[RedisStore] = []
    prefix = f"test-{secrets.token_hex(4)}"

    def at(server: RedisServer) -> Open:
        def one(**settings: Any) -> RedisStore:
            opened.append(RedisStore(parse(server.url), prefix=prefix, **settings))
            return opened[-1]

        return one

    yield at
    for store in opened:
        await store.close()


@pytest.fixture
def replica(stores: Callable[[RedisServer], Open], shared_redis: RedisServer) -> Open:
    """Return what opens one more store on a server that stays."""
    return stores(shared_redis)


async def die(store: RedisStore) -> None:
    """End what a store does, as kill -9 would: nothing is prolonged or released any more."""
    await store._tasks.close()


async def holds(store: RedisStore, stack: AsyncExitStack, *, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - the seam's
    await stack.enter_async_context(store.renewal_lock("provena", timeout=timeout))


# --- the lease


async def test_lease_is_prolonged_while_it_is_held(replica: Open) -> None:
    """An issuer that takes longer than a lease does not let a second replica in."""
    async with replica(lease_seconds=0.6).renewal_lock("provena", timeout=1):
        with pytest.raises(TimeoutError):
            async with replica().renewal_lock("provena", timeout=2):
                pytest.fail("two renewals at once")


async def test_lease_of_a_dead_replica_ends(replica: Open) -> None:
    dead, successor = replica(lease_seconds=0.6), replica()
    async with AsyncExitStack() as stack:
        await holds(dead, stack)
        await die(dead)
        async with successor.renewal_lock("provena", timeout=10):
            assert await successor.save("provena", TOKENS)


async def test_lease_is_released_by_its_holder_alone(replica: Open) -> None:
    """Who lost the lease does not end that of its successor."""
    slow, successor, third = replica(lease_seconds=0.6), replica(), replica()
    async with AsyncExitStack() as late, AsyncExitStack() as stack:
        await holds(slow, late)
        await die(slow)
        await holds(successor, stack, timeout=10)
        await late.aclose()
        with pytest.raises(TimeoutError):
            async with third.renewal_lock("provena", timeout=0.5):
                pytest.fail("two renewals at once")


async def test_slow_holder_does_not_overwrite_its_successor(replica: Open) -> None:
    """A replica that was stopped for longer than its lease comes back with an answer that is old by now."""
    slow, successor = replica(lease_seconds=0.6), replica()
    async with AsyncExitStack() as late:
        await holds(slow, late)
        await die(slow)
        async with successor.renewal_lock("provena", timeout=10):
            assert await successor.save("provena", RENEWED)

        assert not await slow.save("provena", TOKENS)
        assert await successor.load("provena") == RENEWED


async def test_slow_holder_saves_while_its_successor_has_not(replica: Open) -> None:
    """Until then what the issuer gave it is the only refresh token that works."""
    slow, successor = replica(lease_seconds=0.6), replica()
    async with AsyncExitStack() as late:
        await holds(slow, late)
        await die(slow)
        async with successor.renewal_lock("provena", timeout=10):
            assert await slow.save("provena", RENEWED)
            assert await successor.load("provena") == RENEWED
            assert await successor.save("provena", TOKENS)


async def test_explicit_sign_in_needs_no_lease(replica: Open) -> None:
    """A newer epoch counts whatever the fences say, and the next renewal carries on from there."""
    server, terminal = replica(), replica()
    async with server.renewal_lock("provena", timeout=5):
        assert await server.save("provena", TOKENS)
        assert await terminal.save("provena", replace(RENEWED, epoch=2))
        assert not await server.save("provena", TOKENS)
    async with server.renewal_lock("provena", timeout=5):
        assert await server.save("provena", replace(RENEWED, epoch=2, access_token="third"))


async def test_loss_of_the_lease_is_told(replica: Open) -> None:
    """A holder that was away for longer than its lease, and finds somebody else there, says so."""
    events: list[Event] = []
    holder, thief = replica(lease_seconds=0.9, emit=events.append), replica()
    async with holder.renewal_lock("provena", timeout=5):
        await thief._client.set(thief._lease("provena"), "another", px=5000)
        await eventually(lambda: events, 5, what="the loss of the lease")

    assert [event for event in events if isinstance(event, Warned) and "taken over" in event.message]


async def test_lease_that_nobody_took_is_taken_up_again(replica: Open) -> None:
    """A server that lost its keys, or was away for longer than the lease, does not part it from its holder."""
    holder, other = replica(lease_seconds=0.6), replica()
    async with holder.renewal_lock("provena", timeout=5):
        await holder._client.delete(holder._lease("provena"))
        await eventually(lambda: holder._client.exists(holder._lease("provena")), 5, what="the lease")
        with pytest.raises(TimeoutError):
            async with other.renewal_lock("provena", timeout=0.3):
                pytest.fail("two renewals at once")


# --- what others write


async def test_write_is_told(replica: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other replicas know of it though they do not look by themselves."""
    monkeypatch.setattr(redis, "WATCH_SECONDS", 60.0)
    writer, reader = replica(), replica()
    told = asyncio.Event()
    reader.watch(told.set)
    await eventually(lambda: listeners(writer), what="the subscription")

    for _ in range(2):  # the first may still be found by the look after the subscription
        before = reader.fingerprint()
        await writer.save("provena", TOKENS)
        async with asyncio.timeout(5):
            await told.wait()
        told.clear()
        assert reader.fingerprint() != before


async def listeners(store: RedisStore) -> bool:
    [(_, count)] = await store._client.pubsub_numsub(store._key("written"))
    return bool(count)


async def test_write_is_found_without_a_message(replica: Open) -> None:
    """A message is a courtesy: the version is looked at each second besides."""
    reader = replica()
    told = asyncio.Event()
    reader.watch(told.set)
    await eventually(lambda: listeners(reader), what="the subscription")

    await reader._client.incr(reader._key("version"))
    async with asyncio.timeout(5):
        await told.wait()


async def test_own_write_is_no_news(replica: Open) -> None:
    store = replica()
    told = asyncio.Event()
    store.watch(told.set)
    await eventually(lambda: listeners(store), what="the subscription")
    await store.save("provena", TOKENS)
    before = store.fingerprint()
    await pause(1.5)

    assert store.fingerprint() == before


# --- the server goes away


async def test_store_works_again_after_a_restart(
    stores: Callable[[RedisServer], Open], redis_server: RedisServer
) -> None:
    """The same store object serves before and after, and a server that writes its log to disk loses nothing."""
    store = stores(redis_server)()
    await store.save("provena", TOKENS)
    redis_server.kill()
    with pytest.raises(StoreUnavailable, match=r"redis\.sock cannot be reached\."):
        await store.load("provena")
    redis_server.start()

    assert await store.load("provena") == TOKENS


async def test_restart_is_noticed_and_told_once(
    stores: Callable[[RedisServer], Open], redis_server: RedisServer
) -> None:
    """Watchers look when the server goes and when it comes back, and are told of writes as before."""
    writer, reader = stores(redis_server)(), stores(redis_server)()
    told = asyncio.Event()
    reader.watch(told.set)
    await eventually(lambda: listeners(writer), what="the subscription")
    before = reader.fingerprint()

    redis_server.kill()
    await asyncio.wait_for(told.wait(), 5)
    gone = reader.fingerprint()
    await pause(1.5)
    assert gone != before
    assert reader.fingerprint() == gone

    told.clear()
    redis_server.start()
    await asyncio.wait_for(told.wait(), 5)
    await eventually(lambda: listeners(writer), what="the subscription")
    told.clear()
    await writer.save("provena", TOKENS)
    await asyncio.wait_for(told.wait(), 2)


async def test_save_under_a_lease_waits_for_a_restart(
    stores: Callable[[RedisServer], Open], redis_server: RedisServer
) -> None:
    """What the issuer has just given must not be lost because the server restarts at that moment."""
    store = stores(redis_server)()
    async with store.renewal_lock("provena", timeout=5):
        redis_server.kill()
        saving = asyncio.ensure_future(store.save("provena", TOKENS))
        await pause(0.5)
        assert not saving.done()
        await asyncio.to_thread(redis_server.start)

        assert await saving
        assert await store.load("provena") == TOKENS


async def test_no_lease_right_after_an_outage(stores: Callable[[RedisServer], Open], redis_server: RedisServer) -> None:
    """A replica whose save was cut off has its chance before others use what it spent."""
    store = stores(redis_server)()
    redis_server.kill()
    with pytest.raises(StoreUnavailable):
        await store.load("provena")
    redis_server.start()
    assert await store.load("provena") is None

    with pytest.raises(TimeoutError):
        async with store.renewal_lock("provena", timeout=0.3):
            pytest.fail("a lease at once")
    async with store.renewal_lock("provena", timeout=10):
        assert True


async def test_no_lease_from_a_server_that_is_away(
    stores: Callable[[RedisServer], Open], redis_server: RedisServer
) -> None:
    """It is asked for some seconds, in case it restarts, and then the renewal is refused: others cannot be excluded."""
    redis_server.kill()
    with pytest.raises(StoreUnavailable):
        async with stores(redis_server)().renewal_lock("provena", timeout=25):
            pytest.fail("a lease from nobody")


async def test_server_that_cannot_write_is_as_good_as_away(
    stores: Callable[[RedisServer], Open], redis_server: RedisServer
) -> None:
    """After a failover the old primary may answer for a while: it reads, and refuses to write."""
    store = stores(redis_server)()
    await store._client.replicaof("127.0.0.1", free_port())
    with pytest.raises(StoreUnavailable):
        await store.save("provena", TOKENS)


# --- secrets


async def test_password_is_used_and_never_told(redis_program: str, tmp_path: Path) -> None:
    server = RedisServer(redis_program, tmp_path, ("--requirepass", "canary-password"))
    server.start()
    try:
        right = RedisStore(parse(f"unix://:canary-password@{server.socket}"))
        assert await right.save("provena", TOKENS)
        await right.close()
        for wrong in ("canary-guess", ""):
            store = RedisStore(parse(f"unix://:{wrong}@{server.socket}"))
            with pytest.raises(StoreUnavailable) as refused:
                await store.load("provena")
            await store.close()
            assert "canary" not in f"{refused.value!r} {store._client!r}"
    finally:
        server.stop()


def key_pair(authority: Authority) -> Path:
    """Return a file with a key and its certificate for 127.0.0.1."""
    authority.context()
    return next(authority.ca_file.parent.glob("server-*.pem"))


async def test_certificate_is_verified(redis_program: str, tmp_path: Path) -> None:
    """rediss:// trusts the operating system's authorities, or those that the URL names; nothing switches that off."""
    authority, port = Authority.create(tmp_path), free_port()
    pair = key_pair(authority)
    tls = f"--tls-port {port} --tls-cert-file {pair} --tls-key-file {pair} --tls-ca-cert-file {authority.ca_file}"
    server = RedisServer(redis_program, tmp_path, (*tls.split(), "--tls-auth-clients", "no"))
    server.start()
    try:
        trusting = RedisStore(parse(f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority.ca_file}"))
        assert await trusting.save("provena", TOKENS)
        await trusting.close()
        strange = RedisStore(parse(f"rediss://127.0.0.1:{port}"))
        with pytest.raises(StoreUnavailable, match="its certificate is not trusted"):
            await strange.load("provena")
        await strange.close()
    finally:
        server.stop()


async def test_what_is_kept_can_be_sealed(shared_redis: RedisServer) -> None:
    """With `[store] key` the server, its log and its backups hold nothing that signs anybody in."""
    prefix = f"test-{secrets.token_hex(4)}"
    key = Secret.parse("wZ3hLxq1vV0m0mJ7pQ4sK8bN2cX5dF6gH9jT1yU3eR4=", literal=True)
    url = Secret.parse(shared_redis.url)
    store = open_store("redis", Path("/nowhere"), key=key, url=url, prefix=prefix)
    await store.save("provena", TOKENS)
    assert await store.load("provena") == TOKENS
    assert isinstance(store, RedisStore)
    kept = await store._client.hgetall(store._entry("provena"))
    await store.close()

    assert b"canary" not in repr(kept).encode()


async def test_damaged_entry_is_told_and_not_used(replica: Open) -> None:
    events: list[Event] = []
    store = replica(emit=events.append)
    await store.save("provena", TOKENS)
    await store._client.hset(store._entry("provena"), "set", '{"access_')

    assert await store.load("provena") is None
    assert [event for event in events if isinstance(event, StoreTrouble)]


def test_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(StoreError, match=r'run: pip install "bearerproxy\[redis\]"'):
        open_store("redis", tmp_path, url=Secret.parse("redis://localhost"))


def test_url_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"\[store\] url cannot be read: the variable REDIS_URL is not set"):
        open_store("redis", tmp_path, url=Secret.parse("env:REDIS_URL", environ={}))
    with pytest.raises(StoreError, match=r"\[store\] url must be rediss://"):
        open_store("redis", tmp_path, url=Secret.parse("http://localhost"))
    with pytest.raises(StoreError, match="needs url"):
        open_store("redis", tmp_path)


def documented_rights() -> str:
    """Return the access list that docs/operations.md gives the user `bearerproxy`."""
    page = (Path(__file__).parents[1] / "docs/operations.md").read_text(encoding="utf-8")
    found = re.search(r"^ *user bearerproxy (.*?)```", page, re.DOTALL | re.MULTILINE)
    assert found
    return " ".join(found[1].replace(">PASSWORD", ">canary-password").split())


async def test_documented_rights_are_enough(redis_server: RedisServer) -> None:
    """Everything that a replica does is done by a user who may do that and nothing else."""
    admin = RedisStore(parse(redis_server.url))
    await admin._client.acl_setuser("bearerproxy", reset=True)
    await admin._client.execute_command("ACL", "SETUSER", "bearerproxy", *documented_rights().split())  # type: ignore[no-untyped-call] # the library's
    await admin.close()
    store = RedisStore(parse(f"unix://bearerproxy:canary-password@{redis_server.socket}"), lease_seconds=0.3)
    told = asyncio.Event()
    store.watch(told.set)
    async with store.renewal_lock("provena", timeout=5):
        await pause(0.5)
        assert await store.save("provena", replace(TOKENS, seed="fingerprint"))
    assert await store.load("provena") is not None
    assert await store.names() == ("provena",)
    assert (await store.trace("provena")).epoch == 1
    assert (await store.delete("provena", seed="other")).epoch == 2
    told.clear()
    await pause(1.5)
    assert not told.is_set()  # the subscription holds: losing it would be told
    with pytest.raises(StoreUnavailable, match="refuses"):
        await store._answer(lambda: store._client.set("other:key", "x"))
    await store.close()
