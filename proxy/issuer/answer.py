"""What an issuer said: the answer as it came, and how single values in it are read. Pure."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeGuard

import httpx2

from proxy.tokens import DEFAULT_LIFE_SECONDS

RETRY_AFTER_LIMIT = 3600
LONGEST_LIFE_SECONDS = 10 * 366 * 86400.0
"""Nobody means more, and dates beyond the year 9999 cannot be shown."""

_VISIBLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and when the call began."""

    host: str
    status: int
    fields: httpx2.Headers
    body: bytes = field(repr=False)
    wall: float
    boot: float

    @property
    def json(self) -> dict[str, Any] | None:
        """The JSON object in the body; None if it is anything else or not said to be JSON."""
        kind = self.fields.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            return None
        try:
            said = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return said if isinstance(said, dict) else None


def is_token(text: object) -> TypeGuard[str]:
    """Return whether a field value can carry `text` as a bearer token; RFC 6750 2.1 allows even less."""
    return isinstance(text, str) and _VISIBLE.fullmatch(text) is not None


def life(said: object) -> float | None:
    """Return seconds of life: the default where nothing was said, 0 for less, None for nonsense."""
    if said is None:
        return DEFAULT_LIFE_SECONDS
    seconds = number(said)
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_LIFE_SECONDS)


def number(said: object) -> float | None:
    """Return a finite number, said as one or as text; None for anything else."""
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        return None
    try:
        seconds = float(said)
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None


def is_shown(text: object) -> bool:
    """Return whether `text` may be shown as a code."""
    return isinstance(text, str) and 0 < len(text) <= 64 and text.isprintable()


def is_link(text: object) -> bool:
    """Return whether `text` may be shown and opened: a web address without anything that a terminal would act on."""
    return (
        isinstance(text, str)
        and len(text) <= 2000
        and text.startswith(("https://", "http://"))
        and _VISIBLE.fullmatch(text) is not None
    )


def for_people(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` from the wire as something to show: no secret, no control characters, at most 200 of them."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "…")
    text = "".join(one if one.isprintable() else " " for one in text)
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:199] + "…"


def retry_after(answer: Answer, now: float | None = None) -> int | None:
    """Return the whole seconds of Retry-After (RFC 9110 10.2.3), 0 to 3600; None if there is none to read.

    A date is counted from the issuer's own `Date` where it sends one, so that a wrong clock of ours does no harm.
    """
    text = answer.fields.get("retry-after", "").strip()
    if text.isdecimal() and text.isascii():
        return min(int(text[:9]), RETRY_AFTER_LIMIT)
    until, sent = date(text), date(answer.fields.get("date", ""))
    start = sent if sent is not None else answer.wall if now is None else now
    return None if until is None else min(max(math.ceil(until - start), 0), RETRY_AFTER_LIMIT)


def skew(said: float | None, began: float, ended: float) -> float:
    """Return how far `said`, a whole second between the call's begin and end by another clock, is ahead of ours."""
    if said is None or began - 1 <= said <= ended:
        return 0.0
    return said - ended if said > ended else said + 1 - began


def date(text: str) -> float | None:
    """Return a date of the wire (RFC 9110 5.6.7) in seconds since the epoch; None if it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
