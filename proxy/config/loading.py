"""From what was said to the configuration: gather, expand presets, validate, check, build. All mistakes at once."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import platformdirs

from proxy.config import checks
from proxy.config.addresses import Url, is_loopback, parse_listen, parse_url
from proxy.config.configuration import Configuration, DatasetsSettings, LogSettings, ServerSettings, StoreSettings
from proxy.config.machine import is_container
from proxy.config.mistakes import nearest, validated
from proxy.config.models import (
    RESERVED,
    TABLES,
    DatasetsTable,
    DotstatPreset,
    IdentityTable,
    LogTable,
    NetworkTable,
    ProvenaPreset,
    ServerTable,
    StoreTable,
    Table,
    UpstreamTable,
)
from proxy.config.outbound import outbound_proxy
from proxy.config.presets import Expansion, expand_dotstat, expand_provena, provena_lacks, seed_from_environment
from proxy.config.sources import CONFIG_VARIABLE, Gathered, gather, holds
from proxy.config.values import AnyTable, Finding, Key
from proxy.errors import ConfigError, Mistake
from proxy.identities import Endpoints, Grant, Identity, Network
from proxy.secret_refs import Secret
from proxy.upstreams import Upstream

AnyModel = TypeVar("AnyModel", bound=Table)
_SUGGESTION = "run `bearerproxy init`, or `bearerproxy demo` to look around"


def read(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Configuration:
    """Return the configuration; raises ConfigError with all mistakes (see proxy.config.load)."""
    file = _chosen_file(path, environ)
    gathered = gather(file, environ, overrides)
    if not gathered.is_readable:  # whatever else is missing would be missing because of that
        raise ConfigError(*gathered.mistakes)
    return _Reading(gathered, environ).configuration(file)


def read_server(path: Path | None, environ: Mapping[str, str]) -> ServerSettings:
    """Return how the server listens (see proxy.config.load_server)."""
    gathered = gather(_chosen_file(path, environ), environ, {})
    if not gathered.is_readable:
        raise ConfigError(*gathered.mistakes)
    return _Reading(gathered, environ).server()


def default_path() -> Path:
    """Return where the configuration is looked for when nothing says otherwise; it need not exist."""
    return platformdirs.user_config_path("bearerproxy", appauthor=False) / "proxy.toml"


def chosen_path(path: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the file that `--config`, BEARERPROXY_CONFIG or the platform names; it need not exist."""
    named = path or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else default_path())
    return named.expanduser() if str(named).startswith("~") else named


