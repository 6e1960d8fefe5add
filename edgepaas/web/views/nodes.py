# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/nodes``: every box that reports to the PostgreSQL of this one.

Where SQLite serves, as PostgreSQL answered the last heartbeat of sync.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import marshmallow as ma

from edgepaas.apikit.blueprint import ApiBlueprint
from edgepaas.app import Box
from edgepaas.build import build_version
from edgepaas.files.locks import LockHeld
from edgepaas.files.node_identity import node_identity
from edgepaas.sync import status as sync_status
from edgepaas.sync.hub.fleet import HEARTBEATS_PER_FLEET_READ, Fleet, read_fleet

#: A node that missed so many heartbeats, and is this many seconds late on top, is stale.
MISSED = 3
LATE = 10.0

_IS_THERE = "SELECT to_regclass('nodes') IS NOT NULL"
# By PostgreSQL's clock, which wrote last_seen: a box's own may be anywhere.
_NODES = """
SELECT node_id, name, version, build, state, rows_waiting, oldest_waiting, clock_offset,
       first_seen, last_seen, extract(epoch FROM now() - last_seen)::float8 AS age
FROM nodes ORDER BY name, node_id LIMIT 10000
"""


class NodeSchema(ma.Schema):
    """One box."""

    node_id = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Made once for each box; null where it cannot be kept."},
    )
    name = ma.fields.String(required=True, metadata={"description": "The name of the box."})
    version = ma.fields.String(
        required=True, metadata={"description": "The version of EdgePaaS on it."}
    )
    build = ma.fields.String(required=True, metadata={"description": "The build that runs on it."})
    state = ma.fields.String(required=True, metadata={"description": "As in its own status."})
    rows_waiting = ma.fields.Integer(
        required=True, metadata={"description": "Rows that it has not delivered to PostgreSQL yet."}
    )
    oldest_waiting = ma.fields.DateTime(
        required=True,
        allow_none=True,
        metadata={
            "description": "When the oldest of these rows was written; null where none waits."
        },
    )
    clock_offset = ma.fields.Float(
        required=True,
        allow_none=True,
        metadata={"description": "PostgreSQL's clock less the box's, in seconds."},
    )
    first_seen = ma.fields.DateTime(
        required=True,
        allow_none=True,
        metadata={"description": "When its first heartbeat arrived, by PostgreSQL's clock."},
    )
    last_seen = ma.fields.DateTime(
        required=True,
        allow_none=True,
        metadata={"description": "When its last heartbeat arrived, by PostgreSQL's clock."},
    )
    stale = ma.fields.Boolean(
        required=True, metadata={"description": "Its last heartbeats are missing."}
    )
    this = ma.fields.Boolean(
        required=True, metadata={"description": "Whether it is the box that answers this request."}
    )


class NodesSchema(ma.Schema):
    """The boxes that report to this PostgreSQL."""

    items = ma.fields.List(
        ma.fields.Nested(NodeSchema), required=True, metadata={"description": "The boxes, by name."}
    )
    may_lack_rows = ma.fields.Boolean(  # "partial" is a word of marshmallow's own
        data_key="partial",
        attribute="partial",
        required=True,
        metadata={
            "description": "Not all are known: SQLite serves, and PostgreSQL does not answer or "
            "has more boxes than are kept here."
        },
    )


def nodes_blueprint(box: Box) -> ApiBlueprint:
    """Return the nodes' route on *box*."""
    api = ApiBlueprint(
        "nodes", __name__, url_prefix="/api/v1/nodes", description="The boxes of one PostgreSQL."
    )
    interval = box.settings.number("HEARTBEAT_INTERVAL")
    stale_after, asked_every = MISSED * interval + LATE, HEARTBEATS_PER_FLEET_READ * interval

    @api.route("")
    @api.response(200, NodesSchema)
    @api.doc(operationId="list_nodes")
    def list_nodes() -> dict[str, Any]:
        """List the boxes that report to this PostgreSQL

        While SQLite serves, they are listed as of a minute ago; when PostgreSQL could not be
        asked for longer, the answer is this box alone, and says partial.
        """
        own = _own_id(box)
        if box.database.dialect == "postgresql":
            nodes = _from_hub(box)
            fleet = None if nodes is None else Fleet(nodes, complete=True)
            silent = stale_after
        else:
            silent = stale_after + asked_every
            fleet = _from_drainer(box, own, silent)
        if fleet is None:
            return {"items": [_this(box, own)], "partial": True}
        return {
            "items": [
                {"stale": row["age"] > silent, "this": row["node_id"] == own, **row}
                for row in fleet.nodes
            ],
            "partial": not fleet.complete,
        }

    return api


def _from_hub(box: Box) -> list[dict[str, Any]] | None:
    """Return what the hub knows; None where its tables are not there (yet)."""
    from sqlalchemy import text

    with box.database.read() as session:
        if not session.execute(text(_IS_THERE)).scalar():
            return None
        rows = session.execute(text(_NODES)).mappings().all()
    return [{**row, "node_id": str(row["node_id"])} for row in rows]


def _from_drainer(box: Box, own: str | None, longest: float) -> Fleet | None:
    """Return what PostgreSQL answered sync up to *longest* seconds ago, this box as it is now."""
    if not box.contract.hub_url:
        return None
    found = read_fleet(box.paths, box.contract.generation, longest)
    if found is None:
        return None
    this = _this(box, own)
    nodes = []
    for row in found.nodes:
        if row["node_id"] == own:
            this["first_seen"] = row["first_seen"]
            nodes.append(this)
        else:
            nodes.append(row)
    if this not in nodes:
        nodes.append(this)
    return Fleet(nodes, found.complete)


def _this(
    box: Box, own: str | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Any:
    from edgepaas import __version__

    state = box.state()
    status = sync_status.read(box.paths)
    waiting_since = status.waiting_since if status is not None else None
    return {
        "node_id": own,
        "name": box.settings.text("NODE_NAME"),
        "version": __version__,
        "build": build_version(),
        "state": state.state,
        "rows_waiting": (state.forwarding or {}).get("rows_waiting", 0),
        "oldest_waiting": datetime.fromisoformat(waiting_since) if waiting_since else None,
        "clock_offset": status.clock_offset if status is not None else None,
        "first_seen": None,
        "last_seen": now(),
        "age": 0.0,
        "stale": False,
        "this": True,
    }


def _own_id(box: Box) -> str | None:
    try:
        return node_identity(box.paths).node_id
    except (OSError, LockHeld):
        return None  # a read-only disk: the others are still worth an answer
