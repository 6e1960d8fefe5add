# SPDX-License-Identifier: Apache-2.0
"""Whether the hub went back in time, asked beside the heartbeats: of all streams of the box.

A pooler may change the server behind an open session, and a box with nothing to send would
not notice.
"""

import logging
import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgepaas.files.locks import LockHeld
from edgepaas.marks.check import compare
from edgepaas.marks.record import read_record
from edgepaas.outbox.stream import read_stream
from edgepaas.sync.delivery.marks import is_in_step

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")


def compare_file(connection: sqlite3.Connection, hub: "Hub") -> bool:
    """Whether *hub* has all that it confirmed of the file's stream; raises what both raise."""
    stream = read_stream(connection)
    if stream is None or is_in_step(hub, stream):
        return True
    logger.info("PostgreSQL has another mark of the stream %s than this box", stream.stream_id)
    return False


def compare_connections(paths: "Paths", node_id: str, hub: "Hub") -> None:
    """Compare the marks of the service's connections with *hub*; raises HubError.

    By the box's record, which the service writes; where that cannot be read or written, the
    service's own comparison has to do.
    """

    def ask(sql: str) -> Sequence[Sequence[Any]]:
        return hub.query(sql)

    try:
        if read_record(paths, node_id) is not None:
            compare(ask, paths, node_id)
    except (OSError, LockHeld) as error:
        logger.warning("the marks of the connections are not compared: %s", error)
