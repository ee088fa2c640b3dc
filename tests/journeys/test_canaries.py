"""A31, S15, S35, S36: no token, code or secret where people, programs or neighbours can read it, come what may."""

import asyncio
import base64
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from proxy.clock import SystemClock
from proxy.control.explanations import KINDS
from proxy.stores import FileStore
from proxy.tokens import TokenSet
from tests import command
from tests.journeys.house import calling
from tests.poll import eventually

CANARY = "canary-"
"""Begins every secret of these tests, and nothing else does."""
SECRET = "canary-client-secret"
KEY = "canary-api-key"
MODES = ("good", "ended", "client", "broken", "html", "redirect", "garbage", "gone")
"""What an issuer does, and the identity and the mount in front of it."""
PATHS = (
    "ok", "401", "403", "500", "echo", "echo-json", "echo-text", "echo-long", "echo-events", "echo-401", "location",
    "garbage", "control", "cut-head", "cut-body", "silent",
)  # fmt: skip


class World(ThreadingHTTPServer):
    """Issuers that say back what they were sent, and an API that does everything wrong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Strange)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.calls: Counter[str] = Counter()
        self.presented: set[str] = set()
        """What the API was shown as a token."""
        self.told: list[str] = []
        """Bodies and credentials that token endpoints were sent."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Callers may hang up."""


