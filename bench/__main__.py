"""`python -m bench`: measure, print the table of ratios, and on demand write it into docs/performance.md."""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path

from bench.calls import calls
from bench.get_peers import get_peers
from bench.page import write_docs
from bench.peers.bearerproxy import of_environment
from bench.peers.launch import Launch
from bench.programs import MissingPartError, StartError
from bench.results import Results
from bench.run import FULL, QUICK, bench, chosen, say
from bench.scenarios import NAMES
from bench.table import call_rows, plain, ratio_rows, target_rows
from bench.upstream import Site


def main() -> int:
    asked = _arguments()
    if sys.platform != "linux":
        say("The comparison reads CPU and memory from /proc: run it on Linux.")
        return 1
    try:
        if asked.get_peers:
            get_peers(say)
            return 0
        results = _results(asked)
    except (MissingPartError, StartError, KeyError) as failure:
        say(str(failure.args[0]))
        return 1
    if results.samples:
        sys.stdout.write(f"{plain(ratio_rows(results))}\n\n{plain(target_rows(results))}\n")
    if results.calls:
        sys.stdout.write(f"\n{plain(call_rows(results))}\n")
    if asked.json:
        results.dump(asked.json)
    if asked.write_docs:
        write_docs(results)
    return 0


def _results(asked: argparse.Namespace) -> Results:
    if asked.results:
        return Results.load(asked.results)
    if asked.calls:
        return calls(20 if asked.quick else 200, say)
    peers = chosen(asked.only or (), dict(asked.also))
    plan = QUICK if asked.quick else FULL
    given = {name: value for name in ("rounds", "seconds", "scenarios") if (value := getattr(asked, name))}
    results = bench(dataclasses.replace(plan, **given), peers, say)
    if asked.write_docs:
        results.calls = calls(20 if asked.quick else 200, say).calls
    return results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure bearerproxy beside its peers.")
    add = parser.add_argument
    add("--rounds", type=int, metavar="N", help="How often each scenario is repeated; 5, or 2 with --quick.")
    add("--seconds", type=int, metavar="N", help="How long requests are sent at a time; 2, or 1 with --quick.")
    add("--quick", action="store_true", help="Three minutes instead of twelve, with a greater spread.")
    add("--only", type=_names, metavar="NAME,...", help="These peers alone, and bearerproxy.")
    add("--scenarios", type=_names, metavar="NAME,...", help=f"Those alone, of {', '.join(NAMES)}.")
    add(
        "--also",
        type=_other,
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="One more bearerproxy, of another environment.",
    )
    add("--calls", action="store_true", help="200 small calls through a round trip of 40 ms, instead of the peers.")
    add("--json", type=Path, metavar="FILE", help="Write everything that was measured there.")
    add("--results", type=Path, metavar="FILE", help="Read what --json wrote, instead of measuring.")
    add("--write-docs", action="store_true", help="Measure all of it and write docs/performance.md.")
    add("--get-peers", action="store_true", help="Install the peers that Debian has no package for, in a cache folder.")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    return text.split(",")


def _other(text: str) -> tuple[str, Callable[[Site], Launch]]:
    name, _, python = text.partition("=")
    if not name or not python:
        raise argparse.ArgumentTypeError("write NAME=PYTHON")
    return name, functools.partial(of_environment, python=python)


if __name__ == "__main__":
    sys.exit(main())
