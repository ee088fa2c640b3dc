"""From tables that are right to what the rest of the program knows. Nothing is judged here."""

import sys
from collections.abc import Iterable, Mapping

import platformdirs

from proxy.config.addresses import parse_listen, parse_url
from proxy.config.checks import ENDPOINTS
from proxy.config.configuration import DatasetsSettings, ServerSettings, StoreSettings
from proxy.config.machine import is_container
from proxy.config.models import DatasetsTable, IdentityTable, ServerTable, StoreTable, UpstreamTable
from proxy.config.presets import Expansion
from proxy.identities import Endpoints, Grant, Identity, Network
from proxy.upstreams import Upstream


def identity(
    name: str, table: IdentityTable, server: ServerTable, network: Network, environ: Mapping[str, str]
) -> Identity:
    """Return the identity `name`, which is reached by `network`."""
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
        endpoints=Endpoints(*(getattr(table, f"{one}_endpoint") for one in ENDPOINTS)),
        extra=tuple(
            (key, value)
            for key, values in table.extra.items()
            for value in ([values] if isinstance(values, str) else values)
        ),
        network=network,
        redirect_uri=_redirect_uri(table, server, environ),
        offline_client_id=table.offline_client_id,
        offline_scope=table.offline_scope,
    )


def _redirect_uri(table: IdentityTable, server: ServerTable, environ: Mapping[str, str]) -> str | None:
    """Return where browsers come back to; no browser reaches a port that a container opens for one sign-in."""
    if table.redirect_uri is not None or table.grant is not Grant.AUTHORIZATION_CODE:
        return table.redirect_uri
    is_known = server.port != 0 and is_container(environ)
    return f"http://127.0.0.1:{server.port}/-/callback" if is_known else None


def upstream(name: str, table: UpstreamTable, server: ServerTable, network: Network) -> Upstream:
    """Return the upstream `name`, which is reached by `network`."""
    url = parse_url(table.url)
    return Upstream(
        name=name,
        scheme=url.scheme,
        host=url.host,
        port=url.port,
        base_path=url.path.encode("ascii"),
        mount=mount(name, table),
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
        network=network,
        http2=table.http2,
    )


def server(table: ServerTable, environ: Mapping[str, str]) -> ServerSettings:
    """Return how the server listens."""
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


def store(table: StoreTable) -> StoreSettings:
    """Return where token sets are kept."""
    path = table.path or platformdirs.user_state_path("bearerproxy", appauthor=False)
    return StoreSettings(table.kind, path, key=table.key, url=table.url, prefix=table.prefix)


def datasets(table: DatasetsTable, expansions: Iterable[Expansion]) -> DatasetsSettings:
    """Return how datasets are fetched, and where."""
    deployments = tuple((one.name, f"{one.mount}/datasets") for one in expansions if one.has_datasets)
    return DatasetsSettings(table.concurrency, table.region, table.endpoint, deployments)


def mount(name: str, table: UpstreamTable) -> str:
    """Return the mount of the upstream `name`."""
    return table.mount or f"/{name}"
