"""Where a Redis or Valkey server is, as its URL says it; what may be shown of that, and what is refused."""

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

SCHEMES = ("redis", "rediss", "unix")
# `from_url` of the library takes any of its arguments from the query and lets them win: `ssl_cert_reqs=none` would
# switch verification off, `socket_timeout` our bounds, and a password there would be shown.
PARAMETERS = ("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_FORM = "must be rediss://host:6379/0, redis://… on this machine, or unix:///path/of/the.sock"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL; prints without user and password."""

    text: str = field(repr=False)
    shown: str
    """The URL without user, password and parameters, for people."""
    is_clear: bool
    """True if token sets would cross a network unencrypted."""
    has_password: bool


def parse(text: str) -> RedisUrl:
    """Return the URL, or raise ValueError with what it must be, to stand behind the name of the setting."""
    try:
        url = urlsplit(text)
    except ValueError:
        raise ValueError(_FORM) from None
    if url.scheme not in SCHEMES:
        raise ValueError(_FORM)
    for name, _ in parse_qsl(url.query, keep_blank_values=True):
        if name not in PARAMETERS:
            raise ValueError(f"may have no parameter but {', '.join(PARAMETERS)}; user and password stand before '@'")
    try:
        host, port = url.hostname, url.port or 6379
    except ValueError:
        raise ValueError("must have a port from 1 to 65535") from None
    if url.scheme == "unix":
        if len(url.path) < 2:
            raise ValueError("must name the socket, such as unix:///run/redis/redis.sock")
        shown = f"unix://{unquote(url.path)}"
    else:
        if not host:
            raise ValueError("must name a host, such as rediss://redis.example.org:6379/0")
        if not url.path.strip("/").isdigit() and url.path.strip("/"):
            raise ValueError("may have no path but the number of the database, such as /0")
        shown = f"{url.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    is_clear = url.scheme == "redis" and host not in _LOOPBACK
    return RedisUrl(text, shown, is_clear, has_password=bool(url.password))
