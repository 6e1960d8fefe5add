# SPDX-License-Identifier: Apache-2.0
"""``edgepaas alerts export``: the history of alerts as CSV or NDJSON, the oldest first.

A sub-command of ``edgepaas alerts``; its module ``alerts.py`` calls this one.
"""

import argparse
import csv
import json
import sys
from typing import TYPE_CHECKING

from edgepaas.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths

#: Columns of the CSV; NDJSON has every field of an entry.
COLUMNS = (
    *("time", "what", "severity", "fingerprint", "box", "message", "origin", "count"),
    *("since", "ended", "duration_seconds", "via", "why", "condition", "id"),
)
#: More than the files of history can hold.
_ALL = 1_000_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--format", choices=("csv", "ndjson"), default="csv", help="(default: csv)")
    parser.add_argument("--from", dest="since", default="", metavar="TIME", help="then or later")
    parser.add_argument("--to", dest="until", default="", metavar="TIME", help="before that")


def run(paths: "Paths", arguments: argparse.Namespace) -> int:
    """Print what was asked for; raises UsageError."""
    from edgepaas.alerts import history

    since, until = _moment("--from", arguments.since), _moment("--to", arguments.until)
    found = [
        entry
        for entry in reversed(history.read(paths, limit=_ALL))
        if (not since or str(entry.get("time", "")) >= since)
        and (not until or str(entry.get("time", "")) < until)
    ]
    if arguments.format == "ndjson":
        for entry in found:
            print(json.dumps(entry, ensure_ascii=False))
    else:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(COLUMNS)
        for entry in found:
            rows.writerow(["" if entry.get(name) is None else entry[name] for name in COLUMNS])
    print(f"{len(found):,} entries exported", file=sys.stderr)
    return EXIT_DONE


def _moment(option: str, text: str) -> str:
    """Return *text* as the history writes a moment, which sorts as text."""
    from datetime import UTC, datetime

    from edgepaas.timing.moment import rfc3339

    if not text:
        return ""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} {text}: give a date or a time, as in 2026-01-31 or 2026-01-31T12:00:00Z"
        ) from None
    return rfc3339((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
