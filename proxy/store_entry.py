"""One identity's entry in the token store: what others do to it is noticed, trouble with it is told once."""

import asyncio
import math
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.errors import StoreError, StoreUnavailable
from proxy.events import Emit, StoreTrouble
from proxy.stores import TokenStore, Trace
from proxy.tokens import TokenSet

SAVE_AGAIN_SECONDS = 10.0
_UNREAD = object()
"""A fingerprint that no store has: look again at the next occasion."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the store holds of the identity now."""

    token_set: TokenSet | None
    trace: Trace
    is_news: bool
    """True if it differs from what this process last read or wrote."""
    was_known: bool
    """True if this process had read or written a set before this reading."""


class StoreEntry:
    """The store as one token source sees it. Its owner holds `turn` from reading or writing to publishing.

    Without that, an old reading could be published after a newer set.
    """

    def __init__(self, name: str, store: TokenStore, *, clock: Clock, emit: Emit) -> None:
        self.turn = asyncio.Lock()
        self.trouble = ""
        """What is wrong with the store, in one sentence; empty if nothing is."""
        self.is_unavailable = False
        """True if others share the store and it was away when last asked: they may have renewed, or be at it."""
        self._name = name
        self._store = store
        self._clock = clock
        self._emit = emit
        self._seen: TokenSet | None = None
        self._fingerprint: object = None
        self._save_again_at = math.inf

    @property
    def has_changed(self) -> bool:
        """True if somebody wrote to the store since we last read it, or if we could not read it then."""
        return self._store.fingerprint() != self._fingerprint

    @property
    def is_unsaved(self) -> bool:
        """True if memory is ahead of the store, because a write failed."""
        return not math.isinf(self._save_again_at)

    @property
    def wants_saving(self) -> bool:
        """True once it is time to try a failed write again."""
        return self._clock.boot() >= self._save_again_at

    async def read(self) -> Reading | None:
        """Return what is stored; None, and the trouble told, if it cannot be read."""
        self._fingerprint = self._store.fingerprint()
        try:
            stored, trace = await self._consistent()
        except StoreError as error:
            self._failed(error)
            return None
        self.is_unavailable = False
        if not self.is_unsaved:
            self.trouble = ""
        reading = Reading(stored, trace, is_news=stored != self._seen, was_known=self._seen is not None)
        self._seen = stored
        return reading

    async def _consistent(self) -> tuple[TokenSet | None, Trace]:
        """Return a set and the trace that it was stored with.

        Another process may write between two questions: no set beside the trace of one would say that somebody signed
        out, or that the seed is used up and what it brought is lost.
        """
        trace = await self._store.trace(self._name)
        while True:
            stored = await self._store.load(self._name)
            before, trace = trace, await self._store.trace(self._name)
            if trace == before:
                return stored, trace

    async def save(self, token_set: TokenSet) -> bool:
        """Store `token_set`; False if the store has a newer epoch.

        Trouble is told, and the write is due again later: memory goes on serving (T14).
        """
        try:
            is_saved = await self._store.save(self._name, token_set)
        except StoreError as error:
            self._failed(error)
            # What replicas share is behind until we save: at the next look, before one of them uses what is spent.
            pause = 0.0 if self.is_unavailable else SAVE_AGAIN_SECONDS
            self._save_again_at = self._clock.boot() + pause
            return True
        self.nothing_to_save()
        self.is_unavailable = False
        self.trouble = ""
        if is_saved:
            self._seen = token_set
        return is_saved

    def nothing_to_save(self) -> None:
        """Forget a failed write: what it was about is no longer ours, or somebody else's is newer."""
        self._save_again_at = math.inf

    async def delete(self, seed: str | None) -> Trace | None:
        """Delete the set and remember `seed`; returns the new trace, None if the store does not let us."""
        try:
            trace = await self._store.delete(self._name, seed=seed)
        except StoreError as error:
            self._failed(error)
            return None
        self._seen = None
        return trace

    async def lock(self, stack: AsyncExitStack, *, seconds: float) -> bool:
        """Exclude other processes' renewals for as long as `stack` is open; False if they hold it for `seconds`.

        A store that cannot lock does not end the renewals: one process alone is the normal case (T14). Replicas are
        several by intention: False too while their store is away, and `is_unavailable` is True then.
        """
        try:
            await stack.enter_async_context(self._store.renewal_lock(self._name, timeout=seconds))
        except TimeoutError:
            return False
        except StoreError as error:
            self._failed(error)
            return not self.is_unavailable
        self.is_unavailable = False
        return True

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called when the store is told that somebody wrote; not every store is."""
        self._store.watch(changed)

    def _failed(self, error: StoreError) -> None:
        self.is_unavailable = isinstance(error, StoreUnavailable)
        self._fingerprint = _UNREAD
        if str(error) != self.trouble:
            self.trouble = str(error)
            self._emit(StoreTrouble(self.trouble))
