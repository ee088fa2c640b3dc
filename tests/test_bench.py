"""The comparison with other proxies: what it computes, and that it runs; its figures are judged by people."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.load import LoadError, answered
from bench.page import write_docs
from bench.peers import OF_VARIANTS, OURS, PEERS, TITLES, VARIANTS
from bench.plot import plot
from bench.proc import Peak, tree, usage
from bench.ratios import BEST, BY_KEY, METRICS, TARGETS, Spread, Target, best_peer
from bench.results import DIRECT, Results, Sample
from bench.run import FULL, Run, chosen
from bench.scenarios import NAMES, Effort
from bench.table import markdown, number, plain, ratio_rows, target_rows
from bench.upstream import Upstream
from tests.conftest import need_program

ROOT = Path(__file__).parents[1]
LINUX_ALONE = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc: run it on Linux")


def results(**figures: dict[str, list[float]]) -> Results:
    """Return results with CPU per bare request: by peer, one figure a round."""
    found = Results(about={"command": "scripts/bench", "date": "today"}, versions=dict.fromkeys(figures, "1.0"))
    for peer, scenarios in figures.items():
        for scenario, values in scenarios.items():
            for index, value in enumerate(values):
                found.add(Sample(index, peer, scenario, {"cpu_us": value, "p50_us": value}))
    return found


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    """A round in which the whole machine was slow must not count against anybody."""
    found = results(bearerproxy={"bare": [10, 100, 80]}, envoy={"bare": [20, 100, 20]})

    assert BY_KEY["cpu-bare"].ratio(found, "envoy") == Spread(1.0, 0.5, 4.0)


def test_rounds_without_a_figure_of_both_do_not_count() -> None:
    """Nor those in which the peer's was nothing at all, as with page faults."""
    found = results(bearerproxy={"bare": [10, 20, 30]}, envoy={"bare": [20, 0]})

    assert BY_KEY["cpu-bare"].ratio(found, "envoy") == Spread(0.5, 0.5, 0.5)
    assert BY_KEY["cpu-bare"].ratio(found, "nginx") is None


def test_added_latency_is_what_the_direct_way_does_not_have() -> None:
    found = results(bearerproxy={"one": [90]}, envoy={"one": [110]})
    found.add(Sample(0, DIRECT, "one", {"p50_us": 30}))

    assert BY_KEY["added-1"].ratio(found, "envoy") == Spread(0.75, 0.75, 0.75)


def test_an_upload_that_is_not_kept_is_compared_with_the_peers_only_kind() -> None:
    found = results(bearerproxy={}, envoy={})
    found.add(Sample(0, OURS, "up-unkept", {"cpu_s_per_gib": 1.0}))
    found.add(Sample(0, "envoy", "up", {"cpu_s_per_gib": 2.0}))

    assert BY_KEY["up-unkept"].ratio(found, "envoy") == Spread(0.5, 0.5, 0.5)


def test_the_best_peer_is_never_ourselves() -> None:
    found = results(bearerproxy={"bare": [1]}, envoy={"bare": [3]}, nginx={"bare": [2]})

    assert best_peer(found, BY_KEY["cpu-bare"]) == "nginx"
    assert Target("cpu-bare", 0.5, BEST).is_reached(found)


def test_a_target_is_reached_missed_or_not_measured() -> None:
    found = results(bearerproxy={"bare": [10]}, envoy={"bare": [10]})
    found.calls["curl"] = {"direct": 4.0, "through": 2.0, "count": 20, "round_trip_ms": 40}

    assert Target("cpu-bare", 1.0, "envoy").is_reached(found) is True
    assert Target("cpu-bare", 0.9, "envoy").is_reached(found) is False
    assert Target("cpu-bare", 0.9, "nginx").is_reached(found) is None
    assert Target("calls", 1.8, is_least=True).is_reached(found) is True


def test_every_target_and_title_is_about_something_that_is_measured() -> None:
    assert {target.key for target in TARGETS} <= {*BY_KEY, "calls"}
    assert {target.peer for target in TARGETS} <= {*PEERS, BEST, ""}
    assert {one for names in OF_VARIANTS.values() for one in names} <= {*NAMES}
    assert {metric.scenario for metric in METRICS} <= {*NAMES, "idle", "start"}
    assert {OURS, *TITLES} == {*PEERS, *VARIANTS}


