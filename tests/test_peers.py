"""Other users of this machine: who is at the other end of a connection, and who is let in (A6, S13)."""

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from proxy.errors import CallerRefused
from proxy.events import Refused
from proxy.guard import Arrival, Guard
from proxy.peers import Ends, own_uid, owner, owner_by_table, uid_of_peer
from proxy.server import bind_unix
from tests.command import serving as serving_command
from tests.conftest import need, need_program
from tests.journeys.house import FixedSource, RawUpstream, calling, ok, parsed, raw_upstream, running

NOBODY = 65534
"""A user id that has no rights on any Linux."""

if sys.platform != "linux":
    pytest.skip("Linux alone tells who calls; to run this: use Linux", allow_module_level=True)


def need_root() -> None:
    if os.geteuid() != 0:
        need("the right to become another user", how="run the tests as root")


def need_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        need("IPv6 on loopback", how="boot without ipv6.disable=1")


@contextmanager
def connected(host: str = "127.0.0.1", *, mapped: bool = False) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield both ends of a TCP connection on this machine: the caller's, and the listener's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        address = listener.getsockname()[:2]
        if mapped:
            caller = socket.socket(socket.AF_INET6)
            caller.connect((f"::ffff:{address[0]}", address[1]))
        else:
            caller = socket.create_connection(address)
        with caller, listener.accept()[0] as taken:
            yield caller, taken


def ends_of(taken: socket.socket) -> Ends:
    return Ends(taken.family, *taken.getpeername()[:2], *taken.getsockname()[:2])


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be another user for a moment: sockets that are made meanwhile are that user's."""
    need_root()
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


# who is at the other end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
def test_s13_the_user_at_the_other_end_of_a_tcp_connection_is_found(host: str) -> None:
    if ":" in host:
        need_ipv6()
    with connected(host) as (_, taken):
        assert uid_of_peer(taken) == os.geteuid()
        assert owner(ends_of(taken)) == owner_by_table(ends_of(taken)) == os.geteuid()


def test_s13_a_program_that_reaches_ipv4_by_an_ipv6_socket_is_found() -> None:
    need_ipv6()
    with connected(mapped=True) as (_, taken):
        assert owner(ends_of(taken)) == owner_by_table(ends_of(taken)) == os.geteuid()


def test_s13_it_is_the_callers_end_that_counts_not_ours() -> None:
    with as_nobody(), connected() as (_, taken):
        assert owner(ends_of(taken)) == owner_by_table(ends_of(taken)) == NOBODY


def test_s13_a_caller_who_has_closed_is_nobody_whatever_uid_the_kernel_still_tells() -> None:
    """Without this, who sends and hangs up at once would count as root on older kernels."""
    with connected() as (caller, taken):
        caller.close()

        assert owner(ends_of(taken)) is None
        assert owner_by_table(ends_of(taken)) is None
        assert uid_of_peer(taken) is None


def test_s13_a_caller_who_has_only_ended_its_request_is_still_there() -> None:
    with connected() as (caller, taken):
        caller.shutdown(socket.SHUT_WR)

        assert uid_of_peer(taken) == os.geteuid()


def test_s13_a_socket_that_does_not_exist_is_nobodys() -> None:
    ends = Ends(socket.AF_INET, "127.0.0.1", 1, "127.0.0.1", 2)

    assert owner(ends) is None
    assert owner_by_table(ends) is None


def test_s13_a_unix_socket_tells_its_peer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as caller:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        caller.connect(str(tmp_path / "s"))
        with listener.accept()[0] as taken:
            assert uid_of_peer(taken) == os.geteuid()


def test_s13_where_sock_diag_is_missing_the_table_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Ends) -> int:
        raise OSError

    monkeypatch.setattr("proxy.peers.owner", missing)  # a sandboxed kernel cannot be had here
    with connected() as (_, taken):
        assert uid_of_peer(taken) == os.geteuid()


def test_s13_where_nothing_tells_the_peer_is_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(_: Ends) -> int:
        raise OSError

    monkeypatch.setattr("proxy.peers.owner", missing)
    monkeypatch.setattr("proxy.peers.PROC_TABLES", (tmp_path / "tcp",))
    with connected() as (_, taken):
        assert uid_of_peer(taken) is None


# who is let in -------------------------------------------------------------------------------------------------------

HERE = Arrival(("127.0.0.1", 8400), "127.0.0.1")
OUTSIDE = Arrival(("10.0.0.7", 8400), "10.0.0.99")


@pytest.mark.parametrize("arrival", [HERE, Arrival(("::1", 8400), "::1"), Arrival(None, None)])
@pytest.mark.parametrize("uid", [1001, 0, NOBODY, None])
def test_s13_another_user_root_and_nobody_are_refused_with_the_setting(arrival: Arrival, uid: int | None) -> None:
    with pytest.raises(CallerRefused, match=r"server\.same_user"):
        Guard(owner=1000).check_owner(arrival, lambda: uid)


def test_s13_the_same_user_is_let_in() -> None:
    Guard(owner=1000).check_owner(HERE, lambda: 1000)


