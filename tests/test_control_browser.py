"""What a person does on the status page, in a real Chromium: click, press keys, listen."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.browser import Browser
from tests.pages.screens import ILL, WELL, serving
from tests.test_control import PROVENA, SIGNED_OUT, UPSTREAMS, World

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.chromium


async def test_one_click_selects_the_base_url(browser: Browser) -> None:
    def click(page: "Page") -> list[str]:
        page.goto(origin)
        selected = []
        for code in page.locator("tbody tr").first.locator(".copy").all():
            code.click()
            selected.append(page.evaluate("getSelection().toString()"))
        return selected

    async with serving(World(identities=WELL)) as origin:
        assert await browser.visit(click) == [
            "http://localhost:8400/provena/data",
            "curl http://localhost:8400/provena/data/",
        ]


async def test_the_keyboard_reaches_the_content_first_and_every_link(browser: Browser) -> None:
    def tab(page: "Page") -> tuple[list[str], str]:
        page.goto(origin)
        reached = []
        for _ in range(page.locator("a[href], button, input:not([type=hidden])").count()):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            reached.append(focused.inner_text())
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.locator(".skip").focus()
        page.keyboard.press("Enter")
        return reached, page.evaluate("document.activeElement.id")

    async with serving(World(identities=ILL)) as origin:
        reached, focused = await browser.visit(tab)

    assert reached[:2] == ["Skip to the content", "bearerproxy"]
    assert {"Requests", "Translate", "Failures explained"} <= set(reached)
    assert focused == "main"


async def test_the_table_stays_a_table_on_a_phone(browser: Browser) -> None:
    """Laid out as blocks, a table loses its meaning for screen readers unless roles keep it."""

    def outline(page: "Page") -> str:
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(origin)
        return page.get_by_role("table").aria_snapshot()

    async with serving(World(identities=WELL)) as origin:
        tree = await browser.visit(outline)

    assert '- table "Base URLs"' in tree
    assert tree.count("- columnheader") == 5
    assert tree.count("- rowheader") == len(UPSTREAMS)


async def test_times_are_told_by_the_clock_of_who_reads(browser: Browser) -> None:
    """The server says UTC, for whoever has no scripts."""

    def look(page: "Page") -> tuple[str, str]:
        page.goto(origin)
        shown = page.locator("#as-of time")
        return page.inner_text("#as-of"), str(shown.get_attribute("datetime"))

    async with serving(World(identities=WELL)) as origin:
        text, moment = await browser.visit(look, timezone="Australia/Brisbane")

    assert moment == "2025-06-15T15:06:40Z"
    assert "As of 01:06:40." in text


async def test_what_is_swapped_in_can_be_copied(browser: Browser) -> None:
    """The local address of what was pasted, by its button or by one click on it."""

    def paste(page: "Page") -> tuple[str, str]:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto(origin)
        page.get_by_label("Address of a service").fill("https://data.example.org/rest/data/FLOW")
        page.get_by_role("button", name="Translate").click()
        button = page.locator("#found").get_by_role("button")
        button.click()
        page.locator("#found").get_by_role("button", name="Copied").wait_for()
        return page.evaluate("navigator.clipboard.readText()"), page.inner_text("#found code")

    async with serving(World(identities=WELL)) as origin:
        copied, shown = await browser.visit(paste)

    assert copied == shown == "http://localhost:8400/dotstat/csv/data/FLOW"


async def test_without_scripts_a_path_is_tried_all_the_same(browser: Browser) -> None:
    def ask(page: "Page") -> str:
        page.goto(f"{origin}/-/use/provena_data")
        page.get_by_label("Path below").fill("/datasets")
        page.get_by_role("button", name="Ask").click()
        return page.inner_text("h1")

    async with serving(World(identities=ILL)) as origin:
        assert await browser.visit(ask, has_scripts=False) == "Sign-in needed"


async def test_a_page_that_changes_leaves_alone_what_does_not(browser: Browser) -> None:
    """A live region stays, or no screen reader tells of it; so do a ticked box, the focus, and a nonce that is good."""

    def watch(page: "Page") -> tuple[bool, bool, str]:
        page.goto(f"{origin}/-/login/provena")
        box = page.get_by_role("checkbox")
        box.check()
        page.evaluate("window.region = document.getElementById('sign-in')")
        nonce = page.locator("[name=nonce]").first.get_attribute("value")
        world.identities[0] = (PROVENA, replace(SIGNED_OUT, detail="Something newer."))
        page.evaluate("lookAgain()")  # as at news
        page.get_by_text("Something newer.").wait_for()
        page.wait_for_function("(old) => document.querySelector('[name=nonce]').value !== old", arg=nonce)
        region = page.evaluate("region === document.getElementById('sign-in') && region.ariaLive === 'polite'")
        return region, box.is_checked(), page.evaluate("document.activeElement.name")

    world = World(identities=[(PROVENA, SIGNED_OUT)])
    async with serving(world) as origin:
        assert await browser.visit(watch) == (True, True, "offline")
