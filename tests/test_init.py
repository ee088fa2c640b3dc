"""What people answer to `init`, what their machine has, and the file that is made of it: the pure parts."""

import itertools
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config import load
from proxy.doctor.hosts import Host, Shown
from proxy.identities import Grant, Network
from proxy.init.answers import (
    Answers,
    Service,
    read_address,
    read_client,
    read_issuer,
    read_port,
    read_service,
)
from proxy.init.surroundings import Outbound, Surroundings
from proxy.init.ways import Failed, settled, way_to
from proxy.init.writing import written
from tests.conftest import free_port

PROVENA = Answers(Service.PROVENA, {"domain": "mds.example.org"}, {"realm": "rrap"}, "client-tools")
DOTSTAT = Answers(
    Service.DOTSTAT, {"nsi": "https://nsi.example.org"}, {"issuer": "https://kc.example.org/realms/x"}, "stat-suite"
)
OTHER = Answers(
    Service.OTHER, {"url": "https://api.example.org/v1"}, {"issuer": "https://kc.example.org/realms/x"}, "desktop"
)
EACH = pytest.mark.parametrize("answers", [PROVENA, DOTSTAT, OTHER], ids=["provena", "dotstat", "other"])


# Reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "service"),
    [
        ("provena", Service.PROVENA),
        ("1", Service.PROVENA),
        (" P ", Service.PROVENA),
        (".Stat Suite", Service.DOTSTAT),
        ("NSI", Service.DOTSTAT),
        ("other", Service.OTHER),
    ],
)
def test_a_service_is_known_by_what_people_call_it(text: str, service: Service) -> None:
    assert read_service(text) is service


@pytest.mark.parametrize(
    ("text", "domains"),
    [
        ("mds.gbrrestoration.org", ["mds.gbrrestoration.org"]),
        ("https://mds.gbrrestoration.org/", ["mds.gbrrestoration.org"]),
        ("https://data-api.mds.gbrrestoration.org/docs", ["mds.gbrrestoration.org"]),
        (
            "https://data.mds.gbrrestoration.org/dataset/10378.1/1234?view=details#x",
            ["data.mds.gbrrestoration.org", "mds.gbrrestoration.org"],
        ),
        ("data.example", ["data.example"]),
    ],
)
def test_a_provena_is_found_by_any_page_of_it(text: str, domains: list[str]) -> None:
    assert read_address(Service.PROVENA, text) == [{"domain": domain} for domain in domains]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8001", "https://f3-data-api.dev.example.org", "https://provena.example.org:8443/data"]
)
def test_a_provena_with_other_host_names_is_known_by_its_data_api(url: str) -> None:
    assert read_address(Service.PROVENA, f"{url}/") == [{"data": url}]


