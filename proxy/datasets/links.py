"""A link reads one file and carries its permission in its query: a secret, whoever made it."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from proxy.errors import UpstreamInvalid
from proxy.guard import is_loopback

_AWS = ".amazonaws.com"


@dataclass(frozen=True, slots=True)
class Link:
    """A URL that may be read without a token."""

    scheme: str
    host: str
    """Lower case, an IPv6 literal without brackets."""
    port: int
    target: bytes = field(repr=False)
    """Request target; its query is a credential."""

    @classmethod
    def parse(cls, url: str, *, clear: frozenset[str] = frozenset()) -> "Link":
        """Return the link that `url` is; raises UpstreamInvalid, telling nothing of it, if it may not be followed.

        In the clear only to this machine and to the origins in `clear`: the query would be readable on the way.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            raw = target.encode("ascii")
        except ValueError:
            host, port, raw, parts = None, None, b"", urlsplit("")
        may = parts.scheme == "https" or (
            parts.scheme == "http"
            and host is not None
            and (host == "localhost" or is_loopback(host) or f"http://{parts.netloc}" in clear)
        )
        if host is None or not may or parts.username is not None or any(byte <= 0x20 or byte == 0x7F for byte in raw):
            raise UpstreamInvalid("The data store names a place for its files that is not a safe URL.")
        return cls(parts.scheme, host, port or {"http": 80, "https": 443}[parts.scheme], raw)

    def moved(self, place: bytes | None) -> "Link | None":
        """Return the link that a redirection leads to, or None for one that may not be followed.

        S3 sends readers of a young bucket on to its region (307): the permission in the query goes with them, so that
        it has to be S3 again, or the same host.
        """
        try:
            link = Link.parse((place or b"").decode("latin-1"), clear=frozenset({self.origin}))
        except UpstreamInvalid:
            return None
        is_near = link.host == self.host or (link.host.endswith(_AWS) and self.host.endswith(_AWS))
        return link if is_near and link.scheme == self.scheme else None

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"
