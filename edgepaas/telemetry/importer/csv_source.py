# SPDX-License-Identifier: Apache-2.0
"""Readings in a CSV file: each row checked and named by its line."""

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TextIO

from edgepaas.app.errors import EdgePaaSError
from edgepaas.telemetry.times import as_utc, parse_moment
from edgepaas.telemetry.words import counted

#: Tried in this order on the header line.
_DELIMITERS = ",;\t|"
#: Characters of a header line; a file of something else may be one endless line.
_HEADER_MAX = 65_536
#: What bytes that are no UTF-8 are read as (PEP 383).
_NO_UTF8 = re.compile(r"[\udc80-\udcff]")


class ImportFailed(EdgePaaSError):
    """The file cannot be imported, or not to its end; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One reading of the file: its line (1 is the header), when (UTC) and what."""

    line: int
    recorded_at: datetime
    value: float


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no reading, and why."""

    line: int
    problem: str


class CsvSource:
    """A CSV file with a header; iterating yields a Row or a BadRow for each line with content.

    The delimiter is the first of comma, semicolon, tab and bar that makes both columns
    appear in the header. Times without a zone are local to *zone*. In an hour that a
    summer time's end repeats, times are taken as the second pass once they step back.
    *name* is what messages call the file, where that is not its path.
    """

    def __init__(
        self,
        path: Path,
        *,
        time_column: str,
        value_column: str,
        zone: tzinfo = UTC,
        name: str = "",
    ) -> None:
        self.path = path
        self.name = name or str(path)
        self._time_column = time_column
        self._value_column = value_column
        self._zone = zone

    def __iter__(self) -> Iterator[Row | BadRow]:
        """Read the file from its start; raises ImportFailed where it is no such CSV file."""
        # Bytes that are no UTF-8 become lone surrogates: they spoil their own row only.
        try:
            with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                header = file.readline(_HEADER_MAX)
                if "\0" in header:
                    raise self._no_text()
                yield from self._rows(file, header, self._delimiter(header))
        except OSError as error:
            raise ImportFailed(
                f"cannot read {self.name}: {error.strerror}; give a CSV file with the columns "
                f"'{self._time_column}' and '{self._value_column}'"
            ) from error

    def _delimiter(self, header: str) -> str:
        """Return the delimiter with which the header has both columns."""
        wanted = {"--time-column": self._time_column, "--value-column": self._value_column}

        def missing(delimiter: str) -> list[str]:
            names = _names(header, delimiter)
            return [option for option, column in wanted.items() if column not in names]

        # Of equally good ones the one that makes the most columns, to name what is there.
        best = min(_DELIMITERS, key=lambda one: (len(missing(one)), -len(_names(header, one))))
        options = missing(best)
        if not options:
            return best
        if _NO_UTF8.search(header):
            raise self._no_text()
        which = " and ".join(f"'{wanted[option]}'" for option in options)
        found = ", ".join(repr(name) for name in _names(header, best)[:20]) or "nothing"
        raise ImportFailed(
            f"{self.name}, line 1: no column{'s' if len(options) > 1 else ''} {which} in the "
            f"header, which has {found}; name the right one with {' and '.join(options)}"
        )

    def _no_text(self) -> ImportFailed:
        return ImportFailed(
            f"{self.name} is not a CSV text file (UTF-8); its first line has to name the columns "
            f"'{self._time_column}' and '{self._value_column}'"
        )

    def _rows(self, file: TextIO, header: str, delimiter: str) -> Iterator[Row | BadRow]:
        reader = csv.reader(file, delimiter=delimiter)
        names = _names(header, delimiter)
        time_at, value_at = names.index(self._time_column), names.index(self._value_column)
        clock = _LocalClock(self._zone)
        while True:
            # A quoted cell may hold line ends: the row is named by the line it begins on.
            line = reader.line_num + 2
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(line, f"not CSV: {error}")
                continue
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) <= max(time_at, value_at):
                yield BadRow(
                    line, f"{counted(len(cells), 'column')} where the header has {len(names)}"
                )
                continue
            row = _row(line, cells[time_at].strip(), cells[value_at].strip(), clock)
            if isinstance(row, BadRow) and reader.line_num + 1 > line:
                # A quote that is never closed swallows the readings below it.
                row = BadRow(line, f"{row.problem} (the row runs to line {reader.line_num + 1})")
            yield row


def _names(header: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _row(line: int, time: str, value: str, clock: "_LocalClock") -> Row | BadRow:
    try:
        recorded_at = clock.utc(parse_moment(time))
    except ValueError as error:
        return BadRow(line, f"time {_shown(time)}: {error}")
    try:
        # float() also takes 1_000 and digits of other scripts, which no logger means.
        number = float(value) if value.isascii() and "_" not in value else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        return BadRow(line, f"value {_shown(value)}: not a finite number")
    return Row(line, recorded_at, number)


def _shown(cell: str) -> str:
    return ascii(cell if len(cell) <= 40 else cell[:40] + "...")


class _LocalClock:
    """Naive times to UTC; remembers the last one to tell the two passes of a repeated hour."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._last: datetime | None = None
        self._second_pass = False

    def utc(self, moment: datetime) -> datetime:
        if moment.tzinfo is not None or self._zone is UTC:
            return as_utc(moment)
        local = moment.replace(tzinfo=self._zone)
        repeated = local.utcoffset() != local.replace(fold=1).utcoffset()
        stepped_back = self._last is not None and moment < self._last
        self._second_pass = repeated and (self._second_pass or stepped_back)
        self._last = moment
        return as_utc(local.replace(fold=int(self._second_pass)))
