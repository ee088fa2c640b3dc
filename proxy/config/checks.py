"""What single settings cannot know: rules between keys, between tables and with the machine. Each yields findings."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from proxy.config.addresses import Url, is_loopback, parse_listen, parse_url
from proxy.config.mistakes import nearest
from proxy.config.models import IdentityTable, ServerTable, StoreTable, UpstreamTable
from proxy.config.values import NAME, Finding, Key
from proxy.errors import SecretError
from proxy.identities import Grant
from proxy.secret_refs import Secret
from proxy.stores.redis_url import RedisUrl
from proxy.stores.redis_url import parse as parse_redis_url

Identities = Mapping[str, IdentityTable]
Upstreams = Mapping[str, UpstreamTable]

ENDPOINTS = ("token", "authorization", "device_authorization", "revocation")
_BIND_RULE = ("host", "allow_remote", "allowed_hosts", "api_key", "trusted_network")
_CREDENTIALS = ("identity", "anonymous", "headers")
_ISSUER_URLS = ("issuer", *(f"{one}_endpoint" for one in ENDPOINTS))
SHY_FIELD = re.compile(r"(?i)auth|key|token|secret|passw|cookie|credential|session")
"""Names of fields whose value is a secret by the look of it."""
# Clients of .Stat's Transfer make the URL of a status by replacing these words anywhere in the URL of an upload.
_REPLACED_BY_CLIENTS = ("import", "sdmxFile", "excel")
_ASKED_LATER = ("command:", "aws-secretsmanager:", "vault:")
_OWN_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
_UNIX_PATH_LIMIT = 103  # sun_path of macOS; Linux has four bytes more
_NEEDS: Mapping[Grant, tuple[str, ...]] = {
    Grant.DEVICE_CODE: (),
    Grant.AUTHORIZATION_CODE: (),
    Grant.CLIENT_CREDENTIALS: ("client_secret",),
    Grant.PASSWORD: ("username", "password"),
    Grant.REFRESH_TOKEN: ("refresh_token",),
}
_NEEDED_ENDPOINTS: Mapping[Grant, tuple[str, ...]] = {
    Grant.DEVICE_CODE: ("device_authorization_endpoint",),
    Grant.AUTHORIZATION_CODE: ("authorization_endpoint",),
}


def is_doubtful(path: Key, wrong: AbstractSet[Key]) -> bool:
    """Return True if a finding at `path` may only follow from a setting that is wrong itself, and was left out."""
    if any(path[:depth] in wrong for depth in range(1, len(path) + 1)):
        return True
    kind, table, key = path[0], path[:-1], path[-1]
    if kind == "server" or key == "listen":
        return any(("server", one) in wrong for one in _BIND_RULE)
    if kind == "identity":
        return (*table, "grant") in wrong or (key == "issuer" and any((*table, one) in wrong for one in _ISSUER_URLS))
    if key == "url":
        return not wrong.isdisjoint({("server", "trusted_network"), ("server", "port"), (*table, "identity")})
    return key in _CREDENTIALS and any((*table, one) in wrong for one in _CREDENTIALS)


def check_names(kind: str, names: Iterable[str]) -> Iterator[Finding]:
    for name in names:
        if not NAME.fullmatch(name):
            suggestion = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
            hint = f", such as {suggestion}" if NAME.fullmatch(suggestion) else ""
            yield (kind, name), f"is no name: lower-case letters and digits, parts joined by one underscore{hint}"


def check_server(server: ServerTable, upstreams: Upstreams) -> Iterator[Finding]:
    """The bind rule: who else could reach us must be let in on purpose."""
    remote: list[Key] = [("server", "host")] if not is_loopback(server.host) else []
    for name, upstream in upstreams.items():
        if upstream.listen is not None and not is_loopback(parse_listen(upstream.listen, "127.0.0.1")[0]):
            remote.append(("upstream", name, "listen"))
    for path in remote:
        lacks = []
        if not server.allow_remote:
            lacks.append("allow_remote = true")
        if not server.allowed_hosts:
            lacks.append('allowed_hosts = ["the names that callers use"]')
        if server.api_key is None and not server.trusted_network:
            lacks.append("api_key, or trusted_network = true,")
        if lacks:
            yield path, f"is reachable from other machines, which wants {' and '.join(lacks)} under [server]"
    if server.uds is not None:
        yield from _check_socket(server.uds)
    if server.same_user and sys.platform != "linux":
        yield ("server", "same_user"), "needs Linux, which alone tells who calls; use api_key"


def _check_socket(path: Path) -> Iterator[Finding]:
    if sys.platform == "win32":
        yield ("server", "uds"), "is not available on Windows; use host and port"
    elif len(str(path).encode(errors="surrogateescape")) > _UNIX_PATH_LIMIT:
        yield ("server", "uds"), f"must not be longer than {_UNIX_PATH_LIMIT} bytes: {path}"


def check_store(store: StoreTable) -> Iterator[Finding]:
    if store.key is not None and store.kind in ("keyring", "memory"):
        yield ("store", "key"), f'is of no use with kind = "{store.kind}"; remove it, or set kind to "file"'
    if store.kind == "redis" and store.url is None:
        yield ("store", "url"), 'is missing, which kind = "redis" needs, such as rediss://redis.example.org:6379/0'
    if store.url is not None and (text := _revealed(store.url)) is not None:
        try:
            parse_redis_url(text)
        except ValueError as error:
            yield ("store", "url"), str(error)


def redis_url(secret: Secret | None) -> RedisUrl | None:
    """Return the URL that `secret` holds; None if it holds none, or if it is not read before the start."""
    text = None if secret is None else _revealed(secret)
    try:
        return None if text is None else parse_redis_url(text)
    except ValueError:
        return None


def _revealed(secret: Secret) -> str | None:
    try:
        return None if secret.reference.startswith(_ASKED_LATER) else secret.reveal()
    except SecretError:
        return None  # check_secrets says so


def check_identity(name: str, identity: IdentityTable) -> Iterator[Finding]:
    """The grant has what it needs, and nothing goes over the wire that it does not use."""
    path = ("identity", name)
    for key in _NEEDS[identity.grant]:
        if getattr(identity, key) is None:
            yield (*path, key), f'is missing, which grant = "{identity.grant}" needs'
    if identity.issuer is None:
        for key in ("token_endpoint", *_NEEDED_ENDPOINTS.get(identity.grant, ())):
            if getattr(identity, key) is None:
                yield (*path, "issuer"), f"is missing, and so is {key}; give one of them"
    if identity.redirect_uri is not None and urlsplit(identity.redirect_uri)[2:] != ("/-/callback", "", ""):
        yield (*path, "redirect_uri"), "must end in /-/callback, the page that browsers come back to"


def warn_identity(name: str, identity: IdentityTable) -> Iterator[Finding]:
    path = ("identity", name)
    if identity.redirect_uri is not None and identity.grant is not Grant.AUTHORIZATION_CODE:
        yield (*path, "redirect_uri"), f'"{identity.grant}" has no use for it; did you mean "authorization_code"?'
    if identity.grant is Grant.PASSWORD:
        yield (
            (*path, "grant"),
            (
                '"password" hands the account\'s password to this program, which RFC 9700 2.4 forbids; prefer '
                "device_code or refresh_token where the issuer has them"
            ),
        )
    elif identity.password is not None or identity.username is not None:
        yield (*path, "grant"), f'"{identity.grant}" uses neither username nor password; did you mean "password"?'


def check_upstream(name: str, upstream: UpstreamTable, identities: Iterable[str]) -> Iterator[Finding]:
    """How the upstream is authenticated is said, and said once."""
    path = ("upstream", name)
    if upstream.identity is not None:
        if upstream.identity not in identities:
            yield (
                (*path, "identity"),
                f"names no identity: {upstream.identity}" + nearest(upstream.identity, identities),
            )
        if upstream.anonymous:
            yield (*path, "anonymous"), "contradicts identity; keep one of them"
    elif not upstream.anonymous and not upstream.headers:
        known = ", ".join(identities)
        hint = f" (there is {known})" if known else ""
        yield (*path, "identity"), f"is missing{hint}; or say anonymous = true, or headers for static keys"
    for field in upstream.headers:
        if field.lower() == "authorization" and not upstream.anonymous:
            yield (*path, "headers", field), "may be set only with anonymous = true: the identity's token goes there"
    if upstream.http2 and find_spec("h2") is None:
        yield (*path, "http2"), "needs one more library: pip install 'bearerproxy[http2]'"


def check_mounts(mounts: Mapping[str, str], preset_mounts: Iterable[str]) -> Iterator[Finding]:
    """Each upstream has a mount of its own, and one that clients can live with."""
    taken: dict[str, str] = {}
    datasets = [f"{mount}/datasets" for mount in preset_mounts]
    for name, mount in mounts.items():
        path = ("upstream", name, "mount")
        if mount in taken:
            yield path, f"{mount} is the mount of [upstream.{taken[mount]}] already"
        taken.setdefault(mount, name)
        if mount == "/" or _is_below(mount, "/-"):
            yield path, f"{mount} is reserved for the status page; use another, such as /{name}"
        for one in datasets:
            if _is_below(mount, one):
                yield path, f"{one} is reserved; use another, such as /{name}"
        for word in _REPLACED_BY_CLIENTS:
            if word in mount:
                yield path, f"{mount} contains {word!r}, which .Stat clients replace anywhere in a URL; use another"


def check_cookies(mounts: Mapping[str, str]) -> Iterator[Finding]:
    """Callers send a mount's cookies to all that stands below it, so that no other mount with cookies may."""
    for name, mount in mounts.items():
        above = next((other for other, one in mounts.items() if other != name and _is_below(mount, one)), None)
        if above is not None:
            yield (
                ("upstream", name, "cookies"),
                f"would be sent those of [upstream.{above}], whose mount is above",
            )


