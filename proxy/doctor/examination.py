"""The examination: goes and looks, in the order in which one thing stands on another."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from proxy.app import App
from proxy.config.machine import is_container
from proxy.doctor import hosts, issuers, machine, tokens
from proxy.doctor.finding import Finding, Verdict
from proxy.errors import BearerproxyError, ProxyError, StoreError
from proxy.headers import Fields, values
from proxy.identities import Identity
from proxy.tokens import TokenSet
from proxy.transport.connections import Connections
from proxy.upstreams import Upstream

MADE_UP = "bearerproxy-doctor-asks-whether-tokens-are-looked-at"
CALL_SECONDS = 30.0
BODY_LIMIT = 65536


async def examine(app: App, environ: Mapping[str, str], *, is_running: bool) -> AsyncIterator[Finding]:
    """Yield what is found, as it is found; `is_running` says whether the proxy answers on its port.

    What cannot work because of an earlier finding is not looked at: one cause is told once.
    """
    there = _Examination(app)
    for part in (there.machine(environ, is_running=is_running), there.network(), there.sign_ins(), there.calls()):
        async for finding in part:
            yield finding


class _Examination:
    """What is known so far."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._away: set[hosts.Host] = set()
        """Hosts that cannot be reached or trusted."""
        self._has_store = True
        self._held: dict[str, TokenSet] = {}

    async def machine(self, environ: Mapping[str, str], *, is_running: bool) -> AsyncIterator[Finding]:
        configuration = self._app.configuration
        server = configuration.server
        for warning in configuration.warnings:
            yield Finding.note("configuration", str(configuration.source or "environment"), warning)
        yield machine.proxy_variables(environ)
        yield machine.open_to_users(server, sys.platform, is_container=is_container(environ))
        for host, port in _ports(self._app):
            yield await asyncio.to_thread(
                machine.own_port, host, port, allow_remote=server.allow_remote, is_running=is_running
            )
        store = await _store(self._app)
        self._has_store = store.verdict is not Verdict.WRONG
        yield store

    async def network(self) -> AsyncIterator[Finding]:
        for host in _hosts(self._app):
            for finding in await reach(host):
                if finding.verdict is Verdict.WRONG:
                    self._away.add(host)
                yield finding

    async def sign_ins(self) -> AsyncIterator[Finding]:
        for name, identity in self._app.configuration.identities.items():
            url = _issuer_url(identity)
            if url is not None and _host_of(url, identity) in self._away:
                continue
            findings = await _issuer(self._app, identity)
            is_wrong = any(one.check == "issuer" and one.verdict is Verdict.WRONG for one in findings)
            if self._has_store and not is_wrong:
                token_set, more = await _sign_in(self._app, identity)
                findings += more
                self._held |= {} if token_set is None else {name: token_set}
            for finding in findings:
                yield finding

    async def calls(self) -> AsyncIterator[Finding]:
        for upstream in self._app.configuration.upstreams:
            if _host(upstream) in self._away:
                continue
            if upstream.identity is None or upstream.identity in self._held:
                yield await try_token(upstream, self._held.get(upstream.identity or ""))


def _ports(app: App) -> list[tuple[str, int]]:
    server = app.configuration.server
    own = [one.listen for one in app.configuration.upstreams if one.listen is not None]
    return [(server.host, server.port), *own]


def _hosts(app: App) -> list[hosts.Host]:
    found = [_host_of(url, one) for one in app.configuration.identities.values() if (url := _issuer_url(one))]
    return list(dict.fromkeys([*found, *(_host(one) for one in app.configuration.upstreams)]))


def _issuer_url(identity: Identity) -> str | None:
    return identity.issuer or identity.endpoints.token


def _host_of(url: str, identity: Identity) -> hosts.Host:
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    return hosts.Host(parts.hostname or "", parts.port or (443 if is_tls else 80), is_tls, identity.network)


def _host(upstream: Upstream) -> hosts.Host:
    return hosts.Host(upstream.host, upstream.port, upstream.scheme == "https", upstream.network)


async def _store(app: App) -> Finding:
    trouble = None
    try:
        for name in app.configuration.identities:
            await app.store.load(name)
    except StoreError as error:
        trouble = str(error)
    return await asyncio.to_thread(machine.token_store, app.store.kind, app.configuration.store.path, trouble)


