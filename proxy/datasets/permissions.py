"""What lets us read: links that the data store signs, or its keys, with which links and lists are signed here.

A file costs one call for its link. The files of a folder that a program reads one by one (the chunks of a Zarr store)
would cost thousands, seconds each; so from the MANYth file of a dataset on, links are signed here, with keys that are
one call for eight hours. Where a signature of ours is refused, the data store's links do as before.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from proxy.clock import Clock
from proxy.datasets.data_api import DataApi
from proxy.datasets.handles import Handle
from proxy.datasets.kept import Kept
from proxy.datasets.links import Link
from proxy.datasets.refusals import SKEWED, Refusal
from proxy.datasets.s3 import place_of
from proxy.datasets.sigv4 import Credentials, Place, signed_fields, signed_link
from proxy.headers import Fields

MANY = 20
LINK_SECONDS = 3 * 3600
"""Life that is asked for; the service allows up to a day, and its own credentials end after eight hours."""
MARGIN_SECONDS = 120.0
"""How long before its end a link or a key is renewed: a request that begins with it must still be let in."""


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """What is configured about the file storage."""

    concurrency: int = 32
    region: str | None = None
    """None finds it out."""
    endpoint: str | None = None
    """None is AWS."""


@dataclass(frozen=True, slots=True)
class Links:
    """Where the links to one file come from."""

    current: Callable[[], Awaitable[Link]]
    refused: Callable[[Link, Refusal], bool]
    """Learns from the refusal of a link, and tells whether another link may do better."""


@dataclass(frozen=True, slots=True)
class Signing:
    """What a signature of ours is made with."""

    keys: Credentials
    bucket: str
    place: Place


class Permissions:
    """Keeps links and keys for as long as they are good."""

    def __init__(
        self, api: DataApi, settings: StorageSettings, clock: Clock, bucket_of: Callable[[Handle], Awaitable[str]]
    ) -> None:
        self._api = api
        self._settings = settings
        self._clock = clock
        self._bucket_of = bucket_of
        self._links: Kept[tuple[Handle, str], Link] = Kept(limit=2000, clock=clock)
        self._keys: Kept[Handle, Credentials] = Kept(limit=100, clock=clock)
        self._regions: dict[str, str] = {}
        self._skew = 0.0  # seconds by which the storage's clock is ahead, once it has refused ours
        self._unsigned: set[Handle] = set()  # whose storage refuses what is signed here
        self._clear = frozenset({settings.endpoint.rstrip("/")} if settings.endpoint else ())

    def links(self, handle: Handle, path: str) -> Links:
        """Return the links to one file: the data store's, or ours where many files of the dataset are being read."""
        key, signing = (handle, path), None

        async def current() -> Link:
            nonlocal signing
            is_ours = handle not in self._unsigned and self._links.peek(key) is None and self._are_many(handle)
            signing = await self._signing(handle) if is_ours else None
            return await self._presigned(handle, path) if signing is None else self._signed(signing, handle, path)

        def refused(link: Link, refusal: Refusal) -> bool:
            if signing is not None:
                if refusal.status != 404 and not self._learned(signing, refusal):
                    self._unsigned.add(handle)
                return refusal.status != 404
            if refusal.status == 404 or refusal.is_about_permission:
                self._links.forget(key, link)
            return refusal.is_about_permission

        return Links(current, refused)

    def signed_links(self, handle: Handle, path: str) -> Links:
        """Return the links to one of many files: signed here, without a call for each."""
        signing: Signing | None = None

        async def current() -> Link:
            nonlocal signing
            signing = await self._signing(handle)
            return self._signed(signing, handle, path)

        def refused(_: Link, refusal: Refusal) -> bool:
            return signing is not None and self._refused(handle, signing, refusal)

        return Links(current, refused)

    async def signed_query(self, handle: Handle, query: str) -> tuple[Link, Fields, Callable[[Refusal], bool]]:
        """Return how to ask the dataset's bucket something: link, fields that go with it, and who learns of a refusal.

        `query` is canonical.
        """
        signing = await self._signing(handle)
        place = signing.place
        fields = signed_fields(signing.keys, place, place.base, query, self._now())
        link = self._link(f"{place.scheme}://{place.authority}{place.base}?{query}")
        return link, [one for one in fields if one[0] != b"host"], partial(self._refused, handle, signing)

    async def place(self, handle: Handle) -> Place:
        """Return where the dataset's bucket answers, as far as it is known."""
        return self._place(await self._bucket_of(handle))

    async def _signing(self, handle: Handle) -> Signing:
        bucket = await self._bucket_of(handle)
        return Signing(await self._keys.get(handle, partial(self._obtained, handle)), bucket, self._place(bucket))

    async def _obtained(self, handle: Handle) -> tuple[Credentials, float]:
        keys = await self._api.credentials(handle)
        return keys, keys.expiry.timestamp() - self._now() - MARGIN_SECONDS

    def _place(self, bucket: str) -> Place:
        region = self._settings.region or self._regions.get(bucket)
        return place_of(bucket, region=region, endpoint=self._settings.endpoint)

    def _signed(self, signing: Signing, handle: Handle, path: str) -> Link:
        return self._link(signed_link(signing.keys, signing.place, handle.folder + path, self._now(), LINK_SECONDS))

    def _refused(self, handle: Handle, signing: Signing, refusal: Refusal) -> bool:
        """Learn from the refusal of what was signed here, and return whether another try may do better."""
        if self._learned(signing, refusal):
            return True
        if refusal.is_about_permission:
            self._keys.forget(handle, signing.keys)
        return refusal.is_about_permission

    def _learned(self, signing: Signing, refusal: Refusal) -> bool:
        """Return whether a refusal told where the bucket is, or what time it is, and that was news."""
        if refusal.region not in (None, signing.place.region) and self._settings.region is None:
            self._regions[signing.bucket] = refusal.region
            return True
        if refusal.code == SKEWED and refusal.time is not None and not self._skew:
            self._skew = refusal.time - self._clock.wall()
            return True
        return False

    async def _presigned(self, handle: Handle, path: str) -> Link:
        async def obtain() -> tuple[Link, float]:
            url = await self._api.presigned(handle, path, LINK_SECONDS)
            return self._link(url), LINK_SECONDS - MARGIN_SECONDS

        return await self._links.get((handle, path), obtain)

    def _are_many(self, handle: Handle) -> bool:
        return sum(one == handle for one, _ in self._links) >= MANY

    def _link(self, url: str) -> Link:
        return Link.parse(url, clear=self._clear)

    def _now(self) -> float:
        """Return the time by the storage's clock, which judges signatures: seconds since the epoch."""
        return self._clock.wall() + self._skew

    async def close(self) -> None:
        """Forget everything."""
        await self._links.close()
        await self._keys.close()
