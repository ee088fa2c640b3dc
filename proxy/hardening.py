"""What the operating system does for secrets in memory, if it is asked to (S16)."""

import sys

PR_SET_DUMPABLE = 4
"""prctl(2)."""


def harden() -> None:
    """Keep this process's memory out of core dumps and, on Linux, from other processes of the same user.

    A process that is not dumpable cannot be attached to without privileges, and its files under /proc (memory and
    starting environment) belong to root. Both end with the process; programs that it starts are dumpable again, but
    without core dumps. A system that refuses serves all the same: this is a second line of defence.
    """
    if sys.platform == "win32":
        return
    import contextlib
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        _ = ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
