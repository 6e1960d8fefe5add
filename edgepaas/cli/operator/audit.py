# SPDX-License-Identifier: Apache-2.0
"""``edgepaas audit``: present and accounted for."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgepaas.sync.audit.audit import Audit

DESCRIPTION = """\
Compare the ledger of the box with PostgreSQL's: every row that was accepted while SQLite
served is delivered, pending, among the dead letters, or was given up and counted. Numbers
without a row, marks that differ and counters that are not true are named, each in a line.
--deep looks for every delivered fact that the box still holds in PostgreSQL's own table.

Nothing is changed, and the box may go on working meanwhile. Rows that were written while
PostgreSQL itself served never passed through the box, and are no part of this.

exit status: 0 it adds up, 1 it does not, 2 PostgreSQL cannot be asked (the box's side is
printed).
"""

EXIT_UNASKED = 2

_ROWS = (
    ("accepted", "changes captured while SQLite served"),
    ("delivered", "PostgreSQL has taken them"),
    ("pending", "still to be sent"),
    ("dead", "PostgreSQL refused them: 'edgepaas sync dead-letters'"),
    ("shed", "given up as LOW_VALUE, counted"),
)
_BESIDE = (
    ("conflicts", "delivered, and differing from what was there"),
    ("hub_lost", "confirmed, and lost by PostgreSQL since"),
    ("salvaged", "saved from a damaged file"),
    ("lost_in_damage", "lost with a damaged file"),
    ("forks", "new streams, since a file or PostgreSQL was rewound"),
    ("reclaimed", "delivered long ago, and removed from the box"),
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
    return EXIT_DONE if found.complete else EXIT_UNASKED


def _show(found: "Audit") -> None:
    from edgepaas.terminal import print_table, say

    counters = found.box.counters
    rows = [(name, f"{counters[name]:,}", what) for name, what in _ROWS]
    rows += [(name, f"{counters[name]:,}", what) for name, what in _BESIDE if counters[name]]
    print_table(("THIS BOX", "ROWS", ""), rows)
    if found.streams:
        print()
        print_table(
            ("POSTGRESQL: STREAM", "UP TO", "TAKEN", "DEAD", "SHED", "CONFLICTS"),
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
            f"PostgreSQL, {compared.settled:,} accounted for there, {compared.missing:,} missing",
        )
    for line in found.discrepancies:
        say("WRONG", line)
    say("audit", _verdict(found))


def _verdict(found: "Audit") -> str:
    if not found.adds_up:
        return f"it does not add up: {len(found.discrepancies)} discrepancies"
    if found.unasked:
        return f"the box's own side adds up; PostgreSQL cannot be asked: {found.unasked}"
    if not found.hub_configured:
        return "the box's own side adds up; no PostgreSQL is configured to ask"
    if found.box.stream is None:
        return "it adds up: nothing was ever written while SQLite served"
    return "it adds up"
