"""Callers: many small requests by wrk, one large body by curl, and many connections at once that read slowly."""

import contextlib
import json
import socket
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.programs import program

BROWSER_FIELDS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding: gzip, deflate",
    "Connection: keep-alive",
    "Upgrade-Insecure-Requests: 1",
    "Cache-Control: no-cache",
)
"""Seven fields besides Host; wrk alone sends none."""

_SCRIPT = Path(__file__).with_name("answers.lua")
_BODY_SECONDS = 120


class LoadError(Exception):
    """A peer did not answer what it was asked for."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What wrk saw."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    failed: int
    """Answers that were no 2xx, and connections that broke."""


def wrk(url: str, connections: int, seconds: int, fields: tuple[str, ...] = ()) -> Answered:
    """Ask for `url` all the time on `connections` connections. Raises LoadError if nothing is answered."""
    path = program("wrk", how="apt-get install wrk")
    words = [word for line in fields for word in ("-H", line)]
    asked = [path, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(_SCRIPT), *words, url]
    return answered(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def answered(said: str) -> Answered:
    """Read the line that `answers.lua` writes. Raises LoadError if nothing was answered."""
    line = next((line for line in said.splitlines() if line.startswith("{")), None)
    if line is None:
        raise LoadError(f"wrk said: {said.strip()[-500:]}")
    seen = json.loads(line)
    if seen["requests"] == 0:
        raise LoadError("no request was answered")
    return Answered(seen["requests"], seen["microseconds"] / 1e6, seen["p50"], seen["p99"], seen["failed"])


def download(url: str) -> None:
    """Read a large answer to its end. Raises LoadError unless it is whole and a 200."""
    _curl(url, "200", "--output", "/dev/null")


def upload(url: str, body: Path) -> None:
    """Send a large body. Raises LoadError unless the upstream took it all and said so."""
    _curl(url, "204", "--output", "/dev/null", "--upload-file", str(body), "--header", "Expect:")


def _curl(url: str, status: str, *words: str) -> None:
    path = program("curl", how="apt-get install curl")
    asked = [
        path,
        "-sS",
        "--noproxy",
        "*",
        "--max-time",
        str(_BODY_SECONDS),
        "--write-out",
        "%{http_code}",
        *words,
        url,
    ]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    if said.returncode or said.stdout != status:
        raise LoadError(f"{url}: {said.stdout} {said.stderr.strip()}")


@contextmanager
def open_streams(url: str, count: int) -> Iterator[int]:
    """Ask for `url` on `count` connections at once; yield how many are being answered 200, the answers still open."""
    parts = urllib.parse.urlsplit(url)
    asked = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection((parts.hostname or "", parts.port or 80), timeout=30))
            one.sendall(asked)
            opened.append(one)
        yield sum(_is_answered(one) for one in opened)


def _is_answered(one: socket.socket) -> bool:
    try:
        return one.recv(4096).split(b" ", 2)[1:2] == [b"200"]
    except OSError:
        return False
