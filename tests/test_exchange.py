"""One relay as an ASGI application sees it: what a server may hand in that our own listener never would."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.clock import SystemClock
from proxy.errors import BadRequest
from proxy.events import Event
from proxy.exchange import Relay, Request
from proxy.spool import Spools
from proxy.transport.connections import Connections
from proxy.upstreams import Match
from tests.journeys.house import PSEUDONYM, RawUpstream, ok, raw_upstream


@asynccontextmanager
async def relaying(there: RawUpstream) -> AsyncIterator[tuple[Relay, Match]]:
    """Yield a relay to `there` without a token, and a match that leads there."""
    upstream = there.upstream(identity=None)
    connections, events, spools = Connections(upstream), list[Event](), Spools()
    relay = Relay(
        sources={},
        connections={upstream.name: connections},
        spools=spools,
        pseudonym=PSEUDONYM,
        clock=SystemClock(),
        emit=events.append,
    )
    try:
        yield relay, Match(upstream, b"/data", b"/x", b"")
    finally:
        await connections.aclose()
        await spools.close()


@pytest.mark.parametrize("body", [b"abc", b"abcdefg"], ids=["too-short", "too-long"])
async def test_h45_a_body_that_does_not_fit_its_length_is_explained_and_never_complete(body: bytes) -> None:
    """Our listener's parser would not let it in; another server might."""
    said: list[Any] = []
    arriving = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        message = next(arriving, None)
        return message if message is not None else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        said.append(message)

    async with raw_upstream(ok) as there, relaying(there) as (relay, match):
        request = Request("POST", b"/data/x", [(b"content-length", b"5")], b"http://localhost")
        with pytest.raises(BadRequest, match="length that its head announced"):
            await relay(request, match, receive, send, extra=[])

    assert said == []
    assert there.bodies == []
