"""The configuration as the rest of the package sees it: frozen values, nothing left to interpret."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.identities import Identity
from proxy.secret_refs import Secret
from proxy.upstreams import Upstream


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where local callers find the proxy, and who may call it."""

    host: str = "127.0.0.1"
    """Name or address, an IPv6 literal without brackets."""
    port: int = 8400
    """0 takes a free port."""
    uds: Path | None = None
    """A unix socket besides TCP."""
    allowed_hosts: tuple[str, ...] = ()
    """`name`, `name:port` or `name:*`, lower case; an IPv6 literal in brackets."""
    allowed_origins: tuple[str, ...] = ()
    """`scheme://host[:port]`, lower case, no default port."""
    api_key: Secret | None = None
    allow_remote: bool = False
    trusted_network: bool = False
    same_user: bool = False
    """Whether callers of this machine must be the user that the proxy runs as (Linux)."""
    on_sign_in: str = "auto"
    """`auto`, `wait` or `refuse`: what becomes of a request that needs a sign-in."""
    sign_in_wait: float = 50.0
    """Seconds that such a request is held."""
    journal: str = "memory"
    """`memory` or `off`."""
    max_requests: int = 1000
    """Requests that are relayed at once."""
    drain_seconds: float = 10.0
    """How long requests have to end once a signal said so."""
    spool: Path | None = None
    """Folder for what is kept of uploads; None is the platform's for temporary files."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where tokens are kept."""

    kind: str
    """`auto`, `keyring`, `file`, `memory` or `redis`."""
    path: Path
    """A folder, absolute; it need not exist yet."""
    key: Secret | None = None
    """Encrypts what `file` and `redis` keep."""
    url: Secret | None = None
    """Where Redis is; None for the other kinds."""
    prefix: str = "bearerproxy"
    """Begins the name of every key in Redis."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is written down."""

    level: str = "info"
    """`debug`, `info`, `warning` or `error`."""
    format: str = "auto"
    """`auto`, `text` or `json`."""
    access: bool = True
    access_format: str = "auto"
    """`auto` or `combined`."""


@dataclass(frozen=True, slots=True)
class DatasetsSettings:
    """How the files of Provena datasets are read, and of which deployments."""

    concurrency: int = 32
    region: str | None = None
    endpoint: str | None = None
    deployments: tuple[tuple[str, str], ...] = ()
    """(name, mount) of each deployment; its services are the upstreams NAME_data, NAME_search, NAME_registry."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that was configured, presets expanded."""

    server: ServerSettings
    identities: Mapping[str, Identity]
    """By name, in the order of the file."""
    upstreams: tuple[Upstream, ...]
    store: StoreSettings
    log: LogSettings
    source: Path | None = None
    """The file that was read; None if the environment alone configures."""
    warnings: tuple[str, ...] = ()
    """Sentences about what works but should be changed."""
    datasets: DatasetsSettings = DatasetsSettings()

    @property
    def secret_variables(self) -> frozenset[str]:
        """Environment variables that hold secrets: no program that we start is to see them."""
        secrets = [self.server.api_key, self.store.key, self.store.url]
        for one in self.identities.values():
            secrets += [one.client_secret, one.refresh_token, one.password]
        secrets += [value for upstream in self.upstreams for _, value in upstream.headers]
        return frozenset(one.variable for one in secrets if one is not None and one.variable is not None)

    def show(self) -> str:
        """Return TOML that would configure the same without presets; secrets as references or masked."""
        from proxy.config.show import toml

        return toml(self)

    @staticmethod
    def schema() -> dict[str, Any]:
        """Return the JSON schema of the configuration file."""
        return json_schema()


def json_schema() -> dict[str, Any]:  # Any: JSON
    """Return the JSON schema of the configuration file, with a description of every key."""
    from proxy.config.models import ConfigurationFile

    found: dict[str, Any] = _plain(ConfigurationFile.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "bearerproxy configuration"} | found


def _plain(schema: Any) -> Any:
    """Drop what TOML has no word for (null) or what a preset or another source may say instead (required)."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: one for key, one in schema.items() if key != "required" and not (key == "default" and one is None)}
    if isinstance(schema.get("title"), str):  # the key once more, in capitals; a key that is called title is a table
        del schema["title"]
    options = [one for one in schema.get("anyOf", []) if one != {"type": "null"}]
    if len(options) == 1:
        schema = options[0] | {key: one for key, one in schema.items() if key != "anyOf"}
    elif options:
        schema["anyOf"] = options
    return {key: _plain(one) for key, one in schema.items()}
