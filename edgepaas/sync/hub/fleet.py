# SPDX-License-Identifier: Apache-2.0
"""``run/nodes.json``: all boxes that the hub knows, for a service that runs on SQLite.

Such a service has no connection to the hub and reads them from this file. Standard library only.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edgepaas.files import shapes
from edgepaas.files.atomic import write_unsynced
from edgepaas.files.records import RecordType, same_fields
from edgepaas.timing.moment import current_moment, read_moment

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths
    from edgepaas.sync.hub.connection import Hub

#: The list of boxes is read with every fourth heartbeat.
HEARTBEATS_PER_FLEET_READ = 4
#: The most boxes that the file holds.
MAX_NODES = 1000

# One JSON text, which goes into the file as it is. Ages are by PostgreSQL's clock, which also
# set last_seen: a box's own clock may be wrong by years.
_NODES = """
SELECT json_build_object('all', (SELECT count(*) FROM nodes), 'nodes',
  coalesce(json_agg(n ORDER BY n.name, n.node_id), '[]'::json))::text
FROM (SELECT node_id, name, version, build, state, rows_waiting, oldest_waiting, clock_offset,
       first_seen, last_seen, extract(epoch FROM now() - last_seen)::float8 AS age
  FROM nodes ORDER BY name, node_id LIMIT $1::int) AS n"""

_NODE = {
    **dict.fromkeys(("node_id", "name", "version", "build", "state"), shapes.text),
    "rows_waiting": shapes.whole,
    "oldest_waiting": shapes.optional(shapes.text),
    "clock_offset": shapes.optional(shapes.number),
    "first_seen": shapes.optional(shapes.text),
    "last_seen": shapes.optional(shapes.text),
    "age": shapes.number,
}
#: ``run/nodes.json``; "found" is the answer to :data:`_NODES`.
RECORD = RecordType(
    "fleet",
    2,
    {
        "read": shapes.object_of({"generation": shapes.text, "moment": shapes.moment}),
        "found": shapes.object_of(
            {"all": shapes.whole, "nodes": shapes.list_of(shapes.object_of(_NODE))}
        ),
    },
    {1: same_fields},
)

logger = logging.getLogger("edgepaas.sync")


def write_fleet(hub: "Hub", paths: "Paths", generation: str) -> None:
    """Write the boxes that *hub* knows to ``run/nodes.json``; raises what *hub* raises.

    *generation* is that of the decision. A failure to write the file is only logged.
    """
    read = json.dumps({"generation": generation, "moment": current_moment().as_dict()})
    ((found,),) = hub.query(_NODES, MAX_NODES)
    try:
        write_unsynced(paths.fleet, RECORD.header() + f'"read": {read},\n"found": {found}}}\n')
    except OSError as error:
        logger.warning("%s cannot be written: %s", paths.fleet, error)


@dataclass(frozen=True)
class Fleet:
    """Boxes as rows of the hub's ``nodes``, with ``age``: seconds since the last heartbeat.

    ``complete``: whether these are all boxes that the hub knew.
    """

    nodes: list[dict[str, Any]]
    complete: bool


def read_fleet(paths: "Paths", generation: str, longest: float) -> Fleet | None:
    """Return the boxes written under *generation* at most *longest* seconds ago.

    Their ages include the time since then. None where the file is missing or unreadable.
    """
    entry = RECORD.read_or_none(paths.fleet)
    if entry is None:
        return None
    try:
        if entry["read"]["generation"] != generation:
            return None
        then, now = read_moment(entry["read"]["moment"]), current_moment()
        passed = now.seconds_since(then)
        # Across a reboot only the wall clock would tell, and that can be set.
        if not now.same_boot(then) or passed is None or passed > longest:
            return None
        nodes = [_node(one, passed) for one in entry["found"]["nodes"]]
        return Fleet(nodes, complete=len(nodes) == entry["found"]["all"])
    except ValueError:  # a moment that is none
        return None


def _node(entry: Mapping[str, Any], passed: float) -> dict[str, Any]:
    moments = {name: _moment(entry[name]) for name in ("oldest_waiting", "first_seen", "last_seen")}
    return {**entry, **moments, "age": entry["age"] + passed}


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
