"""The main job: a tool that knows only a base URL reads a Keycloak-protected service, as long as one is signed in."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import Browser
from tests.clients import programs
from tests.command import bearerproxy, login, pause, serving
from tests.keycloak.person import Person
from tests.keycloak.server import Keycloak, Realm
from tests.keycloak.services import Services, services
from tests.poll import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.keycloak, pytest.mark.chromium]

CSV = "/provena/data/demo/coral-cover.csv"
SDMX = "/dotstat/csv/data/TOURISM,DF_ARRIVALS,1.0/A.AU.HOL"


@pytest.fixture
async def there(realm: Realm) -> AsyncIterator[Services]:
    async with services(realm) as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, realm: Realm, there: Services) -> Path:
    """A configuration as a user would write it, but for the hosts."""
    file = tmp_path / "proxy.toml"
    secret = tmp_path / "secret"
    secret.write_text("svc-secret\n")
    file.write_text(f"""
        [provena]
        issuer = "{realm.issuer}"
        data = "{there.data}"

        [dotstat]
        issuer = "{realm.issuer}"
        client_id = "dotstat-svc"
        client_secret = "file:{secret}"
        grant = "client_credentials"
        nsi = "{there.nsi}"
        transfer = "{there.transfer}"

        [store]
        kind = "file"
        path = "{tmp_path / "store"}"

        [log]
        level = "debug"
    """)
    return file


async def signed_in(config: Path, person: Person, *arguments: str) -> str:
    """Sign in as a person would, and return what the terminal said."""
    async with login("provena", "--config", config, *arguments) as waiting:
        await person.approve(waiting.link)
        ended = await waiting.end()
    assert ended.exit_status == 0, ended.complaint
    return ended.words


@pytest.mark.long
@pytest.mark.client
@pytest.mark.parametrize("has_rotation", [True, False], ids=["rotation", "no-rotation"])
async def test_a_loop_of_curl_and_r_reads_across_token_ends_with_one_renewal_per_life(
    realm: Realm, config: Path, person: Person, is_long: bool, has_rotation: bool
) -> None:
    seconds, life = (60 if is_long else 15), 5
    realm.put(accessTokenLifespan=life, revokeRefreshToken=has_rotation)
    await signed_in(config, person)
    realm.forget_events()
    async with serving(config) as proxy:
        url = proxy.url + CSV
        loop = (
            f"end=$(($(date +%s) + {seconds})); while [ $(date +%s) -lt $end ]; "
            f"do curl -s -o /dev/null -w '%{{http_code}}\\n' {url}; done"
        )
        script = (
            f"until <- Sys.time() + {seconds}; n <- 0; while (Sys.time() < until) "
            "{ d <- read.csv(given[1]); stopifnot(nrow(d) > 5); n <- n + 1; Sys.sleep(0.2) }; cat(n)"
        )
        shell, r = await asyncio.gather(
            programs.run("sh", "-c", loop, deadline_seconds=seconds + 60),
            programs.r(script, url, deadline_seconds=seconds + 60),
        )
        await proxy.stop()
    statuses = shell.text.split()
    assert set(statuses) == {"200"}
    assert len(statuses) > seconds * 2
    assert r.exit_status == 0, r.complaint
    assert int(r.text) > seconds
    renewals = len(realm.events("REFRESH_TOKEN", "client-tools"))
    assert seconds / life - 1 <= renewals <= seconds / (life * 2 / 3 * 0.85) + 2
    assert not realm.events("REFRESH_TOKEN_ERROR", "client-tools")
    upstream_401s = [event for event in proxy.events if event["event"] == "relayed" and event["is_replay"]]
    assert not upstream_401s


async def test_an_offline_sign_in_serves_on_after_both_were_restarted_without_a_person(
    keycloak: Keycloak, realm: Realm, config: Path, person: Person
) -> None:
    realm.put(accessTokenLifespan=8, revokeRefreshToken=True)
    said = await signed_in(config, person, "--offline")
    assert "as alice (automated-access)" in said
    assert "No offline token" not in said
    async with serving(config) as proxy:
        assert (await proxy.get(CSV)).status_code == 200
        assert await proxy.stop() == 0
    await asyncio.to_thread(keycloak.restart)
    async with serving(config) as proxy:
        await eventually(lambda: _is_served(proxy), 20, what="data after the restart")
        await pause(9)  # past the end of the token, so that one more renewal was made
        assert (await proxy.get(CSV)).status_code == 200


async def _is_served(proxy: object) -> bool:
    answer = await proxy.get(CSV)  # type: ignore[attr-defined]
    return bool(answer.status_code == 200)


async def test_an_offline_token_that_was_asked_for_and_not_given_is_said(
    realm: Realm, config: Path, person: Person
) -> None:
    with config.open("a") as file:
        file.write('\n[identity.provena]\noffline_client_id = "client-tools"\n')
    said = await signed_in(config, person, "--offline")
    assert "No offline token was given" in said


async def test_signed_out_is_said_and_a_sign_in_elsewhere_is_taken_up_within_two_seconds(
    realm: Realm, config: Path, person: Person
) -> None:
    """And a sign-out by the command ends the session at Keycloak, and a server's use of it (T13, T30)."""
    realm.put(accessTokenLifespan=300)
    realm.log_out("alice")  # what other tests of this module left behind
    async with serving(config) as proxy:
        refused = await proxy.get(CSV)
        assert refused.status_code == 503
        assert refused.json()["type"] == "/-/errors/sign-in-required"
        assert "bearerproxy login provena" in refused.json()["detail"]
        assert (await proxy.get("/-/ready")).status_code == 503
        await signed_in(config, person)
        await eventually(lambda: _is_served(proxy), 2, what="the sign-in made elsewhere")
        assert (await proxy.get("/-/ready?identity=provena")).status_code == 200
        status = await bearerproxy("status", "--config", config)
        assert "alice" in status.output
        assert "the token store" in status.words  # this proxy is on another port than the configuration says
        out = await bearerproxy("logout", "provena", "--config", config)
        assert out.exit_status == 0, out.complaint
        assert realm.sessions("alice") == []

        async def is_signed_out() -> bool:
            return (await proxy.get(CSV)).status_code == 503

        await eventually(is_signed_out, 2, what="the sign-out made elsewhere")


