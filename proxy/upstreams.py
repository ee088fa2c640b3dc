"""Upstreams, the mounts they stand on, and the policy that each carries: values and pure functions.

Everything works on the raw request target, bytes as received; nothing here decodes what is sent (http-law H28-H33).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from proxy.errors import BadRequest, NotAllowed
from proxy.identities import Network
from proxy.secret_refs import Secret

SAFE_METHODS = frozenset({"GET", "HEAD"})
RELAYED_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True)
class Upstream:
    """One protected API and the place where local callers find it."""

    name: str
    scheme: str
    """`http` or `https`."""
    host: str
    """Host name or address, lower case, an IPv6 literal without brackets."""
    port: int
    base_path: bytes = b""
    """Raw path prefix at the upstream, without a trailing slash; empty for the root."""
    mount: str = "/"
    """Local path prefix on the shared port, without a trailing slash."""
    listen: tuple[str, int] | None = None
    """(host, port) of a listener that carries this upstream alone, at `/`."""
    identity: str | None = None
    """Name of the identity whose token is presented; None presents no token."""
    headers: tuple[tuple[str, Secret], ...] = ()
    """Static fields set on each request, replacing the caller's."""
    accept: str | None = None
    accept_language: str | None = None
    methods: frozenset[str] | None = None
    """Allowed methods; None allows all that are relayed."""
    read_only: bool = False
    reading_posts: tuple[str, ...] = ()
    """POST paths that only read, as shell-like segment patterns (`/registry/*/list`), for `read_only`."""
    deny: tuple[str, ...] = ()
    """Path prefixes (segment-wise, relative to the mount) that are never relayed."""
    passes_cookies: bool = False
    """Whether cookies cross the relay, in both directions and for this mount alone."""
    passes_token_echo: bool = False
    """Whether an answer may hold the access token that was presented."""
    drops_csv_suffix: bool = False
    """True drops a trailing `.csv` of the path before relaying: spreadsheets go by the extension."""
    token_fault: str | None = None
    """JSON `detail` by which a 401 blames the token itself; any other `detail` is about permission and costs no renewal
    (Provena answers 401 for a missing role too). None lets every 401 count against the token."""
    probe: str | None = None
    """A path below the base path that asks for a token, to try a sign-in with; None tries the base path."""
    connect_timeout: float = 10.0
    first_byte_timeout: float = 1800.0
    idle_timeout: float = 300.0
    total_timeout: float | None = None
    """Seconds for a request and its answer altogether; None lets them take as long as bytes move."""
    max_requests: int = 500
    """Requests at once."""
    replay_limit: int = 256 << 20
    """Bytes of a request's body that are kept for a second try; a longer one is sent once."""
    network: Network = field(default=Network())
    http2: bool = False
    """True lets the connection be HTTP/2 where the upstream speaks it."""

    host_value: bytes = field(init=False, repr=False, compare=False)
    """`authority` as it stands in Host."""
    allowed_methods: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Methods in the order in which `Allow` names them."""

    def __post_init__(self) -> None:
        """Work out what each request asks for."""
        object.__setattr__(self, "host_value", self.authority.encode("ascii"))
        object.__setattr__(self, "allowed_methods", self._allowed_methods())

    @property
    def authority(self) -> str:
        """Value of Host: the port only where it is not the scheme's own (RFC 9110 4.2.1)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def url(self) -> str:
        """The configured URL, with its base path."""
        return self.origin + self.base_path.decode("ascii")

    def _allowed_methods(self) -> tuple[str, ...]:
        allowed = set(RELAYED_METHODS if self.methods is None else self.methods)
        if self.read_only:
            allowed &= SAFE_METHODS | ({"POST"} if self.reading_posts else set())
        return tuple(method for method in RELAYED_METHODS if method in allowed)


@dataclass(slots=True)
class Match:
    """Where a request goes."""

    upstream: Upstream
    mount: bytes
    """The prefix that the caller used: the mount, or empty on the upstream's own listener."""
    path: bytes
    """Raw path below the mount: empty or starting with `/`."""
    query: bytes
    """`?` and all behind it as sent, or empty; an empty query keeps its `?`."""

    @property
    def target(self) -> bytes:
        """Request target to send to the upstream (RFC 9112 3.2.1)."""
        path = self.path
        if self.upstream.drops_csv_suffix and path[-4:].lower() == b".csv":
            path = path[:-4]
        return (self.upstream.base_path + path or b"/") + self.query


