"""The relay mounted in an application of somebody's own, under a server of theirs."""

import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from proxy.asgi import ASGIApp, Message, Scope
from proxy.embedding import Forwarder
from proxy.errors import ConfigError, NoUpstream
from proxy.forward import below
from tests.journeys.house import RawUpstream, Running, Visit, answering, hosting, ok, raw_upstream

PAGE = Path(__file__).parents[1] / "docs" / "embedding.md"
CONFIG = """
[store]
kind = "memory"
[identity.me]
issuer = "http://127.0.0.1:{port}"
token_endpoint = "http://127.0.0.1:{port}/token"
grant = "{grant}"
client_id = "us"
client_secret = "a secret of the test"
[upstream.api]
url = "http://127.0.0.1:{port}"
identity = "me"
cookies = "pass"
[upstream.other]
url = "http://127.0.0.1:{port}/other"
identity = "me"
"""
TOKEN = b'{"access_token": "the-one", "token_type": "Bearer", "expires_in": 300}'
HOSTS = ["data.example.org"]


def config(folder: Path, port: int, *, grant: str = "client_credentials") -> Path:
    file = folder / "proxy.toml"
    file.write_text(CONFIG.format(port=port, grant=grant), "utf-8")
    return file


@asynccontextmanager
async def service(raw: bytes | None = None) -> AsyncIterator[RawUpstream]:
    """Run an upstream and its issuer on one port."""
    answer = ok if raw is None else answering(raw)

    async def script(visit: Visit) -> None:
        if not visit.head.startswith(b"POST /token "):
            await answer(visit)
            return
        there.heads.remove(visit.head)
        await visit.body()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(TOKEN)
        await visit.send(head + TOKEN)

    async with raw_upstream(script) as there:
        yield there


@asynccontextmanager
async def mounted(
    there: RawUpstream, folder: Path, *mounts: str, grant: str = "client_credentials"
) -> AsyncIterator[Running]:
    """Run a forwarder below `mounts`, one in the other, in an application that enters it."""
    forwarder = Forwarder(config(folder, there.port, grant=grant), allowed_hosts=HOSTS)
    app: ASGIApp = forwarder
    for mount in reversed(mounts):
        app = Starlette(routes=[Mount(mount, app=app)])
    async with forwarder, hosting(app) as proxy:
        yield proxy


# where it is mounted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/outer/api/a%2Fb?x=%2f&y=a+b;c", b"/a%2Fb?x=%2f&y=a+b;c"),
        ("/outer/api/AGO+ALB..Q..", b"/AGO+ALB..Q.."),
        ("/%6Futer/api/x", b"/x"),
        ("/outer/api", b"/"),
        ("/outer/other/x//y%C3%A9", b"/other/x//y%C3%A9"),
    ],
)
async def test_a_target_goes_up_byte_for_byte_without_the_mount(tmp_path: Path, target: str, sent: bytes) -> None:
    """H28, A14."""
    async with service() as there, mounted(there, tmp_path, "/outer") as proxy:
        assert (await proxy.ask(target)).status == 200

    assert there.heads[0].split(b" ")[1] == sent
    assert there.field(b"authorization") == [b"Bearer the-one"]


async def test_mounts_may_stand_in_one_another(tmp_path: Path) -> None:
    async with service() as there, mounted(there, tmp_path, "/a b", "/c") as proxy:
        assert (await proxy.ask("/a%20b/c/api/x%2Fy")).status == 200

    assert there.heads[0].split(b" ")[1] == b"/x%2Fy"


@pytest.mark.parametrize("target", ["/outer/api/../other/x", "/outer/api/%2e%2e/other", "/outer/api/..%2fother"])
async def test_no_path_leaves_its_mount(tmp_path: Path, target: str) -> None:
    """H31, S26."""
    async with service() as there, mounted(there, tmp_path, "/outer") as proxy:
        assert (await proxy.ask(target)).status in (400, 404)

    assert there.heads == []


async def test_references_and_cookies_lead_back_below_the_mount(tmp_path: Path) -> None:
    """H54, S31."""
    raw = b"HTTP/1.1 302 Found\r\nLocation: /next?a=b\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n"
    async with service(raw) as there, mounted(there, tmp_path, "/outer") as proxy:
        got = await proxy.ask("/outer/api/x")

    assert got["location"] == b"http://localhost:%d/outer/api/next?a=b" % proxy.port
    assert got["set-cookie"] == b"a=b; Path=/outer/api"


@pytest.mark.parametrize(
    ("root", "outer", "target", "front", "rest"),
    [
        ("/data", "", b"/data/x?y", b"/data", b"/x?y"),
        ("/data/", "", b"/data/x", b"/data", b"/x"),
        ("/data", "", b"/data?y", b"/data", b"/?y"),
        ("/caf\u00e9", "", b"/caf%C3%A9/x", b"/caf%C3%A9", b"/x"),
        ("/v1/data", "/v1", b"/v1/data/x", b"/v1/data", b"/x"),
        ("/v1/data", "/v1", b"/data/x", b"/v1/data", b"/x"),  # a proxy in front has taken /v1 away
        ("/v1", "/v1", b"/x", b"/v1", b"/x"),
    ],
)
def test_the_mount_is_taken_off_the_raw_target(root: str, outer: str, target: bytes, front: bytes, rest: bytes) -> None:
    assert below({"root_path": root, "app_root_path": outer}, target) == (front, rest)


