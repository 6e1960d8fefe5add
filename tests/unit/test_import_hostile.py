# SPDX-License-Identifier: Apache-2.0
"""Files that look like readings and are others: named or read right, and never read wrong."""

import json
import os
import threading
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from edgepaas.telemetry.importer.delivery import HttpSender
from edgepaas.telemetry.importer.importer import BrokenOff, Target, import_file
from edgepaas.telemetry.importer.reader.csv_file import CsvFile
from edgepaas.telemetry.importer.reader.csv_source import CsvSource, ReadingOptions
from edgepaas.telemetry.importer.reader.dialect import understand
from edgepaas.telemetry.importer.reader.given import Given
from tests.support.import_runs import keeping_box, run_import

Captured = pytest.CaptureFixture[str]
NOON = "2026-11-01T12:00:00Z"
H = "timestamp,value\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"{H}202611011200,1\n202611011201,2\n", "'%Y%m%d%H%M'"),
        (f"{H}2611011200,1\n2611011215,2\n", "'%y%m%d%H%M'"),
        (f"{H}261101120000,1\n261101121500,2\n", "'%y%m%d%H%M%S'"),
        (f"{H}20261101120000,1\n", "a date without marks"),
        (f"{H}01.11.26 12:00,1\n", "a year of two digits"),
        (f"{H}26-11-01 12:00,1\n", "a year of two digits"),
        (f"{H}1793534400000,1\n1793534460000,2\n1793534520,3\n", "line 4: time '1793534520'"),
        (f"{H}1793534400,1\n0,2\n1793534520,3\n", "line 3: time '0'"),
        (f"{H}11/13/2026 1:15 PM,1\n11/13/2026 1:30 PM,2\n11/13/2026 2:15,3\n", "no AM or PM"),
        (f"{H}13/11/2026 13:15,1\n13/11/2026 13:30,2\n13/11/2026 2:15 PM,3\n", "names AM or PM"),
        (f"{H}03.25.2026 12:00,1\n03.12.2026 12:00,2\n", "'03.12.2026 12:00' has its day first"),
        (f"timestamp,value,\n{NOON},21,5\n", "line 2: '5' stands in a column without a name"),
        (f"timestamp,note,,value\n{NOON},a,b,5\n", "'b' stands in a column without a name"),
        ("timestamp;value\n2026-11-01 12:00;12.345\n", "--decimal"),
        ("timestamp\tvalue\n2026-11-01 12:00\t1.234\n2026-11-01 12:15\t12.345\n", "--decimal"),
        (f"{H}{NOON},21.5\n{NOON},1 234.5\n", "--thousands"),
        (f"{H}{NOON},21.5\n{NOON},1'234.5\n", "--thousands"),
        (f"{H}{NOON},21.5\n{NOON},\n", "line 3: value '': empty: --no-value ''"),
        (f"{H}{NOON},1\nTotal,1\n", "line 3: time 'Total'"),
        (f"{H},°C\n{NOON},1\n", "line 2: time ''"),
        (f'timestamp,"value\n{NOON},1\n', "a quote in it is not closed"),
        (f"Logger 5\nSerial,123\n\n{H}{NOON},1\n", "line 4 has them: --header-line 4"),
        (f"{H}{NOON},1\r{NOON},2\n{NOON},3\n", "a carriage return in the middle"),
        (f"{H}{NOON},1\n\ufeff{H}{NOON},2\n", "line 3: time '\\ufefftimestamp'"),
        (f"{H}{NOON},1\n\0\0\0\n{NOON},2\n", "line 3: bytes that are no text, or NUL"),
    ],
)
def test_what_may_be_something_else_is_named_and_nothing_is_sent(
    tmp_path: Path, capsys: Captured, content: str, said: str
) -> None:
    file = tmp_path / "r.csv"
    file.write_bytes(content.encode())
    with keeping_box() as box:
        assert run_import(file) == 1
    assert said in capsys.readouterr().err
    assert box.requests == 0


