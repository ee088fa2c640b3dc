"""What names a dataset and a file in it: values that are checked once, before anybody is asked.

Provena's handles have two segments (`10378.1/1234567`); the files of a dataset lie in object storage below a folder
that follows from the handle alone.
"""

import re
from dataclasses import dataclass

from proxy.errors import BadRequest

_HANDLE = re.compile(r"(?P<prefix>[0-9A-Za-z]+(?:\.[0-9A-Za-z]+)*)/(?P<suffix>[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)*)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True, order=True)
class Handle:
    """The name of one dataset."""

    prefix: str
    suffix: str

    @classmethod
    def parse(cls, text: str) -> "Handle":
        """Return the handle that `text` is, `/` already decoded. Raises BadRequest."""
        found = _HANDLE.fullmatch(text)
        if not found:
            raise BadRequest("A dataset's handle has two parts, such as 10378.1/1234567.")
        return cls(found["prefix"], found["suffix"])

    @property
    def folder(self) -> str:
        """Key prefix of the dataset's files in the bucket, with the slash at its end.

        The slash matters: without it the prefix of 10378.1/12 would list 10378.1/123 too.
        """
        return "datasets/" + str(self).replace(".", "-").replace("/", "-") + "/"

    def __str__(self) -> str:
        return f"{self.prefix}/{self.suffix}"


def checked_path(path: str) -> str:
    """Return a file's path below its dataset as given, or raise BadRequest for what must reach nobody.

    Two dots are refused anywhere, as the data store does: `..` could lead out of the dataset.
    """
    if not path or path.startswith("/"):
        raise BadRequest("A file's path begins with a name, not with '/'.")
    if ".." in path or "//" in path or "\\" in path or _CONTROL.search(path) or "." in path.split("/"):
        raise BadRequest("A file's path may not hold '..', '//', '\\', a '.' folder or a control character.")
    return path


def is_possible(path: str) -> bool:
    """Return whether a URL of ours may hold this path."""
    try:
        checked_path(path)
    except BadRequest:
        return False
    return True
