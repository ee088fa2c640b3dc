"""The configuration: where settings come from, what they may hold, and all mistakes at once."""

import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.config import Configuration, default_path, json_schema, load
from proxy.config.models import RESERVED, ConfigurationFile, IdentityTable, ServerTable, Table, UpstreamTable
from proxy.errors import ConfigError
from proxy.identities import Grant
from proxy.secret_refs import Secret
from proxy.upstreams import Upstream

CANARY = "canary-81f2"
LISTEN = 'must be a port from 0 to 65535 or "host:port", such as 8411 or "127.0.0.1:8411"'
ME = """
[identity.me]
issuer = "https://auth.example.org/realms/x"
client_id = "tools"
"""
DATA = """
[upstream.data]
url = "https://data.example.org/api"
identity = "me"
"""
OPEN = """
[upstream.open]
url = "https://open.example.org"
anonymous = true
"""


class Files:
    """A folder for configuration files and secrets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, text: str, name: str = "proxy.toml") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def load(
        self, text: str, environ: Mapping[str, str] | None = None, overrides: Mapping[str, object] | None = None
    ) -> Configuration:
        return load(self.write(text), environ or {}, overrides=overrides or {})

    def mistakes(self, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
        """Return the mistakes, without the folder's name."""
        with pytest.raises(ConfigError) as caught:
            self.load(text, environ)
        return [str(one).replace(f"{self.folder}/", "") for one in caught.value.mistakes]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def only(configuration: Configuration) -> Upstream:
    (upstream,) = configuration.upstreams
    return upstream


# ---- Sources


def test_defaults_are_those_of_the_manual(files: Files) -> None:
    configuration = files.load(ME + DATA)
    server, upstream = configuration.server, only(configuration)

    assert (server.host, server.port, server.uds, server.api_key) == ("127.0.0.1", 8400, None, None)
    assert (server.allow_remote, server.trusted_network, server.allowed_hosts) == (False, False, ())
    assert (upstream.mount, upstream.connect_timeout, upstream.first_byte_timeout) == ("/data", 10, 1800)
    assert (upstream.idle_timeout, upstream.listen, upstream.network.tls_strict) == (300, None, True)
    assert (upstream.replay_limit, server.spool) == (256 << 20, None)
    assert upstream.passes_token_echo is False
    assert (upstream.total_timeout, upstream.max_requests) == (None, 500)
    assert (server.max_requests, server.drain_seconds) == (1000, 10)
    assert configuration.identities["me"].grant is Grant.DEVICE_CODE
    assert (configuration.log.level, configuration.log.format, configuration.log.access) == ("info", "auto", True)
    assert configuration.store.kind == "auto"
    assert configuration.warnings == ()


@pytest.mark.parametrize(
    ("said", "size"),
    [("0", 0), ("4096", 4096), ('"4096"', 4096), ('"10 MB"', 10_000_000), ('"1MiB"', 1 << 20), ('"1GiB"', 1 << 30)],
)
def test_a_size_is_a_number_or_has_a_unit(files: Files, said: str, size: int) -> None:
    assert only(files.load(f"{ME}{DATA}replay_limit = {said}\n")).replay_limit == size


def test_a_size_may_come_from_the_environment(files: Files) -> None:
    for said, size in (("4096", 4096), ("64KiB", 65536)):
        environ = {"BEARERPROXY_UPSTREAM__DATA__REPLAY_LIMIT": said}
        assert only(files.load(ME + DATA, environ)).replay_limit == size


def test_the_folder_of_the_spool_starts_at_the_file(files: Files, tmp_path: Path) -> None:
    configuration = files.load(f'{ME}{DATA}[server]\nspool = "kept"\n')

    assert configuration.server.spool == tmp_path / "kept"
    assert f'spool = "{tmp_path / "kept"}"' in configuration.show()


def test_a_url_is_taken_apart_once(files: Files) -> None:
    upstream = only(files.load(ME + DATA))

    assert (upstream.scheme, upstream.host, upstream.port, upstream.base_path) == (
        "https",
        "data.example.org",
        443,
        b"/api",
    )
    assert upstream.url == "https://data.example.org/api"


def test_the_command_line_wins_over_the_environment_over_secrets_over_the_file(files: Files) -> None:
    text = ME + DATA + '[server]\nhost = "127.0.0.4"\nport = 4\n[log]\nlevel = "error"\nformat = "text"'
    for name, value in {"server__host": "127.0.0.3", "server__port": "3", "log__level": "warning"}.items():
        files.write(f"{value}\n", f"secrets/{name}")
    environ = {
        "BEARERPROXY_SECRETS_DIR": str(files.folder / "secrets"),
        "BEARERPROXY_SERVER__HOST": "127.0.0.2",
        "BEARERPROXY_SERVER__PORT": "2",
    }

    configuration = files.load(text, environ, {"server.port": 1, "server": {"host": None}})

    assert configuration.server.port == 1
    assert configuration.server.host == "127.0.0.2"
    assert configuration.log.level == "warning"
    assert configuration.log.format == "text"


def test_the_file_that_is_named_must_be_there(files: Files) -> None:
    with pytest.raises(ConfigError, match=r"--config .*nowhere.toml: there is no such file; run `bearerproxy init`"):
        load(files.folder / "nowhere.toml", {})
    with pytest.raises(ConfigError, match=r"BEARERPROXY_CONFIG .*: is a folder"):
        load(None, {"BEARERPROXY_CONFIG": str(files.folder)})


