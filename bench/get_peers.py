"""Peers that Debian has no package for, or an old one: installed into a cache folder of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.peers.caddy import CURRENT
from bench.programs import HOME
from bench.run import Say

_WISHES = Path(__file__).with_name("peers.txt")
DEBIAN = "apt-get install nginx-light caddy haproxy wrk curl r-base-core"


def get_peers(say: Say) -> None:
    """Install what can be had here, and say what to do about the rest. Raises CalledProcessError if that fails."""
    say(f"Into {HOME}")
    _environment("venv", "-r", str(_WISHES))
    _environment("mitmproxy", "mitmproxy")  # alone, because it holds others back to old versions
    if go := shutil.which("go"):
        subprocess.run([go, "install", CURRENT], check=True, env=os.environ | {"GOBIN": str(HOME / "go")})
    else:
        say("The current Caddy needs Go, which is missing here.")
    say(f"The others are packages: {DEBIAN}")


def _environment(name: str, *wishes: str) -> None:
    place = HOME / name
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *wishes], check=True)
