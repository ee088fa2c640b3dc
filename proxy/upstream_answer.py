"""One answer from an upstream: held until somebody has decided what becomes of it, then passed on as it comes.

    awaited ──on_head──► held ──flow()──► flowing
                          │ more than READ_AHEAD_BYTES: the upstream waits

Held are answers that need a second look: a 401, which a newer token may cure, and a success that comes while the
request is still on its way up.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from proxy.headers import Fields
from proxy.transport.seam import OVER, Call, Trouble

READ_AHEAD_BYTES = 256 * 1024
"""How much of an answer is held before the upstream has to wait."""


class Owner(Protocol):
    """Who asked for the answer."""

    def on_head(self, answer: "UpstreamAnswer") -> None:
        """Take note of a head: the answer is held from here on."""

    def on_data(self, data: bytes) -> None:
        """Take a piece of the answer that flows."""

    def on_end(self) -> None:
        """Take note that the answer that flows is whole."""

    def on_trouble(self, answer: "UpstreamAnswer") -> None:
        """Take note that there will be no answer, or no more of the one that flows."""

    def on_congestion(self, answer: "UpstreamAnswer") -> None:
        """Take note that the upstream's taking of the request has stopped, or goes on."""

    def on_exception(self, error: Exception) -> None:
        """Take what one of these raised: nothing may reach the parser and the event loop below."""


class UpstreamAnswer:
    """Takes one answer (seam.Sink)."""

    __slots__ = (
        "_held", "_is_flowing", "_is_paused", "_news", "_owner", "call", "error", "fields", "is_congested", "is_whole",
        "size", "status", "trouble",
    )  # fmt: skip

    call: Call

    def __init__(self, owner: Owner) -> None:
        self.status = 0
        """0 as long as there is no head."""
        self.fields: Fields = []
        self.trouble: Trouble | None = None
        self.error: BaseException | None = None
        self.is_whole = False
        self.is_congested = False
        self.size = 0
        """How much is held."""
        self._owner = owner
        self._held: list[bytes] = []
        self._is_flowing = False
        self._is_paused = False
        self._news: asyncio.Future[None] | None = None

    # what the way tells -----------------------------------------------------------------------------------------------

    def on_head(self, status: int, fields: Fields) -> None:
        self.status = status
        self.fields = fields
        try:
            self._owner.on_head(self)
        except Exception as error:  # noqa: BLE001 - told by its owner
            self._owner.on_exception(error)
        self._tell()

    def on_data(self, data: bytes) -> None:
        if not self._is_flowing:
            self._hold(data)
            return
        try:
            self._owner.on_data(data)
        except Exception as error:  # noqa: BLE001 - told by its owner
            self._owner.on_exception(error)

    def on_end(self) -> None:
        self.is_whole = True
        if self._is_flowing:
            try:
                self._owner.on_end()
            except Exception as error:  # noqa: BLE001 - told by its owner
                self._owner.on_exception(error)
        self._tell()

    def on_error(self, trouble: Trouble, error: BaseException | None) -> None:
        self.trouble, self.error = trouble, error
        if self._is_flowing or not self.status:
            try:
                self._owner.on_trouble(self)
            except Exception as failure:  # noqa: BLE001 - told by its owner
                self._owner.on_exception(failure)
        elif self.is_congested:
            self._be_congested(is_so=False)  # there is nobody left to wait for
        self._tell()

    def pause(self) -> None:
        self._be_congested(is_so=True)

    def resume(self) -> None:
        self._be_congested(is_so=False)
        self._tell()

    def _be_congested(self, *, is_so: bool) -> None:
        self.is_congested = is_so
        try:
            self._owner.on_congestion(self)
        except Exception as error:  # noqa: BLE001 - told by its owner
            self._owner.on_exception(error)

    # what its owner wants ---------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether no more of it will come."""
        return self.is_whole or self.trouble is not None

    @property
    def held(self) -> bytes:
        """What has come of the body."""
        return b"".join(self._held)

    def flow(self) -> None:
        """Give the owner what is held, and whatever comes from now on at once."""
        self._is_flowing = True
        held, self._held = self._held, []
        self.fields = []
        for piece in held:
            self._owner.on_data(piece)
        if self._is_paused:
            self.call.resume()
        if self.is_whole:
            self._owner.on_end()
        elif self.trouble is not None:
            self._owner.on_trouble(self)

    def drop(self) -> None:
        """Let go of the call, which is aborted unless both halves of it came whole."""
        self.call.abort()
        self.call = OVER

    async def until(self, is_enough: Callable[[], bool]) -> None:
        """Return when something has come that is enough, at once if it has."""
        while not is_enough():
            self._news = asyncio.get_running_loop().create_future()
            await self._news

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self.size += len(data)
        if self.size >= READ_AHEAD_BYTES and not self._is_paused:
            self._is_paused = True
            self.call.pause()
        self._tell()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
