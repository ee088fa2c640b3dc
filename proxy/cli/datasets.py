"""`datasets find`, `ls`, `get` and `credentials`: the files of Provena datasets in a terminal."""

import json
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer
from filelock import FileLock, Timeout
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from proxy.app import App
from proxy.cli.terminal import FAILED, ConfigOption, configured, err, is_interactive, out, run
from proxy.clock import SystemClock
from proxy.config import Configuration
from proxy.datasets import lists
from proxy.datasets.copies import Copies, Selection
from proxy.datasets.data_api import Dataset
from proxy.datasets.handles import Handle
from proxy.datasets.library import Library
from proxy.datasets.s3 import Entry
from proxy.datasets.sigv4 import Credentials, Place
from proxy.events import Emit, ignore
from proxy.logs import bridge_libraries
from proxy.tasks import Tasks

ProvenaOption = Annotated[
    str | None,
    typer.Option("--provena", metavar="NAME", help="Which deployment, if there are several.", show_default=False),
]
HandleArgument = Annotated[str, typer.Argument(metavar="HANDLE", help="The dataset's handle, such as 10378.1/1234567.")]
FORMS = ("process", "env", "json")
_LOOK_SECONDS = 0.2


def find(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Words of its name, keywords or description.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    provena: ProvenaOption = None,
    config: ConfigOption = None,
) -> None:
    """Find datasets by name or text."""
    configuration = configured(config)
    name, mount = _chosen(configuration, provena)
    datasets = run(_found(App(configuration, emit=_quiet()), name, text))
    if as_json:
        typer.echo(lists.datasets_json(datasets, _url(configuration, mount), None).decode(), nl=False)
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
    async with _library(app, name) as library:
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
    name, mount = _chosen(configuration, provena)
    dataset, entries = run(_listed(App(configuration, emit=_quiet()), name, Handle.parse(handle)))
    entries = Selection((folder,) if folder else ()).chosen(entries)
    url = _url(configuration, mount)
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
    err.print(f"[dim]{escape(dataset.name)}: {len(entries)} files, {size}[/]")


async def _listed(app: App, name: str, handle: Handle) -> tuple[Dataset, list[Entry]]:
    async with _library(app, name) as library:
        return await library.dataset(handle), [*await library.files(handle)]


def get(
    handle: HandleArgument,
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH]...", help="Files or folders of it; all unless given.", show_default=False),
    ] = None,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to write to; made if missing.")] = Path(),
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only files that fit, such as '*.csv'; may be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="No files that fit; may be repeated.")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Files at the same time.")] = 4,
    provena: ProvenaOption = None,
    config: ConfigOption = None,
) -> None:
    """Copy a dataset, or parts of it, to a folder; a second run goes on, and fetches only what changed."""
    configuration = configured(config)
    name, _ = _chosen(configuration, provena)
    selection = Selection(tuple(paths or ()), tuple(include or ()), tuple(exclude or ()))
    parsed = Handle.parse(handle)
    try:
        with _alone_in(to, configuration):
            copies = run(_get(App(configuration, emit=_quiet()), name, parsed, selection, to, parallel))
    except Timeout:
        err.print(f"Another get is writing to {to} already.", markup=False)
        raise typer.Exit(FAILED) from None
    except OSError as error:
        err.print(f"[bold red]error:[/] {escape(str(error.filename or to))}: {escape(error.strerror or str(error))}")
        raise typer.Exit(FAILED) from error
    _tell(copies, to)


