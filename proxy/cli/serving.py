"""`serve`."""

import asyncio
import atexit
import gc
import sys
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from proxy.app import App
from proxy.cli.calling import caller
from proxy.cli.command import ConfigOption, is_interactive, run
from proxy.cli.several import serve_by
from proxy.cli.spans import with_spans
from proxy.clock import SystemClock
from proxy.config import Configuration, load
from proxy.events import Emit, Event, Listening
from proxy.logs import LEVELS, Log, bridge_libraries
from proxy.server import stop_on_signals


class LogFormat(StrEnum):
    """How lines are written; `[log] format` knows `auto` besides, which is the choice by where they go."""

    TEXT = "text"
    JSON = "json"


def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: server.host, 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one. Default: server.port.")
    ] = None,
    uds: Annotated[Path | None, typer.Option(help="Unix socket to listen on as well. Default: server.uds.")] = None,
    log_level: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(LEVELS)}. Default: log.level, info.", show_default=False)
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(help="text, or json: one object a line. Default: log.format, auto.", show_default=False),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that serve, and share the sign-ins through the store (Linux).")
    ] = 1,
) -> None:
    """Serve the configured upstreams on this machine until Ctrl-C."""
    overrides = {"server.host": host, "server.port": port, "server.uds": uds}
    overrides |= {"log.level": log_level, "log.format": log_format and log_format.value}
    configuration = load(config, overrides=overrides)  # its warnings go to the log, in the log's format
    log = log_of(configuration)
    if workers > 1:
        sys.exit(serve_by(workers, configuration, log))
    is_calm = is_interactive() and not is_for_programs(configuration)
    with with_spans(configuration, log) as emit:
        app = App(configuration, emit=emit, call=caller(configuration))
        gc.freeze()  # what lives as long as the process is not looked through, neither now nor again and again
        run(_serve(app, log, is_calm=is_calm))


def is_for_programs(configuration: Configuration) -> bool:
    """Return whether the log is JSON lines: where that was asked for, and where no person reads."""
    said = configuration.log.format
    return said == "json" or (said == "auto" and not is_interactive())


def log_of(configuration: Configuration) -> Log:
    """Return the log that the configuration asks for, and send the libraries' errors to it."""
    settings = configuration.log
    log = Log(
        SystemClock(),
        level=settings.level,
        is_json=is_for_programs(configuration),
        access=settings.access,
        is_combined=settings.access_format == "combined",
        show=_shown() if is_interactive() else None,
    )
    bridge_libraries(log)
    atexit.register(log.flush)
    return log


def _shown() -> Callable[[datetime, Event], None]:
    from proxy.cli.log_lines import shown_on  # the console, which a server without a terminal has no use for
    from proxy.cli.terminal import err

    return shown_on(err)


async def _serve(app: App, emit: Emit, *, is_calm: bool) -> None:
    listeners = app.bind()
    stop = asyncio.Event()
    stop_on_signals(stop)

    def ready() -> None:
        if is_calm:
            from proxy.cli.overview import print_overview  # the console again

            print_overview(app)
        else:
            emit(Listening(tuple(listener.url for listener in listeners)))

    async with app:
        await app.serve(listeners, stop, ready=ready)
