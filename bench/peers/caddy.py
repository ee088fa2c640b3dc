"""Caddy as a reverse proxy with a fixed token: Debian's, and the current one."""

import subprocess

from bench.peers.launch import Launch, mounted
from bench.programs import HOME, MissingPartError, first_line, program
from bench.upstream import NAME, TOKEN, Site

CURRENT = "github.com/caddyserver/caddy/v2/cmd/caddy@latest"


def caddy_debian(site: Site) -> Launch:
    path = program("caddy", how="apt-get install caddy")
    return _launch(site, path, f"tls_trusted_ca_certs {site.ca_file}")


def caddy_current(site: Site) -> Launch:
    path = HOME / "go" / "caddy"
    if not path.is_file():
        raise MissingPartError("the current Caddy is missing; to get it: install Go, then scripts/bench --get-peers")
    return _launch(site, str(path), f"tls_trust_pool file {site.ca_file}")


def _launch(site: Site, path: str, trust: str) -> Launch:
    # It keeps 32 idle connections for each host unless told otherwise, and opens new ones all the time beyond that.
    transport = "keepalive_idle_conns_per_host 512\nversions 1.1"
    presented = f'header_up Authorization "Bearer {TOKEN}"'
    configuration = f"""
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{site.port} {{
    handle_path /tls/* {{
        reverse_proxy https://127.0.0.1:{site.tls_port} {{
            {presented}
            transport http {{
                tls_server_name {NAME}
                {trust}
                {transport}
            }}
        }}
    }}
    handle_path /plain/* {{
        reverse_proxy 127.0.0.1:{site.plain_port} {{
            {presented}
            transport http {{
                {transport}
            }}
        }}
    }}
}}
"""
    return Launch(
        (path, "run", "--adapter", "caddyfile", "--config", site.write("Caddyfile", configuration)),
        "Caddy " + _version(path),
        mounted(site),
        {"HOME": str(site.folder), "XDG_CONFIG_HOME": str(site.folder), "XDG_DATA_HOME": str(site.folder)},
    )


def _version(path: str) -> str:
    """Return the version: of its own words where Debian built it, of Go's record where `go install` did."""
    said = first_line(path, "version")
    if said == "unknown":
        recorded = subprocess.run([path, "build-info"], capture_output=True, text=True, check=True).stdout
        said = next(line.split()[2] for line in recorded.splitlines() if line.startswith("mod\t"))
    return said.split(maxsplit=1)[0].removeprefix("v")
