"""SDMX messages as text: CSV 1.0 and 2.0, JSON 1.0, generic and structure-specific XML 2.1.

Writers yield pieces, so that an answer can be sent while it is made.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from jinja2 import Environment, PackageLoader

from proxy.demo.sdmx import Component, Flow, Observation

_TEMPLATES = Environment(loader=PackageLoader("proxy.demo"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
_PERIOD_NAME = {"en": "Time period", "fr": "P\u00e9riode"}
_SDMX = "http://www.sdmx.org/resources/sdmxml/schemas/v2_1"


@dataclass(frozen=True, slots=True)
class CsvStyle:
    """How a CSV looks."""

    has_labels: bool = False
    language: str = "en"
    separator: str = ","
    decimal: str = "."
    version: str = "1.0.0"


def csv_text(flow: Flow, observations: Sequence[Observation], style: CsvStyle) -> Iterator[str]:
    """Yield SDMX-CSV, a header line first."""
    name = flow.name[style.language]
    identity = f"{flow.agency}:{flow.id}({flow.version})"
    if style.version.startswith("2"):
        head, lead = ["STRUCTURE", "STRUCTURE_ID", "ACTION"], ["dataflow", identity, "I"]
    else:
        head, lead = ["DATAFLOW"], [f"{identity}: {name}" if style.has_labels else identity]
    period = f"TIME_PERIOD: {_PERIOD_NAME[style.language]}" if style.has_labels else "TIME_PERIOD"
    dimensions = [_titled(one, style) for one in flow.dimensions]
    attributes = [_titled(one, style) for one in flow.attributes]
    yield _row([*head, *dimensions, period, "OBS_VALUE", *attributes], style)
    for one in observations:
        key = [_labelled(component, code, style) for component, code in zip(flow.dimensions, one.key, strict=True)]
        said = [_labelled(each, code, style) for each, code in zip(flow.attributes, one.attributes, strict=True)]
        yield _row([*lead, *key, one.period, one.value.replace(".", style.decimal), *said], style)


def json_text(flow: Flow, observations: Sequence[Observation], language: str, prepared: str) -> Iterator[str]:
    """Yield an SDMX-JSON 1.0 data message with every dimension at the observation."""
    periods = sorted({one.period for one in observations})
    codes = [list(component.codes) for component in flow.dimensions]
    notes = [list(component.codes) for component in flow.attributes]
    dimensions = [
        {**_described(component, language), "keyPosition": place} for place, component in enumerate(flow.dimensions)
    ]
    time = {
        "id": "TIME_PERIOD",
        "name": _PERIOD_NAME[language],
        "keyPosition": len(dimensions),
        "values": [{"id": period, "name": period} for period in periods],
    }
    structure = {
        "name": flow.name[language],
        "dimensions": {"observation": [*dimensions, time]},
        "attributes": {"observation": [_described(component, language) for component in flow.attributes]},
    }
    meta = {"id": f"{flow.id}-{len(observations)}", "prepared": prepared, "test": False, "sender": {"id": "DEMO"}}
    yield f'{{"meta":{json.dumps(meta)},"data":{{"structure":{json.dumps(structure)},'
    yield '"dataSets":[{"action":"Information","observations":{'
    for number, one in enumerate(observations):
        at = [str(known.index(code)) for known, code in zip(codes, one.key, strict=True)]
        place = ":".join([*at, str(periods.index(one.period))])
        said = [known.index(code) for known, code in zip(notes, one.attributes, strict=True)]
        yield f"{',' if number else ''}{json.dumps(place)}:{json.dumps([float(one.value), *said])}"
    yield "}}]}}"


def generic_xml(flow: Flow, observations: Sequence[Observation], prepared: str) -> Iterator[str]:
    """Yield a generic data message, one series for each key."""
    yield _TEMPLATES.get_template("generic_head.xml").render(flow=flow, prepared=prepared, schemas=_SDMX)
    for key, group in groupby(observations, key=lambda one: one.key):
        yield "<generic:Series><generic:SeriesKey>"
        yield "".join(_value(each.id, code) for each, code in zip(flow.dimensions, key, strict=True))
        yield "</generic:SeriesKey>"
        for one in group:
            yield f"<generic:Obs><generic:ObsDimension value={quoteattr(one.period)}/>"
            yield f"<generic:ObsValue value={quoteattr(one.value)}/><generic:Attributes>"
            yield "".join(_value(each.id, code) for each, code in zip(flow.attributes, one.attributes, strict=True))
            yield "</generic:Attributes></generic:Obs>"
        yield "</generic:Series>\n"
    yield "</message:DataSet></message:GenericData>\n"


def specific_xml(flow: Flow, observations: Sequence[Observation], prepared: str) -> Iterator[str]:
    """Yield a structure-specific data message, one series for each key."""
    yield _TEMPLATES.get_template("specific_head.xml").render(flow=flow, prepared=prepared, schemas=_SDMX)
    for key, group in groupby(observations, key=lambda one: one.key):
        yield f"<Series{_attributes(flow.dimensions, key)}>"
        for one in group:
            said = _attributes(flow.attributes, one.attributes)
            yield f'<Obs TIME_PERIOD="{escape(one.period)}" OBS_VALUE="{escape(one.value)}"{said}/>'
        yield "</Series>\n"
    yield "</message:DataSet></message:StructureSpecificData>\n"


def structure_xml(flows: Sequence[Flow], shows: frozenset[str], prepared: str) -> Iterator[str]:
    """Yield a structure message; `shows` holds any of `dataflow`, `datastructure`, `codelist`."""
    template = _TEMPLATES.get_template("structure.xml")
    yield template.render(flows=flows, lists=codelists(flows), shows=shows, prepared=prepared, schemas=_SDMX)


def structure_json(flows: Sequence[Flow], shows: frozenset[str], language: str, prepared: str) -> Iterator[str]:
    """Yield an SDMX-JSON 1.0 structure message with dataflows and codelists."""
    data: dict[str, list[dict[str, Any]]] = {}  # Any: JSON
    if "dataflow" in shows:
        data["dataflows"] = [
            {
                **_maintained(flow.id, flow),
                "name": flow.name[language],
                "structure": f"urn:sdmx:org.sdmx.infomodel.datastructure.DataStructure="
                f"{flow.agency}:{flow.structure}({flow.version})",
            }
            for flow in flows
        ]
    if "datastructure" in shows:
        data["dataStructures"] = [
            {
                **_maintained(flow.structure, flow),
                "name": flow.name[language],
                "dimensions": [component.id for component in flow.dimensions] + ["TIME_PERIOD"],
            }
            for flow in flows
        ]
    if "codelist" in shows:
        data["codelists"] = [
            {
                **_maintained(component.codelist, flow),
                "name": component.name[language],
                "codes": [{"id": code, "name": names[language]} for code, names in component.codes.items()],
            }
            for flow, component in codelists(flows)
        ]
    yield json.dumps({"meta": {"prepared": prepared, "sender": {"id": "DEMO"}}, "data": data})


def codelists(flows: Sequence[Flow]) -> list[tuple[Flow, Component]]:
    """Return each codelist once per agency, with the flow that maintains it."""
    found = {(flow.agency, one.codelist): (flow, one) for flow in flows for one in flow.components}
    return list(found.values())


def _row(cells: Sequence[str], style: CsvStyle) -> str:
    special = (style.separator, '"', "\n")
    quoted = ['"' + cell.replace('"', '""') + '"' if any(one in cell for one in special) else cell for cell in cells]
    return style.separator.join(quoted) + "\r\n"


def _titled(component: Component, style: CsvStyle) -> str:
    return f"{component.id}: {component.name[style.language]}" if style.has_labels else component.id


def _labelled(component: Component, code: str, style: CsvStyle) -> str:
    return f"{code}: {component.codes[code][style.language]}" if style.has_labels else code


def _described(component: Component, language: str) -> dict[str, object]:
    values = [{"id": code, "name": names[language]} for code, names in component.codes.items()]
    return {"id": component.id, "name": component.name[language], "values": values}


def _maintained(artefact: str, flow: Flow) -> dict[str, object]:
    return {"id": artefact, "agencyID": flow.agency, "version": flow.version, "isFinal": True}


def _value(component: str, code: str) -> str:
    return f"<generic:Value id={quoteattr(component)} value={quoteattr(code)}/>"


def _attributes(components: Sequence[Component], codes: Sequence[str]) -> str:
    return "".join(f" {each.id}={quoteattr(code)}" for each, code in zip(components, codes, strict=True))
