# SPDX-License-Identifier: Apache-2.0
"""Importing a CSV file into a running box over HTTP, resumable without doubling.

Each row's id is derived from what it says and which occurrence of exactly that it is in
the file, so a row has the same id in every run: what a lost answer, a restart of the box
or a second import sends again is there already, and two equal rows of one file stay two.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from edgepaas.app.models import content_id
from edgepaas.telemetry.importer.failures import ImportFailed, counted
from edgepaas.telemetry.importer.first_look import (
    BAD_ROWS_SHOWN,
    FirstLook,
    describe_bad_rows,
    look_at,
    odd_things,
    understood,
)
from edgepaas.telemetry.importer.left_out import LeftOutFile
from edgepaas.telemetry.importer.reader.csv_source import CsvSource, Row
from edgepaas.telemetry.times import format_moment

#: Fixed for ever: ids already in databases were made with it.
_ORIGIN = "edgepaas.telemetry.import"


@dataclass(frozen=True)
class Target:
    """What the rows of a file are readings of: a device, and units by the metrics' names."""

    device: str
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Progress:
    """How far an import has come; ``line`` is the last one that the box has acknowledged."""

    total: int
    accepted: int = 0
    duplicates: int = 0
    line: int = 1
    #: Readings that an operator deleted, which are not stored again.
    deleted: int = 0

    @property
    def done(self) -> int:
        """Readings that the box has acknowledged, new, there already or deleted."""
        return self.accepted + self.duplicates + self.deleted


