"""`vault:PATH#key`: HashiCorp Vault's (or OpenBao's) key-value engine, version 2, by its HTTP API.

PATH is the one that `vault kv get PATH` takes. As that command does, we ask Vault first which mount the path belongs
to, because a mount may have several segments, and the API wants `data/` behind it.
"""

import json
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from proxy.errors import SecretError
from proxy.secret_services.service import CONNECT_SECONDS, READ_SECONDS, for_people, text_of

LIMIT_BYTES = 1024 * 1024
TOTAL_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class _Version:
    """What the path holds now."""

    number: int
    """What check-and-set compares; 0 if there never was a version."""
    data: dict[str, Any] | None
    """None if there is no version, or the newest one is deleted."""


class VaultSecret:
    """One key of a secret at a path of Vault's KV engine, version 2."""

    def __init__(self, text: str, environ: Mapping[str, str]) -> None:
        path, _, key = text.partition("#")
        segments = path.strip("/").split("/")
        if not key or len(segments) < 2 or not all(segments) or {".", ".."} & {*segments}:
            raise SecretError("vault: wants a path below a mount and a key, such as vault:secret/provena#api-token")
        self._path = "/".join(segments)
        self._key = key
        self._environ = environ

    def check(self) -> None:
        _ = self._address()

    def read(self) -> str:
        with self._connected() as http:
            data = self._version(http, self._data_path(http)).data
        if data is None:
            raise SecretError(f"Vault has no secret at {self._path}")
        if self._key not in data:
            have = ", ".join(sorted(data)) or "none"
            raise SecretError(f"Vault's secret {self._path} has no key {self._key}; it has: {have}")
        return text_of(data[self._key], f"the key {self._key} of Vault's secret {self._path}")

    def prepare(self) -> None:
        with self._connected() as http:
            _ = self._version(http, self._data_path(http))

    def write(self, value: str) -> None:
        with self._connected() as http:
            path = self._data_path(http)
            now = self._version(http, path)
            # Check-and-set: what somebody else writes at the same moment must not be lost with our copy of the rest.
            body = {"options": {"cas": now.number}, "data": (now.data or {}) | {self._key: value}}
            _ = self._call(http, "POST", path, body)

    def _data_path(self, http: httpx2.Client) -> str:
        _, answer = self._call(http, "GET", f"sys/internal/ui/mounts/{self._path}")
        mount = answer.get("data") or {}
        if mount.get("type") != "kv" or (mount.get("options") or {}).get("version") != "2":
            raise SecretError(f"Vault's path {self._path} is not in a key-value engine of version 2")
        prefix = str(mount["path"])
        return f"{prefix}data/{self._path.removeprefix(prefix)}"

    def _version(self, http: httpx2.Client, path: str) -> _Version:
        status, answer = self._call(http, "GET", path, may_lack=True)
        said = answer.get("data") or {}
        number = (said.get("metadata") or {}).get("version", 0)
        # A deleted version is a 404 that has metadata; its number is what check-and-set wants to hear.
        return _Version(int(number), said.get("data") if status == 200 else None)

    def _call(
        self, http: httpx2.Client, method: str, path: str, body: object = None, *, may_lack: bool = False
    ) -> tuple[int, dict[str, Any]]:
        """Return status and JSON of the answer; raises SecretError unless it is a success, or a 404 that `may_lack`."""
        content = None if body is None else json.dumps(body).encode()
        try:
            with http.stream(method, f"/v1/{quote(path)}", content=content) as response:
                text = _bounded(response)
        except (httpx2.HTTPError, ssl.SSLError) as error:
            why = for_people(str(error)) or type(error).__name__
            raise SecretError(f"Vault at {http.base_url.host} cannot be reached: {why}") from None
        try:
            answer = json.loads(text) if text else {}
        except ValueError:
            answer = None
        status = response.status_code
        if 300 <= status < 400:
            raise SecretError(
                f"Vault at {http.base_url.host} redirects elsewhere, where we do not follow; "
                "let VAULT_ADDR name the active node"
            )
        if not isinstance(answer, dict):
            raise SecretError(f"what answers at {http.base_url.host} is not Vault (status {status}, no JSON)")
        if status in (200, 204) or (status == 404 and may_lack):
            return status, answer
        errors = answer.get("errors")
        told = for_people("; ".join(str(one) for one in errors)) if isinstance(errors, list) else ""
        raise SecretError(f"Vault refuses {self._path} with status {status}" + (f": {told}" if told else ""))

    def _connected(self) -> httpx2.Client:
        address = self._address()
        fields = {
            "X-Vault-Token": self._token(),
            "X-Vault-Request": "true",  # Vault's agent may insist on it, against requests that a page forged
            "Accept-Encoding": "identity",
        }
        if namespace := self._environ.get("VAULT_NAMESPACE"):
            fields["X-Vault-Namespace"] = namespace
        return httpx2.Client(
            base_url=address,
            headers=fields,
            verify=self._trusted(),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
        )

    def _address(self) -> str:
        address = self._environ.get("VAULT_ADDR", "")
        if not address:
            raise SecretError("vault: wants the variable VAULT_ADDR, such as https://vault.example.org:8200")
        try:
            parts = urlsplit(address)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or parts.scheme not in ("http", "https") or parts.username or parts.query or parts.fragment:
            raise SecretError("VAULT_ADDR is no address such as https://vault.example.org:8200")
        if parts.scheme == "http" and not re.fullmatch(r"localhost|127(\.\d+){3}|::1", host):
            raise SecretError("VAULT_ADDR is http://, which would send token and secrets in the clear; use https://")
        return address.rstrip("/")

    def _trusted(self) -> ssl.SSLContext:
        file = self._environ.get("VAULT_CACERT")
        if not file:
            return httpx2.create_ssl_context(trust_env=False)
        try:
            return ssl.create_default_context(cafile=file)
        except OSError as error:
            raise SecretError(f"VAULT_CACERT {file} cannot be used: {error.strerror or error}") from None

    def _token(self) -> str:
        """Return the token as the `vault` command finds it: the variable, else the file that its login wrote."""
        token = self._environ.get("VAULT_TOKEN", "")
        if token:
            return _printable(token, "VAULT_TOKEN")
        file = Path(self._environ.get("VAULT_TOKEN_FILE") or "~/.vault-token")
        try:
            token = file.expanduser().read_text(encoding="ascii").strip()
        except FileNotFoundError:
            token = ""
        except (OSError, RuntimeError, ValueError) as error:  # no home folder; what is no token
            why = getattr(error, "strerror", None) or "it holds no token"
            raise SecretError(f"Vault's token file {file} cannot be read: {why}") from None
        if not token:
            raise SecretError(f"vault: wants a token: VAULT_TOKEN, or the file {file}, which vault login writes")
        return _printable(token, f"the file {file}")


def _printable(token: str, whose: str) -> str:
    """Return `token` if it can be the value of a field (RFC 9110 5.5)."""
    if not re.fullmatch(r"[!-~]+", token):
        raise SecretError(f"{whose} holds no token of Vault")
    return token


def _bounded(response: httpx2.Response) -> bytes:
    """Return the body; raises SecretError if it is too long or too slow to be an answer of Vault."""
    began, text = time.monotonic(), b""
    for part in response.iter_raw():
        text += part
        if len(text) > LIMIT_BYTES or time.monotonic() - began > TOTAL_SECONDS:
            raise SecretError("Vault's answer is too long or too slow")
    return text
