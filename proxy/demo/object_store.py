"""The dataset files behind presigned URLs, like S3: the signature in the query is the credential."""

import base64
import hashlib
import hmac
import secrets
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote, urlencode
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from proxy.clock import Clock

_PREFIX = "datasets/"


class ObjectStore:
    """One bucket; GET with a signed query in the style of SigV2, nothing else."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._folder = Path(str(files("proxy.demo").joinpath("data", "store"))).resolve()

    def presign(self, key: str, seconds: int) -> str:
        """Return the key and signed query, to be put behind the store's base URL."""
        expires = int(self._clock.wall()) + seconds
        query = {"AWSAccessKeyId": "DEMO", "Signature": self._signature(key, expires), "Expires": expires}
        return f"{quote(key)}?{urlencode(query)}"

    def file(self, key: str, *, as_attachment: bool = False) -> Response:
        """Return a file of the bucket; Range and If-Range are honoured, ETag is sent."""
        path = self._folder / key.removeprefix(_PREFIX)
        if not key.startswith(_PREFIX) or self._folder not in path.resolve().parents or not path.is_file():
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        named = {"Content-Disposition": f"attachment; filename={quote(key)}"} if as_attachment else None
        kind = "binary/octet-stream" if as_attachment else "text/csv; charset=utf-8"
        return FileResponse(path, media_type=kind, headers=named)

    async def get(self, request: Request) -> Response:
        """Answer a request for `{key}` with its presigned query."""
        key = request.path_params["key"]
        return self._refusal(request, key) or self.file(key, as_attachment=True)

    def _refusal(self, request: Request, key: str) -> Response | None:
        if "authorization" in request.headers:
            # what S3 says to a client that sends its bearer token along: a proxy must never do that
            return _error(400, "InvalidArgument", "Only one auth mechanism allowed.")
        expires = request.query_params.get("Expires", "")
        signature = request.query_params.get("Signature", "")
        if request.method != "GET" or not expires.isdecimal():
            return _error(403, "AccessDenied", "Access Denied")  # what signs a GET does not sign a HEAD
        if not hmac.compare_digest(signature.encode(), self._signature(key, int(expires)).encode()):
            return _error(403, "SignatureDoesNotMatch", "The request signature does not match.")
        if int(expires) <= self._clock.wall():
            return _error(403, "AccessDenied", "Request has expired")
        return None

    def _signature(self, key: str, expires: int) -> str:
        digest = hmac.new(self._secret, f"GET\n{key}\n{expires}".encode(), hashlib.sha256).digest()
        return base64.b64encode(digest).decode("ascii")


def _error(status: int, code: str, message: str) -> Response:
    body = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    return Response(f'<?xml version="1.0" encoding="UTF-8"?>\n{body}', status, media_type="application/xml")
