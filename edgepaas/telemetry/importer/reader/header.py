# SPDX-License-Identifier: Apache-2.0
"""The line that names a file's columns, and the delimiter between them."""

import re
from collections import Counter
from dataclasses import dataclass

from edgepaas.telemetry.importer.failures import ImportFailed
from edgepaas.telemetry.importer.reader.cells import split_cells
from edgepaas.telemetry.importer.reader.given import Given
from edgepaas.telemetry.importer.reader.lines import Encoding, Line, LineReader, is_damaged

#: Tried in this order.
_DELIMITERS = ",;\t|"
#: Lines in which a header is looked for, to say which one it is.
_WITHIN = 100
#: The first line by which spreadsheets are told the delimiter.
_SEP = re.compile(r'"?sep=(?P<delimiter>[^"])"?[,;]*', re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """The columns' *names*, on line *line*; *raw* is the file's text up to its end."""

    delimiter: str
    names: tuple[str, ...]
    line: int
    raw: str


def read_header(lines: LineReader, name: str, given: Given, encoding: Encoding) -> Header:
    """Read *lines* up to the header of the file called *name*; raises ImportFailed."""
    above, delimiters = "", given.delimiter or _DELIMITERS
    wanted = given.header_line or 1
    while True:
        line = lines.next_line() or Line(wanted, "", ended=True, raw="")
        told = _SEP.fullmatch(line.text) if line.number == 1 else None
        if told:
            delimiters = given.delimiter or told["delimiter"]
            wanted = given.header_line or 2
        if line.number >= wanted:
            break
        above += line.raw
    if "\0" in line.text:
        raise _no_text(name)
    search = _Search(given, delimiters)
    delimiter = search.best_delimiter(line.text)
    names = search.names(line.text, delimiter)
    if lacking := search.missing(line.text, delimiter):
        guess = encoding.guessed and not line.text.isascii() and len(names) < 2
        if guess or is_damaged(line.text):
            raise _no_text(name)
        raise ImportFailed(f"{name}, line {line.number}: {search.describe(line, lacking, lines)}")
    if problem := search.problem(names):
        raise ImportFailed(f"{name}, line {line.number}: {problem}")
    return Header(delimiter, tuple(names), line.number, above + line.raw)


class _Search:
    """Looks for the columns that the operator named."""

    def __init__(self, given: Given, delimiters: str) -> None:
        self._given, self._delimiters = given, delimiters
        self._literal = given.quotes == "literal"
        #: The columns, and the options that name them.
        self._wanted = dict.fromkeys(given.time_columns, "--time-column")
        self._wanted |= dict.fromkeys(given.columns or (), "--value-column")

    def names(self, text: str, delimiter: str) -> list[str]:
        """Return the cells of *text*; none where it does not hold together."""
        try:
            return [cell.strip() for cell in split_cells(text, delimiter, literal=self._literal)]
        except ValueError:
            return []

    def missing(self, text: str, delimiter: str) -> list[str]:
        """Return the columns that *text* does not name."""
        names = self.names(text, delimiter)
        return [column for column in self._wanted if column not in names]

    def best_delimiter(self, text: str) -> str:
        """Return the one that gives the columns; of equal ones what makes the most."""

        def cost(one: str) -> tuple[int, int]:
            return len(self.missing(text, one)), -len(self.names(text, one))

        return min(self._delimiters, key=cost)

    def describe(self, line: Line, lacking: list[str], lines: LineReader) -> str:
        """Return which columns *line* lacks, what it has, and what to do."""
        names = self.names(line.text, self.best_delimiter(line.text))
        columns = " and ".join(f"'{column}'" for column in lacking)
        found = ", ".join(ascii(one) for one in names[:20] if one) or "nothing"
        return (
            f"no column{'s' if len(lacking) > 1 else ''} {columns} in the header, which has "
            f"{found}; {self._advice(line, lacking, lines)}"
        )

    def _advice(self, line: Line, lacking: list[str], lines: LineReader) -> str:
        for later in lines.ahead():
            if not self.missing(later.text, self.best_delimiter(later.text)):
                return f"line {later.number} has them: --header-line {later.number}"
            if later.number >= _WITHIN:
                break
        options = " and ".join(sorted({self._wanted[column] for column in lacking}))
        advice = f"name the right one with {options}"
        if line.text.count('"') % 2 and not self._literal:
            return f"a quote in it is not closed: mend it, or give --quotes literal and {advice}"
        return advice

    def problem(self, names: list[str]) -> str:
        """Return what is wrong with *names*, which are all that is wanted."""
        times, columns = self._given.time_columns, self._given.columns
        used = set(self._wanted) if columns is not None else set(filter(None, names))
        for column, number in Counter(names).items():
            if number > 1 and column in used:
                return (
                    f"the column {column!a} occurs {number} times in the header, and nothing says "
                    "which is meant; nothing was sent: give them names of their own"
                )
        if columns is None and len(used) == len(times):
            return f"no column beside {' and '.join(map(repr, times))}; name the --delimiter"
        return ""


def _no_text(name: str) -> ImportFailed:
    return ImportFailed(
        f"{name} is not a CSV text file; its first line has to name its columns (say its "
        "--encoding where it is text in another one)"
    )
