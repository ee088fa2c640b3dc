"""An SDMX web service like .Stat Suite's NSI: structures and data below `/rest`, its table of who may read what.

| token | `allow_anonymous` | without |
|---|---|---|
| none | 200, public data only | 401 |
| good | 200, all data | 200, all data |
| expired, foreign, for another audience | 401 | 401 |

So a proxy that falls back to no token gets less data and a 200. Targets are read from the raw path: `+ , @ : . ..` and
their percent-encoded forms arrive as the caller meant them.
"""

import re
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qsl, unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from proxy.clock import Clock
from proxy.demo import sdmx_formats
from proxy.demo.bearer import InvalidToken, Verifier, authorization
from proxy.demo.negotiation import Wanted, data_format, language_of, structure_format, takes_gzip
from proxy.demo.sdmx import BadQuery, Flow, Observation, fits, flows, is_free, select

AUDIENCE = "dotstat-api"

_PIECE = 8192
_STRUCTURES = frozenset({"dataflow", "datastructure", "codelist"})


class _Answer(Exception):
    """An early answer, raised where its reason is found."""

    def __init__(self, status: int, text: str = "", fields: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.response = Response(text or None, status, fields, "text/plain; charset=utf-8" if text else None)


class NsiService:
    """The service, an ASGI application."""

    def __init__(
        self,
        issuer: str,
        *,
        clock: Clock,
        audience: str = AUDIENCE,
        allow_anonymous: bool = True,
        culture_separators: bool = False,
        old_statuses: bool = False,
    ) -> None:
        """`issuer` is the realm's URL.

        `culture_separators` lets Accept-Language turn CSV into `;` with decimal commas (the default of .Stat's image).
        `old_statuses` answers no result with 404 and a semantic error with 403 (NSI before 10), not with 204 and 422.
        """
        self._verifier = Verifier(issuer, clock=clock, audience=audience)
        self._clock = clock
        self._allow_anonymous = allow_anonymous
        self._culture_separators = culture_separators
        self._old_statuses = old_statuses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except _Answer as answer:
            response = answer.response
        except BadQuery as exc:
            text = f"Semantic error: {exc}"
            response = Response(text, 403 if self._old_statuses else 422, media_type="text/plain; charset=utf-8")
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        segments = [unquote(one) for one in request.scope["raw_path"].decode("latin-1").split("/")[1:]]
        if segments == ["health"]:
            details = {"version": "8.19.0", "name": "bearerproxy demo"}
            return JSONResponse({"service": {"status": "Healthy", "details": details}})
        if segments[:1] != ["rest"]:
            raise _Answer(404)
        knows_caller = await self._knows_caller(request)
        shown = [flow for flow in flows() if knows_caller or flow.is_public]
        asked = dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True))
        match segments[1:]:
            case [kind, *names] if kind in _STRUCTURES:
                _allow(request, "GET", "HEAD")
                return self._structure(request, kind, names, asked, shown)
            case ["data", flow_ref, "body"] if request.method == "POST":
                form = await request.form()
                return self._data(request, _named(shown, flow_ref), str(form.get("key", "all")), asked, knows_caller)
            case ["data", flow_ref, *rest] if len(rest) <= 2:
                _allow(request, "GET", "HEAD")
                return self._data(request, _named(shown, flow_ref), rest[0] if rest else "all", asked, knows_caller)
            case ["v2" | "V2", "data", "dataflow", agency, flow_id, version, *rest] if len(rest) <= 1:
                _allow(request, "GET", "HEAD")
                flow = _named(shown, f"{agency},{flow_id},{version}")
                return self._data(request, flow, rest[0] if rest else "*", asked, knows_caller)
        raise _Answer(404)

    async def _knows_caller(self, request: Request) -> bool:
        """Return whether a good token was presented. Raises _Answer 401."""
        presented = authorization(request.scope["headers"])
        if presented is None or presented[0] != "bearer":
            if self._allow_anonymous:
                return False
            raise _Answer(401, fields={"WWW-Authenticate": "Bearer"})
        try:
            await self._verifier.verify(presented[1])
        except InvalidToken as exc:
            # what ASP.NET's JwtBearer says; anonymous access is no way out for a bad token
            challenge = f'Bearer error="invalid_token", error_description="{exc}"'
            raise _Answer(401, fields={"WWW-Authenticate": challenge}) from None
        return True

    def _structure(
        self, request: Request, kind: str, names: Sequence[str], asked: dict[str, str], shown: Sequence[Flow]
    ) -> Response:
        agency, artefact, version = [*names[:3], *["all"] * (3 - len(names[:3]))]
        found = [flow for flow in shown if _holds(flow, kind, agency, artefact, version)]
        if not found:
            raise _Answer(404, "No Results Found")
        shows = {kind}
        if asked.get("references", "none") in {"all", "children", "descendants"} and kind != "codelist":
            shows |= {"datastructure", "codelist"}
        wanted = structure_format(asked.get("format"), request.headers.get("accept"))
        if wanted is None:
            raise _Answer(406)
        if wanted.writer == "json":
            language = language_of(request.headers.get("accept-language"))
            pieces = sdmx_formats.structure_json(found, frozenset(shows), language, self._prepared())
        else:
            pieces = sdmx_formats.structure_xml(found, frozenset(shows), self._prepared())
        return self._streamed(request, pieces, wanted)

    def _data(self, request: Request, flow: Flow, key: str, asked: dict[str, str], knows_caller: bool) -> Response:
        rows = [one for one in select(flow, key, asked) if knows_caller or is_free(flow, one)]
        if not rows:
            raise _Answer(404, "No Results Found") if self._old_statuses else _Answer(204)
        wanted = data_format(asked.get("format"), request.headers.get("accept"))
        if wanted is None:
            raise _Answer(406)
        rows, content_range = _ranged(rows, request.headers.get("x-range") or request.headers.get("range"))
        response = self._streamed(request, self._pieces(request, flow, rows, wanted), wanted)
        response.headers["Accept-Ranges"] = "values"
        if content_range is not None:
            response.status_code = 206
            response.headers["Content-Range"] = content_range
        if wanted.is_file:
            stamp = datetime.fromtimestamp(self._clock.wall(), UTC).strftime("%Y-%m-%d %H-%M-%S")
            name = f"{flow.agency},{flow.id},{flow.version},filtered,{stamp}.csv"
            response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return response

    def _pieces(self, request: Request, flow: Flow, rows: Sequence[Observation], wanted: Wanted) -> Iterator[str]:
        language = language_of(request.headers.get("accept-language"))
        if wanted.writer == "csv":
            is_french = self._culture_separators and language == "fr"
            separator, decimal = (";", ",") if is_french else (",", ".")
            style = sdmx_formats.CsvStyle(wanted.has_labels, language, separator, decimal, wanted.version)
            return sdmx_formats.csv_text(flow, rows, style)
        if wanted.writer == "json":
            return sdmx_formats.json_text(flow, rows, language, self._prepared())
        if wanted.writer == "specific":
            return sdmx_formats.specific_xml(flow, rows, self._prepared())
        return sdmx_formats.generic_xml(flow, rows, self._prepared())

    def _streamed(self, request: Request, pieces: Iterator[str], wanted: Wanted) -> Response:
        """Return an answer without Content-Length, compressed if the caller takes that, with NSI's fields."""
        headers = {
            "Vary": "Accept,Accept-Encoding,Accept-Language",
            "Cache-Control": "no-store,no-cache",
            "Pragma": "no-cache",
            "api-supported-versions": "1",
            "Set-Cookie": "demo-affinity=node-1; Path=/; HttpOnly",
        }
        body = _encoded(pieces)
        if takes_gzip(request.headers.get("accept-encoding")):
            headers["Content-Encoding"] = "gzip"
            body = _gzipped(body)
        return StreamingResponse(body, headers=headers, media_type=wanted.media_type)

    def _prepared(self) -> str:
        return datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(timespec="seconds")


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise _Answer(405, fields={"Allow": ", ".join(methods)})


