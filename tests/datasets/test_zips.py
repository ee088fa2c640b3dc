"""A ZIP that is written while it is read opens in what people have."""

import io
import zipfile
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import pytest

from proxy.datasets import zips
from proxy.datasets.s3 import Entry
from proxy.datasets.zips import member_name, zipped
from proxy.errors import BrokenOff

CONTENTS = {"a.csv": b"a,b\n1,2\n", "deep/er/é #+.txt": b"x" * 100_000, "empty": b""}


def entry(path: str, size: int) -> Entry:
    return Entry(path, size, '"e"', datetime(2024, 11, 1, 2, 3, 4, tzinfo=UTC))


async def pieces(one: Entry) -> AsyncGenerator[bytes, None]:
    content = CONTENTS[one.path]
    for start in range(0, len(content), 1000):
        yield content[start : start + 1000]


async def written(entries: list[Entry]) -> bytes:
    return b"".join([piece async for piece in zipped(entries, pieces, "Dataset 10378.1/1")])


async def test_names_contents_and_times_are_those_of_the_dataset() -> None:
    archive = zipfile.ZipFile(io.BytesIO(await written([entry(path, len(one)) for path, one in CONTENTS.items()])))

    assert {one.filename: archive.read(one) for one in archive.infolist()} == CONTENTS
    assert {one.date_time for one in archive.infolist()} == {(2024, 11, 1, 2, 3, 4)}
    assert {one.compress_type for one in archive.infolist()} == {zipfile.ZIP_STORED}
    assert archive.comment == b"Dataset 10378.1/1"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("grids/10:30 é.nc", "grids/10:30 é.nc"),
        ("..a/b..", "..a/b.."),
        ("../../evil", "%2E%2E/%2E%2E/evil"),
        ("a/./b", "a/%2E/b"),
        ("/etc/cron.d/evil", "%2F/etc/cron.d/evil"),
        ("a//b", "a/%2F/b"),
        ("..\\evil", "..%5Cevil"),
        ("C:/Windows/evil", "C%3A/Windows/evil"),
        ("a\x1b]0;x\x07", "a%1B]0;x%07"),
    ],
)
def test_s26_no_member_leads_out_of_the_folder_that_it_is_unpacked_in(path: str, name: str) -> None:
    assert member_name(path) == name


async def test_s26_a_zip_has_no_path_that_leads_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTENTS, "../evil", b"x")
    raw = await written([entry("../evil", 1)])

    assert zipfile.ZipFile(io.BytesIO(raw)).namelist() == ["%2E%2E/evil"]


async def test_members_with_sizes_of_64_bits_open_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every member is taken for a large one."""
    monkeypatch.setattr(zips, "_LARGE", 0)
    raw = await written([entry(path, len(one)) for path, one in CONTENTS.items()])

    assert zipfile.ZipFile(io.BytesIO(raw)).testzip() is None


@pytest.mark.parametrize("size", [7, 9])
async def test_a_file_that_is_not_as_long_as_listed_ends_the_zip_without_an_end(size: int) -> None:
    with pytest.raises(BrokenOff):
        await written([entry("a.csv", size)])


async def test_a_date_before_the_first_of_zip_is_the_first() -> None:
    old = Entry("a.csv", 8, "", datetime(1970, 1, 1, tzinfo=UTC))
    archive = zipfile.ZipFile(io.BytesIO(await written([old])))

    assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)
