"""The law of a request's head: pure checks, beyond what the parser refuses by itself (P6-P8, P13-P14).

Each raises the ProxyError that the caller gets to see.
"""

import re

from proxy.errors import BadRequest, NotImplementedHere
from proxy.headers import Fields, first, values

_ABSOLUTE = re.compile(rb"(?i)([a-z][a-z0-9+.-]*)://([^/?#]*)")
_OTHER_PROTOCOL = re.compile(rb" (?:RTSP|ICE)/[0-9]\.[0-9]\r?\Z")
_UPGRADE_FIELDS = (b"upgrade", b"http2-settings")


def check_request_line(line: bytes) -> None:
    """Refuse a protocol that the parser takes for HTTP, as it does RTSP/1.0 and ICE/1.0 (P7). `line` has no LF."""
    if _OTHER_PROTOCOL.search(line):
        raise BadRequest("Only HTTP is spoken here.", status=505)


def check_head(version: str, names: list[bytes], fields: Fields) -> None:
    """Refuse a head that has no single meaning; `names` are those of `fields`."""
    if version not in ("1.0", "1.1"):  # P7
        raise BadRequest("Only HTTP/1.1 and HTTP/1.0 are spoken here.", status=505)
    if names.count(b"host") != 1:  # P6
        raise BadRequest("The request needs exactly one Host field.")
    if b"transfer-encoding" in names:  # P8
        codings = values(fields, b"transfer-encoding")
        if version == "1.0":
            raise BadRequest("Transfer-Encoding does not exist in HTTP/1.0.")
        said = [name.strip().lower() for line in codings for name in line.split(b",")]
        if said[-1] == b"chunked" and any(name != b"chunked" for name in said):
            raise NotImplementedHere("The only transfer coding that is read here is chunked.")
        if codings[1:] or said != [b"chunked"]:
            raise BadRequest("Transfer-Encoding must be chunked, and say so once.")
    length = first(fields, b"content-length") if b"content-length" in names else None
    if length is not None and not length.isdigit():
        raise BadRequest("Content-Length is not a number.")


def check_upgrade(method: bytes, version: str, fields: Fields) -> None:
    """Refuse what may not be served as if no upgrade had been asked for (P14)."""
    if method == b"CONNECT":
        raise NotImplementedHere("This is a base URL for tools, not a forward proxy: ask for a path.")
    # > A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request (RFC 9110 7.8)
    if version == "1.1" and any(b"websocket" in value.lower() for value in values(fields, b"upgrade")):
        raise NotImplementedHere("WebSocket is not relayed.")


def without_upgrade(method: bytes, target: bytes, version: str, fields: Fields) -> bytes:
    """Return a head without what asked for an upgrade, which may be ignored (RFC 9110 7.8)."""
    lines = [b"%s %s HTTP/%s\r\n" % (method, target, version.encode())]
    for name, value in fields:
        if name in _UPGRADE_FIELDS:
            continue
        kept = _without_upgrade_options(value) if name == b"connection" else value
        if kept or name != b"connection":
            lines.append(b"%s: %s\r\n" % (name, kept))
    return b"".join(lines) + b"\r\n"


def _without_upgrade_options(connection: bytes) -> bytes:
    options = [option.strip() for option in connection.split(b",")]
    return b", ".join(option for option in options if option and option.lower() not in _UPGRADE_FIELDS)


def origin_form(target: bytes, fields: Fields) -> tuple[bytes, Fields]:
    """Return the target in origin-form, and the fields: an absolute-form authority replaces Host (RFC 9112 3.2.2)."""
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        return target, fields
    scheme, authority = absolute[1].lower(), absolute[2]
    if scheme != b"http" or b"@" in authority:
        raise BadRequest("This is a base URL for tools, not a forward proxy: ask for a path.")
    rest = target[absolute.end() :]
    return (
        rest if rest.startswith(b"/") else b"/" + rest,
        [(b"host", authority), *(field for field in fields if field[0] != b"host")],
    )
