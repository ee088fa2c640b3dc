"""A person walks from the status page to a search, a dataset, a file and its ZIP, in a real Chromium.

The pictures stand in pytest's temporary folder (`--basetemp` chooses it), for eyes.
"""

import asyncio
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import Browser
from tests.datasets.house import house

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.chromium

WIDTHS = {"desk": (1280, 900), "phone": (390, 844), "small phone": (320, 568)}


async def test_a_walk_from_search_to_file_to_zip(browser: Browser, tmp_path: Path) -> None:
    def walk(page: "Page") -> tuple[str, str, list[str], str, str, list[str]]:
        page.goto(there.url.removesuffix("/provena/datasets") + "/-/")
        page.fill("#datasets-provena", "temperature grid")
        page.press("#datasets-provena", "Enter")
        page.click("text=grid, map and table")
        title = page.inner_text("h1")
        page.click("th a:has-text('Size')")
        page.click("th a:has-text('Size')")
        order = [one.inner_text() for one in page.locator(".file").all()]
        page.fill("#filter", "odd names")
        page.click("button:has-text('Filter')")
        shown = page.inner_text(".search .soft")
        code = page.locator(".url").first
        code.click()
        copied = page.evaluate("getSelection().toString()")
        page.evaluate("navigator.clipboard.writeText = async (text) => { window.written = text; }")
        page.locator("button:has-text('Copy URL')").first.click()
        page.wait_for_selector("button:has-text('Copied')")
        assert page.evaluate("window.written") == copied
        with page.expect_download() as zipped:
            page.click("a[download]")
        zipped.value.save_as(tmp_path / "dataset.zip")
        with page.expect_download() as attached:
            page.click("a.file:has-text('page.html')")
        return title, order[0], order, shown, copied, [attached.value.suggested_filename]

    async with house(tmp_path) as there:
        title, largest, order, shown, copied, downloads = await browser.visit(walk)

    assert title == "Sea surface temperature: grid, map and table"
    assert (largest, len(order), shown) == ("grids/sst-monthly.nc", 8, "4 of 8")
    assert copied.endswith("/provena/datasets/10378.1/1005/files/odd%20names/page.html")  # by size
    assert downloads == ["page.html"]
    archive = await asyncio.to_thread(zipfile.ZipFile, tmp_path / "dataset.zip")
    assert archive.testzip() is None
    assert len(archive.namelist()) == 8


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_the_pages_fit_and_keep_their_policy(browser: Browser, tmp_path: Path, theme: str) -> None:
    """Nothing is wider than the window, and nothing is refused by the policy."""
    complaints: list[str] = []

    def look(page: "Page") -> dict[str, int]:
        page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
        page.on("console", lambda said: complaints.append(said.text))
        too_wide = {}
        for screen, path in SCREENS.items():
            page.goto(there.url + path)
            for one in page.locator("details").all()[:2]:
                one.locator("summary").click()
            for name, (width, height) in WIDTHS.items():
                page.set_viewport_size({"width": width, "height": height})
                page.screenshot(path=tmp_path / f"{screen}-{name}-{theme}.png", full_page=True)
                too_wide[f"{screen}, {name}"] = page.evaluate("document.documentElement.scrollWidth") - width
        return too_wide

    async with house(tmp_path) as there:
        too_wide = await browser.visit(look)

    assert {name: width for name, width in too_wide.items() if width} == {}
    assert [one for one in complaints if "status of 403" not in one] == []


SCREENS = {
    "search": "/?query=coral",
    "nothing": "/?query=nothing-fits-this",
    "dataset": "/10378.1/1005/",
    "folder": "/10378.1/1005/files/odd%20names/?filter=zzz",
    "refused": "/10378.1/1004/",
}
