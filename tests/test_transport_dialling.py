"""What opening connections asks of the machine, and of an event loop."""

import asyncio
import inspect
import ssl
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from proxy.app import App
from proxy.clock import ManualClock
from proxy.config import load
from proxy.events import ignore
from proxy.identities import Network
from proxy.transport.dialling import raise_mmap_threshold
from proxy.transport.direct import DirectWay
from tests.heard import Heard
from tests.journeys.house import ok, raw_upstream

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"

READS = """
import os, resource, sys
source, sink = os.pipe()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(1000):
    os.write(sink, b"x" * 100)
    os.read(source, 256 * 1024)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""What the event loops do with TLS: a block of 256 KiB for each read, shrunk to what there was."""


@pytest.mark.skipif(sys.platform != "linux", reason="the cure is one for glibc's malloc")
def test_reads_of_tls_cost_no_page_faults() -> None:
    """speed 3: the mmap trap; in a process that imports nothing, since any large block freed before hides it."""

    def page_faults(preparation: str) -> int:
        program = [sys.executable, "-I", "-c", preparation + READS]
        return int(subprocess.run(program, check=True, capture_output=True, text=True).stdout)

    assert page_faults("") > 500, "the allocator has no such trap any more: the cure can go"
    assert page_faults(inspect.getsource(raise_mmap_threshold) + "\nraise_mmap_threshold()") < 100


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop exists on Unix alone")
def test_the_end_waits_for_no_connection_whose_call_was_dropped_as_it_was_made_under_uvloop() -> None:
    """A20: uvloop tells nobody of the end of such a one, and a process that waits for it never ends."""
    import uvloop

    async def turn() -> None:
        turned: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(turned.set_result, None)
        await turned

    async def drop_and_close() -> None:
        async with raw_upstream(ok) as there:
            way = DirectWay(there.upstream())
            for turns in range(40):
                call = way.start(GET, 0, Heard())
                for _ in range(turns):
                    await turn()
                call.abort()
            async with asyncio.timeout(10):
                await way.close()

    for _ in range(10):
        uvloop.run(drop_and_close())


async def test_the_authorities_of_a_network_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading of the platform's is 20 ms of the start, and a megabyte for good."""
    read: list[Network] = []

    def reading(trust_env: bool) -> ssl.SSLContext:
        assert not trust_env
        read.append(Network())
        return ssl.create_default_context()

    monkeypatch.setattr(httpx2, "create_ssl_context", reading)
    file = tmp_path / "proxy.toml"
    file.write_text(
        "".join(f'[upstream.{name}]\nurl = "https://{name}.example.org"\nidentity = "me"\n' for name in "abc")
        + '[identity.me]\nissuer = "https://auth.example.org"\nclient_id = "tools"\n[store]\nkind = "memory"\n'
    )
    async with App(load(file, {}), emit=ignore, clock=ManualClock()) as app:
        _ = app.issuers["me"]._calls._transport()

    assert len(read) == 1
