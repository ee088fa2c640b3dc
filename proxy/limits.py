"""What may be sent, kept open and asked for at once. Limits protect everybody else; none locks a local user out."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from proxy.asgi import ASGIApp, Message, Receive, Scope, Send
from proxy.errors import BadRequest, Overloaded
from proxy.headers import first
from proxy.upstreams import Upstream

RETRY_AFTER_SECONDS = 1
"""What a caller beyond a limit is told: a place is free again with the next answer that ends."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a caller may send, and how long it may take, before it is refused."""

    head_seconds: float = 10.0
    head_bytes: int = 64 * 1024
    head_lines: int = 200
    target_bytes: int = 48 * 1024
    """SDMX keys need 32 KiB; httptools itself ends at 64 KiB."""
    keep_alive_seconds: float = 75.0
    """How long a connection waits for its next request: longer than tools that ask every few seconds or once a minute
    wait between two, so that theirs does not meet our close."""
    linger_bytes: int = 256 << 20
    """How much of an unread request is read and dropped behind its answer, so that the caller can read that answer:
    many tools send all of an upload before they look."""
    linger_quiet_seconds: float = 2.0
    """How long nothing may come of it."""
    linger_seconds: float = 15.0
    """How long all of that may take."""
    flush_seconds: float = 30.0
    """How long a caller may read nothing of a finished answer before the connection is dropped."""
    hang_up_seconds: float = 0.4
    """How often a connection that is not being read is asked whether its caller is still there; and how long what
    answers a caller who has gone may take to notice by itself, before it is cancelled."""
    connections: int = 2000
    """Connections at once; the one that has been idle longest makes room for the next."""


def limits_for(max_requests: int) -> Limits:
    """Return the limits of a listener that relays so many requests, within the files that this process may open."""
    # A request may need its connection, one to the upstream and a file for its body; as many connections may be idle.
    most = allow_open_files(4 * max_requests + 256)
    return Limits(connections=max(2, min(2 * max_requests, most // 2)))


def allow_open_files(wanted: int) -> int:
    """Raise this process's limit of open files towards `wanted`, and return what it is then."""
    if sys.platform == "win32":  # sockets are not files there
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
    except (OSError, ValueError):  # macOS has one more limit, which it does not tell
        return soft
    return more


class Guest(Protocol):
    """A connection that takes up room."""

    def give_way(self) -> None:
        """Close at once: somebody else needs the room, and nothing is being answered here."""


class Room:
    """All connections of the process: how many there may be, and which of them goes when another comes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._busy: set[Guest] = set()
        self._idle: dict[Guest, None] = {}  # in the order in which they became idle

    def __len__(self) -> int:
        return len(self._busy) + len(self._idle)

    def enter(self, guest: Guest) -> bool:
        """Take `guest` in as idle. Returns whether there is room, which may cost the longest idle one its place."""
        self._idle[guest] = None
        if len(self) <= self._size:
            return True
        longest = next(iter(self._idle))
        if longest is guest:
            return False
        del self._idle[longest]
        longest.give_way()
        return True

    def busy(self, guest: Guest) -> None:
        """Keep `guest`: it is being answered."""
        if self._idle.pop(guest, self) is None:
            self._busy.add(guest)

    def idle(self, guest: Guest) -> None:
        """Let `guest` go when somebody else needs its place, after those that were idle before it."""
        if guest in self._busy:
            self._busy.remove(guest)
            self._idle[guest] = None

    def leave(self, guest: Guest) -> None:
        """Forget `guest`; one that gave way is forgotten already."""
        self._busy.discard(guest)
        self._idle.pop(guest, None)


class Admission:
    """How many requests are relayed at once: in total, and to each upstream, so that one that hangs blocks no other."""

    def __init__(self, total: int) -> None:
        self._limit = total
        self._total = 0
        self._by_upstream: dict[str, int] = {}

    def enter(self, upstream: Upstream) -> None:
        """Take a place for one request, to be given back by `leave`. Raises Overloaded if there is none."""
        taken = self._by_upstream.get(upstream.name, 0)
        if taken >= upstream.max_requests:
            raise Overloaded(
                f"[upstream.{upstream.name}] already answers {taken} requests, its max_requests; try again.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        if self._total >= self._limit:
            raise Overloaded(
                f"{self._total} requests are being relayed, [server] max_requests; try again.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        self._total += 1
        self._by_upstream[upstream.name] = taken + 1

    def leave(self, upstream: Upstream) -> None:
        """Give a place back."""
        self._total -= 1
        self._by_upstream[upstream.name] -= 1

    @contextmanager
    def place(self, upstream: Upstream) -> Iterator[None]:
        """Hold a place while something runs. Raises Overloaded if there is none."""
        self.enter(upstream)
        try:
            yield
        finally:
            self.leave(upstream)


class SmallBodies:
    """An ASGI app whose requests are small and come soon, as those to pages of ours are."""

    def __init__(self, app: ASGIApp, *, most_bytes: int = 64 * 1024, seconds: float = 10.0) -> None:
        self._app = app
        self._most_bytes = most_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises BadRequest (413, 408), here or out of `receive`, for a body that is not small."""
        if int(first(scope["headers"], b"content-length") or 0) > self._most_bytes:
            raise self._too_large()
        loop = asyncio.get_running_loop()
        end, received, is_whole = loop.time() + self._seconds, 0, False

        async def receiving() -> Message:
            nonlocal received, is_whole
            if is_whole:
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError as error:
                raise BadRequest(f"The body did not come within {self._seconds:g} seconds.", status=408) from error
            received += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if received > self._most_bytes:
                raise self._too_large()
            return message

        await self._app(scope, receiving, send)

    def _too_large(self) -> BadRequest:
        return BadRequest(f"Pages of this proxy take at most {self._most_bytes} bytes.", status=413)
