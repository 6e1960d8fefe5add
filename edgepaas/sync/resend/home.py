# SPDX-License-Identifier: Apache-2.0
"""Shared rows that a hub has lost and this box still has: found, to be sent before all that waits.

A hub that went back in time lacks rows that the outbox has long given up, and rows that other
boxes made and this one mirrored. What waits may point to them.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from edgepaas.database.reserved_names import OUTBOX
from edgepaas.outbox import tables
from edgepaas.outbox.layout import Layout, registered, stored_layouts
from edgepaas.outbox.reading import exact_rows
from edgepaas.outbox.references import Reference, references
from edgepaas.outbox.resending.hub_tables import made_anew
from edgepaas.outbox.resending.insertion import Change, Transaction
from edgepaas.outbox.tables import quoted
from edgepaas.outbox.triggers import values_of
from edgepaas.sync.hub.tombstones import deleted_keys
from edgepaas.sync.mirror.fingerprints import read_fingerprints
from edgepaas.sync.mirror.mirror import shared_tables
from edgepaas.sync.mirror.ordered_rows import HubRows, paired_rows

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.mirror.difference import MirroredTable

#: Rows of the outbox that are in memory at a time.
_PAGE = 500

Key = tuple[Any, ...]


@dataclass(frozen=True)
class _Waiting:
    """The first change of a row that waits; *old*: the row before it, of an update."""

    seq: int
    op: str
    layout: int
    old: Sequence[Any] | None


class MissingRows(NamedTuple):
    """Inserts of shared rows; *identities*: PostgreSQL's oid of each table that lacks them."""

    transactions: Sequence[Transaction] = ()
    identities: Mapping[str, int] = MappingProxyType({})


def missing_shared_rows(
    connection: sqlite3.Connection,
    hub: "Hub",
    document: Mapping[str, Any],
    *,
    confirmed: int,
    differing: bool,
) -> MissingRows:
    """Return inserts of the shared rows that *hub* lacks and nobody deleted there, parents first.

    *document* is tables.json's. Rows whose insert waits, numbered above *confirmed*, are left
    out; those of which only a change waits are returned as they were before it. *differing*:
    also rows that have other values there, so that both are kept as a conflict; so are those
    of a table that was made anew.

    Inside the hub's transaction. Raises HubError, MirrorPostponed, sqlite3.Error.
    """
    mirrored = shared_tables(document, hub)
    if not mirrored:
        return MissingRows()
    with tables.transaction(connection):
        stored = {one.table: one for one in registered(connection, [t.layout for t in mirrored])}
    waiting = _first_waiting(connection, confirmed)
    layouts = stored_layouts(connection)
    found = references(connection)
    changes: list[Change] = []
    there = read_fingerprints(hub, mirrored)
    anew = made_anew(connection, there.identities)
    for table, fingerprint in zip(mirrored, there.tables, strict=True):
        layout = stored[table.name]
        differs = differing or table.name in anew
        keys = list(_keys(connection, hub, table, fingerprint.largest, differing=differs))
        gone = deleted_keys(hub, table.name, keys)
        rows = {
            key: row
            for key in keys
            if key not in gone
            and (row := _row(connection, layout, key, waiting.get((table.name, key)))) is not None
        }
        own = [one for one in found if one.child == one.parent == table.name]
        changes += _in_order(rows, layouts, own)
    return MissingRows([Transaction(0, [change]) for change in changes], there.identities)


def _keys(
    connection: sqlite3.Connection,
    hub: "Hub",
    table: "MirroredTable",
    largest: int,
    *,
    differing: bool,
) -> Iterator[Key]:
    positions = table.key_positions
    for row, own in paired_rows(connection, HubRows(hub, table, largest, lambda: None)):
        if own is not None and (row is None or (differing and row != own)):
            yield tuple(own[position] for position in positions)


def _first_waiting(
    connection: sqlite3.Connection, confirmed: int
) -> dict[tuple[str, Key], _Waiting]:
    """Return by table and key the first change of each shared row that waits."""
    found: dict[tuple[str, Key], _Waiting] = {}
    for identity, layout in stored_layouts(connection).items():
        if layout.kind != "shared":
            continue
        width = len(layout.columns)
        after = confirmed
        while page := exact_rows(
            connection,
            f"SELECT seq, op, {values_of(2 * width)} FROM {OUTBOX} "  # noqa: S608
            f"WHERE seq > ? AND layout = ? ORDER BY seq LIMIT {_PAGE}",
            (after, identity),
        ):
            after = page[-1][0]
            for seq, op, *values in page:
                key = tuple(values[position] for position in layout.key_positions)
                known = found.get((layout.table, key))
                if known is None or seq < known.seq:
                    old = values[width : 2 * width] if op == "U" else None
                    found[layout.table, key] = _Waiting(seq, op, identity, old)
    return found


def _row(
    connection: sqlite3.Connection, layout: Layout, key: Key, waiting: _Waiting | None
) -> Change | None:
    """Return the insert of the row *key* as it was before what waits; None: not needed."""
    if waiting is not None:
        if waiting.old is None:
            return None  # its insert waits, or it is deleted by what waits
        return Change(waiting.layout, "I", waiting.old)
    names = ", ".join(quoted(name) for name in layout.names)
    where = " AND ".join(f"{quoted(name)} IS ?" for name in layout.key)
    rows = exact_rows(
        connection,
        f"SELECT {names} FROM {quoted(layout.table)} WHERE {where}",  # noqa: S608
        key,
    )
    return Change(layout.id, "I", rows[0]) if rows else None


def _in_order(
    rows: Mapping[Key, Change], layouts: Mapping[int, Layout], own: Sequence[Reference]
) -> Iterator[Change]:
    """Give *rows* so that each comes after those of its own table that it points to.

    *own* are the foreign keys from the table to itself.
    """
    todo = dict(rows)
    while own and todo:
        there = [{_values(change, layouts, one.targets) for change in todo.values()} for one in own]
        free = [
            key
            for key, change in todo.items()
            if all(
                (points := _values(change, layouts, one.columns)) not in targets
                or points == _values(change, layouts, one.targets)
                for one, targets in zip(own, there, strict=True)
            )
        ]
        if not free:
            break  # rows that point to each other in a circle come in no order that would help
        for key in free:
            yield todo.pop(key)
    yield from todo.values()


def _values(change: Change, layouts: Mapping[int, Layout], names: Sequence[str]) -> Key:
    known = layouts[change.layout].names
    return tuple(change.values[known.index(name)] if name in known else None for name in names)