class Mounts:
    """Look-up of the upstream by the raw path, longest mount first, on segment boundaries only."""

    def __init__(self, upstreams: Iterable[Upstream]) -> None:
        self._by_mount: Mapping[bytes, Upstream] = {one.mount.encode("ascii"): one for one in upstreams}
        self._deepest = max((mount.count(b"/") for mount in self._by_mount), default=0)

    @property
    def names(self) -> tuple[str, ...]:
        """The mounts, in the order of the configuration."""
        return tuple(mount.decode("ascii") for mount in self._by_mount)

    def match(self, path: bytes, query: bytes) -> Match | None:
        """Return where (`path`, `query`) goes, or None; both raw, as `split_target` returned them."""
        segments = path.split(b"/", self._deepest + 1)
        for depth in range(min(self._deepest, len(segments) - 1), 0, -1):
            mount = b"/".join(segments[: depth + 1])
            upstream = self._by_mount.get(mount)
            if upstream is not None:
                return Match(upstream, mount, path[len(mount) :], query)
        return None


_PLAIN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/?!$&'()*+,;=:@"
"""What a target may hold as it is (RFC 3986 3.3)."""
_BAD_PATH = re.compile(rb"[#\\\x00-\x20\x7f-\xff]|%(?![0-9A-Fa-f]{2})|%(?:00|0[aAdD])")
_BAD_QUERY = re.compile(rb"[#\x00-\x20\x7f-\xff]")
# Whole segments only, in any spelling; an encoded slash bounds one too, since the upstream may decode it (H31).
_DOT_SEGMENT = re.compile(rb"(?i)(?:[/\\]|%(?:25)*(?:2f|5c))(?:\.|%(?:25)*2e){1,2}(?=[/\\;]|%(?:25)*(?:2f|5c|3b)|$)")


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Split an origin-form request target into its raw path and its query with the `?`.

    Raises BadRequest for what must never be relayed: dot segments in any spelling, `//` in front, control and
    non-ASCII bytes, `#`, a backslash, a broken percent-encoding or an encoded NUL, CR or LF in the path (H30, H31).
    """
    mark = target.find(b"?")
    path, query = (target, b"") if mark < 0 else (target[:mark], target[mark:])
    if not path.startswith(b"/"):
        raise BadRequest("The request target must start with '/'.")
    if path.startswith(b"//"):
        raise BadRequest("The path must not start with '//': give the tool a base URL without a trailing slash.")
    if not target.translate(None, _PLAIN) and b"/." not in path:
        return path, query  # nearly all of them: what is searched for below cannot stand there
    if _BAD_PATH.search(path) or _BAD_QUERY.search(query):
        raise BadRequest("The path holds a byte or a percent-encoding that a URL may not hold; encode it as %XX.")
    if has_dot_segment(path):
        raise BadRequest(
            "The path holds a '.' or '..' segment, which could leave the mount; in an SDMX key write 'all' instead."
        )
    return path, query


def has_dot_segment(path: bytes) -> bool:
    """Return whether a raw path holds a `.` or `..` segment in any spelling."""
    if b"/." not in path and b"%" not in path and b"\\" not in path:
        return False  # the search below, for most paths, at a tenth of its price
    return _DOT_SEGMENT.search(path) is not None


def judge(match: Match, method: str) -> None:
    """Raise NotAllowed if the upstream's policy forbids the request, BadRequest if it cannot be judged.

    Judged is a copy of the path: percent-decoded once, `;…` cut, empty segments collapsed, case-folded. The raw bytes
    are what is sent (issue 3).
    """
    upstream = match.upstream
    allowed = upstream.allowed_methods
    if method not in allowed:
        raise NotAllowed(
            f"{method} is not allowed on {upstream.mount}; allowed: {', '.join(allowed)}. "
            f"See methods and read_only of [upstream.{upstream.name}].",
            allow=", ".join(allowed),
        )
    if not upstream.deny and not upstream.read_only:
        return
    segments = judged_segments(match.path)
    if upstream.deny and any(b"%" in segment for segment in segments):
        raise BadRequest("The path is percent-encoded twice, which this mount's deny rules cannot judge.")
    for rule in upstream.deny:
        prefix = judged_segments(rule.encode())
        if segments[: len(prefix)] == prefix:
            raise NotAllowed(f"{rule} is never relayed on {upstream.mount}: deny of [upstream.{upstream.name}].")
    if upstream.read_only and method == "POST" and not any(_fits(segments, one) for one in upstream.reading_posts):
        raise NotAllowed(
            f"{upstream.mount} is read only, and this POST is not one that is known to read.", allow="GET, HEAD"
        )


def judged_segments(path: bytes) -> list[bytes]:
    """Return the segments of a raw path as the policy sees them."""
    decoded = unquote_to_bytes(path).replace(b"\\", b"/").decode("utf-8", "surrogateescape").casefold()
    folded = decoded.encode("utf-8", "surrogateescape")
    return [segment for part in folded.split(b"/") if (segment := part.split(b";", 1)[0])]


def _fits(segments: list[bytes], pattern: str) -> bool:
    wanted = judged_segments(pattern.encode())
    if wanted and wanted[-1] == b"**":
        segments, wanted = segments[: len(wanted) - 1], wanted[:-1]
    if len(segments) != len(wanted):
        return False
    return all(want in (b"*", have) for have, want in zip(segments, wanted, strict=True))
