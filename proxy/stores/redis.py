"""The store in Redis or Valkey, for replicas on several machines.

Theory of operation. Each identity has one hash: the set, and the epoch, the seed and the fence of whoever saved it. All
that must not be torn apart (compare the epoch, write, count the version, tell the others) is one script each, so there
is no moment between a look and a write.

The renewal lock is a *lease*: a key that ends by itself when its holder died, and that a task of the holder prolongs
while it lives. Each grant of it has a higher number, the *fence*, which the holder's save carries: a holder that was
stopped for longer than its lease cannot overwrite what its successor has saved since. It may still save when its
successor has not: then the refresh token that it got is the only good one, and the successor finds it by reading again.

Who writes raises the version and publishes it. One task for each process listens, and asks for the version each second
besides, so that a lost message costs a second and not the token. While the server is away nobody renews what spends a
refresh token, because nobody can be excluded: memory serves until the token ends.
"""

import asyncio
import json
import os
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from proxy.clock import Clock, SystemClock
from proxy.errors import StoreError, StoreUnavailable
from proxy.events import Emit, StoreTrouble, Warned, ignore
from proxy.stores.cipher import Cipher, Plain
from proxy.stores.redis_url import RedisUrl
from proxy.stores.store import Trace
from proxy.tasks import Tasks
from proxy.tokens import TokenSet

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")

LEASE_SECONDS = 6.0
"""Below the ten seconds that a caller waits for a renewal: it survives the death of the replica that began it."""
LOCK_POLL_SECONDS = 0.1
ANSWER_SECONDS = 2.0
"""How long the server may take to accept a connection, and to answer."""
PATIENCE_SECONDS = 5.0
"""How long a renewal waits for a server that is away: a restart or a failover should not cost a back-off."""
SETTLE_SECONDS = 1.0
"""No lease is taken so shortly after an outage: who could not save what the issuer gave it comes first."""
WATCH_SECONDS = 1.0
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 1.0

