"""Cells of a CSV file as spreadsheets read them: none may become a formula, whoever chose its text."""

import re

_FORMULA = re.compile(r"(?:\A|(?<=;))(?=[=+\-@\t\r])")
"""Where a cell begins that would be calculated: at the start, and behind a `;`, at which spreadsheets split a line in
countries that write 1,5."""


def harmless(cell: object) -> object:
    """Return a text with an apostrophe wherever a spreadsheet would read a formula; anything else as it is."""
    return _FORMULA.sub("'", cell) if isinstance(cell, str) else cell
