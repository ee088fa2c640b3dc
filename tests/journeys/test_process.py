"""The relay in a process of its own: flat memory on any body, and how it ends (issue of the main job, A28 and A45)."""

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import need
from tests.journeys.house import Visit, calling, ok, parsed, raw_upstream
from tests.poll import eventually

MEBIBYTE = 1 << 20
GROWTH_LIMIT = 32 * MEBIBYTE
BLOCK = os.urandom(MEBIBYTE)


@dataclass
class Alone:
    process: asyncio.subprocess.Process
    port: int

    def memory(self, line: str) -> int:
        """Return a line of /proc/PID/status in bytes: VmRSS is what is resident now, VmHWM what was at most."""
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            need("/proc", how="run this test on Linux")
        found = next(one for one in status.read_text().splitlines() if one.startswith(f"{line}:"))
        return int(found.split()[1]) * 1024


@asynccontextmanager
async def alone(
    *ports: int, loop: str = "asyncio", drain_seconds: int = 5, more: Sequence[str] = ()
) -> AsyncIterator[Alone]:
    """Run a relay to upstreams on `ports` in a process of its own, with `more` arguments for alone.py."""
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.journeys.alone",
        "--loop", loop, "--drain-seconds", str(drain_seconds), *more, *urls,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield Alone(process, int(await asyncio.wait_for(process.stdout.readline(), 20)))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _wait(process: asyncio.subprocess.Process) -> tuple[int | None, bytes]:
    """Return the exit status and what stood on standard error."""
    _, errors = await asyncio.wait_for(process.communicate(), 10)
    return process.returncode, errors


@pytest.mark.long
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_large_upload_streams_through_in_flat_memory(loop: str, *, is_long: bool) -> None:
    """H55, A28."""
    blocks = 200 if is_long else 64
    received = hashlib.sha256()

    async def hashing(visit: Visit) -> None:
        async for chunk in visit.pieces():
            received.update(chunk)
        await visit.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f.csv"\r\n\r\n'
    end = b"\r\n--b--\r\n"
    sent = hashlib.sha256(start)
    async with raw_upstream(hashing) as there, alone(there.port, loop=loop) as proxy:
        await _warmed_up(proxy)
        received = hashlib.sha256()
        before = proxy.memory("VmRSS")
        async with calling(proxy.port, seconds=120) as caller:
            length = len(start) + blocks * MEBIBYTE + len(end)
            await caller.send(
                b"POST /0/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                b"Content-Length: %d\r\nConnection: close\r\n\r\n" % length + start
            )
            for _ in range(blocks):
                sent.update(BLOCK)
                await caller.send(BLOCK)
            sent.update(end)
            await caller.send(end)
            answer = parsed(await caller.rest())
        growth = proxy.memory("VmHWM") - before

    assert answer.status == 201
    assert received.hexdigest() == sent.hexdigest()
    assert growth < GROWTH_LIMIT


@pytest.mark.long
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_a_large_download_streams_through_in_flat_memory(loop: str, framing: str, *, is_long: bool) -> None:
    """H55, A28."""
    blocks = 1024 if is_long else 256

    async def pouring(visit: Visit) -> None:
        if b" /upload" in visit.head or b" /warm" in visit.head:
            await ok(visit)
            return
        if framing == "chunked":
            await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(blocks):
                await visit.send(b"%x\r\n%s\r\n" % (MEBIBYTE, BLOCK))
            await visit.send(b"0\r\n\r\n")
        else:
            await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (blocks * MEBIBYTE))
            for _ in range(blocks):
                await visit.send(BLOCK)

    async with raw_upstream(pouring) as there, alone(there.port, loop=loop) as proxy:
        await _warmed_up(proxy)
        before = proxy.memory("VmRSS")
        received, length = hashlib.sha256(), 0
        async with calling(proxy.port, seconds=120, limit=MEBIBYTE) as caller:
            await caller.send(b"GET /0/big HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await caller.head()
            async for piece in caller.pieces(is_chunked=framing == "chunked", length=blocks * MEBIBYTE):
                received.update(piece)
                length += len(piece)
        growth = proxy.memory("VmHWM") - before

    wanted = hashlib.sha256()
    for _ in range(blocks):
        wanted.update(BLOCK)
    assert length == blocks * MEBIBYTE
    assert received.hexdigest() == wanted.hexdigest()
    assert growth < GROWTH_LIMIT


async def test_a_reader_who_stops_costs_no_memory() -> None:
    """H55, A28."""
    poured = 0

    async def pouring(visit: Visit) -> None:
        nonlocal poured
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4096 * MEBIBYTE))
        while True:
            await visit.send(BLOCK)
            poured += len(BLOCK)

    async with raw_upstream(pouring) as there, alone(there.port) as proxy, calling(proxy.port) as caller:
        before = proxy.memory("VmRSS")
        await caller.send(b"GET /0/big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await caller.head()
        seen = -1

        def has_stopped() -> bool:
            nonlocal seen
            before, seen = seen, poured
            return before == seen > 0

        await eventually(has_stopped, every=0.3, what="the upstream to be held back")
        growth = proxy.memory("VmHWM") - before

    assert growth < GROWTH_LIMIT


async def _warmed_up(proxy: Alone) -> None:
    for _ in range(3):
        async with calling(proxy.port) as caller:
            await caller.send(b"GET /0/warm HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert parsed(await caller.rest()).status in (200, 201)


async def _half(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
    await visit.gone()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_an_idle_process_with_status_0(loop: str, number: signal.Signals) -> None:
    async with raw_upstream(ok) as there, alone(there.port, loop=loop) as proxy:
        await _warmed_up(proxy)
        proxy.process.send_signal(number)

        assert await _wait(proxy.process) == (0, b"")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_signal_under_load_cuts_what_does_not_end_in_time_and_the_status_is_0(loop: str) -> None:
    """A45."""
    async with (
        raw_upstream(_half) as streaming,
        raw_upstream(ok) as taking,
        alone(streaming.port, taking.port, loop=loop, drain_seconds=1) as proxy,
        calling(proxy.port) as download,
        calling(proxy.port) as upload,
        calling(proxy.port) as idle,
    ):
        await download.send(b"GET /0/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await download.reader.readuntil(b"begun\r\n")
        await upload.send(b"POST /1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")
        await eventually(lambda: taking.heads)
        proxy.process.terminate()
        assert await idle.rest() == b""
        assert await download.rest() == b""  # no last chunk: the answer is visibly not whole
        assert await upload.rest() == b""
        status, _ = await _wait(proxy.process)
        await eventually(lambda: not taking.open, 1)

    assert status == 0
    assert taking.bodies == []


async def test_a_second_signal_ends_the_process_at_once() -> None:
    async with (
        raw_upstream(_half) as there,
        alone(there.port, drain_seconds=60) as proxy,
        calling(proxy.port) as caller,
        calling(proxy.port) as idle,
    ):
        await caller.send(b"GET /0/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await caller.reader.readuntil(b"begun\r\n")
        proxy.process.terminate()
        assert await idle.rest() == b""  # the first signal has been heard
        proxy.process.terminate()
        status, _ = await _wait(proxy.process)

    assert status == 1
