"""What a program and everything it started cost, read from /proc (Linux)."""

import mmap
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

PROC = Path("/proc")
_NANOSECONDS = 1e9

_PARENT, _MINOR_FAULTS, _RESIDENT_PAGES = 1, 7, 21
"""Places in /proc/PID/stat, counted behind the program's name (proc(5))."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used since the start; subtract two of them."""

    cpu_seconds: float
    minor_faults: int

    def __sub__(self, earlier: "Usage") -> "Usage":
        return Usage(self.cpu_seconds - earlier.cpu_seconds, self.minor_faults - earlier.minor_faults)


def usage(root: int) -> Usage:
    """Return what the process `root` and its descendants used, user and system together."""
    members = tree(root)
    return Usage(
        sum(_thread_seconds(member) for member in members),
        sum(int(_stat(member)[_MINOR_FAULTS]) for member in members),
    )


def resident_bytes(root: int) -> int:
    """Return the resident memory of `root` and its descendants; pages that two of them share count twice."""
    return sum(map(_resident_bytes, tree(root)))


def tree(root: int) -> list[int]:
    """Return the living processes that `root` is the oldest of. Raises ProcessLookupError if it has ended."""
    children: dict[int, list[int]] = {}
    for place in PROC.iterdir():
        if place.name.isdecimal() and (stat := _stat(int(place.name))):
            children.setdefault(int(stat[_PARENT]), []).append(int(place.name))
    found, waiting = [], [root]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += children.get(one, [])
    if not _stat(root):
        raise ProcessLookupError(f"process {root} has ended")
    return [one for one in found if _stat(one)]


def _stat(process: int) -> list[str]:
    """Return the fields behind the program's name, which may itself hold spaces; nothing for an ended process."""
    try:
        return (PROC / str(process) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _resident_bytes(process: int) -> int:
    stat = _stat(process)
    return int(stat[_RESIDENT_PAGES]) * mmap.PAGESIZE if stat else 0


def _thread_seconds(process: int) -> float:
    """Return the time on a processor of all threads: schedstat has nanoseconds where stat has hundredths."""
    spent = 0
    for thread in (PROC / str(process) / "task").iterdir():
        try:
            spent += int((thread / "schedstat").read_text("ascii").split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that ended between two looks
    return spent / _NANOSECONDS


class Peak:
    """The highest resident memory of a program while the block runs, looked at every 20 ms.

    Only of processes that were there when it began: to look for new ones costs more than the second core has to spare.
    """

    def __init__(self, root: int) -> None:
        self._members = tree(root)
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self.before = self.bytes = self._now()

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, self._now())

    def _now(self) -> int:
        return sum(map(_resident_bytes, self._members))
