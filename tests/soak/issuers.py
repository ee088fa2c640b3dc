"""The issuers that a soak can have, behind one face: both are reached through the chaos proxy alone."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import urljoin

import httpx2
from bs4 import BeautifulSoup

from proxy.clock import SystemClock
from proxy.demo.issuer import DemoIssuer
from proxy.demo.realm import Lifetimes
from proxy.demo.serving import Listener, bind
from tests.keycloak.server import Keycloak
from tests.soak.chaos import ChaosProxy

LIFE_SECONDS = 3


class SoakIssuer(Protocol):
    """What the soak asks of an issuer beside what the proxy asks."""

    url: str
    """Issuer identifier, through the chaos proxy."""
    person: tuple[str, str]
    """User name and password of who signs in by the device grant."""
    other: tuple[str, str]
    """The same of the password grant."""

    async def stop(self, *, by_force: bool) -> None: ...
    async def start(self) -> None: ...
    async def events(self, kind: str, client_id: str) -> int:
        """Return how many events of a kind, by Keycloak's names, a client caused."""


class KeycloakIssuer:
    """A real Keycloak."""

    person = ("alice", "pw-alice")
    other = ("bob", "pw-bob")

    def __init__(self, keycloak: Keycloak, url: str) -> None:
        self.url = url
        self._keycloak = keycloak

    async def stop(self, *, by_force: bool) -> None:
        await asyncio.to_thread(self._keycloak.kill if by_force else self._keycloak.stop)

    async def start(self) -> None:
        await asyncio.to_thread(self._keycloak.start)

    async def events(self, kind: str, client_id: str) -> int:
        return await asyncio.to_thread(self._count, kind, client_id)

    def _count(self, kind: str, client_id: str) -> int:
        count, page = 0, 500
        while True:
            query = f"type={kind}&client={client_id}&first={count}&max={page}"
            found = len(self._keycloak.admin("GET", f"/research/events?{query}").json())
            count += found
            if found < page:
                return count


@asynccontextmanager
async def keycloak_issuer(chaos: ChaosProxy) -> AsyncIterator[KeycloakIssuer]:
    """Start a Keycloak behind `chaos`: tokens of LIFE_SECONDS, rotation with reuse detection. Raises MissingPartError.

    A realm of its own frontend URL: what it says about itself leads through the chaos proxy.
    """
    folder = Path(tempfile.mkdtemp(prefix="soak-keycloak-"))
    try:
        keycloak = Keycloak(folder)
        starting = asyncio.ensure_future(asyncio.to_thread(keycloak.start))
        try:
            await asyncio.shield(starting)
            chaos.target = int(keycloak.url.rsplit(":", 1)[1].split("/")[0])
            frontend = f"http://127.0.0.1:{chaos.port}/auth"
            await asyncio.to_thread(_lay_realm, keycloak, frontend)
            yield KeycloakIssuer(keycloak, f"{frontend}/realms/research")
        finally:
            with suppress(Exception):  # interrupted while it starts: it is killed all the same, and what failed is told
                await starting
            await asyncio.to_thread(keycloak.__exit__)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lay_realm(keycloak: Keycloak, frontend: str) -> None:
    life = {"accessTokenLifespan": LIFE_SECONDS, "revokeRefreshToken": True, "refreshTokenMaxReuse": 0}
    realm = keycloak.fresh_realm({**life, "attributes": {"frontendUrl": frontend}})
    attributes = {"access.token.lifespan": str(LIFE_SECONDS), "client_credentials.use_refresh_token": "false"}
    realm.put_client("dotstat-svc", attributes=attributes)


class DemoSoakIssuer:
    """The demo's issuer, in this process: for machines without Java."""

    person = ("ada", "reef")
    other = ("ben", "reef")

    def __init__(self, origin: str) -> None:
        self.port = 0
        self._clock = SystemClock()
        lifetimes = Lifetimes(access_seconds=LIFE_SECONDS)
        self._issuer = DemoIssuer(origin, clock=self._clock, lifetimes=lifetimes, rotation=True)
        self.url = self._issuer.url
        self._listener: Listener | None = None

    async def stop(self, *, by_force: bool) -> None:
        if self._listener is not None:
            await self._listener.close()
            self._listener = None

    async def start(self) -> None:
        bound = bind("127.0.0.1", self.port)
        self.port = int(bound.getsockname()[1])
        self._listener = Listener(self._issuer, bound, clock=self._clock)
        await self._listener.open()

    async def events(self, kind: str, client_id: str) -> int:
        return sum(one.kind == kind and one.client_id == client_id for one in self._issuer.events)


@asynccontextmanager
async def demo_issuer(chaos: ChaosProxy) -> AsyncIterator[DemoSoakIssuer]:
    """Start the demo's issuer behind `chaos`."""
    issuer = DemoSoakIssuer(f"http://127.0.0.1:{chaos.port}")
    await issuer.start()
    chaos.target = issuer.port
    try:
        yield issuer
    finally:
        await issuer.stop(by_force=False)


async def approve(link: str, username: str, password: str) -> None:
    """Sign in behind a device grant's link and allow it, as a person would, but without a browser.

    Raises AssertionError if it does not end in success.
    """
    cookies: dict[str, str] = {}
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        answer = await _followed(http, httpx2.Request("GET", link), cookies)
        for _ in range(4):
            if "Device Login Successful" in answer.text:
                return
            form = BeautifulSoup(answer.text, "html.parser").find("form")
            assert form is not None, f"{answer.status_code} {answer.url}: {answer.text[-500:]}"
            given = {str(one["name"]): str(one.get("value", "")) for one in form.select("input[name]")}
            given.pop("cancel", None)
            if "password" in given or form.select("[name=password]"):
                given |= {"username": username, "password": password}
            for button in form.select("button[name]"):
                if "allow" in str(button.get("value", "")).lower():
                    given[str(button["name"])] = str(button["value"])
            target = urljoin(str(answer.url), str(form.get("action") or answer.url))
            answer = await _followed(http, httpx2.Request("POST", target, data=given), cookies)
    raise AssertionError(f"no success after four pages: {answer.text[-500:]}")


async def _followed(http: httpx2.AsyncClient, request: httpx2.Request, cookies: dict[str, str]) -> httpx2.Response:
    """Send, follow redirects, and keep cookies by hand: those marked Secure too, which a browser sends to loopback."""
    for _ in range(10):
        if cookies:
            request.headers["cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        answer = await http.send(request)
        for line in answer.headers.get_list("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            cookies[name] = value
        if not answer.is_redirect:
            return answer
        request = httpx2.Request("GET", urljoin(str(answer.url), answer.headers["location"]))
    raise AssertionError("too many redirects")
