"""Faster than direct: many small calls over a long way, by tools that connect anew for each of them."""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.about import about
from bench.peers import OURS
from bench.peers.bearerproxy import bearerproxy
from bench.programs import MissingPartError, await_answer, free_ports, program, running
from bench.results import Results
from bench.run import Say
from bench.upstream import NAME, TOKEN, Upstream, serving

ROUND_TRIP_MS = 40.0
_TURNS = 4
Tool = Callable[[str, int, Mapping[str, str]], float]
"""Calls a URL so many times, with this environment, and returns the seconds that took."""


def calls(count: int, say: Say) -> Results:
    """Let each tool make `count` calls, direct and through us. Raises MissingPartError if the upstream is missing."""
    results = Results(about=about())
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, serving(Path(folder), 1 << 20) as upstream:
        [port] = free_ports(1)
        far = [sys.executable, "-m", "bench.delay", str(port), str(upstream.tls_port), str(ROUND_TRIP_MS / 2)]
        site = dataclasses.replace(upstream.site(OURS), tls_port=port)
        launch = bearerproxy(site)
        log = site.folder / "log"
        with (
            running(far, upstream.folder / "delay.log"),
            running(launch.argv, log, launch.environ) as process,
        ):
            await_answer(launch.url("tls", "/1k"), process, log)
            for name, tool in TOOLS.items():
                say(f"{count} calls by {name}")
                try:
                    results.calls[name] = _both(
                        tool, f"https://{NAME}:{port}/1k", launch.url("tls", "/1k"), count, upstream
                    )
                except MissingPartError as missing:
                    say(f"{name} is left out: {missing}")
                    results.missing[name] = str(missing)
    return results


def _both(tool: Tool, direct: str, through: str, count: int, upstream: Upstream) -> dict[str, float]:
    """Let a tool go both ways in turns, so that a slow moment of the machine meets both."""
    signed_in = {"BENCH_TOKEN": TOKEN, "CURL_CA_BUNDLE": str(upstream.ca_file), "SSL_CERT_FILE": str(upstream.ca_file)}
    took = {"direct": 0.0, "through": 0.0}
    for _ in range(_TURNS):
        took["direct"] += tool(direct, count // _TURNS, signed_in)
        took["through"] += tool(through, count // _TURNS, {})
    return took | {"count": count, "round_trip_ms": ROUND_TRIP_MS}


def base_r(url: str, count: int, environ: Mapping[str, str]) -> float:
    path = program("Rscript", how="apt-get install r-base-core")
    script = str(Path(__file__).with_name("calls.R"))
    argv = [path, "--vanilla", script, url, str(count)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, env=_environ(environ))
    return float(said.stdout)


def curl(url: str, count: int, environ: Mapping[str, str]) -> float:
    path = program("curl", how="apt-get install curl")
    token = environ.get("BENCH_TOKEN")
    signed_in = ["--header", f"Authorization: Bearer {token}"] if token else []
    began = time.monotonic()
    for _ in range(count):
        argv = [path, "--silent", "--show-error", "--fail", "--output", "/dev/null", *signed_in, url]
        subprocess.run(argv, check=True, env=_environ(environ))
    return time.monotonic() - began


TOOLS: Mapping[str, Tool] = {"base R": base_r, "curl": curl}


def _environ(more: Mapping[str, str]) -> dict[str, str]:
    """Return this environment without outgoing proxies."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | dict(more)
