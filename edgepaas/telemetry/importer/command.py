# SPDX-License-Identifier: Apache-2.0
"""``edgepaas telemetry import``: readings from a CSV file into a running box."""

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.app.commands import box_address, box_token, print_json
from edgepaas.app.errors import EXIT_DONE, EXIT_FAILED, EdgePaaSError, UsageError
from edgepaas.telemetry.importer.arguments import (
    add_arguments,
    columns_said,
    file_said,
    units_said,
    zone_of,
)

if TYPE_CHECKING:
    from edgepaas.telemetry.importer.importer import Report
    from edgepaas.telemetry.importer.reader.csv_file import CsvFile
    from edgepaas.telemetry.importer.reader.csv_source import CsvSource

__all__ = ["add_arguments", "run"]

#: Stands for standard input, as usual.
_STANDARD_INPUT = Path("-")
_INTERRUPTED = 128 + signal.SIGINT  # as shells report it
#: Rows that are left out of what is no file.
_BESIDE_STREAM = Path("standard-input.left-out.csv")


def run(arguments: argparse.Namespace) -> int:
    """Import the file and return the exit status: 0 done, 1 failed, 130 interrupted."""
    token = read_token(arguments.token_file)
    if token is None and not arguments.url:
        token = box_token() or None  # of this box, which no other one is shown
    with _file(arguments.file) as csv:
        source = _source(arguments, csv)
        if arguments.dry_run:
            return _look(arguments, source)
        return _import(arguments, source, token)


def _source(arguments: argparse.Namespace, csv: "CsvFile") -> "CsvSource":
    # Only now: what takes long to import is of no use to a wrong command line.
    from edgepaas.telemetry.importer.reader.csv_source import CsvSource, ReadingOptions
    from edgepaas.telemetry.importer.reader.dialect import understand
    from edgepaas.telemetry.importer.reader.given import Given
    from edgepaas.telemetry.importer.reader.time_forms import time_parser

    options = ReadingOptions(
        zone=zone_of(arguments.timezone),
        repeated=arguments.repeated_hour,
        order=arguments.order,
        complete=arguments.complete,
        leap_second=arguments.leap_second,
        no_value=frozenset([*arguments.no_value, *([""] if arguments.wide else [])]),
    )
    if arguments.time_format is not None:
        try:
            time_parser(arguments.time_format)
        except ValueError as error:
            raise UsageError(f"--time-format {arguments.time_format}: {error}") from error
    given = Given(columns=columns_said(arguments), **file_said(arguments))
    return CsvSource(csv, understand(csv, given), options)


def _look(arguments: argparse.Namespace, source: "CsvSource") -> int:
    """Show what *source* is understood as; return 1 where it would not be imported so."""
    from edgepaas.telemetry.importer.first_look import describe, look_at
    from edgepaas.telemetry.importer.importer import Refused, Report, check

    look = look_at(source)
    refusal = ""
    try:
        check(source, look, skip_bad=arguments.skip_bad)
    except Refused as error:
        refusal = str(error)
    if arguments.json:
        print_json({**Report(source, look).as_json(), "refused": refusal or None, "sent": False})
    else:
        print("\n".join(describe(source, look)))
        last = refusal.splitlines()[-1] if refusal else "nothing was sent (--dry-run)"
        print(last, file=sys.stderr if refusal else sys.stdout)
    return EXIT_FAILED if refusal else EXIT_DONE


def _import(arguments: argparse.Namespace, source: "CsvSource", token: str | None) -> int:
    from edgepaas.telemetry.importer import importer
    from edgepaas.telemetry.importer.delivery import HttpSender
    from edgepaas.telemetry.importer.progress import ProgressDisplay

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

    beside = arguments.left_out
    if beside is None and source.csv.path != arguments.file:
        beside = _BESIDE_STREAM
    try:
        report = importer.import_file(
            source,
            importer.Target(arguments.device, units_said(arguments)),
            send,
            batch_size=arguments.batch,
            skip_bad=arguments.skip_bad,
            left_out=beside,
            deleted=frozenset
            if arguments.restore_deleted
            else lambda: send.deleted_ids(arguments.device, source.dialect.metrics),
            on_progress=show,
        )
    except importer.Refused as error:
        if arguments.json:
            report = importer.Report(source, error.look)
            print_json({**report.as_json(), "refused": str(error), "sent": False})
        raise
    except importer.BrokenOff as error:
        if arguments.json:
            done = error.report.as_json()
            print_json({**done, "refused": None, "sent": True, "failed": str(error)})
        raise
    except KeyboardInterrupt:
        display.close()
        where = importer.describe_position(source, progress)
        print(f"edgepaas: interrupted\n{where}", file=sys.stderr)
        return _INTERRUPTED
    finally:
        display.close()
    if arguments.json:
        print_json({**report.as_json(), "refused": None, "sent": True})
    else:
        _print_report(report)
    return EXIT_DONE


def _print_report(report: "Report") -> None:
    from edgepaas.telemetry.importer.failures import counted
    from edgepaas.telemetry.importer.first_look import describe_bad_rows, odd_things

    look = report.look
    print(
        f"{counted(look.readings, 'reading')}: {report.accepted:,} stored, "
        f"{report.duplicates:,} there already ({report.seconds:.1f} s)"
    )
    if report.deleted:
        print(
            f"{counted(report.deleted, 'reading')} deleted by an operator, and not stored again "
            "(--restore-deleted does)"
        )
    for odd in odd_things(report.source, look):
        print(odd)
    if look.bad_rows:
        print(
            f"{counted(look.bad_rows, 'row')} left out, into {report.left_out}:\n"
            f"{describe_bad_rows(look)}"
        )


@contextlib.contextmanager
def _file(given: Path) -> Iterator["CsvFile"]:
    """Give the file to read; what can be read only once, such as a pipe, is kept meanwhile."""
    from edgepaas.telemetry.importer.reader.csv_file import CsvFile, is_regular

    if given != _STANDARD_INPUT and is_regular(given):
        with CsvFile(given) as csv:
            yield csv
        return
    with contextlib.ExitStack() as stack:
        stream, name = sys.stdin.buffer, "standard input"
        if given != _STANDARD_INPUT:
            stream, name = stack.enter_context(given.open("rb")), str(given)
        kept = stack.enter_context(tempfile.NamedTemporaryFile(prefix="edgepaas-import-"))
        shutil.copyfileobj(stream, kept)
        kept.flush()
        yield stack.enter_context(CsvFile(Path(kept.name), name))


def read_token(file: Path | None) -> str | None:
    """Return the token that *file* holds, None for no file; raises EdgePaaSError."""
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
