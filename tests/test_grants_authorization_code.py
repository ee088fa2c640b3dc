import asyncio
import base64
import hashlib
from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest

from proxy.clock import ManualClock, settle
from proxy.errors import GrantRefused, IssuerUnavailable
from proxy.grants.authorization_code import sign_in
from proxy.grants.way_back import FAILED, SIGNED_IN, UNKNOWN
from proxy.identities import Grant
from proxy.tokens import TokenSet
from tests.poll import eventually
from tests.scripted_issuer import BASE, CONNECT, ScriptedIssuer, error, identity


class Flow:
    """One sign-in whose browser is the test; the listener is a real one."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.issuer = ScriptedIssuer()
        self.urls: list[str] = []

    async def start(self) -> "asyncio.Future[TokenSet]":
        who = identity(Grant.AUTHORIZATION_CODE, client_id="desktop", scope="profile", extra=(("resource", "urn:a"),))
        flow = sign_in(self.issuer.at(self.clock, who), who, open_url=self.urls.append, clock=self.clock)
        running = asyncio.ensure_future(flow)
        await settle()
        await eventually(lambda: self.urls, what="the issuer's page")
        return running

    @property
    def asked(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.urls[0]).query))

    @property
    def redirect(self) -> str:
        return self.asked["redirect_uri"]

    def answer(self, **said: str) -> str:
        """Return what a good issuer appends to the redirect URI, changed by `said`; an empty value leaves one out."""
        good = {"code": "canary-code", "state": self.asked["state"], "iss": BASE} | said
        return urlencode({name: value for name, value in good.items() if value})

    async def browse(
        self, query: str, *, path: str = "/callback", method: str = "GET", **fields: str
    ) -> httpx2.Response:
        port = urlsplit(self.redirect).port
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        async with httpx2.AsyncClient(trust_env=False) as http:
            return await http.request(method, f"http://127.0.0.1:{port}{path}?{query}", headers=headers)

    async def is_listening(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(self.redirect).port)
        except ConnectionRefusedError:
            return False
        writer.close()
        return True


@pytest.fixture
def flow() -> Flow:
    return Flow()


NAVIGATION = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}


async def test_person_signs_in(flow: Flow) -> None:
    """The page is static, and nothing listens afterwards (S37, S39)."""
    running = await flow.start()
    shown = await flow.browse(flow.answer(), **NAVIGATION)

    assert (await running).grant == "authorization_code"
    assert shown.status_code == 200
    assert SIGNED_IN in shown.text
    assert shown.headers["referrer-policy"] == "no-referrer"
    assert "canary" not in shown.text
    assert not await flow.is_listening()


async def test_what_the_issuer_is_asked(flow: Flow) -> None:
    running = await flow.start()
    await flow.browse(flow.answer())
    await running
    asked, spent = flow.asked, flow.issuer.forms[0]
    digest = hashlib.sha256(spent["code_verifier"].encode()).digest()

    assert flow.urls[0].startswith(f"{CONNECT}/auth?response_type=code&client_id=desktop&")
    assert flow.redirect.startswith("http://127.0.0.1:")
    assert asked["code_challenge"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert (asked["code_challenge_method"], asked["scope"], asked["resource"]) == ("S256", "profile", "urn:a")
    assert (spent["code"], spent["redirect_uri"]) == ("canary-code", flow.redirect)


async def test_each_flow_has_its_own_state(flow: Flow) -> None:
    """S37."""
    other = Flow()
    for one in (flow, other):
        running = await one.start()
        await one.browse(one.answer())
        await running

    assert flow.asked["state"] != other.asked["state"]
    assert flow.asked["code_challenge"] != other.asked["code_challenge"]
    assert len(flow.asked["state"]) >= 43


@pytest.mark.parametrize(
    "query",
    [
        lambda flow: flow.answer(state="guessed"),
        lambda flow: flow.answer(state=""),
        lambda flow: flow.answer() + "&code=another",
        lambda flow: flow.answer() + f"&state={flow.asked['state']}",
        lambda _: "",
    ],
    ids=["wrong state", "no state", "two codes", "two states", "nothing"],
)
async def test_foreign_callback_is_ignored(flow: Flow, query: Callable[[Flow], str]) -> None:
    """A43: refused, nothing stored, and the person's own sign-in still works (S37, S39)."""
    running = await flow.start()
    shown = await flow.browse(query(flow))

    assert shown.status_code == 400
    assert UNKNOWN in shown.text
    assert flow.issuer.token_calls == 0
    await flow.browse(flow.answer())
    assert (await running).access_token


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"host": "evil.example.org"}, 403),
        ({"host": "localhost:1"}, 403),
        ({"origin": "https://evil.example.org"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}, 403),
        ({"sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}, 403),
        ({"method": "POST"}, 405),
        ({"path": "/favicon.ico"}, 404),
    ],
)
async def test_what_is_no_navigation_is_refused(flow: Flow, fields: dict[str, str], status: int) -> None:
    """A43: a foreign Host or Origin, a script, a frame, a form; and the sign-in still works (S39)."""
    running = await flow.start()

    assert (await flow.browse(flow.answer(), **fields)).status_code == status
    assert flow.issuer.token_calls == 0
    await flow.browse(flow.answer())
    await running


