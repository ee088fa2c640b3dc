"""What becomes of a request, decided by its head alone: guard, match, policy, law. Pure, so that tables test it."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import BadRequest, LoopDetected, NotAllowed, NoUpstream, ProxyError
from proxy.guard import Arrival, Callback, Guard
from proxy.headers import Fields, first, has_token_in_query, masked_target, values
from proxy.upstreams import RELAYED_METHODS, Match, Mounts, Upstream, judge, split_target

# Office programs ask before they read, signed in or not; a 503 here would stop them (facts on clients, C9).
ANSWERED_HERE = frozenset({"OPTIONS", "PROPFIND", "LOCK"})
CALLBACK = b"/-/callback"
"""The page to which the issuer sends a browser back."""
_ALL_METHODS = ", ".join(RELAYED_METHODS).encode()


class Mounted(Protocol):
    """Something of ours below a mount that is no upstream."""

    mount: bytes


@dataclass(slots=True)
class Onward:
    """Relay it to an upstream."""

    match: Match
    extra: Fields
    """What joins the answer's fields."""


@dataclass(slots=True)
class Within:
    """Let the face of ours serve it."""

    mount: bytes
    path: bytes
    """Raw path below the mount."""
    query: bytes
    extra: Fields


@dataclass(slots=True)
class Control:
    """Let the control plane serve it."""


@dataclass(slots=True)
class Empty:
    """Answer with a status, fields and nothing more."""

    status: int
    fields: Fields


@dataclass(slots=True)
class Refusal:
    """Answer with a failure of our own."""

    error: ProxyError


Decision = Onward | Within | Control | Empty | Refusal


class Rules:
    """All that decisions are made by, fixed when the listeners are bound."""

    def __init__(
        self,
        guard: Guard,
        mounts: Mounts,
        pseudonym: bytes,
        within: Sequence[Mounted] = (),
        *,
        is_callback_awaited: Callable[[], bool] = lambda: False,
    ) -> None:
        """`pseudonym` is ours in Via; `within` serves below mounts without an upstream."""
        self.own_ports: Mapping[int, Upstream] = {}
        """Upstream by the port that it has to itself."""
        self.guard = guard
        self._mounts = mounts
        self._pseudonym = pseudonym
        self._within = tuple(one.mount for one in within)
        self._is_callback_awaited = is_callback_awaited

    def decide(self, method: str, target: bytes, fields: Fields, arrival: Arrival) -> Decision:
        """Return what becomes of a request; `target` is raw, in origin-form, names of `fields` are in lower case."""
        try:
            own = self.own_ports.get(arrival.local[1]) if self.own_ports and arrival.local is not None else None
            callback = self._callback(method, target, own) if target.startswith(CALLBACK) else Callback.NONE
            names = {name for name, _ in fields}
            self.guard.check(fields, arrival, callback=callback, names=names)
            return self._routed(method, target, fields, names, own)
        except ProxyError as error:
            return Refusal(error)

    def _callback(self, method: str, target: bytes, own: Upstream | None) -> Callback:
        """Return what the request is to the sign-ins that wait; upstreams' own ports know no page of ours."""
        if own is not None or method != "GET" or target.partition(b"?")[0] != CALLBACK:
            return Callback.NONE
        return Callback.AWAITED if self._is_callback_awaited() else Callback.UNCALLED

    def _routed(
        self, method: str, target: bytes, fields: Fields, names: AbstractSet[bytes], own: Upstream | None
    ) -> Decision:
        if b"via" in names and any(self._pseudonym in line for line in values(fields, b"via")):
            # H65: our own pages are no way out of it
            raise LoopDetected("An upstream of this proxy leads back to it; correct its url.")
        extra = self.guard.cross_origin_fields(fields) if b"origin" in names else []
        if target == b"*" and method == "OPTIONS":
            return Empty(200, [(b"allow", _ALL_METHODS), *extra])
        path, query = split_target(target)
        match = self._mounts.match(path, query) if own is None else Match(own, b"", path, query)
        if method in ANSWERED_HERE:
            return _answered(method, fields, match, extra)
        if own is None and path.startswith(self._within):
            for mount in self._within:
                if path == mount or path.startswith(mount + b"/"):
                    return Within(mount, path[len(mount) :], query, extra)
        if match is None:
            if is_page(path):
                return Control()
            raise NoUpstream(self._what_is_mounted(path))
        judge(match, method)
        if query and has_token_in_query(query):
            raise BadRequest("Tokens do not travel in URLs: leave access_token= away, bearerproxy presents its own.")
        return Onward(match, extra)

    def _what_is_mounted(self, path: bytes) -> str:
        names = ", ".join(self._mounts.names) or "none"
        return f"No mount holds {masked_target(path[:200])}. Mounts: {names}."


def _answered(method: str, fields: Fields, match: Match | None, extra: Fields) -> Empty:
    """Answer OPTIONS and its kin without a token; a preflight only for an allow-listed origin (S4)."""
    allow = ", ".join(match.upstream.allowed_methods).encode() if match is not None else _ALL_METHODS
    if method == "OPTIONS" and extra and first(fields, b"access-control-request-method") is not None:
        permission = [
            (b"access-control-allow-methods", allow),
            (b"access-control-allow-headers", first(fields, b"access-control-request-headers") or b"*"),
            (b"access-control-max-age", b"600"),
        ]
        return Empty(204, [*extra, *permission])
    raise NotAllowed(f"{method} is not relayed; read with GET.", allow=allow.decode())


def is_page(target: bytes) -> bool:
    """Return whether a target is one of our own pages."""
    path = target.partition(b"?")[0]
    return path in (b"/", b"/-") or path.startswith(b"/-/")
