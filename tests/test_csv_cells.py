"""Text of strangers in cells of CSV."""

import pytest

from proxy.csv_cells import harmless
from proxy.datasets import lists
from proxy.datasets.handles import Handle
from proxy.datasets.records import Dataset


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("@x", "'@x"),
        ("a;=1", "a;'=1"),
        ("a;b=1", "a;b=1"),
        ("a=1", "a=1"),
        ("", ""),
        (-7, -7),
        (None, None),
    ],
)
def test_a_formula_becomes_text_and_the_rest_stays(cell: object, shown: object) -> None:
    assert harmless(cell) == shown


def test_names_of_datasets_are_no_formulas() -> None:
    """S25: whoever writes a dataset names it."""
    dataset = Dataset(Handle.parse("10378.1/7"), "=cmd|' /C calc'!A0", "", "RELEASED", "+ada", "store")
    line = lists.datasets_csv([dataset], "http://localhost:8400/provena/datasets").decode().split("\r\n")[1]

    assert line.startswith("10378.1/7,'=cmd|' /C calc'!A0,RELEASED,'+ada,")
