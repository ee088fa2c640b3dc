"""Datasets of the Provena deployments that a configuration has: wired here, and imported where it has any."""

from collections.abc import Mapping
from dataclasses import dataclass

import httpx2

from proxy import __version__
from proxy.clock import Clock
from proxy.config import Configuration
from proxy.datasets.data_api import DataApi, Service
from proxy.datasets.face import Face
from proxy.datasets.library import Library
from proxy.datasets.pages import Pages
from proxy.datasets.permissions import StorageSettings
from proxy.datasets.storage import Storage
from proxy.events import Emit
from proxy.exchange import Source
from proxy.transport.connections import Connections
from proxy.transport.tls import Trust


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What deployments share with the relay."""

    configuration: Configuration
    connections: Mapping[str, Connections]
    """By upstream."""
    sources: Mapping[str, Source]
    """By identity."""
    storage: httpx2.AsyncBaseTransport | None
    """The way to object stores, for tests; None is the real one."""
    trust: Trust
    pseudonym: bytes
    clock: Clock
    emit: Emit


def libraries_of(there: Surroundings) -> dict[str, Library]:
    """Return the datasets of each deployment, by its name."""
    return {name: _library(name, there) for name, _ in there.configuration.datasets.deployments}


def faces_of(libraries: Mapping[str, Library], there: Surroundings) -> list[Face]:
    """Return what serves `libraries` to callers."""
    pages = Pages("proxy.control", version=__version__)
    upstreams = {one.name: one for one in there.configuration.upstreams}
    return [
        Face(
            mount,
            libraries[name],
            pages,
            upstream=upstreams[f"{name}_data"],
            name=name,
            clock=there.clock,
            emit=there.emit,
        )
        for name, mount in there.configuration.datasets.deployments
    ]


def _library(name: str, there: Surroundings) -> Library:
    """Return the datasets of the deployment `name`, read with the identity of its data store."""
    upstreams = {one.name: one for one in there.configuration.upstreams}
    services = {
        one: Service(upstreams[f"{name}_{one}"], there.connections[f"{name}_{one}"])
        for one in ("data", "search", "registry")
        if f"{name}_{one}" in upstreams
    }
    data = services["data"]
    api = DataApi(
        data,
        there.sources[data.upstream.identity or name],
        search=services.get("search"),
        registry=services.get("registry"),
        pseudonym=there.pseudonym,
    )
    said = there.configuration.datasets
    storage = Storage(
        network=data.upstream.network, concurrency=said.concurrency, transport=there.storage, trust=there.trust
    )
    return Library(api, storage, StorageSettings(region=said.region, endpoint=said.endpoint), there.clock)
