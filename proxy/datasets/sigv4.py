"""AWS Signature Version 4 for reading from S3: credentials become fields, or a link that carries them. Pure.

Why not a library. obstore (15 MB) refuses to list a whole dataset that holds one key such as `a//b`, and aborted the
interpreter's exit in 6 of 25 asynchronous runs (its threads still call into Python; by its synchronous calls in none).
botocore is 31 MB and synchronous. Both bring connections of their own, with other rules on certificates and outbound
proxies than ours. What is needed here is forty lines of HMAC, which the tests hold to botocore's own signer.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote

from proxy.headers import Fields

_ALGORITHM = "AWS4-HMAC-SHA256"
_EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Credentials:
    """Temporary keys to one dataset's files."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expiry: datetime
    """Aware; the issuer's word, which only a clock that is right can use."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bucket answers."""

    scheme: str
    authority: str
    """Value of Host."""
    base: str
    """Path before the key, beginning and ending with a slash."""
    region: str

    def path(self, key: str) -> str:
        """Return the raw path of a key: every byte but the unreserved and the slash encoded, once, as S3 signs it."""
        return self.base + quote(key, safe="/~")


def signed_fields(credentials: Credentials, place: Place, path: str, query: str, now: float) -> Fields:
    """Return the fields of a GET of `path` and a canonical `query` (see `canonical`), signed at `now`."""
    moment = _moment(now)
    named = [
        ("host", place.authority),
        ("x-amz-content-sha256", _EMPTY),
        ("x-amz-date", moment),
        ("x-amz-security-token", credentials.session_token),
    ]
    names = ";".join(name for name, _ in named)
    request = "\n".join(["GET", path, query, *(f"{name}:{value}" for name, value in named), "", names, _EMPTY])
    scope = _scope(moment, place.region)
    signature = _signature(credentials, place.region, moment, request)
    authorization = (
        f"{_ALGORITHM} Credential={credentials.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return [(name.encode(), value.encode("ascii")) for name, value in [*named, ("authorization", authorization)]]


def signed_link(credentials: Credentials, place: Place, key: str, now: float, seconds: int) -> str:
    """Return a URL by which anybody can GET `key` for `seconds` from `now`, or until the credentials end."""
    moment, path = _moment(now), place.path(key)
    query = canonical(
        [
            ("X-Amz-Algorithm", _ALGORITHM),
            ("X-Amz-Credential", f"{credentials.access_key_id}/{_scope(moment, place.region)}"),
            ("X-Amz-Date", moment),
            ("X-Amz-Expires", str(seconds)),
            ("X-Amz-Security-Token", credentials.session_token),
            ("X-Amz-SignedHeaders", "host"),
        ]
    )
    request = "\n".join(["GET", path, query, f"host:{place.authority}", "", "host", "UNSIGNED-PAYLOAD"])
    signature = _signature(credentials, place.region, moment, request)
    return f"{place.scheme}://{place.authority}{path}?{query}&X-Amz-Signature={signature}"


def canonical(parameters: Sequence[tuple[str, str]]) -> str:
    """Return a query in the one spelling that is signed, which is also the one to send."""
    encoded = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in parameters)
    return "&".join(f"{name}={value}" for name, value in encoded)


def _moment(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")


def _scope(moment: str, region: str) -> str:
    return f"{moment[:8]}/{region}/s3/aws4_request"


def _signature(credentials: Credentials, region: str, moment: str, request: str) -> str:
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join([_ALGORITHM, moment, _scope(moment, region), digest])
    key = ("AWS4" + credentials.secret_access_key).encode()
    for part in (moment[:8], region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
