"""What commands print of strangers' words: names of files, of datasets, of people."""

import io

import pytest
from rich.table import Table

from proxy.cli.terminal import Screen

HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\u202ee\ud800f\rg"


def screen(*, is_terminal: bool) -> tuple[Screen, io.StringIO]:
    file = io.StringIO()
    return Screen(file=file, force_terminal=is_terminal, color_system="standard", highlight=False, width=100), file


@pytest.mark.parametrize("is_terminal", [True, False])
def test_s25_no_terminal_obeys_a_name(*, is_terminal: bool) -> None:
    console, file = screen(is_terminal=is_terminal)
    console.print(f"  {HOSTILE}: why", markup=False)
    table = Table(box=None, show_header=False)
    table.add_row(HOSTILE)
    console.print(table)

    lines = file.getvalue().splitlines()
    assert lines[0] == "  a]0;titleb[2Jc31mdefg: why"
    assert lines[1].strip() == "a]0;titleb[2Jc31mdefg"


def test_our_own_styles_and_links_are_obeyed() -> None:
    console, file = screen(is_terminal=True)
    console.print("[bold]x[/] [link=https://example.org]there[/]\tend")

    assert file.getvalue().startswith("\x1b[1mx\x1b[0m \x1b]8;")
    assert "https://example.org" in file.getvalue()
