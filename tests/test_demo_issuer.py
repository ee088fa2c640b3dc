"""The embedded issuer, asked over real sockets by an HTTP client that knows the RFCs."""

import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from bs4 import BeautifulSoup
from cryptography.hazmat.primitives.serialization import load_der_public_key

from proxy.clock import ManualClock
from proxy.demo import Demo, Lifetimes
from proxy.tokens import claims

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
VERIFIER = "a-verifier-of-forty-three-characters-or-more-0123"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
BACK = "http://127.0.0.1:49321/back"


class Caller:
    """An OAuth client, by hand."""

    def __init__(self, demo: Demo, http: httpx2.AsyncClient) -> None:
        self.demo = demo
        self.http = http
        self.protocol = f"{demo.issuer_url}/protocol/openid-connect"

    async def token(self, **form: str) -> httpx2.Response:
        return await self.http.post(f"{self.protocol}/token", data=form)

    async def refused(self, **form: str) -> tuple[int, str]:
        answer = await self.token(**form)
        return answer.status_code, answer.json()["error"]

    async def refresh(self, refresh_token: str, client_id: str = "client-tools") -> httpx2.Response:
        return await self.token(grant_type="refresh_token", client_id=client_id, refresh_token=refresh_token)

    async def device(self, client_id: str = "client-tools", **more: str) -> dict[str, Any]:
        answer = await self.http.post(f"{self.protocol}/auth/device", data={"client_id": client_id, **more})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def poll(self, device_code: str, client_id: str = "client-tools") -> httpx2.Response:
        return await self.token(grant_type=DEVICE, client_id=client_id, device_code=device_code)

    async def sign_in_page(self, **query: str) -> httpx2.Response:
        asked = {"response_type": "code", "client_id": "desktop", "redirect_uri": BACK, "state": "s1"}
        asked |= {"code_challenge": CHALLENGE, "code_challenge_method": "S256", **query}
        return await self.http.get(f"{self.protocol}/auth", params={key: one for key, one in asked.items() if one})

    async def submit(self, page: httpx2.Response, **typed: str) -> httpx2.Response:
        form = BeautifulSoup(page.text, "html.parser").form
        assert form is not None, page.text
        fields = {str(one["name"]): str(one.get("value", "")) for one in form.find_all("input")}
        return await self.http.post(str(page.url.join(str(form["action"]))), data=fields | typed)

    async def code(self) -> str:
        answer = await self.submit(await self.sign_in_page(), decision="allow")
        return parse_qs(urlsplit(answer.headers["Location"]).query)["code"][0]

    async def exchange(self, code: str, verifier: str = VERIFIER, redirect_uri: str = BACK) -> httpx2.Response:
        form = {"code": code, "code_verifier": verifier, "redirect_uri": redirect_uri, "client_id": "desktop"}
        return await self.token(grant_type="authorization_code", **form)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def demo(clock: ManualClock) -> AsyncIterator[Demo]:
    async with Demo(clock=clock) as running:
        yield running


@pytest.fixture
async def caller(demo: Demo) -> AsyncIterator[Caller]:
    async with httpx2.AsyncClient(trust_env=False) as http:
        yield Caller(demo, http)


async def test_metadata_names_the_issuer_and_its_endpoints(caller: Caller) -> None:
    answer = (await caller.http.get(f"{caller.demo.issuer_url}/.well-known/openid-configuration")).json()

    assert answer["issuer"] == caller.demo.issuer_url
    assert answer["issuer"].endswith("/auth/realms/demo")
    assert answer["device_authorization_endpoint"] == f"{caller.protocol}/auth/device"
    assert answer["code_challenge_methods_supported"] == ["S256"]


async def test_realm_document_holds_the_key_of_the_certs(caller: Caller) -> None:
    """Provena's services read the key from here, base64 of a DER public key."""
    realm = (await caller.http.get(caller.demo.issuer_url)).json()
    certs = (await caller.http.get(f"{caller.protocol}/certs")).json()

    key: Any = load_der_public_key(base64.b64decode(realm["public_key"]))
    modulus = base64.urlsafe_b64decode(certs["keys"][0]["n"] + "==")

    assert realm["realm"] == "demo"
    assert key.public_numbers().n == int.from_bytes(modulus, "big")
    assert "d" not in certs["keys"][0]


