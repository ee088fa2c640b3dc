"""Listeners: sockets bound by us, served by uvicorn with the hardened protocol, drained at the end."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from uvicorn import Config, Server

from proxy.asgi import ASGIApp
from proxy.clock import SystemClock
from proxy.errors import BearerproxyError
from proxy.guard import Guard, is_loopback
from proxy.holders import port_holder, socket_holder
from proxy.lane import Lanes
from proxy.limits import Limits, Room
from proxy.protocol import Protocol, Refused

_DRAIN_LOOK_SECONDS = 0.05
"""How often the end looks whether everything has ended."""
_CUT_SECONDS = 5.0
"""How long a request that is cut may take to let go of what it holds."""


class ListenError(BearerproxyError):
    """A listener cannot be opened; the text names the cure."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One bound socket and how callers write it."""

    socket: socket.socket
    url: str
    """`http://127.0.0.1:8400`, or `unix:/path`."""
    port: int | None
    file: tuple[int, int] | None = None
    """Device and inode of a unix socket."""

    def close(self) -> None:
        """Close the socket, and remove what it leaves in the file system unless somebody has replaced it."""
        self.socket.close()
        if self.file is None:
            return
        place = Path(self.url.removeprefix("unix:"))
        with contextlib.suppress(OSError):  # gone with its folder
            found = place.lstat()
            if (found.st_dev, found.st_ino) == self.file:
                place.unlink()


def bind(host: str, port: int, *, allow_remote: bool) -> list[Listener]:
    """Bind `host`:`port`; the loopback default binds ::1 beside 127.0.0.1 where IPv6 exists. 0 is an ephemeral port.

    Raises ListenError if the port is taken: moving to another one would send data to whoever holds it (S14), or if
    what was bound is not loopback though `allow_remote` is off (S9: the socket is asked, not the setting).
    """
    if port == 0:
        for _ in range(4):  # what is free on one address may be taken on the other
            with contextlib.suppress(_TakenError):
                return _bind(host, port, allow_remote=allow_remote)
    return _bind(host, port, allow_remote=allow_remote)


def _bind(host: str, port: int, *, allow_remote: bool) -> list[Listener]:
    is_default = host in ("127.0.0.1", "localhost")
    first = _bind_one("127.0.0.1" if is_default else host, port, allow_remote=allow_remote)
    if not is_default or not socket.has_ipv6:
        return [first]
    try:
        return [first, _bind_one("::1", first.port or port, allow_remote=allow_remote)]
    except _NoAddressError:
        return [first]
    except ListenError:
        first.socket.close()
        raise


class _NoAddressError(ListenError):
    """This machine does not have the address."""


class _TakenError(ListenError):
    """Somebody else listens there."""


def _bind_one(host: str, port: int, *, allow_remote: bool) -> Listener:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise _NoAddressError(f"server.host {host!r} is not an address of this machine: {error.strerror}.") from error
    try:
        listening = socket.socket(family, kind, protocol)
    except OSError as error:  # a kernel without IPv6 still resolves ::1
        raise _NoAddressError(f"{host} is not an address of this machine: {error.strerror}.") from error
    try:
        if sys.platform == "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        if not allow_remote and not is_loopback(listening.getsockname()[0]):
            listening.close()
            raise ListenError(f"{host} is not a loopback address: set server.allow_remote to listen there.")
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise _why_not(error, host, port) from error
    bound = listening.getsockname()
    shown = f"[{bound[0]}]" if family == socket.AF_INET6 else bound[0]
    return Listener(listening, f"http://{shown}:{bound[1]}", bound[1])


