"""A TCP relay that is far away: `python -m bench.delay PORT TARGET_PORT MILLISECONDS` holds each byte for so long.

Only bytes are held: connecting costs nothing here, where a real network takes one more round trip for each connection.
"""

import asyncio
import sys
from collections import deque
from typing import cast


class Delayed(asyncio.Protocol):
    """One end of a connection; what it receives goes out at the other end after a while."""

    def __init__(self, other: "Delayed | None", seconds: float, target_port: int) -> None:
        self._other = other
        self._seconds = seconds
        self._target_port = target_port
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[bytes | None] = deque()
        """Not yet due, oldest first; None is the end."""
        self._connecting: asyncio.Task[object] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # of TCP, both ways
        if self._other is None:
            other = self._other = Delayed(self, self._seconds, self._target_port)
            there = asyncio.get_running_loop().create_connection(lambda: other, "127.0.0.1", self._target_port)
            self._connecting = asyncio.ensure_future(there)

    def data_received(self, data: bytes) -> None:
        self._hold(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._hold(None)

    def _hold(self, what: bytes | None) -> None:
        self._waiting.append(what)
        asyncio.get_running_loop().call_later(self._seconds, self._let_go)

    def _let_go(self) -> None:
        what = self._waiting.popleft()
        there = self._other._transport if self._other else None  # noqa: SLF001 - the other end of ourselves
        if there is None or there.is_closing():
            return
        if what is None:
            there.close()
        else:
            there.write(what)


async def relay(port: int, target_port: int, milliseconds: float) -> None:
    """Relay for ever."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Delayed(None, milliseconds / 1000, target_port), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(relay(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