async def test_device_grant_waits_for_the_person_and_works_once(caller: Caller, clock: ManualClock) -> None:
    asked = await caller.device()
    pending = await caller.poll(asked["device_code"])
    caller.demo.issuer.approve(asked["user_code"])
    await clock.advance(asked["interval"])
    granted = await caller.poll(asked["device_code"])
    again = await caller.poll(asked["device_code"])

    assert (pending.status_code, pending.json()["error"]) == (400, "authorization_pending")
    assert granted.status_code == 200
    assert granted.headers["Cache-Control"] == "no-store"
    assert claims(granted.json()["access_token"])["preferred_username"] == "ada"
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    assert (await caller.refresh(granted.json()["refresh_token"])).status_code == 200


async def test_polling_too_fast_makes_the_interval_five_seconds_longer(caller: Caller, clock: ManualClock) -> None:
    asked = await caller.device()
    errors = [(await caller.poll(asked["device_code"])).json()["error"]]
    for wait in (0.5, 1, 16, 11):
        await clock.advance(wait)
        errors.append((await caller.poll(asked["device_code"])).json()["error"])

    assert errors == [
        "authorization_pending",
        "slow_down",
        "slow_down",
        "authorization_pending",
        "authorization_pending",
    ]


async def test_denied_and_expired_device_codes_end_the_grant(caller: Caller, clock: ManualClock) -> None:
    denied, expired = await caller.device(), await caller.device()
    caller.demo.issuer.deny(denied["user_code"])
    first = await caller.poll(denied["device_code"])
    await clock.advance(expired["expires_in"])
    second = await caller.poll(expired["device_code"])

    assert first.json()["error"] == "access_denied"
    assert second.json()["error"] == "expired_token"


async def test_person_allows_a_device_on_the_page(caller: Caller) -> None:
    asked = await caller.device("automated-access", scope="roles offline_access")
    page = await caller.http.get(asked["verification_uri_complete"])
    wrong = await caller.submit(page, password="coral", decision="allow")
    right = await caller.submit(wrong, password="reef", decision="allow")
    granted = await caller.poll(asked["device_code"], "automated-access")

    assert asked["user_code"] in page.text
    assert "Automated access" in page.text
    assert "stay signed in" in page.text
    assert "Invalid username or password." in wrong.text
    assert "Device Login Successful" in right.text
    assert granted.status_code == 200


async def test_typed_code_may_be_sloppy(caller: Caller) -> None:
    asked = await caller.device()
    typed = asked["user_code"].lower().replace("-", " ")
    found = await caller.http.get(asked["verification_uri"], params={"user_code": typed})
    unknown = await caller.http.get(asked["verification_uri"], params={"user_code": "AAAA-AAAA"})

    assert (found.status_code, asked["user_code"] in found.text) == (200, True)
    assert unknown.status_code == 400


async def test_denying_on_the_page_needs_no_password(caller: Caller) -> None:
    asked = await caller.device()
    page = await caller.http.get(asked["verification_uri_complete"])
    await caller.submit(page, password="", decision="deny")

    assert (await caller.poll(asked["device_code"])).json()["error"] == "access_denied"


async def test_code_grant_answers_on_any_loopback_port_with_state_and_issuer(caller: Caller) -> None:
    page = await caller.sign_in_page()
    answer = await caller.submit(page, decision="allow")
    query = parse_qs(urlsplit(answer.headers["Location"]).query)
    granted = await caller.exchange(query["code"][0])

    assert answer.headers["Location"].startswith(f"{BACK}?")
    assert (query["state"], query["iss"]) == (["s1"], [caller.demo.issuer_url])
    assert "form-action 'self' http://127.0.0.1:49321" in page.headers["Content-Security-Policy"]
    assert granted.status_code == 200
    assert "dotstat-api" in claims(granted.json()["access_token"])["aud"]


async def test_second_use_of_a_code_ends_the_session(caller: Caller) -> None:
    code = await caller.code()
    granted = await caller.exchange(code)
    again = await caller.exchange(code)
    after = await caller.refresh(granted.json()["refresh_token"], "desktop")

    assert (again.status_code, again.json()["error_description"]) == (400, "Code not valid")
    assert after.json()["error"] == "invalid_grant"


