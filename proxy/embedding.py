"""The relay as an ASGI application, to be mounted in a Starlette or FastAPI application of somebody's own.

    forwarder = Forwarder("proxy.toml", allowed_hosts=["data.example.org"])

    @asynccontextmanager
    async def lifespan(app):
        async with forwarder:
            yield

    app = Starlette(routes=[Mount("/data", app=forwarder)], lifespan=lifespan)

docs/embedding.md says what the server in front of it must do.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from proxy.app import App
from proxy.asgi import Receive, Scope, Send
from proxy.clock import SystemClock
from proxy.config import Configuration, load
from proxy.errors import BearerproxyError, CallerGone
from proxy.events import Emit, Event, Warned
from proxy.guard import AllowedHost
from proxy.logs import level_of, printable, sentence
from proxy.resume_watch import ResumeWatch
from proxy.tasks import Tasks

_LOGGER = logging.getLogger("bearerproxy")


def to_logging(event: Event) -> None:
    """Tell the logger `bearerproxy` of an event."""
    _LOGGER.log(level_of(event), "%s", printable(sentence(event)))


class Forwarder:
    """Relays what lies below its mount to the configured upstreams, each with its token.

    `configuration` is the path of a file, or what proxy.config.load returned. `allowed_hosts` are the names by which
    callers know the application (`name`, `name:port` or `name:*`), besides this machine's own; they take the place of
    those in the configuration, of which the listener's settings (`host`, `port`, `uds`, `same_user`) and `datasets`
    mean nothing here. `emit` is told of everything that happens. Raises ConfigError for a configuration that is wrong,
    and ValueError for hosts that are.

    It serves while it is entered (`async with`), in one event loop at a time; Starlette enters nothing that is mounted.
    As an application of its own it answers to the server's lifespan.
    """

    def __init__(
        self, configuration: Configuration | Path | str, *, allowed_hosts: Sequence[str], emit: Emit = to_logging
    ) -> None:
        if isinstance(allowed_hosts, str) or not allowed_hosts:
            raise ValueError('allowed_hosts must be a list of the names of your application, as ["data.example.org"]')
        for entry in allowed_hosts:
            AllowedHost.parse(entry)
        if not isinstance(configuration, Configuration):
            configuration = load(Path(configuration), overrides={"server.allowed_hosts": list(allowed_hosts)})
        server = replace(configuration.server, allowed_hosts=tuple(allowed_hosts))
        self.configuration = replace(configuration, server=server)
        self._emit = emit
        self._app: App | None = None
        self._tasks = Tasks()

    async def __aenter__(self) -> Self:
        if self._app is not None:
            raise RuntimeError("this Forwarder serves already: enter it once, in the lifespan of your application")
        app = App(self.configuration, emit=self._emit)
        await app.__aenter__()
        for warning in self.configuration.warnings:
            self._emit(Warned(warning))
        _ = self._tasks.start(ResumeWatch(app.resumed, clock=SystemClock()).run(), name="resume watch")
        self._app, self._relay = app, app.mountable()
        return self

    async def __aexit__(self, *_: object) -> None:
        app, self._app = self._app, None
        await self._tasks.close()
        if app is not None:
            await app.__aexit__(None, None, None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan. Raises BrokenOff where the server has to cut the connection."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif self._app is None:
            raise RuntimeError("this Forwarder is not entered: use `async with` in the lifespan of your application")
        elif not scope.get("raw_path"):
            raise RuntimeError("this server gives no raw_path, without which a path cannot be relayed as it came")
        else:
            try:
                await self._relay(scope, receive, send)
            except CallerGone:
                return  # nobody is there to be told

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.__aenter__()
        except BearerproxyError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.__aexit__()
        await send({"type": "lifespan.shutdown.complete"})
