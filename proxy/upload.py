"""One request's body on its way up: from the caller's end to the call, and past the spool that keeps it (token-life 5).

    caller's end ──write()*, end()──► Upload ──► Call
                                        └──────► Spool ──again()──► the second call

The caller is asked to wait as long as anybody is behind: there is no call yet, the upstream does not take what it is
sent, or the disk is slow.
"""

import asyncio
from contextlib import aclosing
from enum import Flag, auto
from typing import Protocol

from proxy.spool import Spool
from proxy.tasks import Tasks
from proxy.transport.seam import Call
from proxy.upstream_answer import UpstreamAnswer


class Giver(Protocol):
    """Who the body comes from (exchange.Caller)."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Behind(Flag):
    """Who has to catch up before more of the body is wanted."""

    NOBODY = 0
    CALL = auto()
    UPSTREAM = auto()
    DISK = auto()


class Upload:
    """The body of one request; `forget` it whatever happens."""

    __slots__ = (
        "_behind", "_call", "_catching_up", "_early", "_giver", "_is_forgotten", "_news", "_spool", "_tasks",
        "has_more", "received",
    )  # fmt: skip

    def __init__(self, giver: Giver, spool: Spool | None, tasks: Tasks) -> None:
        self.has_more = True
        self.received = 0
        """Bytes that came before the answer was chosen."""
        self._giver = giver
        self._spool = spool
        self._tasks = tasks
        self._behind = Behind.CALL
        self._call: Call | None = None
        self._early: bytearray | None = bytearray()
        """What came before there was a call, None afterwards."""
        self._is_forgotten = False
        self._news: asyncio.Future[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None

    def early(self) -> bytes:
        """Return what has come of it already, to be sent with the head."""
        early, self._early = bytes(self._early or b""), None
        return early

    def go_to(self, call: Call) -> None:
        """Send what comes to `call`, and ask for it. Raises WrongLengthError."""
        self._call = call
        if self.has_more:
            self.release(Behind.CALL)
        else:
            call.end()

    def write(self, data: bytes) -> None:
        """Take a piece from the caller. Raises WrongLengthError."""
        if self._is_forgotten:
            return
        self.received += len(data)
        spool = self._spool
        if spool is not None and spool.add(data) and Behind.DISK not in self._behind:
            self.wait_for(Behind.DISK)
            self._catching_up = self._tasks.start(self._catch_up(spool), name="spool")
        if self._call is not None:
            self._call.write(data)
        elif self._early is not None:
            self._early += data
        self._tell()

    def end(self) -> None:
        """Take note that the body is whole. Raises WrongLengthError."""
        self.has_more = False
        if self._spool is not None:
            self._spool.end()
        if self._call is not None:
            self._call.end()
        self._tell()

    def stop(self) -> None:
        """Send no more of it; what still comes is kept."""
        self._call = None
        self._early = None
        self._be_behind(self._behind & Behind.DISK)

    def forget(self) -> None:
        """Free what is held of it, and drop what still comes, without a word; harmless if nothing is."""
        self._is_forgotten = True
        self._early = None
        if self._catching_up is not None:
            self._catching_up.cancel()
        if self._spool is not None:
            self._spool.drop()

    def wait_for(self, who: Behind) -> None:
        """Ask the caller to wait for `who`."""
        if not self._behind:
            self._giver.pause()
        self._behind |= who

    def release(self, who: Behind) -> None:
        """Ask the caller to go on, unless somebody else is behind."""
        self._be_behind(self._behind & ~who)

    def _be_behind(self, who: Behind) -> None:
        was, self._behind = self._behind, who
        if was and not who:
            self._giver.resume()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _catch_up(self, spool: Spool) -> None:
        await spool.caught_up()
        self.release(Behind.DISK)
        self._tell()

    # a second time ----------------------------------------------------------------------------------------------------

    async def is_repeatable(self) -> bool:
        """Return whether the whole body is held, once the rest of it has come: an upstream may answer before that."""
        spool = self._spool
        if spool is None:
            return False
        while self.has_more and spool.is_on:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        return await spool.is_whole()

    async def again(self, answer: UpstreamAnswer, seconds: float) -> None:
        """Send the body from the spool, until `answer` says that it is not wanted.

        Raises OSError if the disk fails or the upstream takes nothing for `seconds`, WrongLengthError.
        """
        if self._spool is None:
            return
        async with aclosing(self._spool.read()) as pieces:
            async for piece in pieces:
                if answer.trouble is not None or answer.status >= 300:
                    return
                answer.call.write(piece)
                async with asyncio.timeout(seconds):
                    await answer.until(lambda: not answer.is_congested or answer.is_over or answer.status >= 300)
        answer.call.end()
