# SPDX-License-Identifier: Apache-2.0
"""The first look at a file: all of it is read, counted and judged before anything is sent."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from edgepaas.telemetry.importer.failures import counted
from edgepaas.telemetry.importer.reader.csv_source import BadRow, CsvSource, Row
from edgepaas.telemetry.importer.reader.occurrences import Occurrences
from edgepaas.telemetry.times import format_moment

#: How many rows a report spells out: bad ones, and the first good ones.
BAD_ROWS_SHOWN = 20
_FIRST_ROWS = 5
#: A gap is odd when it is so many times as long as the usual step.
_GAP = 10
_STEPS_COUNTED = 10_000
_ZERO = timedelta()


@dataclass
class FirstLook:
    """What a whole pass over a file found."""

    rows: int = 0
    readings: int = 0
    #: Cells without a value, of rows that are well.
    without_value: int = 0
    bad_rows: int = 0
    bad_rows_shown: list[BadRow] = field(default_factory=list)
    first_rows: list[Row] = field(default_factory=list)
    earliest: datetime | None = None
    latest: datetime | None = None
    longest_gap: timedelta = _ZERO
    gap_line: int = 0
    in_future: int = 0
    steps: Counter[timedelta] = field(default_factory=Counter)
    #: Steps from one row to the next by direction.
    forward: int = 0
    back: int = 0
    equal: int = 0
    lines: int = 0
    empty_lines: int = 0
    unfinished: int = 0
    zoned: int = 0
    local: int = 0
    first_local: int = 0
    occurrences: Occurrences = field(default_factory=Occurrences)
    _last: datetime | None = None

    @property
    def order(self) -> str:
        """In which order of time the rows are, in words."""
        if not self.back:
            return "oldest first"
        if not self.forward:
            return "newest first"
        if self.forward >= self.back:
            return f"oldest first but for {counted(self.back, 'row')}"
        return f"newest first but for {counted(self.forward, 'row')}"

    @property
    def usual_step(self) -> timedelta | None:
        """The commonest time between two rows that follow each other."""
        return self.steps.most_common(1)[0][0] if self.steps else None

    def see(self, row: Row, now: datetime) -> None:
        """Count a good row."""
        self.rows += 1
        values = sum(value is not None for value in row.values)
        self.readings += values
        self.without_value += len(row.values) - values
        if len(self.first_rows) < _FIRST_ROWS:
            self.first_rows.append(row)
        moment = row.recorded_at
        self.occurrences.note(moment)
        self.in_future += moment > now
        self.earliest = moment if self.earliest is None else min(self.earliest, moment)
        self.latest = moment if self.latest is None else max(self.latest, moment)
        if self._last is not None:
            self._step(moment - self._last, row.line)
        self._last = moment

    def _step(self, step: timedelta, line: int) -> None:
        self.forward += step > _ZERO
        self.back += step < _ZERO
        self.equal += step == _ZERO
        length = abs(step)
        if length and (length in self.steps or len(self.steps) < _STEPS_COUNTED):
            self.steps[length] += 1
        if length > self.longest_gap:
            self.longest_gap, self.gap_line = length, line


def look_at(
    source: CsvSource,
    *,
    on_bad_row: Callable[[BadRow], None] | None = None,
    now: datetime | None = None,
) -> FirstLook:
    """Read all of *source*; return what it holds. Raises ImportFailed where it cannot be read."""
    look = FirstLook()
    now = now or datetime.now(UTC)
    for row in source:
        if isinstance(row, Row):
            look.see(row, now)
            continue
        if on_bad_row is not None:
            on_bad_row(row)
        look.bad_rows += 1
        if len(look.bad_rows_shown) < BAD_ROWS_SHOWN:
            look.bad_rows_shown.append(row)
    seen = source.seen
    look.lines, look.empty_lines, look.unfinished = seen.lines, seen.empty_lines, seen.unfinished
    look.zoned, look.local, look.first_local = seen.zoned, seen.local, seen.first_local
    return look


def understood(source: CsvSource, look: FirstLook) -> dict[str, Any]:
    """Return what the file was understood as, for people and for programs."""
    dialect, zone = source.dialect, source.options.zone
    mark = dialect.numbers
    return {
        "encoding": f"{dialect.encoding.name}{' (a guess)' if dialect.encoding.guessed else ''}",
        "delimiter": {"\t": "tab", " ": "blank"}.get(dialect.delimiter, dialect.delimiter),
        "quotes": dialect.quotes,
        "time columns": [dialect.header[at] for at in dialect.times_at],
        "value columns": [dialect.header[at] for at in dialect.values_at],
        "metrics": list(dialect.metrics),
        "other columns": [
            name or f"column {at + 1}, without a name"
            for at, name in enumerate(dialect.header)
            if at not in (*dialect.times_at, *dialect.values_at)
            and (name or at not in dialect.unnamed_at)
        ],
        "time format": dialect.time_format,
        "time zone": (str(zone) if zone is not None else "UTC (--timezone was not given)")
        if look.local
        else "named by each time",
        "decimal mark": mark.decimal,
        "thousands": mark.thousands or "no mark",
        "order": look.order,
        "first": _moment(look.earliest),
        "last": _moment(look.latest),
        "usual step": _seconds(look.usual_step),
    }


def odd_things(source: CsvSource, look: FirstLook) -> list[str]:
    """Return what is unusual about a file that can be read, a sentence each."""
    found: list[tuple[Any, str]] = [
        (look.unfinished, describe_unfinished(look)),
        (
            source.dialect.rows_end_with_delimiter,
            "each row ends with a delimiter, which the header does not",
        ),
        (
            look.equal,
            f"{counted(look.equal, 'row')} with the time of the row before: all are readings",
        ),
        (look.forward and look.back, f"the rows are {look.order}"),
        (look.without_value, f"{counted(look.without_value, 'cell')} without a value"),
        (look.empty_lines, f"{counted(look.empty_lines, 'empty line')}"),
        (look.in_future, f"{counted(look.in_future, 'row')} with a time in the future"),
        (
            look.local and source.options.zone is None,
            f"times name no zone (the first in line {look.first_local}) and are taken as UTC",
        ),
    ]
    usual = look.usual_step
    if usual is not None and look.longest_gap > _GAP * usual:
        gap = f"a gap of {look.longest_gap} before line {look.gap_line}, where {usual} is usual"
        found.append((True, gap))
    return [text for holds, text in found if holds]


def describe_unfinished(look: FirstLook) -> str:
    """Return what becomes of a last line that has no line end."""
    return (
        f"line {look.unfinished} has no line end: it may still be written, and is left for the "
        "next run (--complete takes it)"
    )


def describe_bad_rows(look: FirstLook) -> str:
    """Return the bad rows as lines of text, the first few spelled out."""
    lines = [f"  line {row.line}: {row.problem}" for row in look.bad_rows_shown]
    more = look.bad_rows - len(look.bad_rows_shown)
    return "\n".join([*lines, f"  and {more:,} more"] if more else lines)


def describe(source: CsvSource, look: FirstLook) -> Iterator[str]:
    """Yield the lines in which a person reads the first look."""
    yield (
        f"{source.csv.name}: {counted(look.readings, 'reading')} in {counted(look.rows, 'row')}"
        f"{f', {look.bad_rows:,} bad' if look.bad_rows else ''}"
    )
    for what, found in understood(source, look).items():
        shown = ", ".join(map(str, found)) if isinstance(found, list) else found or "none"
        yield f"  {what:<14} {shown}"
    yield "first readings:"
    for row in look.first_rows:
        values = zip(source.dialect.metrics, row.values, strict=True)
        shown = ", ".join(f"{metric} {value!r}" for metric, value in values if value is not None)
        yield f"  line {row.line}: {format_moment(row.recorded_at)} {shown}"
    odd = odd_things(source, look)
    if odd:
        yield "odd:"
        yield from (f"  {text}" for text in odd)
    if look.bad_rows:
        yield "no readings:"
        yield describe_bad_rows(look)


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else format_moment(moment)


def _seconds(step: timedelta | None) -> str | None:
    return None if step is None else f"{step.total_seconds():g} s"
