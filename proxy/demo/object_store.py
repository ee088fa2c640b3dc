"""The dataset files, like S3: one bucket, whose objects are read by signed links and listed by signed requests."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote as url_quote
from urllib.parse import quote_plus, urlencode
from xml.sax.saxutils import escape

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from proxy.clock import Clock
from proxy.demo.signatures import Gate, Keys, Refused

BUCKET = "demo-store"
_PREFIX = "datasets/"
_WRITTEN = datetime(2024, 11, 1, 2, 3, 4, tzinfo=UTC)


class Unsatisfiable(Refused):
    """A range that lies behind the end of what is there."""

    def __init__(self, size: int) -> None:
        super().__init__(416, "InvalidRange", "The requested range is not satisfiable")
        self.size = size


@dataclass(frozen=True)
class Stored:
    """One object of the bucket."""

    content: bytes

    @cached_property
    def etag(self) -> str:
        return '"' + hashlib.md5(self.content, usedforsecurity=False).hexdigest() + '"'


class ObjectStore:
    """One bucket at `/demo-store`, an ASGI application: GET with a presigned query or SigV4, ListObjectsV2."""

    def __init__(self, clock: Clock, items: Iterable[Mapping[str, Any]]) -> None:
        """`items` are the registry's records: each dataset holds its own as metadata.json, as upstream."""
        self.gate = Gate(clock)
        folder = Path(str(files("proxy.demo").joinpath("data", "store")))
        self.objects: dict[str, Stored] = {
            _PREFIX + place.relative_to(folder).as_posix(): Stored(place.read_bytes())
            for place in folder.rglob("*")
            if place.is_file()
        }
        for item in items:
            record = json.dumps(item["collection_format"], indent=1, ensure_ascii=False)
            self.objects[f"{item['s3']['path']}metadata.json"] = Stored(record.encode())
        self._app = Starlette(
            routes=[
                Route(f"/{BUCKET}", self._bucket, methods=["GET"]),
                Route(f"/{BUCKET}/", self._bucket, methods=["GET"]),
                Route(f"/{BUCKET}/{{key:path}}", self._object, methods=["GET"]),
            ],
        )
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def presign(self, key: str, seconds: int) -> str:
        """Return the path and signed query that read `key`, to be put behind the store's origin."""
        return f"{BUCKET}/{url_quote(key)}?{urlencode(self.gate.presigned(key, seconds))}"

    def keys(self, prefix: str, seconds: float) -> Keys:
        """Return temporary keys that read what lies below `prefix`."""
        return self.gate.issue(prefix, seconds)

    def holds(self, key: str) -> bool:
        """Return whether there is such an object."""
        return key in self.objects

    def content(self, key: str) -> bytes:
        """Return an object's bytes; raises KeyError."""
        return self.objects[key].content

    async def _bucket(self, request: Request) -> Response:
        """Answer ListObjectsV2, of any prefix: the keys of one dataset list the whole bucket, as upstream's do."""
        try:
            self._let_in(request, None)
        except Refused as refused:
            return _error(refused)
        asked = request.query_params
        if asked.get("list-type") != "2":
            return _error(Refused(501, "NotImplemented", "Only ListObjectsV2 is implemented here."))
        prefix, after = asked.get("prefix", ""), asked.get("continuation-token", "")
        delimiter = asked.get("delimiter", "")
        size = int(asked.get("max-keys", "1000"))
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        shown, more = keys[:size], len(keys) > size
        shape = quote_plus if asked.get("encoding-type") == "url" else escape
        folders = sorted({_folder(key, prefix, delimiter) for key in shown if delimiter} - {""})
        plain = [key for key in shown if not delimiter or not _folder(key, prefix, delimiter)]
        contents = "".join(
            f"<Contents><Key>{shape(key)}</Key><LastModified>{_WRITTEN:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            f"<ETag>{escape(self.objects[key].etag)}</ETag><Size>{len(self.objects[key].content)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key in plain
        )
        common = "".join(f"<CommonPrefixes><Prefix>{shape(one)}</Prefix></CommonPrefixes>" for one in folders)
        encoding = "<EncodingType>url</EncodingType>" if asked.get("encoding-type") == "url" else ""
        following = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{shape(prefix)}</Prefix><KeyCount>{len(shown)}</KeyCount>"
            f"<MaxKeys>{size}</MaxKeys>{encoding}<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
            f"{contents}{common}{following}</ListBucketResult>"
        )
        return Response(body, media_type="application/xml")

    async def _object(self, request: Request) -> Response:
        key = request.path_params["key"]
        try:
            self._let_in(request, key)
            return _answer(request, key, self._stored(key))
        except Refused as refused:
            return _error(refused)

    def _stored(self, key: str) -> Stored:
        if key not in self.objects:
            raise Refused(404, "NoSuchKey", "The specified key does not exist.")
        return self.objects[key]

    def _let_in(self, request: Request, key: str | None) -> None:
        raw_path = request.scope["raw_path"].decode("ascii").partition("?")[0]
        query = request.scope["query_string"].decode("ascii")
        self.gate.check(request.method, raw_path, query, request.headers, key)


