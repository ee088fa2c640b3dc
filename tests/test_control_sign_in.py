"""Signing in and out on the page: by its own button, once, and by nothing else (S40, S43)."""

import asyncio
from dataclasses import replace

import httpx2
import pytest
from bs4 import BeautifulSoup

from proxy.attempts import Attempt, Open, Show
from proxy.clock import ManualClock, settle
from proxy.control.nonces import LIFE_SECONDS, MOST, Nonces
from proxy.grants.device_code import DevicePrompt
from proxy.tokens import TokenSet
from tests.test_control import DOTSTAT, NOW, PROVENA, RUNNING, SIGNED_IN, SIGNED_OUT, World

ORIGIN = "http://localhost:8400"
PROMPT = DevicePrompt("WDJB-MJHT", "https://auth.example.org/device", "https://auth.example.org/device?c=1", NOW + 594)
OUT = [(PROVENA, SIGNED_OUT), (DOTSTAT, RUNNING)]


async def nonce_of(http: httpx2.AsyncClient, path: str = "/-/login/provena") -> str:
    soup = BeautifulSoup((await http.get(path)).text, "html.parser")
    hidden = soup.select_one("input[name=nonce]")
    assert hidden is not None
    return str(hidden["value"])


async def press(
    http: httpx2.AsyncClient, path: str, nonce: str, *, headers: dict[str, str] | None = None, **fields: str
) -> httpx2.Response:
    return await http.post(path, data={"nonce": nonce, **fields}, headers={"Origin": ORIGIN} | (headers or {}))


async def waiting(show: Show) -> TokenSet:
    show(PROMPT)
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def patient(world: World) -> World:
    """Let a sign-in wait for its person for ever."""

    async def sign_in(_name: str, _is_offline: bool, show: Show, _open: Open) -> TokenSet:
        return await waiting(show)

    world.sign_in = sign_in
    return world


async def test_the_button_starts_a_sign_in_and_the_page_shows_how_it_goes() -> None:
    world = patient(World(identities=OUT))
    async with world.http() as http:
        pressed = await press(http, "/-/login/provena", await nonce_of(http))
        await settle()
        soup = BeautifulSoup((await http.get("/-/login/provena")).text, "html.parser")

    assert (pressed.status_code, pressed.headers["location"]) == (303, "/-/login/provena")
    code, link = soup.select_one(".code"), soup.select_one(".act a")
    assert code is not None
    assert link is not None
    assert code.get_text(strip=True) == "WDJB-MJHT"
    assert link["href"] == PROMPT.verification_uri_complete
    assert (link["target"], link["rel"]) == ("_blank", ["noopener", "noreferrer"])
    assert soup.select_one("svg.qr path") is not None
    assert "good for 9 min" in soup.get_text()
    assert soup.select_one("noscript meta[http-equiv=refresh]") is not None, "it works without scripts"
    await world.attempts.close()


async def test_pages_that_are_the_first_at_once_are_of_one_application() -> None:
    """Nothing of it is imported before; two of them would not know each other's nonces."""
    world = patient(World(identities=OUT))
    async with world.http() as http:
        nonces = await asyncio.gather(nonce_of(http), nonce_of(http))
        pressed = [await press(http, "/-/login/provena/cancel", nonce) for nonce in nonces]

    assert [answer.status_code for answer in pressed] == [303, 303]


@pytest.mark.parametrize("offline", [True, False])
async def test_a_token_that_outlives_the_day_can_be_asked_for(offline: bool) -> None:
    world = patient(World(identities=OUT))
    async with world.http() as http:
        nonce = await nonce_of(http)
        if offline:
            await press(http, "/-/login/provena", nonce, offline="yes")
        else:
            await press(http, "/-/login/provena", nonce)

    attempt = world.attempts.of("provena")
    assert attempt is not None
    assert attempt.is_offline == offline
    await world.attempts.close()


@pytest.mark.parametrize("path", ["/-/login/provena", "/-/login/provena/cancel", "/-/logout/provena"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8400"},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"},
        {},
    ],
)
async def test_s40_s43_no_other_page_and_no_program_presses_the_button(path: str, headers: dict[str, str]) -> None:
    """A token of a page that was read does not help: the origin must be the page's own."""
    world = patient(World(identities=OUT))
    async with world.http() as http:
        nonce = await nonce_of(http)
        answer = await http.post(path, data={"nonce": nonce}, headers=headers)

    assert answer.status_code == 403
    assert answer.json()["type"] == "/-/errors/caller-refused"
    assert (world.attempts.of("provena"), world.signed_out) == (None, [])


async def test_s43_a_nonce_is_for_one_use() -> None:
    world = patient(World(identities=OUT))
    async with world.http() as http:
        nonce = await nonce_of(http)
        first = await press(http, "/-/logout/provena", nonce)
        second = await press(http, "/-/logout/provena", nonce)

    assert (first.status_code, second.status_code) == (303, 403)
    assert world.signed_out == ["provena"]