def check_listeners(
    server: tuple[str, int], listeners: Mapping[str, tuple[str, int]], urls: Mapping[str, Url]
) -> Iterator[Finding]:
    """No two listeners want one port, and no upstream is the proxy itself."""
    taken = {"[server] port": server}
    for name, mine in listeners.items():
        for owner, other in taken.items():
            if _collide(mine, other):
                yield ("upstream", name, "listen"), f"{mine[1]} is taken by {owner} already"
                break
        taken[f"[upstream.{name}] listen"] = mine
    for name, url in urls.items():
        itself = next((one for one, other in taken.items() if _is_at(url, other)), None)
        if itself is not None:
            yield ("upstream", name, "url"), f"points at this proxy itself ({itself})"


def check_clear(
    store: StoreTable, identities: Identities, upstreams: Upstreams, *, is_trusted: bool
) -> tuple[list[Finding], list[Finding]]:
    """Return where a token or secret would travel unencrypted: as mistakes, and as warnings if that is accepted.

    RFC 6750 5.2: "Clients MUST always use TLS". Loopback is no network.
    """
    found: list[Finding] = []
    warnings: list[Finding] = []
    for name, identity in identities.items():
        clear = [key for key in _ISSUER_URLS if _is_clear(getattr(identity, key))]
        found += [(("identity", name, key), "http:// would send secrets and tokens in the clear") for key in clear]
    for name, upstream in upstreams.items():
        if not _is_clear(upstream.url):
            continue
        if upstream.identity is not None:
            found.append((("upstream", name, "url"), "http:// would send the token in the clear"))
        elif any(SHY_FIELD.search(field) for field in upstream.headers):
            warnings.append((("upstream", name, "url"), "http:// sends the keys of headers in the clear"))
    shared = redis_url(store.url)
    if store.kind == "redis" and shared is not None and shared.is_clear:
        found.append((("store", "url"), "redis:// would send tokens in the clear"))
    if is_trusted:
        return [], warnings + found
    cure = "; use {}://, or say trusted_network = true under [server] in a container network"
    return [(path, what + cure.format("rediss" if path[0] == "store" else "https")) for path, what in found], warnings


