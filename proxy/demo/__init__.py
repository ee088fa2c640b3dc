"""Everything to try bearerproxy with, on this machine: an issuer, and three services that check its tokens for real.

An island: it knows nothing of the proxy but the clock, and the proxy knows it only by the configuration that it hands
over. Its data is invented, its secrets are public, and what it keeps is forgotten at the end.

    async with Demo() as demo:
        configuration = demo.configuration()     # what a proxy needs to stand in front of it
        signed_in = demo.issuer.mint("client-tools", "ada")
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from starlette.types import ASGIApp

from proxy.clock import Clock, SystemClock
from proxy.demo.issuer import DemoIssuer
from proxy.demo.nsi import NsiService
from proxy.demo.provena import SERVICES, ProvenaDataApi
from proxy.demo.realm import CLIENTS, PEOPLE, Client, Lifetimes, Person
from proxy.demo.serving import Listener, bind
from proxy.demo.transfer import TransferService

__all__ = ["PARTS", "Client", "Demo", "DemoIssuer", "Lifetimes", "Person"]

PARTS = ("issuer", "data", "storage", "nsi", "transfer")


class Demo:
    """The issuer and the services on loopback sockets, from `async with` to its end."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        host: str = "127.0.0.1",
        ports: Mapping[str, int] | None = None,
        realm: str = "demo",
        lifetimes: Lifetimes | None = None,
        rotation: bool = False,
        data_audience: str | None = None,
        allow_anonymous: bool = True,
        culture_separators: bool = False,
        faults: bool = False,
        clients: Iterable[Client] = CLIENTS,
        people: Iterable[Person] = PEOPLE,
    ) -> None:
        """Bind the sockets, so that every URL is known; nothing answers before `async with`.

        `ports` maps any of PARTS to a port; the others take a free one. Raises OSError if a port is taken. The other
        settings are those of DemoIssuer (`realm`, `lifetimes`, `rotation`, `clients`, `people`), ProvenaDataApi
        (`data_audience`, `faults`) and NsiService (`allow_anonymous`, `culture_separators`).
        """
        self._clock: Clock = clock or SystemClock()
        self._host = host
        self._sockets = {part: bind(host, (ports or {}).get(part, 0)) for part in PARTS}
        self._ports = {part: int(bound.getsockname()[1]) for part, bound in self._sockets.items()}
        self.issuer = DemoIssuer(
            self._origin("issuer"),
            realm=realm,
            clock=self._clock,
            lifetimes=lifetimes,
            rotation=rotation,
            clients=clients,
            people=people,
        )
        self.issuer_url = self.issuer.url
        """Issuer identifier: `http://127.0.0.1:PORT/auth/realms/demo`."""
        self.data_url = self._origin("data")
        self.nsi_url = self._origin("nsi")
        """The NSI service, without `/rest`."""
        self.transfer_url = f"{self._origin('transfer')}/2"
        self.storage_url = self._origin("storage")
        """The object storage behind the dataset files' links."""
        self.data = ProvenaDataApi(
            self.issuer_url, clock=self._clock, storage_url=self.storage_url, audience=data_audience, faults=faults
        )
        self.nsi = NsiService(
            self.issuer_url,
            clock=self._clock,
            allow_anonymous=allow_anonymous,
            culture_separators=culture_separators,
        )
        self.transfer = TransferService(self.issuer_url, clock=self._clock)
        self._apps: dict[str, ASGIApp] = {
            "issuer": self.issuer,
            "data": self.data,
            "storage": self.data.store,
            "nsi": self.nsi,
            "transfer": self.transfer,
        }
        self._listeners: dict[str, Listener] = {}

    async def __aenter__(self) -> Self:
        try:
            for part in PARTS:
                await self.start(part)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self, part: str) -> None:
        """Let one of PARTS answer, on the port that it had from the beginning. Raises OSError if that was taken."""
        bound = self._sockets.pop(part, None) or bind(self._host, self._ports[part])
        self._listeners[part] = Listener(self._apps[part], bound, clock=self._clock)
        await self._listeners[part].open()

    async def stop(self, part: str) -> None:
        """Take one of PARTS away, cutting whatever it is doing; what it knows is kept for `start`."""
        listener = self._listeners.pop(part, None)
        if listener is not None:
            await listener.close()

    def drop_connections(self, part: str) -> None:
        """Cut every open connection of one of PARTS; it goes on accepting new ones."""
        self._listeners[part].drop_connections()

    async def close(self) -> None:
        """Take everything away."""
        for part in PARTS:
            await self.stop(part)
        for bound in self._sockets.values():
            bound.close()

    def configuration(self, *, port: int = 8400, store: Path | None = None) -> dict[str, Any]:
        """Return the configuration of a proxy in front of the demo, in the shape of its TOML file.

        `store` is a folder for the token store, so that other commands find the sign-in; None keeps it in memory.
        Provena's other services are stubs below the data API's `/services/`, so that every mount of the preset answers.
        """
        others = {name: f"{self.data_url}/services/{name}" for name in SERVICES}
        return {  # Any: TOML
            "server": {"port": port},
            "store": {"kind": "memory"} if store is None else {"kind": "file", "path": str(store)},
            "datasets": {"endpoint": self.storage_url},
            "provena": {"issuer": self.issuer_url, "data": self.data_url, **others},
            "dotstat": {
                "issuer": self.issuer_url,
                "client_id": "dotstat-svc",
                "grant": "client_credentials",
                "client_secret": "svc-secret",
                "nsi": self.nsi_url,
                "transfer": self.transfer_url,
            },
        }

    def _origin(self, part: str) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._ports[part]}"
