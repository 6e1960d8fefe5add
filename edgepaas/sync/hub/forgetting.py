# SPDX-License-Identifier: Apache-2.0
"""Boxes as PostgreSQL knows them by their layouts, and forgetting one that is gone for good.

A revision that drops or narrows a column waits until no box reports a layout that it would break
(edgepaas.schema.renames.boxes). A box that was scrapped reports for ever what it reported last.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgepaas.errors import EdgePaaSError
from edgepaas.sync.hub.layouts import TABLE

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub

#: Seconds after its last heartbeat for which a box counts as running, at least.
HEARD_WITHIN = 600.0

_BOXES = f"""
SELECT n.node_id::text, n.name, n.build, to_char(n.last_seen AT TIME ZONE 'UTC',
    'YYYY-MM-DD"T"HH24:MI:SS"Z"'), extract(epoch FROM now() - n.last_seen)::float8,
  n.rows_waiting, coalesce(sum(l.rows), 0)::bigint, count(l.tbl),
  coalesce(string_agg(DISTINCT l.revision, ', ' ORDER BY l.revision), '')
FROM nodes n LEFT JOIN {TABLE} l ON l.node_id = n.node_id
GROUP BY n.node_id ORDER BY n.last_seen"""  # noqa: S608
_BOXES_WITHOUT = """
SELECT n.node_id::text, n.name, n.build, to_char(n.last_seen AT TIME ZONE 'UTC',
    'YYYY-MM-DD"T"HH24:MI:SS"Z"'), extract(epoch FROM now() - n.last_seen)::float8,
  n.rows_waiting, 0::bigint, 0::bigint, '' FROM nodes n ORDER BY n.last_seen"""


class NoSuchBox(EdgePaaSError):
    """PostgreSQL knows no box, or several, by what was given."""


class StillHeard(EdgePaaSError):
    """The box sent a heartbeat a short while ago: it would report its layouts again at once."""


@dataclass(frozen=True)
class KnownBox:
    """A box by its last heartbeat: *rows_waiting* on it then, *older_rows* of older layouts.

    *layouts*: how many it reports, of these *revisions*.
    """

    node_id: str
    name: str
    build: str
    last_seen: str
    seconds_ago: float
    rows_waiting: int
    older_rows: int
    layouts: int
    revisions: str

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return {
            "node_id": self.node_id,
            "name": self.name,
            "build": self.build,
            "last_seen": self.last_seen,
            "rows_waiting": self.rows_waiting,
            "rows_of_older_layouts": self.older_rows,
            "layouts": self.layouts,
            "revisions": [one for one in self.revisions.split(", ") if one],
        }


def known_boxes(hub: "Hub") -> list[KnownBox]:
    """Return every box that *hub* knows, the one that was heard longest ago first."""
    if "nodes" not in hub.tables:
        return []  # no box has ever been here
    rows = hub.query(_BOXES if TABLE in hub.tables else _BOXES_WITHOUT)
    return [KnownBox(*row) for row in rows]


def find_box(hub: "Hub", given: str) -> KnownBox:
    """Return the box that is called *given*, or whose id begins so; raises NoSuchBox."""
    boxes = known_boxes(hub)
    found = [one for one in boxes if one.node_id == given] or [
        one for one in boxes if one.name == given or one.node_id.startswith(given.lower())
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise NoSuchBox(f"PostgreSQL knows no box {given!r}: 'edgepaas nodes' lists them")
    ids = ", ".join(one.node_id for one in found)
    raise NoSuchBox(f"{len(found)} boxes are called {given!r}: name one by its id ({ids})")


def forget(hub: "Hub", box: KnownBox) -> None:
    """Take *box* out of what *hub* knows: its heartbeat, and the layouts that it reported.

    Its rows stay, and so do its streams: if it comes back after all it goes on where it was.
    Raises StillHeard, HubError.
    """
    if box.seconds_ago < HEARD_WITHIN:
        raise StillHeard(
            f"box {box.name} was heard {box.seconds_ago:.0f} s ago, and would report its layouts "
            f"again: stop it first, and wait until it was not heard for {HEARD_WITHIN / 60:.0f} "
            "minutes"
        )
    statements: list[tuple[str, tuple[Any, ...]]] = [
        # Not one that has come back since it was looked at.
        (
            "DELETE FROM nodes WHERE node_id = $1::uuid "
            "AND last_seen < now() - make_interval(secs => $2::float8)",
            (box.node_id, HEARD_WITHIN),
        )
    ]
    if TABLE in hub.tables:
        statements.append(
            (
                f"DELETE FROM {TABLE} l WHERE l.node_id = $1::uuid "  # noqa: S608
                "AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.node_id = l.node_id)",
                (box.node_id,),
            )
        )
    hub.run(statements)
