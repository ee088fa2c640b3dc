"""A page of the docs that a test has written: recordings of real runs behind marks, and what differs each time."""

import re
from collections.abc import Mapping
from pathlib import Path

_TIMES = re.compile(r"\b\d\d:\d\d:\d\d\b|\b\d+(?:\.\d+)? m?s\b|\b\d+ (?:bytes|KiB)\b")


def masked(text: str, names: Mapping[str, str]) -> str:
    """Return what stands in the docs of a text: `names` replaced, the longest first, and no space at the ends."""
    for found in sorted(names, key=len, reverse=True):
        text = text.replace(found, names[found])
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def timeless(text: str) -> str:
    """Return a recording without what no two runs have in common: times, durations and the width of columns."""
    return "\n".join(" ".join(line.split()) for line in _TIMES.sub("…", text).splitlines())


def block_of(page: str, name: str) -> str | None:
    """Return the recording called `name`; None if it was not made yet."""
    found = re.search(rf"<!-- recording: {name} -->\n```\w+\n(.*?)\n```\n", page, re.DOTALL)
    return found[1] if found else None


def with_block(page: str, name: str, text: str, language: str) -> str:
    """Return the page with that recording."""
    mark = f"<!-- recording: {name} -->\n"
    assert mark in page, f"the page has no place for {name}"
    before, after = page.split(mark)
    rest = re.sub(r"^```.*?\n```\n", "", after, count=1, flags=re.DOTALL)
    return f"{before}{mark}```{language}\n{text}\n```\n{rest}"


def keep(page: Path, recordings: Mapping[str, tuple[str, str]]) -> None:
    """Write recordings, (language, text) by name, into their places."""
    text = page.read_text("utf-8")
    for name, (language, recording) in recordings.items():
        text = with_block(text, name, recording, language)
    page.write_text(text, "utf-8")
