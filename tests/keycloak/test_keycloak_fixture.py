"""The fixtures themselves, by plain HTTP and a real browser: what later tests lean on is shown here first.

Journeys through the proxy use the same `keycloak`, `realm` and `person`.
"""

import asyncio
import base64
import hashlib
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from proxy.tokens import claims
from tests.keycloak.person import Person
from tests.keycloak.server import Keycloak, Realm
from tests.poll import eventually

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"

pytestmark = pytest.mark.keycloak


async def sign_in(realm: Realm, person: Person, client_id: str, scope: str = "openid") -> dict[str, Any]:
    """Return the token answer of a device grant that `person` approved."""
    device = realm.device(client_id, scope=scope).json()
    await person.approve(device["verification_uri_complete"])
    answer = realm.token(grant_type=DEVICE, client_id=client_id, device_code=device["device_code"])
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def password(realm: Realm, username: str = "alice", **form: str) -> httpx2.Response:
    return realm.token(
        grant_type="password", client_id="dotstat-app", username=username, password=f"pw-{username}", **form
    )


def life(answer: httpx2.Response) -> int:
    """Return the seconds that an access token lives by its claims: `expires_in` is shorter on a busy machine."""
    said = claims(answer.json()["access_token"])
    return int(said["exp"] - said["iat"])


def renew(realm: Realm, refresh_token: str, client_id: str) -> httpx2.Response:
    return realm.token(grant_type="refresh_token", client_id=client_id, refresh_token=refresh_token)


def test_the_password_grant_gives_a_token_for_dotstat(realm: Realm) -> None:
    answer = password(realm)

    assert answer.status_code == 200, answer.text
    said = claims(answer.json()["access_token"])
    assert ("dotstat-api" in said["aud"], said["preferred_username"], said["iss"]) == (True, "alice", realm.issuer)
    assert life(answer) == 8


def test_a_service_account_gets_five_seconds_and_no_refresh_token(realm: Realm) -> None:
    answer = realm.token(grant_type="client_credentials", client_id="dotstat-svc", client_secret="svc-secret")

    assert (life(answer), "refresh_token" in answer.json()) == (5, False)


@pytest.mark.chromium
async def test_a_person_approves_the_device_grant_in_a_browser(realm: Realm, person: Person) -> None:
    answer = await sign_in(realm, person, "client-tools")

    said = claims(answer["access_token"])
    assert "provena-api" in said["aud"]
    assert "entity-registry-read" in said["realm_access"]["roles"]
    assert 1790 <= answer["refresh_expires_in"] <= 1800  # what is left of it when the token is fetched


@pytest.mark.chromium
async def test_a_person_refuses_the_device_grant(realm: Realm, person: Person) -> None:
    device = realm.device("client-tools").json()

    await person.refuse(device["verification_uri_complete"])

    answer = realm.token(grant_type=DEVICE, client_id="client-tools", device_code=device["device_code"])
    assert (answer.status_code, answer.json()["error"]) == (400, "access_denied")


def test_device_polling_is_pending_until_a_person_answers_and_slowed_down_when_hasty(realm: Realm) -> None:
    device = realm.device("client-tools").json()
    answers = [
        realm.token(grant_type=DEVICE, client_id="client-tools", device_code=device["device_code"]).json()["error"]
        for _ in range(2)
    ]

    assert answers == ["authorization_pending", "slow_down"]
    assert device["interval"] == 1


@pytest.mark.chromium
async def test_a_person_signs_in_by_authorization_code_and_lands_on_loopback(realm: Realm, person: Person) -> None:
    async with loopback() as (port, received):
        redirect_uri = f"http://127.0.0.1:{port}/landing"
        verifier = "v" * 43
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        question = {
            "response_type": "code",
            "client_id": "desktop",
            "redirect_uri": redirect_uri,
            "scope": "openid",
            "state": "s1",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }

        landing = await person.sign_in(f"{realm.authorization_endpoint}?{urlencode(question)}")

    assert landing.text == "You may close this page."
    query = parse_qs(urlsplit(received[0]).query)
    assert (query["state"], query["iss"]) == (["s1"], [realm.issuer])
    answer = realm.token(
        grant_type="authorization_code",
        client_id="desktop",
        code=query["code"][0],
        redirect_uri=redirect_uri,
        code_verifier=verifier,
    )
    assert answer.status_code == 200, answer.text