async def test_a_denied_sign_in_changes_nothing_and_says_so(config: Path, person: Person) -> None:
    async with login("provena", "--config", config) as waiting:
        await person.refuse(waiting.link)
        ended = await waiting.end()
    assert ended.exit_status == 1
    assert "denied" in ended.words
    token = await bearerproxy("token", "provena", "--config", config)
    assert token.exit_status == 3
    assert token.output == ""


async def test_the_authorization_code_grant_signs_in_on_a_loopback_port(
    realm: Realm, there: Services, tmp_path: Path, person: Person
) -> None:
    config = tmp_path / "desktop.toml"
    config.write_text(f"""
        [dotstat]
        issuer = "{realm.issuer}"
        client_id = "desktop"
        grant = "authorization_code"
        nsi = "{there.nsi}"
        [store]
        kind = "file"
        path = "{tmp_path / "store"}"
    """)
    async with login("--config", config) as waiting:
        landing = await person.sign_in(waiting.link)
        ended = await waiting.end()
    assert ended.exit_status == 0, ended.complaint
    assert "may close this page" in landing.text
    assert "as alice (desktop)" in ended.words
    async with serving(config) as proxy:
        answer = await proxy.get(SDMX)
        assert (answer.status_code, answer.text.splitlines()[0].split(",")[0]) == (200, "DATAFLOW")


@pytest.mark.client
async def test_a43_an_r_script_signs_in_by_its_first_call_and_the_browser_comes_back_to_our_port(
    realm: Realm, there: Services, tmp_path: Path, browser: Browser, unused_port: int
) -> None:
    """Base R waits, a person presses the button on the page and signs in at Keycloak, and the data arrives."""

    def sign_in(page: "Page") -> tuple[str, str]:
        page.goto(f"{proxy.url}/-/login/dotstat")
        page.get_by_role("button", name="Sign in").click()
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="Open the issuer's page").click()
        Person(browser).fill_in(opened.value)
        opened.value.get_by_text("You may close this page.").wait_for()
        page.get_by_text("You are signed in as alice.").wait_for()
        return opened.value.url, opened.value.inner_text("main")

    config = tmp_path / "desktop.toml"
    config.write_text(f"""
        [server]
        on_sign_in = "wait"
        [dotstat]
        issuer = "{realm.issuer}"
        client_id = "desktop"
        grant = "authorization_code"
        nsi = "{there.nsi}"
        [identity.dotstat]
        redirect_uri = "http://127.0.0.1:{unused_port}/-/callback"
        [store]
        kind = "memory"
    """)
    async with serving(config, port=unused_port) as proxy:
        script = asyncio.ensure_future(programs.r_read_csv(proxy.url + SDMX))
        await eventually(lambda: any("sign-in" in one["event"] for one in proxy.events), what="the call of the person")
        came_back_to, said = await browser.visit(sign_in)
        table = await script

    assert came_back_to.startswith(f"http://127.0.0.1:{unused_port}/-/callback?")
    assert "You are signed in" in said
    assert table.exit_status == 0, table.complaint
    assert table.text.startswith("DATAFLOW,")


