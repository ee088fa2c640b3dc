"""The local guard: is this caller a local tool, and not a web page or a stranger? Pure; it sees no token.

Why both Host and Origin (shared law S1-S3): under DNS rebinding a page is same-origin with us, its GET carries no
Origin and only Host gives it away; without rebinding Host is right and only Origin or Sec-Fetch-Site tell.
"""

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache

from proxy.errors import BadRequest, CallerRefused, KeyRequired
from proxy.headers import API_KEY_FIELD, Fields, first, values

_AUTHORITY = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._~-]+)(?::(?P<port>[0-9]{1,5}))?")
_SAID_BY_BROWSERS = frozenset({b"origin", b"sec-fetch-site"})
_REMEMBERED = 256
"""How many spellings of our own names are remembered."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """One entry of `allowed_hosts`."""

    name: str
    """Host name or address literal, lower case, IPv6 in brackets."""
    port: int | None = None
    """A port of its own; None accepts the listener's port, or none at all."""
    any_port: bool = False

    @classmethod
    def parse(cls, entry: str) -> "AllowedHost":
        """Parse `name`, `name:port` or `name:*`. Raises ValueError."""
        text, any_port = (entry[:-2], True) if entry.endswith(":*") else (entry, False)
        found = _AUTHORITY.fullmatch(text)
        if not found or (any_port and found["port"]):
            raise ValueError(f"{entry!r} is not a host: write name, name:port or name:*")
        return cls(found["name"].lower(), int(found["port"]) if found["port"] else None, any_port)


_OWN_HOSTS = tuple(AllowedHost(name) for name in LOOPBACK_NAMES)


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a request came in."""

    local: tuple[str, int] | None
    """Address and port on which the connection arrived; None on a unix socket."""
    peer: str | None
    """The caller's address; None on a unix socket, and for a TCP peer that has gone."""

    @property
    def is_unix(self) -> bool:
        return self.local is None


