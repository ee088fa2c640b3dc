"""HTTP/2 towards an upstream that speaks it (`http2 = true`), and what that setting wants."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from proxy.config import load
from proxy.errors import ConfigError
from proxy.identities import Network
from proxy.upstreams import Upstream
from tests.journeys.authority import Authority
from tests.journeys.house import running

pytestmark = pytest.mark.usefixtures("no_leaks")

SETTINGS = """
[upstream.open]
url = "https://open.example.org"
anonymous = true
http2 = true
"""


class Speaker(asyncio.Protocol):
    """A server's end that answers each stream with what it was sent."""

    def __init__(self, seen: list[dict[bytes, bytes]]) -> None:
        self._seen = seen
        self._spoken = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self._bodies: dict[int, bytes] = {}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._spoken.initiate_connection()
        transport.write(self._spoken.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._spoken.receive_data(data):
            self._hear(event)
        self._transport.write(self._spoken.data_to_send())

    def _hear(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                self._seen.append(dict(event.headers))
                self._bodies[event.stream_id] = b""
            case h2.events.DataReceived():
                self._bodies[event.stream_id] += event.data
                self._spoken.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                body = self._bodies.pop(event.stream_id)
                self._spoken.send_headers(event.stream_id, [(b":status", b"200"), (b"content-type", b"text/csv")])
                self._spoken.send_data(event.stream_id, b"you said " + body, end_stream=True)


@asynccontextmanager
async def speaking(authority: Authority) -> AsyncIterator[tuple[Upstream, list[dict[bytes, bytes]]]]:
    seen: list[dict[bytes, bytes]] = []
    context = authority.context()
    context.set_alpn_protocols(["h2"])
    server = await asyncio.get_running_loop().create_server(lambda: Speaker(seen), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    network = Network(ca_file=str(authority.ca_file))
    async with server:
        yield (
            Upstream("data", "https", "127.0.0.1", port, mount="/data", identity="me", network=network, http2=True),
            seen,
        )


async def test_requests_with_and_without_a_body_are_relayed_over_http2(tmp_path: Path) -> None:
    async with speaking(Authority.create(tmp_path)) as (there, seen), running([there]) as proxy:
        read = await proxy.ask("/data/a%2Fb?x")
        written = await proxy.ask("/data/y", method="POST", body=b"hello")

    assert (read.status, read.body) == (200, b"you said ")
    assert (written.status, written.body) == (200, b"you said hello")
    assert [one[b":path"] for one in seen] == [b"/a%2Fb?x", b"/y"]
    assert seen[0][b"authorization"].startswith(b"Bearer ")


async def test_http2_is_off_unless_said_and_wants_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "proxy.toml"
    place.write_text(SETTINGS)
    assert load(place, {}).upstreams[0].http2
    monkeypatch.setattr("proxy.config.checks.find_spec", lambda name: None if name == "h2" else find_spec(name))
    with pytest.raises(ConfigError, match=r"\[upstream\.open\] http2: needs one more library"):
        load(place, {})
    place.write_text(SETTINGS.replace("http2 = true", ""))
    assert not load(place, {}).upstreams[0].http2
