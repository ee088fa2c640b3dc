"""The configuration file as pydantic models: one for each kind of table.

Field descriptions are the manual: they make the JSON schema, and tests hold the example file and docs/configuration.md
to the same keys.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from proxy.config.values import (
    AllowedHosts,
    AllowedOrigins,
    BaseUrl,
    Bytes,
    Count,
    ExactUrl,
    FilePath,
    Flag,
    Headers,
    Host,
    KeyPrefix,
    Line,
    Listen,
    Methods,
    Mount,
    OutboundProxy,
    Parameters,
    Paths,
    Port,
    PresetMount,
    RequestPath,
    Seconds,
    SecretValue,
)
from proxy.identities import Grant

SECRET_FORMS = "`env:NAME`, `file:/path`, `keyring:service/name`, `command:…` or, with a warning, the secret itself"  # noqa: S105 - says how, holds none


class Table(BaseModel):
    """What all tables share: no key that we do not know, and no secret in an error text."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
        defer_build=True,  # each start needs some of the tables, hardly any the whole file's
    )


class ServerTable(Table):
    """Where local callers find the proxy, and who may call it."""

    host: Host = Field("127.0.0.1", description="Address to listen on; 127.0.0.1 also listens on ::1 where it exists.")
    port: Port = Field(8400, description="TCP port; 0 takes a free one and prints it.")
    uds: FilePath | None = Field(None, description="A unix socket to listen on besides TCP (not on Windows).")
    allowed_hosts: AllowedHosts = Field(
        [],
        description="More names by which callers may address the proxy: `name` (our port or none), `name:port` or "
        "`name:*`. Loopback names always may.",
    )
    allowed_origins: AllowedOrigins = Field(
        [], description="Web origins whose pages may call the proxy, exactly as browsers send them."
    )
    api_key: SecretValue | None = Field(None, description=f"A key that callers must present: {SECRET_FORMS}.")
    allow_remote: Flag = Field(
        False,
        description="Allows a host other than loopback; wants allowed_hosts, and api_key or trusted_network, as well.",
    )
    trusted_network: Flag = Field(
        False,
        description="Says that everybody on the network may use your sign-ins: stands in for api_key inside a "
        "container network, and allows http:// to hosts other than this one.",
    )
    same_user: Flag | None = Field(
        None,
        description="Lets in only programs of the user that the proxy runs as, by TCP on this machine and by uds "
        "(Linux). Unless given: true on Linux, but false in containers and with allow_remote.",
    )
    on_sign_in: Literal["auto", "wait", "refuse"] = Field(
        "auto",
        description="What becomes of a request that needs a sign-in: `wait` holds it while a browser opens the sign-in "
        "page, `refuse` answers 503 with the link; `auto` waits where a person started the proxy in a terminal.",
    )
    sign_in_wait: Seconds = Field(
        50.0, description="Seconds that such a request is held; base R itself gives up after 60."
    )
    journal: Literal["memory", "off"] = Field(
        "memory", description="`memory` keeps the last 500 requests for the page /-/requests; `off` keeps none."
    )
    max_requests: Count = Field(
        1000,
        description="Requests that are relayed at once; the next gets 503 with Retry-After. Pages of the proxy always "
        "answer. Twice as many connections may be open; the one that was idle longest makes room for a new one.",
    )
    drain_seconds: Seconds = Field(
        10.0, description="Seconds that requests have to end after SIGTERM or Ctrl-C; then they are cut, visibly."
    )
    spool: FilePath | None = Field(
        None,
        description="Folder for what is kept of request bodies beyond 1 MiB, see replay_limit; the platform's folder "
        "for temporary files unless given. Where that is in memory, so is what is kept.",
    )


class NetworkTable(Table):
    """How identities and upstreams reach the outside unless they say it themselves."""

    proxy: OutboundProxy = Field(
        "none",
        description="Outbound proxy: `none`, `env` (https_proxy, http_proxy, all_proxy and no_proxy) or a URL. "
        "Loopback hosts are never reached through one.",
    )
    ca_file: FilePath | None = Field(
        None, description="PEM file of certification authorities to trust instead of the operating system's."
    )


