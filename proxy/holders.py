"""Who holds what we want to listen on, in words that complete "Port 8400 is taken …".

Linux tells it under /proc. A bearerproxy hides its open files there, from its own user too (hardening.py), so it is
recognised by how it answers; that works everywhere.
"""

import contextlib
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

_LISTENING = "0A"
_CREDENTIALS = struct.Struct("=iII")  # ucred: pid, uid, gid
_OURS = re.compile(rb'"status": "live"|"/-/errors/[a-z-]+"')
_ASK_SECONDS = 1.0
_PROC = Path("/proc")


def port_holder(host: str, port: int) -> str:
    """Return `by NAME (process N)`, `by another bearerproxy (process N)`, `by a program of user U` or ``."""
    found = _by_table(port)
    if _is_ours(host, port):
        running = [found] if isinstance(found, int) else [*_bearerproxies()]
        return "by another bearerproxy" + (f" (process {running[0]})" if len(running) == 1 else "")
    if isinstance(found, int):
        return f"by {_named(found)}"
    return f"by a program of user {found}" if found else ""


def socket_holder(connection: socket.socket) -> str:
    """Return `by NAME (process N)` for the program behind a unix socket that `connection` has reached, or ``."""
    if sys.platform != "linux":
        return ""
    process, _, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return f"by {_named(process)}" if process else ""


def _named(process: int) -> str:
    try:
        name = (_PROC / str(process) / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        name = "a program"
    return f"{name} (process {process})"


def _by_table(port: int) -> int | str | None:
    """Return the process that listens on `port`, or the name of its user where no more can be seen."""
    users: dict[str, int] = {}
    for table in ("net/tcp", "net/tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / table).read_text("ascii").splitlines()[1:]:
                column = line.split()
                if column[3] == _LISTENING and int(column[1].rsplit(":", 1)[1], 16) == port:
                    users[f"socket:[{column[9]}]"] = int(column[7])
    for process in _processes():
        with contextlib.suppress(OSError):
            if any(str(link.readlink()) in users for link in (process / "fd").iterdir()):
                return int(process.name)
    return _user(next(iter(users.values()))) if users else None


def _processes() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (one for one in _PROC.iterdir() if one.name.isdigit())


def _user(uid: int) -> str:
    if sys.platform == "win32":
        return str(uid)
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _bearerproxies() -> Iterator[int]:
    """Yield the other processes whose command line is `bearerproxy serve …`, by either of its names."""
    for process in _processes():
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            is_ours = words[1:3] == [b"-m", b"proxy"] or any(
                word.rpartition(b"/")[2] == b"bearerproxy" for word in words[:2]
            )
            if is_ours and b"serve" in words and int(process.name) != os.getpid():
                yield int(process.name)


def _is_ours(host: str, port: int) -> bool:
    """Return whether a bearerproxy answers: with its life, or with a refusal whose type is one of ours."""
    ask = f"GET /-/live HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n"
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    said = b""
    try:
        with socket.create_connection((near, port), timeout=_ASK_SECONDS) as there:
            there.sendall(ask.encode("ascii"))
            while len(said) < 4096 and (some := there.recv(4096)):
                said += some
    except OSError:  # silent, or something else than HTTP
        pass
    return bool(_OURS.search(said))
