"""Cookies of upstreams that need them (`cookies = "pass"`): how a Set-Cookie is led into its mount.

A cookie knows a host name and a path, and no port (RFC 6265 8.5). All mounts share one host name, so the path is what
keeps one upstream's cookies from the next, and from our own pages: each cookie leaves with one, below its mount. Domain
goes, because callers know the proxy by another name; Secure goes, because they call over http://.
"""

import ipaddress

from proxy.upstreams import Match

_DROPPED = frozenset({b"domain", b"path", b"secure", b"partitioned"})


def localized_cookie(value: bytes, match: Match) -> bytes | None:
    """Return a Set-Cookie of the upstream for the mount it came by, or None if it is not about what stands there.

    None too for a Domain that is not the upstream's own: its own clients would refuse that (RFC 6265 5.3, 6).
    """
    pair, *rest = value.split(b";")
    attributes = [_attribute(one) for one in rest]
    domain = _last(b"domain", attributes).lstrip(b".").lower()
    if domain and not _matches_domain(match.upstream.host, domain.decode("latin-1")):
        return None
    path = _local_path(_cookie_path(attributes, match), match)
    if path is None:
        return None
    kept = [
        b"=".join((name, said)) if said else name
        for name, said in attributes
        if name.lower() not in _DROPPED and (name.lower(), said.lower()) != (b"samesite", b"none")  # it wants Secure
    ]
    return b"; ".join([pair.strip(), *kept, b"Path=" + path])


def _attribute(text: bytes) -> tuple[bytes, bytes]:
    name, _, value = text.partition(b"=")
    return name.strip(), value.strip()


def _last(name: bytes, attributes: list[tuple[bytes, bytes]]) -> bytes:
    """Return the value of the last attribute of that name, which is the one that counts (RFC 6265 5.3)."""
    return next((value for have, value in reversed(attributes) if have.lower() == name), b"")


def _matches_domain(host: str, domain: str) -> bool:
    """RFC 6265 5.1.3: the host itself, or a parent of a host that is a name."""
    if host == domain:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host.endswith(f".{domain}")
    return False


def _cookie_path(attributes: list[tuple[bytes, bytes]], match: Match) -> bytes:
    """Return the path for which the upstream set the cookie, by default the request's folder (RFC 6265 5.1.4)."""
    said = _last(b"path", attributes)
    if said.startswith(b"/"):
        return said
    return match.target.partition(b"?")[0].rpartition(b"/")[0] or b"/"


def _local_path(path: bytes, match: Match) -> bytes | None:
    base = match.upstream.base_path
    if _covers(path, base or b"/"):
        return match.mount or b"/"
    below = path[len(base) :]
    return match.mount + below if path.startswith(base) and below.startswith(b"/") else None


def _covers(path: bytes, requested: bytes) -> bool:
    """RFC 6265 5.1.4: whether a cookie for `path` goes with a request for `requested`."""
    if not requested.startswith(path):
        return False
    return path.endswith(b"/") or requested[len(path) : len(path) + 1] in (b"", b"/")
