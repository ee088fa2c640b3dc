"""Who holds a port, told from how it answers and from /proc (S14, A5)."""

import asyncio
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from proxy.holders import port_holder
from proxy.server import ListenError, bind
from tests.command import bearerproxy, serving
from tests.conftest import need

CONFIG = """
[store]
kind = "memory"
[upstream.open]
url = "http://127.0.0.1:9"
anonymous = true
"""


@contextmanager
def answering(said: bytes) -> Iterator[int]:
    """Answer one connection with `said`, and yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as caller:
                _ = caller.recv(4096)
                caller.sendall(said)

        thread = Thread(target=answer)
        thread.start()
        yield int(listening.getsockname()[1])
        thread.join(5)


@pytest.mark.parametrize(
    ("said", "is_ours"),
    [
        (b'HTTP/1.1 200 OK\r\n\r\n{\n  "status": "live"\n}', True),
        (b'HTTP/1.1 403 Forbidden\r\n\r\n{"type": "/-/errors/caller-refused"}', True),
        (b"HTTP/1.1 404 Not Found\r\n\r\nnothing of this name", False),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False),
        (b"", False),
    ],
    ids=["live", "refusing", "other-http", "other-protocol", "silent"],
)
def test_another_bearerproxy_is_known_by_its_answer(said: bytes, *, is_ours: bool) -> None:
    with answering(said) as port:
        assert port_holder("127.0.0.1", port).startswith("by another bearerproxy") is is_ours


def test_of_another_users_program_only_the_user_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net").mkdir()
    line = "   0: 0100007F:0001 00000000:0000 0A 00000000:00000000 00:00000000 00000000 65534 0 4711 1"
    (tmp_path / "net/tcp").write_text(f"head\n{line}\n")
    monkeypatch.setattr("proxy.holders._PROC", tmp_path)  # who else runs here is not to be arranged

    assert port_holder("127.0.0.1", 1) in ("by a program of user nobody", "by a program of user 65534")


def test_where_nobody_tells_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_port: int) -> None:
    monkeypatch.setattr("proxy.holders._PROC", tmp_path)

    assert not port_holder("127.0.0.1", unused_port)


async def test_a5_a_second_serve_says_that_the_first_one_holds_the_port(tmp_path: Path) -> None:
    """Though the first hides its open files from everybody: not 0, one sentence, no other port (S14)."""
    if sys.platform != "linux":
        need("/proc", how="run this test on Linux")
    config = tmp_path / "proxy.toml"
    config.write_text(CONFIG)
    async with serving(config) as there:
        second = await bearerproxy("serve", "--config", config, "--port", str(there.port))
        assert (await there.get("/-/live")).status_code == 200
        with pytest.raises(ListenError, match="another bearerproxy"):
            await asyncio.to_thread(bind, "127.0.0.1", there.port, allow_remote=False)

    assert second.exit_status not in (0, None)
    assert (
        f"Port {there.port} on 127.0.0.1 is taken by another bearerproxy (process {there.process.pid})" in second.words
    )
    assert "Use or stop that one, or choose another port: --port 8401." in second.words
    assert "Traceback" not in second.complaint


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_a5_all_addresses_are_refused_by_the_command(tmp_path: Path, host: str) -> None:
    """S9: no listener is opened, and the sentence names the setting."""
    config = tmp_path / "proxy.toml"
    config.write_text(CONFIG)
    ended = await bearerproxy("serve", "--config", config, "--port", "0", "--host", host)

    assert ended.exit_status not in (0, None)
    assert "allow_remote" in ended.words
    assert "listening" not in ended.words


async def test_where_one_listener_cannot_be_opened_none_serves(tmp_path: Path, unused_port: int) -> None:
    """All are bound before any serves; what was open is closed again, the unix socket removed (A5)."""
    config = tmp_path / "proxy.toml"
    with socket.create_server(("127.0.0.1", 0)) as holder:
        config.write_text(f"{CONFIG}listen = {holder.getsockname()[1]}\n[server]\nuds = 'proxy.sock'\n")
        ended = await bearerproxy("serve", "--config", config, "--port", str(unused_port))

    assert ended.exit_status not in (0, None)
    assert "is taken" in ended.words
    assert "listening" not in ended.words
    assert not (tmp_path / "proxy.sock").exists()
