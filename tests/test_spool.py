"""Bodies kept for a second try: in memory, on disk, and given up where something is in the way (token-life 5.4)."""

import asyncio
import errno
import os
import stat
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest

from proxy.clock import settle
from proxy.events import Event, Warned
from proxy.spool import BEHIND_BYTES, MEMORY_LIMIT, PIECE_BYTES, OpenFile, Spool, Spools, nameless_file
from tests.poll import eventually

SMALL = os.urandom(100_000)
LARGE = os.urandom(MEMORY_LIMIT + BEHIND_BYTES + 5 * PIECE_BYTES // 2)
AMPLE = 1 << 30

T = TypeVar("T")


class Room:
    """Spools that tests make, with the files they opened and what they told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[IO[bytes]] = []
        self.told: list[Event] = []
        self._made: list[Spools] = []

    def spools(self, open_file: OpenFile = nameless_file, **settings: Any) -> Spools:
        def opened(folder: Path | None) -> IO[bytes]:
            self.files.append(open_file(folder))
            return self.files[-1]

        self._made.append(Spools(self.folder, emit=self.told.append, open_file=opened, **settings))
        return self._made[-1]

    async def close(self) -> None:
        for one in self._made:
            await one.close()
        assert all(file.closed for file in self.files)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path)
    yield room
    await room.close()


async def add(spool: Spool, chunk: bytes) -> None:
    if spool.add(chunk):
        await spool.caught_up()


async def recorded(spool: Spool, body: bytes, *, chunk: int = 65536) -> Spool:
    for start in range(0, len(body), chunk):
        await add(spool, body[start : start + chunk])
    spool.end()
    return spool


async def content(spool: Spool) -> bytes:
    return b"".join([piece async for piece in spool.read()])


@pytest.mark.parametrize("body", [b"", b"x", SMALL, os.urandom(MEMORY_LIMIT)], ids=len)
async def test_what_fits_in_memory_is_held_without_a_file(room: Room, body: bytes) -> None:
    spool = await recorded(room.spools().spool(AMPLE), body)

    assert await spool.is_whole()
    assert await content(spool) == body
    assert room.files == []
    spool.drop()


@pytest.mark.parametrize("chunk", [1000, 65536, len(LARGE)])
async def test_what_is_larger_is_held_on_disk_and_can_be_read_again_and_again(room: Room, chunk: int) -> None:
    spool = await recorded(room.spools().spool(AMPLE), LARGE, chunk=chunk)

    assert await spool.is_whole()
    assert [await content(spool), await content(spool)] == [LARGE, LARGE]
    assert len(room.files) == 1
    spool.drop()


async def test_chunks_of_any_size_come_back_in_their_order(room: Room) -> None:
    spool = room.spools().spool(AMPLE)
    body = b""
    for size in (1, 70_000, 2, 3, 500_000, 16_383, 16_384, 1_000_000, 5, 900_000, 7, 8):
        body += (chunk := os.urandom(size))
        await add(spool, chunk)
    spool.end()

    assert await spool.is_whole()
    assert await content(spool) == body
    spool.drop()


async def test_a_body_in_tiny_chunks_takes_no_more_memory_than_another(room: Room) -> None:
    """A chunked upload may come by the byte, and an object takes forty."""
    spool = room.spools().spool(AMPLE)
    tracemalloc.start()
    try:
        for number in range(100_000):
            spool.add(number.to_bytes(4, "big"))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    spool.drop()

    assert held < 1_000_000


async def test_the_file_has_no_name_and_is_for_its_owner_alone(room: Room) -> None:
    spool = await recorded(room.spools().spool(AMPLE), LARGE)
    assert await spool.is_whole()

    assert [*room.folder.iterdir()] == []
    status = os.fstat(room.files[0].fileno())
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_nlink == 0
    assert status.st_size > len(LARGE) - MEMORY_LIMIT
    spool.drop()


async def test_without_a_folder_the_platforms_own_is_used(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(room.folder / "none"))
    room.folder = None  # type: ignore[assignment]  # as in a configuration that names none
    spool = await recorded(room.spools().spool(AMPLE), LARGE)

    assert not await spool.is_whole()
    (told,) = room.told
    assert isinstance(told, Warned)
    assert told.message.startswith("Uploads are not kept for a second try in the folder for temporary files: No such")


async def test_a_body_that_did_not_end_is_not_whole(room: Room) -> None:
    spool = room.spools().spool(AMPLE)
    await add(spool, SMALL)

    assert not await spool.is_whole()
    spool.drop()


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["memory", "disk"])
async def test_dropping_frees_everything_at_once(room: Room, body: bytes) -> None:
    spools = room.spools()
    spool = await recorded(spools.spool(AMPLE), body)
    assert spools.held == len(body)
    spool.drop()
    spool.drop()

    assert not await spool.is_whole()
    await eventually(lambda: spools.held == 0)
    assert all(file.closed for file in room.files)


@pytest.mark.parametrize(("limit", "is_held"), [(len(LARGE), True), (len(LARGE) - 1, False), (10, False), (0, False)])
async def test_beyond_its_limit_a_body_is_not_held(room: Room, limit: int, *, is_held: bool) -> None:
    spools = room.spools()
    spool = await recorded(spools.spool(limit), LARGE)

    assert await spool.is_whole() == is_held
    spool.drop()
    await eventually(lambda: spools.held == 0)
    assert room.told == []


async def test_all_spools_together_have_a_limit(room: Room) -> None:
    spools = room.spools(total=len(LARGE) + len(SMALL))
    first = await recorded(spools.spool(AMPLE), LARGE)
    second = await recorded(spools.spool(AMPLE), SMALL)
    third = await recorded(spools.spool(AMPLE), b"x")

    assert [await one.is_whole() for one in (first, second, third)] == [True, True, False]
    assert await content(first) == LARGE
    first.drop()
    await eventually(lambda: spools.held == len(SMALL))
    fourth = await recorded(spools.spool(AMPLE), LARGE)
    assert await fourth.is_whole()
    for one in (second, fourth):
        one.drop()


# beside the body -----------------------------------------------------------------------------------------------------


class ByHand(Spools):
    """Whose thread is the test."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.given: list[Callable[[], None]] = []

    def run(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        future = asyncio.get_running_loop().create_future()

        def do() -> None:
            done = work()
            if not future.cancelled():
                future.set_result(done)

        self.given.append(do)
        return future


@pytest.fixture
async def by_hand(tmp_path: Path) -> AsyncIterator[ByHand]:
    spools = ByHand(tmp_path)
    yield spools
    while spools.given:
        spools.given.pop(0)()
        await settle()
    assert spools.held == 0
    await spools.close()


def piece() -> bytes:
    return os.urandom(PIECE_BYTES)


async def test_the_body_need_not_wait_until_much_has_collected(by_hand: ByHand) -> None:
    spool = by_hand.spool(AMPLE)
    waits = [spool.add(piece()) for _ in range(6)]

    assert len(by_hand.given) == 1
    assert waits == [False, False, False, False, True, True]  # two pieces go to the thread, BEHIND_BYTES may wait
    spool.drop()


async def test_what_has_collected_is_written_though_nothing_more_comes(by_hand: ByHand) -> None:
    spool = by_hand.spool(AMPLE)
    for _ in range(4):
        spool.add(piece())
    by_hand.given.pop(0)()
    assert by_hand.given == []
    await settle()
    assert len(by_hand.given) == 1
    by_hand.given.pop(0)()
    spool.end()

    assert await spool.is_whole()
    spool.drop()


async def test_what_comes_between_the_end_of_a_write_and_its_news_is_no_trouble(by_hand: ByHand) -> None:
    """The thread has the next piece already when the loop tells of the last one."""
    spool = by_hand.spool(AMPLE)
    body = [piece() for _ in range(6)]
    for one in body[:3]:
        spool.add(one)
    by_hand.given.pop(0)()
    for one in body[3:]:
        spool.add(one)
    await settle()
    assert spool.is_on
    spool.end()
    by_hand.given.pop(0)()

    assert await spool.is_whole()
    spool.drop()


# disks that do not do as they should ---------------------------------------------------------------------------------


def _missing(folder: Path) -> Path:
    return folder / "missing"


def _no_folder(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file"


def _read_only(folder: Path) -> Path:
    folder.chmod(0o500)
    if not os.access(folder, os.W_OK):
        return folder
    return Path("/sys") if sys.platform == "linux" else _missing(folder)  # root may write anywhere but there


@pytest.mark.parametrize("place", [_missing, _no_folder, _read_only])
async def test_a_folder_that_cannot_be_written_switches_it_off(room: Room, place: Callable[[Path], Path]) -> None:
    room.folder = place(room.folder)
    spools = room.spools()
    for _ in range(2):
        spool = await recorded(spools.spool(AMPLE), LARGE)
        assert not await spool.is_whole()
    small = await recorded(spools.spool(AMPLE), SMALL)

    assert await small.is_whole()  # memory is no disk
    small.drop()
    await eventually(lambda: spools.held == 0)
    (told,) = room.told
    assert isinstance(told, Warned)
    assert told.message.startswith(f"Uploads are not kept for a second try in {room.folder}: ")


class Disk:
    """A file that fails as told, in front of a real one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.fault: Callable[[], None] = lambda: None
        self.most = AMPLE
        """How much one write takes."""
        self.is_shortened = False

    def write(self, data: memoryview) -> int:
        self.fault()
        return self._file.write(data[: self.most])

    def read(self, size: int) -> bytes:
        self.fault()
        return b"" if self.is_shortened else self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def disk(**said: Any) -> OpenFile:
    def opened(folder: Path | None) -> IO[bytes]:
        made = Disk(nameless_file(folder))
        for name, value in said.items():
            setattr(made, name, value)
        return made  # type: ignore[return-value]  # a file to those who use it

    return opened


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_writes_that_take_less_than_they_are_given_are_continued(room: Room) -> None:
    spool = await recorded(room.spools(disk(most=9999)).spool(AMPLE), LARGE)

    assert await spool.is_whole()
    assert await content(spool) == LARGE
    spool.drop()


async def test_a_full_disk_is_told_though_nothing_more_comes(room: Room) -> None:
    spools = room.spools(disk(fault=full))
    spool = spools.spool(AMPLE)
    spool.add(bytes(MEMORY_LIMIT + 1))
    await eventually(lambda: not spool.is_on)

    assert "No space left on device" in str(room.told)
    await eventually(lambda: spools.held == 0)


@pytest.mark.skipif(sys.platform == "win32", reason="os.writev is for Unix")
async def test_so_are_writes_of_many_pieces(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "writev", lambda file, pieces: os.write(file, b"".join(pieces)[:99_999]))
    spool = await recorded(room.spools().spool(AMPLE), LARGE)

    assert await spool.is_whole()
    assert await content(spool) == LARGE
    spool.drop()


async def test_a_full_disk_is_told_once_until_it_has_room_again(room: Room) -> None:
    faults: list[Callable[[], None]] = [full]

    def latest() -> None:
        faults[-1]()

    spools = room.spools(disk(fault=latest))
    for fault in (full, full, lambda: None, full):
        faults.append(fault)
        spool = await recorded(spools.spool(AMPLE), LARGE)
        assert await spool.is_whole() == (fault is not full)
        spool.drop()
        await eventually(lambda: spools.held == 0)

    assert len(room.told) == 2
    assert "No space left on device" in str(room.told[0])


async def test_a_disk_that_hangs_holds_a_body_up_no_longer_than_it_may(room: Room) -> None:
    is_back = threading.Event()

    def hang() -> None:
        is_back.wait(20)

    spools = room.spools(disk(fault=hang), patience=0.05)
    spool = await recorded(spools.spool(AMPLE), LARGE)
    try:
        assert not spool.is_on
        assert not await spool.is_whole()
        assert "the disk is too slow" in str(room.told)
        assert spools.held > MEMORY_LIMIT  # it counts as long as the file is there
    finally:
        is_back.set()
    await eventually(lambda: spools.held == 0)
    assert room.files[0].closed


async def test_what_a_disk_does_not_give_back_is_an_error_and_never_half_a_body(room: Room) -> None:
    spools = room.spools(disk())
    spool = await recorded(spools.spool(AMPLE), LARGE)
    assert await spool.is_whole()
    (file,) = room.files
    file.is_shortened = True  # type: ignore[attr-defined]  # a Disk
    with pytest.raises(OSError, match="shorter than what was written"):
        await content(spool)
    file.fault = full  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="No space left"):
        await content(spool)
    spool.drop()


async def test_a_disk_that_catches_up_late_does_not_write_into_what_is_read(room: Room) -> None:
    is_back = threading.Event()
    spool = room.spools(disk(fault=lambda: is_back.wait(20))).spool(AMPLE)
    is_behind = [spool.add(LARGE[start : start + PIECE_BYTES]) for start in range(0, len(LARGE), PIECE_BYTES)]
    spool.end()
    is_back.set()
    assert is_behind[-1]
    assert await spool.is_whole()

    reading = spool.read()
    first = await anext(reading)
    await spool.caught_up()

    assert first + b"".join([piece async for piece in reading]) == LARGE
    assert await content(spool) == LARGE
    spool.drop()


async def test_a_write_that_fails_behind_a_dropped_spool_is_nobodys_error(room: Room) -> None:
    is_dropped = threading.Event()

    def fail_late() -> None:
        is_dropped.wait(20)
        full()

    spools = room.spools(disk(fault=fail_late))
    spool = spools.spool(AMPLE)
    await add(spool, LARGE)
    spool.drop()
    is_dropped.set()

    await eventually(lambda: spools.held == 0)
    assert room.told == []
