# SPDX-License-Identifier: Apache-2.0
"""``edgepaas sync acknowledge|unsent``: what was lost, and what is not at home yet.

Sub-commands of ``edgepaas sync``; its module ``sync_inspect.py`` calls this one.
"""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths

_ACKNOWLEDGE = """\
Acknowledge the rows that PostgreSQL lost (it was restored from a backup older than what it had
confirmed), and those that were lost with a deleted state folder, so that the box is no longer
degraded because of them. 'edgepaas audit' counts them as not in place ever after.
"""

_UNSENT = """\
Count the rows of this box that have not reached its PostgreSQL. The package's removal does so
with --note, so that a purge knows whether there is something that it has to keep.

exit status: 0 none, 1 some, or they could not be counted.
"""


def add_subcommands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare these sub-commands of ``edgepaas sync``."""
    form = argparse.RawDescriptionHelpFormatter
    acknowledging = subparsers.add_parser(
        "acknowledge",
        help="acknowledge rows that PostgreSQL lost",
        description=_ACKNOWLEDGE,
        formatter_class=form,
    )
    acknowledging.add_argument("--json", action="store_true", help="print a JSON document")
    counting = subparsers.add_parser(
        "unsent",
        help="count the rows that PostgreSQL does not have",
        description=_UNSENT,
        formatter_class=form,
    )
    counting.add_argument(
        "--note", action="store_true", help="note the number in the state folder, for a purge"
    )
    counting.add_argument("--json", action="store_true", help="print a JSON document")


def acknowledge(arguments: argparse.Namespace) -> int:
    """Note that an operator knows what was lost; raises OSError, LockHeld."""
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.errors import EXIT_DONE, EXIT_FAILED
    from edgepaas.files.paths import find_paths
    from edgepaas.marks.record import lost_rows, settle
    from edgepaas.sync.losses.acknowledge import acknowledge_lost
    from edgepaas.sync.losses.lost_state import forget_losses
    from edgepaas.terminal import print_json, say

    paths = find_paths()
    counters = read_ledger(paths, DatabaseContract.read(paths.db_contract))
    if counters is None:
        say("sync", "the SQLite file cannot be read; 'edgepaas doctor' shows why")
        return EXIT_FAILED
    settle(paths)
    lost = counters["hub_lost"] + lost_rows(paths)
    acknowledge_lost(paths, lost)
    folders = forget_losses(paths)
    if arguments.json:
        print_json({"hub_lost": lost, "state_lost": folders})
    else:
        say("sync", f"acknowledged: {lost:,} rows that PostgreSQL lost")
        if folders:
            say("sync", "acknowledged: the state folder or the SQLite file was deleted")
    return EXIT_DONE


def unsent(arguments: argparse.Namespace) -> int:
    """Count the rows that wait, and note their number where that is asked for."""
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.errors import EXIT_DONE, EXIT_FAILED
    from edgepaas.files.paths import find_paths
    from edgepaas.sync.losses.unsent import count_unsent, note_unsent
    from edgepaas.terminal import print_json, say

    paths = find_paths()
    found = count_unsent(DatabaseContract.read(paths.db_contract), paths)
    if arguments.note:
        note_unsent(paths, found)
    if arguments.json:
        print_json({"rows": found.rows, "problem": found.problem})
    else:
        say("unsent", f"{found.rows:,} rows have not reached PostgreSQL")
        if found.problem:
            say("", found.problem)
    return EXIT_FAILED if found.rows or found.problem else EXIT_DONE


def read_ledger(paths: "Paths", contract: "DatabaseContract") -> dict[str, int] | None:
    """Return the file's counters, None where it cannot be read right now."""
    import sqlite3

    from edgepaas.errors import EdgePaaSError
    from edgepaas.sync.audit.box import opened_for_audit, read_box

    try:
        with opened_for_audit(contract.sqlite_path, paths.database_lock) as connection:
            return read_box(connection).counters
    except (EdgePaaSError, OSError, sqlite3.Error):
        return None
