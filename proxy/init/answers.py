"""What people type or paste, as settings. Pure; every refusal is a sentence to print."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from proxy.config.addresses import is_loopback, parse_host, parse_url
from proxy.config.models import DotstatPreset, IdentityTable, ProvenaPreset, UpstreamTable
from proxy.config.presets import Expansion, expand_dotstat, expand_provena
from proxy.config.values import AnyTable
from proxy.identities import Grant

KNOWN_DEPLOYMENT = ("mds.gbrrestoration.org", "rrap")
"""Domain and realm of the Provena that most people mean."""
DOTSTAT_CLIENT = "stat-suite"
OTHER = "api"
"""Name of the identity and the upstream of a service that has no preset."""
GRANTS = (Grant.DEVICE_CODE, Grant.AUTHORIZATION_CODE, Grant.CLIENT_CREDENTIALS)
"""Those for which four answers are enough."""
_PAGES = ("data", "registry", "prov", "search", "auth", "handle", "www")
"""Hosts of a Provena deployment that people have in their browsers, besides its APIs."""
_BEHIND_AN_ISSUER = re.compile(r"/(?:\.well-known|protocol/openid-connect|account|oauth2?/)(?:/.*)?$")
_REALM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Service(StrEnum):
    """What is to be read; the values are the presets' names and what people type."""

    PROVENA = "provena"
    DOTSTAT = "dotstat"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Answers:
    """What is known so far."""

    service: Service
    address: Mapping[str, str] = field(default_factory=dict)
    """`domain` or `data` of Provena, `nsi` of .Stat Suite, `url` of another: the keys of the file."""
    issuer: Mapping[str, str] = field(default_factory=dict)
    """`realm` or `issuer`."""
    client_id: str | None = None
    grant: Grant = Grant.DEVICE_CODE
    client_secret: str | None = None
    """Reference to the client's secret, for client_credentials."""
    port: int = 8400
    network: Mapping[str, str] = field(default_factory=dict)
    """`proxy` and `ca_file` for everything that is outside."""
    of_service: Mapping[str, str] = field(default_factory=dict)
    """The same for the service alone, where its host and the issuer's differ."""
    of_issuer: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Where these were found, a sentence each."""

    @property
    def name(self) -> str:
        """The identity's name."""
        return OTHER if self.service is Service.OTHER else self.service.value

    @property
    def default_client(self) -> str | None:
        """The client that the preset uses unless told otherwise."""
        if self.service is Service.PROVENA:
            preset = ProvenaPreset.model_validate({"domain": "example.org", "realm": "x"})
            return str(expand_provena(preset, self.name, ()).identity["client_id"])
        return DOTSTAT_CLIENT if self.service is Service.DOTSTAT else None

    def preset(self) -> AnyTable:
        """Return the keys of the table that says it: the preset's, or those that identity and upstream share out."""
        said: AnyTable = {**self.address, **self.issuer}
        if self.service is not Service.PROVENA or self.client_id != self.default_client:
            said |= {"client_id": self.client_id}
        if self.service is not Service.PROVENA:
            said |= {"grant": self.grant.value}
        if self.client_secret is not None:
            said |= {"client_secret": self.client_secret}
        return {key: value for key, value in said.items() if value is not None}

    def expanded(self) -> Expansion:
        """Return identity and upstreams, as the configuration makes them of the file."""
        said = self.preset()
        if not self.issuer:
            said |= {"realm": "unknown"} if "domain" in self.address else {"issuer": "https://unknown.example.org"}
        if self.service is Service.PROVENA:
            return expand_provena(ProvenaPreset.model_validate(said), self.name, (self.name,))
        said = {"client_id": "unknown"} | said
        if self.service is Service.DOTSTAT:
            return expand_dotstat(DotstatPreset.model_validate(said), self.name, (self.name,))
        url = said.pop("url")
        identity = IdentityTable.model_validate(said).model_dump(exclude_none=True)
        upstream = UpstreamTable.model_validate({"url": url, "identity": OTHER})
        return Expansion(OTHER, "", (), identity, {OTHER: upstream.model_dump(exclude_none=True)})

    @property
    def issuer_url(self) -> str:
        """The issuer's identifier."""
        return str(self.expanded().identity["issuer"])

    @property
    def mount(self) -> str:
        """The local path that most people begin with."""
        upstreams = self.expanded().upstreams
        for likely in (f"{self.name}_csv", f"{self.name}_data"):
            if likely in upstreams:
                return str(upstreams[likely]["mount"])
        return f"/{self.name}"


