"""Server-sent events: a page learns at once that something has changed (HTML standard 9.2).

What is sent is the word that there is news, or rows of the journal as the server renders them, and never a state that
the page could not have asked for itself.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from proxy.clock import Clock
from proxy.errors import Overloaded
from proxy.news import News
from proxy.tasks import Tasks

MOST = 32
"""Open streams at a time: a browser holds one for each of its tabs."""
PAUSE_SECONDS = 0.5
"""Between two events: what happens meanwhile is told at once."""
QUIET_SECONDS = 15.0
"""After which a comment is sent, so that a stream whose reader has gone comes to its end."""


class _Stream(StreamingResponse):
    """Closes what it reads from when its reader goes, and not when somebody collects the garbage."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._events = events

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._events):
            await super().stream_response(send)


class Streams:
    """Gives out streams, a bounded number of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open = 0

    def answer(
        self,
        request: Request,
        news: News,
        said: Callable[[], str],
        *,
        watched: AbstractContextManager[None] | None = None,
    ) -> Response:
        """Return a stream that sends what `said` returns, at its beginning and after each of the `news`, to their end.

        `said` returns whole events, or nothing if there is nothing to say. `watched` is entered while it is open.
        Raises Overloaded.
        """
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        if self._open >= MOST:
            raise Overloaded("Too many pages of bearerproxy are open at once; close some.", retry_after=5)
        return _Stream(self._events(news, said, watched or nullcontext()))

    async def _events(
        self, news: News, said: Callable[[], str], watched: AbstractContextManager[None]
    ) -> AsyncGenerator[bytes, None]:
        self._open += 1
        tasks = Tasks()
        try:
            with watched:
                while not news.is_closed:
                    seen = news.count
                    yield (said() or ": nothing new\n\n").encode()
                    await self._clock.sleep(PAUSE_SECONDS)
                    bound = tasks.start(self._clock.sleep(QUIET_SECONDS), name="quiet of a stream")
                    told = tasks.start(news.after(seen), name="news of a stream")
                    await asyncio.wait({bound, told}, return_when=asyncio.FIRST_COMPLETED)
                    bound.cancel()
                    told.cancel()
        finally:
            self._open -= 1
            await tasks.close()
