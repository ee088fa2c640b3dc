"""What the page of a dataset offers for its folders."""

from datetime import UTC, datetime

import pytest

from proxy.datasets.handles import Handle
from proxy.datasets.pages import command_for, folders_of
from proxy.datasets.records import Dataset
from proxy.datasets.s3 import Entry

DATASET = Dataset(Handle("10378.1", "7"), "A dataset", "", "", "", "")


def test_the_folders_of_a_folder_are_those_that_a_url_can_hold() -> None:
    paths = ["a.csv", "odd names/b", "odd names/deep/er/c", "odd names/a..b/d", "odd names//e", "Grids/f"]
    entries = [Entry(path, 1, "", datetime(2025, 1, 1, tzinfo=UTC)) for path in paths]

    assert folders_of(entries, "") == ["Grids/", "odd names/"]
    assert folders_of([one for one in entries if one.path.startswith("odd names/")], "odd names/") == ["deep/"]


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("", "bearerproxy datasets get 10378.1/7 --to ."),
        ("grids/2024/", "bearerproxy datasets get 10378.1/7 grids/2024 --to ."),
        ("odd names/é/", 'bearerproxy datasets get 10378.1/7 "odd names/é" --to .'),
        ("$(canary)/", None),
        ("a;b/", None),
        ("a'b/", None),
        ('a"b/', None),
        ("-rf/", None),
    ],
)
def test_a_command_to_copy_is_shown_where_every_shell_reads_it_as_a_name(folder: str, command: str | None) -> None:
    """Names are chosen by strangers, and people paste the line (S25)."""
    assert command_for(DATASET, folder) == command
