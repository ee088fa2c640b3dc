"""Every state of every page in a real Chromium: both themes, desk and phone, under the policy as it is sent.

With --long, pictures for eyes are taken into pytest's temporary folder (`--basetemp` chooses it).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from tests.browser import Browser
from tests.pages.screens import SCREENS, WIDTHS, serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.chromium

RULES: "dict[Literal['light', 'dark'], dict[str, list[str]]]" = {"light": {}, "dark": {"runOnly": ["color-contrast"]}}
"""What axe-core is asked for in each theme: all its rules, then those that colours have a part in."""
COLOURS = ("backgroundColor", "color")
COMPLAINTS = """async (rules) => (await axe.run(document, {resultTypes: ["violations"], ...rules})).violations
    .filter((one) => ["serious", "critical", "moderate"].includes(one.impact))
    .map((one) => `${one.id}: ${one.help}: ${one.nodes.map((node) => node.html).join(" | ")}`)"""


@pytest.mark.parametrize("name", SCREENS)
async def test_a_page_fits_keeps_its_policy_and_is_fit_for_everybody(
    browser: Browser, axe: str, tmp_path: Path, name: str, is_long: bool
) -> None:
    """Nothing is wider than the window, nothing is refused by the policy, and axe-core finds nothing to mend."""
    said: list[str] = []

    screen = SCREENS[name]

    def look(page: "Page") -> None:
        page.on("console", lambda one: said.append(one.text))
        page.emulate_media(reduced_motion="reduce")
        answer = page.goto(origin + screen.path)
        assert answer is not None
        assert answer.status == screen.status
        page.evaluate(axe)
        for theme, rules in RULES.items():
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            for width_name, (width, height) in WIDTHS.items():
                page.set_viewport_size({"width": width, "height": height})
                if is_long and width_name != "small phone":  # nothing to see there that the other has not
                    page.screenshot(path=tmp_path / f"{name}-{width_name}-{theme}.png", full_page=True)
                assert page.evaluate("document.documentElement.scrollWidth") == width, width_name
            page.set_viewport_size({"width": 1280, "height": 900})
            assert page.evaluate(COMPLAINTS, rules) == [], theme
            ground, ink = (rgb(page.evaluate(f"getComputedStyle(document.body).{one}")) for one in COLOURS)
            assert (sum(ground) > sum(ink)) == (theme == "light")

    async with serving(screen.world()) as origin:
        await browser.visit(look)

    own = f"status of {screen.status} "  # which Chromium reports as an error, as it should be one
    assert [one for one in said if own not in one] == []


def rgb(colour: str) -> list[int]:
    return [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
