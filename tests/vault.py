"""A stand-in for HashiCorp Vault: its key-value engine, version 2, as the HTTP API documents it, on a real socket.

https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2 and api-docs/system/internal-ui-mounts. Vault itself is
in no package registry.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hvs.canary-vault-token"
TIME = "2026-11-21T08:00:00.123456789Z"


class Vault:
    """What the stand-in holds. `mounts` are paths to options; `secrets` API paths to versions, None a deleted one."""

    def __init__(self) -> None:
        self.address = ""
        self.namespace = ""
        self.mounts: dict[str, tuple[str, dict[str, str] | None]] = {
            "secret/": ("kv", {"version": "2"}),
            "team/kv/": ("kv", {"version": "2"}),
            "old/": ("kv", {"version": "1"}),
            "transit/": ("transit", None),
        }
        self.secrets: dict[str, list[dict[str, Any] | None]] = {}
        self.requests: list[tuple[str, str]] = []
        self.fields: list[dict[str, str]] = []
        self.answer: tuple[int, dict[str, str], bytes] | None = None
        """Instead of everything else."""
        self.between: Callable[[], object] = _nothing
        """Happens once, before the next write: somebody else is faster."""

    def versions(self, path: str) -> list[dict[str, Any] | None]:
        return self.secrets.setdefault(path, [])

    def respond(self, method: str, path: str, fields: dict[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
        if fields.get("x-vault-namespace", "") != self.namespace or fields.get("x-vault-token") != TOKEN:
            return 403, {"errors": ["permission denied"]}
        if path.startswith("/v1/sys/internal/ui/mounts/"):
            return self._mount(path.removeprefix("/v1/sys/internal/ui/mounts/"))
        found = next((one for one in self.mounts if path.startswith(f"/v1/{one}data/")), None)
        if found is None:
            return 404, {"errors": [f'no handler for route "{path.removeprefix("/v1/")}". route entry not found.']}
        versions = self.versions(path.removeprefix("/v1/"))
        return self._read(versions) if method == "GET" else self._write(versions, json.loads(body))

    def _mount(self, path: str) -> tuple[int, dict[str, Any]]:
        found = next((one for one in self.mounts if f"{path}/".startswith(one)), None)
        if found is None:  # which says nothing about what there is
            told = "preflight capability check returned 403, please ensure client's policies grant access to path"
            return 403, {"errors": [f'{told} "{path}/"']}
        kind, options = self.mounts[found]
        return 200, _wrapped({"accessor": f"{kind}_1", "options": options, "path": found, "type": kind})

    def _read(self, versions: list[dict[str, Any] | None]) -> tuple[int, dict[str, Any]]:
        if not versions:
            return 404, {"errors": []}
        metadata = {
            "created_time": TIME, "custom_metadata": None, "destroyed": False, "version": len(versions),
            "deletion_time": TIME if versions[-1] is None else "",
        }  # fmt: skip
        return 404 if versions[-1] is None else 200, _wrapped({"data": versions[-1], "metadata": metadata})

    def _write(self, versions: list[dict[str, Any] | None], body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        _ = self.between()
        self.between = _nothing
        if body.get("options", {}).get("cas", len(versions)) != len(versions):
            return 400, {"errors": ["check-and-set parameter did not match the current version"]}
        versions.append(body["data"])
        return 200, _wrapped({
            "created_time": TIME, "custom_metadata": None, "deletion_time": "", "destroyed": False,
            "version": len(versions),
        })  # fmt: skip


def _nothing() -> None: ...


def _wrapped(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "request_id": "8a1c4a1e-0000-4000-8000-000000000000", "lease_id": "", "renewable": False, "lease_duration": 0,
        "data": data, "wrap_info": None, "warnings": None, "auth": None,
    }  # fmt: skip


@contextmanager
def vault() -> Iterator[Vault]:
    """Run a stand-in on a free port of this machine."""
    there = Vault()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fields = {name.lower(): value for name, value in self.headers.items()}
            there.requests.append((self.command, self.path))
            there.fields.append(fields)
            if there.answer is not None:
                status, extra, content = there.answer
            else:
                status, said = there.respond(self.command, self.path, fields, body)
                extra, content = (
                    {"Content-Type": "application/json", "Cache-Control": "no-store"},
                    json.dumps(said).encode(),
                )
            self.send_response(status)
            for name, value in extra.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(ConnectionError):  # who has read enough hangs up
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = _respond  # noqa: N815 - the library's names

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Callers hang up, and what else goes wrong here their answer tells."""

    with Server(("127.0.0.1", 0), Handler) as server:
        there.address = f"http://127.0.0.1:{server.server_port}"
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield there
        finally:
            server.shutdown()
            serving.join()
