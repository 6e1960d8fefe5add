# SPDX-License-Identifier: Apache-2.0
"""Readings in a CSV file: each line is a row that is read, or named with what is wrong."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

from edgepaas.telemetry.importer.failures import ImportFailed, counted, quoted_cell
from edgepaas.telemetry.importer.reader.cells import OpenQuote, is_open, split_cells
from edgepaas.telemetry.importer.reader.csv_file import CsvFile
from edgepaas.telemetry.importer.reader.dialect import Dialect
from edgepaas.telemetry.importer.reader.lines import Line, LineReader, is_damaged
from edgepaas.telemetry.importer.reader.local_times import LocalTimes, Order, Repeated
from edgepaas.telemetry.importer.reader.number_form import NumberParser
from edgepaas.telemetry.importer.reader.time_forms import (
    EPOCHS,
    has_half_day,
    other_form,
    time_parser,
)
from edgepaas.telemetry.times import as_utc

#: Lines that one row may span where rows may.
_ROW_LINES = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its line (1 is the header), when (UTC) and a value, or None, for each metric."""

    line: int
    recorded_at: datetime
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no reading, and why; *raw* is its text as the file has it."""

    line: int
    problem: str
    raw: str = ""


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A row whose time is as the file has it, with a zone or without one."""

    line: int
    time: str
    moment: datetime
    values: tuple[float | None, ...]
    raw: str


@dataclass(frozen=True)
class ReadingOptions:
    """How the operator wants what a file may leave open to be read.

    *zone* is that of times which name none; None: nothing was said, it is UTC. *complete*:
    a last line without its line end is a row. *leap_second*: take :60 as the second after.
    """

    zone: tzinfo | None = None
    repeated: Repeated = "certain"
    order: Order | None = None
    complete: bool = False
    leap_second: bool = False
    no_value: frozenset[str] = frozenset()


@dataclass
class Seen:
    """What a pass over the file met beside its rows."""

    lines: int = 0
    empty_lines: int = 0
    #: The last line, where it has no line end and is left for a later run.
    unfinished: int = 0
    zoned: int = 0
    local: int = 0
    #: The line of the first time without a zone.
    first_local: int = 0


