"""`bearerproxy init` as people start it: on a terminal, and from scripts where nobody answers."""

# ruff: noqa: ASYNC240 - a file of some lines is read before anybody waits

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from proxy.asgi import ASGIApp
from proxy.clock import SystemClock
from proxy.config import load
from proxy.demo import Client, Demo, DemoIssuer
from proxy.demo.nsi import NsiService
from proxy.demo.realm import AUTHORIZATION_CODE, CLIENTS, REFRESH_TOKEN
from proxy.demo.serving import Listener, bind
from proxy.identities import Grant
from tests.command import Ended, bearerproxy
from tests.journeys.authority import Authority
from tests.terminal import Terminal, terminal

BROWSER_ALONE = Client(
    "browser-alone",
    "A desktop program of before the device grant",
    frozenset({AUTHORIZATION_CODE, REFRESH_TOKEN}),
    "dotstat-api",
    redirect_uris=("http://127.0.0.1/*",),
)


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    async with Demo(clients=(*CLIENTS, BROWSER_ALONE)) as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "proxy.toml"


@asynccontextmanager
async def person(file: Path, *options: str) -> AsyncIterator[Terminal]:
    """Somebody at a terminal who has started `init`."""
    async with terminal([sys.executable, "-m", "proxy", "init", "--config", file, *options]) as there:
        yield there


async def scripted(demo: Demo, file: Path, *options: str | Path, client_id: str = "desktop") -> Ended:
    """Run `init` for the demo's .Stat Suite where nobody answers."""
    said = ["--preset", "dotstat", "--url", demo.nsi_url, "--issuer", demo.issuer_url, "--client-id", client_id]
    return await bearerproxy("init", "--config", file, *said, *options)


# On a terminal -------------------------------------------------------------------------------------------------------


async def test_four_answers_make_a_configuration(demo: Demo, file: Path) -> None:
    async with person(file) as there:
        await there.types("provena", after="1  Which service")
        await there.types(demo.data_url, after="2  Its domain")
        await there.types(demo.issuer_url, after="3  Who signs you in: the issuer's address?")
        await there.types("", after="4  As which client? [client-tools]")
        assert await there.end() == 0, there.screen

    assert f"Next   bearerproxy serve --config {file}" in there.screen
    assert "/provena/data/; the first call opens the page to sign in" in there.screen
    assert load(file, {}).identities["provena"].issuer == demo.issuer_url
    if os.name == "posix":
        assert file.stat().st_mode & 0o777 == 0o600


async def test_each_wrong_answer_has_a_sentence_and_a_second_chance(demo: Demo, file: Path) -> None:
    async with person(file) as there:
        await there.types("a service", after="1  Which service")
        await there.types(".Stat", after="It is provena, dotstat or other.")
        await there.types(f"{demo.data_url}/away", after="2  The address of its NSI web service?")
        await there.types(demo.nsi_url, after="/away/rest answers 404: that is no NSI web service.")
        await there.types(demo.nsi_url, after="3  Who signs you in")
        await there.types(demo.issuer_url, after="The issuer's metadata cannot be read")
        await there.types("nobody", after="4  As which client?")
        await there.types("desktop", after="The issuer refuses client 'nobody'")
        assert await there.end() == 0, there.screen

    assert load(file, {}).identities["dotstat"].client_id == "desktop"


async def test_an_answer_that_does_not_hold_here_may_be_kept(demo: Demo, file: Path) -> None:
    """A VPN may be off today; the person knows."""
    options = ("--preset", "dotstat", "--issuer", demo.issuer_url, "--client-id", "desktop")
    async with person(file, *options) as there:
        await there.types("http://127.0.0.1:9", after="2  The address")
        await there.types("", after="Another? Enter keeps it")
        assert await there.end() == 0, there.screen

    assert {one.port for one in load(file, {}).upstreams} == {9}


async def test_what_answers_wrongly_is_not_asked_for_ever(demo: Demo, file: Path) -> None:
    async with person(file) as there:
        for chance in range(5):
            await there.types(f"nonsense {chance}", after="Once more?" if chance else "1  Which")
            await there.reads(f"nonsense {chance}")
        await there.types("provena?", after="nonsense 4]")
        assert await there.end() == 2

    assert not file.exists()


async def test_ctrl_c_leaves_nothing_behind(file: Path) -> None:
    async with person(file) as there:
        await there.reads("1  Which service")
        there.interrupt()
        assert await there.end() != 0

    assert not file.parent.exists()


