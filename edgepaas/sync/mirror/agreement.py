# SPDX-License-Identifier: Apache-2.0
"""What a pass of the mirror finds of one table beside what both sides had agreed on.

A row of the box that nobody captured is not overwritten, nor deleted: the hub never had that
change, and the mirror would destroy the only copy of it. It stays for the audit.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgepaas.database.column_kinds import ColumnKind, column_kind
from edgepaas.outbox.reading import key_text
from edgepaas.outbox.resending.agreed_rows import (
    AgreedWriter,
    agreed_table,
    agreement,
    captured_since,
    digest_of,
    forget_tables,
    same_key,
)
from edgepaas.outbox.resending.recovery_state import read_history
from edgepaas.outbox.tables import quoted
from edgepaas.sync.content.digest import NoDigest, RowDigest
from edgepaas.sync.mirror.difference import Difference, Keys, MirroredTable
from edgepaas.sync.mirror.ordered_rows import HubRows, paired_rows

if TYPE_CHECKING:
    from edgepaas.outbox.resending.agreed_rows import Key

#: Changes that the hub confirms until a table is compared again, whether it changed or not: an
#: agreement holds as long as the outbox has all of them since.
RENEWED_EVERY = 10_000

Row = tuple[Any, ...]
Acknowledged = Callable[[], Mapping[str, frozenset[str]]]


class TableAgreement:
    """What was agreed on of the rows of *table*, read while a pass compares them."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        table: MirroredTable,
        known: tuple[RowDigest, str],
        acknowledged: Acknowledged,
    ) -> None:
        """*known*: as :func:`digest_and_shape` returns it; *acknowledged*: as read_acknowledged."""
        self.layout = table.layout
        self.shape = known[1]
        self._connection = connection
        self._digest = known[0]
        self._acknowledged = acknowledged
        #: None: nothing is known of what a difference comes from.
        self.found = agreement(connection, table.layout, self.shape)
        #: Keys that the hub alone has, and the box deleted past capture.
        self.kept: set[Key] = set()
        #: Whether -0.0 and 0.0, which are equal, have to be told apart.
        self._exact = any(column_kind(one.type) is ColumnKind.FLOAT for one in self.layout.columns)

    @property
    def joined(self) -> str:
        """The table of the digests, to be read along with the rows; empty: there is none."""
        return "" if self.found is None else agreed_table(self.layout.table)

    def is_due(self, confirmed: int) -> bool:
        """Whether the rows are to be compared though the hub's did not change."""
        return self.found is None or confirmed - self.found.position >= RENEWED_EVERY

    def compare(
        self, connection: sqlite3.Connection, hub_rows: HubRows, difference: Difference
    ) -> None:
        """Store in *difference* what differs, and what both sides agree on by now."""
        width = len(self.layout.columns)
        for row, there in paired_rows(connection, hub_rows, self.joined):
            if there is None:
                if row is not None:
                    self._alone_there(row, difference)
                continue
            own = there[:width]
            known, agreed = there[width:] if self.joined else (None, 0)
            if row is None:
                self._alone_here(own, agreed == 1, difference)
            else:
                self._on_both(row, own, (known, agreed == 1), difference)

    def _alone_here(self, row: Row, agreed: bool, difference: Difference) -> None:
        """Decide about a *row* that the box alone has; *agreed*: both sides had it once."""
        key = self._key(row)
        if self.found is None or agreed or self._is_explained(key):
            difference.delete(key)
        else:
            difference.uncaptured += 1

    def _alone_there(self, row: Row, difference: Difference) -> None:
        """Decide about a *row* that the hub alone has."""
        key, digest = self._key(row), self.digest(row)
        known = None if self.found is None else digest_of(self._connection, self.layout, key)
        if known is None or known[0] is None or known[0] != digest or self._is_explained(key):
            difference.write(row, digest)
        else:
            difference.uncaptured += 1
            self.kept.add(key)

    def _on_both(
        self, row: Row, own: Row, known: tuple[int | None, bool], difference: Difference
    ) -> None:
        """Decide about a *row* that both have; *known*: its digest, and whether there is one."""
        digest = self.digest(row)
        if row == own:
            if self._exact and repr(row) != repr(own):
                digest = None
            if known != (digest, True):
                difference.agree(self._key(row), digest)
        elif known[0] is None or known[0] != digest or self._is_explained(self._key(row)):
            difference.write(row, digest)
        else:
            difference.uncaptured += 1

    def digest(self, row: Row) -> int | None:
        """Return the digest of *row*; None where it has none."""
        try:
            return self._digest.of(row)
        except NoDigest:
            return None

    def _key(self, row: Row) -> "Key":
        return tuple(row[position] for position in self.layout.key_positions)

    def _is_explained(self, key: "Key") -> bool:
        return key in self._captured or key_text(key) in self._known_to_operator

    @cached_property
    def _captured(self) -> "set[Key]":
        return set() if self.found is None else captured_since(self._connection, self.found)

    @cached_property
    def _known_to_operator(self) -> frozenset[str]:
        return self._acknowledged().get(self.layout.table, frozenset())


