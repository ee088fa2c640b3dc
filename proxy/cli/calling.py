"""A person is needed: their browser opens the sign-in page, and their desktop says why.

Both are programs of theirs, started in a thread, which get nothing of ours but the link. Where there is neither, the
line in the terminal has to do.
"""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping

from proxy.cli.browser import open_page
from proxy.cli.command import is_interactive
from proxy.config import Configuration
from proxy.config.machine import is_container
from proxy.secret_refs import shown_environment

NOTICE_SECONDS = 10.0


def caller(configuration: Configuration) -> Callable[[str, str], None] | None:
    """Return what calls the person who started the proxy in a terminal of this machine; None if there is none."""
    environ = shown_environment(configuration.secret_variables)
    if not is_interactive() or is_container(environ):
        return None

    def call(identity: str, url: str) -> None:
        text = f"A program waits for you to sign in as {identity}."
        for target, given in ((_open, url), (_notify, text)):
            threading.Thread(target=target, args=(given, environ), daemon=True, name="call").start()

    return call


def _open(url: str, environ: Mapping[str, str]) -> None:
    try:
        open_page(url, environ)
    except OSError:
        return  # no browser: the link stands in the terminal


def _notify(text: str, environ: Mapping[str, str]) -> None:
    command = notice(text, sys.platform)
    if command is None or shutil.which(command[0]) is None:
        return
    try:
        subprocess.run(  # noqa: S603 - a program of the desktop, by its name
            command, env=environ, check=False, timeout=NOTICE_SECONDS, capture_output=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return  # a desktop without notices


def notice(text: str, platform: str) -> list[str] | None:
    """Return the command that shows `text` on a desktop; None where there is no such program."""
    if platform == "darwin":
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        return ["osascript", "-e", f'display notification "{quoted}" with title "bearerproxy"']
    if platform == "win32":
        return None
    return ["notify-send", "--app-name=bearerproxy", "bearerproxy", text]
