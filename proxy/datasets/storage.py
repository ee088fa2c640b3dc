"""The object storage behind the links: GETs without our token, over a bounded number of connections."""

import asyncio
from dataclasses import dataclass, replace

import httpx2

from proxy.datasets.links import Link
from proxy.errors import Overloaded, UpstreamInvalid, UpstreamTimeout, UpstreamUnreachable
from proxy.headers import Field, Fields
from proxy.identities import Network
from proxy.transport.connections import Connections, Disconnected, UpstreamResponse
from proxy.transport.tls import Trust, ssl_context
from proxy.upstreams import Upstream

_NAME = "storage"
FIRST_BYTE_SECONDS = 60.0
IDLE_SECONDS = 60.0
SLOT_SECONDS = 60.0
"""How long a reader waits for its turn; then 503, as it may read again."""


@dataclass(slots=True)
class Reading:
    """An answer of the storage, and the turn that it takes until it is closed."""

    response: UpstreamResponse
    _slots: asyncio.Semaphore
    _is_open: bool = True

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def fields(self) -> Fields:
        return self.response.fields

    def tell(self, field: Field) -> None:
        """Add a field that the storage left out."""
        self.response = replace(self.response, fields=[*self.response.fields, field])

    async def aclose(self) -> None:
        """Give connection and turn back; a second time does nothing."""
        if self._is_open:
            self._is_open = False
            try:
                await self.response.aclose()
            finally:
                self._slots.release()


class Storage:
    """Reads links. `concurrency` bounds its connections, whatever the number of datasets."""

    def __init__(
        self,
        *,
        network: Network,
        concurrency: int,
        transport: httpx2.AsyncBaseTransport | None = None,
        trust: Trust = ssl_context,
    ) -> None:
        self._network = network
        self._trust = trust
        self._slots = asyncio.Semaphore(concurrency)
        self._transport = transport
        self._connections: dict[str, Connections] = {}

    async def get(self, link: Link, fields: Fields) -> Reading:
        """Return the answer to a GET of `link`, which the caller closes.

        `fields` are all that is sent besides Host: no token, no cookie, nothing of the caller. Raises
        UpstreamUnreachable, UpstreamTimeout, UpstreamInvalid; Overloaded if no turn came in time.
        """
        try:
            async with asyncio.timeout(SLOT_SECONDS):
                await self._slots.acquire()
        except TimeoutError as error:
            raise Overloaded(
                "Too many files are being read at once; see [datasets] concurrency.", retry_after=5
            ) from error
        try:
            async with asyncio.timeout(FIRST_BYTE_SECONDS):
                response = await self._sent(link, fields)
        except TimeoutError as error:
            self._slots.release()
            raise UpstreamTimeout(f"The file storage ({link.origin}) sent no answer.") from error
        except BaseException:
            self._slots.release()
            raise
        return Reading(response, self._slots)

    async def _sent(self, link: Link, fields: Fields) -> UpstreamResponse:
        """Send a GET, once more if an idle connection had just been closed."""
        connections, head = self._to(link), [(b"host", link.authority.encode("ascii")), *fields]
        try:
            try:
                return await connections.send("GET", link.target, head, None)
            except Disconnected:
                return await connections.send("GET", link.target, head, None)
        except (UpstreamUnreachable, UpstreamInvalid) as error:
            # No table of the configuration is about it: it is where the data store says.
            raise type(error)(str(error).replace(f"[upstream.{_NAME}]", "The file storage")) from error

    def _to(self, link: Link) -> Connections:
        if link.origin not in self._connections:
            place = Upstream(
                name=_NAME, scheme=link.scheme, host=link.host, port=link.port, network=self._network,
                idle_timeout=IDLE_SECONDS,
            )  # fmt: skip
            self._connections[link.origin] = Connections(place, self._transport, self._trust)
        return self._connections[link.origin]

    async def close(self) -> None:
        for connections in self._connections.values():
            await connections.aclose()
