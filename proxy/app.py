"""The composition root: the one place that knows all parts."""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Self

import httpx2

from proxy import __version__
from proxy.attempts import Attempt, Attempts, Open, Show
from proxy.clock import Clock, SystemClock
from proxy.config import Configuration
from proxy.control import ControlView, OnDemand
from proxy.decision import Rules
from proxy.errors import UpstreamTimeout
from proxy.events import Emit, Event, Refused, Relayed, Warned
from proxy.exchange import Source
from proxy.forward import Forwarder
from proxy.grants.way_back import OwnPort
from proxy.guard import AllowedHost, Guard
from proxy.headers import masked_target
from proxy.identities import Identity
from proxy.issuer import Issuer
from proxy.journal import LENGTH, Journal
from proxy.lane import Lanes
from proxy.limits import Admission, limits_for
from proxy.loops import is_own
from proxy.metrics import Metrics
from proxy.news import News
from proxy.peers import own_uid
from proxy.refusals import Refusals
from proxy.relay import Relay
from proxy.resume_watch import ResumeWatch
from proxy.server import Listener, ListenError, bind, bind_unix, run
from proxy.shared_pages import SharedPages
from proxy.sign_in import sign_in
from proxy.spool import Spools
from proxy.stores import TokenStore, open_store
from proxy.summons import HeldSource, Summons
from proxy.tasks import Tasks
from proxy.token_source import TokenSource
from proxy.tokens import TokenSet
from proxy.transport.connections import Connections
from proxy.transport.tls import ssl_context
from proxy.upstreams import Mounts, Upstream

if TYPE_CHECKING:
    from proxy.datasets.face import Face
    from proxy.datasets.library import Library