@pytest.mark.parametrize("wrong", [{"verifier": "another"}, {"verifier": ""}, {"redirect_uri": f"{BACK}/other"}])
async def test_code_is_bound_to_verifier_and_redirect(caller: Caller, wrong: dict[str, str]) -> None:
    answer = await caller.exchange(await caller.code(), **wrong)

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    "redirect_uri",
    [
        "http://localhost:49321/back",
        "http://127.0.0.1.evil.example/back",
        "http://127.0.0.1@evil.example/",
        "https://127.0.0.1:49321/back",
        "http://127.0.0.1:49321/back#x",
        "",
    ],
)
async def test_unregistered_redirect_is_never_followed(caller: Caller, redirect_uri: str) -> None:
    answer = await caller.sign_in_page(redirect_uri=redirect_uri)

    assert answer.status_code == 400
    assert "Location" not in answer.headers


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"prompt": "none"}, "login_required"),
    ],
)
async def test_other_errors_go_back_to_the_client(caller: Caller, query: dict[str, str], error: str) -> None:
    answer = await caller.sign_in_page(**query)
    said = parse_qs(urlsplit(answer.headers["Location"]).query)

    assert answer.status_code == 302
    assert (said["error"], said["state"], said["iss"]) == ([error], ["s1"], [caller.demo.issuer_url])


async def test_denied_code_grant_goes_back_as_access_denied(caller: Caller) -> None:
    answer = await caller.submit(await caller.sign_in_page(), decision="deny")

    assert parse_qs(urlsplit(answer.headers["Location"]).query)["error"] == ["access_denied"]


async def test_client_credentials_give_no_refresh_token(caller: Caller) -> None:
    body = await caller.token(grant_type="client_credentials", client_id="dotstat-svc", client_secret="svc-secret")
    basic = await caller.http.post(
        f"{caller.protocol}/token", data={"grant_type": "client_credentials"}, auth=("dotstat-svc", "svc-secret")
    )

    assert (body.status_code, basic.status_code) == (200, 200)
    assert "refresh_token" not in body.json()
    assert body.json()["refresh_expires_in"] == 0
    assert claims(basic.json()["access_token"])["preferred_username"] == "service-account-dotstat-svc"


async def test_client_errors_are_keycloaks(caller: Caller) -> None:
    """A wrong secret is `unauthorized_client` with 401, a grant that is not allowed the same with 400."""
    service = {"grant_type": "client_credentials", "client_id": "dotstat-svc"}
    wrong = await caller.refused(**service, client_secret="no")
    unknown = await caller.refused(grant_type="client_credentials", client_id="nobody")
    forbidden = await caller.refused(grant_type="password", client_id="client-tools", username="ada", password="reef")
    strange = await caller.refused(grant_type="magic", client_id="client-tools")

    assert wrong == (401, "unauthorized_client")
    assert unknown == (401, "invalid_client")
    assert forbidden == (400, "unauthorized_client")
    assert strange == (400, "unsupported_grant_type")


