"""What a token store is: the seam behind which sets are kept."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from proxy.tokens import TokenSet


@dataclass(frozen=True, slots=True)
class Trace:
    """What a store remembers of a name even after its set was deleted; nothing in it is secret."""

    epoch: int = 0
    """Highest epoch that was ever stored; a deletion counts as one."""
    seed: str | None = None
    """Fingerprint of the last seed that was used up or signed out: it is never sent again."""


class TokenStore(Protocol):
    """Keeps one token set for each identity, across restarts and processes.

    Every coroutine raises StoreError, with one sentence that names the cure, if the store is unsafe or out of order.
    """

    @property
    def kind(self) -> str:
        """`file`, `keyring`, `memory` or `redis`."""

    async def load(self, name: str) -> TokenSet | None:
        """Return the set of identity `name`, or None."""

    async def trace(self, name: str) -> Trace:
        """Return what is remembered of `name`, signed in or not."""

    async def save(self, name: str, token_set: TokenSet) -> bool:
        """Keep `token_set`, durably, before returning True.

        Returns False and changes nothing if a newer epoch is stored: a late renewal must not undo a sign-in or a
        sign-out (token-life, law 12). So it does if the renewal lock was lost, and who got it has saved since.
        """

    async def delete(self, name: str, *, seed: str | None = None) -> Trace:
        """Forget the set, start a new epoch, and remember `seed` (the earlier one if None); returns the new trace."""

    async def names(self) -> tuple[str, ...]:
        """Return the identities that have a set, sorted."""

    def renewal_lock(self, name: str, *, timeout: float) -> AbstractAsyncContextManager[None]:
        """Exclude all other renewals of `name`, in all processes; raises TimeoutError after `timeout` seconds.

        Raises StoreUnavailable if others share the store and cannot be excluded.
        """

    def fingerprint(self) -> object:
        """Return a value, cheaply, that differs once somebody wrote to the store."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called on the event loop soon after another process wrote, if the store is told of that.

        It may be called without need, and a store that is not told never calls it: look at the fingerprint as well.
        """

    async def close(self) -> None:
        """End what `watch` and the other methods began."""


def after_saving(trace: Trace, token_set: TokenSet) -> Trace | None:
    """Return the trace once `token_set` is stored over `trace`; None if it is of an older epoch and may not be."""
    if token_set.epoch < trace.epoch:
        return None
    return Trace(token_set.epoch, token_set.seed or trace.seed)


def after_deleting(trace: Trace, seed: str | None) -> Trace:
    """Return the trace once the set is deleted."""
    return Trace(trace.epoch + 1, seed or trace.seed)
