"""Seeded answers, odd in many ways, read by our own transport and by httpx2's: the same, or ours refuses."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from proxy.headers import Fields
from proxy.transport.direct import DirectWay
from proxy.transport.seam import Trouble, request_head
from proxy.transport.through_httpx2 import Httpx2Way
from proxy.upstreams import Upstream
from tests.heard import Heard

ROUNDS = 400
LONG_ROUNDS = 20_000

STATUS_LINES = [b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 206 ", b"HTTP/1.1 500",
                b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified", b"HTTP/1.1 599 \xe9",
                b"HTTP/1.1 205 Reset"]  # fmt: skip
ODD_STATUS_LINES = [b"HTTP/1.1 099 x", b"HTTP/1.1 600 x", b"HTTP/2.0 200 OK", b"HTTP/1.1  200 OK", b"http/1.1 200 OK",
                    b"HTTP/1.1 2e2 OK", b"garbage", b"", b"HTTP/1.1 101 Switching", b"HTTP/1.1\t200 OK"]  # fmt: skip
FIELDS = [b"Server: x", b'ETag: "a"', b"X-Latin: \xe9\xff", b"X-Empty:", b"X-Space:  a \t", b"Set-Cookie: a=b",
          b"Connection: close", b"connection: Keep-Alive", b"Content-Type: text/csv", b"X_under: 1"]  # fmt: skip
ODD_FIELDS = [b"X: a\x00b", b"X: a\x01b", b"X : a", b" folded: x", b"no colon", b": no name", b"X: a\rb", b"X\xe9: a",
              b"Content-Length: 7", b"Content-Length: -1", b"Content-Length: 5, 5", b"Transfer-Encoding: gzip",
              b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Upgrade: h2c", b"X: a\x7fb"]  # fmt: skip
INTERIM = [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]


@dataclass(frozen=True)
class Scripted:
    """What the upstream does for one request."""

    pieces: list[bytes]
    """What it sends, split where it is flushed."""
    closes: bool
    method: bytes
    is_odd: bool = False

    @property
    def raw(self) -> bytes:
        return b"".join(self.pieces)


def scripted(seed: int) -> Scripted:
    """Return an answer made of good and odd parts."""
    chance = random.Random(seed)  # noqa: S311 - not a secret
    is_odd = chance.random() < 0.4
    lines = [chance.choice(ODD_STATUS_LINES if is_odd and chance.random() < 0.3 else STATUS_LINES)]
    lines += chance.choices(FIELDS, k=chance.randrange(5))
    body = chance.randbytes(chance.choice([0, 1, 5, 1000, 70_000]))
    framing = chance.choice(["length", "length", "chunked", "chunked", "close", "none"])
    if framing == "length":
        lines.append(chance.choice([b"Content-Length", b"content-length"]) + b": %d" % len(body))
        framed = body
    elif framing == "chunked":
        lines.append(chance.choice([b"Transfer-Encoding: chunked", b"transfer-encoding:Chunked"]))
        framed = _chunked(chance, body)
    else:
        framed = body if framing == "close" else b""
    is_odd = is_odd or (framing == "chunked" and lines[0].startswith(b"HTTP/1.0"))
    if is_odd and chance.random() < 0.5:
        lines.insert(chance.randrange(1, len(lines) + 1), chance.choice(ODD_FIELDS))
    raw = b"\r\n".join([*lines, b"", b""]) + framed
    if chance.random() < 0.2:
        raw = b"".join(chance.choices(INTERIM, k=chance.randrange(1, 4))) + raw
    if is_odd and chance.random() < 0.3:
        raw = raw[: chance.randrange(len(raw) + 1)]  # cut
    if is_odd and chance.random() < 0.2:
        raw += chance.choice([b"x", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])  # more than asked for
    if is_odd and chance.random() < 0.2 and raw:
        where = chance.randrange(len(raw))
        raw = raw[:where] + chance.randbytes(1) + raw[where + 1 :]
    cuts = sorted(chance.randrange(len(raw) + 1) for _ in range(chance.choice([0, 0, 1, 3, 8])))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    closes = framing in ("close", "none") or is_odd or chance.random() < 0.3
    return Scripted(pieces, closes, chance.choice([b"GET", b"GET", b"GET", b"HEAD"]), is_odd)


def _chunked(chance: random.Random, body: bytes) -> bytes:
    framed = b""
    while body:
        size = min(chance.choice([1, 10, 5000, 100_000]), len(body))
        framed += b"%x%s\r\n" % (size, chance.choice([b"", b"", b";a=b"])) + body[:size] + b"\r\n"
        body = body[size:]
    return framed + b"0\r\n" + chance.choice([b"", b"", b"X-Trailer: y\r\n"]) + b"\r\n"


@asynccontextmanager
async def playing(answers: dict[bytes, Scripted]) -> AsyncIterator[int]:
    """Listen and answer each request with the script that its target names."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                answer = answers[head.split(b" ")[1]]
                for piece in answer.pieces:
                    writer.write(piece)
                    await writer.drain()
                    await _turn()
                if answer.closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _turn() -> None:
    turned: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turned.set_result, None)
    await turned


