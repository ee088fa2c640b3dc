"""docs/conformance.md is true: every row has a test or a reason, and the page says what the tests say."""

import pytest

from tests.conformance import COMMAND, PAGE, Law, Test, claimed, claims, claims_of, law, page, without_test


@pytest.fixture(scope="module")
def rules() -> Law:
    return law()


@pytest.fixture(scope="module")
def found() -> dict[str, set[Test]]:
    return claims()


def test_every_row_has_a_test_or_a_reason(rules: Law, found: dict[str, set[Test]]) -> None:
    assert without_test(rules, found) == [], "say the row in the name or docstring of a test that shows it"


def test_a_reason_is_not_kept_beside_a_test(rules: Law, found: dict[str, set[Test]]) -> None:
    assert [row for row in rules.reasons if row in found or row not in rules.rows] == []


def test_the_page_is_what_the_tests_say(rules: Law, found: dict[str, set[Test]]) -> None:
    is_current = PAGE.read_text(encoding="utf-8") == page(rules, found)

    assert is_current, f"docs/conformance.md is out of step with the tests; to write it anew: {COMMAND}"


@pytest.mark.parametrize(
    ("name", "words", "rows"),
    [
        ("test_t9_t17_an_end", "", {"T9", "T17"}),
        ("test_a39", "", {"A39"}),
        ("test_set9_of_the_list", "TLS1, A4x, S256, v1.S3", set()),
        ("test_x", "Back within 12 s (T2-T4).", {"T2", "T3", "T4"}),
        ("test_x", "A37, T3: not a call before it.", {"A37", "T3"}),
    ],
)
def test_claims_are_read(name: str, words: str, rows: set[str]) -> None:
    assert set(claimed(name, words)) == rows


@pytest.mark.parametrize(("words", "rows"), [("About A1 and P2.", {"A1", "P2"}), ("H1-H27, all of them.", set())])
def test_a_module_claims_a_few_rows_or_none(words: str, rows: set[str]) -> None:
    source = f'"""{words}"""\n\n\ndef test_x() -> None: ...\n'

    assert {row for row, _ in claims_of(source, "test_x.py")} == rows


@pytest.mark.parametrize(("path", "rows"), [("datasets/test_x.py", {"S34"}), ("attacks/test_x.py", {"S3", "S34"})])
def test_amazons_storage_is_no_row(path: str, rows: set[str]) -> None:
    source = 'def test_within_s3() -> None:\n    """Signed for S3 (S34)."""\n'

    assert {row for row, _ in claims_of(source, path)} == rows


def test_the_page_shows_tests_by_file_and_reasons() -> None:
    rules = law()
    shown = page(rules, {"H1": {Test("journeys/test_x.py", "test_one_host"), Test("test_y.py", "")}})

    assert (
        "| H1 | A missing, repeated or invalid Host is a 400 | "
        "[journeys/test_x](../tests/journeys/test_x.py): one host<br>[test_y](../tests/test_y.py) |" in shown
    )
    assert shown.count("| **none** |") == len(rules.rows) - 1 - len(rules.reasons)
