"""A real Keycloak, started from its own distribution, with nothing installed and nothing kept but a download.

The first use on a machine downloads the zip through Maven (176 MB), unpacks it and lets it build itself and its empty
database once; that folder is kept in the user's cache and is never served from. Each run links to its programs and
copies its database, so that it is up in about ten seconds and begins clean. `python -m tests.keycloak.server` does the
first use ahead of time.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import httpx2
from filelock import FileLock
from platformdirs import user_cache_path

VERSION = "26.7.0"
RECIPE = 1
"""Raised when the options that Keycloak builds itself with change (`BUILD_OPTIONS`)."""

ADMIN = "admin"
REALM = Path(__file__).with_name("realm.json")

START_SECONDS = 180.0
"""A first start on two busy cores takes half a minute; one that has not come up by now never will."""
DOWNLOAD_SECONDS = 900.0
CALL_SECONDS = 30.0

BUILD_OPTIONS = ("--http-relative-path=/auth", "--health-enabled=true")
"""The path gives the URLs that Provena and .Stat Suite have; both are fixed when the server is built."""


class MissingPartError(Exception):
    """This machine cannot run Keycloak; the two arguments are what is missing and how to get it."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(f"{what} is missing; to get it: {how}")
        self.what = what
        self.how = how


def cache_folder() -> Path:
    """Return the folder that keeps the download between runs (below XDG_CACHE_HOME where that is set)."""
    return user_cache_path("bearerproxy", appauthor=False) / "keycloak"


def prepared(cache: Path) -> Path:
    """Return the folder of an unpacked and built server with an empty database, made on first use.

    Safe while other runs on this machine do the same: one prepares, the others wait. Raises MissingPartError.
    """
    if sys.platform == "win32":
        raise MissingPartError("a Unix shell for Keycloak's start script", "run these tests on Linux, macOS or in WSL")
    if shutil.which("java") is None:
        raise MissingPartError("a Java runtime (17 or newer)", "apt-get install default-jre-headless")
    home = cache / f"server-{VERSION}-{RECIPE}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "prepare.lock", timeout=DOWNLOAD_SECONDS + START_SECONDS):
        if not home.is_dir():
            distribution = _downloaded(cache)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                with zipfile.ZipFile(distribution) as packed:
                    packed.extractall(folder)
                fresh = Path(folder) / f"keycloak-{VERSION}"
                with _Process(fresh, fresh / "first-start.log") as process:
                    process.start()
                    process.stop()  # by SIGTERM: the database is closed properly before it is copied
                fresh.rename(home)
    return home


def _downloaded(cache: Path) -> Path:
    name = f"keycloak-quarkus-dist-{VERSION}.zip"
    kept = cache / name
    if kept.is_file():
        return kept
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingPartError(f"Keycloak {VERSION}", f"apt-get install maven, or put {name} into {cache}")
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        order = [maven, "-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"]
        order += [f"-Dartifact=org.keycloak:keycloak-quarkus-dist:{VERSION}:zip", f"-DoutputDirectory={folder}"]
        done = subprocess.run(
            order, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False
        )
        if done.returncode:
            raise MissingPartError(
                f"Keycloak {VERSION}", f"a network in which Maven works; it said: {done.stdout[-500:]}"
            )
        (Path(folder) / name).replace(kept)
    return kept


class _Process:
    """One server process below `home`, on ports of its own that it keeps over restarts."""

    def __init__(self, home: Path, log: Path) -> None:
        self.home = home
        self.log = log
        self.port, self._management_port = _free_ports()
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/auth"

    def start(self) -> None:
        """Return when the server is ready. Raises RuntimeError with the end of its log if it does not get there."""
        self._output = self.log.open("ab")
        self._process = subprocess.Popen(
            [
                *("sh", self.home / "bin" / "kc.sh", "start-dev", *BUILD_OPTIONS),
                *("--http-host=127.0.0.1", f"--http-port={self.port}", f"--hostname={self.url}"),
                *("--http-management-host=127.0.0.1", f"--http-management-port={self._management_port}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the script and its Java are ended together
            env=_environment(),
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Keycloak did not start:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End the server as an operator does, sessions kept."""
        if self._process is not None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CALL_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the server as a power cut does, and return when its port is closed. Fine if it is not running."""
        if self._process is not None:
            if sys.platform != "win32":
                self._signal(signal.SIGKILL)
            self._process.wait(CALL_SECONDS)
            self._process = None
            self._wait_for_closed_port()
        if self._output is not None:
            self._output.close()
            self._output = None

    def _signal(self, number: int) -> None:
        if self._process is not None and sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _wait_for_closed_port(self) -> None:
        # What was waited for is the script; its Java, killed at the same moment, takes a little longer to be gone.
        deadline = time.monotonic() + CALL_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), CALL_SECONDS).close()
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"Keycloak was killed, but its port {self.port} still answers")

    def _is_ready(self) -> bool:
        try:
            answer = httpx2.get(
                f"http://127.0.0.1:{self._management_port}/auth/health/ready", timeout=CALL_SECONDS, trust_env=False
            )
        except httpx2.TransportError:
            return False
        return answer.status_code == 200


