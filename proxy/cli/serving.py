"""`serve`, `demo` and `health`."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from proxy.app import App
from proxy.cli.calling import caller
from proxy.cli.local import ask
from proxy.cli.terminal import FAILED, ConfigOption, err, is_interactive, run
from proxy.clock import SystemClock
from proxy.config import Configuration, load, load_server
from proxy.events import Emit, Listening
from proxy.logs import LEVELS, Log, bridge_libraries
from proxy.server import stop_on_signals


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
) -> None:
    """Serve the configured upstreams on this machine until Ctrl-C."""
    overrides = {"server.host": host, "server.port": port, "server.uds": uds, "log.level": log_level}
    configuration = load(config, overrides=overrides)  # its warnings go to the log, in the log's format
    log = log_of(configuration)
    run(_serve(App(configuration, emit=log, call=caller(configuration)), log))


def log_of(configuration: Configuration) -> Log:
    """Return the log that the configuration asks for, and send the libraries' errors to it."""
    settings = configuration.log
    is_json = settings.format == "json" or (settings.format == "auto" and not is_interactive())
    log = Log(
        SystemClock(),
        level=settings.level,
        is_json=is_json,
        access=settings.access,
        is_combined=settings.access_format == "combined",
    )
    bridge_libraries(log)
    return log


async def _serve(app: App, emit: Emit) -> None:
    listeners = app.bind()
    stop = asyncio.Event()
    stop_on_signals(stop)

    def ready() -> None:
        emit(Listening(tuple(listener.url for listener in listeners)))
        if is_interactive():
            print_overview(app)

    async with app:
        await app.serve(listeners, stop, ready=ready)


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
        who = f" as {status.username}" if status.username and status.state == "ready" else ""
        err.print(f"  {status.name}: [{colour}]{status.state}[/]{who}  {status.detail or ''}")
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