class IdentityTable(Table):
    """Who we are at an issuer."""

    issuer: ExactUrl | None = Field(
        None,
        description="Issuer URL, such as https://auth.example.org/auth/realms/x; its metadata names the endpoints.",
    )
    client_id: Line = Field(description="The OAuth client that we are.")
    client_secret: SecretValue | None = Field(None, description=f"The client's secret, if it has one: {SECRET_FORMS}.")
    grant: Grant = Field(Grant.DEVICE_CODE, description="How a token is obtained.")
    scope: Line | None = Field(None, description="Scopes to ask for, separated by spaces.")
    refresh_token: SecretValue | None = Field(
        None,
        description=f"A refresh or offline token that seeds the store, for machines without a browser: {SECRET_FORMS}.",
    )
    username: Line | None = Field(None, description="User name for the password grant.")
    password: SecretValue | None = Field(None, description=f"Password for the password grant: {SECRET_FORMS}.")
    token_endpoint: ExactUrl | None = Field(None, description="Token endpoint, where discovery cannot be used.")
    authorization_endpoint: ExactUrl | None = Field(
        None, description="Authorization endpoint, where discovery cannot be used."
    )
    device_authorization_endpoint: ExactUrl | None = Field(
        None, description="Device authorization endpoint, where discovery cannot be used."
    )
    revocation_endpoint: ExactUrl | None = Field(
        None, description="Revocation endpoint, where discovery cannot be used."
    )
    extra: Parameters = Field(
        {}, description="Additional parameters of token requests, such as `audience` or `resource`; a list repeats one."
    )
    redirect_uri: ExactUrl | None = Field(
        None,
        description="Redirect URI of this proxy that the client has at the issuer, such as "
        "`http://127.0.0.1:8400/-/callback`: a browser that signs in on the page comes back there, with grant "
        "authorization_code. Unless given it is that one in containers, and elsewhere a port of 127.0.0.1 for each "
        "sign-in.",
    )
    offline_client_id: Line | None = Field(None, description="Client that `login --offline` uses instead of client_id.")
    offline_scope: Line = Field("offline_access", description="Scope that `login --offline` asks for besides scope.")
    ca_file: FilePath | None = Field(None, description="As in [network], for this issuer.")
    tls_strict: Flag = Field(True, description="As in [upstream.NAME], for this issuer.")
    proxy: OutboundProxy | None = Field(None, description="As in [network], for this issuer.")


class UpstreamTable(Table):
    """One protected API, and where local callers find it."""

    url: BaseUrl = Field(description="The API's base URL; a path in it stands before every path that is asked for.")
    identity: Line | None = Field(None, description="The identity whose token is presented.")
    anonymous: Flag = Field(False, description="True presents no token at all.")
    mount: Mount | None = Field(None, description="Local path prefix; /NAME unless given.")
    listen: Listen | None = Field(
        None, description="A port of its own, or host:port, that carries this upstream alone at `/`."
    )
    accept: Line | None = Field(
        None, description="Accept to send where the caller has no preference of its own, such as a CSV media type."
    )
    accept_language: Line | None = Field(None, description="Accept-Language to send instead of the caller's.")
    headers: Headers = Field(
        {},
        description=f"Fields to set on each request, such as an API gateway's key: {SECRET_FORMS}. Authorization only "
        "with anonymous = true.",
    )
    methods: Methods | None = Field(None, description="Methods that are relayed; all unless given.")
    read_only: Flag = Field(False, description="Relays GET and HEAD, and the POSTs of reading_posts.")
    reading_posts: Paths = Field(
        [],
        description="POST paths that only read, for read_only: `*` stands for one segment, a last `**` for any number.",
    )
    deny: Paths = Field([], description="Path prefixes below the mount that are never relayed.")
    cookies: Literal["drop", "pass"] = Field(
        "drop",
        description="`pass` lets cookies through, Domain and Path led into the mount; for services that need them.",
    )
    token_echo: Literal["withhold", "pass"] = Field(
        "withhold",
        description="`withhold` answers 502 instead of an answer that holds the access token, or cuts it; `pass` lets "
        "it through, for a service that is meant to hand tokens out.",
    )
    drops_csv_suffix: Flag = Field(
        False, description="Drops a trailing .csv of the path before relaying: spreadsheets go by the extension."
    )
    token_fault: Line | None = Field(
        None,
        description="JSON `detail` by which a 401 blames the token; any other `detail` is about permission and costs "
        "no renewal. Unless given, every 401 counts against the token.",
    )
    probe: RequestPath | None = Field(
        None,
        description="A path below url that asks for a token, with its query, by which `bearerproxy doctor` tries the "
        "sign-in; url itself unless given.",
    )
    connect_timeout: Seconds = Field(10.0, description="Seconds to wait for a connection; then 502.")
    first_byte_timeout: Seconds = Field(1800.0, description="Seconds to wait for the head of the answer; then 504.")
    idle_timeout: Seconds = Field(300.0, description="Seconds in which no byte of a body moves; then it is cut.")
    total_timeout: Seconds | None = Field(
        None,
        description="Seconds for a request and its answer altogether, however steadily bytes move; then 504, or the "
        "answer is cut. No limit unless given: a query of many hours is none that hangs.",
    )
    max_requests: Count = Field(
        500, description="Requests at once to this upstream, so that one that hangs leaves places for the others."
    )
    replay_limit: Bytes = Field(
        "256MiB",
        validate_default=True,
        description="Request bodies up to this size are kept while they pass, to be sent once more after a 401 that a "
        "newer token cures; bytes, or `256MiB`. 0 keeps none; 1GiB is the most, and what all together may take.",
    )
    ca_file: FilePath | None = Field(None, description="As in [network], for this upstream.")
    tls_strict: Flag = Field(
        True, description="False drops Python 3.13's check of CA extensions, which some private CAs do not pass."
    )
    proxy: OutboundProxy | None = Field(None, description="As in [network], for this upstream.")
    http2: Flag = Field(
        False,
        description="Lets connections be HTTP/2 where the upstream speaks it (extra `bearerproxy[http2]`). Slower here "
        "than HTTP/1.1: for an upstream that bounds its connections, or speaks nothing else.",
    )