class Keycloak:
    """A running issuer. All calls block, each bounded in time; in an async test use `asyncio.to_thread` for long ones.

    `url` is its base (`http://127.0.0.1:PORT/auth`) and stays the same over restarts.
    """

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        """Lay a clean server into the empty `folder`. Raises MissingPartError where this machine cannot have one."""
        origin = prepared(cache or cache_folder())
        (folder / "bin").mkdir()
        shutil.copy(origin / "bin" / "kc.sh", folder / "bin")  # a link would lead it home to the origin's database
        shutil.copytree(origin / "data" / "h2", folder / "data" / "h2")
        for programs in ("lib", "conf", "providers"):
            (folder / programs).symlink_to(origin / programs)
        self._process = _Process(folder, folder / "keycloak.log")
        self.url = self._process.url
        self.log = self._process.log
        self._http = httpx2.Client(
            timeout=CALL_SECONDS,
            trust_env=False,
            limits=httpx2.Limits(max_keepalive_connections=0),  # a kept one would break after a restart
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._process.kill()

    def start(self) -> None:
        """Return when the server is ready; about 8 s, RuntimeError after START_SECONDS."""
        self._process.start()

    def stop(self) -> None:
        """End the server by SIGTERM; connections to `url` are refused from then on."""
        self._process.stop()

    def kill(self) -> None:
        """End the server by SIGKILL; its sessions are still there after `start`."""
        self._process.kill()

    def restart(self) -> None:
        """Stop and start, with realms, sessions and keys kept."""
        self.stop()
        self.start()

    def fresh_realm(self, settings: Mapping[str, Any] | None = None) -> "Realm":
        """Return the realm `research` as realm.json has it, without any session, `settings` put over it; 0.8 s."""
        imported = json.loads(REALM.read_text(encoding="utf-8")) | dict(settings or {})
        name = imported["realm"]
        if self.admin("GET", f"/{name}", expect=(200, 404)).status_code == 200:
            self.admin("DELETE", f"/{name}")
        self.admin("POST", "", json=imported)
        return Realm(self, name)

    def admin(
        self, method: str, path: str, *, json: Any = None, expect: Sequence[int] = (200, 201, 204)
    ) -> httpx2.Response:
        """Return the answer of the admin interface below /admin/realms; AssertionError unless it is `expect`ed."""
        answer = self._http.request(
            method,
            f"{self.url}/admin/realms{path}",
            json=json,
            headers={"Authorization": f"Bearer {self._admin_token()}"},
        )
        assert answer.status_code in expect, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer

    def post(self, url: str, form: Mapping[str, str]) -> httpx2.Response:
        """Return the answer to a form, as any OAuth client sends it."""
        return self._http.post(url, data=dict(form))

    def _admin_token(self) -> str:
        # Asked for anew each time: it lives for a minute, and a restart must not be noticed here.
        form = {"grant_type": "password", "client_id": "admin-cli", "username": ADMIN, "password": ADMIN}
        answer = self.post(f"{self.url}/realms/master/protocol/openid-connect/token", form)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])


