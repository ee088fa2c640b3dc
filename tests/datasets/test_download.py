"""Reading a file to its end, over real sockets, while connections and links end on the way."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.datasets.download import TRIES, Changed
from proxy.errors import NotFound, UpstreamInvalid, UpstreamUnreachable
from tests.datasets.deployment import Deployment, File, deployed
from tests.datasets.libraries import THERE, SwiftClock, library_of, read
from tests.poll import eventually

SIZE = 1 << 20


@pytest.fixture
async def there() -> AsyncIterator[Deployment]:
    async with deployed(big=File(size=SIZE), small=File(b"hello")) as running:
        yield running


def whole(there: Deployment) -> bytes:
    file = there.files["big"]
    return b"".join(file.piece(start, start + (1 << 16)) for start in range(0, SIZE, 1 << 16))


async def test_a_file_comes_whole_with_nothing_of_ours_sent(there: Deployment) -> None:
    """The link is the permission: no Authorization, no Via, no cookie reaches the storage."""
    async with library_of(there) as library:
        assert await read(library.file(THERE, "small")) == b"hello"

    ((_, fields),) = there.gets
    assert set(fields) == {b"host"}


@pytest.mark.parametrize("bulk", [False, True], ids=["presigned", "signed here"])
async def test_a_link_that_ended_in_mid_file_is_renewed_and_the_rest_fetched_by_range(
    there: Deployment, bulk: bool
) -> None:
    there.cuts, there.on_cut = [300_000, 200_000], ["end links"]
    async with library_of(there) as library:
        await library.files(THERE)
        there.gets.clear()
        got = await read(library.listed_file(THERE, "big") if bulk else library.file(THERE, "big"))

    assert got == whole(there)
    ranges = [fields.get(b"range") for _, fields in there.gets]
    assert ranges == [None, *[b"bytes=300000-1048575"] * 2, *[b"bytes=500000-1048575"] * 2]
    etag = there.files["big"].etag.encode()
    assert all(fields[b"if-match"] == fields[b"if-range"] == etag for _, fields in there.gets[1:])
    assert (there.keys if bulk else there.links) == 3


@pytest.mark.parametrize("ignores_conditions", [False, True], ids=["told by 412", "told by the ETag alone"])
async def test_two_halves_of_two_versions_are_no_file(there: Deployment, ignores_conditions: bool) -> None:
    there.cuts, there.on_cut, there.ignores_conditions = [300_000], ["change file"], ignores_conditions
    async with library_of(there) as library:
        with pytest.raises(Changed):
            await read(library.file(THERE, "big"))


async def test_a_range_that_broke_off_goes_on_inside_of_it(there: Deployment) -> None:
    there.cuts = [1000]
    async with library_of(there) as library:
        got = await read(library.file(THERE, "big"), [(b"range", b"bytes=5000-9999")])

    assert got == whole(there)[5000:10_000]
    assert there.gets[1][1][b"range"] == b"bytes=6000-9999"


async def test_bytes_that_arrive_renew_the_patience_and_none_use_it_up(there: Deployment) -> None:
    clock = SwiftClock()
    there.cuts = [100_000] * (TRIES + 3)
    async with library_of(there, clock=clock) as library:
        assert await read(library.file(THERE, "big")) == whole(there)
        there.cuts = [0] * 100
        with pytest.raises(UpstreamInvalid):
            await read(library.file(THERE, "big"))

    assert len(there.cuts) == 100 - TRIES
    assert clock.slept[-1] > clock.slept[-2] > 0


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_storage_is_asked_again_after_a_pause(there: Deployment, status: int) -> None:
    clock = SwiftClock()
    there.statuses = [status, status]
    async with library_of(there, clock=clock) as library:
        assert await read(library.file(THERE, "small")) == b"hello"
        assert len(clock.slept) == 2
        there.statuses = [status] * 50
        with pytest.raises(UpstreamUnreachable):
            await read(library.file(THERE, "small"))


async def test_a_refused_link_is_renewed_once_and_not_for_ever(there: Deployment) -> None:
    there.statuses = [403]
    async with library_of(there) as library:
        assert await read(library.file(THERE, "small")) == b"hello"
        assert there.links == 2
        there.statuses = [403] * 10
        with pytest.raises(UpstreamUnreachable):
            await read(library.file(THERE, "small"))

    assert (there.links, len(there.statuses)) == (3, 8)


async def test_a_file_that_the_storage_lost_is_not_found(there: Deployment) -> None:
    there.statuses = [404]
    async with library_of(there) as library:
        with pytest.raises(NotFound):
            await read(library.file(THERE, "small"))


async def test_no_more_connections_than_were_allowed(there: Deployment) -> None:
    """And each reader gets its turn."""
    there.held = asyncio.Event()
    async with library_of(there, concurrency=3) as library:
        reading = asyncio.gather(*(read(library.file(THERE, "big")) for _ in range(12)))
        await eventually(lambda: there.open == 3, 10, what="three readers")
        there.held.set()
        got = await reading

    assert {len(one) for one in got} == {SIZE}
    assert there.most_open == 3
    assert there.links == 1


async def test_a_reader_who_leaves_gives_its_turn_back(there: Deployment) -> None:
    async with library_of(there, concurrency=1) as library:
        for _ in range(3):
            download = library.file(THERE, "big")
            await download.open([])
            chunks = download.chunks()
            await anext(chunks)
            await chunks.aclose()
            await download.aclose()
        assert await read(library.file(THERE, "small")) == b"hello"
