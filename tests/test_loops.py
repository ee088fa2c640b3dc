"""An upstream that is the proxy itself: refused at the start by its addresses, and later by Via (A46, H65, S28)."""

import socket
from pathlib import Path
from typing import Any

import pytest

from proxy.app import App
from proxy.config import load
from proxy.errors import ConfigError
from proxy.guard import AllowedHost, Guard
from proxy.loops import is_own
from proxy.server import ListenError, bind
from proxy.upstreams import Upstream
from tests.command import bearerproxy
from tests.conftest import free_port, need
from tests.journeys.house import ok, raw_upstream, running

PORT = 8400
LOOPBACK = [("127.0.0.1", PORT), ("::1", PORT)]


def address_of_this_machine() -> str:
    """Return an address of this machine that is not loopback; nothing is sent to learn it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            need("a network interface besides loopback", how="connect this machine to any network")
        return str(probe.getsockname()[0])


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "::1", "0.0.0.0", "::ffff:127.0.0.1", "127.1"])
def test_a46_h65_an_upstream_is_known_as_ourselves_by_any_name(host: str) -> None:
    assert is_own(host, PORT, LOOPBACK)
    assert not is_own(host, PORT + 1, LOOPBACK)


@pytest.mark.parametrize("host", ["127.0.0.2", "198.51.100.1", "no-such-host.invalid", "a..b"])
def test_a46_another_address_or_a_name_that_nobody_knows_is_not_us(host: str) -> None:
    assert not is_own(host, PORT, LOOPBACK)


def test_a46_a_listener_everywhere_is_reached_by_each_address_of_the_machine() -> None:
    everywhere = [("0.0.0.0", PORT)]

    assert is_own("127.0.0.2", PORT, everywhere)
    assert is_own(address_of_this_machine(), PORT, everywhere)
    assert not is_own("198.51.100.1", PORT, everywhere)
    assert not is_own("::1", PORT, everywhere)


def test_a46_only_a_name_with_our_port_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start does not hang on the name service of upstreams elsewhere."""
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("a name was looked up"))

    assert not is_own("data.example.org", 443, LOOPBACK)


def test_a46_the_port_of_one_upstream_alone_counts_too(tmp_path: Path) -> None:
    """127.0.0.2 is no name of ours to the configuration, which knows names and not what they lead to."""
    port = free_port("127.0.0.2")
    (tmp_path / "proxy.toml").write_text(
        f'[server]\nport = 0\n[store]\nkind = "memory"\n'
        f'[upstream.a]\nurl = "https://a.example.org"\nanonymous = true\nlisten = "127.0.0.2:{port}"\n'
        f'[upstream.b]\nurl = "http://[::ffff:127.0.0.2]:{port}/x"\nanonymous = true\n'
    )

    with pytest.raises(ListenError, match=r"url of \[upstream\.b\] is this proxy itself"):
        App(load(tmp_path / "proxy.toml", {}), emit=lambda _: None).bind()
    socket.create_server(("127.0.0.2", port)).close()  # nothing stays open


def test_a46_another_machine_with_our_port_is_no_loop(tmp_path: Path) -> None:
    """Two proxies in one container network, each on all its addresses."""
    (tmp_path / "proxy.toml").write_text(
        '[server]\nhost = "0.0.0.0"\nallow_remote = true\nallowed_hosts = ["proxy"]\napi_key = "x"\n'
        '[upstream.other]\nurl = "http://other-proxy:8400"\nanonymous = true\n'
    )

    assert load(tmp_path / "proxy.toml", {}).upstreams[0].host == "other-proxy"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a46_the_plain_mistake_is_one_of_the_configuration(tmp_path: Path, host: str) -> None:
    (tmp_path / "proxy.toml").write_text(f'[upstream.itself]\nurl = "http://{host}:8400/x"\nanonymous = true\n')

    with pytest.raises(ConfigError, match="points at this proxy itself"):
        load(tmp_path / "proxy.toml", {})


async def test_a46_the_command_does_not_start_in_a_circle(tmp_path: Path, unused_port: int) -> None:
    """By another name: an address of the machine, while the listener stands on all of them."""
    (tmp_path / "proxy.toml").write_text(
        f'[server]\nhost = "0.0.0.0"\nport = {unused_port}\nallow_remote = true\nallowed_hosts = ["proxy"]\n'
        f'api_key = "x"\n[store]\nkind = "memory"\n'
        f'[upstream.itself]\nurl = "http://{address_of_this_machine()}:{unused_port}/itself"\nanonymous = true\n'
    )

    ended = await bearerproxy("serve", "--config", tmp_path / "proxy.toml")

    assert ended.exit_status != 0
    assert "is this proxy itself" in ended.words


@pytest.mark.parametrize("target", ["/itself/-/live", "/itself", "/itself/data/x", "/itself/itself/-/", "/itself/x"])
async def test_a46_s28_a_mount_that_leads_to_ourselves_opens_nothing(target: str) -> None:
    """Not even a page of ours: what came around is known by Via, however it found its way."""
    (here,) = bind("127.0.0.2", 0, allow_remote=False)
    itself = Upstream("itself", "http", "127.0.0.2", here.port or 0, mount="/itself")
    guard = Guard(allowed_hosts=(AllowedHost.parse("127.0.0.2"),))
    served = 0

    async def page(_scope: Any, _receive: Any, send: Any) -> None:
        nonlocal served
        served += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with (
        raw_upstream(ok) as there,
        running([itself, there.upstream()], guard=guard, listeners=[here], control=page) as proxy,
    ):
        got = await proxy.ask(target)

    assert got.status == 508
    assert (served, there.connections) == (0, 0)
