"""What is measured of a running peer, and in which unit."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.load import BROWSER_FIELDS, LoadError, download, open_streams, upload, wrk
from bench.peers.launch import Launch
from bench.proc import Peak, resident_bytes, usage

MIB = 1 << 20
GIB = 1 << 30
ONE = "one"
_SETTLE_SECONDS = 1.0
_TOLERATED_FAILURES = 0.01

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that answers."""

    name: str
    launch: Launch
    pid: int


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is asked of each peer."""

    seconds: int
    """Of requests at 32 connections; at others half of it, but at least one."""
    bulk: Path
    streams: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of work; `is_core` is repeated in every round, the others in every other one, or once in a quick run."""

    name: str
    run: Callable[[Running, Effort], Values]
    is_core: bool = False


def _requests(
    connections: int, *, mount: str = "tls", fields: tuple[str, ...] = (), share: int = 2
) -> Callable[[Running, Effort], Values]:
    def run(peer: Running, effort: Effort) -> Values:
        url = peer.launch.url(mount, "/1k")
        with open_streams(url, connections):
            pass  # now its connections to the upstream are there, if it keeps them: handshakes are not what is measured
        before = usage(peer.pid)
        with Peak(peer.pid) as peak:
            seen = wrk(url, connections, max(1, effort.seconds // share), fields)
        used = usage(peer.pid) - before
        if seen.failed > seen.requests * _TOLERATED_FAILURES:
            raise LoadError(f"{seen.failed} of {seen.requests} requests failed")
        return {
            "cpu_us": used.cpu_seconds / seen.requests * 1e6,
            "faults": used.minor_faults / seen.requests,
            "per_second": seen.requests / seen.seconds,
            "p50_us": seen.p50_us,
            "p99_us": seen.p99_us,
            "resident_mib": peak.bytes / MIB,
        }

    return run


def _body(move: Callable[[Running, Effort], None]) -> Callable[[Running, Effort], Values]:
    def run(peer: Running, effort: Effort) -> Values:
        before = usage(peer.pid)
        began = time.monotonic()
        with Peak(peer.pid) as peak:
            move(peer, effort)
        took = time.monotonic() - began
        size = effort.bulk.stat().st_size
        return {
            "cpu_s_per_gib": (usage(peer.pid) - before).cpu_seconds * GIB / size,
            "mib_per_s": size / MIB / took,
            "grown_mib": (peak.bytes - peak.before) / MIB,
        }

    return run


def _upload(mount: str) -> Callable[[Running, Effort], Values]:
    return _body(lambda peer, effort: upload(peer.launch.url(mount, "/sink"), effort.bulk))


ROUND = (
    Scenario("bare", _requests(32, share=1), is_core=True),
    Scenario("fields", _requests(32, fields=BROWSER_FIELDS, share=1), is_core=True),
    Scenario("plain", _requests(32, mount="plain")),
    Scenario(ONE, _requests(1), is_core=True),
    Scenario("many", _requests(256)),
    Scenario("down", _body(lambda peer, _: download(peer.launch.url("tls", "/bulk"))), is_core=True),
    Scenario("up", _upload("tls"), is_core=True),
)
"""Repeated in every round, each by all peers one after the other."""

UNKEPT = Scenario("up-unkept", _upload("unkept"), is_core=True)
"""Of ours alone: an upload that is not kept for a replay after a 401, which no peer offers."""


def slow_streams(peer: Running, effort: Effort) -> Values:
    """Open many answers that the upstream gives out drop by drop, and see what each of them takes."""
    before = resident_bytes(peer.pid)
    with open_streams(peer.launch.url("tls", "/slow"), effort.streams) as answered:
        if answered < effort.streams:
            raise LoadError(f"{answered} of {effort.streams} streams were answered")
        time.sleep(_SETTLE_SECONDS)  # until what was allocated for the handshakes is in use or has been given back
        return {"kib_per_stream": (resident_bytes(peer.pid) - before) / 1024 / effort.streams}


STREAMS = Scenario("streams", slow_streams)
"""Of a process that has just been started."""

NAMES = [scenario.name for scenario in (*ROUND, UNKEPT, STREAMS)]
