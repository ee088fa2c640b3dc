"""A storage that is busy, elsewhere, or of another time: what can be cured is, the rest is one clear sentence."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from proxy.clock import SystemClock
from proxy.datasets import refusals
from proxy.datasets.download import TRIES
from proxy.datasets.links import Link
from proxy.datasets.storage import Storage
from proxy.errors import NotFound, ProxyError, UpstreamUnreachable
from proxy.identities import Network
from tests.datasets.deployment import BUCKET, FOLDER, Deployment, File, deployed
from tests.datasets.libraries import THERE, SwiftClock, library_of, read

Refused = tuple[int, list[tuple[bytes, bytes]], bytes]
HOUR = 3600


@pytest.fixture
async def there() -> AsyncIterator[Deployment]:
    async with deployed(small=File(b"hello")) as running:
        yield running


def refused(status: int, code: str = "", *fields: tuple[bytes, bytes], more: str = "") -> Refused:
    """Return an answer such as S3's, which repeats what it was asked."""
    said = f"<Error><Code>{code}</Code><Message>canary</Message>{more}<StringToSign>canary</StringToSign></Error>"
    return status, [*fields], said.encode()


UNCURED = [
    (refused(503, "SlowDown"), "too busy (status 503, SlowDown)", TRIES),
    (refused(500, "InternalError"), "refuses or fails (status 500, InternalError)", TRIES),
    (refused(403, "RequestTimeTooSkewed"), "This machine's clock is wrong", 2),
    (refused(403, "AccessDenied"), "refuses access (status 403, AccessDenied)", 2),
    (refused(301, "PermanentRedirect"), "The bucket is elsewhere, not where it was asked for (status 301", 1),
    (refused(404, "NoSuchBucket"), "a bucket that does not exist", 1),
    (refused(307, "", (b"location", b"http://elsewhere.example/?Signature=canary")), "(status 307)", 1),
    ((418, [], b"<Code>canary canary</Code>"), "refuses or fails (status 418)", 1),
]


@pytest.mark.parametrize("is_list", [False, True], ids=["file", "list"])
@pytest.mark.parametrize(("told", "sentence", "tries"), UNCURED, ids=[one[1][:22] for one in UNCURED])
async def test_what_cannot_be_cured_is_one_sentence_after_a_bounded_number_of_tries(
    there: Deployment, told: Refused, sentence: str, tries: int, *, is_list: bool
) -> None:
    there.refusals = [told] * 100
    async with library_of(there) as library:
        with pytest.raises(ProxyError) as caught:
            _ = await library.files(THERE) if is_list else await read(library.file(THERE, "small"))

    assert sentence in str(caught.value)
    assert "canary" not in str(caught.value)
    assert len(there.gets) == tries


async def test_a_bucket_in_another_region_is_found_there(there: Deployment) -> None:
    """By the field that S3 sends, or by the document, which other storages send alone."""
    for told in (
        refused(301, "PermanentRedirect", (b"x-amz-bucket-region", b"eu-west-1")),
        refused(400, "AuthorizationHeaderMalformed", more="<Region>eu-west-1</Region>"),
    ):
        there.refusals = [told]
        async with library_of(there) as library:
            assert len(await library.files(THERE)) == 1
            assert (await library.place(THERE)).region == "eu-west-1"
        assert b"/eu-west-1/s3/aws4_request" in there.gets[-1][1][b"authorization"]


async def test_a_region_that_is_configured_wrongly_is_named(there: Deployment) -> None:
    told = refused(400, "AuthorizationHeaderMalformed", (b"x-amz-bucket-region", b"eu-west-1"))
    there.refusals = [told] * 10
    async with library_of(there, region="us-east-1") as library:
        with pytest.raises(UpstreamUnreachable, match=r"is in eu-west-1, .* see \[datasets\] region"):
            await library.files(THERE)


async def test_a_wrong_clock_is_corrected_by_that_of_the_storage(there: Deployment) -> None:
    """Signatures count for 15 minutes; the storage's word on the time is in its refusal."""
    ahead = datetime.fromtimestamp(SystemClock().wall() + HOUR, UTC)
    there.refusals = [refused(403, "RequestTimeTooSkewed", (b"date", format_datetime(ahead, usegmt=True).encode()))]
    async with library_of(there) as library:
        await library.files(THERE)
    first, second = (datetime.strptime(f[b"x-amz-date"].decode(), "%Y%m%dT%H%M%S%z") for _, f in there.gets)

    assert abs((second - first).total_seconds() - HOUR) < 60
    assert there.keys == 1


