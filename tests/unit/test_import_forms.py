# SPDX-License-Identifier: Apache-2.0
"""How files are written: found out where the file tells, asked for where it does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.import_runs import KeptReadings, keeping_box, run_import

Captured = pytest.CaptureFixture[str]


def imported(
    folder: Path, content: str | bytes, *options: str, metric: str | None = "m"
) -> tuple[int, KeptReadings]:
    file = folder / "readings.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with keeping_box() as box:
        return run_import(file, *options, metric=metric), box


@pytest.mark.parametrize(
    ("times", "options", "moment"),
    [
        (["2026-11-01T12:00:00+0100"], [], "2026-11-01T11:00:00Z"),
        (["2026-11-01 12:00:00 +01:00"], [], "2026-11-01T11:00:00Z"),
        (["2026-11-01 12:00:00 UTC"], [], "2026-11-01T12:00:00Z"),
        (["2026/11/01 9:15"], [], "2026-11-01T09:15:00Z"),
        (['"2026-11-01 12:00:00,123"'], [], "2026-11-01T12:00:00.123Z"),
        (["2026-11-01T12:00:00.1234567Z"], [], "2026-11-01T12:00:00.123456Z"),
        (["2026-10-31 24:00"], [], "2026-11-01T00:00:00Z"),
        (["1793534400"], [], "2026-11-01T12:00:00Z"),
        (["1793534400.25"], [], "2026-11-01T12:00:00.25Z"),
        (["1793534400123"], [], "2026-11-01T12:00:00.123Z"),
        (["1793534400123456"], [], "2026-11-01T12:00:00.123456Z"),
        (["86400"], ["--time-format", "epoch-s"], "1970-01-02T00:00:00Z"),
        (["01.11.2026 12:00"], [], "2026-11-01T12:00:00Z"),
        (["01/11/2026 12:00", "13/11/2026 12:00"], [], "2026-11-01T12:00:00Z"),
        (["11/01/2026 1:15 PM", "11/13/2026 12:00 AM"], [], "2026-11-01T13:15:00Z"),
        (["01/11/2026 12:00"], ["--time-format", "day-first"], "2026-11-01T12:00:00Z"),
        (["01/11/2026 12:00"], ["--time-format", "month-first"], "2026-01-11T12:00:00Z"),
        (["01Nov26 1200"], ["--time-format", "%d%b%y %H%M"], "2026-11-01T12:00:00Z"),
        (["2016-12-31T23:59:60Z"], ["--leap-second"], "2017-01-01T00:00:00Z"),
        (["2026-11-01 12:00"], ["--timezone", "Asia/Kolkata"], "2026-11-01T06:30:00Z"),
    ],
)
def test_a_time_is_what_its_form_says(
    tmp_path: Path, times: list[str], options: list[str], moment: str
) -> None:
    rows = "".join(f"{time},1\n" for time in times)
    status, box = imported(tmp_path, f"timestamp,value\n{rows}", *options)
    assert status == 0
    assert box.stored()[0][0] == moment


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("timestamp,value\n01/11/2026 12:00,1\n", "--time-format day-first or --time-format month"),
        ("timestamp,value\n13/11/2026 12:00,1\n11/13/2026 12:00,1\n", "and the file has both"),
        ("timestamp,value\n2026-11-01 12:00:60,1\n", "a leap second"),
        ("timestamp,value\n2026-11-01 24:15,1\n", "no such date or time"),
        ("timestamp,value\n2026-11-01 13:15 PM,1\n", "no such date or time"),
        ("timestamp;value\n2026-11-01 12:00;1,234\n", "--decimal . or --decimal ,"),
        ("timestamp;value\n2026-11-01 12:00;999\n2026-11-01 12:01;1.001\n", "--decimal"),
        ("timestamp;value\n2026-11-01 12:00;21,5\n2026-11-01 12:01;21.7\n2026-11-01 12:02;2,1\n",
         "line 3: value '21.7': has a '.', where the file's decimal mark is ','"),
        ("timestamp;value\n2026-11-01 12:00;1.234,5\n", "line 2: value '1.234,5': has a '.'"),
        ("timestamp,value\n2026-11-01 12:00Z,1\n2026-11-01 12:01,2\n", "1 of 2 times name no zone"),
        ("timestamp,value\n2026-11-01 12:00,", "no reading below the header but line 2"),
        (b"timestamp,value\n\n" + b"x" * (1 << 20), "longer than 1,048,576 characters"),
    ],
)  # fmt: skip
def test_what_the_file_leaves_open_is_asked_for(
    tmp_path: Path, capsys: Captured, content: str | bytes, said: str
) -> None:
    status, box = imported(tmp_path, content)
    assert status == 1
    assert said in capsys.readouterr().err
    assert box.requests == 0


@pytest.mark.parametrize(
    ("content", "options", "values"),
    [
        ("timestamp;value\n2026-11-01 12:00;21,5\n2026-11-01 12:01;-0,4\n", [], [21.5, -0.4]),
        ('timestamp,value\n2026-11-01 12:00,"21,5"\n', [], [21.5]),
        ("timestamp;value\n2026-11-01 12:00;12345,678\n", [], [12345.678]),
        ("timestamp;value\n2026-11-01 12:00;1,234\n", ["--decimal", "comma"], [1.234]),
        ("timestamp;value\n2026-11-01 12:00;1.234,5\n", ["--thousands", "point"], [1234.5]),
        ("timestamp;value\n2026-11-01 12:00;1\u202f234,5\n", ["--thousands", "blank"], [1234.5]),
        ("timestamp;value\n2026-11-01 12:00;1'234.5\n", ["--thousands", "'"], [1234.5]),
        ("timestamp,value\n2026-11-01 12:00,NaN\n2026-11-01 12:01,2\n", ["--no-value", "NaN"], [2]),
        ("timestamp,value,n\n2026-11-01 12:00,1,\"2 inch\n", ["--quotes", "literal"], [1]),
        ('timestamp,value,n\n2026-11-01 12:00,1,"a\nb, ""c"""\n2026-11-01 12:01,2,d\n',
         ["--quotes", "multiline"], [1, 2]),
        ("timestamp,value\n2026-11-01 12:00,1", ["--complete"], [1]),
        ("date,time,value\n2026-11-01,12:00,1\n",
         ["--time-column", "date", "--time-column", "time"], [1]),
        ("timestamp#value\n2026-11-01 12:00#1\n", ["--delimiter", "#"], [1]),
        ("timestamp,value\n2026-11-01 12:00,1\n".encode("utf-16-le"),
         ["--encoding", "utf-16-le"], [1]),
    ],
)  # fmt: skip
def test_what_the_operator_says_counts(
    tmp_path: Path, content: str | bytes, options: list[str], values: list[float]
) -> None:
    status, box = imported(tmp_path, content, *options)
    assert status == 0
    assert box.values() == values


