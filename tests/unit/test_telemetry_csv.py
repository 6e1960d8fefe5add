# SPDX-License-Identifier: Apache-2.0
"""Readings out of CSV files as people and loggers write them."""

import codecs
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from edgepaas.telemetry.importer.failures import ImportFailed
from edgepaas.telemetry.importer.reader.csv_file import CsvFile
from edgepaas.telemetry.importer.reader.csv_source import BadRow, CsvSource, ReadingOptions, Row
from edgepaas.telemetry.importer.reader.dialect import understand
from edgepaas.telemetry.importer.reader.given import Given

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def source_of(
    folder: Path, content: bytes | str, options: ReadingOptions | None = None, **given: Any
) -> CsvSource:
    file = folder / "readings.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    given.setdefault("columns", {"value": "m"})
    csv = CsvFile(file)
    return CsvSource(csv, understand(csv, Given(**given)), options or ReadingOptions())


def rows_of(
    folder: Path, content: bytes | str, zone: str = "UTC", **given: Any
) -> list[Row | BadRow]:
    options = ReadingOptions(zone=UTC if zone == "UTC" else ZoneInfo(zone))
    return list(source_of(folder, content, options, **given))


@pytest.mark.parametrize(
    "content",
    [
        b"timestamp,value\n2024-05-01 12:00:00,1.5\n",
        b"timestamp,value\r\n2024-05-01 12:00:00,1.5\r\n",
        codecs.BOM_UTF8 + b"timestamp,value\n2024-05-01 12:00:00,1.5\n",
        b"timestamp;value\n2024-05-01 12:00:00;1.5\n",
        b"timestamp,value\r2024-05-01 12:00:00,1.5\r",
        "timestamp,value\n2024-05-01 12:00:00,1.5\n".encode("utf-16"),
        b"timestamp,value,note\n2024-05-01 12:00:00,1.5,5\xb0\n",
        b"timestamp,value\n2024-05-01 12:00:00,1.5,\n",
        b"timestamp\tvalue\n2024-05-01T12:00:00Z\t 1.5 \n\n\n",
        b'"timestamp","value"\n"2024-05-01T14:00:00+02:00","1.5"\n',
        b"value , note, timestamp\n15e-1,\xc3\xa4,2024-05-01 12:00\n",
    ],
)
def test_a_file_is_read_whatever_wrote_it(tmp_path: Path, content: bytes) -> None:
    """Line ends, byte-order mark, delimiter, quotes, blanks, zones and column order vary."""
    assert rows_of(tmp_path, content) == [Row(2, NOON, (1.5,))]


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ("2024-05-01 12:00:00,", "value '': empty: --no-value"),
        ("2024-05-01 12:00:00,nan", "not a finite number"),
        ("2024-05-01 12:00:00,1e999", "not a finite number"),
        ("2024-05-01 12:00:00,1_000", "has marks between digits"),
        ("2024-05-01 12:00:00,٣", "not a finite number"),
        ("2024-05-01 12:00:00,warm", "value 'warm': not a finite number"),
        ("2024-05-01,1", "time '2024-05-01': not a date and time"),
        ("2024-02-30 12:00:00,1", "no such date or time"),
        ("1969-12-31 23:59:59,1", "years 1970 to 9999"),
        ("0001-01-01T00:00:00+14:00,1", "years 1970 to 9999"),
        ("9999-12-31T23:59:59-14:00,1", "years 1970 to 9999"),
        (",1", "time ''"),
        ("2024-05-01 12:00:00", "1 cell where the header has 2"),
        ("2024-05-01 12:00:00,\x00", "bytes that are no text, or NUL"),
        ("2024-05-01 12:00:00,1\r5", "a carriage return"),
        ('2024-05-01 12:00:00,"1"5', "text follows the closing quote"),
        ("2024-05-01 12:00:00,1,5", "3 cells where the header has 2"),
    ],
)
def test_a_row_that_is_no_reading_says_why(tmp_path: Path, cells: str, problem: str) -> None:
    good = "2024-05-01 12:00:00,1.5"
    found = rows_of(tmp_path, f"timestamp,value\n{good}\n{cells}\n{good}\n")
    assert [row.line for row in found] == [2, 3, 4]
    assert isinstance(found[1], BadRow)
    assert problem in found[1].problem


def test_empty_rows_are_no_rows(tmp_path: Path) -> None:
    """Spreadsheets leave rows of nothing but delimiters below the last one."""
    assert rows_of(tmp_path, "timestamp,value\n\n,\n2024-05-01 12:00:00,1.5\n , \n") == [
        Row(4, NOON, (1.5,))
    ]


def test_bytes_that_are_no_text_spoil_their_own_row_only(tmp_path: Path) -> None:
    content = b"timestamp,value\n\x81\xfe,1\n2024-05-01 12:00:00,1.5\n"
    bad, good = rows_of(tmp_path, content)
    assert isinstance(bad, BadRow)
    assert bad.problem.isascii()
    assert good == Row(3, NOON, (1.5,))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no columns 'timestamp' and 'value' in the header, which has nothing; "),
        (b"\n", "--time-column and --value-column"),
        (b"time,value\n", "no column 'timestamp' in the header, which has 'time', 'value'; "),
        (b"timestamp;wert\n", "which has 'timestamp', 'wert'; name the right one with --value-"),
        (b"timestamp,value,timestamp\n", "the column 'timestamp' occurs 2 times"),
        (b'"timestamp,value', "--time-column"),
    ],
)
def test_a_header_without_the_columns_is_refused_with_those_that_are_missing(
    tmp_path: Path, content: bytes, said: str
) -> None:
    with pytest.raises(ImportFailed, match=said):
        rows_of(tmp_path, content)


@pytest.mark.parametrize(
    "content", [b"\x00\xff" * 100_000, b"\xff\xfet\x00", b"\x7fELF\x02", b"\x89PNG\xff"]
)
def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(
        ImportFailed, match=r"is not a CSV text file|which has '(.x7fELF|t)"
    ) as caught:
        rows_of(tmp_path, content)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImportFailed, match="cannot read"):
        CsvFile(tmp_path / name)


def test_local_times_become_utc_and_the_repeated_hour_is_read_twice(tmp_path: Path) -> None:
    """Summer time ends: 02:30 comes twice, an hour apart; only the order tells which is which."""
    times = ["01:30", "02:00", "02:30", "02:00", "02:30", "03:00"]
    content = "timestamp,value\n" + "".join(f"2024-10-27 {time}:00,1\n" for time in times)
    found = rows_of(tmp_path, content, "Europe/Vienna")
    assert [row.recorded_at.strftime("%H:%M") for row in found if isinstance(row, Row)] == [
        "23:30", "00:00", "00:30", "01:00", "01:30", "02:00",
    ]  # fmt: skip
