"""A person signs in on the page, and looks at what happens: the whole proxy, the demo's issuer, a real Chromium."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from proxy.app import App
from proxy.config import load
from proxy.demo import Demo
from proxy.events import Event, SignInAwaited
from tests.browser import Browser
from tests.clients import programs
from tests.poll import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page, Response

pytestmark = pytest.mark.chromium

PATH = "/data/dataflow/all/all/latest"


@dataclass
class House:
    """A proxy in front of the demo, with nobody signed in."""

    app: App
    demo: Demo
    stop: asyncio.Event
    calls: list[tuple[str, str]]
    events: list[Event] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.app.base_url

    @property
    def page(self) -> str:
        return f"{self.url}/-/login/me"

    def secrets(self) -> list[str]:
        held = self.app.sources["me"].current()
        return [] if held is None else [held.access_token, held.refresh_token or held.access_token]

    async def get(self, path: str = PATH) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
            return await http.get(self.url + path)


@asynccontextmanager
async def house(
    tmp_path: Path,
    *,
    grant: str = "device_code",
    on_sign_in: str = "wait",
    server: str = "port = 0",
    me: str = "",
    upstream: str = "",
) -> AsyncIterator[House]:
    """Serve one; `server`, `me` and `upstream` are more lines of those tables."""
    async with Demo() as demo:
        file = tmp_path / "proxy.toml"
        file.write_text(
            f'[server]\n{server}\non_sign_in = "{on_sign_in}"\n[store]\nkind = "memory"\n'
            f'[identity.me]\nissuer = "{demo.issuer_url}"\nclient_id = "desktop"\ngrant = "{grant}"\n{me}\n'
            f'[upstream.data]\nurl = "{demo.nsi_url}/rest"\nidentity = "me"\n{upstream}\n'
        )
        calls: list[tuple[str, str]] = []
        events: list[Event] = []
        app = App(load(file, {}), emit=events.append, call=lambda *call: calls.append(call))
        listeners = app.bind()
        stop, is_ready = asyncio.Event(), asyncio.Event()
        async with app, asyncio.TaskGroup() as group:
            group.create_task(app.serve(listeners, stop, ready=is_ready.set))
            await is_ready.wait()
            try:
                yield House(app, demo, stop, calls, events)
            finally:
                stop.set()


@asynccontextmanager
async def listening(there: House) -> AsyncIterator[list[str]]:
    """Read every stream of the proxy, as its pages do; yields what is heard."""
    heard: list[str] = []

    async def listen(path: str) -> None:
        async with (
            httpx2.AsyncClient(trust_env=False, timeout=60) as http,
            http.stream("GET", there.url + path) as answer,
        ):
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for text in answer.aiter_text():
                heard.append(text)  # noqa: PERF401 - each as it comes

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(listen(path)) for path in ("/-/events", "/-/requests/events")]
        yield heard
        for task in tasks:
            task.cancel()


def at_the_issuer(page: "Page", button: str) -> "Page":
    """Follow the link to the issuer in a window of its own, press `button` there, and return that window."""
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the issuer's page").click()
    there = opened.value
    there.get_by_label("User name").fill("ada")
    there.get_by_label("Password").fill("reef")
    there.get_by_role("button", name=button).click()
    there.wait_for_load_state()
    return there


@pytest.mark.parametrize("grant", ["device_code", "authorization_code"])
async def test_a43_s37_s40_a_person_signs_in_without_loading_the_page_again(
    browser: Browser, tmp_path: Path, grant: str
) -> None:
    """And nothing that the browser was sent holds a token, no page and no stream (S36)."""
    bodies: list[str] = []

    def sign_in(page: "Page") -> tuple[str, bool]:
        answers: list[Response] = []
        page.on("response", lambda one: answers.append(one))  # noqa: PLW0108 - playwright looks into a function
        page.goto(there.page)
        page.evaluate("window.isTheSame = true")
        page.get_by_role("button", name="Sign in").click()
        at_the_issuer(page, "Allow")
        page.get_by_text("You are signed in as ada.").wait_for()
        bodies.extend(one.text() for one in answers if one.status == 200 and "events" not in one.url)
        return page.inner_text("#sign-in"), page.evaluate("window.isTheSame === true")

    async with house(tmp_path, grant=grant) as there, listening(there) as heard:
        text, is_the_same = await browser.visit(sign_in)
        secrets = there.secrets()
        answer = await there.get(f"{PATH}?X-Amz-Signature={secrets[0]}")
        await eventually(lambda: "X-Amz-Signature" in "".join(heard), what="the request in the stream")
        bodies += heard

    assert is_the_same
    assert "Signed in" in text
    assert answer.status_code == 200
    assert len(secrets) == 2
    assert not [one for one in secrets if any(one in body for body in bodies)]


async def test_a_no_at_the_issuer_is_said_on_the_page(browser: Browser, tmp_path: Path) -> None:
    def refuse(page: "Page") -> str:
        page.goto(there.page)
        page.get_by_role("button", name="Sign in").click()
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="Open the issuer's page").click()
        opened.value.get_by_role("button", name="Deny").click()
        page.get_by_text("denied at the issuer").wait_for()
        return page.get_by_role("button", name="Try again").inner_text()

    async with house(tmp_path) as there:
        assert await browser.visit(refuse) == "Try again"


async def test_an_issuer_that_is_away_is_said_on_the_page(browser: Browser, tmp_path: Path) -> None:
    def press(page: "Page") -> str:
        page.goto(there.page)
        page.get_by_role("button", name="Sign in").click()
        return page.locator(".outcome-ill").inner_text()

    async with house(tmp_path) as there:
        await there.demo.stop("issuer")
        assert "The issuer cannot be reached" in await browser.visit(press)


async def test_it_works_without_scripts(browser: Browser, tmp_path: Path) -> None:
    def sign_in(page: "Page") -> str:
        page.goto(there.page)
        page.get_by_role("button", name="Sign in").click()
        page.locator(".act a").wait_for()  # the page looks again by itself
        at_the_issuer(page, "Allow")
        page.get_by_text("You are signed in as ada.").wait_for()
        page.get_by_role("button", name="Sign out").click()
        return page.inner_text("#sign-in")

    async with house(tmp_path) as there:
        said = await browser.visit(sign_in, has_scripts=False)
        assert there.app.sources["me"].current() is None

    assert "Signed out of 'me', here and at the issuer." in said


async def test_a_request_waits_for_the_sign_in_and_goes_on(browser: Browser, tmp_path: Path) -> None:
    """An R script's first call signs its user in."""

    def sign_in(page: "Page") -> str:
        page.goto(there.calls[0][1])
        page.get_by_role("button", name="Sign in").click()
        at_the_issuer(page, "Allow")
        page.get_by_text("You are signed in as ada.").wait_for()
        return page.url

    async with house(tmp_path) as there:
        requests = [asyncio.get_running_loop().create_task(there.get()) for _ in range(3)]
        await eventually(lambda: there.calls, what="the call of the person")
        await browser.visit(sign_in)
        answers = await asyncio.gather(*requests)

    assert [one.status_code for one in answers] == [200] * 3
    assert there.calls == [("me", f"{there.url}/-/login/me")]
    assert len([one for one in there.events if isinstance(one, SignInAwaited)]) == 1