class StoreTable(Table):
    """Where tokens are kept."""

    kind: Literal["auto", "keyring", "file", "memory", "redis"] = Field(
        "auto",
        description="`keyring` keeps a key in the keyring and the tokens encrypted in the file; `file` protects them "
        "by file mode alone; `memory` forgets them; `redis` shares them between replicas; `auto` is keyring where the "
        "machine has a working one, else file.",
    )
    path: FilePath | None = Field(None, description="The folder; the platform's state folder unless given.")
    key: SecretValue | None = Field(
        None,
        description="Encrypts what file and redis keep, and makes auto the file: 32 bytes in base64 "
        f"(`openssl rand -base64 32`) or a passphrase; {SECRET_FORMS}.",
    )
    url: SecretValue | None = Field(
        None,
        description="Redis or Valkey server for kind redis: `rediss://user:password@host:6379/0`, `redis://…` on this "
        f"machine, `unix:///path`; {SECRET_FORMS}.",
    )
    prefix: KeyPrefix = Field("bearerproxy", description="Begins the name of every key and channel in Redis.")


class LogTable(Table):
    """What is written down."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least serious line to write.")
    format: Literal["auto", "text", "json"] = Field(
        "auto", description="`auto` is text on a terminal and JSON lines elsewhere."
    )
    access: Flag = Field(True, description="One line for each request.")
    access_format: Literal["auto", "combined"] = Field(
        "auto", description="`auto` is that of the other lines; `combined` is the combined log format of web servers."
    )


class DatasetsTable(Table):
    """How the files of Provena datasets are read from their storage."""

    concurrency: Count = Field(32, description="How many files, or parts of files, are read at the same time.")
    region: Line | None = Field(
        None, description="AWS region of the storage, such as ap-southeast-2; found out unless given."
    )
    endpoint: BaseUrl | None = Field(
        None, description="Base URL of a storage that is not AWS's own but speaks S3; buckets stand in the path."
    )


class ProvenaPreset(Table):
    """A Provena deployment: one identity, and an upstream for each of its services."""

    domain: Host | None = Field(None, description="The deployment's domain, such as mds.gbrrestoration.org.")
    realm: Line | None = Field(None, description="The deployment's Keycloak realm, such as rrap.")
    issuer: ExactUrl | None = Field(None, description="Issuer URL instead of https://auth.DOMAIN/auth/realms/REALM.")
    client_id: Line | None = Field(
        None, description="Client to use instead of client-tools (automated-access with offline or refresh_token)."
    )
    offline: Flag = Field(False, description="Every sign-in asks for an offline token, as `login --offline` does.")
    scope: Line | None = Field(None, description="Scopes to ask for instead of the preset's.")
    refresh_token: SecretValue | None = Field(
        None,
        description=f"An offline token to start from, for machines without a browser: {SECRET_FORMS}. "
        "PROVENA_API_TOKEN, PROVENA_OFFLINE_TOKEN or RRAP_OFFLINE_TOKEN seeds the sole Provena preset.",
    )
    mount: PresetMount | None = Field(
        None, description="Local path prefix of all services; /provena or /NAME unless given."
    )
    datasets: Flag = Field(True, description="Serves the files of datasets as plain URLs at /provena/datasets.")
    data: BaseUrl | None = Field(None, description="Data store API instead of https://data-api.DOMAIN.")
    registry: BaseUrl | None = Field(None, description="Registry API instead of https://registry-api.DOMAIN.")
    prov: BaseUrl | None = Field(None, description="Provenance API instead of https://prov-api.DOMAIN.")
    search: BaseUrl | None = Field(None, description="Search API instead of https://search.DOMAIN.")
    auth: BaseUrl | None = Field(None, description="Auth API instead of https://auth-api.DOMAIN.")
    handle: BaseUrl | None = Field(None, description="Handle service instead of https://handle.DOMAIN.")
    job: BaseUrl | None = Field(None, description="Job API instead of https://job-api.DOMAIN.")


class DotstatPreset(Table):
    """A .Stat Suite deployment: one identity, and an upstream for each service that is given."""

    issuer: ExactUrl = Field(description="Issuer URL, such as https://keycloak.example.org/auth/realms/OECD.")
    client_id: Line = Field(description="The OAuth client that we are; the services must accept its audience.")
    client_secret: SecretValue | None = Field(None, description=f"The client's secret, if it has one: {SECRET_FORMS}.")
    grant: Grant = Field(Grant.DEVICE_CODE, description="How a token is obtained.")
    scope: Line | None = Field(None, description="Scopes to ask for, separated by spaces.")
    refresh_token: SecretValue | None = Field(None, description=f"A refresh token to start from: {SECRET_FORMS}.")
    username: Line | None = Field(None, description="User name for the password grant.")
    password: SecretValue | None = Field(None, description=f"Password for the password grant: {SECRET_FORMS}.")
    extra: Parameters = Field({}, description="Additional parameters of token requests, such as `resource`.")
    mount: PresetMount | None = Field(
        None, description="Local path prefix of all services; /dotstat or /NAME unless given."
    )
    nsi: BaseUrl = Field(description="The NSI web service; /rest is added unless the URL already has it.")
    transfer: BaseUrl | None = Field(None, description="The Transfer service with its version, such as …/2.")
    authorization: BaseUrl | None = Field(
        None, description="The authorisation service with its version, such as …/1.1."
    )


class ProvenaTable(ProvenaPreset):
    """The preset `provena`, and others by name as [provena.NAME]."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, ProvenaPreset]


class DotstatTable(DotstatPreset):
    """The preset `dotstat`, and others by name as [dotstat.NAME]."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, DotstatPreset]


class ConfigurationFile(Table):
    """The whole file; for the JSON schema and the names of tables."""

    server: ServerTable = Field(description="Where local callers find the proxy, and who may call it.")
    network: NetworkTable = Field(description="How the outside is reached: defaults for identities and upstreams.")
    identity: dict[str, IdentityTable] = Field(description="Who we are at an issuer, by name.")
    upstream: dict[str, UpstreamTable] = Field(description="The protected APIs, by name.")
    store: StoreTable = Field(description="Where tokens are kept.")
    log: LogTable = Field(description="What is written down.")
    datasets: DatasetsTable = Field(description="How the files of Provena datasets are read from their storage.")
    provena: ProvenaTable = Field(description="A Provena deployment, or several by name.")
    dotstat: DotstatTable = Field(description="A .Stat Suite deployment, or several by name.")


TABLES = tuple(ConfigurationFile.model_fields)

RESERVED: dict[str, frozenset[str]] = {
    "upstream": frozenset({
        "unauthorized", "basic",
    }),
}  # fmt: skip
"""Keys that have a meaning already but do nothing yet: a file that names one must not seem to work."""
