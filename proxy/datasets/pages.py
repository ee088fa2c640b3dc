"""The pages for browsers: find a dataset, see its files, copy the line for the tool at hand. No script is needed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from proxy.datasets.answers import content_type
from proxy.datasets.handles import is_possible
from proxy.datasets.lists import PAGE, View, size_words, url_of
from proxy.datasets.records import Dataset
from proxy.datasets.routes import url_path
from proxy.datasets.s3 import Entry

if TYPE_CHECKING:
    from jinja2 import Environment

_COLUMNS = (("path", "File"), ("size", "Size"), ("modified", "Modified (UTC)"))
_DOWNLOADED = ("R", 'download.file("{url}", "{name}", mode = "wb")')
_GDAL = ("QGIS", "/vsicurl/{url}")
_VECTOR = (_GDAL, ("R", 'sf::st_read("/vsicurl/{url}")'), ("Python", 'geopandas.read_file("{url}")'))
_ARRAY = (("Python", 'xarray.open_dataset(fsspec.open("{url}").open())'), _DOWNLOADED, _GDAL)
_LINES = {
    "text/csv": (("R", 'read.csv("{url}")'), ("Python", 'pandas.read_csv("{url}")'), _GDAL),
    "application/vnd.apache.parquet": (
        ("R", 'arrow::read_parquet("{url}")'),
        ("Python", 'pandas.read_parquet("{url}")'),
    ),
    "image/tiff": (_GDAL, ("R", 'terra::rast("/vsicurl/{url}")'), ("Python", 'rasterio.open("{url}")')),
    "application/geopackage+sqlite3": _VECTOR,
    "application/geo+json": _VECTOR,
    "application/vnd.flatgeobuf": _VECTOR,
    "application/x-netcdf": _ARRAY,
    "application/x-hdf5": _ARRAY,
    "zarr": (("Python", 'xarray.open_zarr("{folder}")'),),
    "application/json": (("R", 'jsonlite::fromJSON("{url}")'), ("Python", 'requests.get("{url}").json()')),
}
_OTHER_LINES = (_DOWNLOADED, ("Python", 'requests.get("{url}").content'))
"""What to paste into a tool, by the media type that a file's name suggests."""
_ZARR = frozenset({".zarray", ".zgroup", ".zattrs", ".zmetadata", "zarr.json"})
_PLAIN = re.compile(r"(?!-)[\w ./+=@,-]+")
FOLDERS = 30
"""How many folders a page links to."""
_STATUS = {"NOT_RELEASED": "not released", "PENDING": "release pending", "RELEASED": "released"}


@dataclass(frozen=True, slots=True)
class Row:
    """One file, as the page shows it."""

    path: str
    url: str | None
    size: str
    modified: str
    lines: tuple[tuple[str, str], ...]
    """(tool, what to paste there)."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column's head."""

    title: str
    link: str
    """Query that sorts by it, the other way round if it is sorted by it already."""
    order: str
    """`ascending`, `descending` or `none`."""