@pytest.mark.client
async def test_an_r_script_signs_a_person_in_by_its_first_call(browser: Browser, tmp_path: Path) -> None:
    """And reads its data as if nothing had happened."""

    def sign_in(page: "Page") -> None:
        page.goto(there.page)
        page.get_by_role("button", name="Sign in").click()
        at_the_issuer(page, "Allow")

    async with house(tmp_path, me='scope = "openid"', upstream='accept = "text/csv"') as there:
        script = asyncio.ensure_future(programs.r_read_csv(f"{there.url}/data/data/TOURISM,DF_ARRIVALS,1.0/A.AU.HOL"))
        await eventually(lambda: there.calls, 30, what="the call of the person")
        await browser.visit(sign_in)
        table = await script

    assert table.exit_status == 0, table.complaint
    assert table.text.startswith("DATAFLOW,")
    assert there.calls == [("me", there.page)]


async def test_a_caller_that_hangs_up_is_let_go(tmp_path: Path) -> None:
    async with house(tmp_path) as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(there.url.rpartition(":")[2]))
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await eventually(lambda: there.calls, what="the call of the person")
        relay = there.app.forwarder._relay
        assert sum(relay.in_flight.values()) == 1

        writer.close()

        await eventually(lambda: not sum(relay.in_flight.values()), what="the end of the held request")
        assert await reader.read() == b""