@pytest.mark.parametrize(
    ("content", "options", "stored"),
    [
        ("sep=;\ntimestamp;value\n2026-11-01 12:00;21,5\n", [], [(NOON, 21.5)]),
        ('"sep=;"\r\ntimestamp;value\r\n2026-11-01 12:00;21,5\r\n', [], [(NOON, 21.5)]),
        ("sep=#\ntimestamp#value\n2026-11-01 12:00#21.5\n", [], [(NOON, 21.5)]),
        (f"sep=,\nLogger\n{H}{NOON},1\n", ["--header-line", "3"], [(NOON, 1)]),
        (f"Logger 5\nSerial,1\n\n{H}{NOON},1\n", ["--header-line", "4"], [(NOON, 1)]),
        (f",timestamp,value\n0,{NOON},21\n1,{NOON},22\n", [], [(NOON, 21), (NOON, 22)]),
        (f"timestamp,value,\n{NOON},21,\n", [], [(NOON, 21)]),
        ("timestamp;value\n2026-11-01 12:00;1.234\n", ["--decimal", "point"], [(NOON, 1.234)]),
        ("timestamp;value\n2026-11-01 12:00;1.234\n", ["--decimal", "comma", "--thousands", "."],
         [(NOON, 1234)]),
        ("timestamp;value\n2026-11-01 12:00;1.234\n2026-11-01 12:00;0.5\n", [],
         [(NOON, 0.5), (NOON, 1.234)]),
        (f"{H}202611011200,1\n", ["--time-format", "%Y%m%d%H%M"], [(NOON, 1)]),
        (f"{H}2611011200,1\n", ["--time-format", "epoch-s"], [("2052-09-27T00:53:20Z", 1)]),
        (f"{H}1711011200,1\n1793534400,2\n", [],
         [("2024-03-21T08:53:20Z", 1), (NOON, 2)]),
        (f"{H}0,2\n", ["--time-format", "epoch-ms"], [("1970-01-01T00:00:00Z", 2)]),
        (f"{H}11-01-26 12:00 PM,1\n", ["--time-format", "%m-%d-%y %I:%M %p"], [(NOON, 1)]),
        (f"{H}{NOON},12.345\n", [], [(NOON, 12.345)]),
        (f"\ufeff\ufeff{H}{NOON},1\n", [], [(NOON, 1)]),
    ],
)  # fmt: skip
def test_what_can_be_told_is_read(
    tmp_path: Path, content: str, options: list[str], stored: list[tuple[str, float]]
) -> None:
    file = tmp_path / "r.csv"
    file.write_bytes(content.encode())
    with keeping_box() as box:
        assert run_import(file, *options) == 0
    assert [(moment, value) for moment, _, value in box.stored()] == stored


@pytest.mark.parametrize(
    "pattern",
    ["%H:%M", "%d.%m. %H:%M", "%Y-%M-%d", "%Y-%m-%d %H:%m", "%Y-%m-%d %I:%M", "%m/%y %H:%M",
     "%Y-%m-%d %H:%M %p", "%Y-%m-%d %H:%M %Z", "%Y-%m-%d %", "%Q"],
)  # fmt: skip
def test_a_pattern_that_passes_over_a_part_of_a_time_is_a_usage_error(
    tmp_path: Path, capsys: Captured, pattern: str
) -> None:
    file = tmp_path / "r.csv"
    file.write_text(f"{H}{NOON},1\n")
    with keeping_box() as box:
        assert run_import(file, "--time-format", pattern) == 2
    assert "--time-format" in capsys.readouterr().err
    assert box.requests == 0


