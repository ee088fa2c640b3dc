"""What the storage says when it gives no file: read from its answer, told in a sentence for people who read data.

S3 says why in a small XML document. Of that only the code, the region and the size are taken, each of a narrow form:
the rest repeats the request, keys and signature included.
"""

import asyncio
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from proxy.datasets.s3 import region_in
from proxy.datasets.storage import Reading
from proxy.errors import NotFound, ProxyError, UpstreamInvalid, UpstreamUnreachable
from proxy.headers import first

SKEWED = "RequestTimeTooSkewed"
_LIMIT = 16 << 10
_SECONDS = 5.0
_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")
_REGION = re.compile(rb"<Region>([a-z0-9-]{1,32})</Region>")
_SIZE = re.compile(rb"<ActualObjectSize>([0-9]{1,18})</ActualObjectSize>")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no file."""

    status: int
    code: str = ""
    """S3's own word, such as `SlowDown`; empty if it tells none."""
    region: str | None = None
    """Where the bucket is, if it is told."""
    time: float | None = None
    """The storage's clock, seconds since the epoch."""
    size: int | None = None
    """Of the whole file, where a range of it was not satisfiable."""

    @property
    def is_busy(self) -> bool:
        """Whether the storage may let it pass in a moment."""
        return self.status in (429, 500, 502, 503, 504)

    @property
    def is_about_permission(self) -> bool:
        """Whether link or keys have ended: S3 says 400 of a token, 401 and 403 of a signature."""
        return self.status in (400, 401, 403)

    @property
    def words(self) -> str:
        return f"status {self.status}{', ' if self.code else ''}{self.code}"


async def refusal_of(reading: Reading) -> Refusal:
    """Return what an answer says, whose body is read, as far as it comes soon: the status alone says enough."""
    said = bytearray()
    try:
        async with asyncio.timeout(_SECONDS):
            async for chunk in reading.response.body:
                said += chunk
                if len(said) >= _LIMIT:
                    break
    except (ProxyError, TimeoutError):
        said.clear()
    code, region, size = (one.search(said) for one in (_CODE, _REGION, _SIZE))
    return Refusal(
        reading.status,
        code[1].decode() if code else "",
        region_in(first(reading.fields, b"x-amz-bucket-region") or (region[1] if region else None)),
        _time(first(reading.fields, b"date")),
        int(size[1]) if size else None,
    )


def failure(refusal: Refusal) -> ProxyError:  # noqa: PLR0911 - a table
    """Return our error for a refusal that could not be cured."""
    match refusal.status, refusal.code:
        case _, "NoSuchBucket":
            return UpstreamInvalid("The data store names a bucket that does not exist.")
        case 404, _:
            return NotFound("The dataset holds no file of this name (any more).")
        case _, code if code == SKEWED:
            return UpstreamUnreachable(
                "This machine's clock is wrong by more than 15 minutes, so that the file storage refuses its "
                "signatures; set the clock."
            )
        case 429 | 503, _:
            return UpstreamUnreachable(
                f"The file storage is too busy ({refusal.words}) and stayed so; try again in a minute, with less at "
                "a time ([datasets] concurrency, --parallel)."
            )
        case (301 | 307, _) | (_, "AuthorizationHeaderMalformed"):
            where = f"is in {refusal.region}" if refusal.region else "is elsewhere"
            return UpstreamUnreachable(
                f"The bucket {where}, not where it was asked for ({refusal.words}); see [datasets] region."
            )
        case 401 | 403, _:
            return UpstreamUnreachable(
                f"The file storage refuses access ({refusal.words}), with new permission from the data store too."
            )
        case _:
            return UpstreamUnreachable(f"The file storage refuses or fails ({refusal.words}); try again in a minute.")


def _time(date: bytes | None) -> float | None:
    try:
        return parsedate_to_datetime((date or b"").decode("latin-1")).timestamp()
    except (ValueError, OverflowError):
        return None
