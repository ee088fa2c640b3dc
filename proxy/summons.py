"""A request needs a sign-in: call the person, and hold the request until they have signed in.

Called is once: a browser opens the sign-in *page*, where nothing starts without its button, and the desktop says why.
While somebody looks at that page nothing opens, nor for ten minutes after it was opened, closed or denied: an R script
in a loop must not cover a screen with windows.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from proxy.clock import Clock
from proxy.errors import SignInRequired
from proxy.events import Emit, Event, SignedIn, SignInAwaited
from proxy.news import News
from proxy.tasks import Tasks
from proxy.tokens import TokenSet

QUIET_SECONDS = 600.0
"""How long nothing opens again after a window was opened, closed or denied."""


class Source(Protocol):
    """Where the token comes from (token_source.TokenSource)."""

    def current(self) -> TokenSet | None: ...
    async def token(self) -> TokenSet: ...
    async def fresh(self, share: float) -> TokenSet: ...
    async def reject(self, rejected: TokenSet, *, upstream: str) -> TokenSet | None: ...


class Summons:
    """Knows for each identity whether a window is open, and who waits."""

    def __init__(
        self,
        *,
        page: Callable[[str], str],
        call: Callable[[str, str], None],
        seconds: float,
        clock: Clock,
        emit: Emit,
    ) -> None:
        """Take `page`, the URL of an identity's sign-in page, and `call`, which shows (identity, URL) and returns."""
        self._page = page
        self._call = call
        self._seconds = seconds
        self._clock = clock
        self._emit = emit
        self._news = News()
        self._viewers: Counter[str] = Counter()
        self._quiet_until: dict[str, float] = {}
        self._denials: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        """Let held requests go on at a sign-in, wherever it was made."""
        if isinstance(event, SignedIn):
            self._quiet_until.pop(event.identity, None)
            self._news.tell()

    def denied(self, name: str) -> None:
        """Somebody said no: let the requests that wait go, and do not ask again for a while."""
        self._be_quiet(name)
        self._denials[name] += 1
        self._news.tell()

    @contextmanager
    def watched(self, name: str) -> Iterator[None]:
        """Count a window in which the identity's sign-in page is open."""
        self._viewers[name] += 1
        try:
            yield
        finally:
            self._viewers[name] -= 1
            self._be_quiet(name)

    async def hold(self, name: str, source: Source, refusal: SignInRequired) -> TokenSet:
        """Call the person and return the token that the sign-in brings; raise the refusal if none comes in time."""
        denials, seen = self._denials[name], self._news.count
        self._summon(name)
        tasks = Tasks()
        try:
            bound = tasks.start(self._clock.sleep(self._seconds), name="bound of a held request")
            while not bound.done() and self._denials[name] == denials and not self._news.is_closed:
                news = tasks.start(self._news.after(seen), name="news of a sign-in")
                await asyncio.wait({bound, news}, return_when=asyncio.FIRST_COMPLETED)
                seen = self._news.count
                try:
                    return await source.token()
                except SignInRequired as still:
                    refusal = still
        finally:
            await tasks.close()
        raise refusal

    def close(self) -> None:
        """Let everybody go who waits."""
        self._news.close()

    def _summon(self, name: str) -> None:
        if self._viewers[name] or self._clock.boot() < self._quiet_until.get(name, -math.inf):
            return
        self._be_quiet(name)
        self._emit(SignInAwaited(name, self._page(name), self._seconds))
        self._call(name, self._page(name))

    def _be_quiet(self, name: str) -> None:
        self._quiet_until[name] = self._clock.boot() + QUIET_SECONDS


class HeldSource:
    """A token source whose callers wait for a person where one has to sign in."""

    def __init__(self, name: str, source: Source, summons: Summons) -> None:
        self.current = source.current  # the way of nearly every request: nothing may stand in it
        self._name = name
        self._source = source
        self._summons = summons

    async def token(self) -> TokenSet:
        """Raises as the source does, SignInRequired only after the wait."""
        try:
            return await self._source.token()
        except SignInRequired as refusal:
            return await self._summons.hold(self._name, self._source, refusal)

    async def fresh(self, share: float) -> TokenSet:
        """Return a set that has lived less than its `share`, after the wait if there is none at all."""
        _ = await self.token()
        return await self._source.fresh(share)

    async def reject(self, rejected: TokenSet, *, upstream: str) -> TokenSet | None:
        """Return a newer set, as the source does: a replay is never held."""
        return await self._source.reject(rejected, upstream=upstream)
