# SPDX-License-Identifier: Apache-2.0
"""What a CSV file is understood as: what the operator said of it, the rest found out.

Nothing is found out that the file leaves open: whether 01/02 is in January or in February,
or whether 1,234 is more than a thousand, is asked for.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgepaas.telemetry.importer.cells import Quotes, split_cells
from edgepaas.telemetry.importer.failures import ImportFailed
from edgepaas.telemetry.importer.lines import (
    Encoding,
    LineReader,
    detect_encoding,
    detect_line_end,
    is_damaged,
)
from edgepaas.telemetry.importer.number_form import NumberForm, NumberSurvey
from edgepaas.telemetry.importer.time_forms import TimeSurvey

#: Tried in this order on the header line.
_DELIMITERS = ",;\t|"
#: Rows that are looked at when they leave nothing open.
_SAMPLE = 1000


@dataclass(frozen=True)
class Given:
    """What the operator says of a file; None: it is to be found out.

    *time_columns* are joined by a blank. *columns* are those with values by the metric's
    name that each gets; None: all others, each of its own name (a wide file).
    """

    time_columns: tuple[str, ...] = ("timestamp",)
    columns: Mapping[str, str] | None = None
    encoding: str | None = None
    delimiter: str | None = None
    decimal: str | None = None
    thousands: str = ""
    time_format: str | None = None
    quotes: Quotes = "strict"


@dataclass(frozen=True)
class Dialect:
    """How a file is read; *metrics* are those of the columns at *values_at*."""

    encoding: Encoding
    line_end: str
    delimiter: str
    quotes: Quotes
    header: tuple[str, ...]
    header_raw: str
    times_at: tuple[int, ...]
    values_at: tuple[int, ...]
    metrics: tuple[str, ...]
    #: Each row ends with a delimiter that the header does not have.
    rows_end_with_delimiter: bool
    time_format: str
    numbers: NumberForm


def understand(path: Path, name: str, given: Given) -> Dialect:
    """Return how the file at *path*, called *name* in messages, is read.

    Raises ImportFailed where it is no such CSV file, or leaves open what a time or a value is.
    """
    try:
        encoding = Encoding(given.encoding) if given.encoding else detect_encoding(path)
        return _understand(path, name, given, encoding)
    except OSError as error:
        raise ImportFailed(
            f"cannot read {name}: {error.strerror}; give a CSV file with a header line"
        ) from error
    except UnicodeError as error:
        raise ImportFailed(
            f"{name} cannot be read as {given.encoding or 'text'} ({error}); say its --encoding"
        ) from error


def _understand(path: Path, name: str, given: Given, encoding: Encoding) -> Dialect:
    line_end = detect_line_end(path, encoding)
    with LineReader(path, encoding, line_end, name) as lines:
        first = lines.next_line()
        header = first.text if first else ""
        if "\0" in header:
            raise _no_text(name)
        delimiter, names = _header(name, header, given, encoding)
        times_at = tuple(names.index(column) for column in given.time_columns)
        columns = given.columns
        if columns is None:
            columns = {
                column: column for column in names if column and column not in given.time_columns
            }
            if encoding.guessed and not "".join(columns).isascii():
                raise ImportFailed(
                    f"{name}: the names of its columns are no UTF-8 and become metrics: say its "
                    "--encoding, such as cp1252 or latin-1"
                )
        values_at = tuple(names.index(column) for column in columns)
        survey = _Survey(times_at, values_at, len(names), given.thousands)
        for cells in _sample(lines, delimiter, given.quotes):
            survey.see(cells)
            if survey.rows >= _SAMPLE and survey.decided:
                break
    try:
        time_format = given.time_format or survey.times.form()
        numbers = NumberForm(
            given.decimal or survey.numbers.decimal_mark(delimiter), given.thousands
        )
    except ValueError as error:
        raise ImportFailed(f"{name}: {error}; nothing was sent") from error
    if numbers.decimal == numbers.thousands:
        raise ImportFailed(
            f"{name}: {numbers.decimal!r} cannot be both --thousands and the decimal mark: "
            "give both --decimal and --thousands"
        )
    return Dialect(
        encoding,
        line_end,
        delimiter,
        given.quotes,
        names,
        first.raw if first else "",
        times_at,
        survey.values_at,
        tuple(columns.values()),
        survey.rows_end_with_delimiter,
        time_format,
        numbers,
    )


class _Survey:
    """What the first rows of a file look like."""

    def __init__(
        self,
        times_at: tuple[int, ...],
        values_at: tuple[int, ...],
        width: int,
        thousands: str,
    ) -> None:
        self.values_at = values_at
        self.times, self.numbers = TimeSurvey(), NumberSurvey(thousands)
        self.rows = 0
        self._times_at, self._width = times_at, width
        self._widths: Counter[int] = Counter()

    def see(self, cells: list[str]) -> None:
        """Count the cells of a row."""
        self.rows += 1
        trailing = len(cells) == self._width + 1 and not cells[-1].strip()
        self._widths[self._width + 1 if trailing else -1] += 1
        if len(cells) == self._width or trailing:
            self.times.see(" ".join(cells[at].strip() for at in self._times_at))
            for at in self.values_at:
                self.numbers.see(cells[at].strip())

    @property
    def decided(self) -> bool:
        """Whether no further row is needed."""
        return self.times.decided and self.numbers.decided

    @property
    def rows_end_with_delimiter(self) -> bool:
        """Whether all rows do, so that none of them has a cell too many."""
        return self._widths[self._width + 1] > 0 and self._widths[-1] == 0


def _sample(lines: LineReader, delimiter: str, quotes: Quotes) -> Iterator[list[str]]:
    """Yield the cells of lines that hold together; the others are judged later."""
    for line in lines:
        if is_damaged(line.text):
            continue
        try:
            cells = split_cells(line.text, delimiter, literal=quotes == "literal")
        except ValueError:
            continue
        if any(cell.strip() for cell in cells):
            yield cells


def _header(
    name: str, header: str, given: Given, encoding: Encoding
) -> tuple[str, tuple[str, ...]]:
    """Return the delimiter with which *header* has the columns, and their names."""
    literal = given.quotes == "literal"
    wanted = {**dict.fromkeys(given.time_columns, "--time-column")}
    wanted |= dict.fromkeys(given.columns or (), "--value-column")

    def names_by(delimiter: str) -> list[str]:
        try:
            return [cell.strip() for cell in split_cells(header, delimiter, literal=literal)]
        except ValueError:
            return []

    def missing(delimiter: str) -> list[str]:
        names = names_by(delimiter)
        return [column for column in wanted if column not in names]

    # Of equally good ones the one that makes the most columns, to name what is there.
    choices = [given.delimiter] if given.delimiter else list(_DELIMITERS)
    best = min(choices, key=lambda one: (len(missing(one)), -len(names_by(one))))
    names, lacking = names_by(best), missing(best)
    if lacking:
        if is_damaged(header) or (encoding.guessed and not header.isascii() and len(names) < 2):
            raise _no_text(name)
        columns = " and ".join(f"'{column}'" for column in lacking)
        options = " and ".join(sorted({wanted[column] for column in lacking}))
        found = ", ".join(ascii(one) for one in names[:20] if one) or "nothing"
        raise ImportFailed(
            f"{name}, line 1: no column{'s' if len(lacking) > 1 else ''} {columns} in the "
            f"header, which has {found}; name the right one with {options}"
        )
    used = set(wanted) if given.columns is not None else set(filter(None, names))
    for column, times in Counter(names).items():
        if times > 1 and column in used:
            raise ImportFailed(
                f"{name}, line 1: the column {column!a} occurs {times} times in the header, "
                "and nothing says which is meant; nothing was sent: give them names of their own"
            )
    if given.columns is None and len(used) == len(given.time_columns):
        raise ImportFailed(
            f"{name}, line 1: no column beside {' and '.join(map(repr, given.time_columns))}; "
            "name the --delimiter"
        )
    return best, tuple(names)


def _no_text(name: str) -> ImportFailed:
    return ImportFailed(
        f"{name} is not a CSV text file; its first line has to name its columns (say its "
        "--encoding where it is text in another one)"
    )
