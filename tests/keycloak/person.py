"""A person who signs in at Keycloak's own pages."""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.browser import Browser

if TYPE_CHECKING:
    from playwright.sync_api import Page


@dataclass(frozen=True)
class Landing:
    """Where the browser stood at the end, and what a person reads there."""

    url: str
    text: str


@dataclass(frozen=True)
class Person:
    """Somebody with a browser; alice has the roles that Provena asks for, bob (`pw-bob`) has none."""

    browser: Browser
    username: str = "alice"
    password: str = "pw-alice"

    async def approve(self, verification_uri_complete: str) -> Landing:
        """Sign in on the device grant's page and say yes (RFC 8628 3.3). Returns the page of success."""
        return await self._answer_device(verification_uri_complete, "Yes", "Device Login Successful")

    async def refuse(self, verification_uri_complete: str) -> Landing:
        """Sign in on the device grant's page and say no: the device is told `access_denied`."""
        return await self._answer_device(verification_uri_complete, "No", "Device Login failed")

    async def sign_in(self, authorization_url: str) -> Landing:
        """Open the link of an authorization request, sign in, and return the client's page that it leads to."""
        issuer = urlsplit(authorization_url).netloc

        def act(page: "Page") -> Landing:
            page.goto(authorization_url)
            self.fill_in(page)
            page.wait_for_url(lambda url: urlsplit(url).netloc != issuer)
            return _landing(page)

        return await self.browser.visit(act)

    async def _answer_device(self, url: str, button: str, outcome: str) -> Landing:
        def act(page: "Page") -> Landing:
            page.goto(url)
            self.fill_in(page)
            page.get_by_role("button", name=button, exact=True).click()
            page.get_by_text(outcome, exact=False).first.wait_for()
            return _landing(page)

        return await self.browser.visit(act)

    def fill_in(self, page: "Page") -> None:
        """Give name and password on the page that asks for them."""
        page.get_by_role("textbox", name="Username or email").fill(self.username)
        page.get_by_role("textbox", name="Password", exact=True).fill(self.password)
        page.get_by_role("button", name="Sign In", exact=True).click()


def _landing(page: "Page") -> Landing:
    return Landing(page.url, page.inner_text("body"))
