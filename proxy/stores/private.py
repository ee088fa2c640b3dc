"""Files that nobody else may read, replaced whole: a crash leaves the old content or the new, never a part (S17)."""

import contextlib
import os
import secrets
import sys
from pathlib import Path

TEMPORARY = ".tokens-"
"""Begins the name of a file that is being written."""


def replace_private(path: Path, content: bytes) -> None:
    """Make `path` a file of mode 0600 with `content`: temporary file beside it, fsync, rename, fsync of the folder.

    Raises OSError; the old file is then as it was.
    """
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; Windows has no such call and needs none."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