class App:
    """bearerproxy, wired for one configuration. As a context it runs the token sources and closes all connections.

    `call` shows (identity, URL of the sign-in page) to the person at this machine and returns at once; None if nobody
    is there. `transports` replaces the way to upstreams and issuers, by upstream or identity name, for tests. Several
    workers that serve the same listeners are not `is_alone`.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        emit: Emit,
        clock: Clock | None = None,
        store: TokenStore | None = None,
        call: Callable[[str, str], None] | None = None,
        transports: Mapping[str, httpx2.AsyncBaseTransport] | None = None,
        is_alone: bool = True,
    ) -> None:
        self.configuration = configuration
        self._clock = clock or SystemClock()
        self._listeners: tuple[Emit, ...] = (emit,)
        emit = self._emit = self._tell
        self._transports = transports or {}
        self._trust = cache(ssl_context)
        # Unique for each process: two proxies in a row are legitimate, the same one twice is a loop.
        pseudonym = b"bearerproxy-" + secrets.token_hex(4).encode()
        kept = configuration.store
        self.store = store or open_store(
            kept.kind, kept.path, key=kept.key, url=kept.url, prefix=kept.prefix, emit=emit
        )
        self.issuers = {name: self.issuer_for(one) for name, one in configuration.identities.items()}
        self.sources = {
            name: TokenSource(one, issuer=self.issuers[name], store=self.store, clock=self._clock, emit=emit)
            for name, one in configuration.identities.items()
        }
        self._connections = {
            one.name: Connections(one, self._transports.get(one.name), self._trust) for one in configuration.upstreams
        }
        self._spools = Spools(configuration.server.spool, emit=emit)
        self._summons = Summons(
            page=lambda name: f"{self.base_url}/-/login/{name}",
            call=call or (lambda *_: None),
            seconds=configuration.server.sign_in_wait,
            clock=self._clock,
            emit=emit,
        )
        self._news = News()
        self._own_port = OwnPort()
        self._attempts = Attempts(
            self._sign_in,
            username=lambda name: self.sources[name].status().username,
            ended=self._attempt_ended,
            news=self._news,
            emit=emit,
        )
        sources = self._held_sources(is_person_there=call is not None)
        self._relay = relay = Relay(
            sources=sources,
            ways={name: one.way for name, one in self._connections.items()},
            spools=self._spools,
            admission=Admission(configuration.server.max_requests),
            pseudonym=pseudonym,
            clock=self._clock,
            emit=emit,
        )
        journal = Journal(self._clock, length=LENGTH if configuration.server.journal == "memory" else 0)
        metrics = Metrics(in_flight=lambda: relay.in_flight)
        self._listeners += (journal, metrics)
        self._streamed = (journal.news, self._news)
        self.libraries, faces = self._deployed(sources, pseudonym)
        """Datasets by the name of their deployment."""
        self.guard = guard_of(configuration)
        self.base_url = f"http://localhost:{configuration.server.port}"
        self._rules = Rules(
            self.guard,
            Mounts(configuration.upstreams),
            pseudonym,
            faces,
            is_callback_awaited=lambda: self._own_port.is_awaited,
        )
        pages = OnDemand(
            ControlView(
                identities=lambda: [
                    (one, self.sources[name].status()) for name, one in configuration.identities.items()
                ],
                upstreams=lambda: configuration.upstreams,
                base_url=lambda: self.base_url,
                warnings=lambda: configuration.warnings,
                journal=journal,
                metrics=metrics,
                attempts=self._attempts,
                land=self._own_port.land,
                sign_out=lambda name: self.sources[name].sign_out(),
                watched=self._summons.watched,
                news=self._news,
                clock=self._clock,
                version=__version__,
                datasets=configuration.datasets.deployments,
            )
        )
        self._lanes = Lanes(self._rules, relay, Refusals(self.guard, emit))
        self.forwarder = Forwarder(
            self._rules,
            relay,
            control=pages if is_alone else SharedPages(pages),
            emit=emit,
            faces=faces,
        )

    def _deployed(
        self, sources: Mapping[str, Source], pseudonym: bytes
    ) -> tuple[Mapping[str, "Library"], Sequence["Face"]]:
        """Return the datasets of the configured deployments by name, and what serves them."""
        if not self.configuration.datasets.deployments:
            return {}, ()
        from proxy.deployments import Surroundings, faces_of, libraries_of  # megabytes that most have no use for

        there = Surroundings(
            self.configuration,
            self._connections,
            sources,
            self._transports.get("storage"),
            self._trust,
            pseudonym,
            self._clock,
            self._emit,
        )
        libraries = libraries_of(there)
        return libraries, faces_of(libraries, there)

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)
        if not isinstance(event, (Relayed, Refused)):
            self._summons(event)
            self._news.tell()

    def _held_sources(self, *, is_person_there: bool) -> Mapping[str, TokenSource | HeldSource]:
        """Return the sources as requests see them: some wait for a person, if that is wanted."""
        wish = self.configuration.server.on_sign_in
        if wish == "refuse" or (wish == "auto" and not is_person_there):
            return self.sources
        return {
            name: HeldSource(name, source, self._summons) if source.identity.grant.needs_person else source
            for name, source in self.sources.items()
        }

    async def _sign_in(self, name: str, is_offline: bool, show: Show, open_page: Open) -> TokenSet:
        """Sign in as a person asked for it on the page, and put the new set to use at once."""
        fresh = await sign_in(
            self.configuration.identities[name],
            offline=is_offline,
            issuer_for=self.issuer_for,
            store=self.store,
            clock=self._clock,
            device_prompt=show,
            open_url=open_page,
            own_port=self._own_port,
        )
        await self.sources[name].adopt(fresh)
        return fresh

    def _attempt_ended(self, name: str, attempt: Attempt) -> None:
        if attempt.code in ("access_denied", "cancelled"):
            self._summons.denied(name)

    def issuer_for(self, identity: Identity) -> Issuer:
        """Return the issuer of `identity`, which the caller closes unless it is one of `issuers`."""
        return Issuer(identity, clock=self._clock, http=self._transports.get(identity.name), trust=self._trust)

    async def probe(self, upstream: Upstream) -> int:
        """Return the status with which `upstream` answers a GET of its base path without a token; raises ProxyError."""
        connections = self._connections[upstream.name]
        fields = [(b"host", upstream.authority.encode("ascii")), (b"accept", b"*/*")]
        try:
            async with asyncio.timeout(upstream.connect_timeout * 3):
                response = await connections.send("GET", upstream.base_path or b"/", fields, None)
        except TimeoutError as error:
            raise UpstreamTimeout(f"{upstream.url} sent no answer.") from error
        await response.aclose()
        await connections.aclose()
        return response.status

    def bind(self) -> list[Listener]:
        """Open all listeners: the shared port, a unix socket, and the upstreams' own ports. Raises ListenError."""
        server = self.configuration.server
        listeners: list[Listener] = []
        own_ports: dict[int, Upstream] = {}
        try:
            listeners += bind(server.host, server.port, allow_remote=server.allow_remote)
            self.base_url = f"http://localhost:{listeners[0].port}"
            for upstream in self.configuration.upstreams:
                if upstream.listen is not None:
                    own = bind(*upstream.listen, allow_remote=server.allow_remote)
                    listeners += own
                    own_ports |= {one.port: upstream for one in own if one.port is not None}
            if server.uds is not None:
                listeners.append(bind_unix(str(server.uds)))
            self._refuse_loops(listeners)
        except ListenError:
            for listener in listeners:
                listener.close()
            raise
        self._rules.own_ports = own_ports
        return listeners

    def mountable(self) -> Forwarder:
        """Return the relay alone, without pages and datasets, to be mounted in an application of somebody's own."""
        rules = Rules(self.guard, Mounts(self.configuration.upstreams), self._relay.pseudonym)
        return Forwarder(rules, self._relay, control=None, emit=self._emit)

    @property
    def own_ports(self) -> Mapping[int, Upstream]:
        """Upstreams by the port that they have to themselves, of those that are bound."""
        return self._rules.own_ports

    def adopt(self, bound: "App") -> None:
        """Be ready for the listeners that `bound`, of the same configuration, has opened."""
        self.base_url = bound.base_url
        self._rules.own_ports = bound.own_ports

    def _refuse_loops(self, listeners: list[Listener]) -> None:
        """Raise ListenError if an upstream is this proxy itself, by whatever name (http-law H65)."""
        own = [(one.socket.getsockname()[0], one.port) for one in listeners if one.port is not None]
        for upstream in self.configuration.upstreams:
            if is_own(upstream.host, upstream.port, own):
                raise ListenError(f"url of [upstream.{upstream.name}] is this proxy itself: {upstream.url}.")

    async def serve(
        self, listeners: list[Listener], stop: asyncio.Event, *, ready: Callable[[], None] = lambda: None
    ) -> None:
        """Serve until `stop` is set. The context of this app must be entered."""
        for warning in self.configuration.warnings:
            self._emit(Warned(warning))
        tasks = Tasks()
        _ = tasks.start(self._let_go(stop), name="end of the streams")
        _ = tasks.start(ResumeWatch(self.resumed, clock=self._clock).run(), name="resume watch")
        await run(
            self.forwarder,
            listeners,
            guard=self.guard,
            refused=lambda error, method, target: self._emit(
                Refused(error.kind, error.status, method, masked_target(target), error.detail)
            ),
            stop=stop,
            lanes=self._lanes,
            drain_seconds=self.configuration.server.drain_seconds,
            limits=limits_for(self.configuration.server.max_requests),
            warn=lambda text: self._emit(Warned(text)),
            ready=ready,
        )
        await tasks.close()

    def resumed(self) -> None:
        """Take note that the machine slept: idle connections to upstreams are old."""
        for connections in self._connections.values():
            connections.drop_idle()

    async def _let_go(self, stop: asyncio.Event) -> None:
        """End what would otherwise go on until the drain is over: the streams of open pages, and held requests."""
        await stop.wait()
        for one in self._streamed:
            one.close()
        self._summons.close()

    async def __aenter__(self) -> Self:
        for source in self.sources.values():
            await source.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._attempts.close()
        for source in self.sources.values():
            await source.close()
        for issuer in self.issuers.values():
            await issuer.close()
        for library in self.libraries.values():
            await library.close()
        await self._relay.close()
        for connections in self._connections.values():
            await connections.aclose()
        await self._spools.close()
        await self.store.close()


def guard_of(configuration: Configuration) -> Guard:
    """Return the guard that the configuration asks for."""
    server = configuration.server
    return Guard(
        allowed_hosts=tuple(AllowedHost.parse(entry) for entry in server.allowed_hosts),
        allowed_origins=frozenset(origin.lower() for origin in server.allowed_origins),
        api_key=server.api_key.reveal() if server.api_key is not None else None,
        allow_remote=server.allow_remote,
        owner=own_uid() if server.same_user else None,
    )
