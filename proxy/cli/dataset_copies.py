"""`datasets get`: copy a dataset, and show how far it is."""

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer
from filelock import FileLock, Timeout
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from proxy.app import App
from proxy.cli.command import FAILED, ConfigOption, is_interactive, run
from proxy.cli.deployments import HandleArgument, ProvenaOption, deployment_of, library_of, quietly
from proxy.cli.terminal import configured, err
from proxy.clock import SystemClock
from proxy.config import Configuration
from proxy.datasets import lists
from proxy.datasets.copies import Copies, Selection
from proxy.datasets.handles import Handle
from proxy.datasets.s3 import Entry
from proxy.tasks import Tasks

_LOOK_SECONDS = 0.2
LINE_SECONDS = 30.0
"""How often a log is told how far it is, where no person looks."""


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
    name, _ = deployment_of(configuration, provena)
    selection = Selection(tuple(paths or ()), tuple(include or ()), tuple(exclude or ()))
    parsed = Handle.parse(handle)
    try:
        with _alone_in(to, configuration):
            copies = run(_get(App(configuration, emit=quietly()), name, parsed, selection, to, parallel))
    except Timeout:
        err.print(f"Another get is writing to {to} already.", markup=False)
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        err.print("Stopped; the same command goes on from here.")
        raise
    except OSError as error:
        err.print(f"[bold red]error:[/] {escape(str(error.filename or to))}: {escape(error.strerror or str(error))}")
        raise typer.Exit(FAILED) from error
    _tell(copies, to)


async def _get(app: App, name: str, handle: Handle, selection: Selection, to: Path, parallel: int) -> Copies:
    async with library_of(app, name) as library:
        entries = await library.files(handle)
        copies = Copies(to, partial(library.listed_file, handle), parallel=parallel)
        copies.failed += [(one, "the dataset has no file or folder of this name") for one in selection.missing(entries)]
        chosen = selection.chosen(entries)
        if not is_interactive():
            started = SystemClock().boot()
            await _run(copies, lambda: err.print(line(copies, SystemClock().boot() - started)), chosen, LINE_SECONDS)
            return copies
        with Progress(
            TextColumn("{task.fields[files]} files"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
            TimeRemainingColumn(), console=err, transient=True,
        ) as progress:  # fmt: skip
            bar = progress.add_task("", total=sum(one.size for one in chosen), files=f"0/{len(chosen)}")
            await _run(copies, partial(_draw, copies, progress, bar), chosen, _LOOK_SECONDS)
        return copies


async def _run(copies: Copies, show: Callable[[], None], chosen: list[Entry], seconds: float) -> None:
    """Copy, and show how far it is every so many seconds."""
    tasks, clock = Tasks(), SystemClock()

    async def look() -> None:
        while True:
            await clock.sleep(seconds)
            show()

    _ = tasks.start(look(), name="progress")
    try:
        await copies.run(chosen)
    finally:
        await tasks.close()


def _draw(copies: Copies, progress: Progress, bar: TaskID) -> None:
    progress.update(bar, completed=copies.done, files=f"{copies.finished}/{copies.count}")


def line(copies: Copies, seconds: float) -> str:
    """Return how far it is after `seconds`, how fast it goes and how long it still takes."""
    rate = copies.fetched / seconds if seconds > 0 else 0.0
    left = f", {_duration((copies.total - copies.done) / rate)} left" if rate else ""
    return (
        f"{copies.finished} of {copies.count} files, {lists.size_words(copies.done)} of "
        f"{lists.size_words(copies.total)}, {lists.size_words(int(rate))}/s{left}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"


def _tell(copies: Copies, to: Path) -> None:
    written, kept = len(copies.written), len(copies.kept)
    if not copies.count and not copies.failed:
        err.print("The dataset has no file that fits; see `bearerproxy datasets ls`.", markup=False)
        raise typer.Exit(FAILED)
    some = f"{written} file{'' if written == 1 else 's'} written ({lists.size_words(copies.fetched)} read)"
    err.print(f"{some}, {kept} there already, in {to.absolute()}", markup=False, soft_wrap=True)
    if copies.failed:
        err.print(f"[bold red]{len(copies.failed)} failed:[/]")
        for path, why in sorted(copies.failed):
            err.print(f"  {path}: {why}", markup=False, soft_wrap=True)
        raise typer.Exit(FAILED)


def _alone_in(folder: Path, configuration: Configuration) -> FileLock:
    """Return a lock on writing to `folder`; its file is not in it, so that the copy holds the dataset alone."""
    named = sha256(str(folder.absolute()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    place = configuration.store.path / "datasets"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return FileLock(place / f"{named}.lock", timeout=0)
