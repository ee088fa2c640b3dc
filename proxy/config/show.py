"""A configuration as TOML: what presets, environment and defaults came to, without a secret in it."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy.identities import Identity, Network
from proxy.secret_refs import Secret
from proxy.upstreams import Upstream

if TYPE_CHECKING:
    from proxy.config.configuration import Configuration, StoreSettings

MASK = "********"
_DEFAULTS = Upstream(name="", scheme="https", host="", port=443)


def toml(configuration: "Configuration") -> str:
    """Return the configuration as TOML: of identities and upstreams what differs from the defaults."""
    server, store, log = configuration.server, configuration.store, configuration.log
    tables: dict[str, Mapping[str, object]] = {
        "server": {
            "host": server.host,
            "port": server.port,
            "uds": server.uds and str(server.uds),
            "allowed_hosts": list(server.allowed_hosts),
            "allowed_origins": list(server.allowed_origins),
            "api_key": server.api_key,
            "allow_remote": server.allow_remote,
            "trusted_network": server.trusted_network,
            "same_user": server.same_user,
            "on_sign_in": server.on_sign_in,
            "sign_in_wait": server.sign_in_wait,
            "journal": server.journal,
            "max_requests": server.max_requests,
            "drain_seconds": server.drain_seconds,
            "spool": server.spool and str(server.spool),
        },
        "store": _store(store),
        "datasets": {
            "concurrency": configuration.datasets.concurrency,
            "region": configuration.datasets.region,
            "endpoint": configuration.datasets.endpoint,
        },
        "log": {"level": log.level, "format": log.format, "access": log.access, "access_format": log.access_format},
    }
    tables |= {f"identity.{one.name}": _identity(one) for one in configuration.identities.values()}
    tables |= {f"upstream.{one.name}": _upstream(one) for one in configuration.upstreams}
    return "\n".join(line for name, table in tables.items() for line in _table(name, table))


def _store(store: "StoreSettings") -> dict[str, object]:
    if store.url is None:
        return {"kind": store.kind, "path": str(store.path), "key": store.key}
    url = _masked(store.url.reveal()) if store.url.is_literal else store.url
    return {"kind": store.kind, "key": store.key, "url": url, "prefix": store.prefix}


def _identity(identity: Identity) -> dict[str, object]:
    repeated: dict[str, list[str]] = {}
    for name, value in identity.extra:
        repeated.setdefault(name, []).append(value)
    is_plain = identity.offline_scope == "offline_access"
    return {
        "issuer": identity.issuer,
        "client_id": identity.client_id,
        "client_secret": identity.client_secret,
        "grant": identity.grant.value,
        "scope": identity.scope,
        "refresh_token": identity.refresh_token,
        "username": identity.username,
        "password": identity.password,
        "token_endpoint": identity.endpoints.token,
        "authorization_endpoint": identity.endpoints.authorization,
        "device_authorization_endpoint": identity.endpoints.device_authorization,
        "revocation_endpoint": identity.endpoints.revocation,
        "redirect_uri": identity.redirect_uri,
        "offline_client_id": identity.offline_client_id,
        "offline_scope": None if is_plain else identity.offline_scope,
        **_network(identity.network),
        "extra": {name: values[0] if len(values) == 1 else values for name, values in repeated.items()},
    }


def _upstream(upstream: Upstream) -> dict[str, object]:
    listen = upstream.listen
    shown: dict[str, object] = {
        "url": upstream.url,
        "identity": upstream.identity,
        "anonymous": upstream.identity is None or None,
        "mount": upstream.mount,
        "listen": listen and (f"[{listen[0]}]:{listen[1]}" if ":" in listen[0] else f"{listen[0]}:{listen[1]}"),
        "accept": upstream.accept,
        "accept_language": upstream.accept_language,
        "methods": None if upstream.methods is None else sorted(upstream.methods),
        "read_only": upstream.read_only or None,
        "reading_posts": list(upstream.reading_posts) or None,
        "deny": list(upstream.deny) or None,
        "cookies": "pass" if upstream.passes_cookies else None,
        "token_echo": "pass" if upstream.passes_token_echo else None,
        "drops_csv_suffix": upstream.drops_csv_suffix or None,
        "token_fault": upstream.token_fault,
        "probe": upstream.probe,
    }
    for name in (
        "connect_timeout", "first_byte_timeout", "idle_timeout", "total_timeout", "max_requests", "replay_limit",
    ):  # fmt: skip
        if getattr(upstream, name) != getattr(_DEFAULTS, name):
            shown[name] = getattr(upstream, name)
    return shown | _network(upstream.network) | {"headers": dict(upstream.headers)}


def _network(network: Network) -> dict[str, object]:
    return {
        "proxy": network.proxy and _masked(network.proxy),
        "ca_file": network.ca_file,
        "tls_strict": None if network.tls_strict else False,
    }


def _masked(url: str) -> str:
    password = urlsplit(url).password
    return url if password is None else url.replace(f":{password}@", f":{MASK}@", 1)


def _table(name: str, table: Mapping[str, object]) -> Iterator[str]:
    yield f"[{name}]"
    inner = {key: value for key, value in table.items() if isinstance(value, dict) and value}
    for key, value in table.items():
        if value is not None and not isinstance(value, dict):
            yield f"{_key(key)} = {_value(value)}"
    yield ""
    for key, value in inner.items():
        yield from _table(f"{name}.{key}", value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: object) -> str:
    if isinstance(value, Secret):
        return _value(MASK if value.is_literal else value.reference)
    if isinstance(value, list):
        return f"[{', '.join(_value(one) for one in value)}]"
    if isinstance(value, float):
        return repr(value)
    # JSON's texts, numbers, true and false are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