async def test_repeated_parameter_is_refused(caller: Caller) -> None:
    answer = await caller.http.post(
        f"{caller.protocol}/token",
        content="grant_type=password&client_id=dotstat-app&client_id=desktop",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_password_grant_checks_the_password(caller: Caller) -> None:
    form = {"grant_type": "password", "client_id": "dotstat-app", "username": "ada"}

    assert (await caller.token(**form, password="reef")).status_code == 200
    assert await caller.refused(**form, password="coral") == (400, "invalid_grant")


async def test_refresh_works_again_and_again_without_rotation(caller: Caller) -> None:
    old = caller.demo.issuer.mint("client-tools", "ada")["refresh_token"]
    statuses = [(await caller.refresh(old)).status_code for _ in range(3)]

    assert statuses == [200, 200, 200]


@pytest.mark.parametrize(("client_id", "scope"), [("client-tools", ""), ("automated-access", "roles offline_access")])
async def test_reused_refresh_token_kills_the_new_one_too(caller: Caller, client_id: str, scope: str) -> None:
    """Rotation with reuse detection; offline tokens rotate and die in the same way."""
    caller.demo.issuer.rotation = True
    old = caller.demo.issuer.mint(client_id, "ada", scope)["refresh_token"]
    new = (await caller.refresh(old, client_id)).json()["refresh_token"]
    reuse = await caller.refresh(old, client_id)
    after = await caller.refresh(new, client_id)

    assert reuse.json()["error_description"] == "Maximum allowed refresh token reuse exceeded"
    assert after.json()["error_description"] == "Session doesn't have required client"
    assert (reuse.status_code, after.status_code) == (400, 400)


async def test_session_ends_when_idle_and_at_its_maximum(clock: ManualClock) -> None:
    lifetimes = Lifetimes(sso_idle_seconds=100, sso_max_seconds=250)
    async with Demo(clock=clock, lifetimes=lifetimes) as demo, httpx2.AsyncClient(trust_env=False) as http:
        caller = Caller(demo, http)
        idle = demo.issuer.mint("client-tools", "ada")
        busy = demo.issuer.mint("client-tools", "ada")
        lives = []
        for _ in range(2):
            await clock.advance(99)
            busy = (await caller.refresh(busy["refresh_token"])).json()
            lives.append(busy["refresh_expires_in"])
        late = await caller.refresh(idle["refresh_token"])
        await clock.advance(53)
        over = await caller.refresh(busy["refresh_token"])

    assert lives == [100, 52]
    assert (late.status_code, late.json()["error"]) == (400, "invalid_grant")
    assert (over.status_code, over.json()["error"]) == (400, "invalid_grant")


async def test_offline_token_says_so_in_itself_only(caller: Caller, clock: ManualClock) -> None:
    """`refresh_expires_in` is 0, the token has `typ: Offline` and no `exp`, and the idle limit holds all the same."""
    token = caller.demo.issuer.mint("automated-access", "ada", "roles offline_access")
    said = claims(token["refresh_token"])
    await clock.advance(2_592_000 - 1)
    kept = await caller.refresh(token["refresh_token"], "automated-access")
    await clock.advance(2_592_001)
    ended = await caller.refresh(kept.json()["refresh_token"], "automated-access")

    assert (said["typ"], "exp" in said, token["refresh_expires_in"]) == ("Offline", False, 0)
    assert kept.status_code == 200
    assert ended.json()["error_description"] == "Offline session not active"


async def test_scopes_are_dropped_in_silence_and_roles_are_not_named(caller: Caller) -> None:
    plain = caller.demo.issuer.mint("client-tools", "ada", "offline_access nonsense")
    bare = caller.demo.issuer.mint("automated-access", "ada", "offline_access")
    whole = caller.demo.issuer.mint("automated-access", "ada", "roles offline_access")

    assert (plain["scope"], plain["refresh_expires_in"]) == ("profile email", 1800)
    assert "realm_access" not in claims(bare["access_token"])
    assert bare["scope"] == whole["scope"] == "profile email offline_access"
    assert "entity-registry-read" in claims(whole["access_token"])["realm_access"]["roles"]


async def test_revocation_ends_one_session_and_always_answers_200(caller: Caller) -> None:
    gone = caller.demo.issuer.mint("client-tools", "ada")["refresh_token"]
    kept = caller.demo.issuer.mint("client-tools", "ada")["refresh_token"]
    answers = [
        await caller.http.post(f"{caller.protocol}/revoke", data={"client_id": "client-tools", "token": token})
        for token in (gone, gone, "nonsense")
    ]

    assert [(one.status_code, one.content) for one in answers] == [(200, b"")] * 3
    assert (await caller.refresh(gone)).json()["error_description"] == "Session not active"
    assert (await caller.refresh(kept)).status_code == 200


async def test_refresh_token_belongs_to_its_client(caller: Caller) -> None:
    token = caller.demo.issuer.mint("client-tools", "ada")
    stranger = await caller.refresh(token["refresh_token"], "automated-access")
    forged = await caller.refresh(token["access_token"])
    revoked = await caller.http.post(
        f"{caller.protocol}/revoke", data={"client_id": "automated-access", "token": token["refresh_token"]}
    )

    assert (stranger.json()["error"], forged.json()["error"]) == ("invalid_grant", "invalid_grant")
    assert revoked.status_code == 200
    assert (await caller.refresh(token["refresh_token"])).status_code == 200


async def test_userinfo_wants_the_scope_openid(caller: Caller) -> None:
    form = {"grant_type": "password", "client_id": "dotstat-app", "username": "ada", "password": "reef"}
    answers = []
    for scope in ("", "openid"):
        token = (await caller.token(**form, scope=scope)).json()["access_token"]
        fields = {"Authorization": f"Bearer {token}"}
        answers.append(await caller.http.get(f"{caller.protocol}/userinfo", headers=fields))

    assert (answers[0].status_code, answers[0].json()["error"]) == (403, "insufficient_scope")
    assert answers[1].json()["preferred_username"] == "ada"


async def test_calls_and_events_tell_what_happened(caller: Caller) -> None:
    token = caller.demo.issuer.mint("client-tools", "ada")
    await caller.refresh(token["refresh_token"])
    await caller.refresh("nonsense")
    events = [(one.kind, one.username, one.error) for one in caller.demo.issuer.events]

    assert caller.demo.issuer.calls["token", "refresh_token"] == 2
    assert events == [("REFRESH_TOKEN", "ada", ""), ("REFRESH_TOKEN_ERROR", "", "invalid_grant")]


async def test_another_realm_is_404(caller: Caller) -> None:
    answer = await caller.http.get(caller.demo.issuer_url.replace("/demo", "/other"))

    assert (answer.status_code, answer.json()) == (404, {"error": "Realm does not exist"})
