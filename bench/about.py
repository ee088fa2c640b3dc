"""On what a run was made: figures without it mean nothing."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench.programs import first_line, program
from proxy.clock import SystemClock

_ROOT = Path(__file__).parents[1]


def about() -> dict[str, str]:
    """Return when, where and by which command this run is made."""
    return {
        "date": f"{datetime.fromtimestamp(SystemClock().wall(), UTC):%Y-%m-%d %H:%M} UTC",
        "command": shlex.join(["scripts/bench", *sys.argv[1:]]),
        "revision": _revision(),
        "processor": f"{os.cpu_count()} x {_processor()}",
        "system": f"{platform.freedesktop_os_release().get('PRETTY_NAME', 'Linux')}, kernel {platform.release()}",
        "load before": Path("/proc/loadavg").read_text("ascii").split()[0],
        "load tool": first_line(program("wrk", how="apt-get install wrk"), "-v").partition(" [")[0],
    }


def _revision() -> str:
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "unknown"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