def test_what_wrk_saw_is_read_from_its_last_line() -> None:
    said = 'Running 1s test @ x\n\n{"requests": 4, "microseconds": 2000000, "p50": 7, "p99": 9, "failed": 1}\n'

    seen = answered(said)

    assert (seen.requests, seen.seconds, seen.p50_us, seen.p99_us, seen.failed) == (4, 2.0, 7, 9, 1)
    with pytest.raises(LoadError, match="unable to connect"):
        answered("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_results_survive_their_file(tmp_path: Path) -> None:
    found = results(bearerproxy={"bare": [123.4]}, envoy={"bare": [20]})
    found.missing["nginx"] = "nginx is missing; to get it: apt-get install nginx-light"

    found.dump(tmp_path / "run.json")

    assert Results.load(tmp_path / "run.json") == found


def test_page_and_plot_are_made_of_a_run(tmp_path: Path) -> None:
    found = results(bearerproxy={"bare": [10], "fields": [12]}, envoy={"bare": [20], "fields": [20]})
    found.missing["nginx"] = "nginx is missing"

    write_docs(found, tmp_path, tmp_path / "run.json")

    page = (tmp_path / "performance.md").read_text("utf-8")
    assert "| CPU per request, bare ÷ Envoy, credential injector | ≤ 1 | 0.50 | reached |" in page
    assert "- Not measured: nginx. nginx is missing" in page
    assert "$" not in page
    drawn = (tmp_path / "performance.svg").read_text("utf-8")
    assert [text.text for text in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}title")] == ["0.50", "0.60"]  # noqa: S314 - ours
    assert Results.load(tmp_path / "run.json") == found


def test_the_page_of_this_checkout_is_made_of_its_last_run(tmp_path: Path) -> None:
    """Whoever changes the words runs `scripts/bench --results bench/last-run.json --write-docs`."""
    write_docs(Results.load(ROOT / "bench" / "last-run.json"), tmp_path, tmp_path / "run.json")

    for name in ("performance.md", "performance.svg"):
        assert (tmp_path / name).read_text("utf-8") == (ROOT / "docs" / name).read_text("utf-8")


def test_tables_line_up() -> None:
    rows = [["", "one"], ["a name", "2"]]

    assert plain(rows) == "        one\na name  2"
    assert markdown(rows) == "|  | one |\n| --- | --- |\n| a name | 2 |"
    assert [number(value) for value in (123.4, 12.34, 1.234, 0.01234)] == ["123", "12.3", "1.23", "0.012"]


def test_a_run_without_peers_has_a_table_and_an_empty_plot() -> None:
    found = results(bearerproxy={"bare": [10]})

    assert ratio_rows(found)[1] == ["CPU per request, bare", "10.0 µs"]
    assert {row[3] for row in target_rows(found)[1:]} == {"not measured"}
    assert plot(found).startswith("<svg")


def test_ours_is_always_in_the_comparison() -> None:
    assert [*chosen(["nginx"], {})] == [OURS, "nginx"]
    assert [*chosen([], {})] == [*PEERS, *VARIANTS]
    with pytest.raises(KeyError, match="no peer squid; there are bearerproxy, envoy"):
        chosen(["squid"], {})


@pytest.mark.parametrize(("minutes", "rounds"), [(0.0, 1), (60.0, 3)])
def test_a_run_ends_in_time_with_fewer_rounds(minutes: float, rounds: int) -> None:
    plan = replace(FULL, rounds=3, scenarios=("bare",), minutes=minutes)
    here = Path()
    run = Run(plan, Effort(1, here, 1), Upstream(here, 1, 2, here, here, ""), results(), lambda _: None)

    assert run.rounds([], time.monotonic()) == rounds


@LINUX_ALONE
def test_usage_counts_a_program_and_what_it_started() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass\n"
    child = f"subprocess.Popen([sys.executable, '-c', {burn + 'input()'!r}], stdin=subprocess.PIPE)"
    both = f"import subprocess, sys\nchild = {child}\n{burn}input()"
    with subprocess.Popen([sys.executable, "-c", both], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and usage(process.pid).cpu_seconds < 0.4:
            time.sleep(0.01)  # until both have burnt what they shall
        seen, members = usage(process.pid), tree(process.pid)
        process.communicate(b"\n")

    assert len(members) == 2
    assert 0.4 <= seen.cpu_seconds < 2
    assert seen.minor_faults > 100


@LINUX_ALONE
def test_peak_sees_memory_that_is_gone_at_the_end() -> None:
    with Peak(os.getpid()) as peak:
        held = bytearray(64 << 20)
        held[::4096] = b"x" * len(held[::4096])
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and peak.bytes - peak.before < 48 << 20:
            time.sleep(0.01)
        del held

    assert peak.bytes - peak.before >= 48 << 20


@LINUX_ALONE
def test_the_harness_runs(tmp_path: Path) -> None:
    for name, package in (("nginx", "nginx-light"), ("wrk", "wrk")):
        need_program(name, how=f"apt-get install {package}")
    argv = [sys.executable, "-m", "bench", "--quick", "--only", OURS, "--rounds", "1", "--scenarios", "bare,streams"]

    ended = subprocess.run(
        [*argv, "--json", str(tmp_path / "run.json")], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr
    assert "CPU per request, bare" in ended.stdout
    said = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert {sample["scenario"] for sample in said["samples"]} == {"start", "idle", "bare", "streams"}
    assert said["failures"] == {}
