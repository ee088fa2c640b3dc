"""A person with a real browser at the issuer's page."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpx2
import pytest

from proxy.demo import Demo
from tests.browser import Browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.chromium

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    async with Demo() as running:
        yield running


@pytest.fixture
async def http(demo: Demo) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False, base_url=f"{demo.issuer_url}/protocol/openid-connect") as client:
        yield client


async def test_person_types_the_code_and_allows(demo: Demo, http: httpx2.AsyncClient, browser: Browser) -> None:
    """From the short link: code, user name, password, Allow; the page is styled and complains of nothing."""
    asked = (await http.post("/auth/device", data={"client_id": "client-tools"})).json()

    def sign_in(page: "Page") -> tuple[str, str, list[str]]:
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(asked["verification_uri"])
        page.get_by_label("Code").fill(asked["user_code"].lower())
        page.get_by_role("button", name="Continue").click()
        colour = page.get_by_role("button", name="Allow").evaluate("one => getComputedStyle(one).backgroundColor")
        page.get_by_label("User name").fill("ada")
        page.get_by_label("Password").fill("reef")
        page.get_by_role("button", name="Allow").click()
        return page.get_by_role("heading").inner_text(), colour, complaints

    heading, colour, complaints = await browser.visit(sign_in)
    form = {"grant_type": DEVICE, "client_id": "client-tools", "device_code": asked["device_code"]}
    granted = await http.post("/token", data=form)

    assert heading == "Device Login Successful"
    assert colour == "rgb(11, 107, 120)"
    assert complaints == []
    assert granted.status_code == 200


async def test_browser_follows_the_redirect_to_the_program(
    demo: Demo, http: httpx2.AsyncClient, browser: Browser
) -> None:
    """The page's own policy lets the answer out to the loopback port that asked, and the code arrives there."""
    back = demo.data_url  # any listener on a loopback port
    query = httpx2.QueryParams(
        response_type="code",
        client_id="desktop",
        redirect_uri=f"{back}/",
        state="s1",
        code_challenge="x" * 43,
        code_challenge_method="S256",
    )

    def sign_in(page: "Page") -> str:
        page.goto(f"{demo.issuer_url}/protocol/openid-connect/auth?{query}")
        page.get_by_role("button", name="Allow").click()
        page.wait_for_url(f"{back}/**")
        return page.url

    arrived = httpx2.URL(await browser.visit(sign_in)).params

    assert (arrived["state"], arrived["iss"]) == ("s1", demo.issuer_url)
    assert arrived["code"]


async def test_person_denies(demo: Demo, http: httpx2.AsyncClient, browser: Browser) -> None:
    asked = (await http.post("/auth/device", data={"client_id": "client-tools"})).json()

    def deny(page: "Page") -> str:
        page.goto(asked["verification_uri_complete"])
        page.get_by_role("button", name="Deny").click()
        return page.get_by_role("heading").inner_text()

    assert await browser.visit(deny) == "Access denied"
    form = {"grant_type": DEVICE, "client_id": "client-tools", "device_code": asked["device_code"]}
    assert (await http.post("/token", data=form)).json()["error"] == "access_denied"
