"""Who we are at an issuer: the configured whole, as one frozen value (words: STYLE, RFC 6749)."""

from dataclasses import dataclass, field
from enum import StrEnum

from proxy.secret_refs import Secret


class Grant(StrEnum):
    """How a token is obtained; the values are what users write."""

    DEVICE_CODE = "device_code"
    AUTHORIZATION_CODE = "authorization_code"
    CLIENT_CREDENTIALS = "client_credentials"
    PASSWORD = "password"  # noqa: S105 - the name of a grant (RFC 6749 4.3), not a password
    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - the same

    @property
    def needs_person(self) -> bool:
        """True if only a person in front of a browser can start it."""
        return self in (Grant.DEVICE_CODE, Grant.AUTHORIZATION_CODE)


@dataclass(frozen=True, slots=True)
class Network:
    """How a host is reached."""

    proxy: str | None = None
    """An outbound proxy's URL; None is a direct connection. Environment variables are read by config, not here."""
    ca_file: str | None = None
    """A PEM file of certification authorities *instead of* the platform's; None trusts the platform's."""
    tls_strict: bool = True
    """False drops Python 3.13's VERIFY_X509_STRICT, which refuses private CAs without keyUsage."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Endpoint overrides, absolute URLs; None asks the issuer's metadata (RFC 8414)."""

    token: str | None = None
    authorization: str | None = None
    device_authorization: str | None = None
    revocation: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """One identity at one issuer."""

    name: str
    client_id: str
    grant: Grant
    issuer: str | None = None
    """Issuer identifier, to the letter; None only if every endpoint that is needed is overridden."""
    client_secret: Secret | None = None
    scope: str | None = None
    refresh_token: Secret | None = None
    """Seeds the store (and starts a new epoch when it changes)."""
    username: str | None = None
    password: Secret | None = None
    endpoints: Endpoints = Endpoints()
    extra: tuple[tuple[str, str], ...] = ()
    """Additional token parameters, in order; a name may repeat (RFC 8707 `resource`)."""
    network: Network = field(default=Network())
    redirect_uri: str | None = None
    """Where the browser comes back to a sign-in on the page: at the proxy's own port; None opens a port for each."""
    offline_client_id: str | None = None
    """Client that `login --offline` uses instead (Provena: `automated-access`)."""
    offline_scope: str = "offline_access"
    """Scope that `login --offline` asks for, besides `scope`."""
