"""`urls` and `url`: what to give to tools, and the local form of an address from elsewhere."""

import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table

from proxy.cli.command import FAILED, ConfigOption
from proxy.cli.terminal import configured, err, out
from proxy.config import Configuration
from proxy.local_url import local_url
from proxy.snippets import Snippet, environment, snippets


class Tool(StrEnum):
    """What the lines are for; the values are what users write."""

    R = "r"
    PYTHON = "python"
    EXCEL = "excel"
    CURL = "curl"
    POWERSHELL = "powershell"
    COMPOSE = "compose"
    RENVIRON = "renviron"


_SNIPPETS = {
    Tool.R: ("r", "httr2", "rsdmx"),
    Tool.PYTHON: ("python", "pandas", "sdmx1"),
    Tool.EXCEL: ("excel", "webservice"),
}
_COMMENTS = {Tool.EXCEL: "//"}


def urls(
    tool: Annotated[
        Tool | None, typer.Option("--for", help="Print lines to copy into that tool instead.", show_default=False)
    ] = None,
    config: ConfigOption = None,
) -> None:
    """List the base URLs to give to tools, or print lines to copy into one."""
    configuration = configured(config)
    if tool is None:
        out.print(_table(configuration))
    else:
        typer.echo("\n\n".join(lines_for(tool, configuration)))


def _table(configuration: Configuration) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for upstream in configuration.upstreams:
        table.add_row(f"{base_url(configuration)}{upstream.mount}", f"[dim]{upstream.url}[/]")
        if upstream.listen is not None:
            host = "localhost" if upstream.listen[0] == "127.0.0.1" else upstream.listen[0]
            table.add_row(f"http://{host}:{upstream.listen[1]}", f"[dim]{upstream.url}[/]")
    return table


def base_url(configuration: Configuration) -> str:
    """Return the origin under which local tools find the proxy."""
    return f"http://localhost:{configuration.server.port}"


def lines_for(tool: Tool, configuration: Configuration) -> Iterator[str]:
    """Yield blocks of lines for `tool`: whole files as they are, others under a comment that names the upstream."""
    base = base_url(configuration)
    for whole in environment(configuration.upstreams, base):
        if whole.key == tool:
            yield whole.text
            return
    for upstream in configuration.upstreams:
        chosen = [one for one in snippets(upstream, base) if one.key in _SNIPPETS.get(tool, (tool,))]
        for one in chosen:
            yield "\n".join(_commented(one, f"{upstream.url}, {one.title}", _COMMENTS.get(tool, "#")))


def _commented(one: Snippet, title: str, mark: str) -> Iterator[str]:
    yield f"{mark} {title}"
    if one.advice:
        yield f"{mark} {one.advice}"
    yield one.text


def url(
    address: Annotated[
        str,
        typer.Argument(metavar="URL", help="An address of a service, or a text with one; - reads standard input."),
    ],
    config: ConfigOption = None,
) -> None:
    """Print the local URL for an address of a service; status 1, with the reason, if no mount leads there."""
    configuration = configured(config)
    pasted = sys.stdin.read(1 << 16) if address == "-" else address
    found = local_url(pasted, configuration.upstreams, base_url(configuration))
    err.print(found.reason, markup=False, soft_wrap=True)
    if found.url is None:
        raise typer.Exit(FAILED)
    for note in found.fits[0].notes:
        err.print(note, markup=False, soft_wrap=True)
    for other in found.fits[1:]:
        err.print(f"Also: {other.url} ({' '.join(other.notes) or other.upstream.name})", markup=False, soft_wrap=True)
    typer.echo(found.url)
