"""The table of token life is green: each of its rows is claimed by a test, in the test's name or docstring.

T1 to T30 are the failures of the token cache, A33 to A44 the acceptance cases about it. `test_t9_…`, `"T9: …"`,
`"…(T2-T4)"` and the docstring of a module that is about a few rows (`"(A40, A41)"`) are claims.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROWS = [f"T{number}" for number in range(1, 31)] + [f"A{number}" for number in range(33, 45)]

_IN_WORDS = re.compile(r"\b([AT])(\d+)(?:(?:-|…| to )\1?(\d+))?\b")
_IN_NAME = re.compile(r"_([at])(\d+)(?=_|$)")


def claimed(name: str, words: str) -> Iterator[str]:
    """Yield the rows that a test named `name` with the docstring `words` is about."""
    for letter, number in _IN_NAME.findall(name):
        yield f"{letter.upper()}{number}"
    for letter, first, last in _IN_WORDS.findall(words):
        for number in range(int(first), int(last or first) + 1):
            yield f"{letter}{number}"


def claims_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each row that a test in `path` claims, with the test's name."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    tests = [
        one
        for one in ast.walk(module)
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name.startswith("test_")
    ]
    for test in tests:
        for row in claimed(test.name, ast.get_docstring(test) or ""):
            yield row, test.name
    if tests:
        for row in claimed("", ast.get_docstring(module) or ""):
            yield row, path.name


@pytest.fixture(scope="module")
def claims() -> dict[str, set[str]]:
    """The tests of each row."""
    found: dict[str, set[str]] = {}
    for path in Path(__file__).parent.rglob("test_*.py"):
        if path != Path(__file__):
            for row, test in claims_of(path):
                found.setdefault(row, set()).add(test)
    return found


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_a_test(claims: dict[str, set[str]], row: str) -> None:
    assert claims.get(row), f"no test says {row} in its name or docstring"


@pytest.mark.parametrize(
    ("name", "words", "rows"),
    [
        ("test_t9_t17_an_end", "", {"T9", "T17"}),
        ("test_a39", "", {"A39"}),
        ("test_set9_of_the_list", "TLS1, A4x", set()),
        ("test_x", "Back within 12 s (T2-T4).", {"T2", "T3", "T4"}),
        ("test_x", "A37, T3: not a call before it.", {"A37", "T3"}),
    ],
)
def test_claims_are_read(name: str, words: str, rows: set[str]) -> None:
    assert set(claimed(name, words)) == rows
