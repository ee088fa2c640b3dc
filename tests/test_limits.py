"""Limits: who gets a place, who makes room, and what small bodies are (S34)."""

import asyncio
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from proxy.errors import BadRequest, Overloaded
from proxy.limits import Admission, Room, SmallBodies, allow_open_files, limits_for
from proxy.upstreams import Upstream
from tests.command import pause

DATA = Upstream("data", "https", "data.example.org", 443, max_requests=2)
MORE = Upstream("more", "https", "more.example.org", 443, max_requests=2)


@dataclass(eq=False)
class Connection:
    has_given_way: bool = False

    def give_way(self) -> None:
        self.has_given_way = True


def test_an_upstream_has_so_many_places_and_leaves_the_others_theirs() -> None:
    admission = Admission(9)
    with admission.place(DATA), admission.place(DATA):
        with pytest.raises(Overloaded, match=r"\[upstream\.data\] .* max_requests") as refusal, admission.place(DATA):
            pass
        with admission.place(MORE):
            pass

    assert refusal.value.retry_after == 1


def test_there_are_so_many_places_in_total() -> None:
    admission = Admission(3)
    full = pytest.raises(Overloaded, match=r"\[server\] max_requests")
    with admission.place(DATA), admission.place(DATA), admission.place(MORE), full, admission.place(MORE):
        pass


def test_a_place_is_free_again_whatever_the_end() -> None:
    admission = Admission(1)
    for end in (ValueError, asyncio.CancelledError):
        with pytest.raises(end), admission.place(DATA):
            raise end
    with admission.place(DATA):
        pass


def test_a_new_connection_takes_the_place_of_the_one_that_was_idle_longest() -> None:
    """A17: who holds connections and does nothing shuts nobody out."""
    room = Room(3)
    first, busy, third, fourth = (Connection() for _ in range(4))
    assert [room.enter(one) for one in (first, busy, third)] == [True] * 3
    room.busy(busy)

    assert room.enter(fourth)
    assert [one.has_given_way for one in (first, busy, third, fourth)] == [True, False, False, False]


def test_a_connection_that_was_just_used_is_the_last_to_go() -> None:
    room = Room(2)
    used, silent = Connection(), Connection()
    assert room.enter(used)
    assert room.enter(silent)
    room.busy(used)
    room.idle(used)

    assert room.enter(Connection())
    assert (used.has_given_way, silent.has_given_way) == (False, True)


def test_where_all_are_busy_there_is_no_room_for_another() -> None:
    room = Room(1)
    busy, late = Connection(), Connection()
    assert room.enter(busy)
    room.busy(busy)

    assert not room.enter(late)
    assert not busy.has_given_way


def test_connections_that_left_take_up_no_room() -> None:
    room = Room(1)
    for _ in range(3):
        one = Connection()
        assert room.enter(one)
        room.busy(one)
        room.leave(one)
        room.leave(one)  # one that gave way leaves a second time
    assert len(room) == 0


def test_one_that_gave_way_does_not_come_back() -> None:
    room = Room(1)
    first, second = Connection(), Connection()
    assert room.enter(first)
    assert room.enter(second)
    room.busy(first)
    room.idle(first)

    assert len(room) == 1


def test_as_many_connections_as_files_may_be_open() -> None:
    if sys.platform == "win32":
        pytest.skip("sockets are not files there")
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
        assert allow_open_files(500) == 500
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 500
        assert allow_open_files(100) == 100  # and nothing is lowered
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 500
        assert limits_for(10).connections == 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_fewer_connections_where_the_system_allows_fewer_files(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32":
        pytest.skip("sockets are not files there")
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 300))  # a lowered hard limit cannot be raised again
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)

    assert limits_for(1000).connections == 150


# small bodies --------------------------------------------------------------------------------------------------------


async def to_nobody(_: Any) -> None:
    pass


async def reading(_scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "done"})


def scope(*fields: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "headers": list(fields)}


async def told(app: SmallBodies, bodies: list[bytes], *fields: tuple[bytes, bytes]) -> list[str]:
    said: list[str] = []
    coming = iter([{"type": "http.request", "body": body, "more_body": True} for body in bodies[:-1]])

    async def receive() -> Any:
        return next(coming, {"type": "http.request", "body": bodies[-1], "more_body": False})

    async def send(message: Any) -> None:
        said.append(message["type"])

    await app(scope(*fields), receive, send)
    return said


async def test_a_small_body_comes_whole() -> None:
    assert await told(SmallBodies(reading, most_bytes=10), [b"12345", b"67890"]) == ["done"]


async def test_a_body_that_says_it_is_large_is_refused_unread() -> None:
    with pytest.raises(BadRequest, match="at most 10 bytes") as refusal:
        await told(SmallBodies(reading, most_bytes=10), [b"1"], (b"content-length", b"11"))

    assert refusal.value.status == 413


async def test_a_body_that_turns_out_large_is_refused() -> None:
    with pytest.raises(BadRequest, match="at most 10 bytes") as refusal:
        await told(SmallBodies(reading, most_bytes=10), [b"12345", b"67890", b"1"])

    assert refusal.value.status == 413


async def test_a_body_that_does_not_come_is_refused() -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    with pytest.raises(BadRequest, match="did not come") as refusal:
        await SmallBodies(reading, seconds=0.01)(scope(), receive, to_nobody)

    assert refusal.value.status == 408


async def test_the_wait_for_a_hang_up_behind_a_whole_body_has_no_deadline() -> None:
    """A page of ours may stream for hours; its deadline is the body's alone."""
    asked = 0

    async def receive() -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            return {"type": "http.request", "body": b""}
        await pause(0.005)
        return {"type": "http.disconnect"}

    async def streaming(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"

    await SmallBodies(streaming, seconds=0.0001)(scope(), receive, to_nobody)
