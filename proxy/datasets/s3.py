"""Where a bucket answers, and what lies below a prefix in it (ListObjectsV2): texts in, values out."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote_plus, urlsplit
from xml.etree import ElementTree as ET

from proxy.datasets.sigv4 import Place, canonical
from proxy.errors import UpstreamInvalid

USUAL_REGION = "ap-southeast-2"
"""Where the known deployments are; a bucket elsewhere says so in its refusal."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # it becomes part of a host name that gets our signature
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d")
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One file of a dataset."""

    path: str
    size: int
    """Bytes."""
    etag: str
    """As S3 tells it, with its quotation marks."""
    modified: datetime
    """Aware, in UTC."""

    @property
    def md5(self) -> str | None:
        """The content's MD5 in hex, where the ETag is one: not for what was uploaded in parts."""
        found = _MD5.fullmatch(self.etag)
        return found[1] if found else None


def place_of(bucket: str, *, region: str | None, endpoint: str | None) -> Place:
    """Return where `bucket` answers. Raises UpstreamInvalid for a name that no bucket has."""
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise UpstreamInvalid("The data store names a bucket that cannot be one.")
    region = region or USUAL_REGION
    if endpoint is not None:
        parts = urlsplit(endpoint)
        return Place(parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/{bucket}/", region)
    host = f"s3.{region}.amazonaws.com"
    if "." in bucket:  # one more label than the certificate's wildcard has
        return Place("https", host, f"/{bucket}/", region)
    return Place("https", f"{bucket}.{host}", "/", region)


def region_in(told: bytes | None) -> str | None:
    """Return the region that a refusal tells in x-amz-bucket-region."""
    text = (told or b"").decode("ascii", "replace")
    return text if _REGION.fullmatch(text) else None


def listing_query(prefix: str, continuation: str | None) -> str:
    """Return the query that lists what lies below `prefix`, the next page of it with `continuation`."""
    asked = [("list-type", "2"), ("prefix", prefix), ("encoding-type", "url")]
    return canonical([*asked, ("continuation-token", continuation)] if continuation else asked)


def page(document: bytes, prefix: str) -> tuple[list[Entry], str | None]:
    """Return the files of one page of a listing and the continuation of the next one, None behind the last.

    Folder markers are left out. Raises UpstreamInvalid for what is no listing, or lists another prefix.
    """
    try:
        root = ET.fromstring(document)  # noqa: S314 - bounded by its reader, and expat (2.4.1 on) refuses entity bombs
        names = root.tag.removesuffix("ListBucketResult")
        is_encoded = (root.findtext(f"{names}EncodingType") or "") == "url"
        found = [*_entries(root, names, prefix, is_encoded=is_encoded)]
        more = (root.findtext(f"{names}IsTruncated") or "").lower() == "true"
        continuation = root.findtext(f"{names}NextContinuationToken")
    except (ET.ParseError, ValueError, TypeError) as error:
        raise UpstreamInvalid("The file storage answered with something that is no list of files.") from error
    if root.tag != f"{names}ListBucketResult" or (more and not continuation):
        raise UpstreamInvalid("The file storage answered with something that is no list of files.")
    return found, continuation if more else None


def _entries(root: ET.Element, names: str, prefix: str, *, is_encoded: bool) -> Iterator[Entry]:
    for one in root.iterfind(f"{names}Contents"):
        key = one.findtext(f"{names}Key") or ""
        key = unquote_plus(key) if is_encoded else key
        if not key.startswith(prefix):
            raise ValueError("another dataset's key")
        path = key.removeprefix(prefix)
        if path and not path.endswith("/"):
            modified = datetime.fromisoformat(one.findtext(f"{names}LastModified") or "")
            size = int(one.findtext(f"{names}Size") or "")
            yield Entry(path, size, one.findtext(f"{names}ETag") or "", modified)
