"""What every store keeps to, whatever it keeps the sets in."""

import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.stores import FileStore, MemoryStore, TokenStore, Trace
from proxy.stores.keyring import keyring_store
from proxy.stores.redis import RedisStore
from proxy.stores.redis_url import parse
from proxy.tokens import TokenSet

TOKENS = TokenSet(
    access_token="canary-access",
    expires_at=1_750_000_300.0,
    obtained_at=1_750_000_000.0,
    client_id="client-tools",
    grant="device_code",
    refresh_token="canary-refresh",
    scope="profile",
    signed_in_at=1_750_000_000.0,
    epoch=1,
    issuer="https://auth.example.org/auth/realms/rrap",
)


class DictKeyring:
    """A keyring of this test."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.entries[service, username]


def redis_store(request: pytest.FixtureRequest) -> TokenStore:
    server = request.getfixturevalue("shared_redis")
    return RedisStore(parse(server.url), prefix=f"test-{secrets.token_hex(4)}")


STORES: dict[str, Callable[[Path, pytest.FixtureRequest], TokenStore]] = {
    "memory": lambda _, __: MemoryStore(),
    "file": lambda folder, _: FileStore(folder),
    "keyring": lambda folder, _: keyring_store(folder, backend=DictKeyring()),
    "redis": lambda _, request: redis_store(request),
}


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TokenStore]:
    there = STORES[request.param](tmp_path / "state", request)
    yield there
    await there.close()


async def test_unknown_name_has_nothing(store: TokenStore) -> None:
    """A fresh store knows nobody, and says so without making anything."""
    assert await store.load("provena") is None
    assert await store.trace("provena") == Trace()
    assert await store.names() == ()


async def test_saved_set_comes_back_whole(store: TokenStore) -> None:
    """The whole set is kept, access token and expiry included, so that a restart can serve during an outage."""
    assert await store.save("provena", TOKENS)

    assert await store.load("provena") == TOKENS
    assert await store.names() == ("provena",)
    assert await store.trace("provena") == Trace(1, None)


async def test_names_do_not_mix(store: TokenStore) -> None:
    other = replace(TOKENS, access_token="other")
    await store.save("provena", TOKENS)
    await store.save("dotstat", other)

    assert await store.load("provena") == TOKENS
    assert await store.load("dotstat") == other
    assert await store.names() == ("dotstat", "provena")


async def test_older_epoch_is_refused(store: TokenStore) -> None:
    """A renewal that comes after another sign-in must not undo it."""
    newer = replace(TOKENS, epoch=2, access_token="newer")
    await store.save("provena", newer)

    assert not await store.save("provena", TOKENS)
    assert await store.load("provena") == newer


async def test_deletion_is_not_undone(store: TokenStore) -> None:
    """A renewal in flight that lands after a sign-out changes nothing."""
    await store.save("provena", TOKENS)
    trace = await store.delete("provena")

    assert trace == Trace(2, None)
    assert not await store.save("provena", replace(TOKENS, access_token="late"))
    assert await store.load("provena") is None


async def test_deletion_remembers_the_seed(store: TokenStore) -> None:
    """A seed that was used up must not be sent again, so its fingerprint outlives the set."""
    await store.save("provena", replace(TOKENS, seed="fingerprint"))
    await store.delete("provena")

    assert await store.trace("provena") == Trace(2, "fingerprint")


async def test_sign_in_after_deletion(store: TokenStore) -> None:
    await store.save("provena", TOKENS)
    trace = await store.delete("provena")

    assert await store.save("provena", replace(TOKENS, epoch=trace.epoch + 1))
    assert await store.names() == ("provena",)


async def test_fingerprint_shows_each_write(store: TokenStore) -> None:
    """Watching is a look at the fingerprint; reading changes nothing, each write does."""
    seen = [store.fingerprint()]
    await store.save("provena", TOKENS)
    seen.append(store.fingerprint())
    await store.load("provena")

    assert store.fingerprint() == seen[-1]
    await store.delete("provena")
    assert len({*seen, store.fingerprint()}) == 3


async def test_renewal_lock_excludes(store: TokenStore) -> None:
    """The second renewal of one identity waits, and gives up after its time; other identities are free."""
    async with store.renewal_lock("provena", timeout=5):
        with pytest.raises(TimeoutError):
            async with store.renewal_lock("provena", timeout=0.1):
                pytest.fail("two renewals at once")
        async with store.renewal_lock("dotstat", timeout=0.1):
            assert True
    async with store.renewal_lock("provena", timeout=0.1):
        assert True
