"""Copying a dataset: whole files or none, once, and never outside of the folder."""

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from proxy.datasets.copies import Copies, NotCopied, Selection, local_place
from proxy.datasets.library import Library
from proxy.datasets.s3 import Entry
from tests.datasets.deployment import Deployment, File, deployed
from tests.datasets.libraries import THERE, library_of

FILES = {
    "a.csv": File(b"a,b\n1,2\n"),
    "grids/deep/x.nc": File(size=300_000),
    "odd/100% #1+2 é.txt": File(b"odd"),
    "empty": File(b""),
    "b.csv": File(b"c,d\n"),
}


@pytest.fixture
async def there() -> AsyncIterator[Deployment]:
    async with deployed(**FILES) as running:
        yield running


async def copied(library: Library, folder: Path, selection: Selection | None = None) -> Copies:
    entries = await library.files(THERE, is_fresh=True)
    copies = Copies(folder, partial(library.listed_file, THERE))
    await copies.run((selection or Selection()).chosen(entries))
    return copies


def tree(folder: Path) -> dict[str, int]:
    return {one.relative_to(folder).as_posix(): one.stat().st_size for one in folder.rglob("*") if one.is_file()}


async def test_a_copy_is_the_dataset_and_a_second_run_reads_nothing(there: Deployment, tmp_path: Path) -> None:
    async with library_of(there) as library:
        first = await copied(library, tmp_path)
        reads = len(there.gets)
        second = await copied(library, tmp_path)

    assert tree(tmp_path) == {path: file.size for path, file in FILES.items()}
    assert (len(first.written), len(second.written), len(second.kept)) == (5, 0, 5)
    assert (first.done, first.total, second.fetched) == (300_015, 300_015, 0)
    assert len(there.gets) == reads + 1  # the list
    assert datetime.fromtimestamp((tmp_path / "a.csv").stat().st_mtime, UTC).year == 2025


async def test_only_what_changed_is_read_again(there: Deployment, tmp_path: Path) -> None:
    async with library_of(there) as library:
        await copied(library, tmp_path)
        there.files["a.csv"] = File(b"a,b\n3,4,5\n")
        (tmp_path / "b.csv").write_bytes(b"C,D\n")  # as long, with other content and another time
        os.utime(tmp_path / "odd/100% #1+2 é.txt")  # another time alone
        again = await copied(library, tmp_path)

    assert {one.path for one in again.written} == {"a.csv", "b.csv"}
    assert (tmp_path / "a.csv").read_bytes() == b"a,b\n3,4,5\n"
    assert (tmp_path / "b.csv").read_bytes() == b"c,d\n"


async def test_a_part_is_gone_on_with_and_not_that_of_another_version(there: Deployment, tmp_path: Path) -> None:
    there.cuts, there.statuses = [100_000], []
    async with library_of(there) as library:
        entries = [one for one in await library.files(THERE) if one.path.endswith(".nc")]
        there.cuts = [100_000, *[0] * 50]  # and then nothing more arrives
        copies = Copies(tmp_path, partial(library.listed_file, THERE))
        await copies.run(entries)
        parts = [*tree(tmp_path).values()]
        there.cuts = []
        there.gets.clear()
        again = await copied(library, tmp_path, Selection(("grids",)))
        asked = [fields.get(b"range") for path, fields in there.gets if path.endswith(".nc")]
        there.files["grids/deep/x.nc"].version = 2
        newer = await copied(library, tmp_path, Selection(("grids",)))

    assert [path for path, _ in copies.failed] == ["grids/deep/x.nc"]
    assert (parts, asked) == ([100_000], [b"bytes=100000-"])
    assert (again.fetched, len(newer.written) + len(newer.kept)) == (200_000, 1)
    assert tree(tmp_path) == {"grids/deep/x.nc": 300_000}


async def test_wrong_content_gets_no_name_and_the_other_files_go_on(there: Deployment, tmp_path: Path) -> None:
    """The ETag is an MD5 here, and the storage sends something else."""
    async with library_of(there) as library:
        entries = await library.files(THERE)
        there.files["a.csv"].piece = lambda start, end: b"X" * (end - start)  # type: ignore[method-assign] # the fault
        copies = Copies(tmp_path, partial(library.listed_file, THERE))
        await copies.run(entries)
    del there.files["a.csv"].piece

    ((path, why),) = copies.failed
    assert (path, "checksum" in why) == ("a.csv", True)
    assert set(tree(tmp_path)) == set(FILES) - {"a.csv"}


async def test_a_file_that_changed_since_it_was_listed_fails_and_says_so(there: Deployment, tmp_path: Path) -> None:
    async with library_of(there) as library:
        entries = await library.files(THERE)
        there.files["a.csv"] = File(b"other")
        copies = Copies(tmp_path, partial(library.listed_file, THERE))
        await copies.run(entries)

    assert copies.failed == [("a.csv", "it has changed since it was listed; run again")]


@pytest.mark.parametrize("is_one_place", [True, False])
async def test_names_that_a_folder_cannot_tell_apart_do_not_overwrite_each_other(
    there: Deployment, tmp_path: Path, is_one_place: bool
) -> None:
    """Windows and macOS: here a link makes two names one place."""
    there.files = {
        "D/x.csv": File(b"upper"),
        "d/X.csv": File(b"lower"),
        "d/e\u0301": File(b"a"),
        "d/\u00e9": File(b"b"),
    }
    (tmp_path / "D").mkdir()
    if is_one_place:
        (tmp_path / "d").symlink_to(tmp_path / "D")
        (tmp_path / "D/X.csv").symlink_to(tmp_path / "D/x.csv")
    async with library_of(there) as library:
        copies = await copied(library, tmp_path)

    assert copies.failed == ([("d/X.csv", "this folder cannot tell its name from D/x.csv")] if is_one_place else [])
    assert (tmp_path / "D/x.csv").read_bytes() == b"upper"
    assert ((tmp_path / "d/e\u0301").read_bytes(), (tmp_path / "d/\u00e9").read_bytes()) == (b"a", b"b")


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "a\nb", ""])
def test_a_name_that_leads_elsewhere_has_no_place(tmp_path: Path, path: str) -> None:
    with pytest.raises(NotCopied):
        local_place(tmp_path, path)


@pytest.mark.parametrize(
    "path", ["C:/x", "a\\b", "aux.csv", "COM1", "a.", "b ", "x?.csv", "con .txt", "CONIN$", "lpt².nc"]
)
def test_names_that_windows_cannot_have_are_refused_there(tmp_path: Path, path: str) -> None:
    with pytest.raises(NotCopied):
        local_place(tmp_path, path, is_windows=True)


@pytest.mark.parametrize(
    ("selection", "wanted"),
    [
        (Selection(), ["a.csv", "g/b.csv", "g/x.nc", "gx"]),
        (Selection(("g",)), ["g/b.csv", "g/x.nc"]),
        (Selection(("g/", "gx")), ["g/b.csv", "g/x.nc", "gx"]),
        (Selection(include=("*.csv",)), ["a.csv", "g/b.csv"]),
        (Selection(include=("*.csv", "*.nc"), exclude=("g/*.csv",)), ["a.csv", "g/x.nc"]),
    ],
)
def test_selections(selection: Selection, wanted: list[str]) -> None:
    entries = [Entry(path, 1, "", datetime(2025, 1, 1, tzinfo=UTC)) for path in ("a.csv", "g/b.csv", "g/x.nc", "gx")]

    assert [one.path for one in selection.chosen(entries)] == wanted
