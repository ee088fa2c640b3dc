"""An upstream that is this proxy itself, under whatever name (http-law H65): seen at the start, by addresses.

What only a later change of a name or a detour through others makes a loop is seen by Via, when the request comes back.
"""

import ipaddress
import socket
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_LOOPBACK: dict[int, Address] = {4: ipaddress.IPv4Address("127.0.0.1"), 6: ipaddress.IPv6Address("::1")}


def is_own(host: str, port: int, listeners: Iterable[tuple[str, int]]) -> bool:
    """Return whether a connection to `host`:`port` would arrive at one of `listeners`, addresses with their ports.

    The name is looked up only where the port is one of ours. One that nobody knows leads nowhere.
    """
    listening = [_address(address) for address, number in listeners if number == port]
    return bool(listening) and any(_arrives(to, at) for to in _addresses(host, port) for at in listening)


def _addresses(host: str, port: int) -> set[Address]:
    try:
        found = {str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return set()
    # A connection to the unspecified address goes to loopback (Linux, macOS).
    return {_LOOPBACK[one.version] if one.is_unspecified else one for one in map(_address, found)}


def _address(text: str) -> Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def _arrives(to: Address, at: Address) -> bool:
    if not at.is_unspecified:
        return to == at
    return to.version == at.version and _is_of_this_machine(to)


def _is_of_this_machine(address: Address) -> bool:
    """Return whether a socket may stand on that address; nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True