# KEYS: entry, names, version · ARGV: name, set, epoch, seed, fence, channel
_SAVE = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
local fence = tonumber(redis.call('HGET', KEYS[1], 'fence') or '0')
if tonumber(ARGV[3]) < epoch then return -1 end
if tonumber(ARGV[3]) == epoch and tonumber(ARGV[5]) < fence then return -1 end
redis.call('HSET', KEYS[1], 'set', ARGV[2], 'epoch', ARGV[3], 'fence', ARGV[5])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'seed', ARGV[4]) end
redis.call('SADD', KEYS[2], ARGV[1])
local version = redis.call('INCR', KEYS[3])
redis.call('PUBLISH', ARGV[6], version)
return version
"""
# KEYS: entry, names, version · ARGV: name, seed, channel
_DELETE = """
redis.call('HDEL', KEYS[1], 'set')
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'seed', ARGV[2]) end
redis.call('SREM', KEYS[2], ARGV[1])
local version = redis.call('INCR', KEYS[3])
redis.call('PUBLISH', ARGV[3], version)
return {redis.call('HGET', KEYS[1], 'epoch'), redis.call('HGET', KEYS[1], 'seed') or '', version}
"""
# KEYS: entry, lease · ARGV: owner, milliseconds. Asked again by its holder (a lost answer) it says the same.
_ACQUIRE = """
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then return 0 end
local granted = tonumber(redis.call('HGET', KEYS[1], 'granted') or '0')
if not holder then
  granted = math.max(granted, tonumber(redis.call('HGET', KEYS[1], 'fence') or '0')) + 1
  redis.call('HSET', KEYS[1], 'granted', granted)
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return granted
"""
# KEYS: entry, lease · ARGV: owner, milliseconds, fence. Taken up again if it ended and nobody else has had it since.
_PROLONG = """
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then return 0 end
if tonumber(redis.call('HGET', KEYS[1], 'granted') or '0') > tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], 'granted', ARGV[3])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
"""
# KEYS: lease · ARGV: owner
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class RedisStore:
    """Keeps sets in the Redis or Valkey server at `url`; all keys begin with `prefix`. Close it at the end."""

    kind = "redis"

    def __init__(
        self,
        url: RedisUrl,
        *,
        prefix: str = "bearerproxy",
        clock: Clock | None = None,
        emit: Emit = ignore,
        cipher: Cipher | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """Connect to nothing yet. Raises StoreError if the library is not installed."""
        self._server = url.shown
        self._client = _client(url)
        self._prefix = prefix
        self._clock = SystemClock() if clock is None else clock
        self._emit = emit
        self._cipher = Plain() if cipher is None else cipher
        self._lease_seconds = lease_seconds
        self._tasks = Tasks()
        self._is_watching = False
        self._is_closed = False
        self._watchers: list[Callable[[], None]] = []
        self._version = 0
        self._losses = 0
        self._is_away = False
        self._returned_at: float | None = None
        self._leased: set[str] = set()
        self._fences: dict[str, int] = {}
        """By name, the fence of the last lease that this process had: what it saves was obtained under that one."""

    async def load(self, name: str) -> TokenSet | None:
        text = await self._answer(lambda: self._client.hget(self._entry(name), "set"))
        if text is None:
            return None
        try:
            plain = await asyncio.to_thread(self._cipher.open, name, json.loads(text))
            return TokenSet.from_json(plain)
        except (ValueError, TypeError, OverflowError):
            self._emit(StoreTrouble(f"The entry of '{name}' in {self._server} is damaged and not used; sign in again."))
            return None

    async def trace(self, name: str) -> Trace:
        return _trace(*await self._answer(lambda: self._client.hmget(self._entry(name), ["epoch", "seed"])))

    async def save(self, name: str, token_set: TokenSet) -> bool:
        sealed = await asyncio.to_thread(self._cipher.seal, name, token_set.to_json())
        arguments = (name, json.dumps(sealed), token_set.epoch, token_set.seed or "", self._fences.get(name, 0))
        patience = PATIENCE_SECONDS if name in self._leased else 0.0
        version = int(await self._patiently(patience, lambda: self._write(_SAVE, name, *arguments)))
        if version < 0:
            return False
        self._version = version
        return True

    async def delete(self, name: str, *, seed: str | None = None) -> Trace:
        epoch, remembered, version = await self._answer(lambda: self._write(_DELETE, name, name, seed or ""))
        self._version = int(version)
        return _trace(epoch, remembered)

    async def names(self) -> tuple[str, ...]:
        found = await self._answer(lambda: self._client.smembers(self._key("names")))
        return tuple(sorted(_text(name) for name in found))

    @asynccontextmanager
    async def renewal_lock(self, name: str, *, timeout: float) -> AsyncIterator[None]:  # noqa: ASYNC109 - the seam's
        owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(8)}"  # for a person who asks who has it
        self._fences[name] = await self._acquire(name, owner, timeout)
        self._leased.add(name)
        prolonging = self._tasks.start(self._prolong(name, owner), name=f"lease of {name}")
        try:
            yield
        finally:
            prolonging.cancel()
            self._leased.discard(name)
            with suppress(StoreError):  # then it ends by itself
                await self._answer(lambda: self._eval(_RELEASE, [self._lease(name)], owner))

    def fingerprint(self) -> object:
        return self._version, self._losses

    def watch(self, changed: Callable[[], None]) -> None:
        self._watchers.append(changed)
        if not self._is_watching:
            self._is_watching = True
            _ = self._tasks.start(self._listen(), name="notifications of the token store")

    async def close(self) -> None:
        self._is_closed = True
        await self._tasks.close()
        await self._client.aclose()

    # --- the lease

    async def _acquire(self, name: str, owner: str, seconds: float) -> int:
        """Return the fence of a new lease. Raises TimeoutError, or StoreUnavailable after PATIENCE_SECONDS."""
        keys, milliseconds = [self._entry(name), self._lease(name)], int(self._lease_seconds * 1000)
        deadline = self._clock.boot() + seconds
        while True:
            if not self._is_settling():
                patience = min(PATIENCE_SECONDS, deadline - self._clock.boot())
                fence = int(await self._patiently(patience, lambda: self._eval(_ACQUIRE, keys, owner, milliseconds)))
                if fence > 0:
                    return fence
            left = deadline - self._clock.boot()
            if left <= 0:
                raise TimeoutError
            await self._clock.sleep(min(LOCK_POLL_SECONDS, left))

    def _is_settling(self) -> bool:
        return self._returned_at is not None and self._clock.boot() - self._returned_at < SETTLE_SECONDS

    async def _prolong(self, name: str, owner: str) -> None:
        keys, milliseconds = [self._entry(name), self._lease(name)], int(self._lease_seconds * 1000)
        fence = self._fences[name]
        while True:
            await self._clock.sleep(self._lease_seconds / 3)
            with suppress(StoreError):  # the server may be back before the lease ends
                if not await self._answer(lambda: self._eval(_PROLONG, keys, owner, milliseconds, fence)):
                    self._emit(Warned(f"This replica was slow to renew '{name}'; another one has taken over."))
                    return

    # --- what others write

    async def _listen(self) -> None:
        pause = SHORTEST_PAUSE_SECONDS
        while not self._is_closed:
            began = self._clock.boot()
            with suppress(StoreError):
                await self._follow()
            self._went_away()
            has_lasted = self._clock.boot() - began > LONGEST_PAUSE_SECONDS
            pause = SHORTEST_PAUSE_SECONDS if has_lasted else min(pause * 2, LONGEST_PAUSE_SECONDS)
            await self._clock.sleep(pause)

    async def _follow(self) -> None:
        """Take up each new version, told or asked for, until the connection breaks (StoreUnavailable)."""
        with self._translated():
            async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
                await channel.subscribe(self._key("written"))
                while not self._is_closed:  # a cancellation may be lost, see _answer
                    version = await self._answer(lambda: self._client.get(self._key("version")))
                    if self._version != int(version or 0):
                        self._version = int(version or 0)
                        self._wake()
                    await channel.get_message(timeout=WATCH_SECONDS)

    def _went_away(self) -> None:
        """Let everybody look, once, so that the trouble is told when it begins."""
        if not self._is_away:
            self._is_away = True
            self._losses += 1
            self._wake()

    def _came_back(self) -> None:
        if self._is_away:
            self._is_away = False
            self._returned_at = self._clock.boot()
            self._wake()

    def _wake(self) -> None:
        for changed in self._watchers:
            changed()

    # --- asking the server

    def _key(self, what: str) -> str:
        return f"{self._prefix}:{what}"

    def _entry(self, name: str) -> str:
        return self._key(f"identity:{name}")

    def _lease(self, name: str) -> str:
        return self._key(f"lease:{name}")

    def _write(self, script: str, name: str, *arguments: str | int) -> Awaitable[Any]:
        keys = [self._entry(name), self._key("names"), self._key("version")]
        return self._eval(script, keys, *arguments, self._key("written"))

    def _eval(self, script: str, keys: list[str], *arguments: str | int) -> Awaitable[Any]:  # Any: Lua's values
        return self._client.eval(script, len(keys), *keys, *arguments)

    async def _patiently(self, seconds: float, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer, asking again for `seconds` while the server is away."""
        deadline = self._clock.boot() + seconds
        while True:
            try:
                return await self._answer(ask)
            except StoreUnavailable:
                if self._clock.boot() >= deadline:
                    raise
            await self._clock.sleep(SHORTEST_PAUSE_SECONDS)

    async def _answer(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer. Raises StoreUnavailable.

        Asked in a task of its own, because the library loses cancellations: its `asyncio.wait_for` drops one that comes
        together with the answer before Python 3.12, and the caller's task would go on for ever.
        """
        answer = await asyncio.shield(self._tasks.start(self._ask(ask), name="question to the token store"))
        if isinstance(answer, StoreUnavailable):
            raise answer
        return answer

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T | StoreUnavailable:
        try:
            with self._translated():
                answer = await ask()
        except StoreUnavailable as error:
            self._went_away()
            return error
        self._came_back()
        return answer

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the library's errors into StoreUnavailable: the same sentence as long as the trouble is the same."""
        from redis import exceptions

        try:
            yield
        except (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError) as error:
            raise StoreUnavailable(
                f"The token store {self._server} refuses the user or the password of [store] url, or lacks a right "
                "that docs/operations.md names."
            ) from error
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
            why = ": its certificate is not trusted" if _is_about_trust(error) else ""
            raise StoreUnavailable(f"The token store {self._server} cannot be reached{why}.") from error
        except exceptions.RedisError as error:
            raise StoreUnavailable(f"The token store {self._server} refuses: {str(error)[:200]}") from error


def _client(url: RedisUrl) -> "Redis":
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.maint_notifications import MaintNotificationsConfig
    except ImportError as error:
        raise StoreError(
            '[store] kind = "redis" needs a library that is not installed; run: pip install "bearerproxy[redis]"'
        ) from error
    return Redis.from_url(
        url.text,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 1),  # a pooled connection may have ended while it was idle
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        client_name="bearerproxy",
    )


def _trace(epoch: bytes | str | None, seed: bytes | str | None) -> Trace:
    return Trace(int(epoch or 0), _text(seed) if seed else None)


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


def _is_about_trust(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
