# SPDX-License-Identifier: Apache-2.0
"""The arguments of ``edgepaas telemetry import``, and what they say of a file."""

import argparse
import codecs
import math
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edgepaas.app.errors import UsageError

_LARGEST_BATCH = 10_000
_DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "blank": " "}
_MARKS = {"comma": ",", "point": ".", "blank": " ", "none": ""}
_TIME_FORMATS = (
    "iso, day-first, month-first, epoch-s, epoch-ms, epoch-us, epoch-ns, "
    "or a pattern such as '%%d%%m%%y %%H:%%M'"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "exit status: 0 done, 1 failed, 2 usage, 130 interrupted"
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="CSV file with a header line; - is standard input")
    add("--device", required=True, help="name of the device that took the readings")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--metric", help="what was measured, such as temperature")
    what.add_argument(
        "--wide", action="store_true", help="each column beside the time is a metric of its name"
    )
    add(
        "--unit",
        action="append",
        metavar="UNIT",
        help="unit of the values, such as °C; with --wide METRIC=UNIT, once for each",
    )
    add("--url", help="the box (default: this one, http://127.0.0.1 with its PORT)")
    add("--token-file", type=Path, metavar="F", help="file that holds an API token")
    add("--dry-run", action="store_true", help="show what the file is understood as; send nothing")
    add("--skip-bad", action="store_true", help="leave out rows that are in doubt, into a file")
    add(
        "--left-out",
        type=Path,
        metavar="F",
        help="file for the rows that are left out (default: FILE.left-out.csv beside it)",
    )
    add(
        "--restore-deleted",
        action="store_true",
        help="store again what an operator deleted ('edgepaas telemetry delete')",
    )
    add("--batch", type=_batch, default=500, metavar="N", help="readings a request (500)")
    add(
        "--patience",
        type=_seconds,
        default=120.0,
        metavar="S",
        help="seconds to go on trying while the box takes nothing (120)",
    )
    add("--json", action="store_true", help="print the result as JSON")
    _add_reading_arguments(parser.add_argument_group("how the file is written, where that is open"))


def _add_reading_arguments(group: Any) -> None:
    add = group.add_argument
    add(
        "--time-column",
        action="append",
        metavar="NAME",
        help="default: timestamp; given twice, a date and its time of day",
    )
    add(
        "--value-column",
        action="append",
        metavar="NAME",
        help="default: value; with --wide NAME or NAME=METRIC, for each that is to be imported",
    )
    add("--time-format", metavar="FORM", help=_TIME_FORMATS)
    add("--timezone", metavar="ZONE", help="zone of times that name none (default: UTC)")
    add(
        "--repeated-hour",
        choices=("certain", "order", "first", "second"),
        default="certain",
        help="which pass a time of summer time's end is (certain: as its neighbours prove)",
    )
    add("--leap-second", action="store_true", help="take second 60 as the second after it")
    add("--order", choices=("oldest-first", "newest-first"), help="order of the rows")
    add(
        "--header-line",
        type=_line,
        metavar="N",
        help="line that names the columns (1; 2 below a line sep=;), what is above it is not read",
    )
    add("--delimiter", metavar="D", help="comma, semicolon, tab, bar, blank, or a character")
    add("--decimal", metavar="D", help="decimal mark: point or comma")
    add(
        "--thousands",
        metavar="D",
        default="none",
        help="mark between thousands: comma, point, blank, or a character (default: none)",
    )
    add("--encoding", metavar="NAME", help="such as utf-8, utf-16, cp1252")
    add(
        "--quotes",
        choices=("strict", "multiline", "literal"),
        default="strict",
        help="multiline: quoted cells may span lines; literal: a quote is any character",
    )
    add(
        "--no-value",
        action="append",
        default=[],
        metavar="TEXT",
        help="cell that stands for no value, such as '' or NaN (with --wide '' does)",
    )
    add("--complete", action="store_true", help="take a last line that has no line end")


def file_said(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of ``Given`` that *arguments* say; raises UsageError."""
    if arguments.order and not arguments.timezone:
        raise UsageError("--order decides about times that a --timezone has twice: give that too")
    return {
        "time_columns": _times(arguments.time_column or ["timestamp"]),
        "encoding": _encoding(arguments.encoding),
        "delimiter": _character("--delimiter", arguments.delimiter, _DELIMITERS),
        "decimal": _decimal(arguments.decimal),
        "thousands": _character("--thousands", arguments.thousands, _MARKS) or "",
        "time_format": arguments.time_format,
        "quotes": arguments.quotes,
        "header_line": arguments.header_line,
    }


def columns_said(arguments: argparse.Namespace) -> dict[str, str] | None:
    """Return the metrics by their columns; None: every column is one, of its name."""
    given = arguments.value_column or []
    if not arguments.wide:
        if len(given) > 1:
            raise UsageError("--value-column is given twice: for several metrics give --wide")
        return {given[0] if given else "value": arguments.metric}
    if not given:
        return None
    columns: dict[str, str] = {}
    for one in given:
        column, _, metric = one.rpartition("=")
        column, metric = (column, metric) if column and metric else (one, one)
        if column in columns or metric in columns.values():
            raise UsageError(f"--value-column {one}: this column, or this metric, is named twice")
        columns[column] = metric
    return columns


def units_said(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the units by metric; raises UsageError."""
    given = arguments.unit or []
    if not arguments.wide:
        if len(given) > 1:
            raise UsageError("--unit is given twice, for one metric")
        return {arguments.metric: given[0]} if given else {}
    units: dict[str, str] = {}
    for one in given:
        metric, _, unit = one.rpartition("=")
        if not metric or metric in units:
            raise UsageError(f"--unit {one}: give METRIC=UNIT, once for each metric")
        units[metric] = unit
    return units


def zone_of(name: str | None) -> tzinfo | None:
    """Return the zone of this name, None for none; raises UsageError."""
    if name is None:
        return None
    if name.upper() in ("UTC", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            f"--timezone {name}: no such zone here; give a name such as Europe/Vienna, or UTC"
        ) from error


def _times(names: list[str]) -> tuple[str, ...]:
    if len(names) > 2 or len(set(names)) < len(names):
        raise UsageError("--time-column: one column, or a date and its time of day")
    return tuple(names)


def _encoding(name: str | None) -> str | None:
    if name is None:
        return None
    try:
        found = codecs.lookup(name)
        "a".encode(found.name).decode(found.name)
    except (LookupError, UnicodeError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"--encoding {name}: no encoding of text; give e.g. cp1252") from error
    return "utf-8-sig" if found.name == "utf-8" else found.name


def _character(option: str, text: str | None, names: dict[str, str]) -> str | None:
    if text is None:
        return None
    character = names.get(text, text)
    if len(character) > 1 or character in ('"', "\n", "\r") or character.isalnum():
        raise UsageError(f"{option} {text}: one character, or {', '.join(names)}")
    return character


def _decimal(text: str | None) -> str | None:
    mark = _character("--decimal", text, _MARKS)
    if mark is not None and mark not in (".", ","):
        raise UsageError(f"--decimal {text}: point or comma")
    return mark


def _batch(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if not 1 <= number <= _LARGEST_BATCH:
        raise UsageError(f"--batch {text}: a whole number from 1 to {_LARGEST_BATCH}")
    return number


def _line(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0
    if not number:
        raise UsageError(f"--header-line {text}: a whole number from 1 to 9999")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise UsageError(f"--patience {text}: a number of seconds from 0 up")
    return number