class Realm:
    """A realm of a running Keycloak: its endpoints for clients, and its operator's view for assertions."""

    def __init__(self, keycloak: Keycloak, name: str) -> None:
        self.keycloak = keycloak
        self.name = name
        self.issuer = f"{keycloak.url}/realms/{name}"
        self.token_endpoint = f"{self.issuer}/protocol/openid-connect/token"
        self.device_authorization_endpoint = f"{self.issuer}/protocol/openid-connect/auth/device"
        self.authorization_endpoint = f"{self.issuer}/protocol/openid-connect/auth"
        self.revocation_endpoint = f"{self.issuer}/protocol/openid-connect/revoke"
        self.jwks_uri = f"{self.issuer}/protocol/openid-connect/certs"

    def put(self, **settings: Any) -> None:
        """Change settings of the realm by Keycloak's names: `accessTokenLifespan=5`, `revokeRefreshToken=False`."""
        self.keycloak.admin("PUT", f"/{self.name}", json=settings)

    def put_client(self, client_id: str, **settings: Any) -> None:
        """Change settings of one client by Keycloak's names: `enabled=False`, `secret="other"`."""
        path = f"/{self.name}/clients/{self._client(client_id)}"
        self.keycloak.admin("PUT", path, json=self.keycloak.admin("GET", path).json() | settings)

    def put_user(self, username: str, **settings: Any) -> None:
        """Change a user by Keycloak's names: `enabled=False`."""
        path = f"/{self.name}/users/{self._user(username)}"
        self.keycloak.admin("PUT", path, json=self.keycloak.admin("GET", path).json() | settings)

    def add_key(self) -> None:
        """Sign with a new key from now on; the old one stays published, as in a planned change of keys."""
        realm_id = self.keycloak.admin("GET", f"/{self.name}").json()["id"]
        self.keycloak.admin(
            "POST",
            f"/{self.name}/components",
            json={
                "name": "newer",
                "providerId": "rsa-generated",
                "providerType": "org.keycloak.keys.KeyProvider",
                "parentId": realm_id,
                "config": {"priority": ["1000"], "algorithm": ["RS256"], "keySize": ["2048"]},
            },
        )

    def token(self, **form: str) -> httpx2.Response:
        """Return the token endpoint's answer to `form`."""
        return self.keycloak.post(self.token_endpoint, form)

    def device(self, client_id: str, **form: str) -> httpx2.Response:
        """Return the device authorization endpoint's answer."""
        return self.keycloak.post(self.device_authorization_endpoint, {"client_id": client_id, **form})

    def events(self, kind: str, client_id: str | None = None) -> list[dict[str, Any]]:
        """Return the stored events of a type (`REFRESH_TOKEN`, `LOGIN`, ...) of a client or of all, newest first.

        `time` of each is in milliseconds since the epoch. One successful renewal is one REFRESH_TOKEN.
        """
        query = f"type={kind}&max=1000" + (f"&client={client_id}" if client_id else "")
        return list(self.keycloak.admin("GET", f"/{self.name}/events?{query}").json())

    def forget_events(self) -> None:
        """Begin counting anew."""
        self.keycloak.admin("DELETE", f"/{self.name}/events")

    def sessions(self, username: str, *, offline: str | None = None) -> list[dict[str, Any]]:
        """Return a user's sessions: the ordinary ones, or the offline ones of the client whose id `offline` is."""
        path = f"/{self.name}/users/{self._user(username)}"
        kind = "sessions" if offline is None else f"offline-sessions/{self._client(offline)}"
        return list(self.keycloak.admin("GET", f"{path}/{kind}").json())

    def log_out(self, username: str) -> None:
        """End a user's ordinary sessions, and make all tokens that they have stale, offline ones too."""
        self.keycloak.admin("POST", f"/{self.name}/users/{self._user(username)}/logout")

    def withdraw(self, username: str, client_id: str) -> None:
        """Take back what a user granted to a client, offline tokens included."""
        self.keycloak.admin("DELETE", f"/{self.name}/users/{self._user(username)}/consents/{client_id}")

    def _user(self, username: str) -> str:
        found = self.keycloak.admin("GET", f"/{self.name}/users?username={username}&exact=true").json()
        return str(found[0]["id"])

    def _client(self, client_id: str) -> str:
        found = self.keycloak.admin("GET", f"/{self.name}/clients?clientId={client_id}").json()
        return str(found[0]["id"])


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def _environment() -> dict[str, str]:
    """Return the machine's environment without anything that Keycloak or Java would take as an option."""
    kept = ("PATH", "HOME", "LANG", "JAVA_HOME", "TMPDIR")
    machine = {name: value for name, value in os.environ.items() if name in kept}  # noqa: TID251 - the machine's own
    return machine | {
        "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
        "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN,
        "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1",  # starts sooner; nothing here runs long enough to miss the rest
    }


if __name__ == "__main__":
    print(prepared(cache_folder()))  # noqa: T201 - its answer
