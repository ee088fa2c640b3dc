"""What this machine has between itself and the services: a company's web proxy, certification authorities."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from proxy.config.addresses import is_loopback, parse_proxy_url, parse_url
from proxy.config.outbound import outbound_proxy
from proxy.doctor import hosts

AUTHORITY_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
)
"""By which other tools are told of a private authority, and where it therefore often stands already."""


@dataclass(frozen=True, slots=True)
class Outbound:
    """A web proxy that this machine is told to use."""

    setting: str
    """Value of `[network] proxy`: `env`, or the URL where the environment does not say it."""
    url: str
    place: str
    """Who says so, for people."""

    @property
    def shown(self) -> str:
        """Its address without the password that may stand in it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The machine's environment, and the web proxies of its system settings by scheme."""

    environ: Mapping[str, str]
    system_proxies: Mapping[str, str]
    look: Callable[[hosts.Host], hosts.Shown | None] = field(default=hosts.look)
    """Shows who vouches for a host; as the doctor's, it blocks and raises OSError."""

    def outbound(self, text: str) -> Outbound | None:
        """Return the web proxy through which a URL is to be reached; None if directly."""
        url = parse_url(text)
        try:
            found = outbound_proxy("env", url, self.environ)
        except ValueError:  # SOCKS, or nonsense: nothing that we could use
            return None
        if found is not None:
            return Outbound("env", found, "your environment (https_proxy)")
        names = {name.lower() for name, value in self.environ.items() if value}
        if names & {"https_proxy", "all_proxy"} or is_loopback(url.host):
            return None  # the environment has been asked, and excepts this host
        said = self.system_proxies.get(url.scheme)
        try:
            return None if said is None else Outbound(parse_proxy_url(said), parse_proxy_url(said), "your system")
        except ValueError:
            return None

    def authorities(self) -> list[tuple[str, str]]:
        """Return (variable, file) of certification authorities that other tools are told to trust."""
        found: dict[str, str] = {}
        for name in AUTHORITY_VARIABLES:
            path = Path(self.environ.get(name) or "-").expanduser()
            if path.is_absolute() and path.is_file():
                found.setdefault(str(path), name)
        return [(name, path) for path, name in found.items()]
