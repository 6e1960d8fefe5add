# SPDX-License-Identifier: Apache-2.0
"""``edgepaas telemetry import``: readings from a CSV file into a running box."""

import argparse
import contextlib
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edgepaas.app.commands import box_address, print_json
from edgepaas.app.errors import EXIT_DONE, EdgePaaSError, UsageError

if TYPE_CHECKING:
    from edgepaas.telemetry.importer.importer import Report

#: Stands for standard input, as usual.
_STANDARD_INPUT = Path("-")

_LARGEST_BATCH = 10_000
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "exit status: 0 done, 1 failed, 2 usage, 130 interrupted"
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="CSV file with a header line; - is standard input")
    add("--device", required=True, help="name of the device that took the readings")
    add("--metric", required=True, help="what was measured, such as temperature")
    add("--unit", help="unit of the values, such as °C")
    add("--url", help="the box (default: this one, http://127.0.0.1 with its PORT)")
    add("--token-file", type=Path, metavar="F", help="file that holds an API token")
    add("--time-column", default="timestamp", metavar="NAME", help="default: timestamp")
    add("--value-column", default="value", metavar="NAME", help="default: value")
    add(
        "--timezone",
        default="UTC",
        metavar="ZONE",
        help="zone of times that name none, such as Europe/Vienna (default: UTC)",
    )
    add("--batch", type=_batch, default=500, metavar="N", help="readings a request (500)")
    add(
        "--patience",
        type=_seconds,
        default=120.0,
        metavar="S",
        help="seconds to go on trying while the box takes nothing (120)",
    )
    add("--skip-bad", action="store_true", help="leave out rows that are no readings, and say so")
    add("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Import the file and return the exit status: 0 done, 1 failed, 130 interrupted."""
    zone, token = _zone(arguments.timezone), _token(arguments.token_file)
    with _file(arguments.file) as (path, name):
        return _import(arguments, path, name, zone, token)


def _import(
    arguments: argparse.Namespace, path: Path, name: str, zone: tzinfo, token: str | None
) -> int:
    # Only now: what takes long to import is of no use to a wrong command line.
    from edgepaas.telemetry.importer import importer
    from edgepaas.telemetry.importer.csv_source import CsvSource
    from edgepaas.telemetry.importer.delivery import HttpSender
    from edgepaas.telemetry.importer.progress import ProgressDisplay

    source = CsvSource(
        path,
        time_column=arguments.time_column,
        value_column=arguments.value_column,
        zone=zone,
        name=name,
    )
    display = ProgressDisplay(sys.stderr)
    send = HttpSender(
        arguments.url or box_address(),
        token=token,
        patience=arguments.patience,
        on_wait=display.note,
    )
    progress = importer.Progress(total=0)

    def show(now: importer.Progress) -> None:
        nonlocal progress
        progress = now
        display.update(now)

    try:
        report = importer.import_file(
            source,
            importer.Target(arguments.device, arguments.metric, arguments.unit),
            send,
            batch_size=arguments.batch,
            skip_bad=arguments.skip_bad,
            on_progress=show,
        )
    except KeyboardInterrupt:
        display.close()
        where = importer.describe_position(source, progress)
        print(f"edgepaas: interrupted\n{where}", file=sys.stderr)
        return _INTERRUPTED
    finally:
        display.close()
    if arguments.json:
        print_json(report.as_json())
    else:
        _print_report(report)
    return EXIT_DONE


def _print_report(report: "Report") -> None:
    from edgepaas.telemetry.importer.importer import describe_bad_rows
    from edgepaas.telemetry.words import counted

    print(
        f"{counted(report.readings, 'reading')}: {report.accepted:,} stored, "
        f"{report.duplicates:,} there already ({report.seconds:.1f} s)"
    )
    if report.bad_rows:
        print(f"{counted(report.bad_rows, 'row')} left out:\n{describe_bad_rows(report)}")


@contextlib.contextmanager
def _file(given: Path) -> Iterator[tuple[Path, str]]:
    """Give the file to read, which is read twice, and its name in messages."""
    if given != _STANDARD_INPUT:
        yield given, str(given)
        return
    with tempfile.NamedTemporaryFile(prefix="edgepaas-import-") as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
        kept.flush()
        yield Path(kept.name), "standard input"


def _zone(name: str) -> tzinfo:
    if name.upper() in ("UTC", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            f"--timezone {name}: no such zone here; give a name such as Europe/Vienna, or UTC"
        ) from error


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        token = file.read_text(encoding="ascii").strip()
    except OSError as error:
        said = f"--token-file {file}: cannot be read: {error.strerror}"
        raise EdgePaaSError(f"{said}; give a file that holds a token and no more") from error
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise EdgePaaSError(f"--token-file {file}: holds no token; it must hold one and no more")
    return token


def _batch(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if not 1 <= number <= _LARGEST_BATCH:
        raise UsageError(f"--batch {text}: a whole number from 1 to {_LARGEST_BATCH}")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise UsageError(f"--patience {text}: a number of seconds from 0 up")
    return number
