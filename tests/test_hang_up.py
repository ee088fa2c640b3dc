"""A hang-up is told though nobody reads (A20)."""

import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from proxy.hang_up import has_hung_up
from tests.conftest import need

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A caller's end and ours."""
    if not hasattr(socket, "AF_UNIX") or sys.platform != "linux":
        need("a kernel that tells of a hang-up behind unread bytes", how="run this test on Linux")
    if request.param == "unix":
        caller, ours = socket.socketpair(socket.AF_UNIX)
    else:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            caller = socket.create_connection(listening.getsockname())
            ours = listening.accept()[0]
    with caller, ours:
        yield caller, ours


def test_a_caller_who_waits_is_there(pair: Pair) -> None:
    assert not has_hung_up(pair[1])


def test_unread_bytes_are_no_hang_up(pair: Pair) -> None:
    pair[0].sendall(b"x" * 1000)

    assert not has_hung_up(pair[1])


@pytest.mark.parametrize("unread", [b"", b"x" * 1000])
def test_a_close_is_seen_behind_unread_bytes(pair: Pair, unread: bytes) -> None:
    pair[0].sendall(unread)
    pair[0].close()

    assert has_hung_up(pair[1])


def test_a_reset_is_seen(pair: Pair) -> None:
    pair[0].sendall(b"x")
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair[0].close()

    assert has_hung_up(pair[1])


def test_of_a_socket_that_is_closed_here_nothing_is_said(pair: Pair) -> None:
    pair[1].close()

    assert not has_hung_up(pair[1])