@pytest.mark.parametrize("nonce", ["", "made-up", "x" * 200])
async def test_s43_a_nonce_that_was_not_given_is_no_use(nonce: str) -> None:
    world = patient(World(identities=OUT))
    async with world.http() as http:
        assert (await press(http, "/-/login/provena", nonce)).status_code == 403

    assert world.attempts.of("provena") is None


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/-/login/provena", "/-/login/provena/cancel", "/-/logout/provena"])
async def test_s40_looking_starts_nothing(method: str, path: str) -> None:
    world = patient(World(identities=OUT))
    async with world.http() as http:
        nonce = await nonce_of(http)
        await http.request(method, path, params={"nonce": nonce}, headers={"Origin": ORIGIN})

    assert (world.attempts.of("provena"), world.signed_out) == (None, [])


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{}", "application/json", 415),
        (b"nonce=1", "text/plain", 415),
        (b"nonce=" + b"1" * 5000, "application/x-www-form-urlencoded", 413),
    ],
)
async def test_only_a_form_of_ours_is_read(content: bytes, content_type: str, status: int) -> None:
    """`text/plain` needs no preflight, and a large body has no business here (S2, S34)."""
    async with World(identities=OUT).http() as http:
        headers = {"Origin": ORIGIN, "Content-Type": content_type}
        assert (await http.post("/-/login/provena", content=content, headers=headers)).status_code == status


async def test_nobody_signs_in_for_a_service_account() -> None:
    world = World()
    async with world.http() as http:
        answer = await press(http, "/-/login/dotstat", await nonce_of(http))
        page = await http.get("/-/login/dotstat")

    assert answer.status_code == 403
    assert "client_credentials" in answer.json()["detail"]
    assert "<form" not in page.text


async def test_cancel_ends_what_is_under_way() -> None:
    world = patient(World(identities=OUT))
    async with world.http() as http:
        await press(http, "/-/login/provena", await nonce_of(http))
        await settle()
        await press(http, "/-/login/provena/cancel", await nonce_of(http))
        page = await http.get("/-/login/provena")

    assert [(name, one.code) for name, one in world.ended] == [("provena", "cancelled")]
    assert "The sign-in was cancelled." in page.text
    await world.attempts.close()


async def test_sign_out_says_what_happened_until_somebody_signs_in() -> None:
    world = World()
    async with world.http() as http:
        answer = await press(http, "/-/logout/provena", await nonce_of(http, "/"))
        world.identities = OUT
        shown = [(await http.get(path)).text for path in ("/-/login/provena", "/")]

    assert (answer.status_code, answer.headers["location"]) == (303, "/-/login/provena")
    assert all("here and at the issuer." in page for page in shown)


@pytest.mark.parametrize(
    ("attempt", "words", "button"),
    [
        (None, "The sign-in has ended", "Sign in"),
        (Attempt("failed", is_offline=False, sentence="It was denied."), "It was denied.", "Try again"),
        (Attempt("starting", is_offline=False), "Asking the issuer…", "Cancel"),
        (Attempt("waiting", is_offline=False, link="https://auth.example.org/auth?x=<y>"), "Go on at", "Cancel"),
    ],
)
async def test_each_state_has_its_words_and_its_button(attempt: Attempt | None, words: str, button: str) -> None:
    world = World(identities=OUT)
    if attempt is not None:
        world.attempts._attempts["provena"] = attempt
    async with world.http() as http:
        soup = BeautifulSoup((await http.get("/-/login/provena")).text, "html.parser")

    assert words in soup.get_text()
    assert [one.get_text() for one in soup.select("#sign-in button")] == [button]


async def test_who_is_signed_in_may_sign_in_anew_or_out() -> None:
    world = World()
    world.attempts._attempts["provena"] = Attempt("signed-in", is_offline=False, sentence="You are signed in as jane.")
    async with world.http() as http:
        soup = BeautifulSoup((await http.get("/-/login/provena")).text, "html.parser")

    assert "You are signed in as jane." in soup.get_text()
    assert [one.get_text() for one in soup.select("#sign-in button")] == ["Sign in anew", "Sign out"]


async def test_an_old_success_is_not_shown_once_the_sign_in_has_ended() -> None:
    world = World(identities=[(PROVENA, replace(SIGNED_IN, state="sign-in-required", detail="It has ended."))])
    world.attempts._attempts["provena"] = Attempt("signed-in", is_offline=False, sentence="You are signed in as jane.")
    async with world.http() as http:
        text = (await http.get("/-/login/provena")).text

    assert "You are signed in as jane." not in text
    assert "It has ended." in text


async def test_nonces_are_bounded_and_grow_old() -> None:
    clock = ManualClock()
    nonces = Nonces(clock)
    first = nonces.give()
    others = [nonces.give() for _ in range(MOST)]
    assert not nonces.take(first)

    assert nonces.take(others[-1])
    await clock.advance(LIFE_SECONDS)
    assert not nonces.take(others[0])