def test_the_option_wins_over_the_variable(files: Files) -> None:
    environ = {"BEARERPROXY_CONFIG": str(files.write("[broken", "other.toml"))}

    assert files.load(ME + DATA, environ).source == files.folder / "proxy.toml"


def test_the_variable_names_a_file(files: Files) -> None:
    path = files.write(ME + DATA)

    assert load(None, {"BEARERPROXY_CONFIG": str(path)}).source == path


def test_the_platform_folder_is_the_last_place(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_config_path", lambda *_, **__: files.folder)
    files.write(ME + DATA)

    assert default_path() == files.folder / "proxy.toml"
    assert load(None, {}).source == files.folder / "proxy.toml"


def test_the_working_folder_is_never_looked_at(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cloned repository must not be able to send somebody's token elsewhere."""
    monkeypatch.setattr("platformdirs.user_config_path", lambda *_, **__: files.folder / "empty")
    for name in ("proxy.toml", "bearerproxy.toml", ".env"):
        files.write(ME + DATA, f"clone/{name}")
    monkeypatch.chdir(files.folder / "clone")

    with pytest.raises(ConfigError, match="configures no identity and no upstream; run `bearerproxy init`") as caught:
        load(None, {})
    assert len(caught.value.mistakes) == 1


def test_the_environment_alone_may_configure(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_config_path", lambda *_, **__: files.folder)
    configuration = load(
        None,
        {
            "BEARERPROXY_IDENTITY__ME__ISSUER": "https://auth.example.org",
            "BEARERPROXY_IDENTITY__ME__CLIENT_ID": "tools",
            "BEARERPROXY_IDENTITY__ME__CLIENT_SECRET": "12345",
            "BEARERPROXY_IDENTITY__ME__EXTRA": '{"audience": "a", "resource": ["b", "c"]}',
            "BEARERPROXY_UPSTREAM__DATA__URL": "https://data.example.org",
            "BEARERPROXY_UPSTREAM__DATA__IDENTITY": "me",
            "BEARERPROXY_UPSTREAM__DATA__METHODS": "get, HEAD",
            "BEARERPROXY_UPSTREAM__DATA__DENY": '["/a,b"]',
            "BEARERPROXY_UPSTREAM__DATA__READ_ONLY": "true",
            "BEARERPROXY_UPSTREAM__DATA__LISTEN": "8411",
            "BEARERPROXY_UPSTREAM__DATA__IDLE_TIMEOUT": "1.5",
            "BEARERPROXY_UPSTREAM__DATA__HEADERS__X_API_KEY": "k",
        },
    )
    identity, upstream = configuration.identities["me"], only(configuration)

    assert configuration.source is None
    assert configuration.warnings == ()  # a literal is a fault in a file alone
    assert identity.client_secret == Secret.parse("12345")
    assert identity.extra == (("audience", "a"), ("resource", "b"), ("resource", "c"))
    assert upstream.methods == frozenset({"GET", "HEAD"})
    assert upstream.deny == ("/a,b",)
    assert (upstream.read_only, upstream.idle_timeout, upstream.listen) == (True, 1.5, ("127.0.0.1", 8411))
    assert upstream.headers == (("x-api-key", Secret.parse("k")),)


def test_an_environment_reference_is_understood_in_a_variable(files: Files) -> None:
    environ = {"BEARERPROXY_IDENTITY__ME__CLIENT_SECRET": "env:ELSEWHERE", "ELSEWHERE": CANARY}
    secret = files.load(ME + DATA, environ).identities["me"].client_secret

    assert secret is not None
    assert (secret.reference, secret.reveal()) == ("env:ELSEWHERE", CANARY)


def test_an_empty_variable_says_nothing(files: Files) -> None:
    assert files.load(ME + DATA, {"BEARERPROXY_SERVER__PORT": "", "BEARERPROXY_CONFIG": ""}).server.port == 8400


@pytest.mark.parametrize("name", ["identity__me__client_secret", "identity/me/client_secret"])
def test_what_a_secrets_file_holds_is_literal(files: Files, name: str) -> None:
    files.write("env:PATH\n", f"secrets/{name}")
    environ = {"BEARERPROXY_SECRETS_DIR": str(files.folder / "secrets")}

    configuration = files.load(ME + DATA, environ)

    assert configuration.identities["me"].client_secret == Secret.parse("env:PATH", literal=True)
    assert configuration.warnings == ()


def test_other_programs_secrets_are_left_alone(files: Files) -> None:
    secrets = files.folder / "secrets"
    for name in ("postgres_password", "server", "kubernetes.io/serviceaccount/token", "identity", "tls.key"):
        files.write("x", f"secrets/{name}") if name != "identity" else None
    (secrets / "binary").write_bytes(b"\xff\x00")

    assert files.load(ME + DATA, {"BEARERPROXY_SECRETS_DIR": str(secrets)}).server.port == 8400


def test_a_mistake_in_a_secrets_file_names_the_file(files: Files) -> None:
    path = files.write("x", "secrets/identity__me__clientsecret")
    (files.folder / "secrets/identity__me__password").write_bytes(b"\xff")
    found = files.mistakes(ME + DATA, {"BEARERPROXY_SECRETS_DIR": str(path.parent)})

    assert found == [
        "secrets/identity__me__password: must be UTF-8 text",
        "secrets/identity__me__clientsecret: is no known key; did you mean client_secret?",
    ]


def test_a_folder_that_is_none_of_secrets_is_refused(files: Files) -> None:
    (files.folder / "secrets").mkdir()
    for number in range(10_001):
        (files.folder / f"secrets/{number}").touch()
    (found,) = files.mistakes(ME + DATA, {"BEARERPROXY_SECRETS_DIR": str(files.folder / "secrets")})

    assert found.startswith("secrets: cannot be read as a folder of secrets: ")


def test_a_secrets_folder_that_is_named_must_be_there(files: Files) -> None:
    found = files.mistakes(ME + DATA, {"BEARERPROXY_SECRETS_DIR": "/no/such"})

    assert found == ["BEARERPROXY_SECRETS_DIR: names no folder: /no/such"]


@pytest.mark.parametrize(
    "name",
    ["BEARERPROXY_SERVICE_HOST", "BEARERPROXY_SERVICE_PORT_HTTP", "BEARERPROXY_PORT", "BEARERPROXY_PORT_8400_TCP_ADDR"],
)
def test_service_links_of_kubernetes_are_ignored(files: Files, name: str) -> None:
    assert files.load(ME + DATA, {name: "tcp://10.0.0.1:8400"}).server.port == 8400


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BEARERPROXY_SERVER_PORT", "BEARERPROXY_SERVER__PORT"),
        ("BEARERPROXY_UPSTREAM_DATA_URL", "BEARERPROXY_UPSTREAM__NAME__URL"),
        ("BEARERPROXY_CONFG", "BEARERPROXY_CONFIG"),
        ("BEARERPROXY_SECRET_DIR", "BEARERPROXY_SECRETS_DIR"),
        ("bearerproxy_server_port", "BEARERPROXY_SERVER__PORT"),
    ],
)
def test_an_unknown_variable_is_a_mistake_with_the_nearest_name(files: Files, name: str, meant: str) -> None:
    """S15."""
    assert files.mistakes(ME + DATA, {name: "1"}) == [f"{name}: is no variable of bearerproxy; did you mean {meant}?"]


def test_relative_paths_of_the_file_start_at_its_folder(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write("pem", "ca.pem")
    monkeypatch.chdir("/")
    text = '[network]\nca_file = "ca.pem"\n[store]\npath = "state"\n[server]\nuds = "p.sock"\n' + ME + DATA
    if sys.platform == "win32":
        text = text.replace('uds = "p.sock"', "")
    configuration = files.load(text)

    assert only(configuration).network.ca_file == str(files.folder / "ca.pem")
    assert configuration.identities["me"].network.ca_file == str(files.folder / "ca.pem")
    assert configuration.store.path == files.folder / "state"


def test_a_byte_order_mark_is_no_mistake(files: Files) -> None:
    assert files.load("\ufeff" + ME + DATA).server.port == 8400


# ---- Mistakes


def test_all_mistakes_are_told_at_once(files: Files) -> None:
    text = """
    [server]
    prot = 1
    port = 99999
    [identity.me]
    issuer = "https://auth.example.org?x"
    client_id = "a"
    grant = "device"
    [upstream.data]
    url = "https://data.example.org"
    identity = "mee"
    listen = "a:b:c"
    [upstream.more]
    url = "ftp://data.example.org"
    identity = "me"
    mount = "/data"
    """
    environ = {"BEARERPROXY_SERVER__HOTS": "x", "BEARERPROXY_SERVER_PORT": "1"}

    assert files.mistakes(text, environ) == [
        "BEARERPROXY_SERVER_PORT: is no variable of bearerproxy; did you mean BEARERPROXY_SERVER__PORT?",
        "proxy.toml: [server] port: must be a port from 0 to 65535",
        "proxy.toml: [server] prot: is no known key; did you mean port?",
        "BEARERPROXY_SERVER__HOTS: is no known key; did you mean host?",
        "proxy.toml: [identity.me] issuer: must be a base URL: nothing from a '?' or '#' on",
        f"proxy.toml: [identity.me] grant: must be one of {', '.join(Grant)}; did you mean device_code?",
        f"proxy.toml: [upstream.data] listen: {LISTEN}",
        "proxy.toml: [upstream.more] url: must be a URL that starts with https:// or http://",
        "proxy.toml: [upstream.data] identity: names no identity: mee; did you mean me?",
        "proxy.toml: [upstream.more] mount: /data is the mount of [upstream.data] already",
    ]


def test_a_mistyped_table_is_named_even_if_nothing_else_is_there(files: Files) -> None:
    found = files.mistakes("[identities.me]\n[server]\nport = true")

    assert found[0] == "proxy.toml: [identities]: is no known table; did you mean identity?"
    assert found[1] == "proxy.toml: [server] port: must be a number"
    assert found[2].startswith("proxy.toml: configures no identity and no upstream; run `bearerproxy init`")


def test_a_syntax_error_names_the_line(files: Files) -> None:
    assert files.mistakes("[server]\nport = = 1", {"BEARERPROXY_X": "1"}) == [
        "proxy.toml: line 2, column 8: is not valid TOML: Invalid value",
        "BEARERPROXY_X: is no variable of bearerproxy",
    ]


def test_a_file_that_is_no_text_is_said_to_be_so(files: Files) -> None:
    path = files.folder / "proxy.toml"
    path.write_bytes(b"\xff\xfe[\x00")

    with pytest.raises(ConfigError, match="must be UTF-8 text"):
        load(path, {})


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ('[serverr]\nport = 1"'.rstrip('"'), "[serverr]: is no known table; did you mean server?"),
        ("server = 1", "[server]: must be a table"),
        ("upstream = 1", "[upstream]: must be a table of tables"),
        ("[upstream]\nx = 1", "[upstream.x]: must be a table"),
        ('[server]\nport = "a"', "[server] port: must be a whole number"),
        ("[server]\nport = -1", "[server] port: must be a port from 0 to 65535"),
        ("[server]\nport = true", "[server] port: must be a number"),
        ('[server]\nhost = ""', "[server] host: must not be empty"),
        ('[server]\nhost = "a b"', "[server] host: is not a host name or an address"),
        ('[server]\nallow_remote = "maybe"', "[server] allow_remote: must be true or false"),
        ('[server]\nallowed_hosts = "a"', '[server] allowed_hosts: must be a list of texts, such as ["…"]'),
        (
            '[server]\nallowed_hosts = ["http://a"]',
            '[server] allowed_hosts: entries must be "name", "name:port" or "name:*", without a scheme',
        ),
        ('[server]\nallowed_hosts = ["a:0"]', "[server] allowed_hosts: has an entry whose port is not from 1 to 65535"),
        (
            '[server]\nallowed_origins = ["https://a.org/"]',
            "[server] allowed_origins: entries must be exact origins such as https://app.example.org, without a path",
        ),
        (
            '[server]\nallowed_origins = ["null"]',
            "[server] allowed_origins: entries must be exact origins such as https://app.example.org, without a path",
        ),
        ('[server]\napi_key = "env:NO_SUCH"', "[server] api_key: the variable NO_SUCH is not set"),
        ('[server]\napi_key = ""', "[server] api_key: is empty"),
        ('[server]\napi_key = "vault:x"', "[server] api_key: vault: wants a path below a mount and a key"),
        (
            '[store]\nkind = "files"',
            "[store] kind: must be one of auto, keyring, file, memory, redis; did you mean file?",
        ),
        ('[log]\nlevel = "INFO"', "[log] level: must be one of debug, info, warning, error; did you mean info?"),
        ("[store]\npath = 1", "[store] path: must be a path in quotes"),
        ('[network]\nproxy = "socks5://a"', '[network] proxy: must be "none", "env" or the URL of an HTTP proxy'),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_refused(files: Files, text: str, mistake: str) -> None:
    is_top = not text.startswith("[")  # what stands before the tables
    found = files.mistakes(text + "\n" + ME if is_top else ME + (DATA if "upstream" not in text else "") + text)

    assert len(found) == 1
    assert found[0].startswith(f"proxy.toml: {mistake}")


@pytest.mark.parametrize(
    ("lines", "mistake"),
    [
        ('url = "data.example.org"', "url: must be a URL that starts with https:// or http://"),
        ('url = "https://"', "url: must name a host, such as https://data.example.org"),
        ('url = "https://u:p@x.org"', "url: must not hold a user or password before the host"),
        ('url = "https://x.org?"', "url: must be a base URL: nothing from a '?' or '#' on"),
        ('url = "https://x.org/#a"', "url: must be a base URL: nothing from a '?' or '#' on"),
        ('url = "https://x.org:0"', "url: must have a port from 1 to 65535, or none"),
        ('url = "https://x.org:99999"', "url: must have a port from 1 to 65535, or none"),
        ('url = "https://x.org/a/../b"', "url: must not hold a '.' or '..' segment"),
        ('url = "https://x.org/%2E%2e/b"', "url: must not hold a '.' or '..' segment"),
        ('url = "https://x.org/ä"', "url: holds a character that a path may not hold; write it as %XX"),
        ('url = "https://x.org/a b"', "url: must be a URL without spaces and control characters"),
        ("url = 1", "url: must be text in quotes"),
        ('mount = "data"', "mount: must be a path such as /provena/data, of letters, digits and . _ ~ -"),
        ('mount = "/a/../b"', "mount: must be a path such as /provena/data, of letters, digits and . _ ~ -"),
        ('mount = "/a%20b"', "mount: must be a path such as /provena/data, of letters, digits and . _ ~ -"),
        ('mount = "/"', "mount: / is reserved for the status page; use another, such as /x"),
        ('mount = "/-"', "mount: /- is reserved for the status page; use another, such as /x"),
        ('mount = "/-/live"', "mount: /-/live is reserved for the status page; use another, such as /x"),
        ('mount = "/import"', "mount: /import contains 'import', which .Stat clients replace"),
        ('mount = "/sdmxFile"', "mount: /sdmxFile contains 'sdmxFile', which .Stat clients replace"),
        ('mount = "/my-excel"', "mount: /my-excel contains 'excel', which .Stat clients replace"),
        ('listen = "8411x"', 'listen: must be a port from 0 to 65535 or "host:port", such as 8411 or "127.0.0.1:8411"'),
        ("listen = 70000", 'listen: must be a port from 0 to 65535 or "host:port", such as 8411 or "127.0.0.1:8411"'),
        ("listen = 8400", "listen: 8400 is taken by [server] port already"),
        ('listen = "0.0.0.0:8411"', "listen: is reachable from other machines, which wants allow_remote = true and"),
        ("connect_timeout = 0", "connect_timeout: must be a positive number of seconds"),
        ("idle_timeout = inf", "idle_timeout: must be a positive number of seconds"),
        ("total_timeout = 0", "total_timeout: must be a positive number of seconds"),
        ("max_requests = 0", "max_requests: must be at least 1"),
        ('first_byte_timeout = "long"', "first_byte_timeout: must be a number"),
        ("replay_limit = -1", 'replay_limit: must be a number of bytes, such as 1048576 or "256MiB"'),
        ("replay_limit = 1.5", 'replay_limit: must be a number of bytes, such as 1048576 or "256MiB"'),
        ("replay_limit = true", 'replay_limit: must be a number of bytes, such as 1048576 or "256MiB"'),
        ('replay_limit = "256 megs"', 'replay_limit: must be a number of bytes, such as 1048576 or "256MiB"'),
        ('replay_limit = "2GiB"', "replay_limit: must be at most 1GiB, which is what the bodies of all requests"),
        ('methods = ["TRACE"]', "methods: must be among GET, HEAD, POST, PUT, PATCH, DELETE"),
        ('deny = ["x"]', "deny: must be a path that starts with '/', relative to the mount"),
        ("anonymous = true", "anonymous: contradicts identity; keep one of them"),
        ('identity = "you"', "identity: names no identity: you"),
        ('headers = { "a b" = "x" }', "headers.a b: is not a field name"),
        ('headers = { Host = "x" }', "headers.Host: is set by the proxy itself and cannot be configured"),
        ("headers = { X-A = 1 }", "headers.X-A: must be text"),
        ('headers = { X-A = "a\\nb" }', "headers.X-A: holds a character that a field value may not hold"),
        ('headers = { X-A = "aws-secretsmanager:x" }', "headers.X-A: is read for each request; use env: or file: here"),
        ('headers = { Authorization = "env:A" }', "headers.Authorization: may be set only with anonymous = true"),
        ('ca_file = "/no/such"', "ca_file: cannot be read: No such file or directory (/no/such)"),
        ('accept = ""', "accept: must not be empty"),
        ("timeout = 1", "timeout: is no known key; did you mean idle_timeout?"),
        ('url = "http://x.org"', "url: http:// would send the token in the clear; use https://"),
        ('url = "http://localhost:8400/x"', "url: points at this proxy itself ([server] port)"),
        ('url = "http://[::1]:8400"', "url: points at this proxy itself ([server] port)"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_upstream_is_told(files: Files, lines: str, mistake: str) -> None:
    keys = {"url": 'url = "https://x.org"', "identity": 'identity = "me"'}
    said = "\n".join([lines, *(line for key, line in keys.items() if not lines.startswith(key))])

    found = files.mistakes(f"{ME}[upstream.x]\n{said}", {"A": "b"})

    assert len(found) == 1
    assert found[0].startswith(f"proxy.toml: [upstream.x] {mistake}")


@pytest.mark.parametrize(
    ("lines", "mistakes"),
    [
        ('grant = "client_credentials"', ['client_secret: is missing, which grant = "client_credentials" needs']),
        (
            'grant = "password"',
            [f'{key}: is missing, which grant = "password" needs' for key in ("username", "password")],
        ),
        ('grant = "refresh_token"', ['refresh_token: is missing, which grant = "refresh_token" needs']),
        ('client_id = ""', ["client_id: must not be empty"]),
        ('issuer = "http://auth.example.org"', ["issuer: http:// would send secrets and tokens in the clear"]),
        ('extra = { grant_type = "x" }', ["extra.grant_type: has a key of its own or is set by the grant"]),
        ("extra = { a = 1 }", ['extra.a: must be text or a list of texts, such as ["…"]']),
        ("extra = 1", ['extra: must be text or a list of texts, such as ["…"]']),
        ('token_endpoint = "auth"', ["token_endpoint: must be a URL that starts with https:// or http://"]),
        ('password = "file:/no/such"', ["password: there is no file /no/such"]),
        ('proxy = "nobody"', None),
    ],
)  # fmt: skip
def test_a_mistake_in_an_identity_is_told(files: Files, lines: str, mistakes: list[str] | None) -> None:
    keys = {"issuer": 'issuer = "https://auth.example.org"', "client_id": 'client_id = "a"'}
    said = "\n".join([lines, *(line for key, line in keys.items() if not lines.startswith(key))])
    text = f"{OPEN}[identity.x]\n{said}"
    if mistakes is None:
        assert files.load(text).identities["x"].network.proxy == "http://nobody"
    else:
        found = files.mistakes(text)
        assert len(found) == len(mistakes)
        assert all(
            one.startswith(f"proxy.toml: [identity.x] {start}") for one, start in zip(found, mistakes, strict=True)
        )


def test_an_identity_needs_an_issuer_or_the_endpoints_of_its_grant(files: Files) -> None:
    text = OPEN + '[identity.x]\nclient_id = "a"\ntoken_endpoint = "https://a.org/token"'
    found = files.mistakes(text)

    assert found == [
        "proxy.toml: [identity.x] issuer: is missing, and so is device_authorization_endpoint; give one of them"
    ]
    assert (
        files.load(text + '\ngrant = "refresh_token"\nrefresh_token = "env:A"', {"A": "x"}).identities["x"].issuer
        is None
    )


@pytest.mark.parametrize("name", ["Data", "a-b", "1a", "a__b", "_a", "a_"])
def test_a_name_must_fit_into_a_variable(files: Files, name: str) -> None:
    (found,) = files.mistakes(ME + DATA + f'[upstream."{name}"]\nurl = "https://a.org"\nanonymous = true')

    assert found.startswith(f"proxy.toml: [upstream.{name}]: is no name: lower-case letters and digits")


def test_an_upstream_says_how_it_is_authenticated(files: Files) -> None:
    (found,) = files.mistakes(ME + '[upstream.x]\nurl = "https://a.org"')

    assert found == (
        "proxy.toml: [upstream.x] identity: is missing (there is me); or say anonymous = true, "
        "or headers for static keys"
    )


def test_cookies_are_dropped_unless_the_upstream_says_so(files: Files) -> None:
    passing = files.load(OPEN + 'cookies = "pass"')

    assert not only(files.load(OPEN)).passes_cookies
    assert only(passing).passes_cookies
    assert only(files.load(passing.show())).passes_cookies
    assert files.mistakes(OPEN + "cookies = true")[0].startswith("proxy.toml: [upstream.open] cookies: ")


def test_cookies_of_one_mount_may_not_reach_another_below_it(files: Files) -> None:
    """Callers send a cookie to all that stands below its path (RFC 6265 5.1.4, S31)."""
    above = OPEN + 'mount = "/x"\ncookies = "pass"\n'
    below = OPEN.replace("open]", "more]") + 'mount = "/x/more"\n'

    assert len(files.load(above + below).upstreams) == 2
    assert files.mistakes(above + below + 'cookies = "pass"') == [
        "proxy.toml: [upstream.more] cookies: would be sent those of [upstream.open], whose mount is above"
    ]


def test_two_upstreams_may_not_want_one_port(files: Files) -> None:
    text = OPEN + "listen = 8411\n" + OPEN.replace("open]", "more]") + 'listen = "[::1]:8411"'

    assert files.mistakes(text) == [
        "proxy.toml: [upstream.more] listen: 8411 is taken by [upstream.open] listen already"
    ]


@pytest.mark.parametrize(
    ("table", "key"), [(table, key) for table in ("server", "upstream") for key in sorted(RESERVED.get(table, ()))]
)
def test_reserved_keys_say_that_they_do_nothing_yet(files: Files, table: str, key: str) -> None:
    text = OPEN + (f"{key} = 1" if table == "upstream" else f"[server]\n{key} = 1")
    (found,) = files.mistakes(text)

    assert found.endswith(f"{key}: is not available in this version yet; remove it")


def test_datasets_are_served_for_each_provena_preset_but_those_that_leave_them_out(files: Files) -> None:
    preset = '[provena{}]\ndomain = "example.org"\nrealm = "x"\n'
    text = preset.format("") + preset.format(".stage") + preset.format(".bare") + "datasets = false\n"
    settings = files.load(text + '[datasets]\nconcurrency = 4\nendpoint = "https://s3.example.org/"').datasets

    assert settings.deployments == (("provena", "/provena/datasets"), ("stage", "/stage/datasets"))
    assert (settings.concurrency, settings.region, settings.endpoint) == (4, None, "https://s3.example.org")


def test_a_mistake_does_not_show_a_secret(files: Files) -> None:
    found = files.mistakes(ME + f'client_secret = ["{CANARY}"]\npassword = "file:{CANARY}"' + DATA)

    assert len(found) == 2
    assert CANARY not in found[0]


# ---- The bind rule


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "workstation", "fe80::1"])
def test_a_host_that_others_reach_is_opened_on_purpose(files: Files, host: str) -> None:
    """S9, A5."""
    text = OPEN + f'[server]\nhost = "{host}"\n'
    rule = ["allow_remote = true\n", 'allowed_hosts = ["proxy"]\n', 'api_key = "env:KEY"\n']
    for missing in rule:
        (found,) = files.mistakes(text + "".join(line for line in rule if line != missing), {"KEY": "x"})
        assert "is reachable from other machines, which wants" in found
        assert missing.partition(" =")[0] in found

    assert files.load(text + "".join(rule), {"KEY": "x"}).server.host == host


def test_a_trusted_network_stands_in_for_the_key_and_is_warned_about(files: Files) -> None:
    text = OPEN + '[server]\nhost = "0.0.0.0"\nallow_remote = true\nallowed_hosts = ["proxy"]\ntrusted_network = true'
    (warning,) = files.load(text).warnings

    assert "everybody who reaches this port uses your sign-ins" in warning


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "me.localhost"])
def test_loopback_needs_no_permission(files: Files, host: str) -> None:
    assert files.load(OPEN + f'[server]\nhost = "{host}"').server.host == host


def test_plain_http_is_for_this_machine_or_a_trusted_network(files: Files) -> None:
    """S27."""
    text = ME + DATA.replace("https://data.example.org", "http://data:5000")
    trusted = files.load(text + "[server]\ntrusted_network = true")
    local = files.load(ME + DATA.replace("https://data.example.org", "http://127.0.0.1:5000"))

    assert "in the clear" in files.mistakes(text)[0]
    assert any("in the clear" in warning for warning in trusted.warnings)
    assert local.warnings == ()


def test_a_setting_that_becomes_two_upstreams_is_warned_about_once(files: Files) -> None:
    """[dotstat] nsi is both the SDMX service and the same as CSV."""
    text = """
        [server]
        trusted_network = true
        [dotstat]
        issuer = "https://auth.example.org"
        client_id = "stat-suite"
        grant = "device_code"
    """
    loaded = files.load(text, {"BEARERPROXY_DOTSTAT__NSI": "http://nsi.example.org"})

    assert len(loaded.upstreams) > 1
    assert loaded.warnings == ("BEARERPROXY_DOTSTAT__NSI: http:// would send the token in the clear",)


def test_names_and_origins_are_normalised(files: Files) -> None:
    server = files.load(
        OPEN + '[server]\nallowed_hosts = ["Proxy", "a.org:*", "[::1]:8400", "[::1]"]\n'
        'allowed_origins = ["https://App.example.org:443", "http://localhost:3000"]'
    ).server

    assert server.allowed_hosts == ("proxy", "a.org:*", "[::1]:8400", "[::1]")
    assert server.allowed_origins == ("https://app.example.org", "http://localhost:3000")


# ---- Secrets and warnings


def test_a_literal_secret_in_the_file_is_warned_about_and_a_reference_is_not(files: Files) -> None:
    warnings = files.load(
        ME + f'client_secret = "{CANARY}"\npassword = "env:A"\ngrant = "password"\nusername = "u"' + DATA
        + f'headers = {{ X-Api-Key = "{CANARY}", X-Level = "upperOnly" }}',
        {"A": "x"},
    ).warnings  # fmt: skip

    assert len(warnings) == 3
    assert "[identity.me] client_secret: holds the secret itself" in warnings[1]
    assert "[upstream.data] headers.X-Api-Key: holds the secret itself" in warnings[2]
    assert CANARY not in str(warnings)


def test_the_password_grant_says_what_rfc_9700_says(files: Files) -> None:
    """S41."""
    text = ME + 'grant = "password"\nusername = "u"\npassword = "env:A"' + DATA
    (warning,) = files.load(text, {"A": "x"}).warnings

    assert "RFC 9700 2.4" in warning


def test_a_password_that_no_grant_uses_is_warned_about(files: Files) -> None:
    (warning,) = files.load(ME + 'username = "u"' + DATA).warnings

    assert 'did you mean "password"?' in warning


def test_identities_without_an_upstream_are_warned_about(files: Files) -> None:
    (warning,) = files.load(ME).warnings

    assert "no upstream is configured" in warning


# ---- Outbound proxies


PROXIES = {"https_proxy": "http://p:3128", "HTTP_PROXY": "http://q:3128", "no_proxy": "data.example.org,10.0.0.1"}


@pytest.mark.parametrize(
    ("setting", "url", "environ", "proxy"),
    [
        ("none", "https://a.org", PROXIES, None),
        ("env", "https://a.org", PROXIES, "http://p:3128"),
        ("env", "https://a.org", {}, None),
        ("env", "https://a.org", {"ALL_PROXY": "p:1"}, "http://p:1"),
        ("env", "https://a.org", {"HTTPS_PROXY": "http://up:1", "https_proxy": "http://low:1"}, "http://low:1"),
        ("env", "https://a.org", {"HTTPS_PROXY": "http://up:1", "https_proxy": ""}, None),
        ("env", "https://data.example.org", PROXIES, None),
        ("env", "https://sub.data.example.org", PROXIES, None),
        ("env", "https://a.org", PROXIES | {"no_proxy": "*"}, None),
        ("env", "https://localhost", PROXIES, None),
        ("http://u:p@p:3128", "https://a.org", {}, "http://u:p@p:3128"),
        ("http://p:3128", "https://127.0.0.1", {}, None),
        ("http://p:3128", "https://[::1]:1", {}, None),
    ],
)
def test_the_outbound_proxy_is_settled_for_each_host(
    files: Files, setting: str, url: str, environ: dict[str, str], proxy: str | None
) -> None:
    """S28, A32."""
    for text in (
        f'[network]\nproxy = "{setting}"\n[upstream.x]\nurl = "{url}"\nanonymous = true',
        f'[network]\nproxy = "http://other:1"\n[upstream.x]\nurl = "{url}"\nanonymous = true\nproxy = "{setting}"',
    ):
        assert only(files.load(text, environ)).network.proxy == proxy


def test_an_identity_has_the_proxy_of_its_issuer(files: Files) -> None:
    configuration = files.load(ME + 'proxy = "env"' + DATA, PROXIES | {"no_proxy": "auth.example.org"})

    assert configuration.identities["me"].network.proxy is None
    assert only(configuration).network.proxy is None


def test_a_socks_proxy_of_the_environment_is_refused_once(files: Files) -> None:
    found = files.mistakes('[network]\nproxy = "env"\n' + ME + DATA, {"ALL_PROXY": "socks5://p"})

    assert found == [
        'proxy.toml: [network] proxy: is "env", but https_proxy or all_proxy holds no URL of an HTTP proxy'
    ]


# ---- config show, config schema


FULL = """
[server]
host = "127.0.0.9"
port = 0
allowed_hosts = ["a:*"]
api_key = "env:KEY"
max_requests = 9
drain_seconds = 2.5
[network]
proxy = "http://p:3128"
[identity.me]
issuer = "https://auth.example.org"
client_id = "tools \\"x\\" \\u007f"
client_secret = "env:KEY"
grant = "client_credentials"
scope = "a b"
token_endpoint = "https://auth.example.org/token"
offline_client_id = "off"
offline_scope = "roles"
extra = { resource = ["a", "b"], audience = "c" }
tls_strict = false
[upstream.data]
url = "https://data.example.org:8443/api"
identity = "me"
mount = "/x/y"
listen = "[::1]:8411"
accept = "text/csv"
accept_language = "en"
headers = { X-Key = "env:KEY" }
methods = ["POST", "GET"]
read_only = true
reading_posts = ["/a/*/b"]
deny = ["/c"]
token_echo = "pass"
drops_csv_suffix = true
token_fault = "expired"
connect_timeout = 1.5
first_byte_timeout = 2
idle_timeout = 3
total_timeout = 7200
max_requests = 7
replay_limit = "1MiB"
proxy = "none"
[provena]
domain = "mds.example.org"
realm = "rrap"
[store]
kind = "memory"
path = "/tmp/x"
[log]
level = "debug"
format = "json"
access = false
"""


def test_what_is_shown_configures_the_same(files: Files) -> None:
    text = FULL.replace(" \\u007f", "")
    shown = files.load(text, {"KEY": CANARY}).show()
    again = load(files.write(shown, "again.toml"), {"KEY": CANARY})

    assert again.show() == shown
    first = files.load(text, {"KEY": CANARY})
    assert (again.server, again.identities, again.upstreams, again.store, again.log) == (
        first.server,
        first.identities,
        first.upstreams,
        first.store,
        first.log,
    )


def test_what_is_shown_masks_secrets(files: Files) -> None:
    shown = files.load(
        ME + f'client_secret = "{CANARY}"\nrefresh_token = "env:A"\nproxy = "http://u:{CANARY}@p:1"' + DATA
        + f'headers = {{ X-A = "{CANARY}" }}',
        {"A": CANARY},
    ).show()  # fmt: skip

    assert CANARY not in shown
    assert 'client_secret = "********"' in shown
    assert 'refresh_token = "env:A"' in shown
    assert 'proxy = "http://u:********@p:1"' in shown


def test_the_configuration_shows_no_secret_itself(files: Files) -> None:
    configuration = files.load(ME + f'client_secret = "{CANARY}"\nrefresh_token = "env:A"' + DATA, {"A": CANARY})

    assert CANARY not in repr(configuration)


def test_the_schema_describes_every_key() -> None:
    schema = json_schema()
    tables = [schema, *schema["$defs"].values()]

    assert Configuration.schema() == schema
    assert all(table.get("description") for table in tables)
    assert all(
        one.get("description") or "$ref" in one for table in tables for one in table.get("properties", {}).values()
    )
    assert set(schema["properties"]) == set(ConfigurationFile.model_fields)
    assert "null" not in str(schema)


# ---- No traceback for anything


STRANGE: list[object] = [
    "1", "-1", "0", "1.5", "nan", "inf", "true", '""', '" "', '"x"', '"\\u0000"', '"\\n"', '"ä"', "[]", "[1]", '["x"]',
    "[[]]", "{}", "{ a = 1 }", '{ a = "b" }', "1979-05-27T07:32:00Z", "99999999999999999999", '"https://"', '"http://[::"',
    '"https://[v1.x]/"', '"env:"', '"file:~nobody/x"', '"keyring:/"', '"command:\\""', '"*"', '":0"', '"a:b"', '"/"',
    '"https://\\u2100.org"', '"https://xn--.org"', f'"{"x" * 300}"',
]  # fmt: skip


def keys() -> list[tuple[str, str]]:
    tables: dict[str, type[Table]] = {
        "server": ServerTable,
        "identity.me": IdentityTable,
        "upstream.data": UpstreamTable,
    }
    found = [(table, key) for table, model in tables.items() for key in model.model_fields]
    for table in ("network", "store", "log", "provena", "dotstat"):
        annotation: Any = ConfigurationFile.model_fields[table].annotation  # Any: a model's class
        found += [(table, key) for key in annotation.model_fields]
    return found


@pytest.mark.parametrize(("table", "key"), keys())
def test_no_value_of_any_key_ends_in_a_traceback(files: Files, table: str, key: str) -> None:
    refusals: list[ConfigError] = []
    for value in STRANGE:
        try:
            files.load(f"{OPEN}\n[{table}]\n{key} = {value}\n").show()
        except ConfigError as error:
            refusals.append(error)

    assert refusals
    assert all(len(str(one).splitlines()) == 1 for error in refusals for one in error.mistakes)


def test_no_environment_ends_in_a_traceback(files: Files) -> None:
    chance = random.Random(8400)  # noqa: S311 - a replayable test, no secret
    words = [
        "SERVER",
        "IDENTITY",
        "UPSTREAM",
        "PROVENA",
        "DOTSTAT",
        "LOG",
        "ME",
        "HOST",
        "URL",
        "HEADERS",
        "",
        "X",
        "é",
    ]
    refused = 0
    for _ in range(300):
        names = ["BEARERPROXY_" + "__".join(chance.choices(words, k=chance.randint(1, 4))) for _ in range(4)]
        environ = {name: chance.choice(["", "1", "x", "{", '{"a": 1}', "[1", "\udcff"]) for name in names}
        try:
            files.load(OPEN, environ)
        except ConfigError:
            refused += 1

    assert refused > 100


def test_an_issuer_keeps_the_slash_at_its_end(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('[identity.me]\nissuer = "https://x.example.org/"\nclient_id = "c"\n')
    assert load(file, {}).identities["me"].issuer == "https://x.example.org/"
