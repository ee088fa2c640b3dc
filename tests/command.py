"""The real command in a process of its own: `bearerproxy …`, as people and service managers start it."""

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from proxy.clock import SystemClock
from tests.poll import eventually

LINK = re.compile(r"https?://\S+")


@dataclass
class Ended:
    """How a command ended."""

    exit_status: int
    output: str
    complaint: str

    @property
    def words(self) -> str:
        """Standard error on one line, so that a sentence can be looked for wherever it was wrapped."""
        return " ".join(self.complaint.split())


async def bearerproxy(*arguments: str | Path, deadline_seconds: float = 60.0, text: str | None = None) -> Ended:
    """Run a command to its end."""
    process = await started(*arguments, has_input=text is not None)
    try:
        async with asyncio.timeout(deadline_seconds):
            output, complaint = await process.communicate(None if text is None else text.encode())
    finally:
        await ended(process)
    return Ended(process.returncode or 0, output.decode(), complaint.decode())


@dataclass
class Waiting:
    """A `login` that waits for a person."""

    link: str
    process: asyncio.subprocess.Process
    said: list[str]

    async def end(self, deadline_seconds: float = 30.0) -> Ended:
        async with asyncio.timeout(deadline_seconds):
            output, complaint = await self.process.communicate()
        return Ended(self.process.returncode or 0, output.decode(), "".join(self.said) + complaint.decode())


@asynccontextmanager
async def login(*arguments: str | Path, before: Sequence[str] = ()) -> AsyncIterator[Waiting]:
    """Start `bearerproxy login --no-browser …` and yield once it has printed the link to open."""
    process = await started("login", "--no-browser", *arguments, before=before)
    assert process.stderr is not None
    said: list[str] = []
    try:
        async with asyncio.timeout(30):
            while not (found := LINK.search("".join(said))):
                line = await process.stderr.readline()
                assert line, f"login ended without a link: {''.join(said)}"
                said.append(line.decode())
        yield Waiting(found.group(), process, said)
    finally:
        await ended(process)


@dataclass
class Serving:
    """A `serve` that runs."""

    port: int
    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    """What it wrote to its log so far."""

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log's lines as events; lines that are no JSON (warnings before the start) are left out."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    async def get(self, path: str, fields: Mapping[str, str] | None = None) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
            return await http.get(self.url + path, headers=dict(fields or {}))

    async def stop(self, deadline_seconds: float = 15.0) -> int:
        """End it as a service manager would, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(deadline_seconds):
            return await self.process.wait()


@asynccontextmanager
async def serving(
    config: Path, *arguments: str, port: int = 0, before: Sequence[str] = (), program: Sequence[str] = ("-m", "proxy")
) -> AsyncIterator[Serving]:
    """Run `bearerproxy serve` on a free port, and yield once it listens."""
    process = await started(
        "serve", "--config", config, "--port", str(port), *arguments, before=before, program=program
    )
    there = Serving(0, process)
    reading = asyncio.create_task(_keep(process, there.lines))  # noqa: TID251 - awaited below
    try:
        await eventually(
            lambda: process.returncode is not None or any("listening" in line for line in there.lines),
            30,
            what="the listener",
        )
        assert process.returncode is None, "".join(there.lines)
        found = next(event for event in there.events if event["event"] == "listening")
        there.port = int(found["urls"][0].rsplit(":", 1)[1])
        yield there
    finally:
        await ended(process)
        await reading


async def resident_bytes(process: asyncio.subprocess.Process) -> int:
    """Return the resident memory of a process (Linux)."""
    status = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text)
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


async def _keep(process: asyncio.subprocess.Process, lines: list[str]) -> None:
    assert process.stderr is not None
    while line := await process.stderr.readline():
        lines.append(line.decode())


async def started(
    *arguments: str | Path,
    has_input: bool = False,
    before: Sequence[str] = (),
    program: Sequence[str] = ("-m", "proxy"),
) -> asyncio.subprocess.Process:
    """Start a command; `before` is a program, with its arguments, that becomes ours (setpriv, strace).

    `program` is what Python is told to run: the command, or something around it.
    """
    return await asyncio.create_subprocess_exec(
        *before,
        sys.executable,
        *program,
        *arguments,
        stdin=asyncio.subprocess.PIPE if has_input else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
        start_new_session=True,
    )


async def ended(process: asyncio.subprocess.Process) -> None:
    """End a command, if it has not ended by itself."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(10):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def pause(seconds: float) -> None:
    """Let real time pass, where passing time is what the test is about."""
    await SystemClock().sleep(seconds)
