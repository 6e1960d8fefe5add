# SPDX-License-Identifier: Apache-2.0
"""``edgepaas audit``: is every accepted row accounted for?"""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgepaas.sync.audit.audit import Audit

DESCRIPTION = """\
Compare the counters of the box with those of PostgreSQL. Every row that was accepted while
SQLite served has to be delivered, pending, a dead letter, or given up and counted. Missing
sequence numbers, marks that differ and wrong counters are listed, one in a line. --deep also
looks in PostgreSQL for every delivered fact that the box still holds.

Rows that were written while PostgreSQL served did not pass through the box's file; their
marks tell how many of them PostgreSQL has lost. Changes nothing; the box may go on working.

exit status: 0 everything adds up, 1 it does not, 2 PostgreSQL cannot be read (only the counters
of the box are checked).
"""

EXIT_HUB_NOT_READ = 2

_ROWS = (
    ("accepted", "changes captured while SQLite served"),
    ("delivered", "accepted by PostgreSQL"),
    ("pending", "still to be sent"),
    ("dead", "refused by PostgreSQL: 'edgepaas sync dead-letters'"),
    ("shed", "given up as LOW_VALUE, and counted"),
)
_BESIDE = (
    ("conflicts", "delivered, with other values than PostgreSQL had"),
    ("hub_lost", "confirmed by PostgreSQL, and lost there since"),
    ("salvaged", "recovered from a damaged file"),
    ("lost_in_damage", "lost with a damaged file"),
    ("forks", "new streams, because the file was copied or set back"),
    ("reclaimed", "delivered long ago, and deleted from the box"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--deep", action="store_true", help="look for every delivered fact")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Audit and print; raises ContractMissing, BoxUnreadable, LockHeld."""
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.errors import EXIT_DONE, EXIT_FAILED
    from edgepaas.files.paths import find_paths
    from edgepaas.logs import configure_logging, register_secret
    from edgepaas.settings import Settings
    from edgepaas.sync.audit.audit import audit
    from edgepaas.terminal import print_json

    configure_logging(level="ERROR")
    paths = find_paths()
    settings = Settings.read(paths.env_contract)
    for secret in settings.secrets():
        register_secret(secret)
    found = audit(DatabaseContract.read(paths.db_contract), settings, paths, deep=arguments.deep)
    if arguments.json:
        print_json(found.as_dict())
    else:
        _show(found)
    if not found.adds_up:
        return EXIT_FAILED
    return EXIT_DONE if found.complete else EXIT_HUB_NOT_READ


def _show(found: "Audit") -> None:
    from edgepaas.terminal import print_table, say

    counters = found.box.counters
    rows = [(name, f"{counters[name]:,}", what) for name, what in _ROWS]
    rows += [(name, f"{counters[name]:,}", what) for name, what in _BESIDE if counters[name]]
    print_table(("THIS BOX", "ROWS", ""), rows)
    if found.streams:
        print()
        print_table(
            ("POSTGRESQL: STREAM", "UP TO", "APPLIED", "DEAD", "SHED", "CONFLICTS"),
            [
                (
                    one.stream_id,
                    one.mark,
                    f"{one.rows:,}",
                    f"{one.dead:,} ({one.dead_letters_waiting:,} open)",
                    f"{one.shed:,}",
                    f"{one.conflicts:,} ({one.conflicts_open:,} open)",
                )
                for one in found.streams
            ],
        )
    print()
    if found.compared is not None:
        compared = found.compared
        present = compared.checked - compared.settled - compared.missing
        say(
            "by key",
            f"{compared.checked:,} delivered facts are still on the box: {present:,} are in "
            f"PostgreSQL, {compared.settled:,} are explained there, "
            f"{compared.missing:,} are missing",
        )
    if found.lost.rows:
        say(
            "lost",
            f"{found.lost.rows:,} rows that PostgreSQL acknowledged while it served, and lost "
            f"({found.lost.open_rows:,} of them not acknowledged by an operator)",
        )
    for line in found.discrepancies:
        say("WRONG", line)
    say("audit", _conclusion(found))


def _conclusion(found: "Audit") -> str:
    if not found.adds_up:
        return f"it does not add up: {len(found.discrepancies)} discrepancies"
    if found.hub_error:
        return f"the box's own side adds up; PostgreSQL cannot be read: {found.hub_error}"
    if not found.hub_configured:
        return "the box's own side adds up; no PostgreSQL is configured"
    if found.box.stream is None:
        return "it adds up: no row was ever written while SQLite served"
    return "it adds up"
