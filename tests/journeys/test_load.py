"""The command under callers who mean no good: what they cost others, and what memory (A16, A17)."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.limits import Limits
from tests.command import Serving, resident_bytes, serving
from tests.conftest import need
from tests.journeys.house import calling, ok, parsed, raw_upstream

MEBIBYTE = 1 << 20
GET = b"GET /open/x HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST /open/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
FLOOD = b"x" * (8 * MEBIBYTE)


@asynccontextmanager
async def open_proxy(folder: Path) -> AsyncIterator[Serving]:
    """The command in front of an API that answers everybody."""
    async with raw_upstream(ok) as there:
        config = folder / "proxy.toml"
        config.write_text(
            f'[log]\nformat = "json"\naccess = false\n[store]\nkind = "memory"\n'
            f'[upstream.open]\nurl = "http://127.0.0.1:{there.port}"\nanonymous = true\n'
        )
        async with serving(config) as proxy:
            yield proxy


# heads without an end (A16) ------------------------------------------------------------------------------------------

HEADS = {
    "one-field": (GET + b"X: " + FLOOD, {431}),
    "one-name": (GET + FLOOD, {431}),
    "lines": (GET + b"X: y\r\n" * 10_000 + b"\r\n", {431}),
    "target": (b"GET /open/" + b"x" * MEBIBYTE + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", {414}),
    "endless-target": (b"GET /open/" + FLOOD, {414}),
    "trailer": (CHUNKED + b"0\r\nX: " + FLOOD, {0}),
    "trailers": (CHUNKED + b"0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", {0}),
    "extension": (CHUNKED + b"1;x=" + FLOOD, {0}),
    "empty-lines": (b"\r\n" * (2 * MEBIBYTE), {431}),
    "version-0.9": (b"GET /open/x HTTP/0.9\r\n\r\n", {505}),
    "version-2.0": (GET.replace(b"1.1", b"2.0") + b"\r\n", {505}),
    "version-3.7": (GET.replace(b"1.1", b"3.7") + b"\r\n", {400, 505}),
    "pipeline": ((GET + b"\r\n") * 100_000, {0, 200}),
}


async def status_of(port: int, message: bytes) -> int:
    """Send what can be sent of `message` and return the status of the answer, 0 for a close without one."""
    async with calling(port, seconds=60) as caller:
        sending = asyncio.ensure_future(caller.send(message))
        try:
            head = await caller.head()
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0
        finally:
            caller.abort()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        return int(head.split(b" ")[1])


async def test_a16_no_head_costs_memory(tmp_path: Path) -> None:
    """Four at once: refused or closed, and less than 5 MB kept or held meanwhile (P2-P4, P7)."""
    if sys.platform != "linux":
        need("/proc", how="run this test on Linux")
    async with open_proxy(tmp_path) as proxy:
        for message, _ in HEADS.values():  # what a process takes once, for its first refusal of a kind
            await status_of(proxy.port, message)
        before = most = await resident_bytes(proxy.process)
        for what, (message, wanted) in HEADS.items():
            asking = asyncio.gather(*(status_of(proxy.port, message) for _ in range(4)))
            while not asking.done():
                await asyncio.wait([asking], timeout=0.02)
                most = max(most, await resident_bytes(proxy.process))
            assert set(await asking) <= wanted, what
        assert (await proxy.get("/open/x")).text == "hello"

    assert most - before < 5_000_000


# callers who hold connections (A17) ----------------------------------------------------------------------------------


@asynccontextmanager
async def crowded(port: int, lives: list[float]) -> AsyncIterator[None]:
    """Have 400 connections held meanwhile, and put into `lives` how long each dripping one was let live, in seconds."""
    crowd = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.journeys.crowd", str(port),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert crowd.stdout is not None
        assert await asyncio.wait_for(crowd.stdout.readline(), 60) == b"open\n"
        yield
        said, _ = await crowd.communicate(b"end\n")
        lives += json.loads(said)
    finally:
        if crowd.returncode is None:
            crowd.kill()
            await crowd.communicate()


async def slowest_of_a_hundred(port: int, seconds: float) -> float:
    """Ask on four kept connections for so long, and return the 99th percentile of the answers' times."""
    times: list[float] = []
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def ask() -> None:
        async with calling(port, seconds=seconds + 60) as caller:
            while loop.time() < end:
                started = loop.time()
                await caller.send(GET + b"\r\n")
                await caller.reader.readuntil(b"\r\n\r\nhello")
                times.append(loop.time() - started)

    await asyncio.gather(*(ask() for _ in range(4)))
    return sorted(times)[int(len(times) * 0.99)]


@pytest.mark.long
async def test_a17_idle_and_dripping_connections_do_not_slow_down_others(tmp_path: Path, *, is_long: bool) -> None:
    """By ratio to the same machine's undisturbed runs before and after; drips end by the deadline (P1, S34)."""
    seconds, lives = 60.0 if is_long else 12.0, list[float]()
    async with open_proxy(tmp_path) as proxy:
        assert parsed(await _once(proxy.port)).status == 200
        alone = [await slowest_of_a_hundred(proxy.port, 2)]
        async with crowded(proxy.port, lives):
            among = await slowest_of_a_hundred(proxy.port, seconds)
        alone.append(await slowest_of_a_hundred(proxy.port, 2))

    assert among < 4 * max(alone)
    assert len(lives) >= 200  # each kind of drip was ended, and came again
    assert max(lives) < Limits().head_seconds + 5


async def _once(port: int) -> bytes:
    async with calling(port) as caller:
        await caller.send(GET + b"Connection: close\r\n\r\n")
        return await caller.rest()