class Pages:
    """Renders the pages; the package `frame` has the template `page.html` that all pages of this proxy share."""

    def __init__(self, frame: str, *, version: str) -> None:
        self._frame = frame
        self._version = version

    @cached_property
    def _templates(self) -> "Environment":
        from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined  # for browsers alone

        return Environment(
            loader=ChoiceLoader([PackageLoader("proxy.datasets"), PackageLoader(self._frame)]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )

    def found(self, datasets: Sequence[Dataset], query: str, following: str | None, mount_url: str, title: str) -> str:
        """Return the page of a search, or of all datasets if `query` is empty."""
        rows = [
            (one.name, str(one.handle), mount_url + url_path(one.handle), status_words(one.status), one.owner)
            for one in datasets
        ]
        return self._render("find.html", mount_url, rows=rows, query=query, following=following, deployment=title)

    def dataset(self, dataset: Dataset, folder: str, entries: Sequence[Entry], view: View, mount_url: str) -> str:
        """Return the page of one dataset, or of one of its folders."""
        chosen = view.chosen(entries)
        pages = max((len(chosen) + PAGE - 1) // PAGE, 1)
        here = mount_url + url_path(dataset.handle)
        folders = folders_of(entries, folder)
        zip_url = f"{here}files/{quote(folder)}?format=zip" if folder else here.rstrip("/") + ".zip"
        return self._render(
            "dataset.html",
            mount_url,
            dataset=dataset,
            status=status_words(dataset.status),
            folder=folder,
            here=here,
            command=command_for(dataset, folder),
            folders=[(one, f"{here}files/{quote(folder + one)}") for one in folders[:FOLDERS]],
            more_folders=max(len(folders) - FOLDERS, 0),
            zip_url=zip_url,
            count=len(entries),
            size=size_words(sum(one.size for one in entries)),
            fitting=len(chosen),
            view=view,
            rows=[row_of(one, dataset, mount_url) for one in view.shown(chosen)],
            columns=[column_of(key, title, view) for key, title in _COLUMNS],
            pages=pages,
            before=query_of(replace(view, page=view.page - 1)) if view.page > 1 else None,
            after=query_of(replace(view, page=view.page + 1)) if view.page < pages else None,
        )

    def _render(self, template: str, mount_url: str, **values: object) -> str:
        origin = "/".join(mount_url.split("/")[:3])
        return self._templates.get_template(template).render(
            values, version=self._version, base_url=origin, mount_url=mount_url
        )


def row_of(entry: Entry, dataset: Dataset, mount_url: str) -> Row:
    """Return one file as the page shows it."""
    url = url_of(mount_url, dataset.handle, entry.path)
    return Row(
        entry.path,
        url,
        size_words(entry.size),
        f"{entry.modified:%Y-%m-%d %H:%M}",
        lines_for(entry.path, url) if url is not None else (),
    )


def folders_of(entries: Sequence[Entry], folder: str) -> list[str]:
    """Return the names of the folders in `folder`, each with a slash at its end, that a URL can hold."""
    inner = (one.path.removeprefix(folder).partition("/") for one in entries)
    return sorted(
        {name + slash for name, slash, _ in inner if slash and name and is_possible(folder + name)}, key=str.casefold
    )


def command_for(dataset: Dataset, folder: str) -> str | None:
    """Return the command that copies a folder, None for a name that some shell may take for more than a name."""
    if folder and not _PLAIN.fullmatch(folder):
        return None
    place = f' "{folder.rstrip("/")}"' if " " in folder else f" {folder.rstrip('/')}" if folder else ""
    return f"bearerproxy datasets get {dataset.handle}{place} --to ."


def lines_for(path: str, url: str) -> tuple[tuple[str, str], ...]:
    """Return, for each tool that reads files of this kind, the line to paste there."""
    kind = content_type(path).partition(";")[0]
    name = path.rpartition("/")[2]
    if name.lower() in _ZARR:
        kind = "zarr"
    folder = url.rpartition("/")[0]
    saved = name.replace("\\", "\\\\").replace('"', '\\"')
    lines = _LINES.get(kind, _OTHER_LINES)
    return tuple((tool, line.format(url=url, folder=folder, name=saved)) for tool, line in lines)


def column_of(key: str, title: str, view: View) -> Column:
    """Return a column's head in a view."""
    is_sorted = view.sort == key
    order = ("descending" if view.is_descending else "ascending") if is_sorted else "none"
    other = replace(view, sort=key, is_descending=is_sorted and not view.is_descending, page=1)
    return Column(title, query_of(other), order)


def query_of(view: View) -> str:
    """Return the query that asks for a view."""
    asked = {"filter": view.filter, "sort": view.sort, "order": "desc" if view.is_descending else "asc"}
    asked |= {"page": str(view.page)} if view.page > 1 else {}
    return "?" + urlencode({key: value for key, value in asked.items() if value})


def status_words(status: str) -> str:
    """Return a release status in plain words."""
    return _STATUS.get(status, status.replace("_", " ").lower())
