"""What a person sees while signing in: link, code, QR code, and a spinner with the time left."""

import contextlib
import io
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

import segno
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn

from proxy.clock import Clock
from proxy.grants.device_code import DevicePrompt


class SignInPrompt:
    """As a context, keeps the spinner turning until the sign-in ends; prints to `console`, never a device code."""

    def __init__(self, console: Console, *, opens_browser: bool, open_url: Callable[[str], bool], clock: Clock) -> None:
        self._console = console
        self._opens_browser = opens_browser
        self._open_url = open_url
        self._clock = clock
        self._ends_at: float | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            get_time=self._tick,
        )
        self._task: TaskID | None = None

    def device(self, prompt: DevicePrompt) -> None:
        """Show where to go and which code to type (RFC 8628 3.3)."""
        link = prompt.verification_uri_complete or prompt.verification_uri
        self._console.print(f"\nSign in at   [bold link={link}]{escape(link)}[/]", soft_wrap=True)
        self._console.print(f"with the code   [bold]{escape(prompt.user_code)}[/]\n")
        if picture := qr_code(link, self._console):
            self._console.print(picture, markup=False, highlight=False)
        self._open(link)
        self._ends_at = prompt.expires_at
        self._start("Waiting for you to sign in")

    def link(self, url: str) -> None:
        """Show the address of an authorization request and open it (RFC 8252)."""
        self._console.print(f"\nSign in at   [link={url}]{escape(url)}[/]\n", soft_wrap=True)
        self._open(url)
        self._start("Waiting for the browser to come back")

    def _open(self, url: str) -> None:
        if not self._opens_browser:
            return
        with contextlib.suppress(OSError):
            if self._open_url(url):
                self._console.print("[dim]Your browser opens this page now.[/]\n")

    def _start(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(f"{text} …", markup=False)
            return
        self._task = self._progress.add_task(text, total=None, left="")
        self._progress.start()

    def _tick(self) -> float:
        """Feed the spinner its time, and the text the seconds that the code is still good for."""
        now = self._clock.boot()
        if self._task is not None and self._ends_at is not None:
            left = max(int(self._ends_at - self._clock.wall()), 0)
            self._progress.tasks[0].fields["left"] = f"[dim]{left // 60}:{left % 60:02d} left[/]"
        return now

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()


def qr_code(link: str, console: Console) -> str:
    """Return `link` as a QR code of half blocks, or nothing where the terminal could not show it."""
    encoding = (console.encoding or sys.getdefaultencoding()).lower()
    if not console.is_terminal or "utf" not in encoding:
        return ""
    drawn = io.StringIO()
    segno.make(link, error="l").terminal(drawn, compact=True, border=1)
    return drawn.getvalue()
