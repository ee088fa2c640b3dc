"""The way back from the issuer: what a browser must bring to end a sign-in of ours (RFC 8252 7.3).

It is a cross-site navigation by nature, so Sec-Fetch-Site says nothing here; `state`, random and for one use, is what
tells our flow from anybody else's (S37, S39).
"""

import asyncio
import hmac
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl

SIGNED_IN = "You are signed in. You may close this page."
FAILED = "The sign-in did not succeed. Where you began it, you can read why; you may close this page."
UNKNOWN = "This page belongs to a sign-in that is not under way here. You may close it."

_NAVIGATION = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@dataclass(frozen=True, slots=True)
class Callback:
    """What came back for our flow."""

    code: str | None
    error: str | None
    description: str
    issuer: str | None


class BadCallback(Exception):
    """A request that is not our flow's; answered with `status` and otherwise ignored."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class WayBack:
    """One flow's: it knows the state that the browser has to bring, and brings what came to the flow."""

    def __init__(self) -> None:
        self.state = secrets.token_urlsafe(32)
        loop = asyncio.get_running_loop()
        self.callback: asyncio.Future[Callback] = loop.create_future()
        self._has_succeeded: asyncio.Future[bool] = loop.create_future()

    @property
    def is_awaited(self) -> bool:
        return not self.callback.done()

    def take(self, query: str) -> None:
        """Hand what `query` brings to the flow; raises BadCallback if it is not this flow's, or not the first time."""
        pairs = parse_qsl(query, keep_blank_values=True)
        said = dict(pairs)
        if len(said) != len(pairs):  # > parameters MUST NOT be included more than once (RFC 6749 3.1)
            raise BadCallback(HTTPStatus.BAD_REQUEST)
        if not hmac.compare_digest(said.get("state", "").encode(), self.state.encode()):
            raise BadCallback(HTTPStatus.BAD_REQUEST)
        if not self.is_awaited:  # one use: the same answer again is not ours any more
            raise BadCallback(HTTPStatus.BAD_REQUEST)
        self.callback.set_result(
            Callback(said.get("code"), said.get("error"), said.get("error_description", ""), said.get("iss"))
        )

    async def words(self) -> str:
        """Return what the browser's page says, once the flow knows how it went."""
        return SIGNED_IN if await self._has_succeeded else FAILED

    def succeed(self) -> None:
        """Let the page say that it worked; without this it says that it did not."""
        self._has_succeeded.set_result(True)

    def close(self) -> None:
        if not self._has_succeeded.done():
            self._has_succeeded.set_result(False)


Landing = Callable[[WayBack], AbstractAsyncContextManager[str]]
"""A place where a flow's browser may come back; entered, it yields the redirect URI."""


def refuse_all_but_navigations(fields: Iterable[tuple[str, str]]) -> None:
    """Raise BadCallback for a page's script, form, frame or picture: what comes is a person's browser on its way.

    `fields` have lower-case names. A browser that says nothing of itself may come too.
    """
    if any(name == "origin" or (name in _NAVIGATION and value != _NAVIGATION[name]) for name, value in fields):
        raise BadCallback(HTTPStatus.FORBIDDEN)


class OwnPort:
    """Where browsers come back on the port of the proxy itself, while a sign-in waits for one."""

    def __init__(self) -> None:
        self._open: list[WayBack] = []

    @property
    def is_awaited(self) -> bool:
        return any(one.is_awaited for one in self._open)

    def at(self, uri: str) -> Landing:
        """Return the landing whose redirect URI is `uri`."""

        @asynccontextmanager
        async def landing(way_back: WayBack) -> AsyncIterator[str]:
            self._open.append(way_back)
            try:
                yield uri
            finally:
                self._open.remove(way_back)
                way_back.close()

        return landing

    async def land(self, query: str) -> str:
        """Return what to say to the browser that brings `query`; raises BadCallback if no flow waits for it."""
        for way_back in self._open:
            try:
                way_back.take(query)
            except BadCallback:
                continue
            return await way_back.words()
        raise BadCallback(HTTPStatus.BAD_REQUEST)
