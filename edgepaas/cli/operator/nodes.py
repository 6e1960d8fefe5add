# SPDX-License-Identifier: Apache-2.0
"""``edgepaas nodes``: the boxes that PostgreSQL knows, and forgetting one that is gone for good."""

import argparse
from typing import TYPE_CHECKING

from edgepaas.errors import EXIT_DONE, EXIT_FAILED

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.hub.forgetting import KnownBox

DESCRIPTION = """\
List the boxes that PostgreSQL knows, the one that was heard longest ago first, and forget one that
is gone for good: purged, scrapped, or replaced by another machine.

exit status: 0 done, or listed; 1 there is no such box, it still runs, or nothing was done; 2 usage.
"""
_FORGET = """\
Take a box that is gone for good out of what PostgreSQL knows of boxes: its entry in 'nodes' and the
layouts that it reported, for which a revision that drops or narrows a column waits. No row that it
has delivered is touched, nor its streams, dead letters and conflicts. If it comes back after all,
it enters itself again and delivers what waits on it; a value whose column is gone by then is kept
as a conflict. A box that was heard in the last ten minutes is refused.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    listing = verbs.add_parser("list", help="list the boxes (what happens without a verb)")
    # Without a default of its own it would undo a --json that stands before the verb.
    unsaid = argparse.SUPPRESS
    listing.add_argument("--json", action="store_true", default=unsaid, help="print JSON")
    forget = verbs.add_parser(
        "forget",
        help="take out a box that is gone for good",
        description=_FORGET,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    forget.add_argument("box", metavar="BOX", help="its name, or the beginning of its id")
    forget.add_argument("--json", action="store_true", default=unsaid, help="print JSON")
    forget.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def run(arguments: argparse.Namespace) -> int:
    """List the boxes, or forget one; raises HubError, NoSuchBox, StillHeard, UsageError."""
    from edgepaas.cli.operator.sync_inspect import opened_hub
    from edgepaas.logs import configure_logging

    configure_logging(level="ERROR")
    if arguments.verb == "forget":
        return _forget(arguments, opened_hub)
    from edgepaas.sync.hub.forgetting import known_boxes

    with opened_hub() as (hub, _):
        _show(known_boxes(hub), as_json=arguments.json)
    return EXIT_DONE


def _forget(
    arguments: argparse.Namespace,
    opened_hub: "Callable[[], AbstractContextManager[tuple[Hub, str]]]",
) -> int:
    from edgepaas.files.local_time import people_time
    from edgepaas.sync.hub.forgetting import find_box, forget
    from edgepaas.terminal import confirmed, print_json, say

    with opened_hub() as (hub, _):
        box = find_box(hub, arguments.box)
        waited = f", {box.rows_waiting:,} rows waited on it" if box.rows_waiting else ""
        heard = people_time()(box.last_seen)
        what = f"forget box {box.name} ({box.node_id}, last heard {heard}{waited})"
        if not arguments.yes and not confirmed(what):
            say("nodes", "nothing was done")
            return EXIT_FAILED
        forget(hub, box)
    if arguments.json:
        print_json({"forgotten": box.as_dict()})
        return EXIT_DONE
    say("nodes", f"box {box.name} is forgotten: {box.layouts} layouts hold nothing up any more")
    if box.rows_waiting:
        say("", f"{box.rows_waiting:,} rows waited on it when it was last heard")
    return EXIT_DONE


def _show(boxes: "list[KnownBox]", *, as_json: bool) -> None:
    from edgepaas.files.local_time import people_time
    from edgepaas.terminal import print_json, print_table, say

    if as_json:
        print_json([one.as_dict() for one in boxes])
        return
    if not boxes:
        say("nodes", "PostgreSQL knows no box")
        return
    at = people_time()
    print_table(
        ("BOX", "ID", "LAST HEARD", "WAITING", "OLDER", "REVISIONS"),
        [
            (
                one.name,
                one.node_id[:8],
                at(one.last_seen),
                f"{one.rows_waiting:,}",
                f"{one.older_rows:,}",
                one.revisions or "-",
            )
            for one in boxes
        ],
    )
