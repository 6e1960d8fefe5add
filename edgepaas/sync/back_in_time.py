# SPDX-License-Identifier: Apache-2.0
"""Whether the hub went back in time, asked beside the heartbeats: of all streams of the box.

A pooler may change the server behind an open session, and a box with nothing to send would
not notice.
"""

import logging
import sqlite3
from typing import TYPE_CHECKING

from edgepaas.outbox.resending.recovery_state import note_broken, read_history
from edgepaas.outbox.stream import read_stream
from edgepaas.sync.delivery.marks import is_in_step
from edgepaas.sync.hub.history import can_keep_history, is_whole

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")


def compare_file(connection: sqlite3.Connection, hub: "Hub") -> bool:
    """Whether *hub* has all that it confirmed of the file's stream; raises what both raise."""
    stream = read_stream(connection)
    if stream is None or is_in_step(hub, stream):
        return True
    logger.info("PostgreSQL has another mark of the stream %s than this box", stream.stream_id)
    return False


def compare_history(connection: sqlite3.Connection, hub: "Hub") -> bool:
    """Whether *hub* has all that the file mirrored from it; raises what both raise.

    Where it has not, the file notes it (edgepaas.sync.resend.recovery).
    """
    known = read_history(connection)
    if known.broken:
        return False
    if not can_keep_history(hub) or is_whole(hub, known):
        return True
    logger.warning("PostgreSQL went back in time: it lacks what this box had mirrored from it")
    note_broken(connection)
    return False