@pytest.mark.parametrize(
    ("service", "text", "sentence"),
    [
        (Service.PROVENA, "not a domain", "is not a host name"),
        (Service.PROVENA, "localhost", "has a dot"),
        (Service.DOTSTAT, "http://nsi.example.org", "in the clear"),
        (Service.DOTSTAT, "ftp://nsi.example.org", "starts with https://"),
        (Service.OTHER, "https://me:pw@api.example.org", "must not hold a user or password"),
    ],
)
def test_an_address_that_cannot_be_is_refused_in_a_sentence(service: Service, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_address(service, text)


def test_a_host_alone_is_taken_for_https() -> None:
    assert read_address(Service.DOTSTAT, "nsi.example.org/rest/") == [{"nsi": "https://nsi.example.org/rest"}]


@pytest.mark.parametrize(
    ("text", "issuers"),
    [
        ("https://login.example.org/", ["https://login.example.org/"]),
        (
            "https://kc.example.org/realms/x",
            ["https://kc.example.org/realms/x", "https://kc.example.org/auth/realms/x"],
        ),
        (
            "https://kc.example.org/auth/realms/x/protocol/openid-connect/auth?client_id=app#/",
            ["https://kc.example.org/auth/realms/x", "https://kc.example.org/realms/x"],
        ),
        ("https://login.example.org/t/.well-known/openid-configuration", ["https://login.example.org/t"]),
    ],
)
def test_an_issuer_is_found_by_any_url_of_it(text: str, issuers: list[str]) -> None:
    assert read_issuer(DOTSTAT, text) == [{"issuer": issuer} for issuer in issuers]


def test_a_realm_is_enough_where_the_domain_says_the_rest() -> None:
    assert read_issuer(PROVENA, "rrap") == [{"realm": "rrap"}]
    assert PROVENA.issuer_url == "https://auth.mds.example.org/auth/realms/rrap"
    with pytest.raises(ValueError, match="plain name"):
        read_issuer(PROVENA, "rr ap")


@pytest.mark.parametrize("text", ["", "  ", "a\nb"])
def test_a_client_has_a_name(text: str) -> None:
    with pytest.raises(ValueError, match="has a name"):
        read_client(text)


@pytest.mark.parametrize("text", ["0", "65536", "x", "-1", "99999999999"])
def test_a_port_is_a_port(text: str) -> None:
    with pytest.raises(ValueError, match="from 1 to 65535"):
        read_port(text)


# Writing -------------------------------------------------------------------------------------------------------------


def settings_of(answers: Answers, tmp_path: Path, *, is_everything_on: bool = False) -> str:
    """Load the file and return what it comes to."""
    text = written(answers)
    if is_everything_on:
        (tmp_path / "office-ca.pem").write_text("")
        text = re.sub(r"(?m)^#(?=\w+ = )", "", text)
    file = tmp_path / "proxy.toml"
    file.write_text(text, "utf-8")
    return load(file, {}).show()


@EACH
def test_the_file_says_what_was_answered(answers: Answers, tmp_path: Path) -> None:
    shown = settings_of(answers, tmp_path)

    assert answers.issuer_url in shown
    assert f'client_id = "{answers.client_id}"' in shown
    assert f'mount = "{answers.mount}"' in shown


@EACH
def test_each_setting_that_is_switched_off_can_be_switched_on(answers: Answers, tmp_path: Path) -> None:
    text = written(answers)
    off = re.findall(r"(?m)^#(\w+) = ", text)

    assert {"on_sign_in", "proxy", "ca_file", "port"} <= set(off)
    assert settings_of(answers, tmp_path, is_everything_on=True)


@EACH
def test_every_line_of_the_file_is_explained(answers: Answers) -> None:
    """No table begins without a sentence about it."""
    lines = written(replace(answers, of_service={"proxy": "env"}, of_issuer={"proxy": "none"})).splitlines()
    bare = [line for before, line in itertools.pairwise(lines) if line.startswith("[") and before[:2] != "# "]

    assert bare == []


def test_no_answer_reaches_beyond_its_own_line(tmp_path: Path) -> None:
    shown = settings_of(replace(OTHER, client_id='"\\ # [server] é'), tmp_path)

    assert 'client_id = "\\"\\\\ # [server] é"' in shown


def test_the_client_of_the_preset_is_not_repeated_but_shown() -> None:
    assert '\n#client_id = "client-tools"\n' in written(PROVENA)
    assert '\nclient_id = "mcp-client"\n' in written(replace(PROVENA, client_id="mcp-client"))


def test_the_service_account_s_secret_is_named_and_not_written(tmp_path: Path) -> None:
    answers = replace(DOTSTAT, grant=Grant.CLIENT_CREDENTIALS, client_secret="env:DOTSTAT_CLIENT_SECRET")
    file = tmp_path / "proxy.toml"
    file.write_text(written(answers), "utf-8")

    assert load(file, {"DOTSTAT_CLIENT_SECRET": "canary"}).identities["dotstat"].grant is Grant.CLIENT_CREDENTIALS
    assert "canary" not in written(answers)


@EACH
def test_what_is_true_of_one_host_alone_is_said_of_it_alone(answers: Answers, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    apart = replace(answers, of_service={"ca_file": str(tmp_path / "ca.pem")}, of_issuer={"proxy": "http://p:3128"})
    file = tmp_path / "proxy.toml"
    file.write_text(written(apart), "utf-8")
    configuration = load(file, {})

    assert {one.network for one in configuration.upstreams} == {Network(ca_file=str(tmp_path / "ca.pem"))}
    assert configuration.identities[answers.name].network == Network(proxy="http://p:3128")


# Surroundings --------------------------------------------------------------------------------------------------------

DATA = "https://data.example.org/api"
WEB_PROXY = "http://ann:secret@proxy.example.org:3128"


@pytest.mark.parametrize(
    ("environ", "system", "setting"),
    [
        ({}, {}, None),
        ({"https_proxy": WEB_PROXY}, {}, "env"),
        ({"HTTPS_PROXY": WEB_PROXY, "NO_PROXY": "localhost"}, {}, "env"),
        ({"all_proxy": WEB_PROXY}, {}, "env"),
        ({"https_proxy": WEB_PROXY, "no_proxy": "example.org"}, {"https": "http://other:1"}, None),
        ({"all_proxy": "socks5://proxy.example.org"}, {}, None),
        ({"http_proxy": WEB_PROXY}, {}, None),
        ({}, {"https": "http://proxy.example.org:3128"}, "http://proxy.example.org:3128"),
        ({}, {"https": "socks://proxy.example.org"}, None),
    ],
)
def test_a_company_s_web_proxy_is_found(environ: dict[str, str], system: dict[str, str], setting: str | None) -> None:
    found = Surroundings(environ, system).outbound(DATA)

    assert (None if found is None else found.setting) == setting


def test_this_machine_is_reached_directly() -> None:
    assert Surroundings({"https_proxy": WEB_PROXY}, {"http": WEB_PROXY}).outbound("http://127.0.0.1:8001") is None


def test_the_password_of_a_web_proxy_is_not_shown() -> None:
    found = Surroundings({"https_proxy": WEB_PROXY}, {}).outbound(DATA)

    assert found is not None
    assert found.shown == "http://proxy.example.org:3128"


def test_authorities_that_other_tools_trust_are_found_once(tmp_path: Path) -> None:
    office = tmp_path / "office.pem"
    office.write_text("")
    environ = {"REQUESTS_CA_BUNDLE": str(office), "SSL_CERT_FILE": str(office), "CURL_CA_BUNDLE": "nowhere.pem"}

    assert Surroundings(environ, {}).authorities() == [("SSL_CERT_FILE", str(office))]


class LedAstray(Surroundings):
    """A machine that names a web proxy where none is."""

    def outbound(self, text: str) -> Outbound | None:
        return Outbound("env", f"http://127.0.0.1:{free_port()}", "your environment")


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


async def test_a_web_proxy_that_leads_nowhere_is_left_out_and_named(listening: int) -> None:
    way = await way_to(f"http://127.0.0.1:{listening}", LedAstray({}, {}))

    assert way.proxy == "none"
    assert "does not lead there, the direct way does" in way.notes[0]


async def test_a_host_that_no_way_leads_to_is_a_sentence() -> None:
    with pytest.raises(Failed, match=r"cannot be reached: Connection refused\."):
        await way_to(f"http://127.0.0.1:{free_port()}", LedAstray({}, {}))


# Who vouches for hosts -----------------------------------------------------------------------------------------------

UNKNOWN = 20  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
SERVICE, ISSUER = "https://nsi.example.org", "https://kc.example.org/realms/x"


def machine(signers: Mapping[str, str], folder: Path, **files: Sequence[str]) -> Surroundings:
    """Return a machine that trusts `System CA`; `files` are variables that name a file with these authorities."""
    for variable, authorities in files.items():
        (folder / variable).write_text(",".join(authorities))

    def look(host: Host) -> Shown:
        trusted = Path(host.network.ca_file).read_text() if host.network.ca_file else "System CA"
        signer = signers[host.name]
        return Shown(signer) if signer in trusted.split(",") else Shown(signer, UNKNOWN, "no issuer certificate")

    return Surroundings({variable: str(folder / variable) for variable in files}, {}, look)


async def network_of(around: Surroundings) -> Answers:
    return await settled(DOTSTAT, await way_to(SERVICE, around), await way_to(ISSUER, around), around)


async def test_an_authority_that_the_system_trusts_needs_no_setting_and_is_named(tmp_path: Path) -> None:
    way = await way_to(SERVICE, machine({"nsi.example.org": "System CA"}, tmp_path))

    assert (way.proxy, way.ca_file) == (None, None)
    assert way.notes == ("Its certificate is signed by System CA.",)


async def test_a_program_that_opens_tls_is_told_of_though_it_is_trusted() -> None:
    way = await way_to(SERVICE, Surroundings({}, {}, lambda _: Shown("Zscaler Root CA")))

    assert "TLS is opened on the way and signed by Zscaler Root CA" in way.notes[0]


async def test_an_authority_of_both_hosts_is_said_once(tmp_path: Path) -> None:
    signers = {"nsi.example.org": "Office CA", "kc.example.org": "Office CA"}
    answers = await network_of(machine(signers, tmp_path, SSL_CERT_FILE=["Office CA"]))

    assert answers.network == {"ca_file": str(tmp_path / "SSL_CERT_FILE")}
    assert (answers.of_service, answers.of_issuer) == ({}, {})
    assert answers.notes == (f"SSL_CERT_FILE names {tmp_path / 'SSL_CERT_FILE'}.",)


async def test_a_bundle_that_holds_the_public_authorities_too_is_good_for_both(tmp_path: Path) -> None:
    signers = {"nsi.example.org": "Office CA", "kc.example.org": "System CA"}
    answers = await network_of(machine(signers, tmp_path, SSL_CERT_FILE=["System CA", "Office CA"]))

    assert answers.network == {"ca_file": str(tmp_path / "SSL_CERT_FILE")}


async def test_an_authority_of_one_host_is_not_asked_to_vouch_for_the_other(tmp_path: Path) -> None:
    signers = {"nsi.example.org": "Office CA", "kc.example.org": "System CA"}
    answers = await network_of(machine(signers, tmp_path, SSL_CERT_FILE=["Office CA"]))

    assert (answers.network, answers.of_issuer) == ({}, {})
    assert answers.of_service == {"ca_file": str(tmp_path / "SSL_CERT_FILE")}


async def test_two_authorities_are_found_in_two_files(tmp_path: Path) -> None:
    signers = {"nsi.example.org": "Data CA", "kc.example.org": "Login CA"}
    answers = await network_of(machine(signers, tmp_path, SSL_CERT_FILE=["Data CA"], CURL_CA_BUNDLE=["Login CA"]))

    assert answers.of_service == {"ca_file": str(tmp_path / "SSL_CERT_FILE")}
    assert answers.of_issuer == {"ca_file": str(tmp_path / "CURL_CA_BUNDLE")}


async def test_an_authority_that_no_file_holds_is_a_sentence_with_its_cure(tmp_path: Path) -> None:
    around = machine({"nsi.example.org": "Strange CA"}, tmp_path, SSL_CERT_FILE=["Office CA"])

    with pytest.raises(Failed, match=r"signed by Strange CA, which is not trusted here .* ca_file to it\."):
        await way_to(SERVICE, around)
