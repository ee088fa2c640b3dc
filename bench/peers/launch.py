"""How one peer is started."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.upstream import Site


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line, what it is, and under which base URLs it then relays."""

    argv: tuple[str, ...]
    version: str
    bases: Mapping[str, str]
    """`tls` and `plain`: the upstream's doors. A peer may have more."""
    environ: Mapping[str, str] = field(default_factory=dict)

    def url(self, mount: str, path: str) -> str:
        """Return the address of the upstream's `path` through this peer; mounts that it lacks are its `tls`."""
        return self.bases.get(mount, self.bases["tls"]) + path


def mounted(site: Site) -> dict[str, str]:
    """Return the bases of a peer that has both upstreams on one port, told apart by the path."""
    return {door: f"http://127.0.0.1:{site.port}/{door}" for door in ("tls", "plain")}
