"""`serve --workers N`: several processes behind one set of listeners, with one token."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import Serving, bearerproxy, serving
from tests.journeys.house import RawUpstream, Visit, calling, ok, parsed, raw_upstream
from tests.poll import eventually

if sys.platform != "linux":
    pytest.skip("workers are forked, which is right on Linux alone", allow_module_level=True)
assert sys.platform != "win32"  # for type checkers

from proxy.workers import LONGEST_PAUSE_SECONDS, pause_after  # noqa: E402 - not on Windows

CONFIG = """
[store]
kind = "{store}"
path = "{path}"
[log]
format = "json"
[identity.me]
issuer = "http://127.0.0.1:{port}"
token_endpoint = "http://127.0.0.1:{port}/token"
grant = "client_credentials"
client_id = "us"
client_secret = "a secret of the test"
[upstream.data]
url = "http://127.0.0.1:{port}"
identity = "me"
"""
TOKEN = b'{"access_token": "the-one", "token_type": "Bearer", "expires_in": 300}'
GRANT = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(TOKEN), TOKEN)


@dataclass
class Scene:
    """A command with workers, and the service and issuer behind it."""

    proxy: Serving
    there: RawUpstream
    go_on: asyncio.Event
    """What a request for /slow waits for."""

    def workers(self) -> set[int]:
        return children(self.proxy.process.pid)

    @property
    def grants(self) -> int:
        return sum(head.startswith(b"POST /token ") for head in self.there.heads)

    async def get(self, path: str) -> int:
        async with calling(self.proxy.port) as caller:
            await caller.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return parsed(await caller.rest()).status

    async def slow(self) -> asyncio.Task[int]:
        """Begin a request that goes on until `go_on`, and return once it is under way."""
        asked = asyncio.ensure_future(self.get("/data/slow"))
        await eventually(lambda: any(b" /slow " in head for head in self.there.heads), 10)
        return asked


def children(process: int) -> set[int]:
    return {int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text("ascii").split()}


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@asynccontextmanager
async def scene(tmp_path: Path, *, count: int = 3) -> AsyncIterator[Scene]:
    go_on = asyncio.Event()

    async def service(visit: Visit) -> None:
        if visit.head.startswith(b"POST /token "):
            await visit.body()
            await visit.send(GRANT)
            return
        assert b"authorization: Bearer the-one\r\n" in visit.head
        if b" /slow " in visit.head:
            await go_on.wait()
        await ok(visit)

    async with raw_upstream(service) as there:
        config = tmp_path / "proxy.toml"
        config.write_text(CONFIG.format(store="file", path=tmp_path / "state", port=there.port), "utf-8")
        async with serving(config, "--workers", str(count)) as proxy:
            yield Scene(proxy, there, go_on)


async def test_workers_share_the_listeners_and_one_token(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        await eventually(lambda: len(here.workers()) == 3, 10)
        for _ in range(30):
            assert await here.get("/data/x") == 200
        assert await here.get("/-/live") == 200
        assert await here.proxy.stop() == 0

    assert here.grants == 1


async def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    async with scene(tmp_path, count=2) as here:
        await eventually(lambda: len(here.workers()) == 2, 10)
        before = here.workers()
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: len(here.workers() - {killed}) == 2, 20)
        for _ in range(10):
            assert await here.get("/data/x") == 200
        assert await here.proxy.stop() == 0

    (said,) = [one["message"] for one in here.proxy.events if "takes its place" in one.get("message", "")]
    assert "was ended by signal 9; another takes its place in " in said


async def test_what_runs_may_finish_when_the_signal_comes(tmp_path: Path) -> None:
    """New connections are refused meanwhile (A45)."""
    async with scene(tmp_path) as here:
        asked = await here.slow()
        workers = here.workers()
        here.proxy.process.terminate()
        await eventually(lambda: refused(here.proxy.port), 10, what="the end of listening")
        here.go_on.set()

        assert await asked == 200
        assert await asyncio.wait_for(here.proxy.process.wait(), 15) == 0
    assert not any(is_running(one) for one in workers)


async def test_a_signal_to_everybody_at_once_is_one_signal(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole process group, and a service manager's SIGTERM each process of the service."""
    async with scene(tmp_path) as here:
        asked = await here.slow()
        os.killpg(here.proxy.process.pid, signal.SIGINT)
        for worker in here.workers():
            os.kill(worker, signal.SIGTERM)
        await eventually(lambda: refused(here.proxy.port), 10, what="the end of listening")
        here.go_on.set()

        assert await asked == 200
        assert await asyncio.wait_for(here.proxy.process.wait(), 15) == 0


async def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        asked = await here.slow()
        workers = here.workers()
        here.proxy.process.terminate()
        await eventually(lambda: refused(here.proxy.port), 10, what="the end of listening")
        here.proxy.process.terminate()

        assert await asyncio.wait_for(here.proxy.process.wait(), 10) == 1
        assert not any(is_running(one) for one in workers)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)


async def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        await eventually(lambda: len(here.workers()) == 3, 10)
        assert await here.get("/data/x") == 200
        workers = here.workers()
        here.proxy.process.kill()
        await eventually(lambda: not any(is_running(one) for one in workers), 10, what="the end of the workers")


async def test_a_sign_in_by_the_page_says_to_use_the_command(tmp_path: Path) -> None:
    """The next request of the same browser may reach another worker, which knows nothing of it."""
    async with scene(tmp_path, count=2) as here:
        answer = await here.proxy.get("/-/login/me")

    assert answer.status_code == 501
    assert "bearerproxy login" in answer.json()["detail"]


async def test_tokens_in_memory_cannot_be_shared(tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text(CONFIG.format(store="memory", path=tmp_path, port=1), "utf-8")

    ended = await bearerproxy("serve", "--config", config, "--port", "0", "--workers", "2")

    assert ended.exit_status == 2
    assert "--workers needs a store that processes share" in ended.words


def test_pauses_grow_to_a_limit() -> None:
    assert [pause_after(failures) for failures in range(5)] == [0, 1, 2, 4, 8]
    assert pause_after(60) == LONGEST_PAUSE_SECONDS


async def refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False
