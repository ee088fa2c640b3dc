"""How the pages say moments, durations, sizes and long addresses. Pure."""

import re
from dataclasses import dataclass

from markupsafe import Markup, escape

from proxy.control.accounts import iso

_BREAKS = re.compile(r"(?<!/)/(?!/)|(?=\.[A-Za-z])")
_UNITS = ((86_400, "day", "days"), (3_600, "h", "h"), (60, "min", "min"))


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time for people and for `<time datetime>`."""

    iso: str
    words: str


def duration_words(seconds: float) -> str:
    """Return a duration in at most two units, rounded down: `9 h 12 min`, `4 min`, `40 s`."""
    left = int(max(seconds, 0))
    for position, (size, one, many) in enumerate(_UNITS):
        count, rest = divmod(left, size)
        if count:
            words = f"{count} {one if count == 1 else many}"
            if position + 1 < len(_UNITS) and (smaller := rest // _UNITS[position + 1][0]):
                words += f" {smaller} {_UNITS[position + 1][2]}"
            return words
    return f"{left} s"


def brief_words(seconds: float) -> str:
    """Return how long an answer took: `8 ms`, `1.3 s`, `4 min`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else duration_words(seconds)


def size_words(count: float) -> str:
    """Return a number of bytes: `312 B`, `4.1 kB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def breakable(text: str) -> Markup:
    """Return the text as HTML in which a browser may break a long URL after a slash or before a dot.

    `<wbr>` is no character: what is copied from the page is the text itself.
    """
    return Markup(_BREAKS.sub(r"\g<0><wbr>", str(escape(text))))  # noqa: S704 - escaped on this line


def clock_words(moment: float) -> str:
    """Return the time of day in UTC, to the second."""
    return (iso(moment) or "")[11:19] + " UTC"


def moment_of(moment: float | None, now: float | None = None) -> Moment | None:
    """Return the moment with its distance from `now`; the bare time of day without one."""
    stamp = iso(moment)
    if moment is None or stamp is None:
        return None
    if now is None:
        return Moment(stamp, clock_words(moment))
    distance = duration_words(abs(moment - now))
    return Moment(stamp, f"in {distance}" if moment > now else f"{distance} ago")
