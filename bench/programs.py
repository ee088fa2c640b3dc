"""Programs of this machine: found, started, awaited, ended."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import platformdirs

HOME = platformdirs.user_cache_path("bearerproxy", appauthor=False) / "bench"
"""Where peers live that the system has no package for; `scripts/bench --get-peers` fills it."""

_PLACES = os.pathsep.join((os.defpath, "/usr/local/sbin", "/usr/sbin", "/sbin"))
_PATIENCE_SECONDS = 30.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class MissingPartError(Exception):
    """Something that this machine lacks; the text says how to get it."""


class StartError(Exception):
    """A program that is there, but does not answer; the text is the end of what it said."""


def program(name: str, *, how: str) -> str:
    """Return the path of a program. Raises MissingPartError; `how` completes "to get it: ..."."""
    own = HOME / name
    found = str(own) if own.is_file() else shutil.which(name) or shutil.which(name, path=_PLACES)
    if found is None:
        raise MissingPartError(f"{Path(name).name} is missing; to get it: {how}")
    return found


def first_line(*argv: str) -> str:
    """Return what a program says first, on either stream, of its version for example."""
    said = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60)
    return said.stdout.strip().partition("\n")[0]


def free_ports(count: int) -> list[int]:
    """Return TCP ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(one.getsockname()[1]) for one in held]


@contextmanager
def running(
    argv: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, whatever it says going to `log`; end it, and what it started, at the end of the block."""
    with (
        log.open("wb") as said,
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=_clean_environ() | dict(environ or {}),
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _clean_environ() -> dict[str, str]:
    """Return this environment without the settings of the person who runs this, and without outgoing proxies.

    Python's own would count too: where no bytecode may be written, a checkout compiles itself at each start, which
    nothing that is installed does.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BEARERPROXY_", "PYTHON")) and not name.lower().endswith("_proxy")
    }


def await_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> float:
    """Ask `url` every few milliseconds until it answers 200; return the seconds that took.

    Raises StartError with the end of the log if the program ends, or does not answer within half a minute.
    """
    began = time.monotonic()
    while (waited := time.monotonic() - began) < _PATIENCE_SECONDS and process.poll() is None:
        try:
            with _OPENER.open(url, timeout=10) as answer:
                answer.read()
            return time.monotonic() - began
        except (OSError, urllib.error.HTTPError):  # nobody listens yet, or it has no token yet
            time.sleep(0.004)
    end = log.read_text("utf-8", "replace")[-2000:]
    raise StartError(f"{url} did not answer within {waited:.0f} s; the program said:\n{end}")