def test_reuse_of_a_rotated_refresh_token_kills_the_new_one_too(realm: Realm) -> None:
    first = password(realm).json()["refresh_token"]
    second = renew(realm, first, "dotstat-app").json()["refresh_token"]

    reuse = renew(realm, first, "dotstat-app")
    after = renew(realm, second, "dotstat-app")

    assert (reuse.status_code, reuse.json()) == (
        400,
        {"error": "invalid_grant", "error_description": "Maximum allowed refresh token reuse exceeded"},
    )
    assert (after.status_code, after.json()) == (
        400,
        {"error": "invalid_grant", "error_description": "Session doesn't have required client"},
    )


def test_without_rotation_a_refresh_token_serves_again(keycloak: Keycloak) -> None:
    """Provena's real realms are like this: rotation off, tokens of 300 s."""
    realm = keycloak.fresh_realm({"revokeRefreshToken": False, "accessTokenLifespan": 300})
    token = password(realm).json()["refresh_token"]

    answers = [renew(realm, token, "dotstat-app") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert {life(answer) for answer in answers} == {300}


def test_settings_of_realm_and_client_can_change_under_a_running_tool(keycloak: Keycloak) -> None:
    realm = keycloak.fresh_realm()

    realm.put(accessTokenLifespan=5)
    realm.put_client("dotstat-svc", secret="rotated")

    assert life(password(realm)) == 5
    refused = realm.token(grant_type="client_credentials", client_id="dotstat-svc", client_secret="svc-secret")
    assert (refused.status_code, refused.json()["error"]) == (401, "unauthorized_client")


async def test_events_count_renewals(realm: Realm) -> None:
    token = password(realm).json()["refresh_token"]
    realm.forget_events()

    for _ in range(3):
        token = renew(realm, token, "dotstat-app").json()["refresh_token"]

    assert len(await eventually(lambda: realm.events("REFRESH_TOKEN", "dotstat-app"))) == 3
    assert realm.events("REFRESH_TOKEN", "client-tools") == []


def test_log_out_ends_the_session_and_its_refresh_token(realm: Realm) -> None:
    token = password(realm, "bob").json()["refresh_token"]
    assert len(realm.sessions("bob")) == 1

    realm.log_out("bob")

    assert realm.sessions("bob") == []
    assert renew(realm, token, "dotstat-app").json()["error"] == "invalid_grant"


@pytest.mark.chromium
async def test_an_offline_token_outlives_a_restart_and_a_kill(keycloak: Keycloak, person: Person) -> None:
    realm = keycloak.fresh_realm()
    answer = await sign_in(realm, person, "automated-access", "roles offline_access")
    assert (answer["refresh_expires_in"], claims(answer["refresh_token"])["typ"]) == (0, "Offline")
    assert len(realm.sessions("alice", offline="automated-access")) == 1

    await asyncio.to_thread(keycloak.restart)
    renewed = renew(realm, answer["refresh_token"], "automated-access").json()
    keycloak.kill()
    with pytest.raises(httpx2.ConnectError):
        renew(realm, renewed["refresh_token"], "automated-access")
    await asyncio.to_thread(keycloak.start)
    again = renew(realm, renewed["refresh_token"], "automated-access")

    assert again.status_code == 200, again.text
    assert "entity-registry-read" in claims(again.json()["access_token"])["realm_access"]["roles"]


@pytest.mark.chromium
async def test_withdrawn_consent_ends_an_offline_token(realm: Realm, person: Person) -> None:
    answer = await sign_in(realm, person, "automated-access", "roles offline_access")

    realm.withdraw("alice", "automated-access")

    assert renew(realm, answer["refresh_token"], "automated-access").json()["error"] == "invalid_grant"


class loopback:  # noqa: N801 - used as a statement
    """A listener on an ephemeral port that remembers the targets it was asked for (RFC 8252 7.3)."""

    async def __aenter__(self) -> tuple[int, list[str]]:
        self._received: list[str] = []
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1], self._received

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self._received.append(head.split()[1].decode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 24\r\nConnection: close\r\n\r\nYou may close this page.")
        await writer.drain()
        writer.close()