class Strange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: World

    def do_GET(self) -> None:
        kind, _, rest = self.path.strip("/").partition("/")
        if kind != "api":
            return self._json(200, self._metadata(kind))
        self.server.presented.add(self.headers.get("Authorization", ""))
        self.server.calls[rest] += 1
        return self._api(rest)

    def do_POST(self) -> None:
        mode, _, which = self.path.strip("/").partition("/")
        form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        sent = f"{form} {self.headers.get('Authorization', '')}"
        self.server.told.append(sent)
        self.server.calls[f"{mode}/{which}"] += 1
        if which == "device":
            return self._json(200, self._device(mode))
        if form.get("device_code") and self.server.calls[f"{mode}/token"] < 2:
            return self._json(400, {"error": "authorization_pending", "error_description": sent})
        return self._token(mode, sent)

    def _metadata(self, mode: str) -> dict[str, str]:
        issuer = f"{self.server.url}/{mode}"
        ends = {"token": "token", "device_authorization": "device", "revocation": "revoke"}
        return {"issuer": issuer} | {f"{name}_endpoint": f"{issuer}/{path}" for name, path in ends.items()}

    def _device(self, mode: str) -> dict[str, Any]:
        link = f"{self.server.url}/{mode}/page?user_code=ABCD-EFGH"
        said = {"device_code": "canary-device-code", "user_code": "ABCD-EFGH", "expires_in": 60, "interval": 1}
        return said | {"verification_uri": link, "verification_uri_complete": link}

    def _token(self, mode: str, sent: str) -> None:
        match mode:
            case "good" | "person":
                number = self.server.calls[f"{mode}/token"]
                said = {"access_token": f"canary-access-token-{number}", "refresh_token": f"canary-refresh-{number}"}
                self._json(200, said | {"token_type": "Bearer", "expires_in": 2, "refresh_expires_in": 1800})
            case "ended":
                self._json(400, {"error": "invalid_grant", "error_description": f"Stale token {sent}"})
            case "client":
                self._json(401, {"error": "invalid_client", "error_description": f"Who is {sent}?"})
            case "broken":
                self._json(500, {"error": sent, "error_description": sent})
            case "html":
                self._plain(200, f"<html><title>{sent}</title>{sent}</html>".encode(), "text/html")
            case "redirect":
                self._plain(302, sent.encode(), Location=f"{self.server.url}/elsewhere?{sent.encode().hex()}&canary-x")
            case "garbage":
                self._plain(200, f'{{"access_token": ["{sent}"]'.encode(), "application/json")
            case _:
                self.close_connection = True

    def _api(self, path: str) -> None:
        shown = self.headers.get("Authorization", "")
        match path:
            case "echo":
                self._plain(200, b"echo", Authorization=shown, **{"Set-Cookie": f"token={shown}"})
            case "echo-json" | "echo-401":
                self._json(200 if path == "echo-json" else 401, {"you": shown})
            case "echo-text":
                self._plain(200, shown.encode())
            case "echo-long":
                self._plain(200, b"x" * 1_000_000 + shown.encode())
            case "echo-events":
                said = f"data: {shown}\n\n"
                self._raw(f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{said}".encode())
            case "location":
                self._plain(302, b"", Location=f"/login?then={shown}")
            case "401" | "403" | "500":
                self._plain(int(path), b"no", **{"WWW-Authenticate": 'Bearer error="invalid_token"'})
            case "garbage":
                self._raw(f"{shown}\r\n\r\n".encode())
            case "control":
                self._raw(f"HTTP/1.1 200 OK\r\nX-Token: {shown}\x00\r\nContent-Length: 2\r\n\r\nok".encode())
            case "cut-head":
                self._raw(f"HTTP/1.1 200 OK\r\nX-Token: {shown}".encode())
            case "cut-body":
                self._raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            case "silent":
                self._raw(b"")
            case _:
                self._plain(200, b"fine")

    def _raw(self, text: bytes) -> None:
        self.wfile.write(text)
        self.close_connection = True

    def _json(self, status: int, said: object) -> None:
        self._plain(status, json.dumps(said).encode(), "application/json")

    def _plain(self, status: int, body: bytes, media_type: str = "text/plain", **fields: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": media_type, "Content-Length": str(len(body)), **fields}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def world() -> Iterator[World]:
    with World() as there:
        serving = threading.Thread(target=there.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield there
        finally:
            there.shutdown()
            serving.join()


@pytest.fixture
async def config(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with one identity for each kind of issuer, all of them signed in once."""
    monkeypatch.setenv("A_CLIENT_SECRET", SECRET)
    monkeypatch.setenv("AN_API_KEY", KEY)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    lines = ['[server]\napi_key = "env:AN_API_KEY"\n[log]\nlevel = "debug"\nformat = "json"']
    lines += [f'[store]\nkind = "file"\npath = "{tmp_path / "state"}"']
    store, now = FileStore(tmp_path / "state"), SystemClock().wall()
    for index, mode in enumerate((*MODES, "person")):
        place = "env:A_CLIENT_SECRET" if index % 2 else f"file:{secret}"
        lines.append(f'[identity.{mode}]\nissuer = "{world.url}/{mode}"\nclient_id = "us"\nclient_secret = "{place}"')
        lines.append(f'[upstream.{mode}]\nurl = "{world.url}/api"\nidentity = "{mode}"')
        held = TokenSet(
            access_token=f"canary-old-{mode}", refresh_token=f"canary-seed-{mode}", expires_at=now - 60,
            obtained_at=now - 360, client_id="us", grant="device_code", issuer=f"{world.url}/{mode}", epoch=1,
        )  # fmt: skip
        if mode != "person":
            await store.save(mode, held)
    file = tmp_path / "proxy.toml"
    file.write_text("\n".join(lines))
    return file


def hits(seen: dict[str, str]) -> dict[str, str]:
    """Return where a secret stands, with what is around it. Client secrets also travel in base64 (RFC 6749 2.3.1)."""
    found = {}
    for mask in (CANARY, base64.b64encode(f"us:{SECRET}".encode()).decode(), CANARY.encode().hex()):
        for where, text in seen.items():
            at = text.lower().find(mask.lower())
            if at >= 0:
                found[where] = text[max(at - 80, 0) : at + 80]
    return found


async def sent(port: int, target: str, *fields: str, start: str = "GET {} HTTP/1.1", host: str = "localhost") -> str:
    """Return everything that comes back for one request on a connection of its own."""
    lines = [start.format(target), f"Host: {host}:{port}", *fields, "Connection: close", "", ""]
    async with calling(port, seconds=40) as caller:
        await caller.send("\r\n".join(lines).encode("latin-1"))
        return (await caller.rest()).decode("latin-1")


CALLERS_OWN = (
    "Authorization: Bearer canary-callers-own", "Proxy-Authorization: Basic canary-callers-own",
    "Cookie: session=canary-cookie",
)  # fmt: skip
WITH_KEY = f"X-Bearerproxy-Key: {KEY}"
BAD = {
    "wrong key": ("/good/ok", "X-Bearerproxy-Key: canary-wrong-key"),
    "key by Basic": ("/good/ok", f"Authorization: Basic {base64.b64encode(b'x:canary-wrong-key').decode()}"),
    "token in the query": ("/good/ok?access_token=canary-inbound", WITH_KEY),
    "signature in the query": ("/good/ok?X-Amz-Signature=canary-signature&X-Amz-Security-Token=canary-st", WITH_KEY),
    "two lengths": ("/good/ok", WITH_KEY, "Content-Length: 1", "Content-Length: 2"),
    "folded": ("/good/ok", WITH_KEY, "X-A: b\r\n c"),
    "upgrade": ("/good/ok", WITH_KEY, "Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: canary-ws"),
    "foreign origin": ("/good/ok", WITH_KEY, "Origin: https://evil.example"),
    "nowhere": ("/nowhere", WITH_KEY),
    "dots": ("/good/%2e%2e/x", WITH_KEY),
}


async def asked(port: int) -> dict[str, str]:
    """Return what comes back for everything that callers do, rightly and wrongly."""
    seen = {}
    for accept in ("application/json", "text/html", "text/plain"):
        wants = f"Accept: {accept}"
        for mode in MODES:
            seen[f"{mode} as {accept}"] = await sent(port, f"/{mode}/ok", WITH_KEY, wants, *CALLERS_OWN)
        for path in PATHS:
            seen[f"/good/{path} as {accept}"] = await sent(port, f"/good/{path}", WITH_KEY, wants, *CALLERS_OWN)
        for what, (target, *fields) in BAD.items():
            seen[f"{what} as {accept}"] = await sent(port, target, *fields, wants, *CALLERS_OWN)
    for method in ("POST", "TRACE", "OPTIONS", "CONNECT"):
        start = f"{method} {{}} HTTP/1.1"
        seen[method] = await sent(port, "/good/401", WITH_KEY, "Content-Length: 0", *CALLERS_OWN, start=start)
    seen["foreign host"] = await sent(port, "/good/ok", WITH_KEY, *CALLERS_OWN, host="evil.example")
    return seen


async def pages(port: int) -> dict[str, str]:
    paths = ["/", "/-/", "/-/live", "/-/ready", "/-/identities.json", "/-/upstreams.json", "/-/errors/", "/-/metrics"]
    paths += ["/-/requests", "/-/requests?path=canary", "/-/requests.csv", "/-/use/good", "/-/use/ended"]
    paths += [f"/-/errors/{kind}" for kind in KINDS] + [f"/-/login/{mode}" for mode in MODES]
    return {path: await sent(port, path, WITH_KEY) for path in paths}


def left_in(folder: Path) -> dict[str, str]:
    return {f"temporary {one}": one.read_bytes().decode("latin-1") for one in folder.rglob("*") if one.is_file()}


async def uploading(port: int, temporary: Path) -> dict[str, str]:
    """Return what stands in `temporary` while an upload is kept that is too large for memory, and the answer to it."""
    block = b"canary-upload " * 10_000
    lines = ["POST /good/ok HTTP/1.1", f"Host: localhost:{port}", WITH_KEY, f"Content-Length: {20 * len(block)}"]
    async with calling(port, seconds=40) as caller:
        await caller.send("\r\n".join([*lines, "Connection: close", "", ""]).encode() + block * 19)
        seen = left_in(temporary)
        await caller.send(block)
        return seen | {"upload": (await caller.rest()).decode("latin-1")}


def around(pid: int, state: Path, temporary: Path) -> dict[str, str]:
    """Return what stands beside the process: command line, temporary files, and its folder but for the token file."""
    seen = {one.name: one.read_text() for one in state.iterdir() if one.name != "tokens.json"}
    seen |= left_in(temporary)
    if sys.platform == "linux":
        seen["command line"] = Path(f"/proc/{pid}/cmdline").read_text()
    return seen


async def test_a31_a_server_shows_no_secret_whatever_goes_wrong(config: Path, world: World) -> None:
    """At log level debug, with issuers that echo what they were sent and an API that breaks every rule."""
    async with command.serving(config) as serving:
        seen = await asked(serving.port)
        await eventually(lambda: world.calls["good/token"] > 1, 30, what="a renewal in the background")
        seen |= await pages(serving.port)
        seen |= await uploading(serving.port, config.parent / "temporary")
        seen |= around(serving.process.pid, config.parent / "state", config.parent / "temporary")
        assert await serving.stop() == 0
    seen |= {f"line {number} of the log": line for number, line in enumerate(serving.lines)}

    assert hits(seen) == {}
    assert {*hits({"a": f"x{KEY}", "b": "Y2FuYXJ5 no", "c": "CANARY-1"})} == {"a", "c"}, "a hit would be seen"
    told = " ".join(world.told)
    assert all(f"canary-seed-{mode}" in told for mode in MODES), "every issuer was sent its refresh token"
    assert base64.b64encode(f"us:{SECRET}".encode()).decode() in told
    assert {one.partition("-")[0] for one in world.presented} == {"Bearer canary"}
    assert {"refused", "relayed", "sign-in-ended", "misconfigured", "renewal-failed"} <= {
        event["event"] for event in serving.events
    }
    assert "no-store" in seen["/-/errors/"]
    assert "canary" in await asyncio.to_thread((config.parent / "state" / "tokens.json").read_text)


COMMANDS = [
    ["status"], ["status", "--json"], ["check"], ["doctor"], ["doctor", "--json"], ["config", "show"], ["urls"],
    ["urls", "--for", "r"], ["logout", "good"],
]  # fmt: skip


async def test_a31_commands_show_no_secret(config: Path, world: World) -> None:
    """Each for an issuer that fails in its way; `token` alone prints a token, where there is one."""
    ended = await asyncio.gather(*(command.bearerproxy("token", mode, "--config", config) for mode in MODES[1:]))
    ended += [await command.bearerproxy(*one, "--config", config) for one in COMMANDS]
    seen = {str(number): one.output + one.complaint for number, one in enumerate(ended)}

    assert hits(seen) == {}
    assert not [one for one in seen.values() if "Traceback" in one]
    assert all(one.exit_status in (1, 3) for one in ended[: len(MODES) - 1])


async def test_a31_a_sign_in_shows_no_code(config: Path, world: World) -> None:
    """The person sees link and user code; the device code and what it brings are between us and the issuer."""
    async with command.login("person", "--offline", "--config", config) as waiting:
        ended = await waiting.end()

    assert ended.exit_status == 0, ended.complaint
    assert hits({"output": ended.output + ended.complaint}) == {}
    assert "canary-device-code" in " ".join(world.told)
    assert "ABCD-EFGH" in ended.complaint
