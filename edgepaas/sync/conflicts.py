"""Values that met on the hub and could not both stay: kept there until a person looked."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from edgepaas.errors import EdgePaaSError
from edgepaas.sync import values
from edgepaas.sync.hub import Hub


@dataclass(frozen=True)
class Conflict:
    """One of the hub's: what it had and what the box brought, by column, as text.

    Of an update only the columns that it changed. ``hub`` is None where the row was not
    there. ``reason`` says which of the two stayed.
    """

    id: UUID
    node_id: UUID
    stream_id: UUID
    seq: int
    table: str
    row_key: str
    reason: str
    hub: dict[str, values.Kept] | None
    box: dict[str, values.Kept] | None
    state: str
    created_at: datetime
    settled_at: datetime | None


class NoSuchConflict(EdgePaaSError):
    """There is no such conflict, or it is settled."""


_COLUMNS = (
    "id, node_id, stream_id, seq, tbl, row_key, reason, hub, box, state, created_at, settled_at"
)


def list_open(hub: Hub, *, node_id: str | None = None, limit: int = 1000) -> list[Conflict]:
    """Return the open conflicts, oldest first: of one node, or of all; raises HubError."""
    rows = hub.query(
        f"SELECT {_COLUMNS} FROM sync_conflicts "  # noqa: S608
        "WHERE state = 'open' AND ($1::uuid IS NULL OR node_id = $1::uuid) "
        "ORDER BY created_at, stream_id, seq LIMIT $2::bigint",
        node_id,
        limit,
    )
    return [Conflict(*row) for row in rows]


def count_open(hub: Hub, *, node_id: str | None = None) -> int:
    """Return how many conflicts are open: of one node, or of all; raises HubError."""
    rows = hub.query(
        "SELECT count(*) FROM sync_conflicts "
        "WHERE state = 'open' AND ($1::uuid IS NULL OR node_id = $1::uuid)",
        node_id,
    )
    return int(rows[0][0])


def settle(hub: Hub, conflict: UUID | str) -> None:
    """Close the conflict: a person has looked, and what the hub has is right by now.

    Raises NoSuchConflict, HubError.
    """
    try:
        identity = UUID(str(conflict))
    except ValueError:
        raise NoSuchConflict(f"{conflict!r} is no conflict's id") from None
    settled = hub.query(
        "UPDATE sync_conflicts SET state = 'settled', settled_at = now() "
        "WHERE id = $1::uuid AND state = 'open' RETURNING id",
        str(identity),
    )
    if not settled:
        raise NoSuchConflict(f"the hub has no open conflict {identity}")
