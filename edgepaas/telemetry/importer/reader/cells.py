# SPDX-License-Identifier: Apache-2.0
"""One line of a CSV file to its cells, after RFC 4180 and no laxer.

The standard library's reader goes on past the end of a line for a quote that is never
closed, and takes what follows a closed one as part of the cell. Both lose rows in silence.
"""

from typing import Literal

#: ``strict``: a quoted cell ends on its line. ``multiline``: it may go on on the next ones.
#: ``literal``: a quote is a character like any other.
Quotes = Literal["strict", "multiline", "literal"]


class OpenQuote(ValueError):
    """A quoted cell begins on the line and does not end there."""


def split_cells(line: str, delimiter: str, *, literal: bool = False) -> list[str]:
    """Return the cells of *line*, without its line end.

    A quote inside a cell that does not begin with one stands for itself. Blanks around a
    quoted cell are no part of it. Raises OpenQuote, and ValueError for what follows a quoted cell.
    """
    if literal or '"' not in line:
        return line.split(delimiter)
    cells: list[str] = []
    at = 0
    while True:
        begin = _after_blanks(line, at, delimiter)
        if line.startswith('"', begin):
            cell, at = _quoted(line, begin)
            at = _after_blanks(line, at, delimiter)
            if at < len(line) and not line.startswith(delimiter, at):
                raise ValueError("text follows the closing quote of a cell")
        else:
            end = line.find(delimiter, at)
            end = len(line) if end < 0 else end
            cell, at = line[at:end], end
        cells.append(cell)
        if at >= len(line):
            return cells
        at += len(delimiter)


def is_open(line: str, delimiter: str) -> bool:
    """Tell whether a quoted cell of *line* does not end there."""
    try:
        split_cells(line, delimiter)
    except OpenQuote:
        return True
    except ValueError:
        return False
    return False


def _after_blanks(line: str, at: int, delimiter: str) -> int:
    while at < len(line) and line[at] == " " != delimiter:
        at += 1
    return at


def _quoted(line: str, begin: int) -> tuple[str, int]:
    """Return the cell whose quote stands at *begin*, and where the text behind it begins."""
    parts: list[str] = []
    at = begin + 1
    while True:
        end = line.find('"', at)
        if end < 0:
            raise OpenQuote("a quote is opened and not closed on its line")
        parts.append(line[at:end])
        if not line.startswith('"', end + 1):
            return '"'.join(parts), end + 1
        at = end + 2
