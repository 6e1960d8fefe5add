# SPDX-License-Identifier: Apache-2.0
"""An import with one promise broken on purpose is found out by counting what the file holds."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from edgepaas.telemetry.importer.reader import csv_source, lines, local_times
from tests.support.import_runs import keeping_box, run_import
from tests.support.written_tables import local_lines

ZONE = "Europe/Vienna"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2026, 10, 24, 22, tzinfo=UTC)
MOMENTS = [START + timedelta(minutes=15) * place for place in range(30)]
#: What is written over rows of the file, by their place.
SPOILT = {3: "2026-10-25 00:45,21,5", 7: '"2026-10-25 01:45,5', 9: "2026-10-25 02:15"}


def difference(folder: Path) -> list[str]:
    """Import a spoilt file, and return what is neither stored as it was nor reported."""
    rows = local_lines(MOMENTS, ZoneInfo(ZONE))
    for place, text in SPOILT.items():
        rows[place] = text
    file = folder / "readings.csv"
    file.write_text("\n".join(["timestamp,value", *rows, "2026-10-25 06:30,2"]))
    with keeping_box() as box:
        run_import(file, "--timezone", ZONE, "--skip-bad")
    held = {
        (moment - EPOCH) // timedelta(minutes=1)
        for place, moment in enumerate(MOMENTS)
        if place not in SPOILT
    }
    stored = {value for _, _, value in box.stored()}
    wrong = [
        f"{value} at {time}"
        for time, _, value in box.stored()
        if time != f"{EPOCH + timedelta(minutes=value):%Y-%m-%dT%H:%M:%SZ}"
    ]
    why = folder / "readings.left-out.txt"
    named = why.read_text().count("\n") if why.exists() else 0
    return [
        *wrong,
        *(f"{value} is missing" for value in held - stored if named < len(rows) - len(stored)),
        *(f"{value} is not in the file" for value in stored - held),
        *(["spoilt rows that nobody named"] if named < len(SPOILT) else []),
    ]


def lax_cells(line: str, delimiter: str, *, literal: bool = False) -> list[str]:
    """What goes past the second cell, or is not there, is none of the reader's business."""
    return [*line.replace('"', "").split(delimiter), "0"][:2]


def every_line_ends(self: Any) -> lines.Line | None:
    line = _READ(self)
    return line and lines.Line(line.number, line.text, True, line.raw)


def first_pass(self: Any, rows: list[Any]) -> None:
    self._folds.update((row.line, 0) for row in rows)


_READ = lines.LineReader._read

WEAKNESSES: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "lax cells": (csv_source, "split_cells", lax_cells),
    "half lines": (lines.LineReader, "_read", every_line_ends),
    "one pass of the repeated hour": (local_times.LocalTimes, "_settle_night", first_pass),
}


def test_the_real_import_adds_up(tmp_path: Path) -> None:
    assert difference(tmp_path) == []


@pytest.mark.parametrize("name", WEAKNESSES)
def test_a_weakened_import_is_found_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*WEAKNESSES[name])
    assert difference(tmp_path) != []
