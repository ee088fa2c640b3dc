"""A relay in a process of its own, for what only a whole process shows: memory, signals, exit statuses.

Run as `python -m tests.journeys.alone URL...`: each URL becomes an upstream at /0, /1, ... It prints its port and
serves until SIGTERM. `--loop uvloop` runs it on uvloop, `--spool` says where bodies are kept, `--newer` is the token
that comes after a 401.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from urllib.parse import urlsplit

from proxy.server import stop_on_signals
from proxy.spool import Spools
from proxy.upstreams import Upstream
from tests.journeys.house import FixedSource, running, token_set


def _upstream(number: int, url: str) -> Upstream:
    parts = urlsplit(url)
    return Upstream(
        str(number), parts.scheme, parts.hostname or "", parts.port or 80, mount=f"/{number}", identity="me"
    )


async def _main(urls: list[str], drain_seconds: int, spool: Path | None, newer: str | None) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    upstreams = [_upstream(number, url) for number, url in enumerate(urls)]
    source = FixedSource(newer=None if newer is None else token_set(newer))
    spools = Spools(spool)
    async with running(upstreams, sources={"me": source}, drain_seconds=drain_seconds, spools=spools) as proxy:
        sys.stdout.write(f"{proxy.port}\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("urls", nargs="*")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--drain-seconds", type=int, default=5)
    parser.add_argument("--spool", type=Path)
    parser.add_argument("--newer")
    given = parser.parse_args()
    serving = _main(given.urls, given.drain_seconds, given.spool, given.newer)
    if given.loop == "uvloop":
        import uvloop

        uvloop.run(serving)
    else:
        asyncio.run(serving)


if __name__ == "__main__":
    main()
