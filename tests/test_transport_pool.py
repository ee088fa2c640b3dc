"""Connections that fail as connections, on both ways."""

import asyncio
import contextlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from proxy.transport.direct import DirectWay
from proxy.transport.pool import Pool
from proxy.transport.seam import Trouble
from proxy.upstreams import Upstream
from tests.heard import Heard


@contextlib.contextmanager
def resetting() -> Iterator[int]:
    """Listen in threads, and reset each connection about when its opener learns that it has one; yield the port."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=200)

    def serve(pause: float) -> None:
        while True:
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
            time.sleep(pause)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()

    threads = [threading.Thread(target=serve, args=(pause,), daemon=True) for pause in (0, 0.0005, 0.001, 0.002)]
    for thread in threads:
        thread.start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        listening.close()
        for thread in threads:
            thread.join(5)


async def outcomes(port: int, count: int) -> set[type[Exception]]:
    """Return the kinds of failure of `count` requests, ten at once."""
    pool = Pool(trust_env=False)
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), 5.0)
    seen = set()

    async def ask() -> None:
        request = httpx2.Request("GET", f"http://127.0.0.1:{port}/", extensions={"timeout": timeouts})
        try:
            await pool.handle_async_request(request)
        except Exception as error:  # noqa: BLE001 - which one it is, is the question
            seen.add(type(error))

    for _ in range(count // 10):
        await asyncio.gather(*(ask() for _ in range(10)))
    await pool.aclose()
    return seen


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop exists on Unix alone")
def test_a_connection_that_is_reset_as_soon_as_it_is_made_is_a_network_error_under_uvloop() -> None:
    import uvloop

    with resetting() as port:
        seen = uvloop.run(outcomes(port, 1000))

    assert seen
    assert all(issubclass(kind, httpx2.NetworkError) for kind in seen), seen


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop exists on Unix alone")
def test_a_connection_that_is_reset_as_soon_as_it_is_made_is_told_as_one_on_the_direct_way_under_uvloop() -> None:
    import uvloop

    async def outcomes(port: int) -> set[Any]:
        way = DirectWay(Upstream("data", "http", "127.0.0.1", port))
        seen: set[Any] = set()
        for _ in range(40):
            sinks = [Heard() for _ in range(10)]
            for sink in sinks:
                way.start(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 0, sink)
            for sink in sinks:
                await sink.is_over.wait()
                seen |= set(sink.said)
        await way.close()
        return seen

    with resetting() as port:
        seen = uvloop.run(outcomes(port))

    assert seen
    assert seen <= {Trouble.CLOSED, Trouble.UNREACHABLE}


async def test_another_attribute_error_is_a_defect_and_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object) -> None:
        raise AttributeError(name="other", obj=None)

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", fails)

    with pytest.raises(AttributeError):
        await Pool(trust_env=False).handle_async_request(httpx2.Request("GET", "http://localhost/"))