@dataclass
class CsvSource:
    """A CSV file as *dialect* reads it; iterating yields a Row or a BadRow for each line.

    Lines without content are only counted. What a pass met is in ``seen`` afterwards.
    """

    csv: CsvFile
    dialect: Dialect
    options: ReadingOptions = field(default_factory=ReadingOptions)

    def __post_init__(self) -> None:
        """Raises ValueError for a time format that there is not."""
        self.seen = Seen()
        self._literal = self.dialect.quotes == "literal"
        self._multiline = self.dialect.quotes == "multiline"
        self._width = len(self.dialect.header)
        self._allowed = self._width + self.dialect.rows_end_with_delimiter
        self._number = NumberParser(self.dialect.numbers)
        self._moment = time_parser(
            self.dialect.time_format,
            leap_second=self.options.leap_second,
            said=self.dialect.time_format_said,
        )
        form = self.dialect.time_format
        self._has_halves = "%" not in form and form not in EPOCHS
        self._clock: LocalTimes | None = None

    def __iter__(self) -> Iterator[Row | BadRow]:
        """Read the file from its start; raises ImportFailed where it cannot be read."""
        zone = self.options.zone
        if self._clock is None and zone is not None and zone is not UTC:
            clock = LocalTimes(zone, self.options.repeated, self.options.order)
            for row in self._parsed():
                if isinstance(row, _Parsed) and row.moment.tzinfo is None:
                    clock.note(row.line, row.moment)
            clock.settle()
            self._clock = clock
        for row in self._parsed():
            yield self._placed(row) if isinstance(row, _Parsed) else row

    def _parsed(self) -> Iterator[_Parsed | BadRow]:
        self.seen = seen = Seen()
        try:
            with LineReader(self.csv, self.dialect.encoding, self.dialect.line_end) as lines:
                lines.skip(self.dialect.header_line)
                for line in lines:
                    seen.lines = line.number
                    if not line.ended and not self.options.complete:
                        if line.text.strip():
                            seen.unfinished = line.number
                        continue
                    row = self._row(line, lines)
                    if row is None:
                        seen.empty_lines += 1
                    else:
                        yield row
        except OSError as error:
            raise ImportFailed(f"cannot read {self.csv.name}: {error.strerror}") from error

    def _row(self, line: Line, lines: LineReader) -> _Parsed | BadRow | None:
        """Return what *line* is; None where nothing is on it."""
        text, raw = line.text, line.raw
        if problem := self._damage(text):
            return BadRow(line.number, problem, raw)
        try:
            cells = split_cells(text, self.dialect.delimiter, literal=self._literal)
        except OpenQuote:
            joined = self._spanning(line, lines)
            if isinstance(joined, BadRow):
                return joined
            cells, raw = joined
        except ValueError as error:
            return BadRow(line.number, f"not CSV: {error}", raw)
        if not any(cell.strip() for cell in cells):
            return None
        if problem := self._misfit(cells):
            return BadRow(line.number, problem, raw)
        return self._judged(line.number, cells, raw)

    def _misfit(self, cells: list[str]) -> str:
        """Return why *cells* are not those that the header names."""
        number = len(cells)
        if number != self._width and (number != self._allowed or cells[-1].strip()):
            return f"{counted(number, 'cell')} where the header has {self._width}"
        for at in self.dialect.unnamed_at:
            if cells[at].strip():
                return f"{quoted_cell(cells[at])} stands in a column without a name"
        return ""

    def _damage(self, text: str) -> str:
        if is_damaged(text):
            return "bytes that are no text, or NUL"
        return "a carriage return in the middle of the line" if "\r" in text else ""

    def _spanning(self, line: Line, lines: LineReader) -> tuple[list[str], str] | BadRow:
        """Return the cells and the text of a row that goes on behind *line*, where rows may."""
        delimiter, opened = self.dialect.delimiter, f"the quote opened in line {line.number}"
        if not self._multiline:
            for later in lines.ahead():
                if '"' in later.text:
                    return BadRow(
                        line.number,
                        f"{opened} is not closed there; the next quote is in line {later.number} "
                        "(--quotes literal takes quotes as they stand, multiline takes rows of "
                        "several lines)",
                        line.raw,
                    )
            return BadRow(
                line.number,
                f"{opened} is never closed (--quotes literal takes quotes as they stand)",
                line.raw,
            )
        text, raw = line.text, line.raw
        for taken, later in enumerate(lines.ahead(), start=1):
            if taken == _ROW_LINES:
                break
            if not later.ended and not self.options.complete:
                break
            if self._is_row(later):
                problem = f"{opened} would swallow line {later.number}, which is a row"
                return BadRow(line.number, problem, line.raw)
            text, raw = f"{text}\n{later.text}", raw + later.raw
            if '"' not in later.text or is_open(text, delimiter):
                continue
            try:
                cells = split_cells(text, delimiter)
            except ValueError as error:
                return BadRow(line.number, f"not CSV: {error}", line.raw)
            lines.skip(taken)
            self.seen.lines += taken
            return cells, raw
        return BadRow(line.number, f"{opened} is never closed", line.raw)

    def _is_row(self, line: Line) -> bool:
        """Tell whether *line* is a reading by itself."""
        try:
            cells = split_cells(line.text, self.dialect.delimiter)
        except ValueError:
            return False
        return len(cells) == self._width and isinstance(self._judged(0, cells, ""), _Parsed)

    def _judged(self, line: int, cells: list[str], raw: str) -> _Parsed | BadRow:
        dialect = self.dialect
        time = " ".join(cells[at].strip() for at in dialect.times_at)
        try:
            moment = self._moment(time)
        except ValueError as error:
            form = other_form(time, dialect.time_format) or str(error)
            return BadRow(line, f"time {quoted_cell(time)}: {form}", raw)
        if self._has_halves and has_half_day(time) != dialect.half_days:
            problem = "names no AM or PM" if dialect.half_days else "names AM or PM"
            return BadRow(line, f"time {quoted_cell(time)}: {problem}, unlike most", raw)
        values: list[float | None] = []
        for at in dialect.values_at:
            cell = cells[at].strip()
            if cell in self.options.no_value:
                values.append(None)
                continue
            try:
                values.append(self._number(cell))
            except ValueError as error:
                column = "" if len(dialect.values_at) == 1 else f" of {dialect.header[at]!a}"
                return BadRow(line, f"value {quoted_cell(cell)}{column}: {error}", raw)
        return _Parsed(line, time, moment, tuple(values), raw)

    def _placed(self, row: _Parsed) -> Row | BadRow:
        """Return *row* with its moment in UTC."""
        naive = row.moment.tzinfo is None
        try:
            if naive and self._clock is not None:
                moment = self._clock.utc(row.line, row.moment)
            else:
                moment = as_utc(row.moment)
        except ValueError as error:
            return BadRow(row.line, f"time {quoted_cell(row.time)}: {error}", row.raw)
        if naive:
            self.seen.local += 1
            self.seen.first_local = self.seen.first_local or row.line
        else:
            self.seen.zoned += 1
        return Row(row.line, moment, row.values)