def test_the_first_look_names_the_columns_that_are_not_imported(
    tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / "r.csv"
    file.write_text(f",timestamp,value,note\n0,{NOON},1,x\n")
    assert run_import(file, "--dry-run") == 0
    assert "other columns  column 1, without a name, note\n" in capsys.readouterr().out


def source_of(csv: CsvFile, zone: str | None = None) -> CsvSource:
    options = ReadingOptions(zone=ZoneInfo(zone) if zone else None)
    return CsvSource(csv, understand(csv, Given(columns={"value": "m"})), options)


def test_what_is_written_meanwhile_is_left_for_the_next_run(tmp_path: Path) -> None:
    """A repeated hour that goes on between two passes would be put into its first pass."""
    file = tmp_path / "r.csv"
    night = [f"2026-10-25 0{hour}:{minute:02},{hour}\n" for hour in (1, 2) for minute in (0, 30)]
    file.write_text(H + "".join(night))
    more = "2026-10-25 02:00,9\n2026-10-25 02:30,9\n2026-10-25 03:00,9\n"
    with keeping_box() as box, CsvFile(file) as csv:
        source = source_of(csv, "Europe/Vienna")
        with file.open("a") as writer:
            writer.write(more)
        rows = list(source)
        assert len(rows) == 4
        file.rename(tmp_path / "r.csv.1")
        file.write_text(f"{H}2026-10-26 00:00,7\n")
        assert [str(row) for row in source] == [str(row) for row in rows]
    (tmp_path / "r.csv.1").rename(file)
    with keeping_box() as box:
        assert run_import(file, "--timezone", "Europe/Vienna") == 0
    assert [moment[11:16] for moment, _, _ in box.stored()] == [
        "23:00", "23:30", "00:00", "00:30", "01:00", "01:30", "02:00",
    ]  # fmt: skip


@pytest.mark.parametrize("change", ["cut", "other"])
def test_a_file_that_is_another_one_afterwards_is_no_success(tmp_path: Path, change: str) -> None:
    file = tmp_path / "r.csv"
    rows = [f"2026-11-01 12:{minute:02},{minute}\n" for minute in range(60)]
    file.write_text(H + "".join(rows))

    def send(readings: list[dict[str, object]]) -> tuple[int, int]:
        if change == "cut":
            os.truncate(file, len(H) + 20 * len(rows[0]))
        else:
            with file.open("r+") as writer:
                writer.seek(len(H) + 5900 * len(rows[0]))
                writer.write("2027")
        return len(readings), 0

    rows *= 100
    file.write_text(H + "".join(rows))
    with CsvFile(file) as csv, pytest.raises(BrokenOff, match="is another file than when"):
        import_file(source_of(csv), Target("d"), send, batch_size=10)


def test_a_pipe_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the shell's <(zcat readings.csv.gz), which can be read only once."""
    monkeypatch.chdir(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(f"{H}{NOON},1\nx,2\n{NOON},3\n",))
    writer.start()
    with keeping_box() as box:
        assert run_import(pipe, "--skip-bad") == 0
    writer.join(60)
    assert box.values() == [1, 3]
    assert (tmp_path / "standard-input.left-out.csv").read_text() == f"{H}x,2\n"


def test_rows_and_reasons_never_take_the_place_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text(f"sep=,\n{H}{NOON},1\nx,2\n")
    (tmp_path / "bad.txt").write_text("a note of mine\n")
    with keeping_box():
        for name in ("bad.txt", "bad.csv", "bad.csv"):
            assert run_import(file, "--skip-bad", "--left-out", str(tmp_path / name)) == 0
    held = {one.name: one.read_text() for one in tmp_path.iterdir() if one != file}
    left, why = (
        f"sep=,\n{H}x,2\n",
        "line 4: time 'x': not a date and time like 2024-05-01T12:30:00Z\n",
    )
    assert held == {
        "bad.txt": "a note of mine\n",
        "bad-2.txt": left,
        "bad-2.reasons.txt": why,
        "bad-3.csv": left,
        "bad-3.txt": why,
    }


def test_what_was_left_out_is_mended_and_completes_the_file(tmp_path: Path) -> None:
    """Above the header there are lines, and the file has another encoding than the usual one."""
    file = tmp_path / "r.csv"
    good = [f"2026-11-01 12:{minute:02};{minute},5;Küche\n" for minute in range(50)]
    bad = [row.replace(";", ";x", 1) if place % 7 == 3 else row for place, row in enumerate(good)]
    head = "Zähler 7\ntimestamp;value;Ort\n"
    file.write_text(head + "".join(bad), encoding="latin-1")
    with keeping_box() as box:
        assert run_import(file, "--header-line", "2", "--skip-bad") == 0
        left = tmp_path / "r.left-out.csv"
        left.write_text(left.read_text("latin-1").replace(";x", ";"), encoding="latin-1")
        assert run_import(left, "--header-line", "2") == 0
    assert box.values() == [minute + 0.5 for minute in range(50)]


def test_a_box_that_has_less_than_it_was_sent_is_no_success(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "r.csv"
    file.write_text(H + "".join(f"2026-11-01 12:{minute:02},1\n" for minute in range(20)))
    counts = iter([(10, 0), (9, 0)])
    monkeypatch.setattr(HttpSender, "deleted_ids", lambda *_: frozenset())
    monkeypatch.setattr(HttpSender, "__call__", lambda *_: next(counts))
    assert run_import(file, "--batch", "10", "--json") == 1
    captured = capsys.readouterr()
    assert "the box says that it has 9 of the 10 readings that it was sent" in captured.err
    report = json.loads(captured.out)
    assert (report["sent"], report["accepted"], report["line"]) == (True, 10, 11)
    assert "9 of the 10" in report["failed"]
