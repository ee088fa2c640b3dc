"""bearerproxy as people run it: `serve` with a configuration, every feature on, the access log in a file."""

import json
import subprocess
import sys
from importlib.util import find_spec

from bench.peers.launch import Launch, mounted
from bench.programs import MissingPartError
from bench.upstream import Site

_PLAIN = "import sys; sys.modules['aiofastnet'] = None; from proxy.cli import main; main()"
"""The command without the extra `fast`, which an environment for tests has."""

WORKERS = 2
REQUESTS = 2048
"""How many may be relayed at once: more than the slow streams that are opened, and than the default."""


def bearerproxy(site: Site) -> Launch:
    """Return the command of this checkout, without extras."""
    return _launch(site, sys.executable, "-c", _PLAIN)


def fast(site: Site) -> Launch:
    """Return the command of this checkout with the extra of that name. Raises MissingPartError without it."""
    if find_spec("aiofastnet") is None:
        raise MissingPartError("aiofastnet is missing; to get it: .venv/bin/python -m pip install 'bearerproxy[fast]'")
    return _launch(site, sys.executable, "-m", "proxy")


def workers(site: Site) -> Launch:
    """Return the command of this checkout with two workers."""
    return _launch(site, sys.executable, "-c", _PLAIN, options=("--workers", str(WORKERS)))


def of_environment(site: Site, python: str) -> Launch:
    """Return the command of the environment that `python` belongs to, with the extras that it has."""
    return _launch(site, python, "-m", "proxy")


def _launch(site: Site, python: str, *start: str, options: tuple[str, ...] = ()) -> Launch:
    said = subprocess.run([python, "-m", "proxy", "--version"], capture_output=True, text=True, check=False)
    if said.returncode:
        raise MissingPartError(
            f"{python} has no bearerproxy that starts; to get it: scripts/venv\n{said.stderr[-500:]}"
        )
    bases = mounted(site)
    return Launch(
        (python, *start, "serve", "--config", site.write("proxy.toml", _configuration(site)), *options),
        " ".join((f"{said.stdout.strip()}, {interpreter(python)}", *options)),
        bases | {"unkept": bases["tls"].replace("/tls", "/unkept")},
        {"XDG_STATE_HOME": str(site.folder), "XDG_CONFIG_HOME": str(site.folder)},
    )


def _configuration(site: Site) -> str:
    return f"""
[server]
port = {site.port}
max_requests = {REQUESTS}

[log]
format = "json"
access = true

[store]
kind = "file"
path = "state"

[identity.bench]
issuer = "{site.issuer}"
client_id = "bench"
client_secret = "a-secret-of-the-bench"
grant = "client_credentials"

[upstream.tls]
url = "{site.tls}"
identity = "bench"
mount = "/tls"
ca_file = "{site.ca_file}"
max_requests = {REQUESTS}

[upstream.unkept]
url = "{site.tls}"
identity = "bench"
mount = "/unkept"
ca_file = "{site.ca_file}"
replay_limit = 0

[upstream.plain]
url = "{site.plain}"
identity = "bench"
mount = "/plain"
"""


_ASKED = """
import json, ssl, sys, sysconfig
built = sysconfig.get_config_var("CONFIG_ARGS") or ""
print(json.dumps({
    "version": sys.version.split()[0],
    "is_optimised": "--enable-optimizations" in built,
    "is_debian": "deb_system" in sysconfig.get_scheme_names(),
    "openssl": ssl.OPENSSL_VERSION.split()[1],
}))
"""


def interpreter(python: str) -> str:
    """Return what runs us in words; whether it was built with profile-guided optimisation is worth 10 to 20 %."""
    said = json.loads(subprocess.run([python, "-c", _ASKED], capture_output=True, text=True, check=True).stdout)
    if said["is_debian"]:
        build = "of Debian, built with PGO"  # whose rules do it without configure's word for it
    else:
        build = "built with PGO" if said["is_optimised"] else "built without PGO"
    return f"Python {said['version']} ({build}, OpenSSL {said['openssl']})"
