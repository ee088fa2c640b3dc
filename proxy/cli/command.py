"""What the commands share: exit statuses, options, and the loop they run on.

The console is apart (terminal.py): its library is megabytes that a server without a terminal has no use for.
"""

import asyncio
import gc
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from proxy.config import load
from proxy.errors import BearerproxyError

T = TypeVar("T")

FAILED, WRONG_USAGE, SIGN_IN_NEEDED = 1, 2, 3

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration file. Default: $BEARERPROXY_CONFIG, else proxy.toml in the user's configuration folder.",
        show_default=False,
    ),
]


def identity_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the identities that what is being typed may become, for the shell; none without a configuration."""
    try:
        names = load(context.params.get("config")).identities
    except BearerproxyError:
        return []  # a shell in the middle of a line is no place to tell mistakes
    return [name for name in names if name.startswith(incomplete)]


IdentityArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="IDENTITY",
        help="Which identity; may be left out if there is one.",
        show_default=False,
        autocompletion=identity_names,
    ),
]


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, on uvloop where there is one."""
    gc.enable()  # off since the command began (main)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(coroutine)


def loop_factory() -> Any:  # Any: uvloop is typed on the platforms that have it alone
    """Return uvloop's loop factory where uvloop is installed, else None."""
    try:
        import uvloop  # not on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop


def is_interactive() -> bool:
    """Return whether a person reads standard error."""
    return sys.stderr.isatty()
