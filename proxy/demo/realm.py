"""The realm of the demo: clients, people, scopes and lifetimes, as frozen values and pure functions.

Names and kinds follow the realms that Provena and .Stat Suite run on Keycloak, so that a configuration which works
here works there with other hosts.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
AUTHORIZATION_CODE = "authorization_code"
CLIENT_CREDENTIALS = "client_credentials"
PASSWORD = "password"
REFRESH_TOKEN = "refresh_token"

_UNNAMED_SCOPES = frozenset({"roles", "basic", "acr", "web-origins"})
"""Scopes that Keycloak grants without naming them in the answer's `scope`."""

_LOOPBACK = frozenset({"127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long things live, in seconds; the defaults are Provena's and Keycloak's."""

    access_seconds: int = 300
    sso_idle_seconds: int = 1800
    sso_max_seconds: int = 36_000
    offline_idle_seconds: int = 2_592_000
    device_code_seconds: int = 600
    device_interval_seconds: int = 1
    authorization_code_seconds: int = 60


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who can sign in."""

    username: str
    password: str
    full_name: str
    email: str
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Client:
    """A registered OAuth client."""

    client_id: str
    name: str
    """What the sign-in page calls it."""
    grants: frozenset[str]
    audience: str
    secret: str | None = None
    """None makes it a public client (RFC 6749 2.1)."""
    redirect_uris: tuple[str, ...] = ()
    """Exact, or a prefix that ends in `*`; a loopback literal without a port stands for any port (RFC 8252 7.3)."""
    default_scopes: tuple[str, ...] = ("profile", "email", "roles")
    optional_scopes: tuple[str, ...] = ()
    needs_pkce: bool = False
    access_seconds: int | None = None
    """Overrides the realm's lifetime."""

    def scopes_for(self, requested: str) -> tuple[str, ...]:
        """Return the granted scopes; what the client may not have is dropped without a word, as Keycloak does."""
        allowed = {"openid", *self.optional_scopes}
        return tuple(dict.fromkeys([*self.default_scopes, *(one for one in requested.split() if one in allowed)]))

    def accepts_redirect(self, uri: str) -> bool:
        """Return whether an authorization response may be sent to `uri`."""
        try:
            have = urlsplit(uri)
            port = have.port
        except ValueError:
            return False
        if have.fragment or have.username is not None:
            return False
        for pattern in self.redirect_uris:
            want = urlsplit(pattern.removesuffix("*"))
            same_port = port == want.port or (want.port is None and want.hostname in _LOOPBACK)
            same_path = have.path.startswith(want.path) if pattern.endswith("*") else have.path == want.path
            if (have.scheme, have.hostname) == (want.scheme, want.hostname) and same_port and same_path:
                return True
        return False


def scope_text(scopes: tuple[str, ...]) -> str:
    """Return the wire's `scope` for granted scopes."""
    return " ".join(one for one in scopes if one not in _UNNAMED_SCOPES)


PEOPLE = (
    Person(
        "ada",
        "reef",
        "Ada Marsh",
        "ada@demo.example",
        ("default-roles-demo", "offline_access", "entity-registry-read", "entity-registry-write"),
        ("/researchers",),
    ),
    Person("ben", "reef", "Ben Okafor", "ben@demo.example", ("default-roles-demo", "offline_access")),
)
"""`ada` may read and write the registry; `ben` may sign in and nothing else."""

CLIENTS = (
    Client(
        "client-tools",
        "Research scripts",
        frozenset({DEVICE_CODE, REFRESH_TOKEN}),
        "provena-api",
    ),
    Client(
        "automated-access",
        "Automated access",
        frozenset({DEVICE_CODE, REFRESH_TOKEN}),
        "provena-api",
        default_scopes=("profile", "email"),
        optional_scopes=("roles", "offline_access"),
    ),
    Client(
        "dotstat-app",
        "Statistics desktop",
        frozenset({AUTHORIZATION_CODE, PASSWORD, REFRESH_TOKEN}),
        "dotstat-api",
        redirect_uris=("http://127.0.0.1:3000/*",),
        optional_scopes=("offline_access",),
    ),
    Client(
        "dotstat-svc",
        "Statistics service",
        frozenset({CLIENT_CREDENTIALS}),
        "dotstat-api",
        secret="svc-secret",
    ),
    Client(
        "desktop",
        "Desktop program",
        frozenset({AUTHORIZATION_CODE, DEVICE_CODE, REFRESH_TOKEN}),
        "dotstat-api",
        redirect_uris=("http://127.0.0.1/*", "http://[::1]/*"),
        optional_scopes=("offline_access",),
        needs_pkce=True,
    ),
)
