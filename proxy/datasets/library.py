"""One deployment's datasets: records, files, links and credentials, each kept for as long as it is good."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from proxy.clock import Clock
from proxy.datasets.data_api import ANSWER_LIMIT, DataApi, Dataset, Json
from proxy.datasets.download import TRIES, Download, pause
from proxy.datasets.handles import Handle, checked_path
from proxy.datasets.kept import Kept
from proxy.datasets.links import Link, Links
from proxy.datasets.refusals import SKEWED, Refusal, failure, refusal_of
from proxy.datasets.s3 import Entry, listing_query, page, place_of
from proxy.datasets.sigv4 import Credentials, Place, signed_fields, signed_link
from proxy.datasets.storage import Reading, Storage
from proxy.errors import ProxyError, UpstreamInvalid

LINK_SECONDS = 3 * 3600
"""Life that is asked for; the service allows up to a day, and its own credentials end after eight hours."""
MARGIN_SECONDS = 120.0
"""How long before its end a link or a credential is renewed: a request that begins with it must still be let in."""
RECORD_SECONDS = 60.0
LIST_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """What is configured about the file storage."""

    concurrency: int = 32
    region: str | None = None
    """None finds it out."""
    endpoint: str | None = None
    """None is AWS."""


class Library:
    """Reads datasets by handle."""

    def __init__(self, api: DataApi, storage: Storage, settings: StorageSettings, clock: Clock) -> None:
        self._api = api
        self._storage = storage
        self._settings = settings
        self._clock = clock
        self._records: Kept[Handle, Dataset] = Kept(limit=200, clock=clock)
        self._links: Kept[tuple[Handle, str], Link] = Kept(limit=2000, clock=clock)
        self._credentials: Kept[Handle, Credentials] = Kept(limit=100, clock=clock)
        self._lists: Kept[Handle, tuple[Entry, ...]] = Kept(limit=8, clock=clock)
        self._regions: dict[str, str] = {}
        self._skew = 0.0  # seconds by which the storage's clock is ahead, once it has refused ours
        self._clear = frozenset({settings.endpoint.rstrip("/")} if settings.endpoint else ())

    async def dataset(self, handle: Handle) -> Dataset:
        """Return the dataset's record."""

        async def obtain() -> tuple[Dataset, float]:
            return await self._api.dataset(handle), RECORD_SECONDS

        return await self._records.get(handle, obtain)

    async def credentials(self, handle: Handle) -> Credentials:
        """Return keys to the dataset's files that have some life before them."""

        async def obtain() -> tuple[Credentials, float]:
            got = await self._api.credentials(handle)
            return got, got.expiry.timestamp() - self._now() - MARGIN_SECONDS

        return await self._credentials.get(handle, obtain)

    async def given_credentials(self, handle: Handle, *, may_write: bool) -> Credentials:
        """Return new keys to hand to a person: with their whole life before them, and not kept."""
        return await self._api.credentials(handle, may_write=may_write)

    async def place(self, handle: Handle) -> Place:
        """Return where the dataset's bucket answers, as far as it is known."""
        bucket = (await self.dataset(handle)).bucket
        region = self._settings.region or self._regions.get(bucket)
        return place_of(bucket, region=region, endpoint=self._settings.endpoint)

    async def files(self, handle: Handle, *, is_fresh: bool = False) -> tuple[Entry, ...]:
        """Return the dataset's files, sorted by path; `is_fresh` asks even if the list is only seconds old."""

        async def obtain() -> tuple[tuple[Entry, ...], float]:
            return tuple(sorted(await self._listed(handle))), LIST_SECONDS

        return (await obtain())[0] if is_fresh else await self._lists.get(handle, obtain)

    def file(self, handle: Handle, path: str) -> Download:
        """Return one file to be read, by a link of the data store's."""
        key = (handle, checked_path(path))
        links = Links(partial(self._presigned, *key), lambda link: self._links.forget(key, link))
        return Download(self._storage, links, self._clock)

    def listed_file(self, handle: Handle, path: str) -> Download:
        """Return one of many files to be read: its links are signed here, without a call for each."""
        used: list[Credentials] = []

        async def current() -> Link:
            used[:] = [await self.credentials(handle)]
            place = await self.place(handle)
            url = signed_link(used[0], place, handle.folder + path, self._now(), LINK_SECONDS)
            return Link.parse(url, clear=self._clear)

        return Download(self._storage, Links(current, lambda _: self._credentials.forget(handle, used[0])), self._clock)

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

    async def _presigned(self, handle: Handle, path: str) -> Link:
        async def obtain() -> tuple[Link, float]:
            url = await self._api.presigned(handle, path, LINK_SECONDS)
            return Link.parse(url, clear=self._clear), LINK_SECONDS - MARGIN_SECONDS

        return await self._links.get((handle, path), obtain)

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
        refusal = Refusal(0)
        for attempt in range(1, TRIES + 1):
            credentials, place = await self.credentials(handle), await self.place(handle)
            fields = signed_fields(credentials, place, place.base, query, self._now())
            link = Link.parse(f"{place.scheme}://{place.authority}{place.base}?{query}", clear=self._clear)
            reading = await self._storage.get(link, [one for one in fields if one[0] != b"host"])
            try:
                if reading.status == 200:
                    return await _whole(reading)
                refusal = await refusal_of(reading)
            finally:
                await reading.aclose()
            if refusal.region not in (None, place.region) and self._settings.region is None:
                self._regions[(await self.dataset(handle)).bucket] = refusal.region
            elif refusal.code == SKEWED and refusal.time is not None and not self._skew:
                self._skew = refusal.time - self._clock.wall()
            elif refusal.is_about_permission:
                self._credentials.forget(handle, credentials)
                if attempt > 1:
                    break
            elif refusal.is_busy:
                await self._clock.sleep(pause(attempt))
            else:
                break
        raise failure(refusal)

    def _now(self) -> float:
        """Return the time by the storage's clock, which judges signatures: seconds since the epoch."""
        return self._clock.wall() + self._skew

    async def close(self) -> None:
        """Forget everything, and close the connections to the storage."""
        for kept in (self._records, self._links, self._credentials, self._lists):
            await kept.close()
        await self._storage.close()


async def _whole(reading: Reading) -> bytes:
    whole = bytearray()
    async for chunk in reading.response.body:
        whole += chunk
        if len(whole) > ANSWER_LIMIT:
            raise UpstreamInvalid("The file storage answers with a longer list than it should.")
    return bytes(whole)