def read_service(text: str) -> Service:
    """Return the service that a word means; raises ValueError."""
    word = re.sub(r"[^a-z0-9]", "", text.lower())
    meant = {"1": "provena", "2": "dotstat", "3": "other", "p": "provena", "d": "dotstat", "o": "other"}
    meant |= {"stat": "dotstat", "statsuite": "dotstat", "dotstatsuite": "dotstat", "nsi": "dotstat", "sdmx": "dotstat"}
    try:
        return Service(meant.get(word, word))
    except ValueError:
        raise ValueError("It is provena, dotstat or other.") from None


def read_address(service: Service, text: str) -> list[Mapping[str, str]]:
    """Return what an address may mean, the likeliest first; raises ValueError."""
    text = text.strip()
    if service is Service.PROVENA and not _is_one_api(text):
        return [{"domain": domain} for domain in _domains(text)]
    key = {Service.PROVENA: "data", Service.DOTSTAT: "nsi", Service.OTHER: "url"}[service]
    return [{key: _checked(text.rstrip("/"))}]


def _is_one_api(text: str) -> bool:
    """Return whether a Provena's address is that of its data API alone, because its hosts are not called as usual."""
    try:
        url = parse_url(text)
    except ValueError:
        return False
    return is_loopback(url.host) or url.port not in (80, 443) or re.match(r"[^.]+-data-api\.", url.host) is not None


def _domains(text: str) -> list[str]:
    """Return the domains that a host, or any URL of a deployment, may belong to."""
    host = urlsplit(text).hostname if "://" in text else text.partition("/")[0]
    try:
        domain = parse_host(host or "")
    except ValueError as error:
        raise ValueError(f"A domain {error}, such as {KNOWN_DEPLOYMENT[0]}.") from None
    if "." not in domain:
        raise ValueError(f"A domain has a dot, such as {KNOWN_DEPLOYMENT[0]}.")
    first, _, rest = domain.partition(".")
    if first.endswith("-api"):
        return [rest]
    return [domain, rest] if first in _PAGES and "." in rest else [domain]


def read_issuer(answers: Answers, text: str) -> list[Mapping[str, str]]:
    """Return what a realm, or any URL of an issuer, may mean, the likeliest first; raises ValueError."""
    text = text.strip()
    if "domain" in answers.address and "/" not in text:
        if not _REALM.fullmatch(text):
            raise ValueError(f"A realm is a plain name, such as {KNOWN_DEPLOYMENT[1]}; or give the issuer's address.")
        return [{"realm": text}]
    # A slash at the end is part of some issuers' names (RFC 8414 3.3), and of others' only in a browser.
    url = _checked(_BEHIND_AN_ISSUER.sub("", text.partition("?")[0].partition("#")[0]))
    parts = urlsplit(url)
    found = [url]
    if parts.path.startswith("/auth/realms/"):  # Keycloak below 17, and as many install it
        found.append(url.replace("/auth/realms/", "/realms/", 1))
    elif parts.path.startswith("/realms/"):
        found.append(url.replace("/realms/", "/auth/realms/", 1))
    return [{"issuer": one} for one in found]


def read_client(text: str) -> str:
    """Return a client's id; raises ValueError."""
    if not text.strip() or not text.isprintable():
        raise ValueError("A client has a name, which the service's operator can tell.")
    return text.strip()


def read_port(text: str) -> int:
    """Return a port; raises ValueError."""
    if not re.fullmatch(r"[0-9]{1,5}", text.strip()) or not 0 < int(text) <= 65535:
        raise ValueError("A port is a number from 1 to 65535.")
    return int(text)


def _checked(text: str) -> str:
    """Return a URL that may carry a token; a host alone is taken for https. Raises ValueError."""
    text = text if "://" in text else f"https://{text}"
    try:
        url = parse_url(text)
    except ValueError as error:
        raise ValueError(f"The address {error}.") from None
    if url.scheme == "http" and not is_loopback(url.host):
        raise ValueError("http:// would send your token in the clear; is there an address with https://?")
    return text