def _folder(key: str, prefix: str, delimiter: str) -> str:
    inner, mark, _ = key.removeprefix(prefix).partition(delimiter)
    return prefix + inner + delimiter if mark else ""


def _answer(request: Request, key: str, stored: Stored) -> Response:
    """Return an object, a range of it, or what its conditions come to (RFC 9110 13.2.2)."""
    fields = {
        "ETag": stored.etag,
        "Last-Modified": format_datetime(_WRITTEN, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"attachment; filename={url_quote(key)}",
    }
    asked = request.headers
    if "if-match" in asked and not _names(asked["if-match"], stored.etag):
        raise Refused(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    if "if-match" not in asked and "if-unmodified-since" in asked and not _is_since(asked["if-unmodified-since"]):
        raise Refused(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    if "if-none-match" in asked:
        if _names(asked["if-none-match"], stored.etag):
            return Response(status_code=304, headers=fields)
    elif _is_since(asked.get("if-modified-since")):
        return Response(status_code=304, headers=fields)
    size = len(stored.content)
    wanted = _range(asked.get("range", ""), size)
    if wanted is None:
        return Response(stored.content, media_type="binary/octet-stream", headers=fields)
    start, end = wanted
    if start >= size:
        raise Unsatisfiable(size)
    fields["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return Response(stored.content[start:end], 206, fields, "binary/octet-stream")


def _names(field: str, etag: str) -> bool:
    return field.strip() == "*" or etag in (one.strip() for one in field.split(","))


def _is_since(field: str | None) -> bool:
    """Return whether nothing was written after this date; False for one that cannot be read."""
    try:
        return parsedate_to_datetime(field or "") >= _WRITTEN
    except ValueError:
        return False


def _range(field: str, size: int) -> tuple[int, int] | None:
    """Return start and end of one range; None if there is none, or several, which S3 does not know."""
    unit, _, spec = field.partition("=")
    first, dash, last = spec.strip().partition("-")
    if unit != "bytes" or not dash or "," in spec or not (first or last):
        return None
    if not (first or "0").isdecimal() or not (last or "0").isdecimal():
        return None
    if first and last and int(last) < int(first):
        return None  # not a range at all (RFC 9110 14.1.2)
    if not first:
        return (max(size - int(last), 0), size) if int(last) else (size, size)
    return int(first), min(int(last) + 1, size) if last else size


def _error(refused: Refused) -> Response:
    body = f"<Error><Code>{refused.code}</Code><Message>{escape(refused.message)}</Message></Error>"
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'
    fields = {"Content-Range": f"bytes */{refused.size}"} if isinstance(refused, Unsatisfiable) else {}
    return Response(text, refused.status, fields, media_type="application/xml")
