"""From what was said to the configuration: gather, expand presets, validate, check, build. All mistakes at once."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from proxy.config import building, checks
from proxy.config.addresses import is_loopback, parse_listen, parse_url
from proxy.config.configuration import Configuration, LogSettings, ServerSettings
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
from proxy.config.places import SUGGESTION, chosen_file, default_path
from proxy.config.presets import (
    Expansion,
    expand_dotstat,
    expand_provena,
    laid_over,
    provena_lacks,
    seed_from_environment,
)
from proxy.config.sources import Gathered, gather, holds
from proxy.config.values import AnyTable, Finding, Key
from proxy.errors import ConfigError, Mistake
from proxy.identities import Identity, Network
from proxy.secret_refs import Secret

AnyModel = TypeVar("AnyModel", bound=Table)


def read(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Configuration:
    """Return the configuration; raises ConfigError with all mistakes (see proxy.config.load)."""
    file = chosen_file(path, environ)
    gathered = gather(file, environ, overrides)
    if not gathered.is_readable:  # whatever else is missing would be missing because of that
        raise ConfigError(*gathered.mistakes)
    return _Reading(gathered, environ).configuration(file)


def read_server(path: Path | None, environ: Mapping[str, str]) -> ServerSettings:
    """Return how the server listens (see proxy.config.load_server)."""
    gathered = gather(chosen_file(path, environ), environ, {})
    if not gathered.is_readable:
        raise ConfigError(*gathered.mistakes)
    return _Reading(gathered, environ).server()


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
        relays = tuple(
            building.upstream(name, one, server, self._network(("upstream", name), one, one.url, network))
            for name, one in upstreams.items()
        )
        if not any(tables[kind] for kind in ("identity", "upstream", "provena", "dotstat")):
            self.mistakes.append(
                Mistake(str(file or default_path()), f"configures no identity and no upstream; {SUGGESTION}")
            )
        if self.mistakes:
            raise ConfigError(*self.mistakes)
        return Configuration(
            building.server(server, self.environ), built, relays, building.store(store),
            LogSettings(log.level, log.format, log.access, log.access_format), file, tuple(self.warnings),
            building.datasets(datasets, expansions),
        )  # fmt: skip

    def server(self) -> ServerSettings:
        table = self._table(ServerTable, self.gathered.tables["server"], ("server",))
        if self.mistakes:
            raise ConfigError(*self.mistakes)
        return building.server(table, self.environ)

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
        tables = made | {name: laid_over(made[name], table) if name in made else table for name, table in said.items()}
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
                {name: building.mount(name, one) for name, one in upstreams.items() if not self._lost(name)},
                preset_mounts,
            )
        )
        self._checked(
            checks.check_cookies(
                {name: building.mount(name, one) for name, one in upstreams.items() if one.cookies == "pass"}
            )
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

    def _identity(self, name: str, table: IdentityTable, network: NetworkTable, server: ServerTable) -> Identity:
        reached = self._network(("identity", name), table, table.issuer or table.token_endpoint, network)
        return building.identity(name, table, server, reached, self.environ)

    def _network(
        self, path: Key, table: IdentityTable | UpstreamTable, url: str | None, network: NetworkTable
    ) -> Network:
        """Return how `url` is reached."""
        parsed = None if url is None else parse_url(url)
        proxy = None
        try:
            if parsed is not None:
                proxy = outbound_proxy(table.proxy or network.proxy, parsed, self.environ)
        except ValueError as error:
            setting = (*path, "proxy") if table.proxy else ("network", "proxy")
            self._found([(setting, str(error))])
        ca_file = table.ca_file or network.ca_file
        return Network(proxy, None if ca_file is None else str(ca_file), table.tls_strict)


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