def _named(shown: Sequence[Flow], reference: str) -> Flow:
    """Return the flow that `AGENCY,ID,VERSION` means; agency and version may be missing."""
    parts = reference.split(",")
    agency, flow_id, version = ("all", parts[0], "latest") if len(parts) == 1 else [*parts, "latest"][:3]
    for flow in shown:
        if fits(flow, agency, flow_id, version):
            return flow
    if any(fits(flow, agency, flow_id, version) for flow in flows()):
        raise _Answer(403, "You are not allowed to read this dataflow.")
    raise _Answer(404, f"Could not find dataflow {reference}")


def _holds(flow: Flow, kind: str, agency: str, artefact: str, version: str) -> bool:
    ids = {"dataflow": [flow.id], "datastructure": [flow.structure]}
    known = ids.get(kind, [component.codelist for component in flow.components])
    return fits(flow, agency, "all", version) and (artefact in {"all", "*"} or artefact in known)


_VALUES = re.compile(r"values=(\d+)-(\d*)", re.IGNORECASE)


def _ranged(rows: list[Observation], asked: str | None) -> tuple[list[Observation], str | None]:
    """Return the rows of `values=a-b`, both ends included, and Content-Range; another unit is ignored."""
    found = _VALUES.fullmatch(asked.strip()) if asked else None
    if found is None:
        return rows, None
    first = int(found[1])
    last = min(int(found[2]), len(rows) - 1) if found[2] else len(rows) - 1
    if first > last:
        raise _Answer(416, fields={"Content-Range": f"values */{len(rows)}"})
    return rows[first : last + 1], f"values {first}-{last}/{len(rows)}"


async def _encoded(pieces: Iterator[str]) -> AsyncIterator[bytes]:
    held: list[str] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _PIECE:
            yield "".join(held).encode()
            held, size = [], 0
    yield "".join(held).encode()


async def _gzipped(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    gzip = zlib.compressobj(wbits=31)
    async for piece in pieces:
        yield gzip.compress(piece)
    yield gzip.flush()
