"""A real Chromium is sent to pages of strangers, which try every way to use the proxy (A2-A4, S1-S7).

Other sites and names that were rebound are `*.test`, which this browser finds on 127.0.0.1.
"""

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from proxy.guard import Guard
from proxy.server import bind
from tests.attacks.scene import NAMES, PAGE, UNUSED, Scene, attack_at, attack_from, document, pages, scene
from tests.browser import STEP_SECONDS, Browser
from tests.command import serving
from tests.journeys.house import breaking_off, raw_upstream
from tests.poll import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.chromium

EVIL = {"/": document(PAGE), "/null": document(PAGE, "Content-Security-Policy: sandbox allow-scripts allow-forms")}
UPGRADES = {"socket"}  # the listener refuses it before there is a request (S6)


class Open(Guard):
    """What the proxy would be without its guard."""

    def check(self, *_: Any, **__: Any) -> None:
        """Let everybody in."""


def both(there: Scene, host: str = "localhost") -> list[str]:
    """Return the places to attack: a mount, and our own pages."""
    return [f"http://{host}:{there.port}/data", f"http://{host}:{there.port}/-"]


def arrived(there: Scene) -> set[str]:
    """Return the ways by which something came to the upstream."""
    return {head.split(b" ")[1].decode().strip("/?") for head in there.data.heads}


def has_met_all(there: Scene) -> bool:
    """Return whether the guard met every way to both places."""
    return {f"{base}/{name}" for base in ("/data", "/-") for name in NAMES - UPGRADES} <= there.refused


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        pytest.param("http://evil.test:{}/", "localhost", id="another-site"),
        pytest.param("http://evil.test:{}/null", "localhost", id="sandboxed"),
        pytest.param("http://localhost:{}/", "localhost", id="another-port-of-localhost"),
        pytest.param("http://127.0.0.1:{}/", "localhost", id="another-name-of-this-machine"),
    ],
)
async def test_a2_s2_s3_no_page_of_a_stranger_reaches_anything(browser: Browser, origin: str, host: str) -> None:
    """Every way arrives at the guard and ends there: no byte upstream, no token, no page of ours; nothing is read.

    That takes in preflights (A4), which get no permission, and WebSocket (S6), which the listener refuses.
    """
    async with raw_upstream(pages(EVIL)) as evil, scene() as there:
        learned = await browser.visit(
            lambda page: attack_from(
                page, origin.format(evil.port), *both(there, host), arrived=lambda: has_met_all(there)
            )
        )

        assert there.used == UNUSED
        assert has_met_all(there)
        assert [error.kind for error in there.proxy.refusals] == ["not-implemented"] * 2
    assert {text for text in learned.values() if "read" in text} <= {"read "}  # what is opaque reads as nothing


async def test_a1_s1_a_rebound_name_reaches_nothing_though_it_is_the_pages_own_origin(browser: Browser) -> None:
    """The attacker's server answers first; then its port and name lead to us, and only Host tells."""
    has_page, is_rebound = threading.Event(), threading.Event()

    def rebound(page: "Page") -> dict[str, str]:
        page.goto(f"{own}/")
        has_page.set()
        assert is_rebound.wait(STEP_SECONDS)
        return attack_at(page, f"{own}/data", f"{own}/-", arrived=lambda: has_met_all(there))

    async with asyncio.TaskGroup() as group:
        async with raw_upstream(breaking_off(document(PAGE, "Connection: close"))) as attacker:
            own = f"http://evil.test:{attacker.port}"
            visit = group.create_task(browser.visit(rebound))
            await eventually(has_page.is_set, STEP_SECONDS, what="the attacker's page")
        async with scene(listeners=bind("127.0.0.1", attacker.port, allow_remote=False)) as there:
            is_rebound.set()
            learned = await visit

            assert there.used == UNUSED
            assert has_met_all(there)
    assert "not one of this proxy's names" in learned[f"{own}/data/fetch"]  # it reads our refusal, and no more


async def test_without_the_guard_the_same_page_would_use_the_token(browser: Browser) -> None:
    """The attacks are real: nearly every way reaches the upstream once nobody stands in it."""
    expected = NAMES - UPGRADES - {"fetch-put", "fetch-delete", "fetch-json", "fetch-field"}  # those ask permission

    async with raw_upstream(pages(EVIL)) as evil, scene(guard=Open()) as there:
        learned = await browser.visit(
            lambda page: attack_from(
                page, f"http://evil.test:{evil.port}/", both(there)[0], arrived=lambda: arrived(there) == expected
            )
        )

        assert arrived(there) == expected, (learned, there.proxy.events)


