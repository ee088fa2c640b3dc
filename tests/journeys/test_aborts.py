"""A20: callers who go at each stage of an exchange, by its name, many at once: nothing of theirs stays (H58, H60)."""

import asyncio
import gc
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.limits import Admission
from proxy.spool import Spools
from proxy.tokens import TokenSet
from tests.conftest import _descriptors
from tests.journeys.house import FixedSource, RawUpstream, Script, Visit, calling, raw_upstream, running, token_set
from tests.poll import eventually

GET = b"GET /data/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /data/x HTTP/1.1\r\nHost: localhost\r\n"
HALF = POST + b"Content-Length: 100000\r\n\r\n" + bytes(50_000)
HALF_CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\nc350\r\n" + bytes(50_000) + b"\r\n"


@dataclass
class Waiting(FixedSource):
    """A source that lets everybody wait: for a token if it has none, for a newer one if it has."""

    has_token: bool = True
    asked: int = 0
    never: asyncio.Event = field(default_factory=asyncio.Event)

    def current(self) -> TokenSet | None:
        return self.held if self.has_token else None

    async def token(self) -> TokenSet:
        self.asked += 1
        await self.never.wait()
        return self.held

    async def reject(self, rejected: TokenSet, *, upstream: str) -> TokenSet | None:
        self.asked += 1
        if self.newer is None:
            await self.never.wait()
        return await super().reject(rejected, upstream=upstream)


def saying(raw: bytes, *, reads_body: bool = True) -> Script:
    """Return a script that says `raw` and waits for the end of the connection."""

    async def script(visit: Visit) -> None:
        if reads_body:
            await visit.body()
        await visit.send(raw)
        await visit.gone()

    return script


async def flooding(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not visit.writer.is_closing():
        await visit.send(b"10000\r\n%s\r\n" % bytes(65536))


SILENT = saying(b"", reads_body=False)
EARLY_401 = saying(b"HTTP/1.1 401 Who\r\nContent-Length: 4\r\n\r\nwho?", reads_body=False)
HALF_A_401 = saying(b"HTTP/1.1 401 Who\r\nContent-Length: 9\r\n\r\nwho?")
HELD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10000\r\n\r\n" + b" " * 5000


@dataclass(frozen=True)
class Moment:
    """A stage, and how everybody gets there."""

    message: bytes
    script: Script
    is_there: Callable[[RawUpstream, Waiting], int]
    """How many are."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: Callable[[], Waiting] = Waiting


def heads(there: RawUpstream, _: Waiting) -> int:
    return len(there.heads)


def asked(_: RawUpstream, source: Waiting) -> int:
    return source.asked


MOMENTS = {
    "token": Moment(GET, SILENT, asked, source=lambda: Waiting(has_token=False)),
    "token-with-a-body": Moment(HALF, SILENT, asked, source=lambda: Waiting(has_token=False)),
    "handshake": Moment(GET, SILENT, lambda there, _: there.connections, {"scheme": "https"}),
    "sending": Moment(HALF, SILENT, heads),
    "sending-chunks": Moment(HALF_CHUNKED, SILENT, heads),
    "awaiting": Moment(GET, SILENT, heads),
    "early-success": Moment(HALF, saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", reads_body=False), heads),
    "curing": Moment(GET, HALF_A_401, asked),
    "reading": Moment(HALF_CHUNKED, EARLY_401, asked, source=lambda: Waiting(newer=token_set("newer"))),
    "replaying": Moment(
        GET, HALF_A_401,
        lambda there, _: len(there.heads) // 2, source=lambda: Waiting(newer=token_set("newer")),
    ),
    "holding": Moment(GET, saying(HELD), heads),
    "flowing": Moment(GET, flooding, heads),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("end", ["reset", "closed"])
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
async def test_a20_who_goes_leaves_no_place_task_connection_or_byte(moment: Moment, end: str, *, is_long: bool) -> None:
    """H46, S34: over a thousand of them in the long form."""
    crowd = 50 if is_long else 8
    admission, spools, source = Admission(crowd), Spools(), moment.source()
    tasks, descriptors = asyncio.all_tasks(), _descriptors()
    async with raw_upstream(moment.script) as there:
        there.scheme = moment.settings.get("scheme", "http")
        async with running([there.upstream()], sources={"me": source}, admission=admission, spools=spools) as proxy:
            listening = len(asyncio.all_tasks() - tasks)
            async with AsyncExitStack() as stack:
                callers = [await stack.enter_async_context(calling(proxy.port, seconds=30)) for _ in range(crowd)]
                for one in callers:
                    await one.send(moment.message)
                await eventually(lambda: moment.is_there(there, source) >= crowd, what="everybody's arrival")
                assert admission._total == crowd
                for one in callers:
                    one.abort() if end == "reset" else one.writer.close()
            await eventually(lambda: admission._total == 0, 5, what="every place")
            await eventually(lambda: not there.open, 5, what="the end of every upstream connection")
            await eventually(lambda: spools.held == 0, 5, what="every byte of a body")
            gc.collect()
            await eventually(lambda: len(asyncio.all_tasks() - tasks) <= listening, 5, what="the end of every task")
    # One more is none of theirs: libuv, below uvloop, opens a spare one at its first listener.
    await eventually(lambda: _descriptors() <= descriptors + 1, 5, what="the close of every descriptor")
    assert there.bodies == ([b""] * len(there.bodies))