@dataclass(frozen=True)
class Reading:
    """What a transport made of an answer."""

    status: int
    fields: Fields
    body: bytes
    is_complete: bool
    trouble: Any


async def reading(way: Any, target: bytes, method: bytes, *, is_second: bool = False) -> Reading:
    head, length = request_head(method, target, [(b"Host", b"h")])
    sink = Heard()
    call = way.start(head, length, sink)
    try:
        await asyncio.wait_for(sink.is_over.wait(), 5)
    finally:
        call.abort()
    if sink.said[-1] is Trouble.STALE and not is_second:
        return await reading(way, target, method, is_second=True)
    # h11 lowers one value too: the coding's
    fields = [(name.lower(), value.lower() if len(name) == 17 else value) for name, value in sink.fields]
    return Reading(sink.status, fields, sink.body, sink.said[-1] == "end", sink.said[-1])


@pytest.mark.long
async def test_both_transports_read_the_same_or_ours_refuses(*, is_long: bool) -> None:
    """H50, H51, H56, H64, A21, A24: framings, splits, odd heads, cuts, surplus."""
    seeds = range(LONG_ROUNDS if is_long else ROUNDS)
    answers = {b"/%d" % seed: scripted(seed) for seed in seeds}
    seen = {"same": 0, "refused": 0}
    async with playing(answers) as port:
        there = Upstream("data", "http", "127.0.0.1", port)
        ours, theirs = DirectWay(there), Httpx2Way(there, httpx2.AsyncHTTPTransport(trust_env=False))
        for target, answer in answers.items():
            own = await reading(ours, target, answer.method)
            if own.trouble is Trouble.INVALID or not own.status:
                assert answer.is_odd, f"{target!r}: ours refuses {answer.raw[:300]!r}"
                seen["refused"] += 1
                continue
            other = await reading(theirs, target, answer.method)
            assert other.status, f"{target!r}: only ours reads {answer.raw[:300]!r}"
            seen["same"] += 1
            assert (own.status, own.fields, own.is_complete) == (other.status, other.fields, other.is_complete), target
            assert own.body == other.body or not own.is_complete, target
        await ours.close()
        await theirs.close()

    assert seen["same"] > len(answers) // 2
    assert seen["refused"] > len(answers) // 50


async def test_every_answer_behind_another_is_that_of_its_own_request() -> None:
    """H64: whatever came before on a connection, the next call sees its own answer or a failure."""
    odd = {b"/%d" % seed: scripted(seed) for seed in range(200)}
    own = {
        b"/own%d" % n: Scripted([b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n%6d" % n], False, b"GET")
        for n in range(200)
    }
    async with playing(odd | own) as port:
        way = DirectWay(Upstream("data", "http", "127.0.0.1", port))
        for number, (target, answer) in enumerate(odd.items()):
            await reading(way, target, answer.method)
            got = await reading(way, b"/own%d" % number, b"GET")
            assert (got.status, got.body) == (200, b"%6d" % number), target
        await way.close()
