# SPDX-License-Identifier: Apache-2.0
"""Importing: nothing doubled, nothing lost, and every stop says where it was."""

from pathlib import Path
from typing import Any

import pytest

from edgepaas.telemetry.importer import importer
from edgepaas.telemetry.importer.failures import ImportFailed
from edgepaas.telemetry.importer.first_look import describe_bad_rows
from edgepaas.telemetry.importer.importer import BatchRefused, Progress, Target, import_file
from edgepaas.telemetry.importer.reader.csv_file import CsvFile
from edgepaas.telemetry.importer.reader.csv_source import CsvSource
from edgepaas.telemetry.importer.reader.dialect import understand
from edgepaas.telemetry.importer.reader.given import Given
from tests.support.machine_readings import SOME

SAMPLE = Path(__file__).resolve().parents[1] / "support" / "stepping_clock.csv"
TARGET = Target("machine")


def source_of(path: Path, metric: str = "temperature") -> CsvSource:
    csv = CsvFile(path)
    return CsvSource(csv, understand(csv, Given(columns={"value": metric})))


class FakeBox:
    """Keeps readings by id, as a box does."""

    def __init__(self, *, fails_after: int | None = None, loses_answer: bool = False) -> None:
        self.stored: dict[str, dict[str, Any]] = {}
        self.requests = 0
        self._fails_after, self._loses_answer = fails_after, loses_answer

    def __call__(self, readings: list[dict[str, Any]]) -> tuple[int, int]:
        self.requests += 1
        failing = self._fails_after is not None and self.requests > self._fails_after
        if failing and not self._loses_answer:
            raise ImportFailed("the box is away")
        before = len(self.stored)
        self.stored.update((reading["id"], reading) for reading in readings)
        if failing:
            raise ImportFailed("the answer never came")
        accepted = len(self.stored) - before
        return accepted, len(readings) - accepted


def run(path: Path, box: FakeBox, **options: Any) -> importer.Report:
    return import_file(source_of(path), TARGET, box, batch_size=7, **options)


def test_times_that_occur_twice_with_different_values_are_two_readings() -> None:
    box = FakeBox()
    report = run(SAMPLE, box)
    assert (report.look.readings, report.accepted, report.duplicates) == (45, 45, 0)
    moments = [reading["recorded_at"] for reading in box.stored.values()]
    assert len(moments) - len(set(moments)) == 12


def test_importing_again_stores_nothing() -> None:
    box = FakeBox()
    run(SAMPLE, box)
    again = run(SAMPLE, box)
    assert (again.accepted, again.duplicates) == (0, 45)


def test_a_long_file_has_all_its_readings_and_12_of_them_share_their_time(
    machine_file: Path,
) -> None:
    box = FakeBox()
    report = import_file(source_of(machine_file), TARGET, box, batch_size=500)
    assert (report.accepted, len(box.stored)) == (SOME, SOME)
    moments = {reading["recorded_at"] for reading in box.stored.values()}
    assert len(moments) == SOME - 12
    assert import_file(source_of(machine_file), TARGET, box, batch_size=333).duplicates == SOME


def test_equal_rows_of_one_file_stay_as_many_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "equal.csv"
    file.write_text("timestamp,value\n" + "2024-05-01 12:00:00,0.0\n" * 3)
    box = FakeBox()
    assert run(file, box).accepted == 3
    file.write_text("timestamp,value\n" + "2024-05-01T12:00:00Z,-0\n" * 4)
    report = run(file, box)
    assert (report.accepted, report.duplicates) == (1, 3), "written otherwise, the same readings"


def test_device_metric_and_unit_are_part_of_what_a_reading_is() -> None:
    box = FakeBox()
    units: list[dict[str, str]] = [{}, {"t": "°C"}, {"t": ""}]
    import_file(source_of(SAMPLE), TARGET, box, batch_size=100)
    for one in units:
        import_file(source_of(SAMPLE, "t"), Target("b", one), box, batch_size=100)
    assert len(box.stored) == 4 * 45


@pytest.mark.parametrize("loses_answer", [False, True])
def test_an_import_that_broke_off_goes_on_without_doubling(loses_answer: bool) -> None:
    box = FakeBox(fails_after=2, loses_answer=loses_answer)
    with pytest.raises(ImportFailed, match=r"14 of 45 readings are stored \(up to line 15 of"):
        run(SAMPLE, box)
    box._fails_after = None
    run(SAMPLE, box)
    assert len(box.stored) == 45


def test_a_bad_row_stops_the_import_before_anything_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(SAMPLE.read_text() + "2014-01-07 08:00:00,warm\n")
    box = FakeBox()
    with pytest.raises(ImportFailed, match=r"1 of 46 rows.*\n  line 47: value 'warm'.*\n.*skip"):
        run(file, box)
    assert box.requests == 0


def test_bad_rows_are_counted_and_listed_when_they_are_to_be_skipped(tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(SAMPLE.read_text() + "x,y\n" * 30)
    report = run(file, FakeBox(), skip_bad=True)
    assert (report.accepted, report.look.bad_rows) == (45, 30)
    assert report.look.bad_rows_shown[0].line == 47
    assert describe_bad_rows(report.look).endswith("and 10 more")


def test_a_file_without_readings_is_no_success(tmp_path: Path) -> None:
    file = tmp_path / "empty.csv"
    file.write_text("timestamp,value\n")
    with pytest.raises(ImportFailed, match="no reading below the header"):
        run(file, FakeBox())


def test_what_the_box_refuses_is_named_by_its_line() -> None:
    def refuse(readings: list[dict[str, Any]]) -> tuple[int, int]:
        raise BatchRefused("answered 422", {3: "value: too warm"})

    with pytest.raises(ImportFailed, match="line 5: value: too warm"):
        import_file(source_of(SAMPLE), TARGET, refuse, batch_size=10)


def test_progress_is_told_after_each_acknowledged_batch() -> None:
    seen: list[int] = []

    def hear(progress: Progress) -> None:
        seen.append(progress.done)

    run(SAMPLE, FakeBox(), on_progress=hear)
    assert seen == [0, 7, 14, 21, 28, 35, 42, 45]
