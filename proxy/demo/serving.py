"""ASGI applications on loopback sockets, inside a program that has a server of its own.

`uvicorn.Server` would take over the process's signals, write to the loggers that the program's own listener uses, and
wake up ten times a second; its protocol class has none of that, so it is used alone.
"""

import asyncio
import logging
import socket
import struct
from email.utils import formatdate
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from proxy.clock import Clock

BREAK = "proxy.demo.break"
"""ASGI extension of these sockets: `scope["extensions"][BREAK](reset=False)` drops the connection where it stands."""

_KEEP_ALIVE_SECONDS = 75
_STEPS_FROM_ACCEPT_TO_OURS = 3
"""Turns of the loop in which an accepted connection gets its transport and is told to its protocol."""


def bind(host: str, port: int) -> socket.socket:
    """Return a bound, not yet listening socket; `port` 0 takes a free one. Raises OSError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # TCP by number: asyncio looks for it before it sets TCP_NODELAY, without which each answer takes 40 ms longer.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)  # Windows: REUSEADDR would steal ports
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


class Listener:
    """One application on one socket."""

    def __init__(self, app: ASGIApp, bound: socket.socket, *, clock: Clock) -> None:
        self._socket = bound
        self._state = ServerState()
        self._config = uvicorn.Config(
            _Dated(app, clock),
            lifespan="off",
            ws="none",
            log_config=None,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Accept connections from now on."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Protocol(self._config, self._state, {}), sock=self._socket
        )

    def drop_connections(self) -> None:
        """Cut every open connection, in whatever it is doing; new ones are accepted."""
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()

    async def close(self) -> None:
        """Stop accepting, cut what is open, and wait until nothing runs any more."""
        if self._server is None:
            self._socket.close()
            return
        self._server.close()
        for _ in range(_STEPS_FROM_ACCEPT_TO_OURS):
            await asyncio.sleep(0)  # noqa: TID251 - yields, does not wait
        self.drop_connections()
        tasks = list(self._state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()


class _Protocol(HttpToolsProtocol):
    """Uvicorn's protocol with a logger of the demo's own, no access log, and a way to break a connection."""

    def __init__(self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config, server_state, app_state)  # Any: uvicorn's own type
        self.logger = _LOGGER
        self.access_log = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {BREAK: self._break}  # type: ignore[dict-item] # uvicorn's type knows dicts only

    def _break(self, *, reset: bool = False) -> None:
        if reset:
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST
            self.transport.abort()
        else:
            self.transport.close()


class _Dated:
    """Adds `Date`, which an origin server with a clock must send (RFC 9110 6.6.1)."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = formatdate(self._clock.wall(), usegmt=True).encode("ascii")
                message["headers"] = [(b"date", date), *message["headers"]]
            await send(message)

        await self._app(scope, receive, dated)


def _is_defect(record: logging.LogRecord) -> bool:
    """Let everything through but the cancellation of what still ran when the demo was closed."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, asyncio.CancelledError)


_LOGGER = logging.getLogger("proxy.demo")
_LOGGER.addFilter(_is_defect)