async def test_a_redirection_to_where_the_bucket_is_now_is_followed_once(there: Deployment) -> None:
    """S3 sends readers of a young bucket on for a day (307)."""
    place = f"{there.storage_url}/{BUCKET}/{FOLDER}small?Signature=canary-link&link=1".encode()
    there.refusals = [refused(307, "TemporaryRedirect", (b"location", place))]
    async with library_of(there) as library:
        assert await read(library.file(THERE, "small")) == b"hello"
        there.refusals = [refused(307, "TemporaryRedirect", (b"location", place))] * 10
        with pytest.raises(UpstreamUnreachable, match="status 307, TemporaryRedirect"):
            await read(library.file(THERE, "small"))

    assert (len(there.gets), there.links) == (4, 1)


def test_a_permission_is_carried_to_the_same_host_or_within_s3_alone() -> None:
    link = Link.parse("https://b.s3.amazonaws.com/k?Signature=x")
    near = link.moved(b"https://b.s3.ap-southeast-2.amazonaws.com/k?Signature=x")

    assert near is not None
    assert near.host == "b.s3.ap-southeast-2.amazonaws.com"
    for place in (
        b"https://evil.example/k", b"https://amazonaws.com.evil.example/k", b"https://evilamazonaws.com/k",
        b"http://b.s3.amazonaws.com/k", b"/k", b"", None,
    ):  # fmt: skip
        assert link.moved(place) is None


async def test_a_range_behind_the_end_is_told_the_size(there: Deployment) -> None:
    """RFC 9110 15.5.17; S3 tells it in its document, which is not passed on."""
    there.refusals = [refused(416, "InvalidRange", more="<ActualObjectSize>5</ActualObjectSize>")]
    async with library_of(there) as library:
        download = library.file(THERE, "small")
        reading = await download.open([(b"range", b"bytes=9-")])
        await download.aclose()

    assert (reading.status, (b"content-range", b"bytes */5") in reading.fields) == (416, True)


async def test_a_refusal_whose_document_does_not_come_is_told_by_its_status(
    there: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_SECONDS", 0.05)
    ends = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 418 No\r\nContent-Length: 9999\r\n\r\n<Code>Halt</Code>")
        await ends.wait()
        writer.close()

    async with await asyncio.start_server(never, "127.0.0.1", 0) as server:
        there.storage_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with library_of(there) as library:
            with pytest.raises(UpstreamUnreachable, match=r"\(status 418\)"):
                await read(library.file(THERE, "small"))
        ends.set()


async def test_a_refusal_without_end_is_not_read_to_it(there: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """S36: what is told stands at its beginning."""
    monkeypatch.setattr(refusals, "_SECONDS", 600)

    async def without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 418 No\r\nContent-Length: 999999999999\r\n\r\n<Code>Halt</Code>")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(without_end, "127.0.0.1", 0) as server:
        there.storage_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with library_of(there) as library, asyncio.timeout(20):
            with pytest.raises(UpstreamUnreachable, match=r"\(status 418, Halt\)"):
                await read(library.file(THERE, "small"))


async def test_a_connection_that_the_storage_closed_while_idle_is_replaced() -> None:
    served = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await reader.readuntil(b"\r\n\r\n")
        served += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.readuntil(b"\r\n\r\n")  # the next request on this connection is never answered
        writer.close()

    async with await asyncio.start_server(once, "127.0.0.1", 0) as server:
        link = Link.parse(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/k")
        storage = Storage(network=Network(), concurrency=1)
        for _ in range(2):
            reading = await storage.get(link, [])
            assert [chunk async for chunk in reading.response.body] == [b"ok"]
            await reading.aclose()
        await storage.close()

    assert served == 2


async def test_a_storage_that_is_away_is_named_as_such() -> None:
    storage = Storage(network=Network(), concurrency=1)
    with pytest.raises(UpstreamUnreachable, match=r"^The file storage \(http://127.0.0.1:9\) refuses connections"):
        await storage.get(Link.parse("http://127.0.0.1:9/k?Signature=canary"), [])
    await storage.close()


async def test_busy_is_waited_for_longer_and_longer(there: Deployment) -> None:
    clock = SwiftClock()
    there.refusals = [refused(503, "SlowDown")] * 3
    async with library_of(there, clock=clock) as library:
        assert await read(library.file(THERE, "small")) == b"hello"
        there.refusals = [refused(404, "NoSuchKey")]
        with pytest.raises(NotFound, match="no file of this name"):
            await read(library.file(THERE, "small"))

    assert clock.slept == [0.2, 0.4, 0.8]
