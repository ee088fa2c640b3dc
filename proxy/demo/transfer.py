"""A loading service like .Stat Suite's Transfer: an upload, then polling. Always with a token.

An upload is counted and hashed as it arrives and never held, so that its size does not matter.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from proxy.clock import Clock
from proxy.demo.bearer import InvalidToken, Verifier, authorization

if TYPE_CHECKING:
    from hashlib import _Hash

    from python_multipart.multipart import MultipartCallbacks

_STEPS = ("Queued", "InProgress", "Completed")
_FIELD_LIMIT = 65_536
_FILE_TYPES = frozenset({"text/csv", "text/plain", "text/xml", "application/xml", "application/zip", ""})


@dataclass(slots=True)
class Import:
    """One upload that arrived whole."""

    number: int
    dataspace: str
    filename: str
    size: int
    """Bytes of the file part."""
    sha256: str
    username: str
    started: float
    polls: int = 0


class TransferService:
    """The service, an ASGI application; its paths stand below `/2`, as in .Stat Suite."""

    def __init__(self, issuer: str, *, clock: Clock, audience: str = "dotstat-api") -> None:
        """`issuer` is the realm's URL."""
        self._verifier = Verifier(issuer, clock=clock, audience=audience)
        self._clock = clock
        self.imports: list[Import] = []
        """Uploads that arrived whole, the oldest first; a broken one leaves nothing."""
        routes = [
            Route("/health", _health),
            Route("/import/sdmxFile", self._import, methods=["POST"]),
            Route("/status/request", self._status, methods=["POST"]),
        ]
        self._app = Starlette(routes=[Mount("/2", routes=routes)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _import(self, request: Request) -> Response:
        username = await self._username(request)
        if username is None:
            return _unauthorised()
        form = await _read(request)
        if form is None:
            return _failed("The request is not a well-formed multipart/form-data.")
        if not form.fields.get("dataspace"):
            return _failed("The dataspace is required.")
        upload = form.upload
        if upload is None and not form.fields.get("filepath"):
            return _failed("Either file or filepath is required.")
        if upload is not None and upload.content_type not in _FILE_TYPES:
            return _failed(f"The content type {upload.content_type} of the file is not supported.")
        upload = upload or _Upload(form.fields["filepath"], "")
        number = len(self.imports) + 1
        self.imports.append(
            Import(
                number,
                form.fields["dataspace"],
                upload.filename,
                upload.size,
                upload.sha256.hexdigest(),
                username,
                self._clock.wall(),
            )
        )
        return JSONResponse(
            {"success": True, "message": f"The import request with ID {number} was successfully registered."}
        )

    async def _status(self, request: Request) -> Response:
        """Each poll finds the import one step further."""
        if await self._username(request) is None:
            return _unauthorised()
        form = await _read(request)
        fields = form.fields if form is not None else {}
        found = next((one for one in self.imports if str(one.number) == fields.get("id")), None)
        if found is None or found.dataspace != fields.get("dataspace"):
            return JSONResponse({"success": False, "message": "The request was not found."}, 404)
        step = _STEPS[min(found.polls, len(_STEPS) - 1)]
        found.polls += 1
        is_over = step == _STEPS[-1]
        message = f"{found.filename}: {found.size} bytes received, sha256 {found.sha256}."
        return JSONResponse(
            {
                "id": found.number,
                "userEmail": found.username,
                "destinationDataSpace": found.dataspace,
                "executionStatus": step,
                "outcome": "Success" if is_over else None,
                "executionStart": _moment(found.started),
                "executionEnd": _moment(self._clock.wall()) if is_over else None,
                "logs": [{"level": "NOTICE", "message": message}],
            }
        )

    async def _username(self, request: Request) -> str | None:
        """Return who presented a good token, or None."""
        presented = authorization(request.scope["headers"])
        if presented is None or presented[0] != "bearer":
            return None
        try:
            claims = await self._verifier.verify(presented[1])
        except InvalidToken:
            return None
        return str(claims.get("email") or claims["preferred_username"])


@dataclass(slots=True)
class _Upload:
    """A file part as it flows by."""

    filename: str
    content_type: str
    size: int = 0
    sha256: "_Hash" = field(default_factory=hashlib.sha256)


@dataclass(slots=True)
class _Form:
    """What a form held, small fields as text and the file as its size and hash."""

    fields: dict[str, str] = field(default_factory=dict)
    upload: _Upload | None = None


class _Parts:
    """The parser's callbacks: collects small fields, counts and hashes the file."""

    def __init__(self) -> None:
        self.form = _Form()
        self.is_complete = False
        self._header = (b"", b"")
        self._name = ""
        self._held = b""
        self._into_file = False

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_begin": self._header_begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._all,
        }

    def _begin(self) -> None:
        self._name, self._held, self._into_file = "", b"", False

    def _header_begin(self) -> None:
        self._header = (b"", b"")

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], b"")

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def _header_end(self) -> None:
        name, value = self._header[0].lower(), self._header[1]
        if name == b"content-disposition":
            _, options = parse_options_header(value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            filename = options.get(b"filename")
            if filename is not None and self._name == "file":
                self._into_file = True
                self.form.upload = _Upload(filename.decode("utf-8", "replace"), "")
        elif name == b"content-type" and self._into_file and self.form.upload is not None:
            self.form.upload.content_type = value.split(b";")[0].strip().lower().decode("latin-1")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._into_file and self.form.upload is not None:
            self.form.upload.size += end - start
            self.form.upload.sha256.update(memoryview(data)[start:end])
        elif len(self._held) < _FIELD_LIMIT:
            self._held += data[start:end]

    def _end(self) -> None:
        if not self._into_file:
            self.form.fields[self._name] = self._held.decode("utf-8", "replace")

    def _all(self) -> None:
        self.is_complete = True


async def _read(request: Request) -> _Form | None:
    """Read a multipart body as it comes; None if it is not one. Raises ClientDisconnect if the caller leaves."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        return None
    parts = _Parts()
    parser = MultipartParser(options[b"boundary"], parts.callbacks())
    try:
        async for piece in request.stream():
            parser.write(piece)
    except MultipartParseError:
        return None
    return parts.form if parts.is_complete else None


async def _health(_: Request) -> Response:
    return JSONResponse({"service": {"status": "Healthy", "details": {"version": "2.0.0", "name": "bearerproxy demo"}}})


def _failed(message: str) -> Response:
    return JSONResponse({"success": False, "message": message}, 400)


def _unauthorised() -> Response:
    return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})


def _moment(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds")