async def _get(app: App, name: str, handle: Handle, selection: Selection, to: Path, parallel: int) -> Copies:
    async with _library(app, name) as library:
        entries = await library.files(handle)
        copies = Copies(to, partial(library.listed_file, handle), parallel=parallel)
        copies.failed += [(one, "the dataset has no file or folder of this name") for one in selection.missing(entries)]
        chosen = selection.chosen(entries)
        if not is_interactive():
            await copies.run(chosen)
            return copies
        with Progress(
            TextColumn("{task.fields[files]} files"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
            TimeRemainingColumn(), console=err, transient=True,
        ) as progress:  # fmt: skip
            await _shown(copies, chosen, progress)
        return copies


async def _shown(copies: Copies, chosen: list[Entry], progress: Progress) -> None:
    """Copy, and show how far it is, how fast it goes and how long it still takes."""
    shown = progress.add_task("", total=sum(one.size for one in chosen), files=f"0/{len(chosen)}")
    tasks, clock = Tasks(), SystemClock()

    async def look() -> None:
        while True:
            finished = len(copies.written) + len(copies.kept)
            progress.update(shown, completed=copies.done, files=f"{finished}/{len(chosen)}")
            await clock.sleep(_LOOK_SECONDS)

    _ = tasks.start(look(), name="progress")
    try:
        await copies.run(chosen)
    finally:
        await tasks.close()


def _tell(copies: Copies, to: Path) -> None:
    written, kept = len(copies.written), len(copies.kept)
    err.print(
        f"{written} files written ({lists.size_words(copies.fetched)} read), {kept} there already, in {to.absolute()}",
        markup=False,
        soft_wrap=True,
    )
    if copies.failed:
        err.print(f"[bold red]{len(copies.failed)} failed:[/]")
        for path, why in sorted(copies.failed):
            err.print(f"  {path}: {why}", markup=False, soft_wrap=True)
        raise typer.Exit(FAILED)


def credentials(
    handle: HandleArgument,
    write: Annotated[bool, typer.Option("--write", help="Keys that may change the dataset too.")] = False,
    form: Annotated[
        str,
        typer.Option("--format", metavar="|".join(FORMS), help="process: for credential_process in ~/.aws/config."),
    ] = "process",
    provena: ProvenaOption = None,
    config: ConfigOption = None,
) -> None:
    """Print temporary AWS credentials for a dataset: for the AWS CLI, boto3, GDAL, rclone."""
    if form not in FORMS:
        raise typer.BadParameter(f"--format is one of {', '.join(FORMS)}.")
    configuration = configured(config)
    name, _ = _chosen(configuration, provena)
    parsed = Handle.parse(handle)
    given, place, bucket = run(_given(App(configuration, emit=_quiet()), name, parsed, may_write=write))
    if sys.stdout.isatty():
        err.print("[yellow]These are secrets:[/] they stay on this screen and in its history.")
    endpoint = configuration.datasets.endpoint
    match form:
        case "process":
            typer.echo(json.dumps(_process(given)))
        case "json":
            where = {"Bucket": bucket, "Prefix": parsed.folder, "Region": place.region, "Endpoint": endpoint}
            typer.echo(json.dumps(_process(given) | where, indent=2))
        case _:
            _print_variables(given, place, endpoint)
            typer.echo(f"# s3://{bucket}/{parsed.folder}")


async def _given(app: App, name: str, handle: Handle, *, may_write: bool) -> tuple[Credentials, Place, str]:
    async with _library(app, name) as library:
        given = await library.given_credentials(handle, may_write=may_write)
        return given, await library.place(handle), (await library.dataset(handle)).bucket


def _process(given: Credentials) -> dict[str, object]:
    """Return what AWS's programs read from a `credential_process`."""
    return {
        "Version": 1,
        "AccessKeyId": given.access_key_id,
        "SecretAccessKey": given.secret_access_key,
        "SessionToken": given.session_token,
        "Expiration": given.expiry.isoformat(timespec="seconds"),
    }


def _print_variables(given: Credentials, place: Place, endpoint: str | None) -> None:
    variables = {
        "AWS_ACCESS_KEY_ID": given.access_key_id,
        "AWS_SECRET_ACCESS_KEY": given.secret_access_key,
        "AWS_SESSION_TOKEN": given.session_token,
        "AWS_DEFAULT_REGION": place.region,
    } | ({"AWS_ENDPOINT_URL": endpoint} if endpoint else {})
    for name, value in variables.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@asynccontextmanager
async def _library(app: App, name: str) -> AsyncIterator[Library]:
    async with app:
        yield app.libraries[name]


def _chosen(configuration: Configuration, name: str | None) -> tuple[str, str]:
    """Return the deployment (name, mount) that is meant: the one called `name`, or the only one."""
    deployments = configuration.datasets.deployments
    known = ", ".join(one for one, _ in deployments) or "none"
    if name is None and len(deployments) != 1:
        raise typer.BadParameter(f"Which deployment? --provena NAME; there is: {known}.")
    for deployment in deployments:
        if name in (None, deployment[0]):
            return deployment
    raise typer.BadParameter(f"There is no Provena deployment {name!r} with datasets; there is: {known}.")


def _url(configuration: Configuration, mount: str) -> str:
    return f"http://localhost:{configuration.server.port}{mount}"


def _alone_in(folder: Path, configuration: Configuration) -> FileLock:
    """Return a lock on writing to `folder`; its file is not in it, so that the copy holds the dataset alone."""
    named = sha256(str(folder.absolute()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    place = configuration.store.path / "datasets"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return FileLock(place / f"{named}.lock", timeout=0)


def _quiet() -> Emit:
    bridge_libraries(ignore)
    return ignore
