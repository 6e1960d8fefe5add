# SPDX-License-Identifier: Apache-2.0
"""A pass of the mirror: the hub's shared tables are copied into the SQLite file.

A pass reads one snapshot of the hub. A fingerprint of each table tells which have changed; the
rows of those are read in the order of the key beside the box's own, and differences are stored
in temporary tables. Only then is the file written, in one transaction, with capture off, and
never over a key that waits in the outbox: there the box has the newer value.

What a hub does not have any more is deleted here only while its history is whole: the snapshot
in which it is missing has every mark that the hub had confirmed (edgepaas.sync.hub.history).
The pass moves the mark itself, in the transaction of the snapshot: through a pooler, the next
statement might reach another server.
"""

import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgepaas.database.reserved_names import OUTBOX
from edgepaas.outbox.layout import Layout, forwarded_layouts, stored_layouts
from edgepaas.outbox.reading import next_batch
from edgepaas.outbox.resending.hub_tables import note_identities
from edgepaas.outbox.resending.recovery_state import HistoryMark
from edgepaas.outbox.revisions.naming import Naming
from edgepaas.outbox.revisions.record import RevisionRecord, read_record
from edgepaas.outbox.stream import read_stream
from edgepaas.sync.hub.revisions import unchanged_statements
from edgepaas.sync.hub.tombstones import deleted_keys
from edgepaas.sync.mirror.difference import Difference, Keys, MirroredTable, apply
from edgepaas.sync.mirror.fingerprints import read_fingerprints
from edgepaas.sync.mirror.ordered_rows import (
    PAGE,
    HubRows,
    MirrorPostponed,
    paired_rows,
)
from edgepaas.sync.mirror.proof import (
    Proof,
    prove_history,
    require_same_tables,
    require_whole_history,
)
from edgepaas.sync.mirror.stored_values import stored_column

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

#: The most rows that may wait in the outbox while a pass is made.
MAX_WAITING = 1000


@dataclass(frozen=True)
class PassResult:
    """Rows in the hub's shared tables, and how many were written, deleted and skipped here."""

    rows: int = 0
    written: int = 0
    deleted: int = 0
    #: They wait in the outbox, or violate a constraint now: left for the next pass.
    skipped: int = 0


@dataclass
class Mirror:
    """Makes passes over the shared tables of *document* (run/tables.json)."""

    document: Mapping[str, Any]
    #: Raises to abandon the pass.
    check: Callable[[], None] = lambda: None
    #: Applies to the file what this box itself changed on the hub; returns how many rows.
    copy_own: Callable[[sqlite3.Connection], int] = lambda _: 0
    #: Returns the keys that the box changed on the hub, and of which the snapshot knows nothing.
    changed_since: Callable[["Hub"], Keys] = lambda _: set()
    #: The hub's fingerprint of each table that was the same on both sides.
    _fingerprints: dict[str, str] = field(default_factory=dict)
    #: The stream, and up to which row the hub had confirmed it then.
    _stream: str = ""
    _position: int = 0

    def compare_everything(self) -> None:
        """Compare every row in the next pass, since the box's own may have changed."""
        self._fingerprints.clear()

    def run(self, connection: sqlite3.Connection, hub: "Hub") -> PassResult:
        """Make a pass. Raises what *hub* raises, MirrorPostponed, sqlite3.Error.

        HistoryBroken among those that postpone it: the next batch sends again what was lost.
        """
        if not any(layout.kind == "shared" for layout in forwarded_layouts(self.document)):
            return PassResult()
        if self.copy_own(connection):
            self.compare_everything()
        self._check_own_deliveries(connection)
        # The temporary tables lie in a file: a large difference must not take memory.
        connection.execute("PRAGMA temp_store=FILE")
        found: list[tuple[MirroredTable, Difference]] = []
        unreadable: set[str] = set()
        total = 0
        known = require_whole_history(connection)
        hub.begin(snapshot=True, writing=True)
        try:
            # What the connection knows of the hub's names may be old.
            hub.run(unchanged_statements(hub.revisions))
            tables = shared_tables(self.document, hub, read_record(connection))
            there = read_fingerprints(hub, tables)
            for table, fingerprint in zip(tables, there.tables, strict=True):
                total += fingerprint.rows
                if self._fingerprints.get(table.name) == fingerprint.content:
                    continue
                self._fingerprints[table.name] = fingerprint.content
                difference = Difference(connection, len(found), table)
                found.append((table, difference))
                if not self._compare(
                    connection, HubRows(hub, table, fingerprint.largest, self.check), difference
                ):
                    unreadable.add(table.name)
            alone: Keys = set()
            proof = Proof()
            if any(difference.count for _, difference in found):
                require_same_tables(connection, there.identities, found)
                alone = self.changed_since(hub)
                proof = _prove(connection, hub, known, found)
            hub.rollback()
            result = apply(connection, found, lambda c: waiting_keys(c) | alone, proof.note)
            note_identities(connection, there.identities)
        except BaseException:
            hub.rollback()
            for table, _ in found:
                self._fingerprints.pop(table.name, None)
            raise
        finally:
            for _, difference in found:
                difference.discard()
        for name in unreadable | result.incomplete:
            self._fingerprints.pop(name, None)
        return PassResult(total, result.written, result.deleted, result.skipped)

    def _check_own_deliveries(self, connection: sqlite3.Connection) -> None:
        """Compare everything if shared rows of the box were delivered since the last pass.

        A change that the hub refused, or that lost against a delete, left the hub unchanged,
        and with it the fingerprint; the box's row differs all the same.
        """
        stream = read_stream(connection)
        if stream is None:
            return
        shared = [i for i, layout in stored_layouts(connection).items() if layout.kind == "shared"]
        changed = (
            stream.stream_id != self._stream
            or connection.execute(
                f"SELECT 1 FROM {OUTBOX} WHERE seq > ? AND seq <= ? "  # noqa: S608
                f"AND layout IN ({', '.join(map(str, shared))}) LIMIT 1",
                (self._position, stream.confirmed_seq),
            ).fetchone()
        )
        if changed:
            self.compare_everything()
        self._stream, self._position = stream.stream_id, stream.confirmed_seq

    @staticmethod
    def _compare(connection: sqlite3.Connection, hub_rows: HubRows, difference: Difference) -> bool:
        """Store what differs; returns False when the hub has a row that the box cannot hold."""
        positions = hub_rows.table.key_positions
        for row, own in paired_rows(connection, hub_rows):
            if row is None and own is not None:
                difference.delete(tuple(own[position] for position in positions))
            elif row is not None and row != own:
                difference.write(row)
        difference.flush()
        return not hub_rows.unreadable


