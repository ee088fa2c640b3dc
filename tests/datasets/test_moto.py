"""Against moto's S3, which is not ours: its lists, its presigned links, its conditions."""

import asyncio
import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.asgi import Receive, Scope, Send
from proxy.datasets.library import Library
from proxy.headers import first
from tests.datasets.deployment import BUCKET, FOLDER, Deployment, answer, body_of, json_answer
from tests.datasets.libraries import THERE, library_of, read
from tests.journeys.house import serving

ODD = ["a//b.csv", "./x", "odd + name/é#100%25?.csv", "a..b.csv", "tab\there", "<&>.csv", "metadata.json"]
COUNT = 3000
BIG = bytes(range(256)) * 4096  # 1 MiB


@dataclass
class Presigned(Deployment):
    """Remembers the links that were given out."""

    given: list[str] = field(default_factory=list)


class Cut:
    """Stands between the library and moto: breaks an answer off, and refuses a link or keys that have ended."""

    def __init__(self, moto: str) -> None:
        self.moto = moto
        self.after: int | None = None
        self.ended: set[str] = set()
        """Parts of a target or a token that make a request one with an ended permission."""
        self.asked: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        target = scope["raw_path"].decode() + "?" + scope["query_string"].decode()
        fields = {name.decode(): value.decode() for name, value in scope["headers"] if name != b"host"}
        self.asked["list" if "list-type" in target else "file"] += 1
        if any(one in target or one in fields.get("x-amz-security-token", "") for one in self.ended):
            await answer(send, 403, [], b"<Error><Code>AccessDenied</Code></Error>")
            return
        status, head, body = await asyncio.to_thread(_fetched, self.moto + target, fields)
        kept = [one for one in head if one[0] not in (b"connection", b"date", b"server", b"transfer-encoding")]
        await send({"type": "http.response.start", "status": status, "headers": kept})
        if self.after is not None and len(body) > self.after:
            cut, self.after = self.after, None
            await send({"type": "http.response.body", "body": body[:cut], "more_body": True})
            raise ConnectionAbortedError
        await send({"type": "http.response.body", "body": body})


def _fetched(url: str, fields: dict[str, str]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=fields)) as got:  # noqa: S310 - moto's
            return got.status, [(n.lower().encode(), v.encode()) for n, v in got.headers.items()], got.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, [(n.lower().encode(), v.encode()) for n, v in error.headers.items()], error.read()


@pytest.fixture(scope="module")
def bucket(moto: str) -> Iterator[Any]:
    """A bucket with one dataset of many files, and a neighbour whose name begins the same; yields a client."""
    import botocore.session  # type: ignore[import-untyped] # it has no types

    client = botocore.session.get_session().create_client(
        "s3", endpoint_url=moto, region_name="ap-southeast-2", aws_access_key_id="test", aws_secret_access_key="test"
    )
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "ap-southeast-2"})
    names = [f"f/{n:05}.csv" for n in range(COUNT)] + [one for one in ODD if _is_possible(one)]
    keys = [FOLDER + one for one in names] + [FOLDER.rstrip("/") + "8/secret.csv", FOLDER + "folder/"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=BUCKET, Key=key, Body=key.encode()), keys))
    client.put_object(Bucket=BUCKET, Key=FOLDER + "big.bin", Body=BIG)
    yield client
    with urllib.request.urlopen(urllib.request.Request(f"{moto}/moto-api/reset", method="POST")):  # noqa: S310 - moto's
        pass


def _is_possible(name: str) -> bool:
    return "\t" not in name  # moto answers 404 to it


@asynccontextmanager
async def presigning(bucket: Any, gate: Cut) -> AsyncIterator[tuple[Library, Presigned]]:
    """Run a data store that presigns with botocore."""
    there = Presigned()

    async def data(scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].endswith("generate-presigned-url"):
            await there.data(scope, receive, send)
            return
        key = FOLDER + json.loads(await body_of(receive))["file_path"]
        url = bucket.generate_presigned_url(
            "get_object", {"Bucket": BUCKET, "Key": key}, ExpiresIn=3600 + len(there.given)
        )
        there.given.append(url)
        await json_answer(send, 200, {"presigned_url": url.replace(gate.moto, there.storage_url)})

    async with serving(data) as api, serving(gate) as storage:
        there.data_url, there.storage_url = (f"http://127.0.0.1:{one.port}" for one in (api, storage))
        async with library_of(there) as library:
            yield library, there


async def test_moto_three_thousand_keys_odd_ones_too_and_none_of_the_neighbour(moto: str, bucket: Any) -> None:
    gate = Cut(moto)
    async with presigning(bucket, gate) as (library, _):
        entries = await library.files(THERE)
        odd = "odd + name/é#100%25?.csv"
        content = await read(library.listed_file(THERE, odd))

    assert len(entries) == COUNT + len([one for one in ODD if _is_possible(one)]) + 1
    assert {one.path for one in entries if not one.path.startswith("f/")} == {
        "big.bin", *(one for one in ODD if _is_possible(one)),
    }  # fmt: skip
    assert gate.asked["list"] == 4
    assert content == (FOLDER + odd).encode()
    assert next(one for one in entries if one.path == "big.bin").md5 is not None


async def test_moto_a_presigned_link_that_ends_in_mid_file(moto: str, bucket: Any) -> None:
    gate = Cut(moto)
    gate.after = 300_000
    async with presigning(bucket, gate) as (library, there):
        download = library.file(THERE, "big.bin")
        await download.open([])
        gate.ended = {there.given[0].rpartition("&")[2]}  # the first link's signature
        got = b"".join([chunk async for chunk in download.chunks()])
        await download.aclose()

    assert got == BIG
    assert len(there.given) == 2


async def test_moto_keys_that_ended_are_renewed(moto: str, bucket: Any) -> None:
    gate = Cut(moto)
    async with presigning(bucket, gate) as (library, there):
        await library.files(THERE)
        gate.ended = {"canary-session-1"}
        again = await library.files(THERE, is_fresh=True)
        content = await read(library.listed_file(THERE, "f/00001.csv"))

    assert (len(again) > COUNT, there.keys, content) == (True, 2, (FOLDER + "f/00001.csv").encode())


async def test_moto_conditions_and_ranges(moto: str, bucket: Any) -> None:
    async with presigning(bucket, Cut(moto)) as (library, _):

        async def status(*fields: tuple[bytes, bytes]) -> int:
            download = library.file(THERE, "big.bin")
            try:
                return (await download.open([*fields])).status
            finally:
                await download.aclose()

        download = library.file(THERE, "big.bin")
        etag = first((await download.open([])).fields, b"etag") or b""
        await download.aclose()
        found = [
            await status((b"if-none-match", etag)),
            await status((b"if-match", b'"other"')),
            await status((b"range", b"bytes=0-0")),
            await status((b"range", b"bytes=99999999-")),
            await status((b"range", b"bytes=0-0"), (b"if-match", etag)),
        ]

    assert found == [304, 412, 206, 416, 206]
