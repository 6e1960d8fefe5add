# SPDX-License-Identifier: Apache-2.0
"""Dead letters and conflicts, which the hub keeps for an operator: list, look up, settle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgepaas.errors import EdgePaaSError
from edgepaas.sync.delivery.values import decode

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub

Kind = Literal["dead-letters", "conflicts"]

_TABLE: dict[Kind, str] = {"dead-letters": "sync_dead_letters", "conflicts": "sync_conflicts"}
#: The state of an entry that waits for an operator.
WAITING: dict[Kind, str] = {"dead-letters": "waiting", "conflicts": "open"}
_DETAILS: dict[Kind, str] = {
    "dead-letters": "op, sqlstate, message, new, old",
    "conflicts": "reason, hub, box",
}


class EntryNotFound(EdgePaaSError):
    """No entry has this id, or several ids begin with it."""


@dataclass(frozen=True)
class Entry:
    """One dead letter or conflict; times are text as PostgreSQL writes them, in UTC."""

    id: str
    node: str
    node_id: str
    stream_id: str
    seq: int
    table: str
    key: str
    state: str
    created_at: str
    settled_at: str | None
    #: What differs by kind: op, sqlstate, message, new, old; or reason, hub, box.
    details: Mapping[str, Any]

    @property
    def summary(self) -> str:
        """The reason, in one line."""
        details = self.details
        if "message" in details:
            code = f" ({details['sqlstate']})" if details["sqlstate"] else ""
            return f"{details['op']}: {details['message']}{code}"
        return str(details["reason"])

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``; values as in edgepaas/sync/delivery/values.py."""
        return {**self.__dict__, "details": dict(self.details)}


def list_entries(
    hub: "Hub",
    kind: Kind,
    *,
    node_id: str = "",
    settled: bool = False,
    limit: int = 1000,
) -> list[Entry]:
    """Return the entries of *node_id* (empty: of every box), the oldest first.

    Only those that wait; with *settled* also the others. Raises HubError.
    """
    return _query(
        hub,
        kind,
        "($1 = '' OR e.node_id::text = $1) AND ($2 = '' OR e.state = $2)",
        (node_id, "" if settled else WAITING[kind]),
        limit,
    )


def find_entry(hub: "Hub", kind: Kind, wanted: str) -> Entry:
    """Return the entry whose id is, or begins with, *wanted*; raises EntryNotFound, HubError."""
    found = _query(
        hub, kind, "starts_with(e.id::text, $1) AND $2 = ''", (wanted.strip().lower(), ""), 2
    )
    noun = kind.removesuffix("s").replace("-", " ")
    if not wanted.strip() or not found:
        raise EntryNotFound(f"there is no {noun} {wanted}: 'edgepaas sync {kind}' lists them")
    if len(found) > 1:
        raise EntryNotFound(f"several {noun}s begin with {wanted}: give more of the id")
    return found[0]


def settle_conflicts(hub: "Hub", ids: Sequence[str]) -> int:
    """Mark the conflicts *ids* as settled; returns how many were open. Raises HubError."""
    settled = hub.query(
        "UPDATE sync_conflicts SET state = 'settled', settled_at = now() "
        "WHERE id = ANY ($1::text::uuid[]) AND state = 'open' RETURNING 1",
        _ids(ids),
    )
    return len(settled)


def retry_all(
    hub: "Hub", chosen: Sequence[Entry], models: Mapping[str, Any]
) -> tuple[int, list[str]]:
    """Apply the dead letters *chosen* again, those of each row in their order.

    Returns how many were applied, and for each row that is refused again the reason.
    *models*: ``tables`` of tables.json. Raises DeadLetterNotFound, HubError.
    """
    from edgepaas.sync.delivery.dead_letters import retry

    applied, problems = 0, []
    # The first of each row; those after it are applied with it.
    first = {(one.node_id, one.table, one.key): one for one in reversed(chosen)}
    for one in reversed(first.values()):
        done = retry(hub, one.id, models=models)
        applied += done.applied
        if done.waiting:
            problems.append(f"{one.table} {one.key}: {done.message} ({done.waiting} wait)")
    return applied, problems


def discard_all(hub: "Hub", chosen: Sequence[Entry]) -> int:
    """Discard the dead letters *chosen*; returns how many. Raises DeadLetterNotFound, HubError."""
    from edgepaas.sync.delivery.dead_letters import discard

    for one in chosen:
        discard(hub, one.id)
    return len(chosen)


def display_value(value: Any) -> str:
    """Return a stored value for display: text as it is, unprintable text quoted, bytes in hex."""
    if value is None:
        return "NULL"
    try:
        decoded = decode(value)
    except ValueError:
        return str(value)
    if isinstance(decoded, bytes):
        return f"0x{decoded.hex()}"
    text = str(decoded)
    return text if text.isprintable() else ascii(text)


def _ids(ids: Sequence[str]) -> str:
    return "{" + ",".join(ids) + "}"


def _query(
    hub: "Hub", kind: Kind, condition: str, values: tuple[str, str], limit: int
) -> list[Entry]:
    names = [name.strip() for name in _DETAILS[kind].split(",")]
    rows = hub.query(
        "SELECT e.id::text, coalesce(n.name, ''), e.node_id::text, e.stream_id::text, e.seq, "  # noqa: S608
        f"e.tbl, e.row_key, e.state, {_utc_text('e.created_at')}, {_utc_text('e.settled_at')}, "
        + ", ".join(f"e.{name}" for name in names)
        + f" FROM {_TABLE[kind]} e LEFT JOIN nodes n ON n.node_id = e.node_id "
        f"WHERE {condition.replace('$1', '$1::text').replace('$2', '$2::text')} "
        f"ORDER BY e.created_at, e.stream_id, e.seq LIMIT {int(limit)}",
        *values,
    )
    return [
        Entry(*row[:10], details=dict(zip(names, row[10:], strict=True)))  # type: ignore[misc]
        for row in rows
    ]


def _utc_text(column: str) -> str:
    return f"""to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"""
