"""What a URL below `…/datasets` asks for, from its raw path: pure, and strict before anybody is asked.

All is percent-decoded once. A handle may stand there with `/` or `%2F`, and a program that encodes a whole path as one
segment means the same file.
"""

from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from proxy.datasets.handles import Handle, checked_path
from proxy.errors import BadRequest, NoUpstream

_ZIP = ".zip"
FORMS = ("html", "json", "csv", "zip")


@dataclass(frozen=True, slots=True)
class Search:
    """Look for datasets."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Show a dataset, or one of its folders."""

    handle: Handle
    folder: str = ""
    """Empty, or a path that ends with a slash."""


@dataclass(frozen=True, slots=True)
class File:
    """Read one file."""

    handle: Handle
    path: str


@dataclass(frozen=True, slots=True)
class Archive:
    """Read everything below a folder as one ZIP."""

    handle: Handle
    folder: str = ""


Route = Search | Listing | File | Archive


def route(raw_path: bytes, query: bytes = b"") -> Route:
    """Return what a raw path (behind the mount, empty or from its `/` on) and a raw query ask for.

    Raises BadRequest for what is malformed, NoUpstream for what is no place of ours.
    """
    path = _decoded(raw_path)
    if path in ("", "/"):
        return Search()
    first, _, rest = path[1:].partition("/")
    second, slash, below = rest.partition("/")
    if not second:
        raise NoUpstream("A dataset is at /PREFIX/SUFFIX/, as in its handle; its files are at /PREFIX/SUFFIX/files/.")
    if not slash and second.endswith(_ZIP):
        return Archive(Handle.parse(f"{first}/{second.removesuffix(_ZIP)}"))
    handle = Handle.parse(f"{first}/{second}")
    is_zip = dict(parameters(query)).get("format") == "zip"
    if not below:
        return Archive(handle) if is_zip else Listing(handle)
    word, _, inner = below.partition("/")
    if word != "files":
        raise NoUpstream(f"The files of this dataset are at /{handle}/files/.")
    if inner and not inner.endswith("/"):
        return File(handle, checked_path(inner))
    folder = checked_path(inner.removesuffix("/")) + "/" if inner else ""
    return Archive(handle, folder) if is_zip else Listing(handle, folder)


def parameters(query: bytes) -> list[tuple[str, str]]:
    """Return the query's parameters, decoded; what is no UTF-8 is replaced."""
    return parse_qsl(query.removeprefix(b"?").decode("ascii", "replace"), keep_blank_values=True, errors="replace")


def url_path(handle: Handle, path: str | None = None) -> str:
    """Return where a dataset or a file of it is, relative to the mount: every program reads such a URL as it is meant.

    Only unreserved characters and slashes stay as they are: `+`, which some read as a space, does not.
    """
    place = f"/{quote(str(handle))}/"
    return place if path is None else f"{place}files/{quote(path)}"


def _decoded(raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise BadRequest("The path is not percent-encoded UTF-8.") from None
