"""Which deployment's datasets a command is about, and what reads them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from proxy.app import App
from proxy.config import Configuration
from proxy.datasets.library import Library
from proxy.events import Emit, ignore
from proxy.logs import bridge_libraries

ProvenaOption = Annotated[
    str | None,
    typer.Option("--provena", metavar="NAME", help="Which deployment, if there are several.", show_default=False),
]
HandleArgument = Annotated[str, typer.Argument(metavar="HANDLE", help="The dataset's handle, such as 10378.1/1234567.")]


def before(context: typer.Context, provena: ProvenaOption = None) -> None:
    """Find, list and copy the datasets of a Provena deployment."""
    # Said before the command, it is what the command takes if nothing is said behind it.
    context.default_map = {one: {"provena": provena} for one in ("find", "ls", "get", "credentials")}


@asynccontextmanager
async def library_of(app: App, name: str) -> AsyncIterator[Library]:
    """Start `app`, whose parts read the datasets of the deployment `name`, and close it."""
    async with app:
        yield app.libraries[name]


def deployment_of(configuration: Configuration, name: str | None) -> tuple[str, str]:
    """Return the deployment (name, mount) that is meant: the one called `name`, or the only one."""
    deployments = configuration.datasets.deployments
    known = ", ".join(one for one, _ in deployments) or "none"
    if name is None and len(deployments) != 1:
        raise typer.BadParameter(f"Which deployment? --provena NAME; there is: {known}.")
    for deployment in deployments:
        if name in (None, deployment[0]):
            return deployment
    raise typer.BadParameter(f"There is no Provena deployment {name!r} with datasets; there is: {known}.")


def mount_url(configuration: Configuration, mount: str) -> str:
    """Return where a running proxy of this configuration serves the deployment's datasets."""
    return f"http://localhost:{configuration.server.port}{mount}"


def quietly() -> Emit:
    """Return a listener that tells nobody: a command says itself what went wrong."""
    bridge_libraries(ignore)
    return ignore
