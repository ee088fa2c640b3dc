"""Which tests show which row of the law: `python -m tests.conformance` prints docs/conformance.md, `--write` writes it.

Rows and their words stand in tests/rows.toml. A test claims a row in its name (`test_a16_…`) or in its docstring
(`"T9: …"`, `"… (T2-T4)"`); the docstring of a module that is about a few rows claims for all of its tests.
"""

import argparse
import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
ROWS = TESTS / "rows.toml"
FEW = 6
"""How many rows a module's docstring may claim: what is about a whole chapter shows none of its rows."""
PAGE = TESTS.parent / "docs" / "conformance.md"
COMMAND = "python -m tests.conformance --write"

NO_ROWS = {"datasets/": {"S3"}}
"""Words that are no rows below a folder: there S3 is Amazon's."""

_IN_WORDS = re.compile(r"(?<![\w.])([AHPST])(\d{1,2})(?:(?:-|…| to )\1?(\d{1,2}))?\b")
_IN_NAME = re.compile(r"_([ahpst])(\d{1,2})(?=_|$)")

HEAD = f"""# Conformance

Every rule that bearerproxy holds itself to, and the tests that show it. Most rows come from RFC 9110 and RFC 9112, from
defects that other proxies had, or from measurements of the libraries below; [security](security.md) and
[what the HTTP side cannot do](http.md) say what follows for users.

This page is made by `{COMMAND}` from `tests/rows.toml` and from what tests say in their names and docstrings.
"""


@dataclass(frozen=True)
class Row:
    """One rule."""

    name: str
    """Letter and number: `H31`."""
    what: str


@dataclass(frozen=True)
class Chapter:
    """The rows of one letter."""

    title: str
    basis: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Law:
    """All rows, and why some of them have no test."""

    chapters: tuple[Chapter, ...]
    reasons: Mapping[str, str]

    @property
    def rows(self) -> list[str]:
        return [row.name for chapter in self.chapters for row in chapter.rows]


@dataclass(frozen=True, order=True)
class Test:
    """A test that claims a row."""

    __test__ = False  # not for pytest

    path: str
    """Below tests/, with slashes."""
    name: str
    """Empty where the docstring of the whole module claims."""


def law(path: Path = ROWS) -> Law:
    """Read the rows."""
    said = tomllib.loads(path.read_text(encoding="utf-8"))
    reasons: dict[str, str] = said.pop("no_test")
    chapters = [
        Chapter(one["title"], one["basis"], tuple(Row(letter + number, what) for number, what in one["rows"].items()))
        for letter, one in said.items()
    ]
    return Law(tuple(chapters), reasons)


def claimed(name: str, words: str) -> Iterator[str]:
    """Yield the rows that a test named `name` with the docstring `words` is about."""
    for letter, number in _IN_NAME.findall(name):
        yield f"{letter.upper()}{int(number)}"
    for letter, first, last in _IN_WORDS.findall(words):
        for number in range(int(first), int(last or first) + 1):
            yield f"{letter}{number}"


def claims_of(source: str, path: str) -> Iterator[tuple[str, Test]]:
    """Yield each row that a test in `source`, a module at `path`, claims, with the test."""
    module = ast.parse(source)
    tests = [
        one
        for one in ast.walk(module)
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name.startswith("test_")
    ]
    others = {word for folder, words in NO_ROWS.items() if path.startswith(folder) for word in words}
    for test in tests:
        for row in {*claimed(test.name, ast.get_docstring(test) or "")} - others:
            yield row, Test(path, test.name)
    about = {*claimed("", ast.get_docstring(module) or "")} - others
    if tests and len(about) <= FEW:
        for row in about:
            yield row, Test(path, "")


def claims(folder: Path = TESTS) -> dict[str, set[Test]]:
    """Return the tests of each row."""
    found: dict[str, set[Test]] = {}
    for path in folder.rglob("test_*.py"):
        if path.name != "test_conformance.py":  # its examples claim nothing
            for row, test in claims_of(path.read_text(encoding="utf-8"), path.relative_to(folder).as_posix()):
                found.setdefault(row, set()).add(test)
    return found


def page(rules: Law, tests: Mapping[str, Iterable[Test]]) -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for chapter in rules.chapters:
        parts.append(f"\n## {chapter.title}\n\n{chapter.basis}\n\n| row | what | tests |\n|---|---|---|\n")
        for row in chapter.rows:
            shown = _shown(tests[row.name]) if row.name in tests else rules.reasons.get(row.name, "**none**")
            parts.append(f"| {row.name} | {row.what} | {shown} |\n")
    return "".join(parts)


def _shown(tests: Iterable[Test]) -> str:
    by_path: dict[str, list[str]] = {}
    for test in sorted(tests):
        names = by_path.setdefault(test.path, [])
        if test.name:
            names.append(test.name.removeprefix("test_").replace("_", " "))
    return "<br>".join(
        f"[{path.removesuffix('.py')}](../tests/{path})" + (": " + "; ".join(names) if names else "")
        for path, names in by_path.items()
    )


def without_test(rules: Law, tests: Mapping[str, Iterable[Test]]) -> list[str]:
    """Return the rows that have neither a test nor a reason."""
    return [row for row in rules.rows if row not in tests and row not in rules.reasons]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/conformance.md")
    parser.add_argument("--missing", action="store_true", help="print the rows without a test or a reason")
    arguments = parser.parse_args()
    rules, tests = law(), claims()
    if arguments.missing:
        what = {row.name: row.what for chapter in rules.chapters for row in chapter.rows}
        sys.stdout.writelines(f"{row}: {what[row]}\n" for row in without_test(rules, tests))
    elif arguments.write:
        PAGE.write_text(page(rules, tests), encoding="utf-8")
    else:
        sys.stdout.write(page(rules, tests))
    return 0


if __name__ == "__main__":
    sys.exit(main())