@pytest.mark.parametrize("method", ["get", "post"])
async def test_s3_a_link_from_another_site_opens_nothing(browser: Browser, method: str) -> None:
    """Reads too: a GET would carry the user's token (A2)."""
    async with raw_upstream(pages(EVIL)) as evil, scene() as there:

        def follow(page: "Page") -> str:
            page.goto(f"http://evil.test:{evil.port}/")
            with page.expect_navigation():
                page.evaluate(
                    "([url, method]) => { const f = document.createElement('form'); f.action = url; f.method = method;"
                    "document.body.append(f); f.submit(); }",
                    [f"http://localhost:{there.port}/data/x", method],
                )
            return page.inner_text("body")

        said = await browser.visit(follow)

        assert there.used == UNUSED
    assert "may not call" in said


async def test_s7_the_address_0_0_0_0_is_no_way_around(browser: Browser) -> None:
    """The browser may stop it by itself; what comes through is refused."""
    async with raw_upstream(pages(EVIL)) as evil, scene() as there:
        await browser.visit(
            lambda page: attack_from(
                page, f"http://evil.test:{evil.port}/", *both(there, host="0.0.0.0"), arrived=lambda: True
            )
        )

        assert there.used == UNUSED


async def test_a3_s4_an_allowed_origin_is_opened(browser: Browser) -> None:
    """Its scripts read and write, preflights are answered; what carries no Origin is another site's as ever."""
    async with raw_upstream(pages(EVIL)) as app:
        allowed = f"http://app.test:{app.port}"
        async with scene(guard=Guard(allowed_origins=frozenset({allowed}))) as there:
            learned = await browser.visit(
                lambda page: attack_from(page, f"{allowed}/", both(there)[0], arrived=lambda: True)
            )
            served = {path.rpartition("/")[2] for path, text in learned.items() if text == "read hello"}

    scripts = {"fetch", "fetch-post", "fetch-put", "fetch-delete", "fetch-json", "fetch-field", "xhr", "worker"}
    assert served == scripts  # and none with credentials: no answer allows them


@pytest.mark.parametrize("stranger", ["evil.test:{}/", "x.app.test:{}/", "app.test:{}/null"])
async def test_a3_s4_nothing_but_the_allowed_origin_is_opened(browser: Browser, stranger: str) -> None:
    """Neither a sister site, nor a page of that very site in a sandbox."""
    async with raw_upstream(pages(EVIL)) as app:
        guard = Guard(allowed_origins=frozenset({f"http://app.test:{app.port}"}))
        async with scene(guard=guard) as there:
            await browser.visit(
                lambda page: attack_from(
                    page,
                    "http://" + stranger.format(app.port),
                    *both(there),
                    arrived=lambda: has_met_all(there),
                )
            )

            assert there.used == UNUSED
            assert has_met_all(there)


async def test_a3_s4_another_port_of_the_allowed_name_is_not_opened(browser: Browser) -> None:
    async with raw_upstream(pages(EVIL)) as app, raw_upstream(pages(EVIL)) as elsewhere:
        guard = Guard(allowed_origins=frozenset({f"http://app.test:{app.port}"}))
        async with scene(guard=guard) as there:
            await browser.visit(
                lambda page: attack_from(
                    page,
                    f"http://app.test:{elsewhere.port}/",
                    *both(there),
                    arrived=lambda: has_met_all(there),
                )
            )

            assert there.used == UNUSED
            assert has_met_all(there)


async def test_a_person_opens_our_page_and_it_works(browser: Browser, tmp_path: Path) -> None:
    """Typed or from a bookmark, by each of our names: the page, its style, and what it asks for itself."""
    (tmp_path / "proxy.toml").write_text(
        '[store]\nkind = "memory"\n[upstream.open]\nurl = "https://data.example.org"\nanonymous = true\n'
    )
    async with serving(tmp_path / "proxy.toml") as proxy:

        def look(page: "Page") -> list[tuple[str, int]]:
            seen: list[tuple[str, int]] = []
            page.on("response", lambda answer: seen.append((answer.request.resource_type, answer.status)))
            for host in ("localhost", "127.0.0.1"):
                page.goto(f"http://{host}:{proxy.port}/")
                assert "bearerproxy" in page.title()
                page.get_by_role("link", name="Failures explained").click()
                page.wait_for_url("**/-/errors/")
            return seen

        seen = await browser.visit(look)

    assert {status for _, status in seen} == {200}
    assert {"document", "stylesheet"} <= {kind for kind, _ in seen}