def _why_not(error: OSError, host: str, port: int) -> ListenError:
    is_taken = error.errno == errno.EADDRINUSE
    if sys.platform == "win32":  # a port that another program holds exclusively is denied there, not in use
        is_taken = is_taken or error.errno == errno.EACCES
    if is_taken:
        holder = port_holder(host, port)
        return _TakenError(
            f"Port {port} on {host} is taken{' ' * bool(holder)}{holder}. "
            f"{'Use or stop that one' if 'another bearerproxy' in holder else 'Stop that program'}, "
            "or choose another port: --port 8401."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return _NoAddressError(f"{host} is not an address of this machine.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ListenError(f"Port {port} may not be opened by this user; choose one above 1023.")
    return ListenError(f"Cannot listen on {host} port {port}: {error.strerror or error}.")


def bind_unix(path: str) -> Listener:
    """Bind a unix socket of mode 0600; its folder is made 0700 if missing. Raises ListenError.

    A socket that nobody answers on is a leftover and replaced; anything else in the way is not ours to remove.
    """
    if sys.platform == "win32":
        raise ListenError("server.uds is not available on Windows.")
    place = Path(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_folder(place.parent)
        with _alone_in(place.parent):
            _clear_leftover(place)
            if sys.platform == "linux":
                os.fchmod(listening.fileno(), 0o600)  # the mode with which bind makes the file, whatever the umask
            listening.bind(path)
            place.chmod(0o600)  # for other systems; nobody can connect before the next line
            listening.listen(2048)
            made = place.lstat()
    except OSError as error:
        listening.close()
        raise ListenError(f"Cannot listen on {path}: {error.strerror or error}.") from error
    except ListenError:
        listening.close()
        raise
    return Listener(listening, f"unix:{path}", None, (made.st_dev, made.st_ino))


def _check_folder(folder: Path) -> None:
    """Raise ListenError for a folder in which another user could put a socket in the place of ours."""
    if sys.platform == "win32":
        return
    seen = folder.stat()
    if seen.st_uid not in (os.geteuid(), 0):  # its owner may rename what is in it, whatever its mode (unlink(2))
        raise ListenError(f"{folder}, the folder of server.uds, belongs to another user: choose another.")
    if seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not seen.st_mode & stat.S_ISVTX:
        raise ListenError(f"Others may write in {folder}, the folder of server.uds: chmod 700 it, or choose another.")


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep others of us out of `folder` meanwhile: two that start at once would take each other's for a leftover."""
    if sys.platform == "win32":
        raise ListenError("server.uds is not available on Windows.")
    import fcntl

    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _clear_leftover(place: Path) -> None:
    """Remove a socket that nobody answers on. Raises ListenError for anything else in the way."""
    if sys.platform == "win32" or not os.path.lexists(place):
        return
    if not stat.S_ISSOCK(place.lstat().st_mode):
        raise ListenError(f"server.uds {place} exists and is not a socket.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(place))
        except ConnectionRefusedError:
            place.unlink()
            return
        holder = socket_holder(probe) or "by another program"
    raise ListenError(f"server.uds {place} is in use {holder}. Stop that program, or choose another path.")


class _Server(Server):
    """uvicorn's server with an end of our own: status 0 whatever the signal, and no look ten times a second."""

    def __init__(
        self,
        config: Config,
        *,
        ready: Callable[[], None],
        stop: asyncio.Event,
        drain_seconds: float,
        warn: Callable[[str], None],
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._stop = stop
        self._drain_seconds = drain_seconds
        self._warn = warn

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def main_loop(self) -> None:
        await self._stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, close what is idle, let what runs end within the drain, and cut the rest visibly."""
        state = self.server_state
        for server in self.servers:
            server.close()
        for listening in sockets or []:
            listening.close()
        for connection in list(state.connections):
            connection.shutdown()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain_seconds
        while (state.connections or state.tasks) and loop.time() < end:
            await SystemClock().sleep(_DRAIN_LOOK_SECONDS)
        left = cast("set[Protocol]", set(state.connections))
        running = sum(one.is_answering for one in left)
        if running:
            self._warn(
                f"Cut after {self._drain_seconds:g} seconds (server.drain_seconds): {running} of the requests "
                "that ran when the signal came."
            )
        for task in list(state.tasks):
            task.cancel()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=_CUT_SECONDS)
        for connection in left:
            connection.cut()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(
    app: ASGIApp,
    listeners: Sequence[Listener],
    *,
    guard: Guard,
    refused: Refused,
    stop: asyncio.Event,
    lanes: Lanes | None = None,
    drain_seconds: float = 10.0,
    limits: Limits = Limits(),  # noqa: B008 - a frozen value
    ready: Callable[[], None] = lambda: None,
    warn: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve `app` on `listeners` until `stop` is set; then finish what runs, or cut it after `drain_seconds`.

    What `lanes` relays is kept from `app`.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its own start-up chatter says nothing of ours
    config = Config(
        app=app,
        http=partial(Protocol, guard=guard, limits=limits, room=Room(limits.connections), refused=refused, lanes=lanes),  # type: ignore[arg-type]  # it is only called
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        access_log=False,
        log_config=None,
        workers=1,
    )
    server = _Server(config, ready=ready, stop=stop, drain_seconds=drain_seconds, warn=warn)
    try:
        await server.serve(sockets=[listener.socket for listener in listeners])
    finally:
        for listener in listeners:
            listener.close()


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set `stop` at the first SIGINT or SIGTERM; a second one ends the process at once with status 1."""
    loop = asyncio.get_running_loop()

    def stopping() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stopping)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopping))
