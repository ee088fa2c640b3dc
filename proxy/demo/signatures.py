"""Who may read an object: a presigned query in the style of SigV2, or a SigV4 signature with temporary keys."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

from proxy.clock import Clock

_SKEW_SECONDS = 900.0


class Refused(Exception):
    """The store refuses: status, code and message as S3 says them."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Keys:
    """Temporary keys, which read what lies below `prefix` and list the whole bucket, as upstream's do."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    prefix: str
    ends_at: float
    """Seconds since the epoch."""


@dataclass(slots=True)
class Gate:
    """Signs, and lets in what is signed."""

    clock: Clock
    issued: dict[str, Keys] = field(default_factory=dict)
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def issue(self, prefix: str, seconds: float) -> Keys:
        """Return new keys that end after `seconds`."""
        keys = Keys(
            f"ASIADEMO{len(self.issued):08}",
            secrets.token_urlsafe(30),
            secrets.token_urlsafe(90),
            prefix,
            self.clock.wall() + seconds,
        )
        self.issued[keys.access_key_id] = keys
        return keys

    def presigned(self, key: str, seconds: int) -> dict[str, str]:
        """Return the query that reads `key` for so many seconds."""
        expires = int(self.clock.wall()) + seconds
        return {"AWSAccessKeyId": "DEMO", "Signature": self._presignature(key, expires), "Expires": str(expires)}

    def check(self, method: str, raw_path: str, raw_query: str, fields: Mapping[str, str], key: str | None) -> None:
        """Let a request in, for an object (or for listing, `key` None); raises Refused."""
        query = dict(parse_qsl(raw_query, keep_blank_values=True))
        authorization = fields.get("authorization", "")
        if authorization and ("Signature" in query or "X-Amz-Signature" in query):
            # what S3 says to a client that sends its bearer token along: a proxy must never do that
            raise Refused(400, "InvalidArgument", "Only one auth mechanism allowed.")
        if authorization.startswith("AWS4-HMAC-SHA256 "):
            self._check_fields(method, raw_path, raw_query, fields, key)
        elif "X-Amz-Signature" in query:
            self._check_query(method, raw_path, query, fields, key)
        elif authorization:
            raise Refused(400, "InvalidArgument", "Unsupported Authorization Type")
        else:
            self._check_presigned(method, query, key)

    def _check_presigned(self, method: str, query: Mapping[str, str], key: str | None) -> None:
        expires = query.get("Expires", "")
        if method != "GET" or key is None or not expires.isdecimal():
            raise Refused(403, "AccessDenied", "Access Denied")  # what signs a GET does not sign a HEAD
        if not hmac.compare_digest(query.get("Signature", ""), self._presignature(key, int(expires))):
            raise Refused(403, "SignatureDoesNotMatch", "The request signature does not match.")
        if int(expires) <= self.clock.wall():
            raise Refused(403, "AccessDenied", "Request has expired")

    def _check_fields(
        self, method: str, raw_path: str, raw_query: str, fields: Mapping[str, str], key: str | None
    ) -> None:
        said = dict(part.strip().split("=", 1) for part in fields["authorization"].partition(" ")[2].split(","))
        query = dict(parse_qsl(raw_query, keep_blank_values=True))
        keys = self._keys(said.get("Credential", ""), fields.get("x-amz-security-token", ""), key)
        moment = fields.get("x-amz-date", "")
        if abs(_seconds(moment) - self.clock.wall()) > _SKEW_SECONDS:
            raise Refused(403, "RequestTimeTooSkewed", "The difference between the request time and ours is too large.")
        names = said.get("SignedHeaders", "").split(";")
        signed = {name: fields.get(name, "") for name in names}
        body = fields.get("x-amz-content-sha256", "")
        wanted = _signature(keys, said["Credential"], moment, method, raw_path, query, signed, body)
        if not hmac.compare_digest(said.get("Signature", ""), wanted):
            raise Refused(403, "SignatureDoesNotMatch", "The request signature does not match.")

    def _check_query(
        self, method: str, raw_path: str, query: dict[str, str], fields: Mapping[str, str], key: str | None
    ) -> None:
        given, moment = query.pop("X-Amz-Signature"), query.get("X-Amz-Date", "")
        keys = self._keys(query.get("X-Amz-Credential", ""), query.get("X-Amz-Security-Token", ""), key)
        if _seconds(moment) + float(query.get("X-Amz-Expires", "0")) <= self.clock.wall():
            raise Refused(403, "AccessDenied", "Request has expired")
        signed = {name: fields.get(name, "") for name in query.get("X-Amz-SignedHeaders", "").split(";")}
        wanted = _signature(
            keys, query["X-Amz-Credential"], moment, method, raw_path, query, signed, "UNSIGNED-PAYLOAD"
        )
        if not hmac.compare_digest(given, wanted):
            raise Refused(403, "SignatureDoesNotMatch", "The request signature does not match.")

    def _keys(self, credential: str, token: str, key: str | None) -> Keys:
        keys = self.issued.get(credential.partition("/")[0])
        if keys is None or not hmac.compare_digest(keys.session_token, token):
            raise Refused(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist.")
        if keys.ends_at <= self.clock.wall():
            raise Refused(400, "ExpiredToken", "The provided token has expired.")
        if key is not None and not key.startswith(keys.prefix):
            raise Refused(403, "AccessDenied", "Access Denied")
        return keys

    def _presignature(self, key: str, expires: int) -> str:
        digest = hmac.new(self.secret, f"GET\n{key}\n{expires}".encode(), hashlib.sha256).digest()
        return base64.b64encode(digest).decode("ascii")


def _signature(
    keys: Keys,
    credential: str,
    moment: str,
    method: str,
    raw_path: str,
    query: Mapping[str, str],
    signed: Mapping[str, str],
    body: str,
) -> str:
    """Return the SigV4 signature of a request (AWS documentation, "Authenticating Requests")."""
    scope = credential.split("/", 1)[1]
    pairs = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in query.items())
    lines = [method, raw_path, "&".join(f"{name}={value}" for name, value in pairs)]
    lines += [f"{name}:{value.strip()}" for name, value in sorted(signed.items())]
    lines += ["", ";".join(sorted(signed)), body]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    key = f"AWS4{keys.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}".encode(), "sha256").hex()


def _seconds(moment: str) -> float:
    try:
        return datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise Refused(403, "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header") from None