@pytest.mark.parametrize(("answer", "is_replaced"), [("n", False), ("", False), ("y", True)])
async def test_a_file_that_is_there_is_replaced_by_a_yes_alone(
    demo: Demo, tmp_path: Path, answer: str, is_replaced: bool
) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text("# mine\n")
    said = ("--preset", "dotstat", "--url", demo.nsi_url, "--issuer", demo.issuer_url, "--client-id", "desktop")
    async with person(file, *said) as there:
        await there.types(answer, after="exists already. Replace it? [y/N]")
        assert await there.end() == (0 if is_replaced else 2), there.screen

    assert ("# mine" not in file.read_text()) is is_replaced


# Where nobody answers ------------------------------------------------------------------------------------------------


async def test_options_answer_every_question(demo: Demo, file: Path) -> None:
    ran = await scripted(demo, file)

    assert ran.exit_status == 0, ran.complaint
    assert "?" not in ran.complaint
    checked = await bearerproxy("check", "--config", file)
    assert checked.exit_status == 0, checked.complaint


@pytest.mark.parametrize("text", [None, "", "provena\n" * 100])
async def test_what_is_missing_is_named_and_never_waited_for(file: Path, text: str | None) -> None:
    ran = await bearerproxy("init", "--config", file, "--preset", "dotstat", text=text)

    assert ran.exit_status == 2
    assert "--url is missing" in ran.complaint
    assert not file.exists()


async def test_an_answer_that_does_not_hold_ends_it_with_nothing_written(demo: Demo, file: Path) -> None:
    ran = await scripted(demo, file, client_id="nobody")

    assert ran.exit_status == 1
    assert ran.words.count("The issuer refuses client 'nobody'") == 1
    assert "--client-id has to be another" in ran.words
    assert not file.parent.exists()


async def test_without_trying_no_network_is_needed(file: Path) -> None:
    ran = await bearerproxy("init", "--config", file, "--preset", "provena", "--no-test")

    assert ran.exit_status == 0, ran.complaint
    assert load(file, {}).identities["provena"].issuer == "https://auth.mds.gbrrestoration.org/auth/realms/rrap"


async def test_a_file_that_is_there_stays_unless_told_otherwise(demo: Demo, tmp_path: Path) -> None:
    """And a link to it stays a link."""
    kept, file = tmp_path / "dotfiles.toml", tmp_path / "proxy.toml"
    kept.write_text("# mine\n")
    file.symlink_to(kept)

    assert (await scripted(demo, file, "--yes")).exit_status == 2
    assert kept.read_text() == "# mine\n"
    assert (await scripted(demo, file, "--force")).exit_status == 0
    assert file.is_symlink()
    assert "[dotstat]" in kept.read_text()