async def test_the_password_grant_needs_no_person(realm: Realm, there: Services, tmp_path: Path) -> None:
    config = tmp_path / "password.toml"
    (tmp_path / "password").write_text("pw-alice")
    config.write_text(f"""
        [dotstat]
        issuer = "{realm.issuer}"
        client_id = "dotstat-app"
        grant = "password"
        username = "alice"
        password = "file:{tmp_path / "password"}"
        nsi = "{there.nsi}"
        [store]
        kind = "memory"
    """)
    async with serving(config) as proxy:
        await eventually(lambda: _reads_sdmx(proxy), 10, what="data")


async def _reads_sdmx(proxy: object) -> bool:
    answer = await proxy.get(SDMX)  # type: ignore[attr-defined]
    return bool(answer.status_code == 200)


async def test_a_service_account_uploads_and_polls_across_token_ends(config: Path, tmp_path: Path) -> None:
    file, rows = tmp_path / "data.csv", b"DATAFLOW,FREQ,OBS_VALUE\n" + b"X:Y(1.0),A,1\n" * 100_000
    await asyncio.to_thread(file.write_bytes, rows)
    digest = hashlib.sha256(rows).hexdigest()
    async with serving(config) as proxy:
        for _ in range(4):
            ran = await programs.curl(
                f"{proxy.url}/dotstat/transfer/import/sdmxFile",
                "-F",
                "dataspace=demo",
                "-F",
                f"file=@{file};type=text/csv",
            )
            assert '"success":true' in ran.text.replace(" ", ""), ran.text
            assert digest in ran.text or ran.exit_status == 0
            await pause(2)  # five-second tokens end between the uploads


@pytest.mark.client
async def test_every_client_reads_with_the_base_url_alone(
    realm: Realm, config: Path, person: Person, tmp_path: Path
) -> None:
    realm.put(accessTokenLifespan=60)
    await signed_in(config, person)
    async with serving(config) as proxy:
        url = proxy.url + CSV
        expected = (await proxy.get(CSV)).text.replace("\r\n", "\n")
        assert (await programs.curl(url)).text.replace("\r\n", "\n") == expected
        assert (await programs.wget(url)).text.replace("\r\n", "\n") == expected
        assert (await programs.requests_get(url)).text.replace("\r\n", "\n") == expected
        assert (await programs.pandas_read_csv(url)).text.splitlines()[0] == expected.splitlines()[0]
        r = await programs.r_read_csv(url)
        assert len(r.text.splitlines()) == len(expected.splitlines()), r.complaint
        assert (await programs.r_download_file(url, tmp_path / "saved.csv")).exit_status == 0
        assert (tmp_path / "saved.csv").read_text().replace("\r\n", "\n") == expected
        sdmx = await programs.r_read_csv(proxy.url + SDMX)
        assert sdmx.text.startswith("DATAFLOW,"), sdmx.complaint


async def test_two_commands_share_one_token_and_a_fresh_one_costs_no_renewal(
    realm: Realm, config: Path, person: Person
) -> None:
    realm.put(accessTokenLifespan=300)
    await signed_in(config, person)
    realm.forget_events()
    first, second = await asyncio.gather(*(bearerproxy("token", "provena", "--config", config) for _ in range(2)))
    assert first.exit_status == 0, first.complaint
    assert first.output == second.output
    assert first.output.count(".") == 2
    assert not realm.events("REFRESH_TOKEN")


async def test_an_offline_token_written_out_serves_on_a_machine_without_a_browser(
    realm: Realm, config: Path, there: Services, person: Person, tmp_path: Path
) -> None:
    realm.put(accessTokenLifespan=8, revokeRefreshToken=True)
    token = tmp_path / "api-token"
    await signed_in(config, person, "--offline", "--to", f"file:{token}")
    assert token.stat().st_mode & 0o777 == 0o600
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text(f"""
        [provena]
        issuer = "{realm.issuer}"
        data = "{there.data}"
        refresh_token = "file:{token}"
        [store]
        kind = "file"
        path = "{tmp_path / "another machine"}"
    """)
    for _ in range(2):  # the second start must use what the first one was given: the seed is used up by rotation
        async with serving(elsewhere) as proxy:
            await eventually(lambda: _is_served(proxy), 20, what="data by the offline token")
            assert (await proxy.get("/-/identities.json")).json()[0]["client_id"] == "automated-access"
    assert not realm.events("REFRESH_TOKEN_ERROR", "automated-access")