@pytest.mark.parametrize("more", [[], ["--skip-bad"]])
def test_a_quoted_cell_never_swallows_a_row(
    tmp_path: Path, capsys: Captured, more: list[str]
) -> None:
    """Two stray quotes look like one long cell; a reading inside it proves that they are not."""
    content = (
        'timestamp,value,n\n2026-11-01 12:00,1,"a\n2026-11-01 12:01,2,b\n2026-11-01 12:02,3,c"\n'
    )
    status, box = imported(tmp_path, content, "--quotes", "multiline", *more)
    said = "".join(capsys.readouterr())
    assert "line 2: the quote opened in line 2 would swallow line 3, which is a row" in said
    assert (status, box.values()) == ((0, [2, 3]) if more else (1, []))


WIDE = (
    "Zeit;Vorlauf;Rücklauf;Bemerkung\n"
    "01.11.2026 12:00;61,5;;\n01.11.2026 12:15;61,7;40,2;Filter\n"
)  # fmt: skip


def test_a_wide_file_is_imported_in_one_go(tmp_path: Path) -> None:
    options = ["--wide", "--time-column", "Zeit", "--value-column", "Vorlauf=flow"]
    options += ["--value-column", "Rücklauf", "--unit", "flow=°C"]
    for encoding in ("utf-8", "cp1252"):
        status, box = imported(
            tmp_path, WIDE.encode(encoding), *options, "--encoding", encoding, metric=None
        )
        assert status == 0
        assert [(metric, value) for _, metric, value in box.stored()] == [
            ("flow", 61.5), ("Rücklauf", 40.2), ("flow", 61.7),
        ]  # fmt: skip
        assert [reading.get("unit") for reading in box.by_id.values()] == ["°C", "°C", None]


