# SPDX-License-Identifier: Apache-2.0
"""Importing a CSV file into a running box over HTTP, resumable without doubling.

Each row's id is derived from what it says and which occurrence of exactly that it is in
the file, so a row has the same id in every run: what a lost answer, a restart of the box
or a second import sends again is there already, and two equal rows of one file stay two.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from edgepaas.app.models import content_id
from edgepaas.telemetry.importer.csv_source import BadRow, CsvSource, ImportFailed, Row, counted
from edgepaas.telemetry.times import format_moment

#: How many bad rows an error or a report spells out.
_BAD_ROWS_SHOWN = 20
#: Fixed for ever: ids already in databases were made with it.
_ORIGIN = "edgepaas.telemetry.import"


@dataclass(frozen=True)
class Target:
    """What the rows of a file are readings of."""

    device: str
    metric: str
    unit: str | None = None


@dataclass
class Progress:
    """How far an import has come; ``line`` is the last one that the box has acknowledged."""

    total: int
    accepted: int = 0
    duplicates: int = 0
    line: int = 1

    @property
    def done(self) -> int:
        """Readings that the box has acknowledged, new or there already."""
        return self.accepted + self.duplicates


@dataclass
class Report:
    """What an import did: readings stored, readings there already, rows left out."""

    readings: int
    accepted: int = 0
    duplicates: int = 0
    bad_rows: int = 0
    bad_rows_shown: list[BadRow] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "readings": self.readings,
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "bad_rows": self.bad_rows,
            "bad_rows_shown": [
                {"line": row.line, "problem": row.problem} for row in self.bad_rows_shown
            ],
            "seconds": round(self.seconds, 3),
        }


class Sender(Protocol):
    """Delivers one batch and returns (accepted, duplicates) once it is durable.

    Raises :class:`BatchRefused` where the box refuses readings of the batch for what they are.
    """

    def __call__(self, readings: list[dict[str, Any]]) -> tuple[int, int]: ...


class BatchRefused(ImportFailed):
    """The box refused a batch; ``problems`` gives what it said by position in the batch."""

    def __init__(self, message: str, problems: dict[int, str]) -> None:
        super().__init__(message)
        self.problems = problems


def check_file(source: CsvSource, *, skip_bad: bool) -> Report:
    """Read the whole file once before anything is sent; return how much is in it.

    Raises ImportFailed, which names the lines, for rows that are no reading unless
    *skip_bad*, and for a file without any.
    """
    report = Report(readings=0)
    for row in source:
        if isinstance(row, Row):
            report.readings += 1
            continue
        report.bad_rows += 1
        if len(report.bad_rows_shown) < _BAD_ROWS_SHOWN:
            report.bad_rows_shown.append(row)
    if report.bad_rows and not skip_bad:
        raise ImportFailed(
            f"{source.name}: {report.bad_rows:,} of "
            f"{counted(report.readings + report.bad_rows, 'row')} cannot be read, "
            f"nothing was sent:\n{describe_bad_rows(report)}\n"
            "mend them, or import the rest with --skip-bad"
        )
    if not report.readings:
        raise ImportFailed(f"{source.name}: no reading below the header; nothing was sent")
    return report


def describe_bad_rows(report: Report) -> str:
    """Return the bad rows as lines of text, the first few spelled out."""
    lines = [f"  line {row.line}: {row.problem}" for row in report.bad_rows_shown]
    more = report.bad_rows - len(report.bad_rows_shown)
    return "\n".join([*lines, f"  and {more:,} more"] if more else lines)


def import_file(
    source: CsvSource,
    target: Target,
    send: Sender,
    *,
    batch_size: int,
    skip_bad: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Report:
    """Send every reading of *source* in file order; return what became of them.

    *on_progress* is called after each acknowledged batch. Takes memory for the file's distinct
    readings (about 150 bytes each), to tell the occurrences of equal rows apart. Raises
    ImportFailed, which says up to which line the box has everything.
    """
    started = time.monotonic()
    report = check_file(source, skip_bad=skip_bad)
    progress = Progress(total=report.readings)
    on_progress(progress)
    for batch in _batches(source, target, batch_size):
        try:
            accepted, duplicates = send([reading for _, reading in batch])
        except BatchRefused as error:
            raise ImportFailed(
                _where(source, progress, _refusal_with_line_numbers(error, batch))
            ) from error
        except ImportFailed as error:
            raise ImportFailed(_where(source, progress, str(error))) from error
        progress.accepted += accepted
        progress.duplicates += duplicates
        progress.line = batch[-1][0]
        on_progress(progress)
    report.accepted, report.duplicates = progress.accepted, progress.duplicates
    report.seconds = time.monotonic() - started
    return report


def _batches(
    source: CsvSource, target: Target, size: int
) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Yield the file's readings with their lines, *size* at a time."""
    seen: dict[tuple[datetime, float], int] = {}
    batch: list[tuple[int, dict[str, Any]]] = []
    for row in source:
        if isinstance(row, BadRow):
            continue
        value = row.value + 0.0  # -0.0 is 0.0, as it is for the box
        occurrence = seen.get((row.recorded_at, value), 0)
        seen[row.recorded_at, value] = occurrence + 1
        batch.append((row.line, _reading(target, row.recorded_at, value, occurrence)))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _reading(target: Target, moment: datetime, value: float, occurrence: int) -> dict[str, Any]:
    identity = content_id(
        _ORIGIN, target.device, target.metric, moment, value, target.unit, occurrence
    )
    reading = {
        "id": str(identity),
        "device": target.device,
        "metric": target.metric,
        "value": value,
        "recorded_at": format_moment(moment),
    }
    return reading if target.unit is None else {**reading, "unit": target.unit}


def _where(source: CsvSource, progress: Progress, problem: str) -> str:
    return f"{problem}\n{describe_position(source, progress)}"


def describe_position(source: CsvSource, progress: Progress) -> str:
    """Return up to where the box has everything, and how to go on from there."""
    return (
        f"{progress.done:,} of {counted(progress.total, 'reading')} "
        f"{'is' if progress.total == 1 else 'are'} stored (up to line {progress.line} "
        f"of {source.name}); run the same command again for the rest, nothing doubles"
    )


def _refusal_with_line_numbers(error: BatchRefused, batch: list[tuple[int, dict[str, Any]]]) -> str:
    """Return what the box said, with lines of the file for positions in the batch."""
    lines = [
        f"  line {batch[position][0]}: {problem}"
        for position, problem in sorted(error.problems.items())
        if 0 <= position < len(batch)
    ]
    shown = lines[:_BAD_ROWS_SHOWN]
    if len(lines) > len(shown):
        shown.append(f"  and {len(lines) - len(shown):,} more")
    return "\n".join([str(error), *shown])