class AgreementRecorder:
    """Notes what both sides have, inside the transaction that applies a pass."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        compared: Mapping[str, TableAgreement],
        position: int,
        gone: Sequence[str],
    ) -> None:
        """*compared*: the tables of the pass; *position*: what the hub had confirmed before it.

        *gone*: the tables that are mirrored no more.
        """
        self._gone_tables = gone
        self._connection = connection
        self._compared = compared
        self._position = position
        self._writer = AgreedWriter(connection)
        self._before = read_history(connection)

    def begin(self) -> None:
        """Make the tables of the digests, and drop those of tables that are no more."""
        forget_tables(self._connection, self._gone_tables)
        for one in self._compared.values():
            self._writer.begin(one.layout, anew=one.found is None)

    def wrote(self, table: MirroredTable, row: Row, digest: int | None) -> None:
        """Note a *row* that was written: as agreed, if the file holds it as it is."""
        one = self._compared.get(table.name)
        if one is None:
            return
        key = tuple(row[position] for position in table.key_positions)
        names = ", ".join(quoted(name) for name in table.names)
        where = " AND ".join(f"{quoted(name)} IS ?" for name in table.layout.key)
        stored = self._connection.execute(
            f"SELECT {names} FROM {quoted(table.name)} WHERE {where}",  # noqa: S608
            key,
        ).fetchone()
        same = repr(stored) == repr(row)
        self._writer.agree(one.layout, [(*key, digest if same else None)])

    def left(self, table: MirroredTable, key: "Key") -> None:
        """Note a row that could not be applied, now: what it is compared with is not known."""
        one = self._compared.get(table.name)
        if one is not None and digest_of(self._connection, one.layout, key) is not None:
            self._writer.agree(one.layout, [(*key, None)])

    def end(self, found: Sequence[tuple[MirroredTable, Difference]], waiting: Keys) -> None:
        """Note all else; after everything was applied, and the mark of the history noted."""
        for table, difference in found:
            one = self._compared.get(table.name)
            if one is None:
                continue
            width = len(one.layout.key)
            self._writer.agree(
                one.layout,
                (
                    (*row[1 : width + 1], row[0])
                    for row in difference.with_digests("A")
                    if (table.name, row[1 : width + 1]) not in waiting
                ),
            )
            self._writer.forget(one.layout, self._gone(one))
        shapes = {name: one.shape for name, one in self._compared.items()}
        self._writer.compared(shapes, self._position)
        self._writer.moved(self._before)

    def _gone(self, one: TableAgreement) -> list["Key"]:
        """Return the keys that neither side has any more."""
        keys = ", ".join(f"k{number}" for number in range(len(one.layout.key)))
        rows = self._connection.execute(
            f"SELECT {keys} FROM {agreed_table(one.layout.table)} a WHERE NOT EXISTS "  # noqa: S608
            f"(SELECT 1 FROM {quoted(one.layout.table)} t WHERE {same_key(one.layout, 't')})"
        )
        return [key for key in rows if key not in one.kept]
