# SPDX-License-Identifier: Apache-2.0
"""``edgepaas telemetry export``: from whichever database serves, page by page."""

import argparse
import contextlib
import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from edgepaas.app.commands import box_address, box_token
from edgepaas.app.errors import EXIT_DONE, UsageError
from edgepaas.telemetry.exporter.pages import ExportFailed, ReadingPages
from edgepaas.telemetry.importer.command import read_token

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
#: Seconds between two lines of progress: on a terminal, and in a log.
_REDRAW, _LINE_EVERY = 0.2, 10.0
COLUMNS = (
    "recorded_at",
    "device",
    "metric",
    "value",
    "unit",
    "received_at",
    "id",
    "written_by",
    "node",
)

_PARTIAL = (
    "the box has no PostgreSQL at the moment, and holds not all readings: wait until it is back "
    "('edgepaas status'), or export what is here with --partial"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "exit status: 0 done, 1 failed (no file is left), 2 usage, 130 interrupted"
    add = parser.add_argument
    add("file", nargs="?", default="-", metavar="FILE", help="a new file (default: - is output)")
    add("--format", choices=("csv", "ndjson"), help="csv, or as FILE's name ends")
    add("--device", help="readings of this device alone")
    add("--metric", help="readings of this metric alone")
    add("--written-by", metavar="NAME", help="readings written by the token of this name alone")
    add("--node", metavar="ID", help="readings taken by the box of this id alone")
    add("--from", dest="since", metavar="TIME", help="recorded then or later, as 2026-01-31")
    add("--to", dest="until", metavar="TIME", help="recorded before, as 2026-01-31T12:00:00Z")
    add("--partial", action="store_true", help="also where PostgreSQL is away and has more")
    add("--url", help="the box (default: this one, http://127.0.0.1 with its PORT)")
    add("--token-file", type=Path, metavar="F", help="file that holds an API token")
    add("--patience", type=float, default=120.0, metavar="S", help="seconds to go on trying (120)")


def run(arguments: argparse.Namespace) -> int:
    """Export, and return the exit status; raises UsageError, ExportFailed, OSError."""
    token = read_token(arguments.token_file)
    if token is None and not arguments.url:
        token = box_token() or None
    note = _Note(sys.stderr)
    pages = ReadingPages(
        arguments.url or box_address(),
        token=token,
        patience=arguments.patience,
        on_wait=lambda reason: note.say(f"waiting for the box: {reason}"),
    )
    query = {
        name: value
        for name, value in (
            ("device", arguments.device),
            ("metric", arguments.metric),
            ("written_by", arguments.written_by),
            ("node", arguments.node),
            ("from", arguments.since),
            ("to", arguments.until),
        )
        if value is not None
    }
    try:
        with _target(arguments.file) as out:
            written, partial = _export(
                pages, query, _writer(_format(arguments), out), arguments.partial, note
            )
    except KeyboardInterrupt:
        note.close()
        print("edgepaas: interrupted", file=sys.stderr)
        return _INTERRUPTED
    finally:
        note.close()
    missing = "; more of them may be in PostgreSQL, which is away" if partial else ""
    print(f"{written:,} readings exported{missing}", file=sys.stderr)
    return EXIT_DONE


def _export(
    pages: ReadingPages,
    query: Mapping[str, str],
    write: Callable[[Mapping[str, Any]], object],
    partial_too: bool,
    note: "_Note",
) -> tuple[int, bool]:
    written, lacking = 0, False
    for readings, partial in pages.read(query):
        if partial and not partial_too:
            raise ExportFailed(_PARTIAL)
        lacking = lacking or partial
        for reading in readings:
            write(reading)
        written += len(readings)
        if readings:
            note.progress(f"{written:,} readings, up to {readings[-1]['recorded_at']}")
    return written, lacking


def _format(arguments: argparse.Namespace) -> str:
    if arguments.format:
        return str(arguments.format)
    return "ndjson" if arguments.file.endswith((".ndjson", ".jsonl", ".json")) else "csv"


def _writer(kind: str, out: TextIO) -> Callable[[Mapping[str, Any]], object]:
    if kind == "ndjson":
        return lambda reading: out.write(json.dumps(reading, ensure_ascii=False) + "\n")
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(COLUMNS)
    return lambda reading: rows.writerow(
        "" if reading[name] is None else reading[name] for name in COLUMNS
    )


@contextlib.contextmanager
def _target(given: str) -> Iterator[TextIO]:
    """Give what to write to: a file has its name once it is whole."""
    if given == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    path = Path(given)
    if path.exists():
        raise UsageError(f"{path} is there already: name another file")
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.new")
    try:
        with temporary.open("x", encoding="utf-8", newline="") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class _Note:
    """Says on standard error how far it has come."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._terminal = stream.isatty()
        self._said_at = clock()
        self._width = 0

    def progress(self, text: str) -> None:
        """Say *text*, unless something was said a moment ago."""
        if self._clock() - self._said_at >= (_REDRAW if self._terminal else _LINE_EVERY):
            self.say(text)

    def say(self, text: str) -> None:
        """Say *text* now."""
        self._said_at = self._clock()
        if self._terminal:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        """End the line that was drawn."""
        if self._width:
            self._stream.write("\n")
            self._width = 0