def test_a_metric_of_a_wide_file_is_the_same_as_one_of_a_narrow_file(tmp_path: Path) -> None:
    one = "timestamp,flow\n2026-11-01 12:00,1\n"
    status, narrow = imported(tmp_path, one, "--value-column", "flow", metric="flow")
    both, wide = imported(
        tmp_path, "timestamp,flow,back\n2026-11-01 12:00,1,1\n", "--wide", metric=None
    )
    assert (status, both) == (0, 0)
    assert narrow.by_id.keys() < wide.by_id.keys()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (WIDE, "value 'Filter' of 'Bemerkung'"),
        (WIDE.encode("cp1252"), "say its --encoding"),
        ("Zeit;Vorlauf;Vorlauf\n01.11.2026 12:00;61,5;3\n", "'Vorlauf' occurs 2 times"),
        ("Zeit\n01.11.2026 12:00\n", "no column beside 'Zeit'"),
    ],
)
def test_a_wide_file_with_other_columns_is_named(
    tmp_path: Path, capsys: Captured, content: str | bytes, said: str
) -> None:
    status, box = imported(tmp_path, content, "--wide", "--time-column", "Zeit", metric=None)
    assert status == 1
    assert said in capsys.readouterr().err
    assert box.requests == 0


def test_the_first_look_shows_what_was_understood_and_sends_nothing(
    tmp_path: Path, capsys: Captured
) -> None:
    rows = "".join(f"01/12/2026 {hour:02}:00;{hour},5\r\n" for hour in range(23, 0, -1))
    content = f"timestamp;value\r\n{rows}30/11/2026 00:00;1,5\r\n30/11/2026 00:00;1,5\r\n2026"
    status, box = imported(tmp_path, content, "--dry-run")
    said = capsys.readouterr().out
    assert (status, box.requests) == (0, 0)
    for part in (
        "25 readings in 25 rows", "encoding       utf-8", "delimiter      ;",
        "time format    day-first", "UTC (--timezone was not given)", "decimal mark   ,",
        "order          newest first", "first          2026-11-30T00:00:00Z",
        "last           2026-12-01T23:00:00Z", "usual step     3600 s",
        "line 2: 2026-12-01T23:00:00Z m 23.5", "line 27 has no line end",
        "1 row with the time of the row before", "a gap of 1 day, 1:00:00 before line 25",
    ):  # fmt: skip
        assert part in said


def test_the_first_look_fails_where_the_import_would(tmp_path: Path, capsys: Captured) -> None:
    content = "timestamp,value\n2026-11-01 12:00,1\n2026-11-01 12:01,1,5\n"
    for options, expected in (([], 1), (["--skip-bad"], 0)):
        status, box = imported(tmp_path, content, "--dry-run", "--json", *options)
        found = json.loads(capsys.readouterr().out)
        assert (status, box.requests, found["sent"]) == (expected, 0, False)
        assert (found["refused"] is None) == (expected == 0)
        assert (found["readings"], found["bad_rows"], found["bad_rows_shown"][0]["line"]) == (
            1,
            1,
            3,
        )
        assert found["understood"]["time_format"] == "iso"
        assert not (tmp_path / "readings.left-out.csv").exists()


