# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL's side of the ledger: marks, counters, and the rows that are really there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.sync.hub.connection import Hub, open_hub

if TYPE_CHECKING:
    from edgepaas.settings import Settings

_TABLES = "SELECT to_regclass('sync_streams') IS NOT NULL"
_STREAMS = """
SELECT s.stream_id::text, s.base, s.mark, coalesce(s.batch::text, ''), s.rows, s.dead,
       s.conflicts, s.shed,
       (SELECT count(*) FROM sync_dead_letters d WHERE d.stream_id = s.stream_id),
       (SELECT count(*) FROM sync_dead_letters d
         WHERE d.stream_id = s.stream_id AND d.state = 'waiting'),
       (SELECT count(*) FROM sync_conflicts c WHERE c.stream_id = s.stream_id),
       (SELECT count(*) FROM sync_conflicts c WHERE c.stream_id = s.stream_id AND c.state = 'open'),
       (SELECT coalesce(sum(g.rows), 0)::bigint FROM sync_gaps g WHERE g.stream_id = s.stream_id)
FROM sync_streams s WHERE s.node_id = $1::text::uuid OR s.stream_id = $2::text::uuid
ORDER BY s.created_at, s.stream_id
"""
_HEARTBEAT = """
SELECT rows_waiting, to_char(last_seen AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
FROM nodes WHERE node_id = $1::text::uuid"""


@dataclass(frozen=True)
class HubStream:
    """A stream on the hub: its stored counters, and the rows counted to check them."""

    stream_id: str
    base: int
    mark: int
    batch: str
    rows: int
    dead: int
    conflicts: int
    shed: int
    dead_letters: int
    dead_letters_waiting: int
    conflicts_counted: int
    conflicts_open: int
    gap_rows: int


class HubReader:
    """Reads the hub in one snapshot and changes nothing there; raises HubError."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def streams(self, node_id: str, stream_id: str) -> list[HubStream]:
        """Return the streams of *node_id*, and *stream_id* whichever node it belongs to."""
        return [HubStream(*row) for row in self._hub.query(_STREAMS, node_id, stream_id)]

    def has_sync_tables(self) -> bool:
        """Whether the hub has the tables that forwarding uses."""
        return bool(self._hub.query(_TABLES)[0][0])

    def heartbeat(self, node_id: str) -> tuple[int, str] | None:
        """Return how many rows waited on the box *node_id* when it sent its last heartbeat, and
        when that was (RFC 3339); None where it never sent one.
        """
        rows = self._hub.query(_HEARTBEAT, node_id)
        return (int(rows[0][0]), str(rows[0][1])) if rows else None


def content_hub(settings: "Settings", url: str) -> Hub:
    """Return a connection over which the content of rows is compared; raises HubError."""
    return open_hub(settings, url, name="edgepaas-audit")


@contextmanager
def hub_reader(settings: "Settings", url: str) -> Iterator[HubReader]:
    """Yield a reader of the hub at *url*, within one snapshot; raises HubError."""
    with open_hub(settings, url, name="edgepaas-audit") as hub:
        hub.begin(snapshot=True)
        yield HubReader(hub)
        hub.rollback()
