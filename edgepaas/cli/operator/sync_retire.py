# SPDX-License-Identifier: Apache-2.0
"""``edgepaas sync retire``: a box that is gone for good holds nothing up any more.

A sub-command of ``edgepaas sync``; its module ``sync_inspect.py`` calls this one.
"""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.hub.retiring import KnownBox

_RETIRE = """\
Take a box that is gone for good out of PostgreSQL: a revision that drops or narrows a column waits
for every box that may still send rows of the older layout, and a scrapped box never says that it
does not. Without BOX it lists the boxes, the one that was heard longest ago first.

What is removed is what PostgreSQL knows of the box: its entry in 'nodes' and the layouts that it
reported. No row that it has delivered is touched, nor its streams, dead letters and conflicts. If
it comes back after all, it enters itself again and delivers what waits on it; a value whose column
is gone by then is kept as a conflict. A box that was heard in the last ten minutes is refused.

exit status: 0 done, or listed; 1 there is no such box, it still runs, or nothing was done.
"""


def add_subcommand(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare this sub-command of ``edgepaas sync``."""
    parser = subparsers.add_parser(
        "retire",
        help="take out a box that is gone for good",
        description=_RETIRE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "box", nargs="?", default="", metavar="BOX", help="its name, or the beginning of its id"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def run(
    arguments: argparse.Namespace,
    *,
    hub: "Callable[[], AbstractContextManager[tuple[Hub, str]]]",
    confirmed: "Callable[[str], bool]",
) -> int:
    """List the boxes of *hub*, or take one out; *confirmed* asks the operator.

    Raises HubError, NoSuchBox, StillHeard, UsageError.
    """
    from edgepaas.errors import EXIT_DONE, EXIT_FAILED
    from edgepaas.sync.hub.retiring import find_box, known_boxes, retire
    from edgepaas.terminal import print_json, say

    with hub() as (opened, _):
        if not arguments.box:
            _show(known_boxes(opened), as_json=arguments.json)
            return EXIT_DONE
        box = find_box(opened, arguments.box)
        waited = f", {box.rows_waiting:,} rows waited on it" if box.rows_waiting else ""
        what = f"retire box {box.name} ({box.node_id}, last heard {box.last_seen}{waited})"
        if not arguments.yes and not confirmed(what):
            say("sync", "nothing was done")
            return EXIT_FAILED
        retire(opened, box)
    if arguments.json:
        print_json({"retired": box.as_dict()})
    else:
        say("sync", f"box {box.name} is taken out: {box.layouts} layouts hold nothing up any more")
        if box.rows_waiting:
            say("", f"{box.rows_waiting:,} rows waited on it when it was last heard")
    return EXIT_DONE


def _show(boxes: "list[KnownBox]", *, as_json: bool) -> None:
    from edgepaas.terminal import print_json, print_table, say

    if as_json:
        print_json([one.as_dict() for one in boxes])
        return
    if not boxes:
        say("sync", "PostgreSQL knows no box")
        return
    print_table(
        ("BOX", "ID", "LAST HEARD", "WAITING", "OLDER", "REVISIONS"),
        [
            (
                one.name,
                one.node_id[:8],
                one.last_seen,
                f"{one.rows_waiting:,}",
                f"{one.older_rows:,}",
                one.revisions or "-",
            )
            for one in boxes
        ],
    )
