"""How few calls the data store gets, whatever the number of files that a program reads or looks for."""

from collections.abc import AsyncIterator

import pytest

from proxy.clock import ManualClock
from proxy.datasets.library import LIST_SECONDS
from proxy.datasets.permissions import MANY
from proxy.errors import NotFound
from tests.datasets.deployment import Deployment, File, deployed
from tests.datasets.libraries import THERE, library_of, read

CHUNKS = {f"store.zarr/sst/c/{n}": File(b"%d" % n) for n in range(3 * MANY)}
LAST = f"store.zarr/sst/c/{3 * MANY - 1}"


@pytest.fixture
async def there() -> AsyncIterator[Deployment]:
    async with deployed(**CHUNKS) as running:
        yield running


async def test_a_store_of_many_small_files_costs_few_calls(there: Deployment) -> None:
    """As Zarr's chunks are: after some links of the data store's, its keys sign the others here."""
    async with library_of(there) as library:
        got = [await read(library.file(THERE, path)) for path in [*CHUNKS, *CHUNKS]]

    assert got == [file.content for file in CHUNKS.values()] * 2
    assert (there.links, there.keys) == (MANY, 1)


async def test_a_missing_one_of_many_files_is_not_found(there: Deployment) -> None:
    """Zarr leaves out chunks that hold nothing, and takes a 404 for one."""
    async with library_of(there) as library:
        for path in CHUNKS:
            await read(library.file(THERE, path))
        with pytest.raises(NotFound):
            await read(library.file(THERE, "store.zarr/sst/c/nothing"))

    assert there.links == MANY


async def test_where_signatures_of_ours_are_refused_the_data_stores_links_go_on(there: Deployment) -> None:
    async with library_of(there) as library:
        for path in [*CHUNKS][:MANY]:
            await read(library.file(THERE, path))
        there.refusals = [(403, [], b"<Error><Code>AccessDenied</Code></Error>")]
        got = [await read(library.file(THERE, path)) for path in [*CHUNKS][MANY:]]

    assert got == [file.content for file in CHUNKS.values()][MANY:]
    assert (there.links, there.keys) == (len(CHUNKS), 1)


async def test_a_bucket_elsewhere_is_found_by_many_files_too(there: Deployment) -> None:
    async with library_of(there) as library:
        for path in [*CHUNKS][:MANY]:
            await read(library.file(THERE, path))
        there.refusals = [(301, [(b"x-amz-bucket-region", b"eu-west-1")], b"")]
        await read(library.file(THERE, LAST))
        place = await library.place(THERE)

    assert (place.region, there.links) == ("eu-west-1", MANY)


async def test_files_that_a_list_of_just_now_does_not_have_cost_no_call(there: Deployment) -> None:
    """GDAL lists a folder and then looks for two dozen files beside the one that it was given."""
    clock = ManualClock()
    async with library_of(there, clock=clock) as library:
        await library.files(THERE)
        calls = there.calls.total()
        for name in ("c.aux.xml", "c.msk", "c.ovr"):
            with pytest.raises(NotFound, match=rf"has no file 'store.zarr/{name}'; upper and lower case matter"):
                await read(library.file(THERE, f"store.zarr/{name}"))
        assert there.calls.total() == calls
        there.files["new.csv"] = File(b"new")
        await clock.advance(LIST_SECONDS)

        assert await read(library.file(THERE, "new.csv")) == b"new"