async def test_the_place_is_the_one_that_serve_reads(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEARERPROXY_CONFIG", str(tmp_path / "named.toml"))
    said = ["--preset", "dotstat", "--url", demo.nsi_url, "--issuer", demo.issuer_url, "--client-id", "desktop"]
    ran = await bearerproxy("init", *said)

    assert ran.exit_status == 0, ran.complaint
    assert "Next bearerproxy serve Then" in ran.words
    assert (tmp_path / "named.toml").exists()


async def test_a_port_that_the_environment_says_is_the_one_to_use(
    demo: Demo, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEARERPROXY_SERVER__PORT", "8765")
    ran = await scripted(demo, file)

    assert "http://localhost:8765/dotstat/csv/" in ran.complaint
    assert "\n#port = 8400\n" in file.read_text()


# What is found out ---------------------------------------------------------------------------------------------------


async def test_the_grant_is_the_one_that_the_client_may_use(demo: Demo, file: Path) -> None:
    ran = await scripted(demo, file, client_id="browser-alone")

    assert ran.exit_status == 0, ran.complaint
    assert load(file, {}).identities["dotstat"].grant is Grant.AUTHORIZATION_CODE


async def test_a_redirect_uri_that_the_client_lacks_shows_before_anybody_signs_in(demo: Demo, file: Path) -> None:
    ran = await scripted(demo, file, "--grant", "authorization_code", client_id="dotstat-app")

    assert ran.exit_status == 1
    assert "with the way back http://127.0.0.1:PORT/callback" in ran.words


@pytest.mark.parametrize(("secret", "status"), [("svc-secret", 0), ("canary-secret", 1)])
async def test_a_service_account_is_tried_with_its_secret(
    demo: Demo, file: Path, monkeypatch: pytest.MonkeyPatch, secret: str, status: int
) -> None:
    monkeypatch.setenv("DOTSTAT_CLIENT_SECRET", secret)
    ran = await scripted(demo, file, "--grant", "client_credentials", client_id="dotstat-svc")

    assert ran.exit_status == status, ran.complaint
    assert secret not in ran.complaint
    if status == 0:
        assert 'client_secret = "env:DOTSTAT_CLIENT_SECRET"' in file.read_text()


async def test_nobody_is_signed_in_by_it(demo: Demo, file: Path) -> None:
    before = demo.issuer.calls["token", ""]
    ran = await scripted(demo, file)

    assert ran.exit_status == 0, ran.complaint
    assert demo.issuer.calls["token", ""] == before


# An office -----------------------------------------------------------------------------------------------------------


class Office:
    """A network whose only way out is a web proxy, and whose hosts are signed by an authority of its own."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.hosts: dict[str, int] = {}
        self.passwords: list[str] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        """Serve an issuer and an NSI at names that resolve nowhere; yields the web proxy's port."""
        clock, issuer = SystemClock(), DemoIssuer("https://auth.example.org")
        apps: dict[str, ASGIApp] = {"auth.example.org": issuer, "nsi.example.org": NsiService(issuer.url, clock=clock)}
        async with AsyncExitStack() as stack:
            for name, app in apps.items():
                bound = bind("127.0.0.1", 0)
                listener = Listener(app, bound, clock=clock)
                await listener.open()
                stack.push_async_callback(listener.close)
                self.hosts[f"{name}:443"] = await self._tls(stack, name, bound.getsockname()[1])
            server = await asyncio.start_server(self._tunnel, "127.0.0.1", 0)
            stack.push_async_callback(server.wait_closed)
            stack.callback(server.close)
            yield int(server.sockets[0].getsockname()[1])

    async def _tls(self, stack: AsyncExitStack, name: str, port: int) -> int:
        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _joined(reader, writer, *await asyncio.open_connection("127.0.0.1", port))

        server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=self.authority.context(name))
        stack.push_async_callback(server.wait_closed)
        stack.callback(server.close)
        return int(server.sockets[0].getsockname()[1])

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.passwords += [line for line in head.splitlines() if line.lower().startswith("proxy-authorization")]
        port = self.hosts[head.split()[1]]
        writer.write(b"HTTP/1.1 200 Tunnel\r\n\r\n")
        await _joined(reader, writer, *await asyncio.open_connection("127.0.0.1", port))


async def _joined(
    one: asyncio.StreamReader, to_one: asyncio.StreamWriter, two: asyncio.StreamReader, to_two: asyncio.StreamWriter
) -> None:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        except OSError:
            return
        finally:
            writer.close()

    await asyncio.gather(pump(one, to_two), pump(two, to_one))


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[tuple[Office, int]]:
    there = Office(Authority.create(tmp_path))
    async with there.open() as port:
        yield there, port


OFFICE = ("--preset", "dotstat", "--url", "https://nsi.example.org", "--issuer", "https://auth.example.org/realms/demo")


async def test_a_company_s_proxy_and_authority_are_found_and_used(
    office: tuple[Office, int], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, port = office
    monkeypatch.setenv("https_proxy", f"http://ann:canary-secret@127.0.0.1:{port}")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(there.authority.ca_file))
    ran = await bearerproxy("init", "--config", file, *OFFICE, "--client-id", "desktop")

    assert ran.exit_status == 0, ran.complaint
    assert f"reached through the web proxy http://127.0.0.1:{port} of your environment" in ran.words
    text = file.read_text()
    assert f'[network]\nproxy = "env"\nca_file = "{there.authority.ca_file}"\n' in text.replace(
        "# Certification authorities to trust instead of the system's.\n", ""
    )
    assert there.passwords
    assert "canary-secret" not in text + ran.complaint
    reached = await bearerproxy("check", "--online", "--config", file)
    assert reached.exit_status == 0, reached.complaint + reached.output


async def test_an_authority_that_nobody_here_trusts_is_named(
    office: tuple[Office, int], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{office[1]}")
    ran = await bearerproxy("init", "--config", file, *OFFICE, "--client-id", "desktop")

    assert ran.exit_status == 1
    assert "signed by authority, which is not trusted here" in ran.words
    assert not file.exists()