async def test_second_callback_is_refused(flow: Flow) -> None:
    """A43: the state is for one use, also while the code is still being spent (S37)."""
    release = asyncio.Event()

    async def slow(form: dict[str, str]) -> httpx2.Response:
        await release.wait()
        return flow.issuer.judge(form)

    flow.issuer.script.append(slow)
    running = await flow.start()
    first = asyncio.ensure_future(flow.browse(flow.answer()))
    await eventually(lambda: flow.issuer.token_calls == 1)
    second = await flow.browse(flow.answer(code="canary-other"))
    release.set()
    await running

    assert second.status_code == 400
    assert SIGNED_IN in (await first).text
    assert flow.issuer.token_calls == 1


async def test_a43_answer_of_an_earlier_sign_in(flow: Flow) -> None:
    """Played again to the next one, which has another state and, behind it, another verifier."""
    running = await flow.start()
    earlier = flow.answer()
    await flow.browse(earlier)
    await running
    later = Flow()
    running = await later.start()

    assert (await later.browse(earlier)).status_code == 400
    assert later.issuer.token_calls == 0
    await later.browse(later.answer())
    await running


@pytest.mark.parametrize("issuer", ["https://evil.example.org", f"{BASE}/", "none"])
async def test_answer_of_another_issuer(flow: Flow, issuer: str) -> None:
    """A43: nothing of it is used (RFC 9207), not even its error; missing where it was promised is the same."""
    flow.issuer.metadata["authorization_response_iss_parameter_supported"] = True
    running = await flow.start()
    shown = await flow.browse(flow.answer(iss="" if issuer == "none" else issuer))

    assert FAILED in shown.text
    with pytest.raises(GrantRefused, match="another issuer"):
        await running
    assert flow.issuer.token_calls == 0
    assert not await flow.is_listening()


async def test_issuer_that_does_not_name_itself(flow: Flow) -> None:
    running = await flow.start()
    await flow.browse(flow.answer(iss=""))

    assert (await running).access_token


async def test_person_declines(flow: Flow) -> None:
    """A43: the reason goes to the terminal, escaped, and not onto the page."""
    running = await flow.start()
    shown = await flow.browse(flow.answer(code="", error="access_denied", error_description="<b>No\x1b[31m</b>"))

    assert FAILED in shown.text
    assert "<b>" not in shown.text
    with pytest.raises(GrantRefused) as caught:
        await running
    assert (caught.value.code, caught.value.description) == ("access_denied", "<b>No [31m</b>")
    assert not await flow.is_listening()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(error("invalid_grant", "Code not valid"), GrantRefused), (httpx2.Response(503), IssuerUnavailable)],
)
async def test_code_that_is_refused(flow: Flow, answer: httpx2.Response, kind: type[Exception]) -> None:
    """The page never says that a sign-in worked which did not."""
    flow.issuer.script.append(answer)
    running = await flow.start()
    shown = await flow.browse(flow.answer())

    assert FAILED in shown.text
    with pytest.raises(kind):
        await running


async def test_nobody_comes(flow: Flow) -> None:
    running = await flow.start()
    await flow.clock.advance(301)

    with pytest.raises(GrantRefused, match="start again"):
        await running
    assert not await flow.is_listening()


async def test_silent_connection_holds_nothing_up(flow: Flow) -> None:
    running = await flow.start()
    port = urlsplit(flow.redirect).port
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /callback HTTP/1.1\r\n")
    await flow.browse(flow.answer())

    assert (await running).access_token
    writer.close()
