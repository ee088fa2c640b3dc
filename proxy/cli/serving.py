"""`serve`, `demo` and `health`."""

import asyncio
import atexit
import gc
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from proxy.app import App
from proxy.cli.calling import caller
from proxy.cli.local import ask
from proxy.cli.log_lines import shown_on
from proxy.cli.several import serve_by
from proxy.cli.spans import with_spans
from proxy.cli.terminal import FAILED, ConfigOption, err, is_interactive, run
from proxy.clock import SystemClock
from proxy.config import Configuration, load, load_server
from proxy.events import Emit, Listening
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
        run(_serve(App(configuration, emit=emit, call=caller(configuration)), log, is_calm=is_calm))


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
        show=shown_on(err) if is_interactive() else None,
    )
    bridge_libraries(log)
    atexit.register(log.flush)
    return log


async def _serve(app: App, emit: Emit, *, is_calm: bool) -> None:
    listeners = app.bind()
    stop = asyncio.Event()
    stop_on_signals(stop)
    gc.collect()
    gc.freeze()  # what lives as long as the process is not looked through again and again

    def ready() -> None:
        if is_calm:
            print_overview(app)
        else:
            emit(Listening(tuple(listener.url for listener in listeners)))

    async with app:
        await app.serve(listeners, stop, ready=ready)


_STATES = {"ready": "signed in", "sign-in-required": "sign-in needed", "issuer-unavailable": "issuer away"}


def print_overview(app: App) -> None:
    """Print the mounts, the states and the page's link to standard error."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for upstream in app.configuration.upstreams:
        table.add_row(f"  [bold]{app.base_url}{upstream.mount}/[/]", f"[dim]{upstream.url}[/]", upstream.identity or "")
    err.print()
    err.print(table)
    err.print()
    for source in app.sources.values():
        status = source.status()
        colour = "green" if status.state == "ready" else "yellow"
        who = f" as {escape(status.username)}" if status.username and status.state == "ready" else ""
        words = _STATES.get(status.state, status.state)
        err.print(f"  {status.name}: [{colour}]{words}[/]{who}  {escape(status.detail)}", soft_wrap=True)
    err.print(f"\n  Status page: [link={app.base_url}/]{app.base_url}/[/]   Stop with Ctrl-C.\n")


def health(
    config: ConfigOption = None,
    ready: Annotated[bool, typer.Option("--ready", help="Ask whether every identity can serve.")] = False,
) -> None:
    """Exit 0 if the proxy on this machine is alive, 1 if not; the container image's HEALTHCHECK."""
    server = load_server(config)  # no more of it: the demo in the image has identities of its own
    answer = ask(server, "/-/ready" if ready else "/-/live")
    if answer is None:
        err.print(f"Nothing answers on port {server.port}.")
        raise typer.Exit(FAILED)
    if answer.status != 200:
        err.print(answer.body.decode("utf-8", "replace").strip() or f"status {answer.status}", markup=False)
        raise typer.Exit(FAILED)
    typer.echo("ready" if ready else "live")


def demo(
    port: Annotated[int, typer.Option(help="Port of the proxy; 0 takes a free one.")] = 8400,
    once: Annotated[
        bool, typer.Option("--once", help="Read each printed URL once, print the answers and exit.")
    ] = False,
) -> None:
    """Run everything on this machine, with an embedded issuer and services: nothing to set up, already signed in."""
    from proxy.cli.tour import tour

    sys.exit(run(tour(port=port, once=once)))
