"""Field law: what of a message's fields may cross the relay, in both directions.

Theory of operation. A field list is an ordered list of (name, value) byte pairs, names in lower case as the parser
gives them. Strip first, set ours last: a caller's `Connection: authorization` must not be able to strip the token
(CVE-2022-31813, CVE-2025-48865). Every rule sees a name with `_` folded to `-`, because some servers read
`X_Forwarded_User` as `X-Forwarded-User` (RFC 9110 17.10); names with `_` are dropped altogether (H39).
"""

import re
from collections.abc import Iterable
from urllib.parse import unquote, unquote_to_bytes

from proxy.cookies import localized_cookie
from proxy.errors import BadRequest, UpstreamInvalid
from proxy.references import leads_astray, localized
from proxy.remembered import by_name
from proxy.upstreams import Match, Upstream

Field = tuple[bytes, bytes]
Fields = list[Field]

# RFC 9110 7.6.1; Expect is ours to answer (10.1.1), Trailer goes because trailers are not relayed (http-law N2).
HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"trailer", b"upgrade",
    b"http2-settings", b"expect", b"proxy-authenticate", b"proxy-authorization", b"proxy-authentication-info",
})  # fmt: skip

API_KEY_FIELD = b"x-bearerproxy-key"

# Never from a caller: who it is and where it came from is not for it to say (RFC 9700 4.13), one browser jar would mix
# upstreams (S31), and cross-origin questions are answered here, not by the upstream (S4).
_NOT_UP = HOP_BY_HOP | {
    b"authorization", b"host", b"content-length", b"cookie2", b"forwarded", b"x-real-ip", b"x-client-ip",
    b"x-original-url", b"x-rewrite-url", b"x-original-host", b"origin", b"access-control-request-method",
    b"access-control-request-headers", b"access-control-request-private-network", API_KEY_FIELD,
}  # fmt: skip
_NOT_UP_PREFIXES = (b"x-forwarded-", b"sec-fetch-", b"x-bearerproxy-")
_METHOD_OVERRIDES = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})

# Never to a caller: our token, another origin's transport rules, cookies (unless the upstream says "pass") and
# cross-origin grants (H53).
_NOT_DOWN = HOP_BY_HOP | {
    b"authorization", b"set-cookie", b"set-cookie2", b"strict-transport-security", b"alt-svc", b"public-key-pins",
    b"clear-site-data", b"proxy-status", b"x-content-type-options",
}  # fmt: skip
# Names a browser acts on for the whole origin, which upstreams share unless one has a port of its own.
_NOT_DOWN_SHARED = frozenset({b"service-worker-allowed", b"speculation-rules"})
_NOT_DOWN_PREFIXES = (b"access-control-", b"x-bearerproxy-")

# Whatever _seen may drop or change.
_LOOKED_AT = _NOT_DOWN | _NOT_DOWN_SHARED | {b"location", b"content-location", b"link", b"refresh"}

_ONLY_ONCE = (b"content-type", b"content-length", b"host")
_NONE: frozenset[bytes] = frozenset()
_CONTROL = bytes({*range(0x20), 0x7F} - {0x09})
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MEDIA_TYPE = re.compile(rb"\s*[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*(?:;.*)?")
_DOCUMENT = re.compile(
    rb"(?i)\s*(?:text/html|application/xhtml|image/svg|(?:text|application)/(?:xml|xsl)|multipart/x-|[^;]*\+xml)"
)

# What makes a browser fetch or go elsewhere from an answer that is no page, in the name of its origin.
_ACTING = frozenset({b"link", b"refresh"})

SANDBOX = (b"content-security-policy", b"sandbox allow-scripts allow-forms allow-downloads")
"""A page from an upstream gets an origin of its own (null), so that the guard refuses what it asks for."""


@by_name
def _is_name(name: bytes) -> bool:
    return _NAME.fullmatch(name) is not None


@by_name
def _stays_here(name: bytes) -> bool:
    """Return whether a field never goes up, whatever the upstream."""
    return name in _NOT_UP or b"_" in name or name.startswith(_NOT_UP_PREFIXES)


@by_name
def _goes_down(name: bytes) -> bool:
    """Return whether a field always goes down as it is, whatever the upstream."""
    return name not in _LOOKED_AT and not name.startswith(_NOT_DOWN_PREFIXES)


