"""The first day of somebody who has never used it: init, serve, a call in R, the sign-in that it waits for, data.

The run is real: terminals, base R, Keycloak and a Chromium. `--long` writes it into docs/first-day.md, and without it
what is written there is compared with what happened.
"""

import asyncio
import contextlib
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.config.machine import is_container
from tests.browser import Browser
from tests.conftest import need_program
from tests.keycloak import recording
from tests.keycloak.person import Person
from tests.keycloak.server import Realm
from tests.keycloak.services import services
from tests.poll import eventually
from tests.terminal import Terminal, terminal

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.keycloak, pytest.mark.chromium, pytest.mark.client, pytest.mark.long]

PAGE = Path(__file__).parents[2] / "docs" / "first-day.md"
PATH = "/dotstat/csv/data/TOURISM,DF_ARRIVALS,1.0/A.AU.HOL"
OURS = (sys.executable, "-m", "proxy")
PATIENT = {"BEARERPROXY_SERVER__SIGN_IN_WAIT": "200", "R_DEFAULT_INTERNET_TIMEOUT": "240"}
"""For busy machines; the recording has what everybody has, 50 seconds and R's own 60."""
SCRIPT = """\
arrivals <- read.csv("http://localhost:{port}{path}")
tail(arrivals[, c("REF_AREA", "TIME_PERIOD", "OBS_VALUE")], 3)
"""


def port_of_four_digits() -> int:
    """Return a free port that is as wide as the usual one, so that columns stand as they will."""
    for port in range(8401, 9999):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


@dataclass(frozen=True)
class Windows:
    """What the person saw: each recording with its language, before hosts and folders are replaced."""

    init: str
    file: str
    serve: str
    r: str
    log: str

    def recordings(self, names: dict[str, str]) -> dict[str, tuple[str, str]]:
        languages = {"file": "toml"}
        return {
            name: (languages.get(name, "console"), recording.masked(getattr(self, name), names))
            for name in self.__dataclass_fields__
        }


def browser_of(home: Path) -> dict[str, str]:
    """Return the variables of a desktop whose browser writes down what it was asked to open."""
    program = home / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" >> {home}/opened\n')
    program.chmod(0o755)
    return {"BROWSER": str(program)}


async def test_an_r_script_s_first_call_is_held_until_its_user_has_signed_in(
    realm: Realm, browser: Browser, tmp_path: Path, is_long: bool
) -> None:
    """And the recording of that day in the docs is what happens."""
    rscript = need_program("Rscript", how="apt-get install r-base-core")
    realm.log_out("alice")  # what other tests left behind
    home, port = tmp_path / "home", port_of_four_digits()
    home.mkdir()
    environ = {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_STATE_HOME": str(home / ".local" / "state"),
        "BEARERPROXY_SERVER__PORT": str(port),
        "BEARERPROXY_SERVER__ON_SIGN_IN": "wait",  # as on a machine with people: tests run in containers, too
        "BEARERPROXY_STORE__KIND": "file",
        "TZ": "UTC",
        **browser_of(home),
        **({} if is_long else PATIENT),
    }
    (home / "first.R").write_text(SCRIPT.format(port=port, path=PATH))
    async with services(realm) as there:
        init = await asked(environ, there.nsi, realm.issuer)
        async with terminal([*OURS, "serve"], environ=environ) as window:
            serve = await window.reads("Stop with Ctrl-C.")
            async with terminal([rscript, "--vanilla", home / "first.R"], environ=environ) as r:
                page_url = await called(window, home, port)
                assert r.process.returncode is None, r.screen  # it waits
                await browser.visit(lambda page: sign_in(page, page_url, Person(browser)))
                assert await r.end() == 0, r.screen
            log = await log_of(window, serve)
            window.interrupt()
            assert await window.end() == 0, window.screen

    held, signed, relayed = (
        log.index(said) for said in ("for you to sign in", "signed in as alice", f"GET {PATH}  200")
    )
    assert held < signed < relayed
    assert len(r.screen.splitlines()) == 4  # a head, and three rows
    seen = Windows(
        init=f"$ bearerproxy init\n{init}",
        file=(home / ".config/bearerproxy/proxy.toml").read_text("utf-8"),
        serve=f"$ bearerproxy serve\n{serve}",
        r=f"$ cat first.R\n{(home / 'first.R').read_text()}\n$ Rscript first.R\n{r.screen}",
        log=log,
    ).recordings({
        str(port): "8400",
        there.nsi: "https://nsi.example.org",
        realm.issuer.rpartition("/auth/")[0]: "https://keycloak.example.org",
        str(home): "/home/alice",
    })  # fmt: skip
    if is_long:
        await asyncio.to_thread(recording.keep, PAGE, seen)
    written = PAGE.read_text("utf-8")
    for name, (_, text) in seen.items():
        assert recording.timeless(recording.block_of(written, name) or "") == recording.timeless(text), name


async def asked(environ: dict[str, str], nsi: str, issuer: str) -> str:
    """Answer what `init` asks, with one slip, and return what stood on the terminal."""
    async with terminal([*OURS, "init"], environ=environ) as window:
        await window.types("dotstat", after="1  Which service")
        await window.types(nsi, after="2  The address")
        await window.types(issuer, after="3  Who signs you in")
        await window.types("stat-suit", after="4  As which client?")
        await window.types("desktop", after="Another? Enter keeps it")
        assert await window.end() == 0, window.screen
    return window.screen


async def called(window: Terminal, home: Path, port: int) -> str:
    """Return the page to which the person is called, in the terminal and by their browser."""
    await window.reads("/-/login/dotstat")
    url = f"http://localhost:{port}/-/login/dotstat"
    assert url in window.screen
    if not is_container(os.environ):  # noqa: TID251 - in containers there is no desktop to open anything on
        opened = home / "opened"
        await eventually(opened.exists, what="the browser that opens by itself")
        assert opened.read_text().split() == [url]
    return url


def sign_in(page: "Page", url: str, person: Person) -> None:
    """Press the button, sign in at Keycloak, and come back."""
    page.goto(url)
    page.get_by_role("button", name="Sign in").click()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the issuer's page").click()
    person.fill_in(opened.value)
    opened.value.get_by_text("You may close this page.").wait_for()
    page.get_by_text("You are signed in as alice.").wait_for()


async def log_of(window: Terminal, before: str) -> str:
    """Return the lines of the log behind the overview, once the request of R is among them."""
    await window.reads("DF_ARRIVALS")
    return window.screen[len(before.rstrip("\n")) :].strip("\n")