@pytest.mark.parametrize(
    ("accept", "start"),
    [
        ("text/html,*/*;q=0.8", "<!doctype html>"),
        ("text/plain", "Not signed in as 'me'"),
        ("*/*", '{\n  "detail": "Not signed in as'),
    ],
)
async def test_refused_at_once_a_request_gets_the_link_in_the_form_it_asks_for(
    tmp_path: Path, accept: str, start: str
) -> None:
    async with house(tmp_path, on_sign_in="refuse") as there, httpx2.AsyncClient(trust_env=False) as http:
        answer = await http.get(there.url + PATH, headers={"Accept": accept})

    assert answer.status_code == 503
    assert answer.text.startswith(start)
    assert "/-/login/me" in answer.text
    assert there.calls == []


async def test_requests_appear_as_they_happen_and_pause(browser: Browser, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()

    def ask(path: str) -> int:
        return asyncio.run_coroutine_threadsafe(there.get(path), loop).result(30).status_code

    def watch(page: "Page") -> tuple[str, int]:
        page.goto(f"{there.url}/-/requests")
        page.get_by_text("Live", exact=True).wait_for()
        page.evaluate("window.isTheSame = true")
        ask("/nowhere/first?X-Amz-Signature=canary")
        row = page.locator("#rows tr").first
        row.wait_for()
        text = row.inner_text()
        page.get_by_role("button", name="Pause").click()
        ask("/nowhere/second")
        page.get_by_role("button", name="Go on").click()
        page.get_by_text("second").first.wait_for()
        assert page.evaluate("window.isTheSame === true")
        return text, page.locator("#rows tr").count()

    async with house(tmp_path, on_sign_in="refuse") as there:
        text, count = await browser.visit(watch)

    assert "/nowhere/first?X-Amz-Signature=***" in text
    assert "no-upstream" in text
    assert "canary" not in text
    assert count == 2


async def test_try_it_shows_the_real_status(browser: Browser, tmp_path: Path) -> None:
    def ask(page: "Page") -> str:
        page.goto(f"{there.url}/-/use/data")
        page.get_by_label("Path below").fill("/dataflow/all/all/latest")
        page.get_by_role("button", name="Ask").click()
        page.locator("#tried pre").wait_for()
        return page.inner_text("#tried")

    async with house(tmp_path, on_sign_in="refuse") as there:
        said = await browser.visit(ask)

    assert said.startswith("503 Service Unavailable after ")
    assert "said by bearerproxy" in said
    assert "Not signed in as 'me'" in said


async def test_an_address_is_translated_in_place(browser: Browser, tmp_path: Path) -> None:
    def paste(page: "Page") -> tuple[str, bool]:
        page.goto(there.url)
        page.evaluate("window.isTheSame = true")
        page.get_by_label("Address of a service").fill(f"{there.demo.nsi_url}/rest/dataflow/all")
        page.get_by_role("button", name="Translate").click()
        page.locator("#found code").wait_for()
        return page.inner_text("#found code"), page.evaluate("window.isTheSame === true")

    async with house(tmp_path) as there:
        assert await browser.visit(paste) == (f"{there.url}/data/dataflow/all", True)


async def test_an_open_page_does_not_hold_the_end_up(browser: Browser, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()

    def look(page: "Page") -> float:
        page.goto(f"{there.url}/-/requests")
        page.get_by_text("Live", exact=True).wait_for()
        begun = time.monotonic()
        loop.call_soon_threadsafe(there.stop.set)
        page.get_by_text("Not connected; trying again").wait_for()
        return time.monotonic() - begun

    async with house(tmp_path) as there:
        assert await browser.visit(look) < there.app.configuration.server.drain_seconds