def check_secrets(secrets: Iterable[tuple[Key, Secret]]) -> Iterator[Finding]:
    for path, secret in secrets:
        try:
            secret.check()
        except SecretError as error:
            yield path, str(error)


def check_field_values(upstreams: Upstreams) -> Iterator[Finding]:
    """No literal of `headers` ends its field line (RFC 9110 5.5); no service is asked for each request."""
    for name, upstream in upstreams.items():
        for field, secret in upstream.headers.items():
            if secret.service is not None:
                yield ("upstream", name, "headers", field), "is read for each request; use env: or file: here"
            if secret.is_literal and not re.fullmatch(r"[\t -~\x80-\xff]+", secret.reveal()):
                yield ("upstream", name, "headers", field), "holds a character that a field value may not hold"


def check_files(files: Iterable[tuple[Key, Path | None]]) -> Iterator[Finding]:
    for path, file in files:
        if file is None:
            continue
        try:
            with file.open("rb") as opened:
                opened.read(1)
        except (OSError, ValueError) as error:
            yield path, f"cannot be read: {getattr(error, 'strerror', None) or error} ({file})"


def _is_below(mount: str, prefix: str) -> bool:
    return mount == prefix or mount.startswith(f"{prefix}/")


def _is_clear(url: str | None) -> bool:
    parts = parse_url(url) if url else None
    return parts is not None and parts.scheme == "http" and not is_loopback(parts.host)


def _is_at(url: Url, listener: tuple[str, int]) -> bool:
    """Return True if the URL names that listener by a name that needs no look-up; App.bind looks the others up."""
    host, port = listener
    if url.port != port:
        return False
    return url.host == host or (url.host in _OWN_HOSTS and host in (*_OWN_HOSTS, "0.0.0.0", "::"))


def _collide(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Return True if both want one port of one machine. Port 0 is any free one; our loopback default takes ::1 too."""
    if one[1] != other[1] or one[1] == 0:
        return False
    hosts = {one[0], other[0]}
    return (
        len(hosts) == 1
        or hosts <= _OWN_HOSTS
        or (bool(hosts & {"0.0.0.0", "::"}) and bool(hosts & (_OWN_HOSTS | {"0.0.0.0", "::"})))
    )
