"""What `doctor` finds: each judgement by table, and the whole examination against the demo with one thing broken."""

import base64
import datetime as dt
import json
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.app import App
from proxy.clock import Clock, ManualClock, SystemClock
from proxy.config import ServerSettings, load
from proxy.demo import Demo
from proxy.doctor import Finding, Verdict, examine, hosts, issuers, machine, tokens
from proxy.doctor.examination import reach, try_token
from proxy.errors import IdentityMisconfigured, IssuerUnavailable, SignInRequired
from proxy.events import ignore
from proxy.identities import Grant, Identity, Network
from proxy.secret_refs import Secret
from proxy.tokens import TokenSet
from proxy.upstreams import Upstream
from tests.command import bearerproxy
from tests.journeys.authority import LONG_AGO, Authority

ME = Identity("me", "client-tools", Grant.DEVICE_CODE, issuer="https://auth.example.org/realms/x")
DATA = Upstream("data", "https", "data.example.org", 443, identity="me", probe="/items")
HOST = hosts.Host("data.example.org", 443, is_tls=True, network=Network())


def token_set(**claims: Any) -> TokenSet:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return TokenSet(f"e30.{payload}.canary", 9e9, 1.0, "client-tools", "device_code", refresh_token="canary")


@contextmanager
def accepting(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve whoever comes, one after another, in a thread: those who go away in the middle leave nothing open."""

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Hold a port on which nobody listens, so that nobody else takes it meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


# This machine --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "cure"),
    [
        ({}, ""),
        ({"https_proxy": "http://p:1"}, ""),
        ({"http_proxy": "http://p:1", "no_proxy": "localhost, 127.0.0.1"}, ""),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "*"}, ""),
        ({"http_proxy": "http://p:1"}, "no_proxy=localhost,127.0.0.1 "),
        ({"all_proxy": "http://p:1", "no_proxy": "intranet,localhost"}, "no_proxy=intranet,localhost,127.0.0.1 "),
    ],
)
def test_a_web_proxy_that_would_be_asked_for_local_urls_is_told(environ: Mapping[str, str], cure: str) -> None:
    found = machine.proxy_variables(environ)

    assert (found.verdict is Verdict.WRONG) == bool(cure)
    assert cure in found.cure


@pytest.mark.parametrize(
    ("server", "platform", "is_container", "verdict"),
    [
        (ServerSettings(same_user=True), "linux", False, Verdict.OK),
        (ServerSettings(api_key=Secret.parse("k", literal=True)), "linux", False, Verdict.OK),
        (ServerSettings(), "linux", True, Verdict.OK),
        (ServerSettings(), "linux", False, Verdict.WRONG),
        (ServerSettings(), "win32", False, Verdict.NOTE),
    ],
)
def test_a_port_that_is_open_to_all_users_is_told(
    server: ServerSettings, platform: str, is_container: bool, verdict: Verdict
) -> None:
    found = machine.open_to_users(server, platform, is_container=is_container)

    assert found.verdict is verdict
    assert (verdict is Verdict.OK) or "[server]" in found.cure


def test_who_holds_the_port_is_named() -> None:
    with accepting(lambda _: None) as port:
        taken = machine.own_port("127.0.0.1", port, allow_remote=False, is_running=False)

    assert taken.verdict is Verdict.WRONG
    assert f"Port {port} on 127.0.0.1 is taken" in taken.text
    assert "another port" in taken.cure


def test_a_free_port_and_a_running_proxy_are_fine() -> None:
    for is_running in (False, True):
        found = machine.own_port("127.0.0.1", 0, allow_remote=False, is_running=is_running)
        assert found.verdict is Verdict.OK


def test_a_store_that_others_can_read_is_told_with_its_cure(tmp_path: Path) -> None:
    found = machine.token_store("file", tmp_path, "tokens.json can be read by others; run: chmod 600 tokens.json")

    assert (found.verdict, found.text) == (Verdict.WRONG, "tokens.json can be read by others.")
    assert found.cure == "Run: chmod 600 tokens.json"
    assert machine.token_store("file", tmp_path / "new", None).verdict is Verdict.OK


# Hosts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "verdict", "text", "cure"),
    [
        (hosts.Shown("Let's Encrypt, R11"), Verdict.OK, "Let's Encrypt", ""),
        (hosts.Shown("Zscaler Inc., Zscaler Root CA"), Verdict.NOTE, "TLS is opened on the way", ""),
        (hosts.Shown("Corp CA", 19, "self-signed"), Verdict.WRONG, "signed by Corp CA", "ca_file"),
        (hosts.Shown("R11", 10, "has expired"), Verdict.WRONG, "not valid at this time", "clock"),
        (hosts.Shown("R11", 62, "mismatch"), Verdict.WRONG, "another name", "Use the name"),
        (hosts.Shown("Corp", 92, "no key usage", is_strict_alone=True), Verdict.WRONG, "X509_STRICT", "tls_strict"),
    ],
)
def test_who_vouches_for_a_host_is_judged(shown: hosts.Shown, verdict: Verdict, text: str, cure: str) -> None:
    found = hosts.certificate(HOST, shown)

    assert found.verdict is verdict
    assert text in found.text
    assert cure in found.cure


@contextmanager
def speaking_tls(context: ssl.SSLContext) -> Iterator[int]:
    """Shake hands with whoever comes."""

    def shake(plain: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(plain, server_side=True) as secured:
            secured.recv(1)

    with accepting(shake) as port:
        yield port


async def test_an_unknown_authority_is_named_and_its_file_is_the_cure(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "Corp Inspection CA")
    with speaking_tls(authority.context()) as port:
        unknown = await reach(hosts.Host("127.0.0.1", port, is_tls=True, network=Network()))
        trusted = await reach(hosts.Host("127.0.0.1", port, is_tls=True, network=Network(None, str(authority.ca_file))))

    assert unknown[-1].verdict is Verdict.WRONG
    assert "signed by Corp Inspection CA, which is not trusted here" in unknown[-1].text
    assert "ca_file" in unknown[-1].cure
    assert [one.verdict for one in trusted] == [Verdict.OK, Verdict.OK]


async def test_an_expired_certificate_of_a_trusted_authority_is_told_as_that(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    expired = authority.context(until=LONG_AGO + dt.timedelta(days=1))
    with speaking_tls(expired) as port:
        found = await reach(hosts.Host("127.0.0.1", port, is_tls=True, network=Network(None, str(authority.ca_file))))

    assert "not valid at this time" in found[-1].text


@contextmanager
def tunnelling(heads: list[str]) -> Iterator[int]:
    """Be an outbound proxy that leads one connection at a time to a port of this machine, and keeps their heads."""

    def pour(source: socket.socket, drain: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                drain.sendall(piece)
        with suppress(OSError):
            drain.shutdown(socket.SHUT_WR)

    def serve(near: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += near.recv(1)
        heads.append(head.decode())
        _, port = heads[-1].split()[1].split(":")
        with socket.create_connection(("127.0.0.1", int(port))) as far:
            near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pour, args=(far, near))
            back.start()
            pour(near, far)
            back.join()

    with accepting(serve) as port:
        yield port


async def test_a_host_behind_an_outbound_proxy_is_looked_at_through_it(tmp_path: Path) -> None:
    authority, heads = Authority.create(tmp_path), list[str]()
    with speaking_tls(authority.context()) as port, tunnelling(heads) as way:
        network = Network(f"http://ada:p%40ss@127.0.0.1:{way}", str(authority.ca_file))
        found = await reach(hosts.Host("127.0.0.1", port, is_tls=True, network=network))

    assert found[-1].verdict is Verdict.OK, found
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'ada:p@ss').decode()}" in heads[0]


async def test_a_name_that_is_none_and_a_closed_port_have_a_sentence(closed_port: int) -> None:
    [name] = await reach(hosts.Host("no-such-host.invalid", 443, is_tls=True, network=Network()))
    [closed] = await reach(hosts.Host("127.0.0.1", closed_port, is_tls=False, network=Network()))

    assert "no-such-host.invalid cannot be resolved" in name.text
    assert closed.check == "connection"
    assert "cannot be reached" in closed.text


# Issuers and tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skew", "text"), [(0.0, "agrees"), (59.0, "agrees"), (300.0, "300 s behind"), (-90.0, "90 s ahead of")]
)
def test_a_clock_that_differs_by_a_minute_is_told(skew: float, text: str) -> None:
    assert text in issuers.clock(ME, skew).text


def test_an_issuer_that_calls_itself_otherwise_is_told_with_the_setting() -> None:
    error = IdentityMisconfigured("The issuer at https://a calls itself https://b; in [identity.me] set issuer.")
    found = issuers.metadata(ME, error)

    assert (found.verdict, found.text) == (Verdict.WRONG, "The issuer at https://a calls itself https://b.")
    assert found.cure == "In [identity.me] set issuer."


@pytest.mark.parametrize(
    ("known", "verdict"),
    [(["openid", "offline_access"], Verdict.OK), (["openid"], Verdict.NOTE), (None, None)],
)
def test_an_issuer_without_offline_tokens_is_told(known: object, verdict: Verdict | None) -> None:
    found = issuers.offline(ME, known)

    assert (found.verdict if found else None) is verdict


@pytest.mark.parametrize(
    ("outcome", "verdict", "cure"),
    [
        (token_set(preferred_username="ada", aud="api"), Verdict.OK, ""),
        (SignInRequired("no", login="me"), Verdict.WRONG, "bearerproxy login me"),
        (IssuerUnavailable("away"), Verdict.WRONG, "again"),
        (IdentityMisconfigured("Bad secret; in [identity.me] check client_secret."), Verdict.WRONG, "client_secret"),
    ],
    ids=["token", "signed-out", "away", "misconfigured"],
)
def test_a_sign_in_is_judged(outcome: Any, verdict: Verdict, cure: str) -> None:
    found = tokens.sign_in(ME, outcome)

    assert found.verdict is verdict
    assert cure in found.cure
    assert "canary" not in str(found)


@pytest.mark.parametrize(
    ("asked", "claims", "wrong"),
    [
        ("profile", {"scope": "profile email"}, ""),
        ("profile roles", {"scope": "profile", "realm_access": {}}, ""),
        ("profile data", {"scope": "profile"}, "data"),
        ("offline_access", {"scope": "profile"}, "offline_access was asked for and not given"),
    ],
)
def test_a_scope_that_was_dropped_without_a_word_is_told(asked: str, claims: dict[str, Any], wrong: str) -> None:
    found = tokens.scopes(replace(ME, scope=asked), token_set(**claims))

    assert found is not None
    assert (found.verdict is Verdict.WRONG) == bool(wrong)
    assert wrong in found.text


def test_an_audience_that_was_asked_for_and_is_not_there_is_told() -> None:
    who = replace(ME, extra=(("audience", "https://api"),))
    found = tokens.audience(who, token_set(aud=["account"]))

    assert found is not None
    assert "audience account and not for https://api" in found.text
    assert tokens.audience(ME, token_set(aud="account")) is None


@pytest.mark.parametrize(
    ("tried", "verdict", "said"),
    [
        (tokens.Tried("/items", 200, 401), Verdict.OK, "401 to a made-up token"),
        (tokens.Tried("/items", 422, 403), Verdict.OK, "422"),
        (tokens.Tried("/", 200, 200), Verdict.NOTE, "Set probe of [upstream.data]"),
        (tokens.Tried("/items", 401, 401), Verdict.WRONG, "audience account"),
        (tokens.Tried("/items", 403, 401), Verdict.WRONG, "ask the service's operator for the role"),
        (tokens.Tried("/items", 401, 401, is_about_permission=True), Verdict.WRONG, "lacks a permission"),
        (tokens.Tried("/items", 500, 500), Verdict.WRONG, "in trouble"),
        (
            tokens.Tried("/items", 401, 401, 'Bearer error="insufficient_scope", scope="data:read"'),
            Verdict.WRONG,
            "Add data:read to scope of [identity.me]",
        ),
    ],
    ids=lambda value: "",
)
def test_a_call_with_the_token_is_judged_beside_one_with_a_made_up_token(
    tried: tokens.Tried, verdict: Verdict, said: str
) -> None:
    found = tokens.call(DATA, token_set(aud="account"), tried)

    assert found.verdict is verdict
    assert said.lower() in f"{found.text} {found.cure}".lower()


async def test_a_service_that_is_gone_is_told(closed_port: int) -> None:
    gone = Upstream("data", "http", "127.0.0.1", closed_port, identity="me")

    found = await try_token(gone, token_set())
    assert (found.check, found.verdict) == ("call", Verdict.WRONG)
    assert "refuses connections" in found.text


# The whole -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def examined(
    folder: Path, *, issuer_clock: Clock | None = None, as_host: str = "127.0.0.1", **changes: Any
) -> AsyncIterator[list[Finding]]:
    """Examine the demo's service account with settings of [dotstat] changed, its issuer called by `as_host`."""
    clock = SystemClock()
    async with Demo(clock=issuer_clock or clock) as demo:
        table = demo.configuration(store=folder / "store")["dotstat"]
        table |= {"issuer": demo.issuer_url.replace("127.0.0.1", as_host)} | changes
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        file = folder / "proxy.toml"
        file.write_text(
            "\n".join([f'[server]\nport = 0\n[store]\nkind = "file"\npath = "{folder}"\n[dotstat]', *lines])
        )
        app = App(load(file, {}), emit=ignore, clock=clock)
        found = [one async for one in examine(app, {}, is_running=False)]
        for issuer in app.issuers.values():
            await issuer.close()
        await app.store.close()
        yield found


def wrong_of(found: list[Finding]) -> list[Finding]:
    """Return what is wrong, but for other users of the machine: that differs between machines."""
    return [one for one in found if one.verdict is Verdict.WRONG and one.check != "other-users"]


async def test_the_demo_is_healthy_and_its_services_take_the_token(tmp_path: Path) -> None:
    async with examined(tmp_path) as found:
        assert wrong_of(found) == []
        calls = {one.about: one.verdict for one in found if one.check == "call"}
        assert calls["[upstream.dotstat_rest]"] is Verdict.OK
        assert {"proxy-variables", "port", "store", "name", "issuer", "clock", "sign-in", "call"} <= {
            one.check for one in found
        }


async def test_one_cause_is_told_once(tmp_path: Path) -> None:
    """With a wrong secret nobody can be called: that is one finding, not one for each service."""
    async with examined(tmp_path, client_secret="wrong") as found:
        wrong = wrong_of(found)

        assert [one.check for one in wrong] == ["sign-in"]
        assert "client_secret" in wrong[0].cure
        assert not [one for one in found if one.check == "call"]


async def test_an_issuer_at_another_address_is_told(tmp_path: Path, closed_port: int) -> None:
    async with examined(tmp_path, issuer=f"http://127.0.0.1:{closed_port}/auth/realms/demo") as found:
        wrong = wrong_of(found)

        assert [one.check for one in wrong] == ["connection"]


async def test_an_issuer_that_calls_itself_otherwise_is_told_before_it_is_asked_for_tokens(tmp_path: Path) -> None:
    async with examined(tmp_path, as_host="localhost") as found:
        wrong = wrong_of(found)

        assert [one.check for one in wrong] == ["issuer"]
        assert 'set issuer = "http://127.0.0.1:' in wrong[0].cure


async def test_a_clock_that_is_not_the_issuers_is_told(tmp_path: Path) -> None:
    ahead = ManualClock(SystemClock().wall() + 300)
    async with examined(tmp_path, issuer_clock=ahead) as found:
        [clock] = [one for one in found if one.check == "clock"]

        assert clock.verdict is Verdict.WRONG
        assert "s behind the issuer's" in clock.text


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights; [store] kind is keyring there")
async def test_tokens_that_others_could_read_are_told_with_the_command(tmp_path: Path) -> None:
    store = tmp_path / "tokens.json"
    store.write_text("{}")
    store.chmod(0o644)
    async with examined(tmp_path) as found:
        wrong = wrong_of(found)

        assert [one.check for one in wrong] == ["store"]
        assert f"chmod 600 {store}" in wrong[0].cure


async def test_the_command_prints_findings_with_cures_and_fails_where_something_is_wrong(
    tmp_path: Path, closed_port: int
) -> None:
    config = tmp_path / "proxy.toml"
    gone = f"http://127.0.0.1:{closed_port}"
    tables = f'server.port = 0\nstore.kind = "memory"\n[upstream.data]\nanonymous = true\nurl = "{gone}"\n'
    config.write_text(tables)

    told = await bearerproxy("doctor", "--config", config)
    as_json = await bearerproxy("doctor", "--json", "--config", config)
    findings = json.loads(as_json.output)

    assert (told.exit_status, as_json.exit_status) == (1, 1)
    assert "cannot be reached" in told.output
    assert "→ Check the address and the network" in told.output
    assert "wrong: connection" in told.words.replace("other-users, ", "")
    assert findings["healthy"] is False
    assert {"check", "about", "verdict", "text", "cure"} == set(findings["findings"][0])
