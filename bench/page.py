"""docs/performance.md, its plot, and the figures that both are made of."""

import string
from pathlib import Path

from bench.peers import OURS
from bench.plot import plot
from bench.results import Results
from bench.table import call_rows, markdown, ratio_rows, target_rows

_HERE = Path(__file__).parent
_DOCS = _HERE.parent / "docs"
LAST_RUN = _HERE / "last-run.json"


def write_docs(results: Results, docs: Path = _DOCS, last_run: Path = LAST_RUN) -> None:
    """Write page, plot and figures; the words around the tables are those of bench/performance.md.in."""
    results.dump(last_run)
    results = Results.load(last_run)  # with as many digits as the file keeps: the page can be made of it again
    template = string.Template((_HERE / "performance.md.in").read_text("utf-8"))
    (docs / "performance.md").write_text(template.substitute(_parts(results)), encoding="utf-8")
    (docs / "performance.svg").write_text(plot(results), encoding="utf-8")


def _parts(results: Results) -> dict[str, str]:
    return {
        "command": results.about["command"],
        "ours": results.versions[OURS],
        "ratios": markdown(ratio_rows(results)),
        "targets": markdown(target_rows(results)),
        "calls": markdown(call_rows(results)),
        "about": markdown([["", ""], *([name, value] for name, value in results.about.items())]),
        "versions": markdown([["", ""], *([name, value] for name, value in results.versions.items())]),
        "gaps": "".join(f"\n- Not measured: {where}. {' '.join(why.split())[:300]}" for where, why in _gaps(results)),
    }


def _gaps(results: Results) -> list[tuple[str, str]]:
    return [*results.missing.items(), *results.failures.items()]
