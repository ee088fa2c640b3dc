"""A command that we start and stand in for: its terminal, its signals, its exit status."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from proxy.errors import BearerproxyError

NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""What a POSIX shell ends with for a command that cannot be started (2.8.2)."""
BY_SIGNAL = 128

_FROM_KEYS = ("SIGINT", "SIGQUIT")
"""What a terminal sends to everything in its foreground: to the command as to us."""
_FROM_OTHERS = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class NoCommandError(BearerproxyError):
    """A command cannot be started."""

    def __init__(self, text: str, exit_status: int) -> None:
        super().__init__(text)
        self.exit_status = exit_status


def program(name: str, path: str | None) -> str:
    """Return the file that the command `name` means, looked for along `path`. Raises NoCommandError."""
    found = shutil.which(name, path=path)
    if found is not None:
        return found
    if os.path.dirname(name) and os.path.exists(name):  # noqa: PTH120, PTH110 - a Path would drop the `./`
        raise NoCommandError(f"{name} is no program that you may run.", NOT_EXECUTABLE)
    raise NoCommandError(f"There is no command {name!r}.", NOT_FOUND)


async def ended(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a command on our terminal to its end; returns its exit status, 128 + N if signal N ended it."""
    program_file = program(command[0], environ.get("PATH"))
    waiting: list[int] = []
    process: asyncio.subprocess.Process | None = None

    def send(number: int) -> None:
        if process is None:
            waiting.append(number)
            return
        with suppress(ProcessLookupError):
            process.send_signal(number)

    with _signals_go_to(send):
        try:
            process = await asyncio.create_subprocess_exec(program_file, *command[1:], env=environ)
        except OSError as error:
            text = f"{command[0]} cannot be started: {error.strerror}."
            raise NoCommandError(text, NOT_EXECUTABLE) from error
        for number in waiting:
            send(number)
        status = await process.wait()
    return status if status >= 0 else BY_SIGNAL - status


@contextmanager
def _signals_go_to(send: Callable[[int], None]) -> Iterator[None]:
    """Hand on what is sent to us; a terminal's keys reach the command without us, and must not end us before it."""
    loop, taken = asyncio.get_running_loop(), []

    def from_keys(number: int) -> None:
        if not _has_terminal():
            send(number)

    for name in (*_FROM_KEYS, *_FROM_OTHERS):
        number = getattr(signal, name, None)
        if number is None or signal.getsignal(number) is signal.SIG_IGN:  # nohup: the command ignores it as we do
            continue
        try:
            loop.add_signal_handler(number, from_keys if name in _FROM_KEYS else send, number)
        except NotImplementedError:  # Windows: its console tells the command itself
            signal.signal(number, lambda *_: None)
        else:
            taken.append(number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


def _has_terminal() -> bool:
    """Return whether we are in the foreground of a terminal."""
    if sys.platform == "win32":
        return True
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
