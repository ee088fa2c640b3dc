"""Hosts: can their names be resolved, and who vouches for them over TLS."""

import base64
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from proxy.doctor.finding import Finding
from proxy.identities import Network
from proxy.transport.tls import ssl_context

if TYPE_CHECKING:
    from cryptography.x509 import Name

LOOK_SECONDS = 10.0
_EXPIRED, _NOT_YET, _NAME_DIFFERS, _ADDRESS_DIFFERS = 10, 9, 62, 64  # X509_V_ERR_…, verify(1)
_UNKNOWN = frozenset({2, 18, 19, 20, 21, 27})
"""An issuer's certificate is not there, is self-signed, or is not trusted."""
_INSPECTORS = re.compile(
    r"(?i)zscaler|netskope|forti(?:net|gate)|palo alto|blue ?coat|umbrella|sophos|kaspersky|\beset\b|avast|bitdefender"
    r"|mcafee|trellix|check ?point|watchguard|barracuda|squid|mitmproxy"
)
"""Makers of programs that open TLS and sign anew; their root is often installed on the machine."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host that we speak to."""

    name: str
    port: int
    is_tls: bool
    network: Network

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Shown:
    """What a host shows of itself."""

    signed_by: str
    """The issuer of its certificate, as a person would call it."""
    code: int = 0
    """OpenSSL's verdict; 0 is trusted."""
    message: str = ""
    is_strict_alone: bool = False
    """Whether only VERIFY_X509_STRICT refuses it."""


def resolved(host: Host, error: OSError | None) -> Finding:
    """Judge a look-up of the name, or of the outbound proxy's where that leads there."""
    about = str(host)
    way = _proxy_host(host.network)
    name = host.name if way is None else way[0]
    if error is None:
        return Finding.ok("name", about, f"{name} resolves.")
    cure = "Check [network] proxy." if way is not None else "Check the name, the network and a VPN that it may need."
    return Finding.wrong("name", about, f"The name {name} cannot be resolved ({error.strerror or error}).", cure)


def unreachable(host: Host, error: OSError) -> Finding:
    """Say that nothing answers."""
    reason = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or type(error).__name__
    cure = (
        "Check the address and the network; behind a company's web proxy set [network] proxy."
        if host.network.proxy is None
        else "Check [network] proxy, and whether it lets you reach this host."
    )
    return Finding.wrong("connection", str(host), f"{host} cannot be reached: {reason}.", cure)


def certificate(host: Host, shown: Shown) -> Finding:
    """Judge who vouches for a host."""
    check, about = "certificate", str(host)
    if shown.code == 0:
        if _INSPECTORS.search(shown.signed_by):
            return Finding.note(
                check,
                about,
                f"TLS is opened on the way and signed by {shown.signed_by}, which this machine trusts: tokens are "
                "readable there.",
            )
        return Finding.ok(check, about, f"Trusted, signed by {shown.signed_by}.")
    if shown.is_strict_alone:
        return Finding.wrong(
            check,
            about,
            f"Python 3.13 and later (VERIFY_X509_STRICT) refuse this certificate, signed by {shown.signed_by}: "
            f"{shown.message}.",
            "Ask for an authority with the extensions of RFC 5280; until then set tls_strict = false where ca_file is.",
        )
    if shown.code in (_NAME_DIFFERS, _ADDRESS_DIFFERS):
        return Finding.wrong(
            check, about, f"The certificate is for another name: {shown.message}.", "Use the name that it is made for."
        )
    if shown.code in (_EXPIRED, _NOT_YET):
        return Finding.wrong(
            check,
            about,
            f"The certificate is not valid at this time: {shown.message}.",
            "Look whether this machine's clock is right; if it is, its operator has to renew it.",
        )
    text = f"The certificate is signed by {shown.signed_by}, which is not trusted here ({shown.message})"
    if shown.code in _UNKNOWN:
        text += ": a private authority, or a program that opens TLS on the way"
    return Finding.wrong(
        check,
        about,
        f"{text}.",
        "Get that authority's certificate from your IT as a PEM file and set [network] ca_file to it.",
    )


def look(host: Host) -> Shown | None:
    """Return what a host shows; None if it is not asked for by TLS or lies behind a proxy that is. Blocks.

    Raises OSError if it cannot be reached or does not speak TLS.
    """
    way = _proxy_host(host.network)
    if not host.is_tls or (way is not None and not (host.network.proxy or "").startswith("http://")):
        return None
    try:
        return Shown(_handshake(host, ssl_context(host.network)))
    except ssl.SSLCertVerificationError as error:
        refusal = error
    anyone = ssl.create_default_context()  # nothing is sent over it: it only shows who signed
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    is_strict_alone = host.network.tls_strict and _is_good(
        replace(host, network=replace(host.network, tls_strict=False))
    )
    return Shown(_handshake(host, anyone), refusal.verify_code, refusal.verify_message, is_strict_alone)


def _is_good(host: Host) -> bool:
    try:
        _handshake(host, ssl_context(host.network))
    except ssl.SSLCertVerificationError:
        return False
    return True


def _handshake(host: Host, context: ssl.SSLContext) -> str:
    with (
        connected(host) as plain,
        context.wrap_socket(plain, server_hostname=host.name) as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    if der is None:
        return "somebody"
    from cryptography import x509  # megabytes that `serve` has no use for

    return _called(x509.load_der_x509_certificate(der).issuer)


def connected(host: Host) -> socket.socket:
    """Return a connection to the host, through its outbound proxy if it has one. Raises OSError."""
    way = _proxy_host(host.network)
    connection = socket.create_connection(way or (host.name, host.port), timeout=LOOK_SECONDS)
    if way is not None:
        try:
            _tunnel(connection, host)
        except BaseException:
            connection.close()
            raise
    return connection


def _tunnel(connection: socket.socket, host: Host) -> None:
    """Ask the outbound proxy for a tunnel (RFC 9110 9.3.6); raises OSError if it says no."""
    parts = urlsplit(host.network.proxy or "")
    lines = [f"CONNECT {host} HTTP/1.1", f"Host: {host}"]
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    head = b""
    while b"\r\n\r\n" not in head and len(head) < 65536:
        piece = connection.recv(1)  # no byte of what comes behind it
        if not piece:
            raise ConnectionResetError(0, "the outbound proxy closed the connection")
        head += piece
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        said = status[0].decode("latin-1") if status else "nothing"
        raise ConnectionRefusedError(0, f"the outbound proxy answers {said}")


def _proxy_host(network: Network) -> tuple[str, int] | None:
    if network.proxy is None:
        return None
    parts = urlsplit(network.proxy)
    return parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 1080)


def _called(name: "Name") -> str:
    """Return an authority as a person would call it: its organisation and its own name, printable."""
    from cryptography.x509.oid import NameOID

    parts: Sequence[str] = [
        str(attribute.value)
        for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
        for attribute in name.get_attributes_for_oid(oid)[:1]
    ]
    text = ", ".join(parts) or "an authority without a name"
    return "".join(char for char in text if char.isprintable())[:120]
