"""Results as text: the table of ratios for a terminal, and the same for Markdown."""

from collections.abc import Iterable, Sequence

from bench.peers import OURS, TITLES
from bench.ratios import BEST, BY_KEY, METRICS, TARGETS, Spread, Target, best_peer
from bench.results import Results


def ratio_rows(results: Results) -> list[list[str]]:
    """Return the header and a row for each metric: our own figure, then ours ÷ each peer's with its spread."""
    peers = [peer for peer in results.versions if peer != OURS]
    rows = [["", OURS, *(f"÷ {peer}" for peer in peers)]]
    for metric in METRICS:
        own = metric.absolute(results, OURS)
        if own is not None:
            cells = [spread(metric.ratio(results, peer)) for peer in peers]
            rows.append([metric.title, f"{number(own.median)} {metric.unit}".strip(), *cells])
    return rows


def target_rows(results: Results) -> list[list[str]]:
    """Return the header and a row for each target."""
    return [["target", "bound", "seen", ""], *(_target_row(target, results) for target in TARGETS)]


def _target_row(target: Target, results: Results) -> list[str]:
    verdict = {True: "reached", False: "missed", None: "not measured"}[target.is_reached(results)]
    sign = "≥" if target.is_least else "≤"
    return [_target_title(target, results), f"{sign} {target.bound:g}", spread(target.seen(results)), verdict]


def _target_title(target: Target, results: Results) -> str:
    if target.key == "calls":
        return "small calls at 40 ms: direct ÷ through us"
    metric = BY_KEY[target.key]
    what = metric.title if target.of == OURS else f"{metric.title}, with [{target.of}]"
    if not target.peer:
        return f"{what}, {metric.unit}"
    if target.peer == BEST:
        return f"{what} ÷ the best peer ({best_peer(results, metric) or 'none'})"
    return f"{what} ÷ {TITLES[target.peer]}"


def call_rows(results: Results) -> list[list[str]]:
    """Return the header and a row for each tool of `--calls`."""
    rows = [["tool", "calls", "round trip", "direct", "through us", "direct ÷ through us"]]
    for tool, seen in results.calls.items():
        gain = f"{seen['direct'] / seen['through']:.2f}"
        row = [tool, f"{seen['count']:g}", f"{seen['round_trip_ms']:g} ms", f"{seen['direct']:.1f} s"]
        rows.append([*row, f"{seen['through']:.1f} s", gain])
    return rows


def spread(seen: Spread | None) -> str:
    """Return `median (least-most)`, or nothing for what was not measured."""
    if seen is None:
        return ""
    if seen.least == seen.most:
        return number(seen.median)
    return f"{number(seen.median)} ({number(seen.least)}-{number(seen.most)})"


def number(value: float) -> str:
    """Return two digits behind the point below ten, none above a hundred."""
    size = abs(value)
    return (
        f"{value:.0f}"
        if size >= 100
        else f"{value:.1f}"
        if size >= 10
        else f"{value:.2f}"
        if size >= 0.1
        else f"{value:.3f}"
    )


def plain(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as columns for a terminal."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as a Markdown table."""
    header, *rest = rows
    lines = [header, ["---"] * len(header), *rest]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