def _chosen_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file to read, or None. Never one of the working folder.

    A cloned repository must not be able to name somebody's identity and send its token elsewhere.
    """
    named = environ.get(CONFIG_VARIABLE)
    if path is None and named:
        path, source = Path(named), CONFIG_VARIABLE
    else:
        source = "--config"
    if path is None:
        return default_path() if default_path().is_file() else None
    path = path.expanduser() if str(path).startswith("~") else path
    if not path.is_file():
        what = "is a folder; name the file in it" if path.is_dir() else "there is no such file"
        raise ConfigError(Mistake(f"{source} {path}", f"{what}; {_SUGGESTION}" if not path.is_dir() else what))
    return path


@dataclass
class _Reading:
    """One pass over what was gathered. Tables that are wrong are left out, so that each mistake is told once."""

    gathered: Gathered
    environ: Mapping[str, str]
    mistakes: list[Mistake] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    origins: dict[Key, Key] = field(default_factory=dict)
    """From made settings to those of presets."""
    wrong: set[Key] = field(default_factory=set)
    """Settings that were left out because they are wrong themselves."""

    def configuration(self, file: Path | None) -> Configuration:
        tables = self.gathered.tables
        self.mistakes += self.gathered.mistakes
        self._unknown_tables()
        server = self._table(ServerTable, tables["server"], ("server",))
        network = self._table(NetworkTable, tables["network"], ("network",))
        store = self._table(StoreTable, tables["store"], ("store",))
        log = self._table(LogTable, tables["log"], ("log",))
        datasets = self._table(DatasetsTable, tables["datasets"], ("datasets",))
        expansions = self._presets()
        identities = self._named(IdentityTable, "identity", expansions)
        upstreams = self._named(UpstreamTable, "upstream", expansions)
        self._check(server, network, store, identities, upstreams, [one.mount for one in expansions])
        built = {name: self._identity(name, one, network, server) for name, one in identities.items()}
        relays = tuple(self._upstream(name, one, network, server) for name, one in upstreams.items())
        if not any(tables[kind] for kind in ("identity", "upstream", "provena", "dotstat")):
            self.mistakes.append(
                Mistake(str(file or default_path()), f"configures no identity and no upstream; {_SUGGESTION}")
            )
        if self.mistakes:
            raise ConfigError(*self.mistakes)
        return Configuration(
            _server(server, self.environ), built, relays, _store(store),
            LogSettings(log.level, log.format, log.access, log.access_format), file, tuple(self.warnings),
            _datasets(datasets, expansions),
        )  # fmt: skip

    def server(self) -> ServerSettings:
        table = self._table(ServerTable, self.gathered.tables["server"], ("server",))
        if self.mistakes:
            raise ConfigError(*self.mistakes)
        return _server(table, self.environ)

    def _where(self, path: Key) -> str:
        """Return the file or variable, following a made setting back to its preset."""
        if not any(holds(layer.tables, path) for layer in self.gathered.layers):
            for depth in range(len(path), 1, -1):
                if path[:depth] in self.origins:
                    return self.gathered.where(self.origins[path[:depth]])
        return self.gathered.where(path)

    def _found(self, findings: Iterable[Finding]) -> None:
        for path, what in findings:
            mistake = Mistake(self._where(path), what)
            if mistake not in self.mistakes:  # two made settings may stem from one
                self.mistakes.append(mistake)

    def _checked(self, findings: Iterable[Finding]) -> None:
        """Take the findings of a check, but for those that only follow from other mistakes."""
        self._found(one for one in findings if not checks.is_doubtful(one[0], self.wrong))

    def _warned(self, findings: Iterable[Finding]) -> None:
        told = dict.fromkeys(f"{self._where(path)}: {what}" for path, what in findings)
        self.warnings += [one for one in told if one not in self.warnings]  # two made settings may stem from one

    def _table(self, model: type[AnyModel], said: object, path: Key) -> AnyModel:
        table, findings = validated(model, said, path, {"environ": self.environ})
        self._found(findings)
        known = [(*path, key) for key in model.model_fields]
        self.wrong |= {found for found, _ in findings if found == path or found[: len(path) + 1] in known}
        return table

    def _unknown_tables(self) -> None:
        for name in self.gathered.tables:
            if name in RESERVED and name not in TABLES:
                self._found([((name,), "is not available in this version yet; remove it")])
            elif name not in TABLES:
                self._found([((name,), "is no known table" + nearest(name, TABLES))])

    def _presets(self) -> list[Expansion]:
        """Return what the presets stand for; a preset that is wrong still takes its name and its overrides."""
        expansions: list[Expansion] = []
        provena = dict(self._preset_tables("provena", ProvenaPreset))
        if mistake := seed_from_environment(provena, self.environ):
            self.mistakes.append(mistake)
        for path, said in [*provena.items(), *self._preset_tables("dotstat", DotstatPreset)]:
            name = path[-1]
            table = path if len(path) == 1 else (*path, "")
            self._found((table, what) for _, what in checks.check_names(path[0], [name]))
            expansion = self._expansion(path, said)
            if any(other.name == name for other in expansions):
                self._found([(table, f"makes an identity {name}, as another preset does; rename one")])
                continue
            expansions.append(expansion)
            self.origins |= {("identity", name): path, **{("upstream", one): path for one in expansion.upstreams}}
            self.origins |= expansion.origins
        return expansions

    def _preset_tables(self, kind: str, model: type[Table]) -> Iterator[tuple[Key, AnyTable]]:
        """Split [provena] into the preset of that name and those of [provena.NAME]."""
        said = self.gathered.tables[kind]
        if not isinstance(said, dict):
            self._found([((kind,), "must be a table")])
            return
        named = {key: one for key, one in said.items() if isinstance(one, dict) and key not in model.model_fields}
        own = {key: one for key, one in said.items() if key not in named}
        if own:
            yield (kind,), own
        yield from (((kind, name), dict(one)) for name, one in named.items())

    def _expansion(self, path: Key, said: AnyTable) -> Expansion:
        before = len(self.mistakes)
        if path[0] == "provena":
            provena = self._table(ProvenaPreset, said, path)
            if lacks := list(provena_lacks(provena, path)):
                self._checked(lacks)
                provena = provena.model_copy(update={"domain": "missing.invalid"})  # all services have their names
            expansion = expand_provena(provena, path[-1], path)
        else:
            expansion = expand_dotstat(self._table(DotstatPreset, said, path), path[-1], path)
        if len(self.mistakes) > before:  # what it makes is judged when the preset itself is right
            self.wrong |= {("identity", path[-1]), *(("upstream", name) for name in expansion.upstreams)}
        return expansion

    def _named(self, model: type[AnyModel], kind: str, expansions: list[Expansion]) -> dict[str, AnyModel]:
        """Return the tables that a person wrote, laid over those that presets make."""
        made: AnyTable = {}
        for one in expansions:
            made |= {one.name: one.identity} if kind == "identity" else one.upstreams
        said = self.gathered.tables[kind]
        if not isinstance(said, dict):
            self._found([((kind,), "must be a table of tables")])
            said = {}
        self._found(checks.check_names(kind, said))
        tables = made | {name: _over(made[name], table) if name in made else table for name, table in said.items()}
        return {name: self._table(model, table, (kind, name)) for name, table in tables.items()}

    def _check(
        self,
        server: ServerTable,
        network: NetworkTable,
        store: StoreTable,
        identities: dict[str, IdentityTable],
        upstreams: dict[str, UpstreamTable],
        preset_mounts: list[str],
    ) -> None:
        self._checked(checks.check_server(server, upstreams))
        self._checked(checks.check_store(store))
        for name, identity in identities.items():
            self._checked(checks.check_identity(name, identity))
            self._warned(checks.warn_identity(name, identity))
        for name, upstream in upstreams.items():
            self._checked(checks.check_upstream(name, upstream, identities))
        self._checked(
            checks.check_mounts(
                {name: _mount(name, one) for name, one in upstreams.items() if not self._lost(name)}, preset_mounts
            )
        )
        self._checked(
            checks.check_cookies({name: _mount(name, one) for name, one in upstreams.items() if one.cookies == "pass"})
        )
        listeners = {
            name: parse_listen(one.listen, server.host) for name, one in upstreams.items() if one.listen is not None
        }
        urls = {name: parse_url(one.url) for name, one in upstreams.items()}
        self._checked(checks.check_listeners((server.host, server.port), listeners, urls))
        refused, tolerated = checks.check_clear(store, identities, upstreams, is_trusted=server.trusted_network)
        self._checked(refused)
        self._warned(tolerated)
        secrets = list(_secrets(server, store, identities, upstreams))
        self._checked(checks.check_secrets(secrets))
        self._checked(checks.check_field_values(upstreams))
        self._checked(checks.check_files(_files(network, identities, upstreams)))
        self._warned(self._literals(secrets))
        if server.trusted_network and not is_loopback(server.host) and server.api_key is None:
            self._warned([(("server", "trusted_network"), "everybody who reaches this port uses your sign-ins")])
        if not upstreams and not self.mistakes:
            self.warnings.append("no upstream is configured: there are tokens, but nothing to relay to")

    def _lost(self, name: str) -> bool:
        """Return True if the upstream's mount is not known."""
        return checks.is_doubtful(("upstream", name, "mount"), self.wrong)

    def _literals(self, secrets: list[tuple[Key, Secret]]) -> Iterator[Finding]:
        for path, secret in secrets:
            is_shy = path[0] != "upstream" or bool(checks.SHY_FIELD.search(path[-1]))
            if path == ("store", "url"):
                is_shy = (url := checks.redis_url(secret)) is not None and url.has_password
            if secret.is_literal and is_shy and self.gathered.is_from_toml(self._said_path(path)):
                yield path, "holds the secret itself; keep it out of the file with env:, file:, keyring: or command:"

    def _said_path(self, path: Key) -> Key:
        return path if any(holds(one.tables, path) for one in self.gathered.layers) else self.origins.get(path, path)

    def _network(
        self, path: Key, table: IdentityTable | UpstreamTable, url: Url | None, network: NetworkTable
    ) -> Network:
        proxy = None
        try:
            if url is not None:
                proxy = outbound_proxy(table.proxy or network.proxy, url, self.environ)
        except ValueError as error:
            setting = (*path, "proxy") if table.proxy else ("network", "proxy")
            self._found([(setting, str(error))])
        ca_file = table.ca_file or network.ca_file
        return Network(proxy, None if ca_file is None else str(ca_file), table.tls_strict)

    def _identity(self, name: str, table: IdentityTable, network: NetworkTable, server: ServerTable) -> Identity:
        reached = table.issuer or table.token_endpoint
        url = None if reached is None else parse_url(reached)
        return Identity(
            name=name,
            client_id=table.client_id,
            grant=table.grant,
            issuer=table.issuer,
            client_secret=table.client_secret,
            scope=table.scope,
            refresh_token=table.refresh_token,
            username=table.username,
            password=table.password,
            endpoints=Endpoints(*(getattr(table, f"{one}_endpoint") for one in checks.ENDPOINTS)),
            extra=tuple(
                (key, value)
                for key, values in table.extra.items()
                for value in ([values] if isinstance(values, str) else values)
            ),
            network=self._network(("identity", name), table, url, network),
            redirect_uri=self._redirect_uri(table, server),
            offline_client_id=table.offline_client_id,
            offline_scope=table.offline_scope,
        )

    def _redirect_uri(self, table: IdentityTable, server: ServerTable) -> str | None:
        """Return where browsers come back to; no browser reaches a port that a container opens for one sign-in."""
        if table.redirect_uri is not None or table.grant is not Grant.AUTHORIZATION_CODE:
            return table.redirect_uri
        is_known = server.port != 0 and is_container(self.environ)
        return f"http://127.0.0.1:{server.port}/-/callback" if is_known else None

    def _upstream(self, name: str, table: UpstreamTable, network: NetworkTable, server: ServerTable) -> Upstream:
        url = parse_url(table.url)
        return Upstream(
            name=name,
            scheme=url.scheme,
            host=url.host,
            port=url.port,
            base_path=url.path.encode("ascii"),
            mount=_mount(name, table),
            listen=None if table.listen is None else parse_listen(table.listen, server.host),
            identity=table.identity,
            headers=tuple({field.lower(): (field, value) for field, value in table.headers.items()}.values()),
            accept=table.accept,
            accept_language=table.accept_language,
            methods=None if table.methods is None else frozenset(table.methods),
            read_only=table.read_only,
            reading_posts=tuple(table.reading_posts),
            deny=tuple(table.deny),
            passes_cookies=table.cookies == "pass",
            passes_token_echo=table.token_echo == "pass",  # noqa: S105 - a word of the setting
            drops_csv_suffix=table.drops_csv_suffix,
            token_fault=table.token_fault,
            probe=table.probe,
            connect_timeout=table.connect_timeout,
            first_byte_timeout=table.first_byte_timeout,
            idle_timeout=table.idle_timeout,
            total_timeout=table.total_timeout,
            max_requests=table.max_requests,
            replay_limit=table.replay_limit,
            network=self._network(("upstream", name), table, url, network),
            http2=table.http2,
        )


