"""The journal as a page, as a stream of rows and as CSV: which requests are wanted, and what each looks like. Pure."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from proxy.control.accounts import iso
from proxy.control.words import Moment, brief_words, clock_words, duration_words, size_words
from proxy.csv_cells import harmless
from proxy.events import Refused, Relayed
from proxy.journal import Entry

CLASSES = ("2xx", "3xx", "4xx", "5xx")
_COLUMNS = (
    "number", "time", "method", "target", "upstream", "status", "received", "sent", "seconds", "token_age", "is_replay",
    "is_complete", "answered_by", "kind", "detail",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filter:
    """Which requests somebody wants to see; empty strings let everything through."""

    upstream: str = ""
    status: str = ""
    """`2xx` to `5xx`, or `own` for answers of our own."""
    text: str = ""
    """A part of the target, in any case."""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Filter":
        return cls(query.get("upstream", ""), query.get("status", ""), query.get("text", ""))

    @property
    def is_on(self) -> bool:
        return any((self.upstream, self.status, self.text))

    @property
    def query(self) -> dict[str, str]:
        """The parameters that make this filter again."""
        return {name: value for name, value in asdict(self).items() if value}

    def lets_through(self, entry: Entry) -> bool:
        event = entry.event
        if self.upstream and entry.upstream != self.upstream:
            return False
        if self.status == "own":
            if not entry.is_own:
                return False
        elif self.status and f"{event.status // 100}xx" != self.status:
            return False
        return self.text.casefold() in event.target.casefold()


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request, as the page shows it."""

    number: int
    moment: Moment
    method: str
    target: str
    upstream: str
    status: int
    status_class: str
    size: str
    seconds: str
    token_age: str
    marks: tuple[tuple[str, str], ...]
    """(kind, words): what was special about it."""
    kind: str
    """The failure's page, if the answer was ours."""
    detail: str


def row_of(entry: Entry) -> RequestRow:
    """Return one request as the page shows it."""
    event = entry.event
    moment = Moment(iso(entry.moment) or "", clock_words(entry.moment).removesuffix(" UTC"))
    shared = (
        entry.number,
        moment,
        event.method,
        event.target,
        entry.upstream,
        event.status,
        f"{event.status // 100}xx",
    )
    if isinstance(event, Refused):
        return RequestRow(*shared, "", "", "", (), event.kind, event.detail)
    age = "" if event.token_age is None else duration_words(event.token_age)
    return RequestRow(*shared, size_words(event.sent), brief_words(event.seconds), age, tuple(_marks(event)), "", "")


def as_csv(entries: Iterable[Entry]) -> str:
    """Return the entries as CSV with a head, oldest first (RFC 4180)."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for entry in entries:
        event = entry.event
        shared: list[object] = [entry.number, iso(entry.moment), event.method, event.target]
        if isinstance(event, Refused):
            cells = [*shared, "", event.status, "", "", "", "", "", "", "bearerproxy", event.kind, event.detail]
        else:
            age = "" if event.token_age is None else round(event.token_age, 1)
            cells = [
                *shared, event.upstream, event.status, event.received, event.sent, round(event.seconds, 4), age,
                event.is_replay, event.is_complete, "upstream", "", "",
            ]  # fmt: skip
        writer.writerow([harmless(cell) for cell in cells])
    return text.getvalue()


def _marks(event: Relayed) -> list[tuple[str, str]]:
    marks = []
    if event.is_replay:
        marks.append(("replay", "after renewal"))
    if not event.is_complete:
        marks.append(("broken", "broke off"))
    return marks
