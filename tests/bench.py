"""One token source on a bench: a scripted issuer, a store, a clock that the test moves, and everything it told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2

from proxy.clock import Clock, ManualClock, settle
from proxy.events import Event, Failed
from proxy.identities import Identity
from proxy.stores import MemoryStore, TokenStore
from proxy.token_source import TokenSource
from proxy.tokens import TokenSet
from tests.scripted_issuer import ScriptedIssuer, identity


class Bench:
    """One issuer, one store, one clock, and the events of all sources on them."""

    def __init__(self, *, clock: Clock | None = None, store: TokenStore | None = None, **scripted: Any) -> None:
        self.clock = ManualClock() if clock is None else clock
        self.issuer = ScriptedIssuer(**scripted)
        self.store = MemoryStore() if store is None else store
        self.events: list[Event] = []
        self.who = identity()

    @property
    def manual(self) -> ManualClock:
        assert isinstance(self.clock, ManualClock)
        return self.clock

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def a_set(self, **changes: Any) -> TokenSet:
        """Return a set that the issuer has just granted."""
        said = self.issuer.grant()
        now = self.clock.wall()
        token_set = TokenSet(
            access_token=said["access_token"],
            expires_at=now + (self.issuer.life or 300),
            obtained_at=now,
            client_id="client-tools",
            grant="device_code",
            refresh_token=said["refresh_token"],
            signed_in_at=now,
            epoch=1,
            issuer=identity().issuer,
        )
        return replace(token_set, **changes)

    async def sign_in(self, **changes: Any) -> TokenSet:
        token_set = self.a_set(**changes)
        assert await self.store.save("provena", token_set)
        return token_set

    async def pass_time(self, seconds: float, *, step: float = 60.0) -> None:
        """Let a long time pass in leaps, since a clock that stops at each second of a day takes its time."""
        for _ in range(int(seconds / step)):
            self.manual.suspend(step - 1)
            await self.manual.advance(1)

    @asynccontextmanager
    async def source(self, who: Identity | None = None, *, jitter: float = 1.0) -> AsyncIterator[TokenSource]:
        who = identity() if who is None else who
        issuer = self.issuer.at(self.clock, who)
        source = TokenSource(
            who, issuer=issuer, store=self.store, clock=self.clock, emit=self.events.append, jitter=lambda: jitter
        )
        await source.start()
        try:
            yield source
        finally:
            closing = asyncio.ensure_future(source.close())
            await settle()
            if not closing.done() and isinstance(self.clock, ManualClock):
                await self.clock.advance(11)
            await closing
            assert self.told(Failed) == []


class Gate:
    """Holds one answer back until the test lets it go."""

    def __init__(self, issuer: ScriptedIssuer) -> None:
        self._issuer = issuer
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, form: dict[str, str]) -> httpx2.Response:
        self.reached.set()
        answer = self._issuer.judge(form)  # the issuer has rotated, whatever becomes of its answer
        await self.open.wait()
        return answer
