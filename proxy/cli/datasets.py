"""`datasets find` and `ls`: what there is, in a terminal."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from proxy.app import App
from proxy.cli.command import FAILED, ConfigOption, run
from proxy.cli.deployments import HandleArgument, ProvenaOption, deployment_of, library_of, mount_url, quietly
from proxy.cli.terminal import configured, err, out
from proxy.datasets import lists
from proxy.datasets.copies import Selection
from proxy.datasets.handles import Handle
from proxy.datasets.records import Dataset
from proxy.datasets.s3 import Entry
from proxy.errors import NotFound


def find(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Words of its name, keywords or description.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    provena: ProvenaOption = None,
    config: ConfigOption = None,
) -> None:
    """Find datasets by name or text."""
    configuration = configured(config)
    name, mount = deployment_of(configuration, provena)
    datasets = run(_found(App(configuration, emit=quietly()), name, text))
    if as_json:
        typer.echo(lists.datasets_json(datasets, mount_url(configuration, mount), None).decode(), nl=False)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("handle", "name", "owner"):
        table.add_column(title, overflow="fold")
    for one in datasets:
        table.add_row(str(one.handle), escape(one.name), escape(one.owner or "-"))
    out.print(table if datasets else f"Nothing fits {text!r}; try fewer or other words.", markup=bool(datasets))
    if not datasets:
        raise typer.Exit(FAILED)


async def _found(app: App, name: str, text: str) -> list[Dataset]:
    async with library_of(app, name) as library:
        return await library.records(await library.found(text))


def ls(
    handle: HandleArgument,
    folder: Annotated[
        str, typer.Argument(metavar="[FOLDER]", help="Only what lies below it.", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    provena: ProvenaOption = None,
    config: ConfigOption = None,
) -> None:
    """List the files of a dataset."""
    configuration = configured(config)
    name, mount = deployment_of(configuration, provena)
    dataset, entries = run(_listed(App(configuration, emit=quietly()), name, Handle.parse(handle)))
    entries = Selection((folder,) if folder else ()).chosen(entries)
    if folder and not entries:
        raise NotFound(f"Dataset {handle} has no file or folder {folder!r}; upper and lower case matter.")
    url = mount_url(configuration, mount)
    if as_json or as_csv:
        told = lists.files_json(dataset, entries, url) if as_json else lists.files_csv(dataset, entries, url)
        typer.echo(told.decode(), nl=False)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(justify="right")
    table.add_column()
    table.add_column(overflow="fold")
    for one in entries:
        table.add_row(lists.size_words(one.size), f"[dim]{one.modified:%Y-%m-%d %H:%M}[/]", escape(one.path))
    out.print(table)
    size = lists.size_words(sum(one.size for one in entries))
    err.print(f"[dim]{escape(dataset.name)}: {len(entries)} file{'' if len(entries) == 1 else 's'}, {size}[/]")


async def _listed(app: App, name: str, handle: Handle) -> tuple[Dataset, list[Entry]]:
    async with library_of(app, name) as library:
        return await library.dataset(handle), [*await library.files(handle)]
