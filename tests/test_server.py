"""Listeners: where they may stand, what they say when they may not, and who may open them (S9-S14)."""

import asyncio
import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxy.guard import is_loopback
from proxy.server import Listener, ListenError, bind, bind_unix
from tests.conftest import need
from tests.journeys.house import calling, ok, parsed, raw_upstream, running

GET = b"GET /data/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
def opened() -> Iterator[list[Listener]]:
    """What a test opened; closed behind it."""
    listeners: list[Listener] = []
    yield listeners
    for listener in listeners:
        listener.close()


def need_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        need("IPv6 on loopback", how="boot without ipv6.disable=1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_default_listens_on_both_loopback_addresses_with_one_port(host: str, opened: list[Listener]) -> None:
    """S7, S9, A5."""
    need_ipv6()
    opened += bind(host, 0, allow_remote=False)

    assert [one.socket.getsockname()[0] for one in opened] == ["127.0.0.1", "::1"]
    assert opened[0].port == opened[1].port
    assert [one.url for one in opened] == [f"http://127.0.0.1:{opened[0].port}", f"http://[::1]:{opened[0].port}"]


def test_another_loopback_address_stands_alone(opened: list[Listener]) -> None:
    opened += bind("127.0.0.2", 0, allow_remote=False)

    assert [one.socket.getsockname()[0] for one in opened] == ["127.0.0.2"]


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_machine_without_ipv6_listens_on_ipv4(
    number: int, opened: list[Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutIPv6(socket.socket):
        def __init__(self, family: int = -1, *rest: int) -> None:
            if family == socket.AF_INET6 and number == errno.EAFNOSUPPORT:
                raise OSError(number, os.strerror(number))
            super().__init__(family, *rest)

        def bind(self, address: object) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(number, os.strerror(number))
            super().bind(address)  # type: ignore[arg-type]  # any address

    monkeypatch.setattr("proxy.server.socket.socket", WithoutIPv6)  # the kernel's part cannot be switched off from here
    opened += bind("127.0.0.1", 0, allow_remote=False)

    assert [one.socket.getsockname()[0] for one in opened] == ["127.0.0.1"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_all_addresses_need_allow_remote_and_nothing_stays_open(host: str, unused_port: int) -> None:
    """S9, A5."""
    if host == "::":
        need_ipv6()
    with pytest.raises(ListenError, match=r"set server\.allow_remote"):
        bind(host, unused_port, allow_remote=False)

    socket.create_server(("127.0.0.1", unused_port)).close()


def test_all_addresses_with_allow_remote(opened: list[Listener]) -> None:
    opened += bind("0.0.0.0", 0, allow_remote=True)

    assert not is_loopback(opened[0].socket.getsockname()[0])


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_here_is_an_error(host: str) -> None:
    with pytest.raises(ListenError, match="is not an address of this machine"):
        bind(host, 0, allow_remote=True)


def test_a_taken_port_names_its_holder_and_does_not_move() -> None:
    """S14, A5."""
    with (
        socket.create_server(("127.0.0.1", 0)) as holder,
        pytest.raises(ListenError, match="is taken") as refusal,
    ):
        bind("127.0.0.1", holder.getsockname()[1], allow_remote=False)

    if Path("/proc/net/tcp").exists():
        assert f"(process {os.getpid()})" in str(refusal.value)
    assert "Stop that program, or choose another port: --port" in str(refusal.value)


def test_a_port_that_is_taken_on_the_second_address_is_taken(unused_port: int) -> None:
    need_ipv6()
    with (
        socket.create_server(("::1", unused_port), family=socket.AF_INET6),
        pytest.raises(ListenError, match="on ::1 is taken"),
    ):
        bind("127.0.0.1", unused_port, allow_remote=False)

    socket.create_server(("127.0.0.1", unused_port)).close()  # what was opened first is closed again


def test_a_unix_socket_is_its_owners_alone_whatever_the_umask(tmp_path: Path, opened: list[Listener]) -> None:
    """S11, A6."""
    before = os.umask(0)
    try:
        opened.append(bind_unix(str(tmp_path / "new" / "proxy.sock")))
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "new" / "proxy.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert opened[0].url == f"unix:{tmp_path}/new/proxy.sock"
    assert opened[0].port is None


def test_a_leftover_socket_is_replaced(tmp_path: Path, opened: list[Listener]) -> None:
    if sys.platform == "win32":
        need("a unix socket", how="run this test elsewhere than on Windows")
    path = str(tmp_path / "proxy.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)

    opened.append(bind_unix(path))

    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(path)


def test_a_socket_that_is_answered_is_in_use(tmp_path: Path, opened: list[Listener]) -> None:
    """And stays where it is; the sentence names who answers (S11, S14)."""
    if sys.platform == "win32":
        need("a unix socket", how="run this test elsewhere than on Windows")
    path = str(tmp_path / "proxy.sock")
    opened.append(bind_unix(path))

    with pytest.raises(ListenError, match="is in use by ") as refusal:
        bind_unix(path)

    if sys.platform == "linux":
        assert f"(process {os.getpid()})" in str(refusal.value)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(path)


def test_s11_the_umask_is_not_touched(tmp_path: Path, opened: list[Listener], monkeypatch: pytest.MonkeyPatch) -> None:
    """It belongs to the whole process: files that another thread makes meanwhile would get it too."""
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask was changed"))  # there is no other way to see it

    opened.append(bind_unix(str(tmp_path / "proxy.sock")))


@pytest.mark.parametrize(("mode", "is_refused"), [(0o777, True), (0o770, True), (0o1777, False), (0o755, False)])
def test_s11_a_folder_in_which_others_could_replace_the_socket_is_refused(
    tmp_path: Path, opened: list[Listener], mode: int, *, is_refused: bool
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(mode)
    if is_refused:
        with pytest.raises(ListenError, match=r"Others may write in .*: chmod 700"):
            bind_unix(str(folder / "proxy.sock"))
    else:
        opened.append(bind_unix(str(folder / "proxy.sock")))

    assert [*folder.iterdir()] == ([] if is_refused else [folder / "proxy.sock"])


def test_s11_a_folder_of_another_user_is_refused_though_its_sticky_bit_keeps_others_out(tmp_path: Path) -> None:
    """The owner of a sticky folder may rename what is in it: callers would talk to a socket of that user."""
    if sys.platform == "win32" or os.geteuid() != 0:
        need("root, to give a folder away", how="run the tests as root, in a container for example")
    folder = tmp_path / "run"
    folder.mkdir()
    os.chown(folder, 12345, -1)
    folder.chmod(0o1777)

    with pytest.raises(ListenError, match="belongs to another user"):
        bind_unix(str(folder / "proxy.sock"))


def test_of_many_that_start_at_once_over_a_leftover_one_gets_the_socket(tmp_path: Path, opened: list[Listener]) -> None:
    """A socket between its bind and its listen looks like a leftover; nobody may take it for one (S14)."""
    if sys.platform == "win32":
        need("a unix socket", how="run this test elsewhere than on Windows")
    path = str(tmp_path / "proxy.sock")
    for _ in range(5):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        with ThreadPoolExecutor(8) as starters:
            ends = [starters.submit(bind_unix, path) for _ in range(8)]
        got = [end.result() for end in ends if end.exception() is None]
        assert len(got) == 1
        assert all(isinstance(end.exception(), ListenError | None) for end in ends)
        got[0].close()


def test_a_socket_that_somebody_put_in_the_place_of_ours_is_not_removed(tmp_path: Path, opened: list[Listener]) -> None:
    path = tmp_path / "proxy.sock"
    first = bind_unix(str(path))
    path.unlink()
    opened.append(bind_unix(str(path)))

    first.close()

    assert path.exists()


def test_a_file_in_the_way_is_not_ours_to_remove(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")

    with pytest.raises(ListenError, match="is not a socket"):
        bind_unix(str(path))

    assert path.read_text() == "mine"


@pytest.mark.parametrize("path", ["/proc/nowhere/proxy.sock", "/tmp/" + "x" * 200])  # noqa: S108 - never made
def test_a_socket_that_cannot_be_made_is_one_sentence(path: str) -> None:
    with pytest.raises(ListenError, match=r"Cannot listen on .*: \w.*\.$"):
        bind_unix(path)


def test_a_free_port_is_free_on_both_addresses(opened: list[Listener], monkeypatch: pytest.MonkeyPatch) -> None:
    need_ipv6()
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as holder:
        taken = holder.getsockname()[1]
        first_choice = iter([taken])
        own = socket.socket.bind

        def unlucky(opening: socket.socket, address: tuple[str, int]) -> None:
            own(opening, (address[0], next(first_choice, 0)) if address == ("127.0.0.1", 0) else address)

        monkeypatch.setattr(socket.socket, "bind", unlucky)  # the kernel's choice cannot be foretold
        opened += bind("127.0.0.1", 0, allow_remote=False)

    assert opened[0].port == opened[1].port != taken


async def test_the_unix_socket_serves_and_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    async with raw_upstream(ok) as there:
        async with running([there.upstream()], listeners=[bind_unix(str(path))]), calling(0, uds=str(path)) as caller:
            await caller.send(GET.replace(b"localhost", b"localhost:1"))  # a port means nothing here
            assert parsed(await caller.rest()).body == b"hello"
        assert not path.exists()


async def test_a_stranger_name_is_refused_on_the_unix_socket_too(tmp_path: Path) -> None:
    """S1."""
    path = str(tmp_path / "proxy.sock")
    async with (
        raw_upstream(ok) as there,
        running([there.upstream()], listeners=[bind_unix(path)]),
        calling(0, uds=path) as caller,
    ):
        await caller.send(GET.replace(b"localhost", b"evil.com"))
        assert parsed(await caller.rest()).status == 403

    assert there.connections == 0


async def test_ipv6_loopback_is_served() -> None:
    need_ipv6()
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        with socket.create_connection(("::1", proxy.port)) as caller:
            caller.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=caller)
            writer.write(GET.replace(b"localhost", b"[::1]:%d" % proxy.port))
            assert parsed(await reader.read()).body == b"hello"
            writer.close()
