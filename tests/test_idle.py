"""What a proxy that relays does without: a library that nothing asked for is memory for days, and a later start."""

import asyncio
import gc
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.cli import main
from proxy.cli.command import run
from tests.command import Serving, serving

_TOLD = """
import gc, json, sys
from proxy.cli import main
try:
    main()
finally:
    print(json.dumps([gc.get_freeze_count(), *sys.modules]))
"""
"""The command, and at its end how many objects its collector never looks at, and what it had imported."""

_ANSWER = b'{"access_token": "a-token-of-the-test", "token_type": "Bearer", "expires_in": 3600}'
"""The issuer's, and the upstream's."""
_CONFIGURATION = """
[identity.me]
issuer = "http://127.0.0.1:{port}"
token_endpoint = "http://127.0.0.1:{port}/token"
client_id = "client-tools"
client_secret = "a-secret-of-the-test"
grant = "client_credentials"

[upstream.data]
url = "http://127.0.0.1:{port}"
identity = "me"
token_echo = "pass"

[store]
kind = "file"
path = "{folder}"

[log]
format = "json"
"""

CONSOLE = {"rich", "typer.rich_utils", "proxy.cli.terminal"}
OTHER_COMMANDS = {
    "proxy.cli.accounts", "proxy.cli.dataset_commands", "proxy.cli.doctor", "proxy.cli.init", "proxy.cli.tour",
    "proxy.demo", "proxy.doctor", "proxy.init",
}  # fmt: skip
PAGES = {"jinja2", "segno", "proxy.control.pages"}
OUR_OWN_ANSWERS = {"starlette", "proxy.control.routes"}
NOT_CONFIGURED = {
    "botocore", "cryptography", "keyring", "opentelemetry", "proxy.datasets", "proxy.stores.redis",
    "redis",
}  # fmt: skip
UNUSED = CONSOLE | OTHER_COMMANDS | PAGES | NOT_CONFIGURED


@asynccontextmanager
async def relaying(folder: Path, more: str = "") -> AsyncIterator[Serving]:
    """Run `serve` with an upstream and an issuer, and yield once it has relayed a request with a token."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if length := re.search(rb"(?i)content-length: (\d+)", head):
            _ = await reader.readexactly(int(length[1]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + _ANSWER)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as there:
        config = folder / "proxy.toml"
        config.write_text(_CONFIGURATION.format(port=there.sockets[0].getsockname()[1], folder=folder) + more)
        async with serving(config, program=("-c", _TOLD)) as proxy:
            answered = await proxy.get("/data/x")
            assert answered.status_code == 200, answered.text
            yield proxy


async def told(proxy: Serving) -> tuple[int, set[str]]:
    """End the proxy, and return how many objects its collector left alone and what it had imported."""
    assert await proxy.stop() == 0
    assert proxy.process.stdout is not None
    frozen, *modules = json.loads(await proxy.process.stdout.read())
    return frozen, set(modules)


async def test_a_proxy_that_relays_imports_nothing_of_pages_consoles_and_other_commands(tmp_path: Path) -> None:
    async with relaying(tmp_path) as proxy:
        _, found = await told(proxy)

    assert "proxy.exchange" in found
    assert found & (UNUSED | OUR_OWN_ANSWERS) == set()


async def test_a_probe_and_a_scraper_import_no_templates(tmp_path: Path) -> None:
    async with relaying(tmp_path) as proxy:
        answers = await asyncio.gather(*(proxy.get(path) for path in ("/-/live", "/-/ready", "/-/metrics")))
        _, found = await told(proxy)

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert found >= OUR_OWN_ANSWERS
    assert found & UNUSED == set()


async def test_datasets_that_are_configured_import_no_templates(tmp_path: Path) -> None:
    more = '[provena]\ndomain = "mds.example.org"\nissuer = "https://auth.example.org/realms/x"\n'
    async with relaying(tmp_path, more) as proxy:
        _, found = await told(proxy)

    assert "proxy.datasets.face" in found
    assert found & PAGES == set()


async def test_what_lives_as_long_as_the_proxy_is_not_looked_through_again_and_again(tmp_path: Path) -> None:
    async with relaying(tmp_path) as proxy:
        frozen, _ = await told(proxy)

    assert frozen > 50_000


def test_the_collector_is_off_for_the_start_of_a_command_alone() -> None:
    gc.disable()
    try:
        assert run(is_collecting())
        gc.disable()
        with pytest.raises(SystemExit):
            main(["--version"])
        assert gc.isenabled()
    finally:
        gc.enable()


async def is_collecting() -> bool:
    return gc.isenabled()