@pytest.mark.parametrize("target", [b"/x", b"/dataset/x", b"/data%2Fx"])
def test_what_is_not_below_the_mount_is_refused(target: bytes) -> None:
    with pytest.raises(NoUpstream, match="not below the mount"):
        below({"root_path": "/data"}, target)


# who may call, and what they reach ------------------------------------------------------------------------------------


async def test_the_guard_is_on(tmp_path: Path) -> None:
    """S1-S3, A1, A2: the names of the application, and no pages of others."""
    async with service() as there, mounted(there, tmp_path, "/outer") as proxy:
        own = await proxy.ask("/outer/api/x", f"Host: data.example.org:{proxy.port}")
        foreign = await proxy.ask("/outer/api/x", "Host: evil.example")
        page = await proxy.ask("/outer/api/x", "Origin: https://evil.example")

    assert (own.status, foreign.status, page.status) == (200, 403, 403)
    assert json.loads(foreign.body)["type"] == "/-/errors/caller-refused"
    assert len(there.heads) == 1


@pytest.mark.parametrize("hosts", [[], "data.example.org", ["https://data.example.org"]])
def test_the_names_of_the_application_must_be_said(tmp_path: Path, hosts: Any) -> None:
    with pytest.raises(ValueError, match=r"allowed_hosts must be|is not a host"):
        Forwarder(config(tmp_path, 1), allowed_hosts=hosts)


@pytest.mark.parametrize("path", ["/outer/", "/outer/-/", "/outer/-/metrics", "/outer/-/login/me", "/-/live"])
async def test_pages_of_the_proxy_are_not_served(tmp_path: Path, path: str) -> None:
    async with service() as there, mounted(there, tmp_path, "/outer") as proxy:
        assert (await proxy.ask(path)).status == 404


@pytest.mark.parametrize("accept", ["application/json", "text/plain", "text/html"])
async def test_a_refusal_names_the_command_and_no_page(tmp_path: Path, accept: str) -> None:
    async with service() as there, mounted(there, tmp_path, "/outer", grant="device_code") as proxy:
        got = await proxy.ask("/outer/api/x", f"Accept: {accept}")

    assert got.status == 503
    assert b"bearerproxy login me" in got.body
    assert b"/-/login" not in got.body
    assert b'href="/-/' not in got.body


# when it serves -------------------------------------------------------------------------------------------------------


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(blocks())))
async def test_each_snippet_of_the_page_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    async with service() as there:
        config(tmp_path, there.port)
        exec(blocks()[number], names)  # noqa: S102 - the page is ours
        async with hosting(names["app"], lifespan="on") as proxy:
            paths = ("/data/api/x", "/api/x")
            statuses = [(await proxy.ask(path, f"Host: data.example.org:{proxy.port}")).status for path in paths]

    assert sorted(statuses) == [200, 404]
    assert there.field(b"authorization") == [b"Bearer the-one"]


async def spoken(app: ASGIApp, scope: Scope, *received: str) -> list[Message]:
    said: list[Message] = []
    messages = iter(received)

    async def receive() -> Message:
        return {"type": next(messages)}

    async def send(message: Message) -> None:
        said.append(message)

    await app(scope, receive, send)
    return said


async def test_a_start_that_fails_is_told_to_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = config(tmp_path, 1)
    file.write_text(file.read_text("utf-8").replace('"memory"', '"redis"\nurl = "redis://localhost:1/0"'), "utf-8")
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    forwarder = Forwarder(file, allowed_hosts=HOSTS)

    (said,) = await spoken(forwarder, {"type": "lifespan"}, "lifespan.startup")

    assert said["type"] == "lifespan.startup.failed"
    assert 'pip install "bearerproxy[redis]"' in said["message"]


async def test_a_forwarder_that_nobody_entered_says_how(tmp_path: Path) -> None:
    forwarder = Forwarder(config(tmp_path, 1), allowed_hosts=HOSTS)

    with pytest.raises(RuntimeError, match="not entered: use `async with` in the lifespan"):
        await spoken(forwarder, {"type": "http"})
    async with forwarder:
        with pytest.raises(RuntimeError, match="enter it once"):
            await forwarder.__aenter__()
        with pytest.raises(RuntimeError, match="no raw_path"):
            await spoken(forwarder, {"type": "http", "path": "/api/a/b"})
        assert await spoken(forwarder, {"type": "websocket"}) == [{"type": "websocket.close"}]
    async with forwarder:
        assert forwarder.configuration.server.allowed_hosts == ("data.example.org",)


def test_mistakes_of_the_configuration_are_all_told(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text("[upstream.api]\nurl = 'ftp://x'\nmounts = '/x'\n")

    with pytest.raises(ConfigError) as caught:
        Forwarder(file, allowed_hosts=HOSTS)

    assert len(caught.value.mistakes) >= 2
