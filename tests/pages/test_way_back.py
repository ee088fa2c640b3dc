"""The browser comes back from the issuer at the proxy's own port: the one navigation of another site that may (A43)."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest

from proxy.attempts import Attempt
from proxy.grants.way_back import FAILED, SIGNED_IN, UNKNOWN
from tests.browser import Browser
from tests.conftest import free_port
from tests.pages.test_live import House, at_the_issuer, house
from tests.poll import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAVIGATION = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
HTML = {"Accept": "text/html"}


@dataclass
class Waiting:
    """A proxy in which a person has pressed the button, and is at the issuer now."""

    house: House
    own_port: int
    """The upstream's, where pages of ours are none."""

    @property
    def attempt(self) -> Attempt:
        attempt = self.house.app._attempts.of("me")
        assert attempt is not None
        return attempt

    @property
    def asked(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.attempt.link or "").query))

    @property
    def is_awaited(self) -> bool:
        return self.house.app._own_port.is_awaited

    def query(self, **said: str) -> str:
        """Return what the issuer appends, changed by `said`; an empty value leaves one out."""
        good = {"code": "canary-code", "state": self.asked["state"], "iss": self.house.demo.issuer_url} | said
        return urlencode({name: value for name, value in good.items() if value})

    async def come_back(
        self, query: str, fields: dict[str, str], *, path: str = "/-/callback", method: str = "GET", port: int = 0
    ) -> httpx2.Response:
        origin = f"http://127.0.0.1:{port or urlsplit(self.house.url).port}"
        async with httpx2.AsyncClient(trust_env=False) as http:
            return await http.request(method, f"{origin}{path}?{query}", headers=HTML | fields)


@pytest.fixture
async def waiting(tmp_path: Path) -> AsyncIterator[Waiting]:
    port, own = free_port(), free_port()
    uri = f'redirect_uri = "http://127.0.0.1:{port}/-/callback"'
    async with house(
        tmp_path, grant="authorization_code", server=f"port = {port}", me=uri, upstream=f"listen = {own}"
    ) as there:
        there.app._attempts.begin("me", is_offline=False)
        one = Waiting(there, own)
        await eventually(lambda: one.attempt.link, what="the link to the issuer")
        yield one


async def test_a43_s39_nothing_but_a_navigation_comes_back(waiting: Waiting) -> None:
    """Though it brings the right state; and the sign-in still waits for its browser."""
    script = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
    for what, fields in {
        "a picture": NAVIGATION | {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        "a script": NAVIGATION | script,
        "a script of a page of ours": script | {"Sec-Fetch-Site": "same-origin"},
        "a frame": NAVIGATION | {"Sec-Fetch-Dest": "iframe"},
        "who does not tell": {"Sec-Fetch-Site": "cross-site"},
        "another origin": NAVIGATION | {"Origin": "https://evil.example.org"},
        "no origin": NAVIGATION | {"Origin": "null"},
        "our own origin": {"Origin": waiting.house.url.replace("localhost", "127.0.0.1")},
        "another host": NAVIGATION | {"Host": "evil.example.org"},
    }.items():
        answer = await waiting.come_back(waiting.query(), fields)

        assert answer.status_code == 403, what
        assert waiting.is_awaited, what


async def test_a43_it_comes_by_get(waiting: Waiting) -> None:
    for method in ("POST", "HEAD", "PUT"):
        answer = await waiting.come_back(waiting.query(), NAVIGATION, method=method)

        assert answer.status_code == 403, method
        assert waiting.is_awaited, method


async def test_a2_s3_another_site_comes_to_no_other_page_meanwhile(waiting: Waiting) -> None:
    for path in ("/", "/-/login/me", "/-/callback/", "/-/callback/x", "/data/dataflow", "/-/requests"):
        assert (await waiting.come_back(waiting.query(), NAVIGATION, path=path)).status_code == 403, path


async def test_a2_s3_nor_to_the_port_of_an_upstream(waiting: Waiting) -> None:
    assert (await waiting.come_back(waiting.query(), NAVIGATION, port=waiting.own_port)).status_code == 403
    assert waiting.is_awaited


async def test_a43_s37_a_foreign_state_is_ignored(waiting: Waiting) -> None:
    for what, query in {
        "wrong state": waiting.query(state="guessed"),
        "no state": waiting.query(state=""),
        "two codes": waiting.query() + "&code=another",
        "two states": waiting.query() + f"&state={waiting.asked['state']}",
        "nothing": "",
    }.items():
        answer = await waiting.come_back(query, NAVIGATION)

        assert answer.status_code == 400, what
        assert UNKNOWN in answer.text, what
        assert waiting.is_awaited, what


async def test_a43_the_answer_of_another_issuer_is_not_used(waiting: Waiting) -> None:
    """And the state is used up by it (RFC 9207)."""
    answer = await waiting.come_back(waiting.query(iss="https://evil.example.org"), NAVIGATION)

    assert FAILED in answer.text
    assert waiting.attempt.state == "failed"
    assert not waiting.is_awaited
    assert await waiting.house.app.store.load("me") is None


async def test_a43_a_no_at_the_issuer_ends_it(waiting: Waiting) -> None:
    """What the issuer says stands on the page where it was begun, not on this one."""
    said = waiting.query(code="", error="access_denied", error_description="<b>canary</b>")
    answer = await waiting.come_back(said, NAVIGATION)

    assert FAILED in answer.text
    assert "canary" not in answer.text
    assert waiting.attempt.code == "access_denied"


async def test_a43_s37_s39_the_state_is_for_one_use(waiting: Waiting) -> None:
    """Neither another site nor a page loaded again brings it twice; and the page sends its address nowhere."""
    query = waiting.query(code="", error="access_denied")
    first = await waiting.come_back(query, NAVIGATION)
    assert first.headers["referrer-policy"] == "no-referrer"

    for site, status in (("cross-site", 403), ("none", 400)):
        answer = await waiting.come_back(query, NAVIGATION | {"Sec-Fetch-Site": site})

        assert answer.status_code == status
        assert "a sign-in that is not under way here" in answer.text


async def test_a43_after_a_cancel_nobody_is_awaited(waiting: Waiting) -> None:
    query = waiting.query()
    waiting.house.app._attempts.cancel("me")
    await eventually(lambda: not waiting.is_awaited, what="the end of the attempt")

    assert (await waiting.come_back(query, NAVIGATION)).status_code == 403


@pytest.mark.chromium
async def test_a_browser_comes_back_to_the_own_port(browser: Browser, waiting: Waiting) -> None:
    """From the issuer's page, which is another site for it, to ours; the page where it was begun says it too."""
    waiting.house.app._attempts.cancel("me")

    def sign_in(page: "Page") -> tuple[str, str, str]:
        page.goto(waiting.house.page)
        page.get_by_role("button", name="Try again").click()
        there = at_the_issuer(page, "Allow")
        there.get_by_text(SIGNED_IN).wait_for()
        page.get_by_text("You are signed in as ada.").wait_for()
        where = there.url
        there.reload()
        return where, there.inner_text("main"), page.inner_text("#sign-in")

    where, again, said = await asyncio.wait_for(browser.visit(sign_in), 60)

    assert where.startswith(f"http://127.0.0.1:{urlsplit(waiting.house.url).port}/-/callback?")
    assert "not under way" in again
    assert "Signed in" in said
    assert (await waiting.house.get()).status_code == 200
