"""Presets: what two lines about a deployment come to."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.config import Configuration, load
from proxy.errors import BadRequest, ConfigError, NotAllowed
from proxy.identities import Grant
from proxy.secret_refs import Secret
from proxy.upstreams import Match, Upstream, judge

PROVENA = """
[provena]
domain = "mds.example.org"
realm = "rrap"
"""
LACKS = [f"[provena] {key}: is missing, such as" for key in ("domain", "realm")]
DOTSTAT = """
[dotstat]
issuer = "https://keycloak.example.org/auth/realms/OECD"
client_id = "stat-suite"
nsi = "https://nsi.example.org"
"""


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, text: str, environ: Mapping[str, str] | None = None) -> Configuration:
        file = self.path / "proxy.toml"
        file.write_text(text, encoding="utf-8")
        return load(file, environ or {})

    def mistakes(self, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load(text, environ)
        return [str(one).replace(f"{self.path}/", "") for one in caught.value.mistakes]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def urls(configuration: Configuration) -> dict[str, str]:
    return {upstream.mount: upstream.url for upstream in configuration.upstreams}


def named(configuration: Configuration, name: str) -> Upstream:
    return next(upstream for upstream in configuration.upstreams if upstream.name == name)


def is_relayed(upstream: Upstream, method: str, path: str) -> bool:
    try:
        judge(Match(upstream, upstream.mount.encode(), path.encode(), b""), method)
    except (NotAllowed, BadRequest):
        return False
    return True


# ---- Provena


def test_provena_is_one_identity_and_an_upstream_for_each_service(folder: Folder) -> None:
    configuration = folder.load(PROVENA)
    identity = configuration.identities["provena"]

    assert list(configuration.identities) == ["provena"]
    assert urls(configuration) == {
        "/provena/data": "https://data-api.mds.example.org",
        "/provena/registry": "https://registry-api.mds.example.org",
        "/provena/prov": "https://prov-api.mds.example.org",
        "/provena/search": "https://search.mds.example.org",
        "/provena/auth": "https://auth-api.mds.example.org",
        "/provena/handle": "https://handle.mds.example.org",
        "/provena/job": "https://job-api.mds.example.org",
    }
    assert [one.name for one in configuration.upstreams][:2] == ["provena_data", "provena_registry"]
    assert {one.identity for one in configuration.upstreams} == {"provena"}
    assert identity.issuer == "https://auth.mds.example.org/auth/realms/rrap"
    assert (identity.client_id, identity.grant, identity.scope) == ("client-tools", Grant.DEVICE_CODE, None)
    assert (identity.offline_client_id, identity.offline_scope) == ("automated-access", "roles offline_access")


def test_offline_makes_the_offline_client_the_ordinary_one(folder: Folder) -> None:
    identity = folder.load(PROVENA + "offline = true").identities["provena"]

    assert (identity.client_id, identity.scope) == ("automated-access", "roles offline_access")
    assert identity.grant is Grant.DEVICE_CODE


def test_a_client_of_ones_own_wins(folder: Folder) -> None:
    identity = folder.load(PROVENA + 'offline = true\nclient_id = "mcp-client"\nscope = "roles"').identities["provena"]

    assert (identity.client_id, identity.scope) == ("mcp-client", "roles")


def test_each_provena_url_can_be_replaced(folder: Folder) -> None:
    configuration = folder.load(
        PROVENA + 'issuer = "https://id.example.org/realms/x"\ndata = "https://f7-data-api.dev.example.org/v1/"'
    )

    assert configuration.identities["provena"].issuer == "https://id.example.org/realms/x"
    assert urls(configuration)["/provena/data"] == "https://f7-data-api.dev.example.org/v1"
    assert urls(configuration)["/provena/job"] == "https://job-api.mds.example.org"


def test_without_a_domain_there_are_the_services_that_have_a_url(folder: Folder) -> None:
    text = '[provena]\nissuer = "http://127.0.0.1:1/realms/x"\ndata = "http://127.0.0.1:2"'

    assert urls(folder.load(text)) == {"/provena/data": "http://127.0.0.1:2"}


def test_a_named_preset_has_its_own_name_everywhere(folder: Folder) -> None:
    configuration = folder.load(PROVENA + PROVENA.replace("[provena]", "[provena.stage]").replace("mds.", "stage."))

    assert list(configuration.identities) == ["provena", "stage"]
    assert named(configuration, "stage_data").mount == "/stage/data"
    assert named(configuration, "stage_data").identity == "stage"
    assert named(configuration, "stage_data").host == "data-api.stage.example.org"


def test_named_presets_alone_make_no_nameless_one(folder: Folder) -> None:
    assert list(folder.load(PROVENA.replace("[provena]", "[provena.stage]")).identities) == ["stage"]


def test_a_preset_can_come_from_the_environment(folder: Folder) -> None:
    environ = {
        "BEARERPROXY_PROVENA__REALM": "other",
        "BEARERPROXY_PROVENA__STAGE__DOMAIN": "stage.example.org",
        "BEARERPROXY_PROVENA__STAGE__REALM": "rrap",
        "BEARERPROXY_PROVENA__STAGE__OFFLINE": "true",
    }
    identities = folder.load(PROVENA, environ).identities

    assert identities["provena"].issuer == "https://auth.mds.example.org/auth/realms/other"
    assert identities["stage"].client_id == "automated-access"


def test_a_table_overrides_single_keys_of_the_expansion(folder: Folder) -> None:
    configuration = folder.load(
        PROVENA
        + '[upstream.provena_data]\nmount = "/data"\nread_only = true\nheaders = { X-A = "b" }'
        + '\n[identity.provena]\nextra = { audience = "x" }',
        {"BEARERPROXY_UPSTREAM__PROVENA_DATA__IDLE_TIMEOUT": "5"},
    )
    upstream = named(configuration, "provena_data")

    assert (upstream.mount, upstream.read_only, upstream.idle_timeout) == ("/data", True, 5)
    assert (upstream.host, upstream.identity) == ("data-api.mds.example.org", "provena")
    assert "/check-access/" in upstream.deny
    assert configuration.identities["provena"].extra == (("audience", "x"),)
    assert configuration.identities["provena"].client_id == "client-tools"


def test_the_mount_of_all_services_can_be_replaced(folder: Folder) -> None:
    assert "/rrap/v1/data" in urls(folder.load(PROVENA + 'mount = "/rrap/v1"'))


@pytest.mark.parametrize("mount", ["/provena/datasets", "/provena/datasets/more"])
def test_the_place_of_the_datasets_is_reserved(folder: Folder, mount: str) -> None:
    (found,) = folder.mistakes(PROVENA + f'[upstream.x]\nurl = "https://a.org"\nanonymous = true\nmount = "{mount}"')

    assert found == "proxy.toml: [upstream.x] mount: /provena/datasets is reserved; use another, such as /x"


@pytest.mark.parametrize(
    ("service", "path", "is_let"),
    [
        ("data", "/check-access/check-general-access", False),
        ("data", "/CHECK-ACCESS/public", False),
        ("data", "//check%2Daccess;x/check-read-access", False),
        ("data", "/check-accessories", True),
        ("job", "/check-access/check-admin-access", False),
        ("auth", "/check-access/general", False),
        ("auth", "/check-access/check-write-access", False),
        ("auth", "/check-access/public", True),
        ("data", "/registry/credentials/generate-write-access-credentials", False),
        ("data", "/Registry/credentials//generate-write%2daccess-credentials/", False),
        ("data", "/registry/credentials/generate-read-access-credentials", True),
    ],
)
def test_routes_that_give_credentials_away_are_denied(folder: Folder, service: str, path: str, is_let: bool) -> None:
    """S30."""
    assert is_relayed(named(folder.load(PROVENA), f"provena_{service}"), "GET", path) is is_let


@pytest.mark.parametrize(
    ("service", "path", "is_let"),
    [
        ("data", "/registry/items/list", True),
        ("data", "/registry/items/generate-presigned-url", True),
        ("data", "/registry/credentials/generate-read-access-credentials", False),
        ("data", "/register/mint-dataset", False),
        ("registry", "/registry/entity/model/list", True),
        ("registry", "/registry/general/list", True),
        ("registry", "/registry/entity/model/create", False),
        ("registry", "/registry/general/delete", False),
        ("prov", "/model_run/register", False),
        ("job", "/jobs/user/list_batch", True),
    ],
)
def test_read_only_lets_the_posts_that_read_through(folder: Folder, service: str, path: str, is_let: bool) -> None:
    upstream = named(folder.load(PROVENA + f"[upstream.provena_{service}]\nread_only = true"), f"provena_{service}")

    assert is_relayed(upstream, "POST", path) is is_let
    assert is_relayed(upstream, "GET", path)
    assert not is_relayed(upstream, "DELETE", path)


# ---- Tokens of existing tools


@pytest.mark.parametrize("variable", ["PROVENA_API_TOKEN", "PROVENA_OFFLINE_TOKEN", "RRAP_OFFLINE_TOKEN"])
def test_a_token_of_existing_tools_seeds_the_sole_preset(folder: Folder, variable: str) -> None:
    configuration = folder.load(PROVENA + DOTSTAT, {variable: "secret"})
    identity = configuration.identities["provena"]

    assert identity.refresh_token == Secret.parse(f"env:{variable}")
    assert (identity.client_id, identity.grant, identity.scope) == ("automated-access", Grant.REFRESH_TOKEN, None)
    assert configuration.identities["dotstat"].refresh_token is None
    assert configuration.warnings == ()


def test_the_first_variable_that_is_set_counts(folder: Folder) -> None:
    environ = {"PROVENA_API_TOKEN": "", "PROVENA_OFFLINE_TOKEN": "a", "RRAP_OFFLINE_TOKEN": "b"}
    token = folder.load(PROVENA, environ).identities["provena"].refresh_token

    assert token == Secret.parse("env:PROVENA_OFFLINE_TOKEN")


def test_a_configured_token_wins_over_the_variable(folder: Folder) -> None:
    text = PROVENA + 'refresh_token = "env:MINE"'
    token = folder.load(text, {"PROVENA_API_TOKEN": "a", "MINE": "b"}).identities["provena"].refresh_token

    assert token == Secret.parse("env:MINE")


def test_with_several_presets_the_mistake_names_the_key(folder: Folder) -> None:
    text = PROVENA + PROVENA.replace("[provena]", "[provena.stage]")
    environ = {"PROVENA_API_TOKEN": "a"}

    (found,) = folder.mistakes(text, environ)
    assert found.startswith("PROVENA_API_TOKEN: is set, but there are 2 Provena presets; write ")
    assert found.endswith('refresh_token = "env:PROVENA_API_TOKEN" under [provena] or [provena.stage]')
    followed = folder.load(text + 'refresh_token = "env:PROVENA_API_TOKEN"', environ)
    assert followed.identities["stage"].grant is Grant.REFRESH_TOKEN
    assert followed.identities["provena"].grant is Grant.DEVICE_CODE


def test_without_a_provena_preset_the_variables_mean_nothing(folder: Folder) -> None:
    assert folder.load(DOTSTAT, {"PROVENA_API_TOKEN": "a"}).identities["dotstat"].refresh_token is None


def test_a_secrets_file_seeds_a_preset(folder: Folder) -> None:
    (folder.path / "secrets").mkdir()
    (folder.path / "secrets/provena__refresh_token").write_text("offline\n")
    identity = folder.load(PROVENA, {"BEARERPROXY_SECRETS_DIR": str(folder.path / "secrets")}).identities["provena"]

    assert identity.refresh_token == Secret.parse("offline")
    assert identity.client_id == "automated-access"


# ---- .Stat Suite


def test_dotstat_has_the_services_that_are_given(folder: Folder) -> None:
    text = DOTSTAT + 'transfer = "https://transfer.example.org/2"\nauthorization = "https://am.example.org/1.1"'

    assert list(urls(folder.load(DOTSTAT))) == ["/dotstat/rest", "/dotstat/csv"]
    assert urls(folder.load(text)) == {
        "/dotstat/rest": "https://nsi.example.org/rest",
        "/dotstat/csv": "https://nsi.example.org/rest",
        "/dotstat/transfer": "https://transfer.example.org/2",
        "/dotstat/authorization": "https://am.example.org/1.1",
    }


@pytest.mark.parametrize(
    ("nsi", "rest"),
    [
        ("https://nsi.example.org", "https://nsi.example.org/rest"),
        ("https://nsi.example.org/", "https://nsi.example.org/rest"),
        ("https://nsi.example.org/rest", "https://nsi.example.org/rest"),
        ("https://nsi.example.org/public/rest/", "https://nsi.example.org/public/rest"),
        ("https://nsi.example.org/public/rest/v2", "https://nsi.example.org/public/rest/v2"),
        ("https://nsi.example.org/SDMXWS", "https://nsi.example.org/SDMXWS/rest"),
        ("https://rest.example.org", "https://rest.example.org/rest"),
    ],
)
def test_rest_is_added_where_it_is_missing(folder: Folder, nsi: str, rest: str) -> None:
    configuration = folder.load(DOTSTAT.replace("https://nsi.example.org", nsi))

    assert urls(configuration)["/dotstat/rest"] == rest
    assert urls(configuration)["/dotstat/csv"] == rest


def test_csv_asks_for_csv_and_drops_the_suffix(folder: Folder) -> None:
    configuration = folder.load(DOTSTAT)
    rest, csv = named(configuration, "dotstat_rest"), named(configuration, "dotstat_csv")

    assert (csv.token_fault, rest.token_fault) == (None, None)
    assert (csv.accept, csv.drops_csv_suffix) == ("application/vnd.sdmx.data+csv", True)
    assert (rest.accept, rest.drops_csv_suffix) == (None, False)


def test_dotstat_takes_every_grant(folder: Folder) -> None:
    identity = folder.load(
        DOTSTAT + 'grant = "password"\nclient_secret = "env:A"\nusername = "u"\npassword = "env:A"\n'
        'scope = "openid"\nextra = { resource = "r" }',
        {"A": "x"},
    ).identities["dotstat"]

    assert (identity.grant, identity.username, identity.scope) == (Grant.PASSWORD, "u", "openid")
    assert identity.client_secret == identity.password == Secret.parse("env:A")
    assert identity.extra == (("resource", "r"),)
    assert folder.load(DOTSTAT).identities["dotstat"].grant is Grant.DEVICE_CODE


def test_long_keys_are_read_by_post(folder: Folder) -> None:
    upstream = named(folder.load(DOTSTAT + "[upstream.dotstat_rest]\nread_only = true"), "dotstat_rest")

    assert is_relayed(upstream, "POST", "/data/OECD,DF@X,1.0/body")
    assert not is_relayed(upstream, "POST", "/structure")


def test_a_named_dotstat_is_beside_the_others(folder: Folder) -> None:
    configuration = folder.load(PROVENA + DOTSTAT + DOTSTAT.replace("[dotstat]", "[dotstat.design]"))

    assert list(configuration.identities) == ["provena", "dotstat", "design"]
    assert named(configuration, "design_csv").mount == "/design/csv"


# ---- Mistakes


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ('[provena]\nrealm = "r"', ["[provena] domain: is missing, such as mds.gbrrestoration.org"]),
        ('[provena]\ndomain = "a.org"', ["[provena] realm: is missing, such as rrap"]),
        ('[provena]\ndomain = "https://a.org"\nrealm = "r"', ["[provena] domain: must be a host name"]),
        (PROVENA + 'dta = "x"', ["[provena] dta: is no known key; did you mean data?"]),
        (PROVENA + 'data = "x"', ["[provena] data: must be a URL that starts with https:// or http://"]),
        ("[provena.data]\nx = 1", ["[provena] data: must be text in quotes", *LACKS]),
        ('[provena.Reef]\ndomain = "a.org"\nrealm = "r"', ["[provena.Reef]: is no name"]),
        ("provena = 1", ["[provena]: must be a table"]),
        (PROVENA + '[upstream.provena_data]\nurll = "x"', ["[upstream.provena_data] urll: is no known key"]),
        (PROVENA + "[upstream.provena_dta]", ["[upstream.provena_dta] url: is", "[upstream.provena_dta] identity: is"]),
        (PROVENA + 'refresh_token = "env:NOT_THERE"', ["[provena] refresh_token: the variable NOT_THERE is not set"]),
        (DOTSTAT + PROVENA.replace("[provena]", "[provena.dotstat]"), ["[dotstat]: makes an identity"]),
        ('[dotstat]\nnsi = "https://a.org"', ["[dotstat] issuer: is missing", "[dotstat] client_id: is missing"]),
        (DOTSTAT + 'grant = "client_credentials"', ["[dotstat] client_secret: is missing, which grant"]),
        (DOTSTAT.replace("https://nsi", "http://nsi"), ["[dotstat] nsi: http:// would send"]),
        (DOTSTAT + 'mount = "/"', ["[dotstat] mount: must be a path below /"]),
        (DOTSTAT + '[upstream.dotstat_csv]\nmount = "/dotstat/rest"', ["[upstream.dotstat_csv] mount: /dotstat/rest"]),
    ],
)  # fmt: skip
def test_a_mistake_about_a_preset_names_what_was_written(folder: Folder, text: str, mistakes: list[str]) -> None:
    found = folder.mistakes(text + ("\n" + DOTSTAT if "[" not in text else ""))

    assert len(found) == len(mistakes)
    for one, start in zip(found, mistakes, strict=True):
        assert one.startswith(f"proxy.toml: {start}")


def test_a_literal_secret_of_a_preset_is_warned_about(folder: Folder) -> None:
    (warning,) = folder.load(DOTSTAT + 'client_secret = "x"').warnings

    assert "[dotstat] client_secret: holds the secret itself" in warning


def test_each_service_has_a_path_that_asks_for_a_token(tmp_path: Path) -> None:
    """But for those without any such GET: `doctor` tries the sign-in there."""
    file = tmp_path / "proxy.toml"
    file.write_text(
        '[provena]\ndomain = "example.org"\nrealm = "x"\n'
        '[dotstat]\nissuer = "https://kc.example.org"\nclient_id = "c"\nnsi = "https://nsi.example.org"\n'
        'transfer = "https://transfer.example.org/2"\n'
    )
    probes = {one.name: one.probe for one in load(file, {}).upstreams}

    assert [name for name, probe in probes.items() if probe is None] == ["dotstat_transfer"]
    assert probes["provena_data"] == "/registry/items/fetch-dataset"
