"""How a connection is opened: name, addresses, TLS; and the faster parts that a machine may have."""

import asyncio
import importlib
import socket
import ssl
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

from proxy.tasks import Tasks
from proxy.transport.tls import Trust, ssl_context
from proxy.upstreams import Upstream

HEAD_START_SECONDS = 0.25
"""What an address gets before the next one is tried beside it (RFC 8305 5)."""
TLS_SHUTDOWN_SECONDS = 2.0

P = TypeVar("P", bound=asyncio.Protocol)
_Address = tuple[socket.AddressFamily, Any]  # Any: two or four parts, which connect() alone looks at


def raise_mmap_threshold() -> None:
    """Let glibc keep blocks of up to 1 MiB at hand; elsewhere this does nothing.

    Both event loops read TLS into a new block of 256 KiB and shrink it. That is above glibc's first threshold, so that
    each read would map, remap and unmap memory; freeing one larger block raises the threshold for good (mallopt(3)).
    """
    block = bytearray(1 << 20)
    del block


class Dialler:
    """Opens connections to one upstream."""

    def __init__(self, upstream: Upstream, trust: Trust = ssl_context) -> None:
        self._host = upstream.host
        self._port = upstream.port
        self._context: ssl.SSLContext | None = None
        if upstream.scheme == "https":
            self._context = trust(upstream.network)
            self._context.set_alpn_protocols(["http/1.1"])
        self._create = _fast_create_connection()

    async def open(self, protocol: Callable[[], P]) -> P:
        """Return a connected protocol; raises OSError (ssl.SSLError is one), or UnicodeError for an impossible name."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        connected = await first_reached(_interleaved([(family, address) for family, *_, address in found]))
        options: dict[str, Any] = {}  # Any: the keywords of create_connection
        if self._context is not None:
            options = {
                "ssl": self._context,
                "server_hostname": self._host,
                "ssl_shutdown_timeout": TLS_SHUTDOWN_SECONDS,
            }
        try:
            if self._create is not None and _tells_resets(loop):
                _, opened = await self._create(loop, protocol, sock=connected, **options)
            else:
                _, opened = await loop.create_connection(protocol, sock=connected, **options)
        except BaseException:
            connected.close()
            raise
        made: P = opened
        return made


def _fast_create_connection() -> Callable[..., Any] | None:  # Any: it has the types of the loop's own
    """Return aiofastnet's way to make a connection, if it is there with the fast TLS that it is for (extra `fast`)."""
    try:
        aiofastnet = importlib.import_module("aiofastnet")
    except ImportError:
        return None
    is_fast = aiofastnet.OPENSSL_DYN_LIBS is not None  # None: `_ssl` is linked statically, the loop's own is faster
    create: Callable[..., Any] | None = aiofastnet.create_connection if is_fast else None
    return create


def _tells_resets(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether who watches a descriptor on `loop`, as aiofastnet does, learns of its end in any case.

    uvloop tells nobody of an error that its poll meets before a read does (libuv's UV_EBADF, MagicStack/uvloop#552): a
    caller would wait for an upstream that has reset the connection. Its own connections are not made in that way.
    """
    return not type(loop).__module__.startswith("uvloop")


def _interleaved(addresses: Sequence[_Address]) -> list[_Address]:
    """Return the addresses by turns of their families, the resolver's first choice in front (RFC 8305 4)."""
    chosen = [one for one in addresses if one[0] == addresses[0][0]]
    others = [one for one in addresses if one[0] != addresses[0][0]]
    return [one for pair in zip_longest(chosen, others) for one in pair if one is not None]


async def first_reached(
    addresses: Sequence[_Address], *, head_start_seconds: float = HEAD_START_SECONDS
) -> socket.socket:
    """Return a socket connected to the address that answers first, each with a head start over the next (RFC 8305 5).

    Raises the OSError of the last address to fail if none can be reached: a machine without IPv6 fails there at once.
    """
    if len(addresses) == 1:
        return await _reached(*addresses[0])
    owner = Tasks()
    attempts: set[asyncio.Task[socket.socket]] = set()
    failure: BaseException | None = None
    left = list(addresses)
    try:
        while left or attempts:
            if left:
                attempts.add(owner.start(_reached(*left.pop(0)), name="dial"))
            done, attempts = await asyncio.wait(
                attempts, timeout=head_start_seconds if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            for one in done:
                if one.exception() is None:
                    attempts |= done - {one}
                    return one.result()
                failure = one.exception()
    finally:
        for one in attempts:
            one.add_done_callback(_close_late)
        await owner.close()
    raise failure or OSError("the name has no address")


def _close_late(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _reached(family: socket.AddressFamily, address: Any) -> socket.socket:
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connecting, address)
    except BaseException:
        connecting.close()
        raise
    return connecting
