"""One deployment's datasets: records, files, links and credentials, each kept for as long as it is good."""

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter

from proxy.clock import Clock
from proxy.datasets.data_api import ANSWER_LIMIT, DataApi, Json
from proxy.datasets.download import TRIES, Download, pause
from proxy.datasets.handles import Handle, checked_path
from proxy.datasets.kept import Kept
from proxy.datasets.permissions import Permissions, StorageSettings
from proxy.datasets.records import Dataset
from proxy.datasets.refusals import Refusal, failure, refusal_of
from proxy.datasets.s3 import Entry, listing_query, page
from proxy.datasets.sigv4 import Credentials, Place
from proxy.datasets.storage import Reading, Storage
from proxy.errors import NotFound, ProxyError, UpstreamInvalid

RECORD_SECONDS = 60.0
LIST_SECONDS = 20.0


class Library:
    """Reads datasets by handle."""

    def __init__(self, api: DataApi, storage: Storage, settings: StorageSettings, clock: Clock) -> None:
        self._api = api
        self._storage = storage
        self._clock = clock
        self._permissions = Permissions(api, settings, clock, self._bucket)
        self._records: Kept[Handle, Dataset] = Kept(limit=200, clock=clock)
        self._lists: Kept[Handle, tuple[Entry, ...]] = Kept(limit=8, clock=clock)

    async def dataset(self, handle: Handle) -> Dataset:
        """Return the dataset's record."""

        async def obtain() -> tuple[Dataset, float]:
            return await self._api.dataset(handle), RECORD_SECONDS

        return await self._records.get(handle, obtain)

    async def given_credentials(self, handle: Handle, *, may_write: bool) -> Credentials:
        """Return new keys to hand to a person: with their whole life before them, and not kept."""
        return await self._api.credentials(handle, may_write=may_write)

    async def place(self, handle: Handle) -> Place:
        """Return where the dataset's bucket answers, as far as it is known."""
        return await self._permissions.place(handle)

    async def files(self, handle: Handle, *, is_fresh: bool = False) -> tuple[Entry, ...]:
        """Return the dataset's files, sorted by path; `is_fresh` asks even if the list is only seconds old."""

        async def obtain() -> tuple[tuple[Entry, ...], float]:
            return tuple(sorted(await self._listed(handle))), LIST_SECONDS

        return (await obtain())[0] if is_fresh else await self._lists.get(handle, obtain)

    def file(self, handle: Handle, path: str) -> Download:
        """Return one file to be read.

        Raises BadRequest for a path that reaches nobody, NotFound if a list of seconds ago does not have it: programs
        look for a dozen files beside the one that they want, and each would be a call.
        """
        entries = self._lists.peek(handle)
        if entries is not None and not _holds(entries, checked_path(path)):
            raise NotFound(f"Dataset {handle} has no file {path!r}; upper and lower case matter.")
        return Download(self._storage, self._permissions.links(handle, checked_path(path)), self._clock)

    def listed_file(self, handle: Handle, path: str) -> Download:
        """Return one of many files to be read, whose path a list told."""
        return Download(self._storage, self._permissions.signed_links(handle, path), self._clock)

    async def found(self, text: str, limit: int = 50) -> list[Handle]:
        """Return the handles that fit `text` best."""
        return await self._api.found(text, limit)

    async def records(self, handles: Sequence[Handle]) -> list[Dataset]:
        """Return the records of several handles, in order; those that may not be read are left out."""
        got = await asyncio.gather(*(self.dataset(one) for one in handles), return_exceptions=True)
        for one in got:
            if isinstance(one, BaseException) and not isinstance(one, ProxyError):
                raise one
        if got and all(isinstance(one, ProxyError) for one in got):
            raise next(one for one in got if isinstance(one, ProxyError))
        return [one for one in got if isinstance(one, Dataset)]

    async def all(self, size: int, key: Json | None) -> tuple[list[Dataset], Json | None]:
        """Return a page of all datasets and the key of the next."""
        return await self._api.listed(size, key)

    async def _bucket(self, handle: Handle) -> str:
        return (await self.dataset(handle)).bucket

    async def _listed(self, handle: Handle) -> list[Entry]:
        entries: list[Entry] = []
        continuation: str | None = None
        while True:
            document = await self._page(handle, listing_query(handle.folder, continuation))
            some, continuation = page(document, handle.folder)
            entries += some
            if continuation is None:
                return entries

    async def _page(self, handle: Handle, query: str) -> bytes:
        """Return one page of a listing; what can be cured of a refusal is cured on the way."""
        refusal, told = Refusal(0), set[str]()
        for attempt in range(1, TRIES + 1):
            link, fields, refused = await self._permissions.signed_query(handle, query)
            reading = await self._storage.get(link, fields)
            try:
                if reading.status == 200:
                    return await _whole(reading)
                refusal = await refusal_of(reading)
            finally:
                await reading.aclose()
            if refusal.is_busy:
                await self._clock.sleep(pause(attempt))
            elif not refused(refusal) or refusal.words in told:
                break  # the same refusal twice is meant
            else:
                told.add(refusal.words)
        raise failure(refusal)

    async def close(self) -> None:
        """Forget everything, and close the connections to the storage."""
        for kept in (self._records, self._lists):
            await kept.close()
        await self._permissions.close()
        await self._storage.close()


def _holds(entries: Sequence[Entry], path: str) -> bool:
    place = bisect_left(entries, path, key=attrgetter("path"))
    return place < len(entries) and entries[place].path == path


async def _whole(reading: Reading) -> bytes:
    whole = bytearray()
    async for chunk in reading.response.body:
        whole += chunk
        if len(whole) > ANSWER_LIMIT:
            raise UpstreamInvalid("The file storage answers with a longer list than it should.")
    return bytes(whole)
