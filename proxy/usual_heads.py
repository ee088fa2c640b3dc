"""Heads as nearly all of them are: what their names alone decide is worked out once, by the law itself.

The law (headers.py) is asked about each field of each head, though tools and services send the same names in the same
order again and again. Where its verdict hangs on the names alone, the law is run once on values that stand for any,
and what it made of them is remembered as a template. Every value is still looked at in every head: nothing that was
sent is remembered, and a head that a template does not fit takes the whole law.
"""

from dataclasses import dataclass, field
from itertools import compress

from proxy.headers import (
    Fields,
    for_downstream,
    for_upstream,
    has_control,
    is_accept_ours,
    is_document,
    own_fields,
    with_own,
)
from proxy.remembered import Names, by_names
from proxy.request import Request
from proxy.transport.seam import checked_head, request_head
from proxy.upstreams import Match, Upstream

_HARMLESS = frozenset({b"keep-alive", b"Keep-Alive", b"close"})
"""Values of Connection that name no field, but for one called `close`, which makes a head unusual."""
_UNUSUAL_UP = frozenset({b"via", b"close"})
_UNUSUAL_DOWN = frozenset({
    b"close", b"location", b"content-location", b"link", b"refresh", b"set-cookie", b"service-worker-allowed",
    b"speculation-rules",
})  # fmt: skip

# requests -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _RequestTemplate:
    text: bytes
    """A format: method, target, the values that go up, and the credentials if there are any."""
    goes_up: tuple[bool, ...]
    line_ends: int


@dataclass(frozen=True, slots=True)
class _RequestNames:
    """What the names of a request's fields say."""

    connection: int
    """Where Connection stands, -1 if nowhere."""
    templates: dict[tuple[bool, bool], _RequestTemplate] = field(default_factory=dict)
    """By whether the mount's Accept goes up, and whether a token is presented."""


def _request_names(names: Names) -> _RequestNames | None:
    """Return what the names of a request's fields say, in lower case; None if their values say more."""
    if not _UNUSUAL_UP.isdisjoint(names) or names.count(b"connection") > 1:
        return None
    return _RequestNames(names.index(b"connection") if b"connection" in names else -1)


class RequestHeads:
    """Writes the heads of requests to one upstream."""

    def __init__(self, upstream: Upstream, pseudonym: bytes) -> None:
        """`pseudonym` names us in Via."""
        self._upstream = upstream
        self._pseudonym = pseudonym
        self._usual = by_names(_request_names)

    def write(self, request: Request, match: Match, authorization: bytes | None) -> tuple[bytes, int]:
        """Return a head to the byte and the length of the body behind it (headers.for_upstream, seam.request_head).

        `authorization` is the whole field value or None for anonymous. Raises BadRequest, SecretError.
        """
        fields, upstream = request.fields, self._upstream
        if request.content_length is None and not request.is_chunked and not upstream.headers:
            names, values = zip(*fields, strict=True) if fields else ((), ())
            said = self._usual[names]
            if said is not None and (said.connection < 0 or values[said.connection] in _HARMLESS):
                kind = is_accept_ours(upstream, request.method, fields, match.query), authorization is not None
                template = said.templates.get(kind)
                if template is None:
                    template = said.templates[kind] = self._template(names, *kind)
                sent = [request.method.encode("ascii"), match.target, *compress(values, template.goes_up)]
                if authorization is not None:
                    sent.append(authorization)
                return checked_head(template.text % tuple(sent), template.line_ends), 0
        law = for_upstream(
            fields,
            match,
            request.method,
            authorization=authorization,
            content_length=request.content_length,
            is_chunked=request.is_chunked,
            pseudonym=self._pseudonym,
        )
        return request_head(request.method.encode("ascii"), match.target, law)

    def _template(self, names: Names, is_ours: bool, has_token: bool) -> _RequestTemplate:
        """Run the law on values that stand for any. Raises BadRequest."""
        any_values = [b"any %d" % place for place in range(len(names))]
        token = b"any token"
        law = with_own(
            [*zip(names, any_values, strict=True)],
            self._upstream,
            own_fields(self._upstream, is_accept_ours=is_ours),
            authorization=token if has_token else None,
            content_length=None,
            is_chunked=False,
            pseudonym=self._pseudonym,
        )
        open_ended = [*any_values, token]
        lines = [
            _escaped(name) + b": " + (b"%b" if any(value is one for one in open_ended) else _escaped(value))
            for name, value in law
        ]
        goes_up = tuple(any(value is one for _, value in law) for one in any_values)
        return _RequestTemplate(b"\r\n".join([b"%b %b HTTP/1.1", *lines, b"", b""]), goes_up, len(lines) + 2)


def _escaped(text: bytes) -> bytes:
    """Return a text as it stands for itself in a format: names may hold a percent sign (RFC 9110 5.6.2)."""
    return text.replace(b"%", b"%%")


# answers --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _AnswerTemplate:
    goes_down: tuple[bool, ...]
    names: Names
    """Of those that go down, in lower case."""
    ours: Fields


@dataclass(frozen=True, slots=True)
class _AnswerNames:
    """What the names of an answer's fields say."""

    connection: int
    content_type: int
    """Where these stand, -1 if nowhere."""
    templates: dict[tuple[bool, bool], _AnswerTemplate] = field(default_factory=dict)
    """By whether a browser might show it as a page, and whether its mount shares an origin with others."""


def _answer_names(names: Names) -> _AnswerNames | None:
    """Return what the names of an answer's fields say, as they were sent; None if their values say more."""
    lowered = [name.lower() for name in names]
    if not _UNUSUAL_DOWN.isdisjoint(lowered) or max(map(lowered.count, (b"connection", b"content-type"))) > 1:
        return None
    connection, content_type = (
        lowered.index(one) if one in lowered else -1 for one in (b"connection", b"content-type")
    )
    return _AnswerNames(connection, content_type)


class AnswerHeads:
    """Says what of the answers of one upstream a caller may see."""

    def __init__(self) -> None:
        self._usual = by_names(_answer_names)

    def fields(self, fields: Fields, match: Match, local_origin: bytes) -> Fields | None:
        """Return the fields of an upstream's answer as the caller may see them, just as `for_downstream` does.

        Raises UpstreamInvalid as it does.
        """
        names, values = zip(*fields, strict=True) if fields else ((), ())
        said = self._usual[names]
        if (
            said is None
            or (said.connection >= 0 and values[said.connection] not in _HARMLESS)
            or has_control(b" ".join(values))
        ):
            return for_downstream(fields, match, local_origin)
        kind = is_document([values[said.content_type]] if said.content_type >= 0 else []), bool(match.mount)
        template = said.templates.get(kind)
        if template is None:
            made = _answer_template(names, said, kind[0], match)
            if made is None:
                return None
            template = said.templates[kind] = made
        return [*zip(template.names, compress(values, template.goes_down), strict=True), *template.ours]


def _answer_template(names: Names, said: _AnswerNames, is_page: bool, match: Match) -> _AnswerTemplate | None:
    """Run the law on values that stand for any; None if it holds a name that may not be relayed."""
    any_values = [b"any %d" % place for place in range(len(names))]
    if said.content_type >= 0:
        any_values[said.content_type] = b"text/html; any" if is_page else b"text/plain; any"
    law = for_downstream([*zip(names, any_values, strict=True)], match, b"http://any")
    if law is None:
        return None
    goes_down = tuple(any(value is one for _, value in law) for one in any_values)
    theirs = sum(goes_down)
    return _AnswerTemplate(goes_down, tuple(name for name, _ in law[:theirs]), law[theirs:])
