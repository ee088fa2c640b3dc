"""What a real Keycloak lets us know of the end of a sign-in, and a sign-in taken over from another program."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from proxy.clock import SystemClock
from tests.command import Serving, bearerproxy, login, serving
from tests.conftest import free_port
from tests.keycloak.person import Person
from tests.keycloak.server import Realm
from tests.poll import eventually

pytestmark = [pytest.mark.keycloak, pytest.mark.chromium]


@pytest.fixture
def config(tmp_path: Path, realm: Realm) -> Path:
    return written(tmp_path, realm)


def written(folder: Path, realm: Realm) -> Path:
    file = folder / "proxy.toml"
    file.write_text(f"""
        [provena]
        issuer = "{realm.issuer}"
        data = "https://data.example.org"
        [server]
        port = {free_port()}
        [store]
        kind = "file"
        path = "{folder / "store"}"
    """)
    return file


async def signed_in(config: Path, person: Person, *arguments: str | Path) -> None:
    async with login("provena", "--config", config, *arguments) as waiting:
        await person.approve(waiting.link)
        ended = await waiting.end()
    assert ended.exit_status == 0, ended.complaint


async def ends_of(proxy: Serving) -> dict[str, Any]:
    """Return when the sign-in ends, as programs are told."""
    answer = await proxy.get("/-/ready")
    return dict(answer.json().get("ends", {}).get("provena", {}))


async def renewals_of(proxy: Serving) -> int:
    return int((await proxy.get("/-/identities.json")).json()[0]["renewals"])


def seconds_from_now(ends: dict[str, Any]) -> float:
    return datetime.fromisoformat(ends["at"]).timestamp() - SystemClock().wall()


async def test_the_end_of_a_session_is_known_near_it_and_from_the_start_of_the_next(
    realm: Realm, config: Path, person: Person
) -> None:
    """Idle time and maximum of the session (token-life T9, T10): first it slides, then it stands still."""
    realm.put(accessTokenLifespan=5, ssoSessionIdleTimeout=30, ssoSessionMaxLifespan=60, revokeRefreshToken=True)
    await signed_in(config, person)
    async with serving(config) as proxy:
        first = await ends_of(proxy)
        assert first["kind"] == "at-least"
        assert 0 < seconds_from_now(first) <= 31

        async def known() -> dict[str, Any] | None:
            ends = await ends_of(proxy)
            return ends if ends.get("kind") == "known" and seconds_from_now(ends) > 0 else None

        seen = await eventually(known, 60, what="a known end")
        assert seen is not None
        assert 0 < seconds_from_now(seen) <= 31
        ended = datetime.fromisoformat(seen["at"]).timestamp()
        await eventually(
            lambda: any(event["event"] == "sign-in-ended" for event in proxy.events), 60, what="the end of the session"
        )
        assert SystemClock().wall() >= ended - 5, "the last renewal was refused before the told end"
        [told] = [event for event in proxy.events if event["event"] == "sign-in-ending"]
        assert abs(told["ends_at"] - ended) < 3
        await signed_in(config, person)
        again = await eventually(known, 20, what="the end of the next session")
        assert again is not None
        assert 20 < seconds_from_now(again) <= 61


async def test_the_cache_of_another_program_becomes_a_sign_in(
    realm: Realm, config: Path, person: Person, tmp_path: Path
) -> None:
    """With rotation and reuse detection on: proved once, renewed on by us, and useless in its old place."""
    realm.put(accessTokenLifespan=5, ssoSessionIdleTimeout=1800, ssoSessionMaxLifespan=36000, revokeRefreshToken=True)
    realm.forget_events()
    given, theirs = tmp_path / "given", tmp_path / "another"
    theirs.mkdir()
    await signed_in(config, person, "--to", f"file:{given}")
    cache = tmp_path / ".tokens.json"
    token = given.read_text().strip()
    cache.write_text(json.dumps({"stages": {"TEST": None, "PROD": {"access_token": "", "refresh_token": token}}}))
    another = written(theirs, realm)
    taken = await bearerproxy("login", "--from", cache, "--config", another)

    assert taken.exit_status == 0, taken.complaint
    assert "as alice (client-tools)" in taken.words
    assert "still holds the old refresh token" in taken.words
    assert token not in taken.output + taken.complaint
    async with serving(another) as proxy:
        await eventually(lambda: renewals_of(proxy), 20, what="a renewal by the proxy")
        assert (await ends_of(proxy))["kind"] == "at-least"
    assert not realm.events("REFRESH_TOKEN_ERROR")


async def test_an_offline_token_is_taken_over_with_its_own_client_and_has_no_told_end(
    realm: Realm, config: Path, person: Person, tmp_path: Path
) -> None:
    given, theirs = tmp_path / "given", tmp_path / "another"
    theirs.mkdir()
    await signed_in(config, person, "--offline", "--to", f"file:{given}")
    another = written(theirs, realm)
    taken = await bearerproxy("login", "--from", "-", "--config", another, text=given.read_text())

    assert taken.exit_status == 0, taken.complaint
    assert "as alice (automated-access): it does not end with the session" in taken.words
    port = int(another.read_text().partition("port = ")[2].split()[0])
    async with serving(another, port=port) as proxy:
        waited = await bearerproxy("wait", "--valid-for", "2d", "--config", another)
        ends = await ends_of(proxy)
    assert waited.exit_status == 0, waited.complaint
    assert ends == {"kind": "unknown", "at": None, "is_offline": True}


async def test_a_token_of_a_session_that_has_ended_is_refused_and_nothing_is_stored(
    realm: Realm, config: Path, person: Person, tmp_path: Path
) -> None:
    given, theirs = tmp_path / "given", tmp_path / "another"
    theirs.mkdir()
    await signed_in(config, person, "--to", f"file:{given}")
    realm.log_out("alice")
    another = written(theirs, realm)
    taken = await bearerproxy("login", "--from", given, "--config", another)

    assert taken.exit_status == 1
    assert "Nothing has changed." in taken.words
    assert (await bearerproxy("status", "--config", another)).exit_status == 3
