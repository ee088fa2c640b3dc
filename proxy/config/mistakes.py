"""Pydantic's errors as sentences for people, with the nearest valid name."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from enum import EnumType
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from proxy.config.models import RESERVED, Table
from proxy.config.values import Finding, Key

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

AnyModel = TypeVar("AnyModel", bound=Table)

_MUST_BE = {
    "string": "text in quotes",
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "list": 'a list of texts, such as ["…"]',
    "dict": "a table",
    "path": "a path in quotes",
}
_UNIONS = {
    "listen": 'must be a port from 0 to 65535 or "host:port", such as 8411 or "127.0.0.1:8411"',
    "extra": 'must be text or a list of texts, such as ["…"]',
}


def nearest(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return `; did you mean X?`, or nothing if no known name is near; `prefix` is what all names share."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {prefix}{found[0]}?" if found else ""


def validated(
    model: type[AnyModel], said: object, path: Key, context: Mapping[str, Any]
) -> tuple[AnyModel, list[Finding]]:
    """Return `said` as a `model`, and what is wrong with it; `path` is where it stands.

    What is wrong is left out of the model, so that the rest can be checked against other tables in the same run.
    """
    if not isinstance(said, dict):
        return model.model_validate(_needed(model)), [(path, "must be a table")]
    try:
        return model.model_validate(said, context=dict(context)), []
    except ValidationError as error:
        found = error.errors(include_url=False)
    sentences: dict[Key, str] = {}
    for one in found:
        key = _key(one["loc"])
        sentences.setdefault(key, _sentence(one, key, model, path))
    wrong = {key[0] for key in sentences}
    rest = {key: value for key, value in said.items() if key not in wrong}
    return (
        model.model_validate(_needed(model) | rest, context=dict(context)),
        [(path + key, sentence) for key, sentence in sentences.items()],
    )


def _needed(model: type[Table]) -> dict[str, str]:
    """Return a stand-in for every key that must be there; it never leaves a reading that ends in ConfigError."""
    return {key: "https://missing.invalid" for key, info in model.model_fields.items() if info.is_required()}


def _key(loc: tuple[int | str, ...]) -> Key:
    """Return the part of pydantic's location that a person wrote: no list index, no member of a union."""
    depth = 2 if len(loc) > 1 and loc[0] in ("headers", "extra") else 1
    return tuple(str(part) for part in loc[:depth])


def _sentence(error: "ErrorDetails", key: Key, model: type[Table], path: Key) -> str:
    kind = error["type"]
    if kind == "extra_forbidden":
        return _unknown(key[-1], model, path)
    if kind == "missing":
        return "is missing"
    if kind in ("enum", "literal_error"):
        return _choice(error, model.model_fields[key[0]].annotation)
    if key[0] in _UNIONS and kind != "value_error":
        return _UNIONS[key[0]]
    if kind == "value_error":
        return str(error["ctx"]["error"])
    what = _MUST_BE.get(kind.partition("_")[0])
    return f"must be {what}" if what else "is not valid"


def _unknown(key: str, model: type[Table], path: Key) -> str:
    if key in RESERVED.get(path[0], ()):
        return "is not available in this version yet; remove it"
    return "is no known key" + nearest(key, model.model_fields)


def _choice(error: "ErrorDetails", annotation: object) -> str:
    choices = list(_choices(annotation))
    said = error["input"]
    return f"must be one of {', '.join(choices)}" + (nearest(said.lower(), choices) if isinstance(said, str) else "")


def _choices(annotation: object) -> Iterator[str]:
    members = annotation if isinstance(annotation, EnumType) else getattr(annotation, "__args__", ())  # a Literal's
    yield from (str(one) for one in members)
