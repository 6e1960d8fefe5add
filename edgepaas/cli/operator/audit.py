# SPDX-License-Identifier: Apache-2.0
"""``edgepaas audit``: is every accepted row accounted for?"""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgepaas.sync.audit.audit import Audit
    from edgepaas.sync.audit.shared_tally import SharedTally
    from edgepaas.sync.audit.tally import Tally

DESCRIPTION = """\
Compare what this box accepted with what PostgreSQL has. Every row that was accepted while SQLite
served has to be delivered, pending, a dead letter, or given up and counted: missing sequence
numbers, marks that differ and wrong counters are listed, one in a line. Then the content of the
facts that the box still holds is compared, by digests that differ where one bit does: the latest
AUDIT_ROWS of each table, with --deep all of them. A row that is not in PostgreSQL as the box
wrote it counts as not in place, also where a dead letter, a conflict or an operator explains it.

Shared rows, which other boxes change as well, are compared with what both sides had at the mirror's
last pass: one that was changed, made or deleted on this box past capture does not add up. Of one
that PostgreSQL has changed since, nothing can be said: it is counted, and the mirror takes it.

Rows that were written while PostgreSQL served are counted by marks, which tell how many of them
it has lost. What left the box (RETENTION) and was changed in PostgreSQL afterwards is not seen,
nor who changed a shared row there. --acknowledge changes what counts as known, and lets the mirror
overwrite shared rows that were changed past capture; nothing else is changed, and the box may go on
working.

exit status: 0 everything adds up, or is acknowledged; 1 it does not; 2 PostgreSQL cannot be read
(only the counters of the box are checked).
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
    parser.add_argument("--deep", action="store_true", help="compare every fact on the box")
    parser.add_argument(
        "--acknowledge",
        action="store_true",
        help="acknowledge the rows that are not in place: they are no discrepancy any more",
    )
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
    found = audit(
        DatabaseContract.read(paths.db_contract),
        settings,
        paths,
        deep=arguments.deep,
        acknowledge=arguments.acknowledge,
    )
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
        _show_content(found.compared)
    if found.shared is not None and found.shared.checked:
        _show_shared(found.shared)
    if counters["hub_lost"]:
        say(
            "lost",
            f"{counters['hub_lost']:,} rows that PostgreSQL had confirmed, and lost "
            f"({found.hub_lost_acknowledged:,} of them acknowledged by an operator)",
        )
    if found.lost.rows:
        say(
            "lost",
            f"{found.lost.rows:,} rows that PostgreSQL acknowledged while it served, and lost "
            f"({found.lost.open_rows:,} of them not acknowledged by an operator)",
        )
    if found.lost_with_state:
        say("lost", f"{found.lost_with_state:,} rows that waited in what was deleted on the box")
    for line in found.discrepancies:
        say("WRONG", line)
    say("audit", _conclusion(found))
    if not found.adds_up:
        say("to do", _way_out(found))


def _show_content(compared: "Tally") -> None:
    from edgepaas.terminal import say

    say(
        "content",
        f"{compared.checked:,} facts that are still on the box: {compared.in_place:,} are in "
        "PostgreSQL as they were written",
    )
    for rows, what in (
        (compared.missing, "are not there"),
        (compared.differing, "have other values there"),
        (compared.doubled, "are there more than once"),
        (compared.acknowledged, "are not in place, acknowledged by an operator"),
        (compared.dead_waiting, "wait there as dead letters"),
        (compared.dead_discarded, "were discarded as dead letters"),
        (compared.deleted, "were deleted there by a box"),
        (compared.changed_here, "were changed or deleted by this box while PostgreSQL served"),
        (compared.conflicts, "met other values, which a conflict keeps"),
    ):
        if rows:
            say("", f"{rows:,} {what}")


def _way_out(found: "Audit") -> str:
    from edgepaas.alerts.catalogue import AUDIT_DISCREPANCY

    sent_again = ""
    if found.compared is not None and found.compared.missing:
        sent_again = "What this box still has of it is sent again by the audit that runs by itself "
        sent_again += "(AUDIT_INTERVAL). "
    return sent_again + AUDIT_DISCREPANCY.what_to_do


def _show_shared(shared: "SharedTally") -> None:
    from edgepaas.terminal import say

    say(
        "shared",
        f"{shared.checked:,} shared rows: {shared.same:,} are the same here and in PostgreSQL",
    )
    for rows, what in (
        (shared.waiting, "were changed here since the mirror's last pass: they wait, or were sent"),
        (shared.changed_there, "were changed in PostgreSQL since, and are not mirrored yet"),
        (shared.deleted_there, "were deleted in PostgreSQL since, and are not mirrored yet"),
        (shared.undecided, "differ, and nothing says on which side they were changed"),
        (shared.unsent, "were never sent"),
        (shared.altered, "were changed here past capture"),
        (shared.undeleted, "were deleted here past capture, and are there"),
        (shared.doubled, "are there more than once"),
        (shared.acknowledged, "are not in place, acknowledged by an operator"),
    ):
        if rows:
            say("", f"{rows:,} {what}")
    for table in shared.unjudged:
        say("", f"of {table} the mirror has compared nothing yet: its next pass does")


def _conclusion(found: "Audit") -> str:
    if not found.adds_up:
        return f"it does not add up: {len(found.discrepancies)} discrepancies"
    if found.hub_error:
        return f"the box's own side adds up; PostgreSQL cannot be read: {found.hub_error}"
    if not found.hub_configured:
        return "the box's own side adds up; no PostgreSQL is configured"
    if found.not_in_place:
        return f"it adds up, but for {found.not_in_place:,} rows that are not in place"
    if found.box.stream is None:
        return "it adds up: no row was ever written while SQLite served"
    return "it adds up"
