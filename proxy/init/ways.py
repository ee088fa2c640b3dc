"""How hosts are reached and trusted from here: directly or by a web proxy, by the system's authorities or others."""

import asyncio
import socket
from dataclasses import dataclass, field, replace

from proxy.config.addresses import parse_url
from proxy.doctor import hosts
from proxy.doctor.finding import Verdict
from proxy.doctor.hosts import Host
from proxy.identities import Network
from proxy.init.answers import Answers
from proxy.init.surroundings import Outbound, Surroundings


class Failed(Exception):
    """An answer that is not so; the text is one sentence for the person who gave it."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a host is reached from here."""

    network: Network = field(default=Network())
    host: Host | None = None
    outbound: Outbound | None = None
    is_proxy_useless: bool = False
    """Whether this machine is told to use a web proxy which does not lead there."""
    authority: tuple[str, str] | None = None
    """(variable, file) of the certification authorities by which the host is trusted, unless the system's are."""
    notes: tuple[str, ...] = ()
    """What the person should know of it."""

    @property
    def proxy(self) -> str | None:
        """What `proxy` has to be for this host; None if it does not matter."""
        return "none" if self.is_proxy_useless else self.outbound.setting if self.outbound is not None else None

    @property
    def ca_file(self) -> str | None:
        """What `ca_file` has to be for this host; None if the system's authorities vouch for it."""
        return None if self.authority is None else self.authority[1]


async def way_to(url: str, around: Surroundings) -> Way:
    """Return how the host of `url` is reached and trusted. Raises Failed if it is not."""
    outbound = around.outbound(url)
    if outbound is None:
        return await _trusted(url, None, around)
    try:
        return await _trusted(url, outbound, around)
    except Failed as failure:
        try:
            direct = await _trusted(url, None, around)
        except Failed:
            raise failure from None
        note = f"The web proxy {outbound.shown} of {outbound.place} does not lead there, the direct way does."
        return replace(direct, is_proxy_useless=True, notes=(note, *direct.notes))


async def _trusted(url: str, outbound: Outbound | None, around: Surroundings) -> Way:
    """Connect, by the system's certification authorities or by those that other tools are told of."""
    parts = parse_url(url)
    network = Network(proxy=None if outbound is None else outbound.url)
    host = Host(parts.host, parts.port, parts.scheme == "https", network)
    shown = await _shown(host, around)
    notes = () if outbound is None else (f"It is reached through the web proxy {outbound.shown} of {outbound.place}.",)
    if shown is None:
        return Way(network, host, outbound, notes=notes)
    finding = hosts.certificate(host, shown)
    if finding.verdict is Verdict.OK:
        return Way(network, host, outbound, notes=(*notes, f"Its certificate is signed by {shown.signed_by}."))
    if finding.verdict is Verdict.NOTE:
        return Way(network, host, outbound, notes=(*notes, finding.text))
    for variable, path in around.authorities():
        trusting = replace(network, ca_file=path)
        try:
            again = await _shown(replace(host, network=trusting), around)
        except Failed:  # a file that holds no certificate
            continue
        if again is not None and again.code == 0:
            note = f"It is signed by {again.signed_by}, which {path} of {variable} vouches for."
            return Way(trusting, host, outbound, authority=(variable, path), notes=(*notes, note))
    raise Failed(f"{finding.text} {finding.cure}")


async def _shown(host: Host, around: Surroundings) -> hosts.Shown | None:
    try:
        shown = await asyncio.to_thread(around.look, host)
        if shown is None:
            await asyncio.to_thread(lambda: hosts.connected(host).close())
    except socket.gaierror as error:
        raise Failed(hosts.resolved(host, error).text) from error
    except (OSError, UnicodeError) as error:
        found = hosts.unreachable(host, error if isinstance(error, OSError) else OSError(0, "it is no valid name"))
        raise Failed(found.text) from error
    return shown


async def settled(answers: Answers, service: Way, issuer: Way, around: Surroundings) -> Answers:
    """Return the answers with the settings by which both hosts are reached: in [network] if they get on with the same.

    Authorities that are named are trusted *instead of* the system's, so one host's need not be good for the other.
    """
    common: dict[str, str] = {}
    of_service: dict[str, str] = {}
    of_issuer: dict[str, str] = {}
    notes: list[str] = []
    if service.proxy is None or issuer.proxy is None or service.proxy == issuer.proxy:
        common |= _said(proxy=service.proxy or issuer.proxy)
    else:
        of_service |= _said(proxy=service.proxy)
        of_issuer |= _said(proxy=issuer.proxy)
    files = [one for one in (service.ca_file, issuer.ca_file) if one is not None]
    if files and await _is_good_for(files[0], service, around) and await _is_good_for(files[0], issuer, around):
        common |= _said(ca_file=files[0])
    else:
        of_service |= _said(ca_file=service.ca_file)
        of_issuer |= _said(ca_file=issuer.ca_file)
    for way in (service, issuer):
        if way.outbound is not None:
            notes.append(f"{way.outbound.place} says {way.outbound.shown}.")
        if way.authority is not None:
            notes.append(f"{way.authority[0]} names {way.authority[1]}.")
    return replace(
        answers, network=common, of_service=of_service, of_issuer=of_issuer, notes=tuple(dict.fromkeys(notes))
    )


def _said(**settings: str | None) -> dict[str, str]:
    return {key: value for key, value in settings.items() if value is not None}


async def _is_good_for(ca_file: str, way: Way, around: Surroundings) -> bool:
    if way.host is None or not way.host.is_tls or way.ca_file == ca_file:
        return True
    try:
        shown = await _shown(replace(way.host, network=replace(way.network, ca_file=ca_file)), around)
    except Failed:
        return False
    return shown is not None and shown.code == 0