@dataclass
class Report:
    """What an import did, or would do: *accepted* and *duplicates* are what the box has."""

    source: CsvSource
    look: FirstLook
    accepted: int = 0
    duplicates: int = 0
    #: Readings that an operator deleted from the box, and that stay so.
    deleted: int = 0
    #: The file with the rows that were left out.
    left_out: Path | None = None
    #: The last line of which the box has everything.
    line: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the report for programs."""
        look = self.look
        return {
            "rows": look.rows,
            "readings": look.readings,
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "deleted": self.deleted,
            "line": self.line or None,
            "bad_rows": look.bad_rows,
            "bad_rows_shown": [
                {"line": row.line, "problem": row.problem} for row in look.bad_rows_shown
            ],
            "left_out": None if self.left_out is None else str(self.left_out),
            "unfinished_line": look.unfinished or None,
            "without_value": look.without_value,
            "empty_lines": look.empty_lines,
            "understood": {
                what.replace(" ", "_"): found
                for what, found in understood(self.source, look).items()
            },
            "odd": odd_things(self.source, look),
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


class Refused(ImportFailed):
    """Rows are in doubt, and nothing was sent; ``look`` is what the file holds."""

    def __init__(self, message: str, look: FirstLook) -> None:
        super().__init__(message)
        self.look = look


class BrokenOff(ImportFailed):
    """Some of the file is stored, and the rest is not; ``report`` says how much."""

    def __init__(self, problem: str, report: "Report", progress: "Progress") -> None:
        super().__init__(f"{problem}\n{describe_position(report.source, progress)}")
        self.report = report


def check(source: CsvSource, look: FirstLook, *, skip_bad: bool) -> None:
    """Raise Refused, which names the lines, where the file is not to be imported as it is."""
    if look.bad_rows and not skip_bad:
        wide = len(source.dialect.metrics) > 1
        raise Refused(
            f"{source.csv.name}: {look.bad_rows:,} of {counted(look.rows + look.bad_rows, 'row')} "
            f"cannot be read, nothing was sent:\n{describe_bad_rows(look)}\n"
            "mend them, say how the file is written (--dry-run shows what was understood)"
            f"{', choose columns with --value-column' if wide else ''}, or import the rest with "
            "--skip-bad",
            look,
        )
    if look.zoned and look.local and source.options.zone is None:
        raise Refused(
            f"{source.csv.name}: {look.local:,} of {counted(look.rows, 'time')} name no zone (the "
            f"first in line {look.first_local}) and the others do, nothing was sent: say theirs "
            "with --timezone",
            look,
        )
    if not look.readings:
        left = f" but line {look.unfinished}, which has no line end" if look.unfinished else ""
        raise Refused(
            f"{source.csv.name}: no reading below the header{left}; nothing was sent"
            f"{' (--complete takes it)' if left else ''}",
            look,
        )


def import_file(
    source: CsvSource,
    target: Target,
    send: Sender,
    *,
    batch_size: int,
    skip_bad: bool = False,
    left_out: Path | None = None,
    deleted: Callable[[], frozenset[str]] = frozenset,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Report:
    """Send every reading of *source* in file order; return what became of them.

    The file is read whole before anything is sent; Refused where a row is in doubt, unless
    *skip_bad*: then such rows are written to the file *left_out*. *deleted* is
    asked for the ids that are not to be stored again. *on_progress* is called after each
    acknowledged batch. Raises ImportFailed; BrokenOff says up to which line the box has
    everything.
    """
    started = time.monotonic()
    wanted = left_out or source.csv.path.with_name(f"{source.csv.path.stem}.left-out.csv")
    with LeftOutFile(wanted, source.dialect) as rest:
        look = look_at(source, on_bad_row=rest.add if skip_bad else None)
        check(source, look, skip_bad=skip_bad)
        report = Report(source, look, left_out=rest.keep())
    looked_at = source.csv.checksum
    progress = Progress(total=look.readings)
    on_progress(progress)
    try:
        _send_all(
            _batches(source, target, batch_size, look),
            send,
            gone=deleted(),
            progress=progress,
            on_progress=on_progress,
        )
        if source.csv.checksum != looked_at or progress.done != look.readings:
            raise ImportFailed(_CHANGED.format(name=source.csv.name))
    except ImportFailed as error:
        raise BrokenOff(str(error), report, progress) from error
    finally:
        report.accepted, report.duplicates = progress.accepted, progress.duplicates
        report.deleted, report.line = progress.deleted, progress.line
        report.seconds = time.monotonic() - started
    return report


_CHANGED = "{name} is another file than when it was first looked at; leave it alone meanwhile"


def _send_all(
    batches: Iterator[list[tuple[int, dict[str, Any]]]],
    send: Sender,
    *,
    gone: frozenset[str],
    progress: Progress,
    on_progress: Callable[[Progress], None],
) -> None:
    """Send what is not among *gone*, keeping *progress*; raises ImportFailed."""
    for rows in batches:
        batch = [(line, reading) for line, reading in rows if reading["id"] not in gone]
        progress.deleted += len(rows) - len(batch)
        if not batch:
            continue
        try:
            accepted, duplicates = send([reading for _, reading in batch])
        except BatchRefused as error:
            raise ImportFailed(_refusal_with_line_numbers(error, batch)) from error
        if accepted + duplicates != len(batch):
            raise ImportFailed(
                f"the box says that it has {accepted + duplicates:,} of the "
                f"{counted(len(batch), 'reading')} that it was sent, up to line {batch[-1][0]}"
            )
        progress.accepted += accepted
        progress.duplicates += duplicates
        progress.line = batch[-1][0]
        on_progress(progress)


def _batches(
    source: CsvSource, target: Target, size: int, look: FirstLook
) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Yield the file's readings with their lines, *size* at a time."""
    batch: list[tuple[int, dict[str, Any]]] = []
    metrics = source.dialect.metrics
    for row in source:
        if not isinstance(row, Row):
            continue
        for place, value in enumerate(row.values):
            if value is None:
                continue
            occurrence = look.occurrences.number(place, row.recorded_at, value)
            reading = _reading(target, metrics[place], row.recorded_at, value, occurrence)
            batch.append((row.line, reading))
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch


def _reading(
    target: Target, metric: str, moment: datetime, value: float, occurrence: int
) -> dict[str, Any]:
    unit = target.units.get(metric)
    identity = content_id(_ORIGIN, target.device, metric, moment, value, unit, occurrence)
    reading = {
        "id": str(identity),
        "device": target.device,
        "metric": metric,
        "value": value,
        "recorded_at": format_moment(moment),
    }
    return reading if unit is None else {**reading, "unit": unit}


def describe_position(source: CsvSource, progress: Progress) -> str:
    """Return up to where the box has everything, and how to go on from there."""
    return (
        f"{progress.done:,} of {counted(progress.total, 'reading')} "
        f"{'is' if progress.total == 1 else 'are'} stored (up to line {progress.line} "
        f"of {source.csv.name}); run the same command again for the rest, nothing doubles"
    )


def _refusal_with_line_numbers(error: BatchRefused, batch: list[tuple[int, dict[str, Any]]]) -> str:
    """Return what the box said, with lines of the file for positions in the batch."""
    lines = [
        f"  line {batch[position][0]}: {problem}"
        for position, problem in sorted(error.problems.items())
        if 0 <= position < len(batch)
    ]
    shown = lines[:BAD_ROWS_SHOWN]
    if len(lines) > len(shown):
        shown.append(f"  and {len(lines) - len(shown):,} more")
    return "\n".join([str(error), *shown])
