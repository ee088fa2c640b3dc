"""The listener in front of an app that writes down what the bytes became, for tests of the listener alone."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest_asyncio

from proxy.errors import BrokenOff
from proxy.limits import Limits

if TYPE_CHECKING:  # a plugin for all tests, of which few need these
    from tests.journeys.house import Running

SMALL = Limits(
    head_seconds=0.4,
    head_bytes=4096,
    head_lines=20,
    target_bytes=2048,
    keep_alive_seconds=0.5,
    linger_bytes=64 * 1024,
    linger_quiet_seconds=0.4,
    linger_seconds=1.0,
    flush_seconds=0.3,
)


@dataclass
class Recorder:
    """An app that writes down what the listener made of the bytes, and answers with it."""

    seen: list[dict[str, Any]] = field(default_factory=list)
    hang_ups: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """What a request for /wait waits for."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = {
            "method": scope["method"],
            "target": scope["extensions"]["bearerproxy"]["target"].decode(),
            "fields": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
            "body": None,
        }
        self.seen.append(request)
        if scope["path"] == "/unread":
            await self._say(send, request)
            return
        if scope["path"] == "/held-up":
            await self._held_up(receive)
            return
        if scope["path"] == "/early":
            await self._start(send, [])
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        request["body"] = await self._body(receive)
        if request["body"] is None:
            self.hang_ups += 1
            return
        match scope["path"]:
            case "/wait":
                await self.gate.wait()
            case "/half":
                await self._start(send, [])
                await send({"type": "http.response.body", "body": b"half", "more_body": True})
                raise BrokenOff("the other half is missing")
            case "/half-of-ten":
                await self._start(send, [(b"content-length", b"10")])
                await send({"type": "http.response.body", "body": b"half", "more_body": True})
                raise BrokenOff("the other half is missing")
            case "/hold":
                await self._start(send, [])
                await send({"type": "http.response.body", "body": b"begun", "more_body": True})
                if (await receive())["type"] == "http.disconnect":
                    self.hang_ups += 1
                await self.gate.wait()
            case "/twice":
                await self._start(send, [])
                await send({"type": "http.response.body", "body": b"once", "more_body": True})
                await self._start(send, [])
            case "/defect":
                raise RuntimeError("a defect of the app")
            case "/defect-later":
                await self._start(send, [])
                raise RuntimeError("a defect of the app")
            case "/nothing":
                return
            case "/big":
                await self._start(send, [(b"content-length", b"%d" % (8 << 20))])
                await send({"type": "http.response.body", "body": b"x" * (8 << 20)})
                return
            case "/204":
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
        await self._say(send, request)

    async def _held_up(self, receive: Any) -> None:
        """Take one piece of the body, and then wait for something else than the caller."""
        await receive()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.hang_ups += 1
            raise

    async def _body(self, receive: Any) -> str | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message["body"]
            if not message["more_body"]:
                return str(body, "latin-1")

    async def _start(self, send: Any, fields: list[tuple[bytes, bytes]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": fields})

    async def _say(self, send: Any, request: dict[str, Any]) -> None:
        await self._start(send, [(b"content-type", b"application/json")])
        await send({"type": "http.response.body", "body": json.dumps(request).encode()})


@dataclass
class House:
    app: Recorder
    there: "Running"

    def request(self, number: int = 0) -> dict[str, Any]:
        return self.app.seen[number]

    async def exchange(self, raw: bytes) -> bytes:
        return await self.there.exchange(raw)

    @property
    def said(self) -> str:
        return " ".join(str(refusal) for refusal in self.there.refusals)


class Stage:
    """Lets each test bring an app of its own to one listener: to start and drain one takes longer than most tests."""

    def __init__(self) -> None:
        self.app = Recorder()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> "AsyncIterator[tuple[Stage, Running]]":
    from tests.journeys.house import serving

    app = Stage()
    async with serving(app, limits=SMALL) as there:
        yield app, there


@pytest_asyncio.fixture(loop_scope="module")
async def house(stage: "tuple[Stage, Running]") -> AsyncIterator[House]:
    app, there = stage
    app.app = Recorder()
    there.refusals.clear()
    yield House(app.app, there)
    app.app.gate.set()


def get(target: str = "/", *lines: str, version: str = "1.1", host: str | None = "localhost") -> bytes:
    fields = [f"Host: {host}"] if host is not None else []
    return "\r\n".join([f"GET {target} HTTP/{version}", *fields, *lines, "", ""]).encode("latin-1")


def post(*lines: str, body: bytes = b"", target: str = "/", version: str = "1.1") -> bytes:
    return "\r\n".join([f"POST {target} HTTP/{version}", "Host: localhost", *lines, "", ""]).encode("latin-1") + body


CLOSE = "Connection: close"
