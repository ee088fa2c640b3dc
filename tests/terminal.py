"""A program on a terminal of its own, and a person who reads and types there."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.command import ended
from tests.poll import eventually

ROWS, COLUMNS = 50, 118
ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
READ_SECONDS = 60.0


@dataclass
class Terminal:
    """What stands on it so far, and its keyboard."""

    process: asyncio.subprocess.Process
    keyboard: int
    raw: bytearray = field(default_factory=bytearray)

    @property
    def screen(self) -> str:
        """Everything that was written, colours and links removed, as lines that end in a line feed."""
        text = ESCAPE.sub("", self.raw.decode("utf-8", "replace"))
        return "\n".join(line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n"))

    async def reads(self, text: str, timeout_seconds: float = READ_SECONDS) -> str:
        """Return the screen once `text` is on it; fails at once if the program ends without it."""

        def is_there() -> bool:
            is_read = text in self.screen
            assert is_read or self.process.returncode is None, f"it ended without {text!r}:\n{self.screen}"
            return is_read

        await eventually(is_there, timeout_seconds, what=f"{text!r} on the terminal")
        return self.screen

    async def types(self, text: str, *, after: str) -> None:
        """Type a line once `after` has been asked."""
        await self.reads(after)
        os.write(self.keyboard, text.encode() + b"\n")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self.keyboard, b"\x03")

    async def end(self, timeout_seconds: float = READ_SECONDS) -> int:
        """Wait for the program's own end and return its exit status."""
        async with asyncio.timeout(timeout_seconds):
            return await self.process.wait()


@asynccontextmanager
async def terminal(
    command: Sequence[str | Path], *, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> AsyncIterator[Terminal]:
    """Run `command` on a new terminal, with `environ` over the tests' own environment; it is ended at the end."""
    if sys.platform == "win32":
        raise NotImplementedError("there are no terminals of this kind")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    os.set_blocking(ours, False)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env={**os.environ, "TERM": "xterm-256color", **(environ or {})},  # noqa: TID251 - the tests' own environment
        preexec_fn=lambda: _take(theirs),  # so that Ctrl-C reaches it
    )
    os.close(theirs)
    there = Terminal(process, ours)
    loop = asyncio.get_running_loop()
    loop.add_reader(ours, _read, there)
    try:
        yield there
    finally:
        await ended(process)
        loop.remove_reader(ours)
        _read(there)
        os.close(ours)


def _take(theirs: int) -> None:
    if sys.platform == "win32":
        return
    os.setsid()
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)


def _read(there: Terminal) -> None:
    with suppress(BlockingIOError, OSError):  # OSError: nobody holds the other end any more
        while piece := os.read(there.keyboard, 65536):
            there.raw += piece
