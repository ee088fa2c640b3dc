"""The stage of an attack: a proxy whose every use is seen, and servers for the pages that attack it."""

import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.events import Refused
from proxy.guard import Guard
from proxy.server import Listener
from proxy.upstreams import Upstream
from tests.journeys.house import FixedSource, RawUpstream, Running, Script, Visit, raw_upstream, running

if TYPE_CHECKING:
    from playwright.sync_api import Page

WAYS = (Path(__file__).parent / "ways.js").read_text("utf-8")
NAMES = frozenset(re.findall(r'^  "([a-z-]+)":', WAYS, re.MULTILINE))

PAGE = f'<!doctype html><html><head><meta charset="utf-8"><title>attack</title></head><body><script>{WAYS}</script>'


def document(body: str, *fields: str, content_type: str | None = "text/html; charset=utf-8") -> bytes:
    """Return a whole answer."""
    raw = body.encode()
    lines = ["HTTP/1.1 200 OK", *fields, f"Content-Length: {len(raw)}"]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join([*lines, "", ""]).encode() + raw


HELLO = document("hello", content_type="text/plain")


def pages(answers: Mapping[str, bytes]) -> Script:
    """Return a script that answers each path with its page, and any other with HELLO."""

    async def script(visit: Visit) -> None:
        await visit.body()
        path = visit.head.split(b" ")[1].decode().partition("?")[0]
        await visit.send(answers.get(path, HELLO))

    return script


@dataclass
class Scene:
    """A proxy with two mounts, `/data` and `/other`, and a control plane that only counts."""

    proxy: Running
    data: RawUpstream
    other: RawUpstream
    source: FixedSource
    """Where the tokens of both mounts come from."""
    shown: list[str] = field(default_factory=list)
    """Paths that the control plane was asked for."""

    @property
    def port(self) -> int:
        return self.proxy.port

    @property
    def refused(self) -> set[str]:
        """Paths that the guard refused."""
        return {event.target.partition("?")[0] for event in self.proxy.events if isinstance(event, Refused)}

    @property
    def used(self) -> tuple[int, int, int, list[str]]:
        """What nobody may have used: connections to the mounts, tokens, our own pages."""
        return self.data.connections, self.other.connections, self.source.uses, self.shown


ARRIVAL_SECONDS = 90.0
"""For what comes after the page has lost its patience: beacons and prefetches, and everything on a busy machine."""
UNUSED: tuple[int, int, int, list[str]] = (0, 0, 0, [])


@asynccontextmanager
async def scene(
    *,
    guard: Guard | None = None,
    hostile: Mapping[str, bytes] | None = None,
    listen: tuple[str, int] | None = None,
    listeners: Sequence[Listener] = (),
) -> AsyncIterator[Scene]:
    """Run a proxy; `hostile` are pages of the upstream `data`, which `listen` gives a port of its own.

    `@PORT@` in their fields is the proxy's port. `listeners` come on top of one on loopback.
    """
    answers = dict(hostile or {})
    source = FixedSource()
    shown: list[str] = []

    async def control(asked: Any, _receive: Any, send: Any) -> None:
        shown.append(asked["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": b"control"})

    async with raw_upstream(pages(answers)) as data, raw_upstream(pages({})) as other:
        mounts: list[Upstream] = [data.upstream("data", listen=listen), other.upstream("other")]
        async with running(mounts, sources={"me": source}, guard=guard, control=control, listeners=listeners) as proxy:
            answers |= {path: raw.replace(b"@PORT@", b"%d" % proxy.port) for path, raw in answers.items()}
            yield Scene(proxy, data, other, source, shown)


def attack_from(page: "Page", url: str, *bases: str, arrived: Callable[[], bool]) -> dict[str, str]:
    """Open `url` and let its page try every way at each of `bases`; return what it learned once all `arrived`."""
    page.goto(url)
    return attack_at(page, *bases, arrived=arrived)


def attack_at(page: "Page", *bases: str, arrived: Callable[[], bool]) -> dict[str, str]:
    """Let the page that is open try every way at each of `bases`; return what it learned once all `arrived`."""
    learned: dict[str, str] = page.evaluate("(bases) => attack(bases)", bases)
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while not arrived() and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    return learned
