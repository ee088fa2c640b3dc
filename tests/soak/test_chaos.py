"""The chaos proxy, in front of a service that counts what reaches it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.poll import eventually
from tests.soak.chaos import CLEAR, Answer, ChaosProxy, Cut, Hang, Lose, Refuse, Weather

REQUEST = b"POST /token HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\ngrant=one"
BODY = b"x" * 100_000
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n" + BODY


@dataclass
class Service:
    port: int = 0
    requests: int = 0


@asynccontextmanager
async def service() -> AsyncIterator[Service]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST))
        there.requests += 1
        writer.write(ANSWER)
        writer.close()

    there = Service()
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    there.port = server.sockets[0].getsockname()[1]
    try:
        yield there
    finally:
        server.close()


async def ask(chaos: ChaosProxy) -> bytes:
    """Return what came until the connection ended; raises ConnectionResetError if it was reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", chaos.port)
    try:
        writer.write(REQUEST)
        async with asyncio.timeout(10):
            return await reader.read(-1)
    finally:
        writer.close()


@asynccontextmanager
async def chaos_under(weather: Weather, seed: int = 1) -> AsyncIterator[tuple[ChaosProxy, Service]]:
    async with service() as there, ChaosProxy(there.port, seed=seed) as chaos:
        chaos.weather = weather
        yield chaos, there


async def test_in_clear_weather_bytes_pass_and_the_request_is_noted() -> None:
    async with chaos_under(CLEAR) as (chaos, there):
        assert await ask(chaos) == ANSWER
        assert (there.requests, [seen.line for seen in chaos.seen]) == (1, [b"POST /token HTTP/1.1"])


async def test_an_answer_of_its_own_reaches_the_asker_and_nothing_the_service() -> None:
    raw = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
    async with chaos_under(Answer(raw)) as (chaos, there):
        assert await ask(chaos) == raw
        assert there.requests == 0


async def test_a_refused_connection_is_reset_and_nothing_reaches_the_service() -> None:
    async with chaos_under(Refuse()) as (chaos, there):
        with pytest.raises(ConnectionError):
            await ask(chaos)
        assert there.requests == 0


async def test_what_hangs_goes_on_when_the_weather_clears() -> None:
    async with chaos_under(Hang()) as (chaos, there):
        asking = asyncio.ensure_future(ask(chaos))
        await eventually(lambda: chaos.seen)
        assert there.requests == 0

        chaos.weather = CLEAR

        assert await asking == ANSWER
        assert there.requests == 1


async def test_who_gave_up_while_it_hung_is_not_forwarded() -> None:
    """A token request that nobody waits for any more would spend a refresh token."""
    async with chaos_under(Hang()) as (chaos, there):
        _, writer = await asyncio.open_connection("127.0.0.1", chaos.port)
        writer.write(REQUEST)
        await eventually(lambda: chaos.seen)
        writer.close()
        await eventually(lambda: chaos.is_idle)

        chaos.weather = CLEAR

        assert await ask(chaos) == ANSWER
        assert there.requests == 1


async def test_a_lost_answer_is_one_that_the_service_gave() -> None:
    async with chaos_under(Lose(b"grant=one")) as (chaos, there):
        with pytest.raises(ConnectionResetError):
            await ask(chaos)
        assert (there.requests, chaos.lost) == (1, 1)


async def test_only_what_is_marked_gets_lost() -> None:
    async with chaos_under(Lose(b"grant=another")) as (chaos, _):
        assert await ask(chaos) == ANSWER
        assert chaos.lost == 0


async def test_an_answer_is_cut_within_its_bound() -> None:
    async with chaos_under(Cut(most=50_000)) as (chaos, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", chaos.port)
        writer.write(REQUEST)
        got, was_reset = await _drained(reader)
        writer.close()

    assert was_reset
    assert got <= 50_000


async def _drained(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Return how many bytes came, and whether a reset was behind them."""
    got = 0
    try:
        while block := await reader.read(1000):
            got += len(block)
    except ConnectionResetError:
        return got, True
    return got, False
