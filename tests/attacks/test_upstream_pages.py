"""A hostile upstream's own pages in a real Chromium: strangers, although they come from our port (S2-S4, S31).

Each is opened as a person would, by its URL. Without the sandbox it would share its origin with our pages and with
every other mount; the last tests show that, and what a port of its own is for.
"""

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import pytest

from tests.attacks.scene import NAMES, WAYS, Scene, attack_at, document, scene
from tests.browser import Browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.chromium

HTML = f'<!doctype html><html><head><link rel="icon" href="data:,"></head><body><script>{WAYS}</script>'
SCRIPT = f"<script><![CDATA[{WAYS}]]></script>"
SVG = f'<svg xmlns="http://www.w3.org/2000/svg">{SCRIPT}</svg>'
XHTML = f'<html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head><body>{SCRIPT}</body></html>'

HOSTILE = {
    "/html": document(HTML),
    "/own-policy": document(
        HTML, "Content-Security-Policy: sandbox allow-same-origin allow-scripts allow-forms allow-top-navigation"
    ),
    "/svg": document(SVG, content_type="image/svg+xml"),
    "/xml": document(XHTML, content_type="text/xml"),
    "/two-types": document(HTML, "Content-Type: text/csv"),
    "/worker.js": document("self.addEventListener('fetch', () => {})", content_type="text/javascript"),
    "/refresh": document(
        "{}", "Refresh: 0; url=http://localhost:@PORT@/other/refresh", content_type="application/json"
    ),
    "/link": document(
        "{}",
        "Link: <http://localhost:@PORT@/other/link>; rel=preload; as=image",
        "Link: <http://localhost:@PORT@/other/fetch>; rel=preload; as=fetch; crossorigin",
        content_type="application/json",
    ),
}
STATE = """() => {
    const tried = (read) => { try { return String(read()) } catch (error) { return error.name } };
    const register = () => navigator.serviceWorker.register(location.pathname.replace(/[^/]*$/, "worker.js"));
    return Promise.resolve().then(register).then(() => "registered", (error) => error.name).then((worker) => [
        self.origin, tried(() => document.cookie), tried(() => localStorage.length), worker,
    ]);
}"""
LEAVE = {
    "location": "(url) => { location.href = url }",
    "form": (
        "(url) => { const form = document.createElement('form'); Object.assign(form, {action: url, method: 'post'});"
        "document.body.append(form); form.submit() }"
    ),
    "link": (
        "(url) => { const link = document.createElement('a'); link.href = url; document.body.append(link);"
        "link.click() }"
    ),
}


def others(there: Scene) -> list[str]:
    """Return what a page of `data` must not reach: another mount, and our own pages."""
    return [f"http://localhost:{there.port}/other", f"http://localhost:{there.port}/-"]


def has_tried_all(there: Scene, names: AbstractSet[str] = NAMES) -> bool:
    """Return whether the guard met every way to both."""
    return {f"{base}/{name}" for base in ("/other", "/-") for name in names - {"socket"}} <= there.refused


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("html", NAMES),
        ("own-policy", NAMES),
        ("xml", NAMES),
        ("svg", NAMES - {"object", "embed"}),  # which a drawing does not load
    ],
)
async def test_s2_s31_a_page_of_an_upstream_reaches_no_other_mount_and_no_page_of_ours(
    browser: Browser, page: str, names: AbstractSet[str]
) -> None:
    """Its origin is null, which the guard refuses; it has no cookies, no storage and no service worker."""
    async with scene(hostile=HOSTILE) as there:

        def look(window: "Page") -> tuple[dict[str, str], list[str]]:
            window.goto(f"http://localhost:{there.port}/data/{page}")
            learned = attack_at(window, *others(there), arrived=lambda: has_tried_all(there, names))
            return learned, window.evaluate(STATE)

        learned, (origin, *state) = await browser.visit(look)

        assert (there.other.connections, there.shown) == (0, [])
        assert has_tried_all(there, names)
    assert origin == "null"
    assert set(state) == {"SecurityError"}
    assert {text for text in learned.values() if "read" in text} <= {"read "}  # what is opaque reads as nothing


@pytest.mark.parametrize("page", ["two-types", "refresh", "link"])
async def test_s2_an_answer_that_is_not_quite_a_page_does_nothing_either(browser: Browser, page: str) -> None:
    """Odd types, and fields that make a browser go or fetch without any page."""
    async with scene(hostile=HOSTILE) as there:

        def look(window: "Page") -> None:
            window.goto(f"http://localhost:{there.port}/data/{page}", wait_until="commit")
            window.wait_for_timeout(500)  # for what the browser does by itself, whose absence is what this shows

        await browser.visit(look)

        assert (there.other.connections, there.shown) == (0, [])


@pytest.mark.parametrize("way", LEAVE)
async def test_s3_a_page_of_an_upstream_cannot_send_the_window_elsewhere_in_its_persons_name(
    browser: Browser, way: str
) -> None:
    async with scene(hostile=HOSTILE) as there:

        def leave(window: "Page") -> str:
            window.goto(f"http://localhost:{there.port}/data/html")
            with window.expect_navigation():
                window.evaluate(LEAVE[way], f"http://localhost:{there.port}/other/x")
            return window.inner_text("body")

        said = await browser.visit(leave)

        assert there.other.connections == 0
    assert "may not call" in said


# what the sandbox is for ----------------------------------------------------------------------------------------------


async def test_without_the_sandbox_the_same_page_reads_every_mount(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack is real: taken out of the sandbox the page is of our origin, which the guard lets in."""
    monkeypatch.setattr("proxy.headers.SANDBOX", (b"x-sandbox", b"none"))
    async with scene(hostile=HOSTILE) as there:

        def look(window: "Page") -> tuple[dict[str, str], list[str]]:
            window.goto(f"http://localhost:{there.port}/data/html")
            return attack_at(window, *others(there), arrived=lambda: True), window.evaluate(STATE)

        learned, (origin, _, _, worker) = await browser.visit(look)

        assert origin == f"http://localhost:{there.port}"
        assert [learned[f"{base}/fetch"] for base in others(there)] == ["read hello", "read control"]
    assert worker == "registered"


async def test_a_port_of_its_own_lets_an_upstreams_pages_work_and_reach_nothing_else(browser: Browser) -> None:
    """There a page has the origin of that port, reads its own service, and is another origin to all the rest."""
    async with scene(hostile=HOSTILE, listen=("127.0.0.1", 0)) as there:
        (own,) = {one.port for one in there.proxy.listeners} - {there.port}

        def look(window: "Page") -> tuple[dict[str, str], str]:
            window.goto(f"http://localhost:{own}/html")
            learned = attack_at(window, *others(there), arrived=lambda: has_tried_all(there))
            return learned, window.evaluate("read('/more')")

        learned, more = await browser.visit(look)

        assert (there.other.connections, there.shown) == (0, [])
        assert has_tried_all(there)
    assert more == "read hello"
    assert {text for text in learned.values() if "read" in text} <= {"read "}
