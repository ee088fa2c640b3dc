"""The protected service that everybody relays to: an nginx with a plain and a TLS door, and an issuer's answers."""

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.programs import await_answer, free_ports, program, running
from tests.journeys.authority import Authority

NAME = "localhost"
"""The name in the certificate; everybody connects to 127.0.0.1."""

TOKEN = ".".join(
    base64.urlsafe_b64encode(part).rstrip(b"=").decode()
    for part in (b'{"alg":"RS256","typ":"JWT"}', json.dumps({"sub": "bench", "scope": "s" * 600}).encode(), b"s" * 256)
)
"""As long as Keycloak's access tokens are; the same for every peer."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a peer stands in front of, and where it may write."""

    folder: Path
    port: int
    """Where the peer is to listen, on 127.0.0.1."""
    second_port: int
    """For peers that need a port for each upstream."""
    tls_port: int
    plain_port: int
    ca_file: Path

    @property
    def tls(self) -> str:
        return f"https://{NAME}:{self.tls_port}"

    @property
    def plain(self) -> str:
        return f"http://127.0.0.1:{self.plain_port}"

    @property
    def issuer(self) -> str:
        return f"{self.plain}/issuer"

    def write(self, name: str, text: str) -> str:
        """Write a configuration file and return its path."""
        place = self.folder / name
        place.write_text(text, encoding="utf-8")
        return str(place)


@dataclass(frozen=True, slots=True)
class Upstream:
    """The running nginx."""

    folder: Path
    tls_port: int
    plain_port: int
    ca_file: Path
    bulk: Path
    """The file behind `/bulk`, which is also what is uploaded."""
    version: str

    def site(self, name: str) -> Site:
        """Return a new place for a peer to run in."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        port, second_port = free_ports(2)
        return Site(folder, port, second_port, self.tls_port, self.plain_port, self.ca_file)


@contextmanager
def serving(folder: Path, bulk_bytes: int) -> Iterator[Upstream]:
    """Run the upstream. Raises MissingPartError where there is no nginx."""
    nginx = program("nginx", how="apt-get install nginx-light")
    plain_port, tls_port = free_ports(2)
    authority = Authority.create(folder)
    authority.context(NAME)
    [certificate] = folder.glob("server-*.pem")
    files = folder / "files"
    files.mkdir()
    (files / "1k").write_bytes(b"0123456789abcdef" * 64)
    bulk = files / "bulk"
    with bulk.open("wb") as file:
        file.truncate(bulk_bytes)
    configuration = folder / "upstream.conf"
    configuration.write_text(_nginx(folder, certificate, plain_port, tls_port, bulk_bytes), encoding="utf-8")
    version = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr.partition(":")[2].strip()
    log = folder / "upstream.log"
    with running([nginx, "-e", "stderr", "-c", str(configuration)], log) as process:
        await_answer(f"http://127.0.0.1:{plain_port}/live", process, log)
        yield Upstream(folder, tls_port, plain_port, authority.ca_file, bulk, version)


def _nginx(folder: Path, certificate: Path, plain_port: int, tls_port: int, bulk_bytes: int) -> str:
    issuer = f"http://127.0.0.1:{plain_port}/issuer"
    metadata = json.dumps({"issuer": issuer, "token_endpoint": f"{issuer}/token"})
    token = json.dumps({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 604800})
    signed_in = f'if ($http_authorization != "Bearer {TOKEN}") {{ return 401; }}'  # who forgets the token is found out
    return f"""
daemon off; master_process off; pid {folder}/upstream.pid;
events {{ worker_connections 8192; }}
http {{
    access_log off; default_type application/json; open_file_cache max=16;
    keepalive_requests 1000000000; keepalive_timeout 600s;
    client_max_body_size 0; client_body_buffer_size {bulk_bytes};  # an upload is read to its end, in memory
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxied; large_client_header_buffers 4 16k;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{plain_port} backlog=4096; listen 127.0.0.1:{tls_port} ssl backlog=4096;
        ssl_certificate {certificate}; ssl_certificate_key {certificate};
        root {folder}/files;
        location = /live {{ return 204; }}
        location = /issuer/.well-known/openid-configuration {{ return 200 '{metadata}'; }}
        location = /issuer/token {{ return 200 '{token}'; }}
        location / {{ {signed_in} }}
        location = /slow {{ {signed_in} alias {folder}/files/bulk; limit_rate 1k; }}
        location = /sink {{ {signed_in}
            proxy_pass http://127.0.0.1:{plain_port}/live;
            proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_method GET;
        }}
    }}
}}
"""