class Callback(Enum):
    """What a request is to the sign-ins that wait for a browser to come back from the issuer.

    That is a navigation from another site, the only one that may come (A43).
    """

    NONE = auto()
    """It is not for the page where browsers come back."""
    UNCALLED = auto()
    """It is, but no sign-in waits."""
    AWAITED = auto()
    """A sign-in waits; whether for this one its `state` tells."""


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules, fixed at start."""

    allowed_hosts: tuple[AllowedHost, ...] = ()
    allowed_origins: frozenset[str] = frozenset()
    api_key: str | None = field(default=None, repr=False)
    allow_remote: bool = False
    owner: int | None = None
    """User id that callers of this machine must have; None lets all its users in."""
    _admitted: set[tuple[bytes, tuple[str, int] | None]] = field(
        default_factory=set, init=False, repr=False, compare=False
    )
    """Values of Host that were let in, with the local end at which they were."""

    def check(
        self,
        fields: Fields,
        arrival: Arrival,
        *,
        callback: Callback = Callback.NONE,
        names: AbstractSet[bytes] | None = None,
    ) -> None:
        """Let the request in, or raise CallerRefused, KeyRequired or BadRequest. The order is the law's (S1).

        `callback` tells what a GET of the page is to which the issuer sends a browser back; `names` are those of
        `fields`, if somebody has them already.
        """
        if names is None:
            names = {name for name, _ in fields}
        self.check_peer(arrival)
        self._check_host(fields, arrival)
        if not _SAID_BY_BROWSERS.isdisjoint(names):
            self._check_origin(fields, callback)
        if self.api_key is not None:
            self._check_key(fields, self.api_key)

    def check_peer(self, arrival: Arrival) -> None:
        """Raise CallerRefused for a peer from outside, though a loopback address was reached (CVE-2020-8558, S10).

        A TCP peer without an address has hung up already, and may have come from anywhere.
        """
        if self.allow_remote or (arrival.is_unix if arrival.peer is None else is_loopback(arrival.peer)):
            return
        raise CallerRefused("Only programs on this machine may call; see server.allow_remote.")

    def check_owner(self, arrival: Arrival, uid: Callable[[], int | None]) -> None:
        """Raise CallerRefused for a caller on this machine who is another user, or nobody (S13); `uid` asks the kernel.

        Root is another user too: it needs no door of ours, and daemons that run as root relay what anybody sends.
        """
        is_here = arrival.peer is None or is_loopback(arrival.peer)
        if self.owner is None or not is_here or uid() == self.owner:
            return
        raise CallerRefused("Only programs of the user that this proxy runs as may call; see server.same_user.")

    def _check_host(self, fields: Fields, arrival: Arrival) -> None:
        hosts = values(fields, b"host")
        if len(hosts) == 1 and (hosts[0], arrival.local) in self._admitted:
            return
        found = _AUTHORITY.fullmatch(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
        if not found:
            raise BadRequest("The request needs exactly one valid Host field.")  # RFC 9112 3.2
        name, port = found["name"].lower(), int(found["port"]) if found["port"] else None
        listening = arrival.local[1] if arrival.local else None
        if any(_admits(entry, name, port, listening) for entry in (*_OWN_HOSTS, *self.allowed_hosts)):
            if len(self._admitted) < _REMEMBERED:
                self._admitted.add((hosts[0], arrival.local))
            return
        if self.allow_remote and arrival.local and _is_arrival(name, port, arrival.local):
            return  # probes call by address; an IP literal cannot be rebound
        raise CallerRefused(
            f"Host {hosts[0].decode('latin-1')[:200]!r} is not one of this proxy's names; "
            "add it to server.allowed_hosts if it should be. This is a base URL, not a forward proxy."
        )

    def _check_origin(self, fields: Fields, callback: Callback) -> None:
        origins = values(fields, b"origin")
        if origins:
            origin = origins[0].decode("latin-1").lower()
            own = "http://" + values(fields, b"host")[0].decode("latin-1").lower()
            if len(origins) == 1 and (origin in self.allowed_origins or origin == own):
                return
            raise CallerRefused("A web page of another origin may not call; see server.allowed_origins.")
        sites = (site.strip().lower() for site in values(fields, b"sec-fetch-site"))
        if any(site not in (b"none", b"same-origin") for site in sites):
            if callback is not Callback.NONE and _is_navigation(fields):
                if callback is Callback.AWAITED:
                    return
                raise CallerRefused("This page belongs to a sign-in that is not under way here; close it.")
            raise CallerRefused("A web page of another site may not call; see server.allowed_origins.")

    def _check_key(self, fields: Fields, api_key: str) -> None:
        presented = first(fields, API_KEY_FIELD) or _basic_password(first(fields, b"authorization"))
        if presented is None or not hmac.compare_digest(presented, api_key.encode()):
            raise KeyRequired(
                "This proxy asks for its API key: send it as X-Bearerproxy-Key, "
                "or as the password in the base URL (http://any:KEY@host:port/)."
            )

    def cross_origin_fields(self, fields: Fields) -> Fields:
        """Return the CORS fields of an answer to an allow-listed origin; nothing to anybody else (S4)."""
        origin = first(fields, b"origin") if self.allowed_origins else None
        if origin is None or origin.decode("latin-1").lower() not in self.allowed_origins:
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"*"),
            (b"vary", b"Origin"),
        ]


def _is_navigation(fields: Fields) -> bool:
    """Return whether a person's browser goes here with its whole window (Fetch metadata 2.1, 2.2)."""
    return values(fields, b"sec-fetch-mode") == [b"navigate"] and values(fields, b"sec-fetch-dest") == [b"document"]


def local_end(server: tuple[str, int | None] | None) -> tuple[str, int] | None:
    """Return ASGI's `server` as an address and port, None for a unix socket, which has no port."""
    return None if server is None or server[1] is None else (server[0], server[1])


@lru_cache(maxsize=1024)
def is_loopback(address: str) -> bool:
    """Return whether an address literal (IPv4-mapped IPv6 too) is a loopback address."""
    try:
        parsed = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_loopback


def _admits(entry: AllowedHost, name: str, port: int | None, listening: int | None) -> bool:
    if entry.name != name:
        return False
    if entry.any_port or listening is None:
        return True
    return port == entry.port if entry.port is not None else port in (None, listening)


def _is_arrival(name: str, port: int | None, local: tuple[str, int]) -> bool:
    try:
        asked, reached = ipaddress.ip_address(name.strip("[]")), ipaddress.ip_address(local[0].split("%", 1)[0])
    except ValueError:
        return False
    if isinstance(reached, ipaddress.IPv6Address) and reached.ipv4_mapped is not None:
        reached = reached.ipv4_mapped
    return asked == reached and port in (None, local[1])


def _basic_password(authorization: bytes | None) -> bytes | None:
    if authorization is None or authorization[:6].lower() != b"basic ":
        return None
    try:
        return base64.b64decode(authorization[6:].strip(), validate=True).partition(b":")[2] or None
    except binascii.Error:
        return None
