"""Which representation an SDMX query gets: pure functions of `format=`, Accept, Accept-Language, Accept-Encoding."""

from dataclasses import dataclass

from proxy.demo.sdmx import LANGUAGES


@dataclass(frozen=True, slots=True)
class Wanted:
    """The representation."""

    media_type: str
    writer: str
    """`csv`, `json`, `generic`, `specific` for data; `xml`, `json` for structures."""
    has_labels: bool = False
    is_file: bool = False
    version: str = "1.0.0"


_CSV = "application/vnd.sdmx.data+csv; charset=utf-8"
_JSON = "application/vnd.sdmx.data+json; version=1.0.0; charset=utf-8"
_GENERIC = "application/vnd.sdmx.genericdata+xml; version=2.1; charset=utf-8"
_SPECIFIC = "application/vnd.sdmx.structurespecificdata+xml; version=2.1; charset=utf-8"
_STRUCTURE_XML = "application/vnd.sdmx.structure+xml; version=2.1; charset=utf-8"
_STRUCTURE_JSON = "application/vnd.sdmx.structure+json; version=1.0; charset=utf-8"

_DATA_BY_NAME = {
    "csv": Wanted(_CSV, "csv"),
    "csvfile": Wanted(_CSV, "csv", is_file=True),
    "csvfilewithlabels": Wanted(_CSV, "csv", has_labels=True, is_file=True),
    "jsondata": Wanted(_JSON, "json"),
    "genericdata": Wanted(_GENERIC, "generic"),
    "structurespecificdata": Wanted(_SPECIFIC, "specific"),
}
_DATA_BY_TYPE = {
    "application/vnd.sdmx.data+csv": Wanted(_CSV, "csv"),
    "text/csv": Wanted("text/csv; charset=utf-8", "csv"),
    "application/vnd.sdmx.data+json": Wanted(_JSON, "json"),
    "application/json": Wanted(_JSON, "json"),
    "application/vnd.sdmx.genericdata+xml": Wanted(_GENERIC, "generic"),
    "application/vnd.sdmx.structurespecificdata+xml": Wanted(_SPECIFIC, "specific"),
    "application/xml": Wanted(_GENERIC, "generic"),
    "text/xml": Wanted(_GENERIC, "generic"),
    "*/*": Wanted(_GENERIC, "generic"),  # rest-spec tips.md: a 2.1 service without a full type answers generic XML
}
_STRUCTURE_BY_NAME = {
    "structure": Wanted(_STRUCTURE_XML, "xml"),
    "sdmx-json": Wanted(_STRUCTURE_JSON, "json"),
}
_STRUCTURE_BY_TYPE = {
    "application/vnd.sdmx.structure+xml": Wanted(_STRUCTURE_XML, "xml"),
    "application/vnd.sdmx.structure+json": Wanted(_STRUCTURE_JSON, "json"),
    "application/json": Wanted(_STRUCTURE_JSON, "json"),
    "application/xml": Wanted(_STRUCTURE_XML, "xml"),
    "text/xml": Wanted(_STRUCTURE_XML, "xml"),
    "*/*": Wanted(_STRUCTURE_XML, "xml"),
}


def data_format(named: str | None, accept: str | None) -> Wanted | None:
    """Return the representation of data; `named` (`format=`) wins over Accept. None is 406."""
    if named is not None:
        return _DATA_BY_NAME.get(named.lower())
    for media_type, parameters in _ranked(accept):
        known = _DATA_BY_TYPE.get(media_type)
        if known is not None and known.writer == "csv":
            return Wanted(
                known.media_type,
                "csv",
                has_labels=parameters.get("labels") == "both",
                is_file=parameters.get("file") == "true",
                version=parameters.get("version", "1.0.0"),
            )
        if known is not None:
            return known
    return None


def structure_format(named: str | None, accept: str | None) -> Wanted | None:
    """Return the representation of structures; `named` (`format=`) wins over Accept. None is 406."""
    if named is not None:
        return _STRUCTURE_BY_NAME.get(named.lower())
    known = (_STRUCTURE_BY_TYPE.get(media_type) for media_type, _ in _ranked(accept))
    return next((one for one in known if one is not None), None)


def language_of(accept_language: str | None) -> str:
    """Return the first language that the caller names and the data has, else English."""
    for tag, _ in _ranked(accept_language):
        primary = tag.split("-")[0]
        if primary in LANGUAGES:
            return primary
    return LANGUAGES[0]


def takes_gzip(accept_encoding: str | None) -> bool:
    """Return whether the caller asked for gzip; no field asks for nothing (many tools cannot decode)."""
    return accept_encoding is not None and "gzip" in [coding for coding, _ in _ranked(accept_encoding)]


def _ranked(field: str | None) -> list[tuple[str, dict[str, str]]]:
    """Return the members of an Accept-like field with their parameters, best first; a missing field is `*/*`."""
    members = []
    for member in (field or "*/*").split(","):
        name, *rest = (part.strip().lower() for part in member.split(";"))
        pairs = (part.partition("=") for part in rest if part)
        parameters = {key.strip(): value.strip(' "') for key, _, value in pairs}
        weight = _weight(parameters.pop("q", "1"))
        if name and weight > 0:
            members.append((weight, name, parameters))
    members.sort(key=lambda one: -one[0])  # stable: equals keep the caller's order
    return [(name, parameters) for _, name, parameters in members]


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
