"""Callers who open connections and do next to nothing with them, again and again, in a process of their own.

Run as `python -m tests.journeys.crowd PORT`: 200 idle connections, half of them behind an answer, and 200 that drip
about a byte in half a second: letters of a first request, empty lines, a second request, empty lines behind an answer.
It prints a line once all are open, and at the end of its standard input how long each dripping one was let live.
"""

import json
import select
import socket
import sys
import time
from dataclasses import dataclass

GET = b"GET /open/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
DRIPS = ((b"G", False), (b"\r\n", False), (b"a", True), (b"\r\n", True))
ROUND_SECONDS = 0.5


@dataclass
class Connection:
    port: int
    drip: bytes
    asks_first: bool
    lives: list[float]

    def open(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.port))
        self.socket.setblocking(False)
        if self.asks_first:
            self.socket.sendall(GET)
        self.answer = b""
        self.started = time.monotonic()

    @property
    def is_ready(self) -> bool:
        return not self.asks_first or self.answer.endswith(b"hello")

    def turn(self) -> None:
        """Send a byte if it is time to, and come again if the other end has closed."""
        try:
            if self.drip and self.is_ready:
                self.socket.send(self.drip)
            self._read()
        except ConnectionError:
            self._come_again()

    def _read(self) -> None:
        try:
            said = self.socket.recv(4096)
        except BlockingIOError:
            return
        self.answer += said
        if not said:
            self._come_again()

    def _come_again(self) -> None:
        if self.drip:
            self.lives.append(time.monotonic() - self.started)
        self.socket.close()
        self.open()


def main() -> None:
    port, lives = int(sys.argv[1]), list[float]()
    kinds = [(b"", bool(number % 2)) for number in range(200)] + [one for one in DRIPS for _ in range(50)]
    connections = [Connection(port, drip, asks_first, lives) for drip, asks_first in kinds]
    for one in connections:
        one.open()
    sys.stdout.write("open\n")
    sys.stdout.flush()
    while True:
        for one in connections:  # one after the other: a burst would be another test
            if select.select([sys.stdin], [], [], ROUND_SECONDS / len(connections))[0]:
                sys.stdout.write(json.dumps(lives))
                return
            one.turn()


if __name__ == "__main__":
    main()