async def reach(host: hosts.Host) -> list[Finding]:
    """Return what is found on the way to a host: its name, the connection, its certificate."""
    proxy = urlsplit(host.network.proxy or "").hostname
    try:
        await asyncio.get_running_loop().getaddrinfo(proxy or host.name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return [hosts.resolved(host, error if isinstance(error, OSError) else OSError(0, "it is no valid name"))]
    try:
        shown = await asyncio.to_thread(hosts.look, host)
        if shown is not None:
            return [hosts.resolved(host, None), hosts.certificate(host, shown)]
        await asyncio.to_thread(lambda: hosts.connected(host).close())
    except OSError as error:
        return [hosts.unreachable(host, error)]
    return [hosts.resolved(host, None)]


async def _issuer(app: App, identity: Identity) -> list[Finding]:
    """Return what is found at an issuer whose host can be reached."""
    issuer = app.issuers[identity.name]
    try:
        await issuer.endpoint("token")
    except BearerproxyError as error:
        return [issuers.metadata(identity, error)]
    known = issuers.offline(identity, issuer.announced("scopes_supported"))
    found = [issuers.metadata(identity, None), issuers.clock(identity, issuer.skew_seconds)]
    return found if known is None else [*found, known]


async def _sign_in(app: App, identity: Identity) -> tuple[TokenSet | None, list[Finding]]:
    """Return the identity's token, and what is found about it."""
    if app.store.kind == "memory" and identity.grant.needs_person:
        text = "The sign-in is in the memory of the running proxy, if there is one; its page shows it."
        return None, [Finding.note("sign-in", issuers.place(identity), text)]
    outcome = await _token(app, identity)
    found: list[Finding | None] = [tokens.sign_in(identity, outcome)]
    if not isinstance(outcome, TokenSet):
        return None, [one for one in found if one is not None]
    found += [tokens.scopes(identity, outcome), tokens.audience(identity, outcome)]
    return outcome, [one for one in found if one is not None]


async def _token(app: App, identity: Identity) -> TokenSet | BearerproxyError:
    source = app.sources[identity.name]
    await source.start()
    try:
        return source.current() or await source.token()
    except BearerproxyError as error:
        return error
    finally:
        await source.close()


async def try_token(upstream: Upstream, token_set: TokenSet | None) -> Finding:
    """Make one call with the token and one with a made-up token; without a token, one without any."""
    about = f"[upstream.{upstream.name}]"
    target = upstream.base_path + (upstream.probe or "").encode("ascii") or b"/"
    path = (upstream.probe or upstream.base_path.decode("ascii") or "/").partition("?")[0]
    try:
        if token_set is None:
            status, *_ = await _answer(upstream, target, None)
            return Finding.ok("call", about, f"GET {path} answers {status} without a token.")
        status, challenge, is_about_permission = await _answer(upstream, target, token_set.access_token)
        made_up_status, *_ = await _answer(upstream, target, MADE_UP)
    except ProxyError as error:
        return Finding.wrong("call", about, error.detail, "Look at url, the network and [network] proxy.")
    tried = tokens.Tried(path, status, made_up_status, challenge, is_about_permission)
    return tokens.call(upstream, token_set, tried)


async def _answer(upstream: Upstream, target: bytes, access_token: str | None) -> tuple[int, str, bool]:
    """Return status, challenge, and whether a 401 is about a permission."""
    async with _connections(upstream) as connections:
        response = await connections.send("GET", target, _fields(upstream, access_token), None)
        challenge = b", ".join(values(response.fields, b"www-authenticate")).decode("latin-1")
        is_about_permission = False
        if response.status == 401 and upstream.token_fault is not None:
            body = b""
            async for piece in response.body:
                body += piece
                if len(body) > BODY_LIMIT:
                    break
            is_about_permission = _detail(body) not in (None, upstream.token_fault)
        await response.aclose()
        return response.status, challenge, is_about_permission


@asynccontextmanager
async def _connections(upstream: Upstream) -> AsyncIterator[Connections]:
    connections = Connections(upstream)
    try:
        async with asyncio.timeout(CALL_SECONDS):
            yield connections
    except TimeoutError as error:
        raise ProxyError(f"{upstream.url} sent no answer within {CALL_SECONDS:.0f} s.") from error
    finally:
        await connections.aclose()


def _fields(upstream: Upstream, access_token: str | None) -> Fields:
    fields = [(b"host", upstream.authority.encode("ascii")), (b"accept", b"*/*")]
    fields += [(name.lower().encode("ascii"), secret.reveal().encode("latin-1")) for name, secret in upstream.headers]
    if access_token is not None:
        fields.append((b"authorization", b"Bearer " + access_token.encode("ascii")))
    return fields


def _detail(body: bytes) -> object:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return said.get("detail") if isinstance(said, dict) else None
