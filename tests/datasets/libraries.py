"""A library in this process, without a proxy around it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.clock import Clock, SystemClock
from proxy.datasets.data_api import DataApi, Service
from proxy.datasets.download import Download
from proxy.datasets.handles import Handle
from proxy.datasets.library import Library
from proxy.datasets.permissions import StorageSettings
from proxy.datasets.storage import Storage
from proxy.headers import Fields
from proxy.identities import Network
from proxy.transport.connections import Connections
from proxy.upstreams import Upstream
from tests.datasets.deployment import HANDLE, Deployment
from tests.journeys.house import FixedSource

THERE = Handle.parse(HANDLE)


class SwiftClock(SystemClock):
    """Real time in which nobody waits: pauses pass at once, and are counted."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@asynccontextmanager
async def library_of(
    there: Deployment,
    *,
    concurrency: int = 32,
    endpoint: str | None = None,
    region: str | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Library]:
    port = int(there.data_url.rpartition(":")[2])
    data = Upstream("data", "http", "127.0.0.1", port, identity="me")
    connections = Connections(data)
    library = Library(
        DataApi(Service(data, connections), FixedSource(), pseudonym=b"test"),
        Storage(network=Network(), concurrency=concurrency),
        StorageSettings(region=region, endpoint=endpoint or there.storage_url),
        clock or SwiftClock(),
    )
    try:
        yield library
    finally:
        await library.close()
        await connections.aclose()


async def read(download: Download, fields: Fields | None = None) -> bytes:
    """Return the body of a whole download."""
    try:
        await download.open(fields or [])
        return b"".join([chunk async for chunk in download.chunks()])
    finally:
        await download.aclose()