def _server(table: ServerTable, environ: Mapping[str, str]) -> ServerSettings:
    return ServerSettings(
        host=table.host,
        port=table.port,
        uds=table.uds,
        allowed_hosts=tuple(table.allowed_hosts),
        allowed_origins=tuple(table.allowed_origins),
        api_key=table.api_key,
        allow_remote=table.allow_remote,
        trusted_network=table.trusted_network,
        same_user=_same_user(table, environ),
        on_sign_in=table.on_sign_in,
        sign_in_wait=table.sign_in_wait,
        journal=table.journal,
        max_requests=table.max_requests,
        drain_seconds=table.drain_seconds,
        spool=table.spool,
    )


def _same_user(table: ServerTable, environ: Mapping[str, str]) -> bool:
    """Return what `same_user` comes to: containers that share a loopback have users of their own each."""
    if table.same_user is not None:
        return table.same_user
    return sys.platform == "linux" and not table.allow_remote and not is_container(environ)


def _store(table: StoreTable) -> StoreSettings:
    path = table.path or platformdirs.user_state_path("bearerproxy", appauthor=False)
    return StoreSettings(table.kind, path, key=table.key, url=table.url, prefix=table.prefix)


def _datasets(table: DatasetsTable, expansions: Iterable[Expansion]) -> DatasetsSettings:
    deployments = tuple((one.name, f"{one.mount}/datasets") for one in expansions if one.has_datasets)
    return DatasetsSettings(table.concurrency, table.region, table.endpoint, deployments)


