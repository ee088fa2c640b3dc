"""Hosts, ports and URLs as people write them: pure parsing, each refusal one sentence."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

LOOPBACK_HOST = "127.0.0.1"
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")
_DOT_SEGMENT = re.compile(r"(?i)/(\.|%2e){1,2}(/|$)")
_BAD_IN_PATH = re.compile(r"[^!-~]|[\\<>\"`^{|}]|%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Url:
    """An absolute http or https URL, taken apart."""

    scheme: str
    host: str
    """Lower case, an IPv6 literal without brackets."""
    port: int
    path: str
    """As written, without a trailing slash."""


def parse_url(text: str) -> Url:
    """Return the parts of a base URL.

    Raises ValueError with a sentence for people. Neither user, query nor fragment may be in it: the first would be sent
    as a password to whoever reads logs, the others cannot stand before a path.
    """
    if re.search(r"[\x00-\x20\x7f]", text):
        raise ValueError("must be a URL without spaces and control characters")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in ("http", "https"):
        raise ValueError("must be a URL that starts with https:// or http://")
    if "?" in rest or "#" in rest:
        raise ValueError("must be a base URL: nothing from a '?' or '#' on")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise ValueError("must not hold a user or password before the host; use an identity or headers")
    host, port = _authority(authority, {"http": 80, "https": 443}[scheme])
    path = slash + path
    if _BAD_IN_PATH.search(path):
        raise ValueError("holds a character that a path may not hold; write it as %XX")
    if _DOT_SEGMENT.search(path):
        raise ValueError("must not hold a '.' or '..' segment")
    return Url(scheme, host, port, path.rstrip("/"))


def parse_proxy_url(text: str) -> str:
    """Return an outbound proxy's URL, which unlike others may hold a user and password; raises ValueError."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        is_good = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/") and not parts.query
        port = parts.port
    except ValueError:
        is_good, port = False, None
    if not is_good or port == 0 or re.search(r"[\x00-\x20\x7f]", text):
        raise ValueError('must be "none", "env" or the URL of an HTTP proxy, such as http://proxy.example.org:3128')
    return parts.geturl().rstrip("/")


def parse_host(text: str) -> str:
    """Return a host name or address in lower case, an IPv6 literal without brackets; raises ValueError."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in bare:
        try:
            return str(ipaddress.IPv6Address(bare))
        except ValueError:
            raise ValueError("must be a host name or an address, without a port") from None
    try:
        # Idna for names in other alphabets; the standard library's table is enough for a name that someone types.
        name = bare if bare.isascii() else bare.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("is not a host name") from None
    if bare != text or len(name) > 253 or not _NAME.fullmatch(name):
        raise ValueError("is not a host name or an address" if name else "must not be empty")
    return name.lower()


def parse_listen(listen: int | str, host: str) -> tuple[str, int]:
    """Return (host, port) of `8411` or `"127.0.0.1:8411"`; a bare port stands on `host`. Raises ValueError."""
    text = str(listen)
    name, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError('must be a port from 0 to 65535 or "host:port", such as 8411 or "127.0.0.1:8411"')
    return (parse_host(name) if name else host), int(port)


def is_loopback(host: str) -> bool:
    """Return True for names and addresses that never leave this machine (RFC 1122 3.2.1.3, RFC 6761 6.3)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _authority(text: str, default_port: int) -> tuple[str, int]:
    bracketed = re.fullmatch(r"(\[[^\]]*\])(:.*)?", text)
    host, port = (bracketed[1], bracketed[2] or "") if bracketed else ("".join(text.partition(":")[:1]), "")
    if not bracketed and ":" in text:
        port = text[text.index(":") :]
    if not host:
        raise ValueError("must name a host, such as https://data.example.org")
    if port and not (re.fullmatch(r":[0-9]{1,5}", port) and 0 < int(port[1:]) <= 65535):
        raise ValueError("must have a port from 1 to 65535, or none")
    try:
        return parse_host(host), int(port[1:]) if port else default_port
    except ValueError:
        raise ValueError("must name a host, such as https://data.example.org") from None
