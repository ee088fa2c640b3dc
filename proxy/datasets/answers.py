"""What a file of a dataset may tell a caller: pure decisions about fields.

A file is a stranger, like any page of an upstream: whoever could write to the dataset chose its bytes. A browser gets
it sandboxed and unsniffed, and what could run scripts as a download. The storage's own word on the type does not count:
S3 says binary/octet-stream of everything, or what the uploader said.
"""

import mimetypes
import re
from urllib.parse import quote

from proxy.headers import SANDBOX, Field, Fields, first, is_document, values

OCTETS = "application/octet-stream"

_TYPES = {
    ".csv": "text/csv; charset=utf-8", ".tsv": "text/tab-separated-values; charset=utf-8",
    ".txt": "text/plain; charset=utf-8", ".md": "text/markdown; charset=utf-8", ".log": "text/plain; charset=utf-8",
    ".json": "application/json", ".geojson": "application/geo+json", ".ndjson": "application/x-ndjson",
    ".yaml": "application/yaml", ".yml": "application/yaml", ".toml": "application/toml",
    ".parquet": "application/vnd.apache.parquet", ".arrow": "application/vnd.apache.arrow.file",
    ".feather": "application/vnd.apache.arrow.file", ".tif": "image/tiff", ".tiff": "image/tiff",
    ".nc": "application/x-netcdf", ".nc4": "application/x-netcdf", ".cdf": "application/x-netcdf",
    ".h5": "application/x-hdf5", ".hdf5": "application/x-hdf5", ".hdf": "application/x-hdf",
    ".grib": "application/wmo-GRIB2", ".grib2": "application/wmo-GRIB2", ".gpkg": "application/geopackage+sqlite3",
    ".fgb": "application/vnd.flatgeobuf", ".shp": "application/vnd.shp", ".dbf": "application/vnd.dbf",
    ".zip": "application/zip", ".gz": "application/gzip", ".bz2": "application/x-bzip2", ".xz": "application/x-xz",
    ".zst": "application/zstd", ".tar": "application/x-tar", ".7z": "application/x-7z-compressed",
    ".xhtml": "application/xhtml+xml", ".rds": OCTETS, ".rdata": OCTETS, ".mat": OCTETS,
    ".py": "text/plain; charset=utf-8",
    ".r": "text/plain; charset=utf-8", ".jl": "text/plain; charset=utf-8", ".ipynb": "application/json",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}  # fmt: skip
_ZARR = frozenset({".zarray", ".zgroup", ".zattrs", ".zmetadata"})
_OTHERS = mimetypes.MimeTypes(filenames=())  # Python's own table: the machine's would answer differently elsewhere

_KEPT = frozenset({
    b"content-length", b"content-range", b"content-encoding", b"content-language", b"etag", b"last-modified", b"date",
})  # fmt: skip
_PLAIN_NAME = re.compile(r"[^\x20-\x7e]|[\"\\%/]")
_OWN_CSP = (
    b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
OWN_PAGE: tuple[Field, ...] = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", _OWN_CSP),
)
"""What the pages of this face carry, as those of the control plane do."""


def content_type(path: str) -> str:
    """Return the media type that a file's name suggests; octets where it suggests none."""
    name = path.rpartition("/")[2].lower()
    if name in _ZARR:
        return "application/json"
    dot = name.rfind(".")
    suffix = name[dot:] if dot > 0 else ""
    return _TYPES.get(suffix) or _OTHERS.types_map[True].get(suffix) or OCTETS


def disposition(path: str, *, is_attachment: bool) -> bytes:
    """Return Content-Disposition with the file's own name, for old readers in ASCII too (RFC 6266 4.3, appendix D)."""
    name = path.rpartition("/")[2]
    kind = "attachment" if is_attachment else "inline"
    plain = _PLAIN_NAME.sub("_", name)
    exact = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'{kind}; filename="{plain}"{exact}'.encode("ascii")


def for_caller(fields: Fields, path: str) -> Fields:
    """Return the fields of a file's answer: the storage's on length, range and version, ours on all else."""
    media_type = content_type(path).encode("ascii")
    is_dangerous = is_document([media_type])
    kept = [(name, value) for name, value in fields if name in _KEPT]
    kept += [
        (b"content-type", media_type),
        (b"content-disposition", disposition(path, is_attachment=is_dangerous)),
        (b"accept-ranges", b"bytes"),
        (b"cache-control", b"private, no-cache"),  # a cache asks again by ETag: permission may have ended meanwhile
        (b"x-content-type-options", b"nosniff"),
        SANDBOX,
    ]
    return kept


# What goes to the storage of the caller's request: nothing about who it is.
_CONDITIONS = (b"range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since")
_STRONG = re.compile(rb'"[^"]*"')


def conditions(fields: Fields, method: str) -> tuple[Fields, Fields | None]:
    """Return the conditional fields to send to the storage, and those of a second try after a 412, or None.

    If-Range is not among those that S3 documents, so that it is made of two requests: the range if the version still
    is the caller's (If-Match, If-Unmodified-Since), and the whole file if not, which is what If-Range means (RFC 9110
    13.1.5). Range and If-Range count on GET alone (14.2).
    """
    kept = [(name, b", ".join(values(fields, name))) for name in _CONDITIONS if first(fields, name) is not None]
    # The storage's tags are strong, and If-None-Match compares weakly (13.1.2): what a cache has weakened still counts.
    kept = [(name, value.replace(b'W/"', b'"') if name == b"if-none-match" else value) for name, value in kept]
    without_range = [one for one in kept if one[0] != b"range"]
    if method != "GET" or first(kept, b"range") is None:
        return without_range, None
    wanted = first(fields, b"if-range")
    if wanted is None:
        return kept, None
    wanted = wanted.strip()
    if wanted.startswith(b'"') and _STRONG.fullmatch(wanted):
        guard = (b"if-match", wanted)
    elif wanted.startswith((b'"', b"W/")):
        return without_range, None  # a weak or broken tag never matches (RFC 9110 13.1.5)
    else:
        guard = (b"if-unmodified-since", wanted)
    if first(kept, guard[0]) is not None:
        return without_range, None  # two conditions in one field: the whole file is always a right answer
    return [*kept, guard], without_range
