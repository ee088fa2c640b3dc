"""`health`."""

from typing import Annotated

import typer

from proxy.cli.command import FAILED, ConfigOption
from proxy.cli.local import ask
from proxy.cli.terminal import err
from proxy.config import load_server


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
