"""Where an upstream's references lead (H54): back into its mount, to somebody else, or astray.

Only the upstream's own origin and base path lead back. Anything else is returned untouched and so reached by the caller
without us, and without the token (S29). What a caller would resolve to another mount is somebody else's too: it is read
as the upstream means it, against its own paths. Browsers read a backslash as a slash and drop tabs (WHATWG URL 4.4), so
both are gone before anything is compared.
"""

import ipaddress
import re
import socket
from urllib.parse import unquote_to_bytes

from proxy.upstreams import Match, Upstream, has_dot_segment

_PATH_STARTS = (b"", b"/", b"?", b"#")
_SCHEME = re.compile(rb"(?i)[a-z][a-z0-9+.-]*:")
_DOT = re.compile(rb"(?i)%(?:25)*2e")
_HTTP = re.compile(
    rb"(?i)(?P<scheme>https?):/*(?:[^/?#]*@)?(?P<host>\[[^]]*\]|[^:/?#]*)(?::(?P<port>[0-9]*))?(?P<path>[^?#]*)"
)


def localized(reference: bytes, match: Match, local_origin: bytes) -> bytes:
    """Return a URI reference of the upstream as one that leads back through the mount, where that is possible.

    An absolute path outside of the base path is made absolute, and so is one with dot segments, which the caller would
    resolve against other mounts. `local_origin` is `http://authority` as the caller wrote it.
    """
    upstream = match.upstream
    reference = _as_browsers_read(reference)
    if reference.startswith(b"//"):  # relative to the upstream's scheme, not to ours
        reference = upstream.scheme.encode("ascii") + b":" + reference
    rest = reference
    for origin in _spellings(upstream):
        if reference[: len(origin)].lower() == origin and reference[len(origin) : len(origin) + 1] in _PATH_STARTS:
            rest = reference[len(origin) :] or b"/"
            break
    else:
        if not reference.startswith(b"/"):
            path = _path(reference)
            if _SCHEME.match(reference) or not has_dot_segment(b"/" + path):
                return reference
            rest = _resolved(path, match.target) + reference[len(path) :]
    base = upstream.base_path
    leads_back = rest.startswith(base) and rest[len(base) : len(base) + 1] in _PATH_STARTS
    if leads_back and not has_dot_segment(_path(rest)):
        return local_origin + match.mount + rest[len(base) :]
    return upstream.origin.encode("ascii") + rest


def leads_astray(reference: bytes, match: Match, local_origin: bytes) -> bool:
    """Return whether a localized reference names this proxy, and there something else than the mount.

    No upstream knows our address but from its own configuration, which is about its own mount. What leads to another
    would have a tool that follows it use that one's token (a 307 sends the body along).
    """
    found, here = _HTTP.match(reference), _HTTP.match(local_origin)
    if found is None or here is None or (_scheme(found), _port(found)) != (_scheme(here), _port(here)):
        return False
    if _host(found) != _host(here) and not _is_loopback(_host(found)):
        return False
    path = found["path"] or b"/"
    is_below = path.startswith(match.mount) and path[len(match.mount) : len(match.mount) + 1] in (b"", b"/")
    return not is_below or has_dot_segment(path)


def _as_browsers_read(reference: bytes) -> bytes:
    reference = reference.replace(b"\t", b"").strip(b" ")
    path = _path(reference)
    return path.replace(b"\\", b"/") + reference[len(path) :]


def _path(reference: bytes) -> bytes:
    """Return what stands before the query and the fragment."""
    return re.split(rb"[?#]", reference, maxsplit=1)[0]


def _resolved(path: bytes, target: bytes) -> bytes:
    """Resolve a relative path against a request target (RFC 3986 5.2.3, 5.2.4), dots in any spelling."""
    kept: list[bytes] = []
    segments = (_path(target).rpartition(b"/")[0] + b"/" + path).split(b"/")[1:]
    for number, segment in enumerate(segments):
        dots = _DOT.sub(b".", segment)
        if dots not in (b".", b".."):
            kept.append(segment)
            continue
        if dots == b"..":
            kept = kept[:-1]
        if number == len(segments) - 1:
            kept.append(b"")
    return b"/" + b"/".join(kept)


def _spellings(upstream: Upstream) -> tuple[bytes, ...]:
    """Return the upstream's origin as it may be written: with its port always, without it where that is the default."""
    host = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
    with_port = f"{upstream.scheme}://{host}:{upstream.port}"
    return (with_port.encode("ascii"), upstream.origin.encode("ascii"))


def _scheme(found: re.Match[bytes]) -> bytes:
    return found["scheme"].lower()


def _port(found: re.Match[bytes]) -> bytes:
    return (found["port"] or b"").lstrip(b"0") or {b"http": b"80", b"https": b"443"}[_scheme(found)]


def _host(found: re.Match[bytes]) -> str:
    """Return a host as browsers and curl read it: percent-decoded, and wide letters as plain ones (RFC 3491)."""
    text = unquote_to_bytes(found["host"]).decode("utf-8", "replace").lower()
    try:
        return text if text.isascii() else text.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return text


def _is_loopback(host: str) -> bool:
    """Return whether callers would take a host for this machine; `127.1` and `2130706433` are addresses to them."""
    name = host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        if name.startswith("["):
            six = ipaddress.IPv6Address(name.strip("[]"))
            address: ipaddress.IPv4Address | ipaddress.IPv6Address = six.ipv4_mapped or six
        else:
            address = ipaddress.IPv4Address(socket.inet_aton(name))
    except (OSError, ValueError):
        return False
    return address.is_loopback or address.is_unspecified
