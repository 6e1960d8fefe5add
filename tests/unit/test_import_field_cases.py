# SPDX-License-Identifier: Apache-2.0
"""Files from the field that made an importer store plausible numbers, or lose rows in silence."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.import_runs import keeping_box, run_import

HEADER = "timestamp,value,note"


def minutes(count: int, **notes: str) -> str:
    """A file of *count* readings, a minute apart; *notes* by ``line_N``."""
    lines = [HEADER]
    for minute in range(count):
        note = notes.get(f"line_{minute + 2}", "ok")
        moment = datetime(2026, 10, 1) + timedelta(minutes=minute)
        lines.append(f"{moment:%Y-%m-%dT%H:%M:%SZ},{minute},{note}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (minutes(2000, line_12='"2 inch valve'), "line 12: the quote opened in line 12 is never"),
        (minutes(20_000, line_12='"open'), "line 12: the quote opened in line 12 is never closed"),
        (minutes(60, line_12='"a', line_40='"b'), "line 12: the quote opened in line 12 is not"),
        ("timestamp,value\n2026-11-01 12:00,21,5\n", "line 2: 3 cells where the header has 2"),
        (f"{HEADER}\n2026-11-01 12:00,7,a, b\n", "line 2: 4 cells where the header has 3"),
        (f"{HEADER}\n2026-11-01 12:00,7\n", "line 2: 2 cells where the header has 3"),
        ("timestamp,value,value\n2026-11-01T12:00:00Z,21.5,48.0\n", "'value' occurs 2 times"),
    ],
    ids=["quote", "long", "two-quotes", "decimal-comma", "comma-in-note", "short", "twice"],
)  # fmt: skip
def test_what_is_in_doubt_is_named_and_nothing_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    file = tmp_path / "readings.csv"
    file.write_text(content)
    with keeping_box() as box:
        assert run_import(file) == 1
    assert said in capsys.readouterr().err
    assert box.requests == 0


@pytest.mark.parametrize(
    "notes",
    [
        {"line_12": '"2 inch valve'},
        {"line_12": '"door', "line_40": '"window'},
        {"line_12": '"door', "line_40": 'shut"'},
        {"line_12": "a, b", "line_13": '"x" y'},
    ],
)
def test_each_line_is_stored_or_named(tmp_path: Path, notes: dict[str, str]) -> None:
    file = tmp_path / "readings.csv"
    file.write_text(minutes(20_000, **notes))
    spoilt = {int(name.removeprefix("line_")) for name, note in notes.items() if note != 'shut"'}
    with keeping_box() as box:
        assert run_import(file, "--skip-bad", "--batch", "10000") == 0
    assert box.values() == [minute for minute in range(20_000) if minute + 2 not in spoilt]


def test_the_repeated_hour_is_read_newest_first(tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    times = [
        "03:30",
        "03:15",
        "03:00",
        "02:45",
        "02:30",
        "02:15",
        "02:00",
        "02:45",
        "02:30",
        "02:15",
        "02:00",
        "01:45",
    ]
    values = [150, 135, 120, 105, 90, 75, 60, 45, 30, 15, 0, -15]
    rows = [f"2026-10-25 {time},{value}" for time, value in zip(times, values, strict=True)]
    file.write_text("\n".join(["timestamp,value", *rows]) + "\n")
    with keeping_box() as box:
        assert run_import(file, "--timezone", "Europe/Vienna") == 0
    at = {time: value for time, _, value in box.stored()}
    assert at["2026-10-25T00:00:00Z"] == 0
    assert at["2026-10-25T00:45:00Z"] == 45
    assert at["2026-10-25T01:00:00Z"] == 60
    assert box.values() == sorted(values)


def test_times_that_the_zone_does_not_have_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "readings.csv"
    file.write_text(
        "timestamp,value\n2026-03-29 01:45,1\n2026-03-29 02:15,2\n2026-03-29 02:45,3\n"
        "2026-03-29 03:15,4\n"
    )
    with keeping_box() as box:
        assert run_import(file, "--timezone", "Europe/Vienna") == 1
    said = capsys.readouterr().err
    assert "line 3: time '2026-03-29 02:15': Europe/Vienna does not have this time" in said
    assert "line 4: " in said
    assert box.requests == 0


def test_a_last_line_without_its_end_waits_for_the_next_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "readings.csv"
    with keeping_box() as box:
        file.write_text("timestamp,value\n2026-11-01T12:00:00Z,21.5\n2026-11-01T12:01:00Z,2")
        assert run_import(file) == 0
        assert "line 3 has no line end" in capsys.readouterr().out
        file.write_text("timestamp,value\n2026-11-01T12:00:00Z,21.5\n2026-11-01T12:01:00Z,21.7\n")
        assert run_import(file) == 0
    assert box.values() == [21.5, 21.7]


def test_the_forms_of_time_are_taken_or_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "readings.csv"
    file.write_text(
        "timestamp,value\n2026-11-01T12:00:00+0100,21.5\n2026-11-01T12:00:00+01,21.6\n"
        "2026-11-01T12:00:00.123+0100,21.7\n2026-11-01 12:00:00,123,21.5\n1793534400,21.5\n"
        "1793534460000,21.6\n2016-12-31T23:59:60Z,1\n"
    )
    with keeping_box() as box:
        assert run_import(file) == 1
        said = capsys.readouterr().err
        assert "line 5: 3 cells where the header has 2" in said
        assert "line 6: time '1793534400': epoch-s, where the file is iso" in said
        assert "line 7: time '1793534460000': epoch-ms, where the file is iso" in said
        assert "line 8: time '2016-12-31T23:59:60Z': a leap second" in said
        assert box.requests == 0
        assert run_import(file, "--skip-bad") == 0
    assert box.stored() == [
        ("2026-11-01T11:00:00.123Z", "m", 21.7),
        ("2026-11-01T11:00:00Z", "m", 21.5),
        ("2026-11-01T11:00:00Z", "m", 21.6),
    ]
