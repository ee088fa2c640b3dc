"""Lists of files and of datasets, as JSON and CSV; and what of a list is shown: filter, order, page. Pure."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.csv_cells import harmless
from proxy.datasets.handles import Handle, is_possible
from proxy.datasets.records import Dataset
from proxy.datasets.routes import url_path
from proxy.datasets.s3 import Entry

PAGE = 500
"""Rows of one HTML page."""
_ORDERS: Mapping[str, Callable[[Entry], Any]] = {  # Any: what sorts differs by column
    "path": lambda one: one.path.casefold(),
    "size": lambda one: one.size,
    "modified": lambda one: one.modified,
}


@dataclass(frozen=True, slots=True)
class View:
    """Which files are shown, and how."""

    filter: str = ""
    sort: str = "path"
    is_descending: bool = False
    page: int = 1

    @classmethod
    def of(cls, asked: Mapping[str, str]) -> "View":
        """Return the view that a query's parameters ask for; what makes no sense is the default."""
        sort = asked.get("sort", "")
        return cls(
            asked.get("filter", "").strip(),
            sort if sort in _ORDERS else "path",
            asked.get("order") == "desc",
            page_number(asked),
        )

    def chosen(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the files that fit, in order, of all pages."""
        words = self.filter.casefold().split()
        fitting = [one for one in entries if all(word in one.path.casefold() for word in words)]
        return sorted(fitting, key=_ORDERS[self.sort], reverse=self.is_descending)

    def shown(self, chosen: Sequence[Entry]) -> Sequence[Entry]:
        """Return the rows of this page."""
        return chosen[(self.page - 1) * PAGE : self.page * PAGE]


def page_number(asked: Mapping[str, str]) -> int:
    """Return the page that a query's parameters ask for, counted from 1; what makes no sense is the first."""
    number = asked.get("page", "")
    return max(int(number), 1) if number.isdecimal() and len(number) < 9 else 1


def below(entries: Iterable[Entry], folder: str) -> list[Entry]:
    """Return the files below a folder, which is empty or ends with a slash."""
    return [one for one in entries if one.path.startswith(folder)]


def url_of(mount_url: str, handle: Handle, path: str) -> str | None:
    """Return the file's URL, or None if its name is one that no URL of ours may hold."""
    return mount_url + url_path(handle, path) if is_possible(path) else None


def files_json(dataset: Dataset, entries: Sequence[Entry], mount_url: str) -> bytes:
    """Return a dataset with its files as JSON."""
    files = [
        {
            "path": one.path,
            "size": one.size,
            "etag": one.etag,
            "modified": one.modified.isoformat().replace("+00:00", "Z"),
            "url": url_of(mount_url, dataset.handle, one.path),
        }
        for one in entries
    ]
    return _json(account(dataset, mount_url) | {"size": sum(one.size for one in entries), "files": files})


def files_csv(dataset: Dataset, entries: Sequence[Entry], mount_url: str) -> bytes:
    """Return a dataset's files as CSV."""
    rows = [
        (one.path, one.size, one.modified.isoformat().replace("+00:00", "Z"), one.etag.strip('"'),
         url_of(mount_url, dataset.handle, one.path) or "")
        for one in entries
    ]  # fmt: skip
    return _csv(("path", "size", "modified", "etag", "url"), rows)


def datasets_json(datasets: Sequence[Dataset], mount_url: str, following: str | None) -> bytes:
    """Return datasets as JSON, with the URL of the next page."""
    return _json({"datasets": [account(one, mount_url) for one in datasets], "next": following})


def datasets_csv(datasets: Sequence[Dataset], mount_url: str) -> bytes:
    """Return datasets as CSV."""
    rows = [(str(one.handle), one.name, one.status, one.owner, mount_url + url_path(one.handle)) for one in datasets]
    return _csv(("handle", "name", "status", "owner", "url"), rows)


def account(dataset: Dataset, mount_url: str) -> dict[str, Any]:  # Any: JSON
    """Return a dataset's record as JSON has it."""
    return {
        "handle": str(dataset.handle),
        "name": dataset.name,
        "description": dataset.description,
        "status": dataset.status,
        "owner": dataset.owner,
        "url": mount_url + url_path(dataset.handle),
    }


def size_words(size: int) -> str:
    """Return a size for people, in decimal units as S3's own pages and most programs count."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return (
                f"{size} bytes" if unit == "bytes" else f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
            )
        value /= 1000
    return f"{value:.1f} TB"


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180
    writer.writerow(head)
    writer.writerows([harmless(cell) for cell in row] for row in rows)
    return text.getvalue().encode()
