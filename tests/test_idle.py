"""What a proxy that relays does not import: a library that nothing asked for is memory for days, and a later start."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.command import Serving, serving

_TOLD = """
import json, sys
from proxy.cli import main
try:
    main()
finally:
    print(json.dumps([*sys.modules]))
"""
"""The command, and what it had imported when it ended."""

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
async def relaying(folder: Path) -> AsyncIterator[Serving]:
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
        config.write_text(_CONFIGURATION.format(port=there.sockets[0].getsockname()[1], folder=folder))
        async with serving(config, program=("-c", _TOLD)) as proxy:
            answered = await proxy.get("/data/x")
            assert answered.status_code == 200, answered.text
            yield proxy


async def imported(proxy: Serving) -> set[str]:
    """End the proxy, and return the names of what it had imported, packages and their parts."""
    assert await proxy.stop() == 0
    assert proxy.process.stdout is not None
    return set(json.loads(await proxy.process.stdout.read()))


async def test_a_proxy_that_relays_imports_nothing_of_pages_consoles_and_other_commands(tmp_path: Path) -> None:
    async with relaying(tmp_path) as proxy:
        found = await imported(proxy)

    assert "proxy.exchange" in found
    assert found & (UNUSED | OUR_OWN_ANSWERS) == set()


async def test_a_probe_and_a_scraper_import_no_templates(tmp_path: Path) -> None:
    async with relaying(tmp_path) as proxy:
        answers = await asyncio.gather(*(proxy.get(path) for path in ("/-/live", "/-/ready", "/-/metrics")))
        found = await imported(proxy)

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert found >= OUR_OWN_ANSWERS
    assert found & UNUSED == set()
