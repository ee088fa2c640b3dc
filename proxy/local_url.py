"""An upstream's address, pasted from anywhere, as the address that a local tool asks for. Pure.

What people paste is a URL from the Data Explorer's developer box, a page about an API or a colleague's script: in
quotes, behind `curl`, with spaces that a browser shows decoded. Path and query are kept as they are otherwise.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from proxy.errors import BadRequest, NotAllowed
from proxy.headers import has_token_in_query
from proxy.upstreams import Match, Upstream, judge, split_target

_QUOTED = re.compile(r"""(?i)(["'`])(https?://.+?)\1|<(https?://[^>]+)>""")
_WHOLE = re.compile(r"(?i)https?://[^\r\n]+")
"""A text that is nothing but an address, as a browser's address bar gives it: with the spaces that it shows."""
_WITHIN = re.compile(r"(?i)\bhttps?://[^\s\"'<>`]+")
_BARE = re.compile(r"(?i)(?:[a-z0-9-]+\.)+[a-z]{2,}(?::\d+)?(?:[/?][^\s\"'<>`]*)?|localhost:\d+[^\s\"'<>`]*")
_TRAILING = ".,;)]}\\"
_KEPT = "/?#[]@!$&'()*+,;=:%~-._|^{}"
"""Characters that a pasted URL keeps; everything else is what a browser shows decoded."""
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Fit:
    """One mount on which the address can be reached."""

    url: str
    """The local URL."""
    upstream: Upstream
    notes: tuple[str, ...] = ()
    """Sentences about what is different there."""


@dataclass(frozen=True, slots=True)
class LocalUrl:
    """The answer to a pasted address."""

    fits: tuple[Fit, ...]
    """Best first; empty if no mount leads there."""
    reason: str
    """Why this mount, or why none; one sentence or two."""

    @property
    def url(self) -> str | None:
        return self.fits[0].url if self.fits else None


@dataclass(frozen=True, slots=True)
class _Address:
    scheme: str
    host: str
    port: int
    path: str
    query: str
    notes: tuple[str, ...]

    @property
    def authority(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return shown if self.port == _DEFAULT_PORTS[self.scheme] else f"{shown}:{self.port}"


def local_url(pasted: str, upstreams: Sequence[Upstream], base_url: str) -> LocalUrl:
    """Return where `pasted` is reached through the proxy whose origin is `base_url` (`http://localhost:8400`)."""
    address = _address(pasted)
    if address is None:
        return LocalUrl((), "There is no web address in this text; one begins with https:// or http://.")
    if _is_own(address, base_url):
        return _already_local(address, upstreams, base_url)
    if has_token_in_query(address.query.encode()):
        return LocalUrl((), "The address carries access_token=…: leave it away, the proxy presents a token of its own.")
    return _mounted(address, upstreams, base_url)


def _mounted(address: _Address, upstreams: Sequence[Upstream], base_url: str) -> LocalUrl:
    there = [one for one in upstreams if _is_host_of(one, address)]
    if not there:
        hosts = ", ".join(dict.fromkeys(one.authority for one in upstreams)) or "none"
        return LocalUrl((), f"No mount leads to {address.authority}. Mounted hosts: {hosts}.")
    target = (address.path or "/") + address.query
    try:
        path, query = split_target(target.encode())
    except BadRequest as error:
        return LocalUrl((), error.detail)
    within = sorted((one for one in there if _holds(one, path)), key=lambda one: -len(one.base_path))
    if not within:
        held = ", ".join(dict.fromkeys(one.url for one in there))
        return LocalUrl((), f"{address.authority} is mounted, but only what is below {held}.")
    deepest = [one for one in within if len(one.base_path) == len(within[0].base_path)]
    fits = tuple(_fit(one, path, query, base_url, address) for one in deepest)
    one = deepest[0]
    return LocalUrl(fits, f"[upstream.{one.name}] stands for {one.url} and is mounted at {one.mount}.")


def _written(text: str) -> str | None:
    """Return the address in a text, as it is written there; one without a scheme is taken for https."""
    if quoted := _QUOTED.search(text):
        return quoted[2] or quoted[3]
    if whole := _WHOLE.match(text):
        return whole[0].rstrip()  # an SDMX key may well end with a full stop
    if within := _WITHIN.search(text):
        return within[0].rstrip(_TRAILING)
    bare = _BARE.search(text)
    return None if bare is None else f"https://{bare[0]}".rstrip(_TRAILING)


def _address(pasted: str) -> _Address | None:
    written = _written(pasted.strip())
    if written is None:
        return None
    notes = []
    encoded = quote(written, safe=_KEPT)
    if encoded != written:
        notes.append("Characters that may not stand in a URL are percent-encoded.")
    try:
        parts = urlsplit(encoded)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host:
        return None
    if parts.username is not None:
        notes.append("User name and password are left out: the proxy presents a token of its own.")
    if parts.fragment:
        notes.append("What stands behind # is for browsers alone and is left out.")
    scheme = parts.scheme.lower()
    has_query = parts.query or encoded.partition("#")[0].endswith("?")
    query = f"?{parts.query}" if has_query else ""
    return _Address(scheme, host, port or _DEFAULT_PORTS[scheme], parts.path, query, tuple(notes))


def _is_own(address: _Address, base_url: str) -> bool:
    own = urlsplit(base_url)
    return address.host in (*_OWN_NAMES, own.hostname) and address.port == (own.port or _DEFAULT_PORTS["http"])


def _already_local(address: _Address, upstreams: Sequence[Upstream], base_url: str) -> LocalUrl:
    target = f"{address.path}{address.query}"
    mounts = sorted(upstreams, key=lambda one: -len(one.mount))
    one = next((one for one in mounts if f"{address.path}/".startswith(f"{one.mount}/")), None)
    if one is None:
        return LocalUrl((), "This is an address of the proxy itself, and no mount holds its path.")
    return LocalUrl((Fit(base_url + target, one, address.notes),), "This address is a local one already.")


def _is_host_of(upstream: Upstream, address: _Address) -> bool:
    if upstream.host != address.host:
        return False
    is_plain = address.scheme == "http" and address.port == 80  # old pages and scripts: the service redirects to https
    return upstream.port == address.port or (is_plain and upstream.port == 443)


def _holds(upstream: Upstream, path: bytes) -> bool:
    return path == upstream.base_path or path.startswith(upstream.base_path + b"/")


def _fit(upstream: Upstream, path: bytes, query: bytes, base_url: str, address: _Address) -> Fit:
    rest = path[len(upstream.base_path) :]
    notes = [*address.notes]
    if upstream.scheme != address.scheme:
        notes.append(f"The proxy speaks {upstream.scheme} to it.")
    if upstream.accept is not None:
        notes.append(f"Tools that ask for no format get {upstream.accept}.")
    try:
        judge(Match(upstream, upstream.mount.encode(), rest, query), "GET")
    except (NotAllowed, BadRequest) as error:
        notes.append(f"Reading it will be refused: {error.detail}")
    return Fit(base_url + upstream.mount + (rest + query).decode(), upstream, tuple(notes))
