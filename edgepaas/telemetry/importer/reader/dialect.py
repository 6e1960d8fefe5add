# SPDX-License-Identifier: Apache-2.0
"""What a CSV file is understood as: what the operator said of it, the rest found out.

Nothing is found out that the file leaves open: whether 01/02 is in January or in February,
or whether 1,234 is more than a thousand, is asked for.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from edgepaas.telemetry.importer.failures import ImportFailed
from edgepaas.telemetry.importer.reader.cells import Quotes, split_cells
from edgepaas.telemetry.importer.reader.csv_file import CsvFile
from edgepaas.telemetry.importer.reader.given import Given
from edgepaas.telemetry.importer.reader.header import read_header
from edgepaas.telemetry.importer.reader.lines import (
    Encoding,
    LineReader,
    detect_encoding,
    detect_line_end,
    is_damaged,
)
from edgepaas.telemetry.importer.reader.number_form import NumberForm, NumberSurvey
from edgepaas.telemetry.importer.reader.time_forms import TimeSurvey

#: Rows that are looked at when they leave nothing open.
_SAMPLE = 1000


@dataclass(frozen=True)
class Dialect:
    """How a file is read; *metrics* are those of the columns at *values_at*."""

    encoding: Encoding
    line_end: str
    delimiter: str
    quotes: Quotes
    header: tuple[str, ...]
    #: The line that names the columns, and the text up to its end.
    header_line: int
    header_raw: str
    times_at: tuple[int, ...]
    values_at: tuple[int, ...]
    metrics: tuple[str, ...]
    #: Each row ends with a delimiter that the header does not have.
    rows_end_with_delimiter: bool
    #: Behind those that are used: what stands there may be a part of one that was shifted.
    unnamed_at: tuple[int, ...]
    time_format: str
    #: It was said; what was found out is held to more strictly.
    time_format_said: bool
    #: Times name the half of the day.
    half_days: bool
    numbers: NumberForm


def understand(csv: CsvFile, given: Given) -> Dialect:
    """Return how *csv* is read.

    Raises ImportFailed where it is no such CSV file, or leaves open what a time or a value is.
    """
    try:
        encoding = Encoding(given.encoding) if given.encoding else detect_encoding(csv)
        return _understand(csv, given, encoding)
    except OSError as error:
        raise ImportFailed(
            f"cannot read {csv.name}: {error.strerror}; give a CSV file with a header line"
        ) from error
    except UnicodeError as error:
        raise ImportFailed(
            f"{csv.name} cannot be read as {given.encoding or 'text'} ({error}); say its --encoding"
        ) from error


def _understand(csv: CsvFile, given: Given, encoding: Encoding) -> Dialect:
    name = csv.name
    line_end = detect_line_end(csv, encoding)
    with LineReader(csv, encoding, line_end) as lines:
        header = read_header(lines, name, given, encoding)
        delimiter, names = header.delimiter, header.names
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
        header.line,
        header.raw,
        times_at,
        survey.values_at,
        tuple(columns.values()),
        survey.rows_end_with_delimiter,
        tuple(
            at for at, column in enumerate(names) if not column and at > min(times_at + values_at)
        ),
        time_format,
        given.time_format is not None,
        survey.times.half_days,
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
