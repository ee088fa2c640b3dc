"""The plot of ratios per peer, as a small SVG of our own: a line at 1, and left of it is where we are cheaper."""

import math
from collections.abc import Sequence
from html import escape

from bench.peers import OURS, TITLES
from bench.ratios import BY_KEY, Spread
from bench.results import Results

SERIES = (("cpu-bare", "bare request", "#1b6ca8"), ("cpu-fields", "7 fields", "#d1663d"))
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 760, 210, 30, 64, 38

Row = tuple[str, list[Spread | None]]


def plot(results: Results) -> str:
    """Return the SVG: CPU per request, ours ÷ the peer's, the dearest peer on top."""
    rows: list[Row] = []
    for peer in results.versions:
        seen = [BY_KEY[key].ratio(results, peer) for key, _, _ in SERIES]
        if peer != OURS and any(seen):
            rows.append((TITLES.get(peer, peer), seen))
    rows.sort(key=lambda row: min(one.median for one in row[1] if one))
    height = _TOP + _ROW * len(rows) + 40
    found = [bound for _, seen in rows for one in seen if one for bound in (one.least, one.most)]
    scale = _Scale([*found, 1.0])
    body = [*_axis(scale, height), *_legend()]
    for index, row in enumerate(rows):
        body += _row(row, _TOP + _ROW * index + _ROW // 2, scale)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        'font-size="13" role="img" aria-label="CPU per relayed request: bearerproxy divided by each peer">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


class _Scale:
    """Logarithmic: a half and a double are equally far from 1."""

    def __init__(self, values: Sequence[float]) -> None:
        self._low, self._high = math.log(min(values) / 1.3), math.log(max(values) * 1.3)

    def __call__(self, value: float) -> float:
        share = (math.log(value) - self._low) / (self._high - self._low)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def holds(self, value: float) -> bool:
        return self._low <= math.log(value) <= self._high


def _axis(scale: _Scale, height: int) -> list[str]:
    bottom = height - 36
    lines = []
    for tick in filter(scale.holds, TICKS):
        colour, width = ("#444", 1.5) if tick == 1 else ("#ddd", 1)
        x = scale(tick)
        lines += [
            f'<line x1="{x}" y1="{_TOP}" x2="{x}" y2="{bottom}" stroke="{colour}" stroke-width="{width}"/>',
            f'<text x="{x}" y="{bottom + 18}" text-anchor="middle" fill="#555">{tick:g}</text>',
        ]
    return lines


def _legend() -> list[str]:
    lines = ['<text x="12" y="22" font-size="15" fill="#222">CPU per relayed request, bearerproxy ÷ peer</text>']
    for index, (_, title, colour) in enumerate(SERIES):
        x = _LEFT + 110 * index
        lines += [
            f'<circle cx="{x}" cy="42" r="5" fill="{colour}"/>',
            f'<text x="{x + 10}" y="46" fill="#222">{title}</text>',
        ]
    lines.append('<text x="12" y="46" fill="#555">left of 1: we need less</text>')
    return lines


def _row(row: Row, y: int, scale: _Scale) -> list[str]:
    title, found = row
    lines = [f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end" fill="#222">{escape(title)}</text>']
    for offset, seen, (_, _, colour) in zip((-7, 7), found, SERIES, strict=True):
        if seen is not None:
            x, low, high, at = scale(seen.median), scale(seen.least), scale(seen.most), y + offset
            lines += [
                f'<line x1="{low}" y1="{at}" x2="{high}" y2="{at}" stroke="{colour}" stroke-width="2"/>',
                f'<circle cx="{x}" cy="{at}" r="5" fill="{colour}"><title>{seen.median:.2f}</title></circle>',
            ]
    return lines
