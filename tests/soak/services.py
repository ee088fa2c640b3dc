"""The protected services of the soak: the demo's own, behind a gate that verifies, records and misbehaves."""

import hashlib
import json
import random
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from proxy.asgi import ASGIApp, Receive, Scope, Send
from proxy.clock import Clock
from proxy.demo.bearer import InvalidToken, Verifier, authorization
from proxy.demo.faults import seeded_bytes
from proxy.demo.nsi import NsiService
from proxy.demo.provena import ProvenaDataApi
from proxy.demo.serving import BREAK, Listener, bind
from proxy.demo.transfer import TransferService
from proxy.tokens import claims as claims_of
from tests.soak.checks import Lease, Refusal

NOT_VALID = "Could not validate credentials"
"""Provena's words for a bad token; those for a missing permission are its own (facts on Provena)."""

BROKEN_OFF = "-broken-off"
"""End of the name of an upload that its caller means to break off."""


@dataclass(frozen=True, slots=True)
class Presenter:
    """Whose token an upstream expects."""

    client_id: str
    username: str


@dataclass
class Gate:
    """One upstream: `/soak/bytes/N` and `/soak/upload/NAME` are its own, the rest is the service behind it."""

    name: str
    inner: ASGIApp
    verifier: Verifier
    presenter: Presenter
    clock: Clock
    randomness: random.Random
    resets: bool = False
    is_slow: bool = False
    leases: dict[str, Lease] = field(default_factory=dict)
    """By token."""
    revoked: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    half_uploads: list[str] = field(default_factory=list)
    requests: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    last: str = ""
    """The token presented last."""

    def revoke(self) -> None:
        """Refuse from now on what was presented last."""
        if self.last:
            self.revoked.add(self.last)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += 1
        token = self._presented(scope)
        why = "revoked" if token in self.revoked else ""
        try:
            self._note(token, await self.verifier.verify(token))
        except InvalidToken as invalid:
            why = str(invalid)
        if why:
            said = claims_of(token)
            self.refusals.append(Refusal(self.name, self.clock.wall(), why, said.get("iat", 0), said.get("exp", 0)))
            async for _ in _body(receive):
                pass  # as these services do: the body is parsed before the token is looked at
            await _answer(send, 401, {"detail": NOT_VALID}, [(b"www-authenticate", b"Bearer")])
            return
        if self.is_slow:
            send = self._dripping(send)
        if self.resets and self.randomness.random() < 0.4:
            send = self._breaking(scope, send)
        path: str = scope["path"]
        if found := re.search(r"/soak/bytes/(\d+)$", path):
            await _send_bytes(scope, send, int(found[1]))
        elif "/soak/upload/" in path:
            await self._receive_upload(path.rpartition("/")[2], receive, send)
        else:
            await self.inner(scope, receive, send)

    def _presented(self, scope: Scope) -> str:
        lines = [value for name, value in scope["headers"] if name == b"authorization"]
        presented = authorization(scope["headers"])
        if len(lines) != 1 or presented is None or presented[0] != "bearer":
            self.wrong.append(f"{self.name}: {len(lines)} Authorization fields")
            return ""
        return presented[1]

    def _note(self, token: str, claims: Mapping[str, Any]) -> None:
        self.last = token
        if token in self.leases:
            return
        presenter = Presenter(claims.get("azp", ""), claims.get("preferred_username", ""))
        if presenter != self.presenter:
            self.wrong.append(f"{self.name}: {presenter} instead of {self.presenter}")
        self.leases[token] = Lease(self.name, float(claims["iat"]), self.clock.wall(), float(claims["exp"]))

    async def _receive_upload(self, name: str, receive: Receive, send: Send) -> None:
        digest, size = hashlib.sha256(), 0
        async for chunk in _body(receive):
            digest.update(chunk)
            size += len(chunk)
        if name.endswith(BROKEN_OFF):
            self.half_uploads.append(f"{self.name}: {name} arrived as complete with {size} bytes")
        await _answer(send, 200, {"sha256": digest.hexdigest(), "size": size})

    def _dripping(self, send: Send) -> Send:
        async def dripping(message: Any) -> None:
            if message["type"] == "http.response.start":
                await self.clock.sleep(self.randomness.uniform(0.1, 1.5))
            await send(message)
            if message.get("body"):
                await self.clock.sleep(0.02)

        return dripping

    def _breaking(self, scope: Scope, send: Send) -> Send:
        """Return a `send` that breaks the connection before the head, or after a number of bytes of the body."""
        left = self.randomness.choice((-1, 0, 1, 1000, 100_000))

        async def breaking(message: Any) -> None:
            nonlocal left
            if left >= 0 and message["type"] == "http.response.start":
                await send(message)
                return
            body = message.get("body", b"")
            if left >= len(body):
                left -= len(body)
                await send(message)
                return
            if left > 0:
                await send({**message, "body": body[:left], "more_body": True})
            scope["extensions"][BREAK](reset=self.randomness.random() < 0.5)
            raise _BrokenError

        return breaking


class _BrokenError(Exception):
    """The connection was broken on purpose: nobody is there to answer."""


class _Quiet:
    """Ends what was broken on purpose without a line in the log."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._inner(scope, receive, send)
        except (_BrokenError, _GoneError):
            while (await receive())["type"] != "http.disconnect":
                pass


class _GoneError(Exception):
    """The caller broke its upload off."""


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


async def _answer(send: Send, status: int, said: Any, fields: list[tuple[bytes, bytes]] | None = None) -> None:
    body = json.dumps(said).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *(fields or [])]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _send_bytes(scope: Scope, send: Send, size: int) -> None:
    """Send `seeded_bytes`; `?SEED` or `?SEED&chunked`."""
    seed, _, framing = scope["query_string"].decode().partition("&")
    fields = [(b"content-type", b"application/octet-stream")]
    if not framing:
        fields.append((b"content-length", b"%d" % size))
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    for block in seeded_bytes(size, int(seed)):
        await send({"type": "http.response.body", "body": block, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass
class Services:
    """The upstreams by name, where they answer, and the sockets they answer on."""

    gates: dict[str, Gate]
    urls: dict[str, str]
    listeners: list[Listener]

    def drop_connections(self) -> None:
        for listener in self.listeners:
            listener.drop_connections()


@asynccontextmanager
async def services(
    issuer: str, presenters: Mapping[str, Presenter], *, clock: Clock, seed: int
) -> AsyncIterator[Services]:
    """Run `data` (Provena's data API), `nsi` and `transfer` in front of tokens of `issuer`; yield once they answer."""
    inner: dict[str, ASGIApp] = {
        "data": ProvenaDataApi(issuer, clock=clock),
        "nsi": NsiService(issuer, clock=clock, allow_anonymous=False),
        "transfer": TransferService(issuer, clock=clock),
    }
    running = Services({}, {}, [])
    async with AsyncExitStack() as stack:
        for number, (name, app) in enumerate(inner.items()):
            gate = Gate(
                name,
                app,
                Verifier(issuer, clock=clock),
                presenters[name],
                clock,
                random.Random(f"{seed} {number}"),  # noqa: S311 - faults, not secrets
            )
            bound = bind("127.0.0.1", 0)
            listener = Listener(_Quiet(gate), bound, clock=clock)
            stack.push_async_callback(listener.close)
            await listener.open()
            running.gates[name] = gate
            running.listeners.append(listener)
            running.urls[name] = f"http://127.0.0.1:{bound.getsockname()[1]}"
        running.urls["transfer"] += "/2"
        yield running
