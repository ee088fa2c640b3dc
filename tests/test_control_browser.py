"""The pages in a real Chromium: both themes, desk and phone, under the policy as it is sent.

The pictures stand in pytest's temporary folder (`--basetemp` chooses it), for eyes.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvicorn

from proxy.clock import ManualClock
from proxy.control import ControlView, control_app
from proxy.errors import SignInRequired
from proxy.identities import Identity
from proxy.problems import answer
from tests.browser import Browser
from tests.poll import eventually
from tests.test_control import DOTSTAT, NOW, PROVENA, RUNNING, SIGNED_IN, SIGNED_OUT, UPSTREAMS, Status

if TYPE_CHECKING:
    from playwright.sync_api import Page
    from starlette.types import Receive, Scope, Send

pytestmark = pytest.mark.chromium

WIDTHS = {"desk": (1280, 900), "phone": (390, 844), "small phone": (320, 568)}
WELL = [(PROVENA, SIGNED_IN), (DOTSTAT, RUNNING)]
ILL = [
    (PROVENA, SIGNED_OUT),
    (DOTSTAT, Status("dotstat", "misconfigured", detail="The issuer refuses the client 'stat-suite': invalid_client.")),
]
SCREENS = {
    "ready": ("/", WELL),
    "not-ready": ("/-/", ILL),
    "sign-in": ("/-/login/provena", ILL),
    "failures": ("/-/errors/", WELL),
    "failure": ("/-/errors/bad-request", WELL),
    "problem": ("/provena/data/datasets", ILL),
}


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[str]:
    """Serve the control plane, and a refusal of the data path on every mount, on a real socket; yields its origin."""
    listener = socket.create_server(("127.0.0.1", 0))
    origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    control = world.app()

    async def app(scope: "Scope", receive: "Receive", send: "Send") -> None:
        if not scope["path"].startswith("/provena"):
            await control(scope, receive, send)
            return
        refusal = SignInRequired("The sign-in of 'provena' has ended: the session is not active.", login="provena")
        given = answer(refusal, accept=dict(scope["headers"]).get(b"accept"))
        await send({"type": "http.response.start", "status": given.status, "headers": list(given.fields)})
        await send({"type": "http.response.body", "body": given.body})

    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_config=None))
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listener]))
        await eventually(lambda: server.started, what="the control plane listens")
        try:
            yield origin
        finally:
            server.should_exit = True


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
async def test_a_page_fits_and_keeps_its_policy(browser: Browser, tmp_path: Path, screen: str, theme: str) -> None:
    """Nothing is wider than the window, nothing is refused by the policy, and the theme is the system's."""
    path, identities = SCREENS[screen]
    complaints: list[str] = []

    def look(page: "Page") -> tuple[dict[str, int], str, str]:
        page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
        page.on("console", lambda said: complaints.append(said.text))
        page.goto(origin + path)
        too_wide = {}
        for name, (width, height) in WIDTHS.items():
            page.set_viewport_size({"width": width, "height": height})
            page.screenshot(path=tmp_path / f"{screen}-{name}-{theme}.png", full_page=True)
            too_wide[name] = page.evaluate("document.documentElement.scrollWidth") - width
        style = "getComputedStyle(document.body)"
        return too_wide, page.evaluate(f"{style}.backgroundColor"), page.evaluate(f"{style}.color")

    async with serving(identities) as origin:
        too_wide, ground, ink = await browser.visit(look)

    assert too_wide == dict.fromkeys(WIDTHS, 0)
    assert (sum(rgb(ground)) > sum(rgb(ink))) == (theme == "light")
    assert [one for one in complaints if "status of 503" not in one] == []  # Chromium reports the problem's own status


def rgb(colour: str) -> list[int]:
    return [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]


async def test_one_click_selects_the_base_url(browser: Browser) -> None:
    def click(page: "Page") -> list[str]:
        page.goto(origin)
        selected = []
        for code in page.locator("tbody tr").first.locator(".copy").all():
            code.click()
            selected.append(page.evaluate("getSelection().toString()"))
        return selected

    async with serving(WELL) as origin:
        assert await browser.visit(click) == [
            "http://localhost:8400/provena/data",
            "curl http://localhost:8400/provena/data/",
        ]


async def test_the_keyboard_reaches_the_content_first_and_every_link(browser: Browser) -> None:
    def tab(page: "Page") -> tuple[list[str], str]:
        page.goto(origin)
        reached = []
        for _ in range(page.locator("a[href]").count()):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            reached.append(focused.inner_text())
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.locator(".skip").focus()
        page.keyboard.press("Enter")
        return reached, page.evaluate("document.activeElement.id")

    async with serving(ILL) as origin:
        reached, focused = await browser.visit(tab)

    assert reached[:2] == ["Skip to the content", "bearerproxy"]
    assert reached[-1] == "Failures explained"
    assert focused == "main"


async def test_the_table_stays_a_table_on_a_phone(browser: Browser) -> None:
    """Laid out as blocks, a table loses its meaning for screen readers unless roles keep it."""

    def outline(page: "Page") -> str:
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(origin)
        return page.get_by_role("table").aria_snapshot()

    async with serving(WELL) as origin:
        tree = await browser.visit(outline)

    assert '- table "Base URLs"' in tree
    assert tree.count("- columnheader") == 4
    assert tree.count("- rowheader") == len(UPSTREAMS)
