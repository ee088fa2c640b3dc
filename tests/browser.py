"""A real Chromium in a thread of its own.

Playwright's objects belong to the thread that made them, while pytest-asyncio gives each test a loop of its own: so one
browser serves the whole run from its thread, and tests hand it what to do.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self, TypeVar

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Page

T = TypeVar("T")

ARGUMENTS = [
    "--no-sandbox",  # CI is root in a container, where Chromium's sandbox cannot be set up
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",  # or it looks up its maker's hosts, which a closed network refuses
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP *.test 127.0.0.1",  # other sites, and names that were rebound (RFC 6761 6.2)
]

START_SECONDS = 60.0
STEP_SECONDS = 20.0
"""A click and the page after it, on a busy machine."""


class Browser:
    """A browser whose every visit begins without cookies, as a private window does."""

    def __init__(self, executable: str) -> None:
        self._executable = executable
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chromium")

    def __enter__(self) -> Self:
        self._thread.submit(self._launch).result(START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.submit(self._close).result(START_SECONDS)
        self._thread.shutdown()

    async def visit(self, action: Callable[["Page"], T], *, has_scripts: bool = True, timezone: str | None = None) -> T:
        """Return what `action` made of a new window, while the test's event loop goes on serving it.

        `action` is plain (not async) playwright code. What it raises is raised here, with the page as it stood.
        """
        return await asyncio.wrap_future(self._thread.submit(self._in_new_window, action, has_scripts, timezone))

    def _launch(self) -> None:
        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(executable_path=self._executable, args=ARGUMENTS)

    def _close(self) -> None:
        self._chromium.close()
        self._playwright.stop()

    def _in_new_window(self, action: Callable[["Page"], T], has_scripts: bool, timezone: str | None) -> T:
        context = self._chromium.new_context(locale="en-GB", java_script_enabled=has_scripts, timezone_id=timezone)
        context.set_default_timeout(STEP_SECONDS * 1000)
        page = context.new_page()
        try:
            return action(page)
        except Exception as error:
            error.add_note(f"The page was {page.url}\n{page.inner_text('body')[:2000]}")
            raise
        finally:
            context.close()