def test_a_refusal_is_json_too(tmp_path: Path, capsys: Captured) -> None:
    status, _ = imported(tmp_path, "timestamp,value\n2026-11-01 12:01,1,5\n", "--json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (status, found["sent"], found["bad_rows"]) == (1, False, 1)
    assert "line 2: 3 cells" in found["refused"]


def test_rows_that_were_left_out_are_mended_and_imported(tmp_path: Path) -> None:
    content = "timestamp,value\n2026-11-01 12:00,1\n2026-11-01 12:01,1,5\n"
    rest = tmp_path / "readings.left-out.csv"
    for _ in range(2):
        assert imported(tmp_path, content, "--skip-bad")[0] == 0
        assert rest.read_text() == "timestamp,value\n2026-11-01 12:01,1,5\n"
    assert len(list(tmp_path.iterdir())) == 3, "the same rows once more need no other file"
    rest.write_text("timestamp,value\n2026-11-01 12:01,1.5\n")
    assert imported(tmp_path, content, "--skip-bad")[0] == 0
    assert rest.read_text().endswith("1.5\n"), "what an operator mends is not overwritten"
    assert (tmp_path / "readings.left-out-2.csv").read_text().endswith("1,5\n")
    with keeping_box() as box:
        assert run_import(rest) == 0
    assert box.values() == [1.5]


def test_without_room_for_rows_that_are_left_out_nothing_is_sent(
    tmp_path: Path, capsys: Captured
) -> None:
    content = "timestamp,value\n2026-11-01 12:00,1\n2026-11-01 12:01,1,5\n"
    where = ["--left-out", str(tmp_path / "missing" / "rest.csv")]
    status, box = imported(tmp_path, content, "--skip-bad", *where)
    assert (status, box.requests) == (1, 0)
    assert "name another file with --left-out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--time-format", "swiss"], "--time-format swiss: one of iso, day-first"),
        (["--encoding", "base64"], "--encoding base64"),
        (["--delimiter", "ab"], "--delimiter ab: one character"),
        (["--decimal", ";"], "--decimal ;: point or comma"),
        (["--order", "newest-first"], "give that too"),
        (["--unit", "a", "--unit", "b"], "--unit is given twice"),
        (["--value-column", "a", "--value-column", "b"], "for several metrics give --wide"),
    ],
)
def test_an_option_that_says_nothing_is_a_usage_error(
    tmp_path: Path, capsys: Captured, options: list[str], said: str
) -> None:
    status, box = imported(tmp_path, "timestamp,value\n2026-11-01 12:00,1\n", *options)
    assert (status, box.requests) == (2, 0)
    assert said in capsys.readouterr().err


NIGHT = "timestamp,value\n2026-10-25 01:45,0\n{rows}2026-10-25 03:00,9\n"


@pytest.mark.parametrize(
    ("times", "options", "first"),
    [
        (["02:15", "02:45"], ["--repeated-hour", "first"], "2026-10-25T00:15:00Z"),
        (["02:15", "02:45"], ["--repeated-hour", "second"], "2026-10-25T01:15:00Z"),
        (["02:15", "02:45", "02:30"], ["--repeated-hour", "order"], "2026-10-25T00:15:00Z"),
        (["02:15", "02:45"], ["--repeated-hour", "order"], "2026-10-25T00:15:00Z"),
    ],
)
def test_the_operator_says_which_pass_of_an_hour_it_was(
    tmp_path: Path, times: list[str], options: list[str], first: str
) -> None:
    content = NIGHT.format(rows="".join(f"2026-10-25 {time},1\n" for time in times))
    zone = ["--timezone", "Europe/Vienna"]
    assert imported(tmp_path, content, *zone)[0] == 1
    status, box = imported(tmp_path, content, *zone, *options)
    assert status == 0
    assert box.stored()[1][0] == first