@pytest.mark.parametrize(("guard", "arrival"), [(Guard(), HERE), (Guard(owner=1000, allow_remote=True), OUTSIDE)])
def test_s13_nobody_is_asked_where_it_does_not_matter(guard: Guard, arrival: Arrival) -> None:
    guard.check_owner(arrival, lambda: pytest.fail("the kernel was asked"))


async def as_another_user(*arguments: str) -> tuple[int, str]:
    """Run curl as nobody, and return the status that it got and the body."""
    need_root()
    curl = need_program("curl", how="apt-get install curl")
    process = await asyncio.create_subprocess_exec(
        curl, "-sS", "-m", "10", "-w", "\n%{http_code}", *arguments,
        stdout=asyncio.subprocess.PIPE, user=NOBODY, group=NOBODY, extra_groups=[],
    )  # fmt: skip
    body, _, status = (await process.communicate())[0].decode().rpartition("\n")
    return int(status), body


def refusals(there: RawUpstream, source: FixedSource) -> tuple[int, int]:
    return there.connections, source.uses


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_a6_another_user_is_refused_and_told_why(host: str) -> None:
    """A real process of a real second user: 403, no byte upstream, no use of a token (S13)."""
    if "[" in host:
        need_ipv6()
    source = FixedSource()
    async with (
        raw_upstream(ok) as there,
        running([there.upstream()], sources={"me": source}, guard=Guard(owner=own_uid())) as proxy,
    ):
        status, body = await as_another_user("--data", "x", f"http://{host}:{proxy.port}/data/x")
        live, _ = await as_another_user(f"http://{host}:{proxy.port}/-/live")
        assert refusals(there, source) == (0, 0)
        mine = await proxy.ask("/data/x")

    assert (status, live, mine.status) == (403, 403, 200)
    assert "server.same_user" in body
    assert [error.kind for error in proxy.refusals] == ["caller-refused"] * 2


async def test_a6_without_the_setting_every_user_of_the_machine_is_served() -> None:
    """What the setting is for: loopback has no access control of its own."""
    async with raw_upstream(ok) as there, running([there.upstream()]) as proxy:
        assert await as_another_user(f"http://127.0.0.1:{proxy.port}/data/x") == (200, "hello")


async def test_a6_another_user_is_refused_on_a_unix_socket_that_lets_it_connect() -> None:
    """The file's mode keeps others out; should somebody loosen it, the kernel still tells who calls (S11, S13)."""
    need_root()
    folder = Path("/run") / f"bearerproxy-test-{os.getpid()}"
    path = folder / "proxy.sock"
    try:
        listener = bind_unix(str(path))
        folder.chmod(0o755)
        path.chmod(0o666)
        guard = Guard(owner=own_uid())
        async with raw_upstream(ok) as there, running([there.upstream()], listeners=[listener], guard=guard):
            refused = await as_another_user("--unix-socket", str(path), "http://localhost/data/x")
            assert there.connections == 0
            async with calling(0, uds=str(path)) as caller:
                await caller.send(b"GET /data/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                mine = parsed(await caller.rest())
    finally:
        with suppress(OSError):
            folder.rmdir()

    assert refused[0] == 403
    assert mine.status == 200


async def test_a6_who_sends_and_hangs_up_at_once_is_not_served() -> None:
    """Sent, and closed before the listener could look: the kernel no longer names an owner (S13)."""
    async with raw_upstream(ok) as there, running([there.upstream()], guard=Guard(owner=own_uid())) as proxy:
        with as_nobody():
            hasty = socket.create_connection(("127.0.0.1", proxy.port))
        hasty.sendall(b"POST /data/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
        hasty.close()  # the event loop has not run since it connected
        mine = await proxy.ask("/data/mine")

    assert mine.status == 200
    assert [head.split(b" ")[1] for head in there.heads] == [b"/mine"]


async def test_s13_who_only_tries_the_port_leaves_no_line() -> None:
    async with raw_upstream(ok) as there, running([there.upstream()], guard=Guard(owner=own_uid())) as proxy:
        with as_nobody():
            socket.create_connection(("127.0.0.1", proxy.port)).close()
        await proxy.ask("/data/mine")

    assert proxy.refusals == []
    assert not [event for event in proxy.events if isinstance(event, Refused)]


async def test_a6_the_setting_works_in_the_real_command(tmp_path: Path) -> None:
    """`[server] same_user = true`, on the loop that serves (S13)."""
    config = tmp_path / "proxy.toml"
    async with raw_upstream(ok) as there:
        config.write_text(
            f'[server]\nsame_user = true\n[store]\nkind = "memory"\n'
            f'[upstream.open]\nurl = "http://127.0.0.1:{there.port}"\nanonymous = true\n'
        )
        async with serving_command(config) as proxy:
            status, body = await as_another_user(f"http://127.0.0.1:{proxy.port}/open/x")
            assert (status, there.connections) == (403, 0)
            assert (await proxy.get("/open/x")).text == "hello"

    assert "server.same_user" in body
