"""Renews a token and dies by SIGKILL at a given step: run by test_crash.py, in processes of its own.

For each number on standard input a fork renews once; before or after that many calls into the operating system (files,
locks, sockets) it kills itself. The wait status of the fork is the answer, one line each.
"""

import asyncio
import io
import os
import socket
import sys
import threading
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from proxy.clock import SystemClock
from proxy.errors import ProxyError
from proxy.identities import Grant, Identity
from proxy.issuer import Issuer
from proxy.stores import FileStore
from proxy.token_source import TokenSource

SIGKILL = 9
"""By its number: the signal module has the name on POSIX alone."""
STEPS = {
    "open", "write", "flush", "fsync", "close", "rename", "replace", "unlink", "mkdir", "flock", "fchmod", "connect",
    "send", "recv", "recv_into",
}  # fmt: skip


def main(folder: Path, issuer_url: str) -> None:
    for line in sys.stdin:
        if sys.platform == "win32":
            raise NotImplementedError("fork is POSIX")
        child = os.fork()
        if child == 0:
            die_at(int(line))
            asyncio.run(renew(folder, issuer_url))
            os._exit(0)
        sys.stdout.write(f"{os.waitpid(child, 0)[1]}\n")
        sys.stdout.flush()


async def renew(folder: Path, issuer_url: str) -> None:
    identity = identity_of(issuer_url)
    issuer = Issuer(identity, clock=SystemClock())
    source = TokenSource(identity, issuer=issuer, store=FileStore(folder), clock=SystemClock())
    await source.start()
    try:
        await source.token()
    except ProxyError:
        os._exit(3)
    await source.close()
    await issuer.close()


def identity_of(issuer_url: str) -> Identity:
    return Identity(name="me", client_id="client-tools", grant=Grant.DEVICE_CODE, issuer=issuer_url)


def die_at(step: int) -> None:
    """Kill this process at the `step`th call, or return from a call, that the operating system sees."""
    count = 0

    def seen(_: FrameType, event: str, call: Any) -> None:
        nonlocal count
        if event in ("c_call", "c_return") and call.__name__ in STEPS and _reaches_outside(call.__self__):
            count += 1
            if count >= step:
                os.kill(os.getpid(), SIGKILL)

    threading.setprofile(seen)
    sys.setprofile(seen)


def _reaches_outside(owner: object) -> bool:
    """Return whether a call of that name is one: text has a `replace` too."""
    if isinstance(owner, ModuleType):
        return owner.__name__ in ("posix", "fcntl", "io", "_io")
    return isinstance(owner, io.IOBase | socket.socket)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
