"""Our small services in front of a real Keycloak: they verify its tokens for real."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.asgi import ASGIApp
from proxy.clock import SystemClock
from proxy.demo.nsi import NsiService
from proxy.demo.provena import ProvenaDataApi
from proxy.demo.serving import Listener, bind
from proxy.demo.transfer import TransferService
from tests.keycloak.server import Realm


@dataclass(frozen=True)
class Services:
    """Where they answer."""

    data: str
    nsi: str
    transfer: str


@asynccontextmanager
async def services(realm: Realm) -> AsyncIterator[Services]:
    """Run a data API (audience `provena-api`), an NSI service and a Transfer service (audience `dotstat-api`)."""
    clock = SystemClock()
    apps: tuple[ASGIApp, ...] = (
        ProvenaDataApi(realm.issuer, clock=clock, audience="provena-api", faults=True),
        NsiService(realm.issuer, clock=clock, allow_anonymous=False),
        TransferService(realm.issuer, clock=clock),
    )
    sockets = [bind("127.0.0.1", 0) for _ in apps]
    listeners = [Listener(app, bound, clock=clock) for app, bound in zip(apps, sockets, strict=True)]
    for listener in listeners:
        await listener.open()
    data, nsi, transfer = (f"http://127.0.0.1:{bound.getsockname()[1]}" for bound in sockets)
    try:
        yield Services(data, nsi, f"{transfer}/2")
    finally:
        for listener in listeners:
            await listener.close()