def _prove(
    connection: sqlite3.Connection,
    hub: "Hub",
    known: HistoryMark,
    found: Sequence[tuple[MirroredTable, Difference]],
) -> Proof:
    """Have the snapshot prove that what differs is no loss, and commit it; or raise."""
    proof = prove_history(connection, hub, known)
    if proof.mark is None:
        for table, difference in found:
            keys = [row[: len(table.layout.key)] for row in difference.rows("D")]
            difference.deletable = deleted_keys(hub, table.hub_name, keys)
    hub.commit()
    return proof


def shared_tables(
    document: Mapping[str, Any], hub: "Hub", record: RevisionRecord | None = None
) -> list[MirroredTable]:
    """Return the shared tables that the hub has, parents first, with the columns that it has.

    *record*: what revisions renamed in the file; the hub may be at another one.
    """
    naming = Naming(hub.revisions, record or RevisionRecord())
    layouts = [layout for layout in forwarded_layouts(document) if layout.kind == "shared"]
    foreign = {name: set(table.get("foreign", ())) for name, table in document["tables"].items()}
    found = []
    for layout in layouts:
        names = naming.at_hub(layout)
        if names.table is None or names.table not in hub.tables or names.ambiguous:
            continue
        there = hub.tables[names.table].columns
        columns = tuple(
            stored_column(column, now)
            for column, now in zip(layout.columns, names.columns.values(), strict=True)
            if now is not None and now in there
        )
        if set(layout.key) <= {column.name for column in columns}:
            children = _children(layout.table, foreign)
            found.append(MirroredTable(layout, columns, children, names.table))
    return found


def waiting_keys(connection: sqlite3.Connection) -> Keys:
    """Return (table, key) of each change that the hub has not confirmed, as they are called now.

    Raises MirrorPostponed when there are too many: they have to be delivered first.
    """
    stream = read_stream(connection)
    if stream is None:
        return set()
    keys: Keys = set()
    naming = Naming(box=read_record(connection))
    tables: dict[Layout, str] = {}
    after = stream.confirmed_seq
    while (batch := next_batch(connection, after, rows=PAGE)) is not None:
        for chunk in batch.chunks():
            for layout in {change.layout for change in chunk if change.layout not in tables}:
                tables[layout] = naming.at_box(layout).table or layout.table
            keys.update((tables[change.layout], change.key) for change in chunk)
            if len(keys) > MAX_WAITING:
                raise MirrorPostponed(f"more than {MAX_WAITING} rows wait to be sent first")
        after = batch.last_seq
    return keys


def _children(table: str, foreign: Mapping[str, set[str]]) -> frozenset[str]:
    found: set[str] = set()
    todo = [table]
    while todo:
        parent = todo.pop()
        for child, parents in foreign.items():
            if parent in parents and child not in found:
                found.add(child)
                todo.append(child)
    return frozenset(found)
