"""A proxy in this process in front of the demo, signed in, for tests of datasets over real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from proxy.app import App
from proxy.cli.tour import _toml
from proxy.clock import Clock, SystemClock
from proxy.config import load
from proxy.demo import Demo
from proxy.events import Event, Relayed
from proxy.stores.memory import MemoryStore
from proxy.tokens import TokenSet
from tests.journeys.house import Running, serving

MOUNT = "/provena/datasets"


def signed_in(
    demo: Demo, clock: Clock, person: str = "ada", client_id: str = "client-tools", scope: str = ""
) -> TokenSet:
    answer, now = demo.issuer.mint(client_id, person, scope), clock.wall()
    return TokenSet(
        access_token=answer["access_token"],
        expires_at=now + answer["expires_in"],
        obtained_at=now,
        client_id=client_id,
        issuer=demo.issuer_url,
        grant="device_code",
        refresh_token=answer["refresh_token"],
        refresh_expires_at=now + answer["refresh_expires_in"],
        scope=answer["scope"],
        signed_in_at=now,
        epoch=1,
    )


@dataclass
class House:
    """The demo, the proxy and what it told."""

    demo: Demo
    app: App
    there: Running
    http: httpx2.AsyncClient
    events: list[Event] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.there.port}{MOUNT}"

    def file(self, path: str, handle: str = "10378.1/1005") -> str:
        return f"{self.url}/{handle}/files/{path}"

    async def get(self, path: str, fields: dict[str, str] | None = None, method: str = "GET") -> httpx2.Response:
        """Ask for a path below the mount, or a whole URL."""
        url = path if path.startswith("http") else self.url + path
        return await self.http.request(method, url, headers=fields or {})

    @property
    def relayed(self) -> list[Relayed]:
        return [one for one in self.events if isinstance(one, Relayed)]

    def presigns(self) -> int:
        return self.demo.data.calls["/registry/items/generate-presigned-url"]


@asynccontextmanager
async def house(
    tmp_path: Path,
    *,
    person: str = "ada",
    client_id: str = "client-tools",
    scope: str = "",
    more: dict[str, dict[str, Any]] | None = None,
    transports: dict[str, httpx2.AsyncBaseTransport] | None = None,
) -> AsyncIterator[House]:
    """Run everything; `more` are further keys of the configuration's tables."""
    clock = SystemClock()
    async with Demo(clock=clock) as demo:
        table = demo.configuration(port=0)
        for name, keys in (more or {}).items():
            table[name] = table.get(name, {}) | keys
        file = tmp_path / "proxy.toml"
        file.write_text(_toml(table), "utf-8")
        events: list[Event] = []
        store = MemoryStore()
        await store.save("provena", signed_in(demo, clock, person, client_id, scope))
        app = App(load(file, {}), emit=events.append, clock=clock, store=store, transports=transports)
        listeners = app.bind()
        async with (
            app,
            serving(app.forwarder, listeners=listeners, guard=app.guard) as there,
            httpx2.AsyncClient(trust_env=False, timeout=30) as http,
        ):
            yield House(demo, app, there, http, events)
