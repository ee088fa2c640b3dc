"""The programs that people point at bearerproxy, each given a URL and nothing else.

They run as on a machine of somebody who has configured nothing: an empty home folder (no .curlrc, no .Rprofile) and no
variables that name proxies, certificates or tokens. All are async, so that what serves the URL may live in the test.
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import need_program

DEADLINE_SECONDS = 60.0
"""R and pandas take seconds to start on a busy machine."""


@dataclass(frozen=True)
class Ran:
    """How a program ended."""

    exit_status: int
    output: bytes
    """What it wrote to standard output: the data."""
    complaint: str
    """What it wrote to standard error."""

    @property
    def text(self) -> str:
        return self.output.decode()


async def run(*argv: str | Path, deadline_seconds: float = DEADLINE_SECONDS) -> Ran:
    """Return how a program ended that had no input. Raises TimeoutError when it had to be killed."""
    with tempfile.TemporaryDirectory() as home:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=home,
            env=_environment(home),
            start_new_session=True,
        )
        try:
            output, complaint = await asyncio.wait_for(process.communicate(), deadline_seconds)
        finally:
            if process.returncode is None:
                _end(process)
                await process.wait()
    assert process.returncode is not None
    return Ran(process.returncode, output, complaint.decode(errors="replace"))


async def curl(url: str, *options: str) -> Ran:
    """Return curl's answer; `options` are its own, for what has no place in a URL (`-F file=@x`, `-o path`)."""
    program = need_program("curl", how="apt-get install curl")
    return await run(program, "--silent", "--show-error", *options, url)


async def wget(url: str, *options: str) -> Ran:
    """Return wget's answer."""
    program = need_program("wget", how="apt-get install wget")
    return await run(program, "--quiet", "--output-document=-", *options, url)


async def r(script: str, *arguments: str | Path, deadline_seconds: float = DEADLINE_SECONDS) -> Ran:
    """Return what base R printed; the script finds its arguments in the vector `given`."""
    program = need_program("Rscript", how="apt-get install r-base-core")
    given = f"given <- commandArgs(TRUE); {script}"
    return await run(program, "--vanilla", "-e", given, *arguments, deadline_seconds=deadline_seconds)


async def r_read_csv(url: str) -> Ran:
    """Return the table that base R's `read.csv(url)` made, as CSV."""
    return await r("write.csv(read.csv(given[1]), row.names = FALSE, quote = FALSE)", url)


async def r_download_file(url: str, to: Path) -> Ran:
    """Write the answer to the file `to`, by base R's `download.file`."""
    return await r(
        "status <- download.file(given[1], given[2], mode = 'wb', quiet = TRUE); quit(status = status)", url, to
    )


async def python(script: str, *arguments: str | Path) -> Ran:
    """Return what a script printed in a Python of its own, which has the packages of this one but not our sources."""
    return await run(sys.executable, "-I", "-c", script, *arguments)


async def pandas_read_csv(url: str) -> Ran:
    """Return the table that `pandas.read_csv(url)` made, as CSV."""
    return await python("import sys, pandas; print(pandas.read_csv(sys.argv[1]).to_csv(index=False), end='')", url)


async def requests_get(url: str) -> Ran:
    """Return the body that `requests.get(url)` got; exit status 1 and a traceback if it was not a success."""
    return await python(
        "import sys, requests; answer = requests.get(sys.argv[1], timeout=30); answer.raise_for_status(); "
        "sys.stdout.buffer.write(answer.content)",
        url,
    )


def _environment(home: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": home, "LANG": "C.UTF-8", "TZ": "UTC"}  # noqa: TID251 - PATH alone


def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