def values(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """Return the values of all field lines called `name` (lower case), in order."""
    return [value for have, value in fields if have == name]


def first(fields: Iterable[Field], name: bytes) -> bytes | None:
    """Return the value of the first field line called `name` (lower case), or None."""
    for have, value in fields:
        if have == name:
            return value
    return None


def connection_options(fields: Iterable[Field]) -> frozenset[bytes]:
    """Return the names that all Connection lines list, in lower case (RFC 9110 7.6.1)."""
    found = values(fields, b"connection")
    return _options[b",".join(found)] if found else _NONE


@by_name
def _options(connection: bytes) -> frozenset[bytes]:
    return frozenset([option.strip().lower().replace(b"_", b"-") for option in connection.split(b",")])


def for_upstream(
    fields: Iterable[Field],
    match: Match,
    method: str,
    *,
    authorization: bytes | None,
    content_length: bytes | None,
    is_chunked: bool,
    pseudonym: bytes,
) -> Fields:
    """Return the fields to send upstream.

    `authorization` is the whole field value or None for anonymous; exactly one of `content_length` and `is_chunked`
    frames a body, neither means that there is none (RFC 9112 6.2). `pseudonym` names us in Via.
    Raises BadRequest if a field that has one meaning stands there twice (H40).
    """
    fields = list(fields)
    own = own_fields(match.upstream, is_accept_ours=is_accept_ours(match.upstream, method, fields, match.query))
    return with_own(
        fields,
        match.upstream,
        own,
        authorization=authorization,
        content_length=content_length,
        is_chunked=is_chunked,
        pseudonym=pseudonym,
    )


def with_own(
    fields: Fields,
    upstream: Upstream,
    own: Fields,
    *,
    authorization: bytes | None,
    content_length: bytes | None,
    is_chunked: bool,
    pseudonym: bytes,
) -> Fields:
    """Return the fields to send upstream, as `for_upstream` does, with `own` in place of the caller's of that name."""
    names = [name for name, _ in fields]
    _check_once(names)
    named = connection_options(fields) if b"connection" in names else _NONE
    removed = {name for name, _ in own} | named
    if not upstream.passes_cookies:
        removed.add(b"cookie")
    kept: Fields = [(b"host", upstream.host_value)]
    via = b""
    if upstream.methods is not None or upstream.read_only:
        removed |= _METHOD_OVERRIDES  # the policy judged the method of the request line
    for name, value in fields:
        if name in removed or _stays_here[name]:
            continue
        if name == b"via":
            via += value + b", "
            continue
        kept.append((name, value))
    kept += own
    kept.append((b"via", via + b"1.1 " + pseudonym))
    if content_length is not None:
        kept.append((b"content-length", content_length))
    elif is_chunked:
        kept.append((b"transfer-encoding", b"chunked"))
    if authorization is not None:
        kept.append((b"authorization", authorization))
    return kept


def _check_once(names: list[bytes]) -> None:
    for name in _ONLY_ONCE:
        if names.count(name) > 1:
            raise BadRequest(f"The field {name.decode()} stands in the request more than once.")


def is_accept_ours(upstream: Upstream, method: str, fields: Fields, query: bytes) -> bool:
    """Return whether the mount's `accept` goes up in place of the caller's."""
    return upstream.accept is not None and wants_default_accept(method, fields, query)


def own_fields(upstream: Upstream, *, is_accept_ours: bool) -> Fields:
    """Return what the mount sets on its requests; its secrets are read anew each time. Raises SecretError."""
    own: Fields = [(name.lower().encode("ascii"), value.reveal().encode("latin-1")) for name, value in upstream.headers]
    if is_accept_ours and upstream.accept is not None:
        own.append((b"accept", upstream.accept.encode("ascii")))
    if upstream.accept_language is not None:
        own.append((b"accept-language", upstream.accept_language.encode("ascii")))
    return own


def wants_default_accept(method: str, fields: Iterable[Field], query: bytes) -> bool:
    """Return whether the caller has no preference of its own that the mount's `accept` would override.

    True if Accept is missing, or lists `*/*` and names no SDMX media type; never on POST, never with `format=` in the
    query (base R, pandas and Java each say "anything" in their own way: facts on clients, C11).
    """
    if method not in ("GET", "HEAD") or re.search(rb"[?&]format=", query):
        return False
    accept = b",".join(values(fields, b"accept"))
    ranges = [one.split(b";", 1)[0].strip().lower() for one in accept.split(b",") if one.strip()]
    return not ranges or (b"*/*" in ranges and not any(one.startswith(b"application/vnd.sdmx") for one in ranges))


def for_downstream(fields: Iterable[Field], match: Match, local_origin: bytes) -> Fields | None:
    """Return the fields of an upstream's answer as the caller may see them, names in lower case.

    `local_origin` is `http://authority` as the caller wrote it, for references back into the mount. Returns None if a
    name or a value is not one that may be relayed (http-law H51): the answer must become a 502. Raises UpstreamInvalid
    if it sends the caller to a page of ours or to another mount.
    """
    lowered = [(name.lower(), value) for name, value in fields]
    names = {name for name, _ in lowered}
    if not all(map(_is_name.__getitem__, names)) or has_control(b" ".join([value for _, value in lowered])):
        return None
    named = connection_options(lowered) if b"connection" in names else _NONE
    if b"transfer-encoding" in names:
        named |= {b"content-length"}  # RFC 9112 6.3: the coding framed the body, whatever the length says
    kept: Fields = []
    for name, value in lowered:
        if name in named:
            continue
        seen = value if _goes_down[name] else _seen(name, value, match, local_origin)
        if seen is None:
            continue
        if name == b"location" and leads_astray(seen, match, local_origin):
            raise UpstreamInvalid(
                f"[upstream.{match.upstream.name}] redirects to another mount or to a page of this proxy, which no "
                "service can know of: correct the address that it has for itself."
            )
        kept.append((name, seen))
    names = {name for name, _ in kept}
    if b"cache-control" not in names:
        kept.append((b"cache-control", b"private"))  # S33: what a token fetched is nobody else's
    kept.append((b"x-content-type-options", b"nosniff"))
    is_shared = bool(match.mount)  # on a port of its own a page shares its origin with nothing of ours
    if is_shared and (not _ACTING.isdisjoint(names) or is_document(values(lowered, b"content-type"))):
        kept.append(SANDBOX)
    return kept


def has_control(value: bytes) -> bool:
    """Return whether a value holds a control character other than HTAB."""
    return len(value.translate(None, _CONTROL)) != len(value)


def _seen(name: bytes, value: bytes, match: Match, local_origin: bytes) -> bytes | None:
    """Return a value as the caller may see it, None if it may not see that field."""
    if name == b"set-cookie" and match.upstream.passes_cookies:
        return localized_cookie(value, match)
    if name in _NOT_DOWN or name.startswith(_NOT_DOWN_PREFIXES) or (match.mount and name in _NOT_DOWN_SHARED):
        return None
    if name in (b"location", b"content-location"):
        return localized(value, match, local_origin)
    if name == b"link":
        return _LINK.sub(lambda found: b"<" + localized(found[1], match, local_origin) + b">", value)
    if name == b"refresh":
        return _REFRESH.sub(lambda found: found[1] + localized(found[2], match, local_origin), value)
    return value


def is_document(types: list[bytes]) -> bool:
    """Return whether a browser might show an answer with these Content-Type values as a page that can run scripts.

    An unreadable or missing type counts: what a browser makes of it is not ours to guess. Of several types in one line
    browsers take the last (MIME Sniffing 5), other readers the first, so each of them counts.
    """
    return not types or any(map(_is_document.__getitem__, types))


@by_name
def _is_document(content_type: bytes) -> bool:
    return any(_DOCUMENT.match(part) or not _MEDIA_TYPE.fullmatch(part) for part in content_type.split(b","))


_LINK = re.compile(rb"<([^<>]*)>")
_REFRESH = re.compile(rb"(?i)^(\s*[0-9.]*\s*[;,]?\s*url\s*=\s*[\"']?)([^\"']*)")

_PLAIN = re.compile(rb"[!-~]*")
_PARAMETER = re.compile(r"([?&;])([^=&;]*)=([^&;]*)")
_SECRET_NAME = re.compile(
    r"(?i).*signature|.*security-token|access_token|refresh_token|id_token|code|sig|awsaccesskeyid|x-amz-credential"
)


def masked_target(target: bytes) -> str:
    """Return a request target for logs: printable ASCII, at most 2 000 bytes, signatures and tokens masked."""
    target = target[:2000]
    if _PLAIN.fullmatch(target):
        text = target.decode("ascii")
    else:
        text = "".join(chr(byte) if 0x20 < byte < 0x7F else f"%{byte:02X}" for byte in target)
    return _PARAMETER.sub(_masked, text) if "=" in text else text


def _masked(parameter: re.Match[str]) -> str:
    name = parameter[2]
    return f"{parameter[1]}{name}=***" if _is_secret[name] else parameter[0]


@by_name
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.fullmatch(unquote(name)) is not None


def has_token_in_query(query: bytes) -> bool:
    """Return whether the query carries `access_token=` (RFC 6750 2.3): tokens do not travel in URLs (S24)."""
    if b"%" not in query and b"access_token" not in query.lower():
        return False
    names = (parameter.partition(b"=")[0] for parameter in re.split(rb"[?&;]", query))
    return any(unquote_to_bytes(name).lower() == b"access_token" for name in names)
