"""SDMX flows and queries on them: values and pure functions (SDMX REST 1.5, "data" queries)."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import groupby

Names = Mapping[str, str]
"""Language -> name."""

LANGUAGES = ("en", "fr")


class BadQuery(Exception):
    """The query makes no sense for this flow; the text says why."""


@dataclass(frozen=True, slots=True)
class Component:
    """A dimension or attribute with its codelist."""

    id: str
    name: Names
    codelist: str
    codes: Mapping[str, Names]


@dataclass(frozen=True, slots=True)
class Observation:
    """One row."""

    key: tuple[str, ...]
    """Dimension values without the time, in the order of the flow."""
    period: str
    value: str
    attributes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Flow:
    """A dataflow, its structure and all of its observations, ordered by key and period."""

    agency: str
    id: str
    version: str
    structure: str
    name: Names
    is_public: bool
    """False hides the whole flow from callers without a token."""
    dimensions: tuple[Component, ...]
    attributes: tuple[Component, ...]
    observations: tuple[Observation, ...]

    @property
    def components(self) -> tuple[Component, ...]:
        return (*self.dimensions, *self.attributes)


@lru_cache(maxsize=1)
def flows() -> tuple[Flow, ...]:
    """Return the demo's flows, read once."""
    folder = files("proxy.demo").joinpath("data")
    return tuple(_flow(one) for one in json.loads(folder.joinpath("flows.json").read_text("utf-8")))


def is_free(flow: Flow, observation: Observation) -> bool:
    """Return whether callers without a token may read an observation: CONF_STATUS is `F`."""
    at = [component.id for component in flow.attributes].index("CONF_STATUS")
    return observation.attributes[at] == "F"


def fits(flow: Flow, agency: str, flow_id: str, version: str) -> bool:
    """Return whether `agency`, `flow_id`, `version` of a query mean this flow; `all`, `*` and `latest` are wild."""
    wild = {"all", "*", ""}
    return (
        (agency in wild or agency == flow.agency)
        and (flow_id in wild or flow_id == flow.id)
        and (version in wild | {"latest", "+", "~"} or version == flow.version)
    )


def select(flow: Flow, key: str, asked: Mapping[str, str]) -> list[Observation]:
    """Return the observations that a key and the parameters of a query ask for. Raises BadQuery.

    The key has a place for each dimension but the time, parted by `.`; a place holds codes parted by `+`, or nothing
    (or `*`) for all. `all` and `*` stand for the whole key.
    """
    wanted = _places(flow, key)
    first, last = _bounds(asked)
    found = [
        one
        for one in flow.observations
        if all(not codes or code in codes for code, codes in zip(one.key, wanted, strict=True))
        and first <= span(one.period)[0]
        and span(one.period)[1] <= last
    ]
    return _ends(found, _count(asked, "firstNObservations"), _count(asked, "lastNObservations"))


def span(period: str) -> tuple[int, int]:
    """Return the first and last month of `2022`, `2022-S1`, `2022-Q3` or `2022-07`, counted from year 0.

    Raises BadQuery.
    """
    year, _, part = period.partition("-")
    if not (len(year) == 4 and year.isdecimal()):
        raise BadQuery(f"{period} is not a time period")
    start = int(year) * 12
    if not part:
        return start, start + 11
    months = {"S": 6, "Q": 3}.get(part[0], 1)
    number = part.lstrip("SQ")[:2]
    if not number.isdecimal() or not 1 <= int(number) <= 12 // months:
        raise BadQuery(f"{period} is not a time period")
    first = start + (int(number) - 1) * months
    return first, first + months - 1


def _flow(said: dict[str, object]) -> Flow:
    text = files("proxy.demo").joinpath("data", str(said["data"])).read_text("utf-8")
    dimensions = _components(said["dimensions"])
    attributes = _components(said["attributes"])
    rows = [
        Observation(
            tuple(row[one.id] for one in dimensions),
            row["TIME_PERIOD"],
            row["OBS_VALUE"],
            tuple(row[one.id] for one in attributes),
        )
        for row in csv.DictReader(text.splitlines())
    ]
    name = said["name"]
    return Flow(
        str(said["agency"]),
        str(said["id"]),
        str(said["version"]),
        str(said["structure"]),
        name if isinstance(name, dict) else {},
        said["public"] is True,
        dimensions,
        attributes,
        tuple(sorted(rows, key=lambda one: (one.key, span(one.period)))),
    )


def _components(said: object) -> tuple[Component, ...]:
    listed = said if isinstance(said, list) else []
    return tuple(Component(one["id"], one["name"], one["codelist"]["id"], one["codelist"]["codes"]) for one in listed)


def _places(flow: Flow, key: str) -> list[frozenset[str]]:
    if key in {"", "all", "*"}:
        return [frozenset()] * len(flow.dimensions)
    places = key.split(".")
    if len(places) != len(flow.dimensions):
        raise BadQuery(f"the key has {len(places)} dimensions, {flow.id} has {len(flow.dimensions)}")
    return [frozenset(code for code in place.split("+") if code not in {"", "*"}) for place in places]


def _bounds(asked: Mapping[str, str]) -> tuple[int, int]:
    start, end = asked.get("startPeriod"), asked.get("endPeriod")
    return (span(start)[0] if start else 0), (span(end)[1] if end else 10_000 * 12)


def _count(asked: Mapping[str, str], name: str) -> int | None:
    value = asked.get(name)
    if value is not None and not value.isdecimal():
        raise BadQuery(f"{name} is not a number")
    return None if value is None else int(value)


def _ends(found: list[Observation], first: int | None, last: int | None) -> list[Observation]:
    """Return the first and last so many observations of each series."""
    if first is None and last is None:
        return found
    kept: list[Observation] = []
    for _, group in groupby(found, key=lambda one: one.key):
        series = list(group)
        at = {*range(first or 0), *range(len(series) - (last or 0), len(series))}
        kept += [one for place, one in enumerate(series) if place in at]
    return kept
