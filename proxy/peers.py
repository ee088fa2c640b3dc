"""Which user of this machine is at the other end of a local connection (Linux).

A unix socket tells it (SO_PEERCRED, unix(7)). For TCP over loopback the kernel is asked for the *caller's* socket, by
its addresses and ports: sock_diag(7) finds one socket without looking at the others; /proc/net/tcp, a walk over all of
them, stands in where a sandbox lacks sock_diag. Asked is once for a connection, in the order of 20 microseconds.

A socket whose owner has closed it belongs to nobody: older kernels then report uid 0 for it, so that whoever sends and
hangs up at once would pass for root. Its inode is 0, and that counts as unknown.
"""

import errno
import os
import socket
import struct
import sys
from pathlib import Path
from typing import NamedTuple

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLMSG_ERROR = 2
NLM_F_REQUEST = 1

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBBI")  # inet_diag_req_v2: family, protocol, extensions, padding, states
_ADDRESSES = struct.Struct(">HH16s16s")  # inet_diag_sockid: source port, destination port, source, destination …
_ANY_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # … interface, cookie
_OWNER = struct.Struct("=II")  # inet_diag_msg: uid, inode …
_OWNER_AT = _HEADER.size + 4 + 48 + 12  # … behind family to retransmissions, the sockid, expiry and two queues
_ALL_STATES = 0xFFFFFFFF

_CREDENTIALS = struct.Struct("=iII")  # ucred: pid, uid, gid

PROC_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


class Ends(NamedTuple):
    """A TCP connection as its owner's socket has it."""

    family: int
    host: str
    port: int
    other_host: str
    other_port: int


def own_uid() -> int | None:
    """Return the user id that callers would see for this process; None where nobody could look."""
    if sys.platform != "linux":
        return None
    return os.geteuid()


def uid_of_peer(connection: socket.socket) -> int | None:
    """Return the user id at the other end of a unix socket or a loopback TCP connection.

    None if nobody can be said to hold that end: it is closed already, or not on this machine, or this is not Linux.
    """
    if sys.platform != "linux":
        return None
    try:
        if connection.family == socket.AF_UNIX:
            return int(_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
        host, port = connection.getpeername()[:2]
        here, own_port = connection.getsockname()[:2]
        ends = Ends(connection.family, host, port, here, own_port)
        try:
            return owner(ends)
        except OSError:  # a sandbox without sock_diag
            return owner_by_table(ends)
    except OSError:
        return None


def owner(ends: Ends) -> int | None:
    """Return the user who holds the socket, by sock_diag; None if nobody does. Raises OSError if it cannot be asked."""
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "sock_diag is Linux's")
    packed = [socket.inet_pton(ends.family, host).ljust(16, b"\0") for host in (ends.host, ends.other_host)]
    request = _REQUEST.pack(ends.family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES)
    request += _ADDRESSES.pack(ends.port, ends.other_port, *packed) + _ANY_COOKIE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.setblocking(False)  # the kernel answers before sendto returns
        kernel.sendto(
            _HEADER.pack(_HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0) + request, (0, 0)
        )
        answer = kernel.recv(4096)
    if _HEADER.unpack_from(answer)[1] == NLMSG_ERROR:
        number = -int(struct.unpack_from("=i", answer, _HEADER.size)[0])
        if number == errno.ENOENT:
            return None
        raise OSError(number, os.strerror(number))
    uid, inode = _OWNER.unpack_from(answer, _OWNER_AT)
    return _held(uid, inode)


def owner_by_table(ends: Ends) -> int | None:
    """Return the user who holds the socket, by /proc/net/tcp; None if nobody does. Raises OSError."""
    wanted = {_in_table(ends.host, ends.port) + _in_table(ends.other_host, ends.other_port)}
    if ends.family == socket.AF_INET:  # a program may reach 127.0.0.1 by an IPv6 socket
        wanted.add(
            _in_table(f"::ffff:{ends.host}", ends.port) + _in_table(f"::ffff:{ends.other_host}", ends.other_port)
        )
    for table in PROC_TABLES:
        for line in table.read_text("ascii").splitlines()[1:]:
            column = line.split()
            if (*column[1].split(":"), *column[2].split(":")) in wanted:
                return _held(int(column[7]), int(column[9]))
    return None


def _in_table(host: str, port: int) -> tuple[str, str]:
    """Return an address as the tables write it: words of four bytes in the machine's order."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    words = struct.unpack(f">{len(packed) // 4}I", packed)
    return struct.pack(f"={len(words)}I", *words).hex().upper(), f"{port:04X}"


def _held(uid: int, inode: int) -> int | None:
    return uid if inode else None  # without an inode it is a socket that its owner has closed