def _mount(name: str, table: UpstreamTable) -> str:
    return table.mount or f"/{name}"


def _over(made: AnyTable, said: object) -> object:
    """Lay a person's table over a made one, key by key; what is no table is left for validation to refuse."""
    if not isinstance(said, dict):
        return said
    return made | {
        key: _over(made[key], value) if isinstance(made.get(key), dict) else value for key, value in said.items()
    }


def _secrets(
    server: ServerTable,
    store: StoreTable,
    identities: Mapping[str, IdentityTable],
    upstreams: Mapping[str, UpstreamTable],
) -> Iterator[tuple[Key, Secret]]:
    tables: list[tuple[Key, Table]] = [(("server",), server), (("store",), store)]
    tables += [(("identity", name), one) for name, one in identities.items()]
    for path, table in tables:
        for key in type(table).model_fields:
            value = getattr(table, key)
            if isinstance(value, Secret):
                yield (*path, key), value
    for name, upstream in upstreams.items():
        yield from ((("upstream", name, "headers", one), value) for one, value in upstream.headers.items())


def _files(
    network: NetworkTable, identities: Mapping[str, IdentityTable], upstreams: Mapping[str, UpstreamTable]
) -> Iterator[tuple[Key, Path | None]]:
    yield ("network", "ca_file"), network.ca_file
    yield from ((("identity", name, "ca_file"), one.ca_file) for name, one in identities.items())
    yield from ((("upstream", name, "ca_file"), one.ca_file) for name, one in upstreams.items())
