# SPDX-License-Identifier: Apache-2.0
"""Comparing the content of the box's own rows with the hub's: a chunk, and then its rows.

The keys of some thousand rows are sent along, and the hub answers with the number and the sum
of the digests of its rows under them. Where these differ from the box's it is asked for the
digest of each: one more round trip, where halving would take one for each half.
"""

import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgepaas.outbox.layout import Layout
from edgepaas.outbox.reading import bounded_key, key_text
from edgepaas.outbox.revisions.naming import Naming
from edgepaas.outbox.revisions.record import RevisionRecord, read_record
from edgepaas.pgdriver.pipeline import Statement
from edgepaas.sync.content.digest import NoDigest, RowDigest, row_digest
from edgepaas.sync.delivery import values
from edgepaas.sync.delivery.column_mapping import ColumnMapping, TableDropped, map_columns
from edgepaas.sync.delivery.values import UnsendableValue
from edgepaas.sync.errors import RowRefused, SchemaDrift
from edgepaas.sync.hub.catalog import HubTable
from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

Row = Sequence[Any]
#: missing: the hub has no row of this key; differs: it has one with other content; doubled: it
#: has several, since its table has lost its key.
Kind = Literal["missing", "differs", "doubled"]
#: Why a row is not in place, where the hub's own tables say so.
Reason = Literal["waiting", "discarded", "deleted", "conflict"]

# With a key at hand the planner still reads the whole table where it takes some thousand rows
# for many; then each chunk costs as much as all of them.
_BY_KEY: Statement = (
    "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true), "
    "set_config('enable_mergejoin', 'off', true)",
    (),
)
_AS_BEFORE: Statement = (_BY_KEY[0].replace("'off'", "'on'"), ())
_REASONS: tuple[tuple[Reason, str], ...] = (
    ("waiting", "sync_dead_letters WHERE state = 'waiting' AND"),
    ("deleted", "sync_tombstones WHERE"),
    ("discarded", "sync_dead_letters WHERE state = 'discarded' AND"),
    ("conflict", "sync_conflicts WHERE"),
)


class NotComparable(Exception):
    """The rows of a table cannot be compared with the hub's; the message says why."""


@dataclass(frozen=True)
class ComparedTable:
    """A table whose rows can be compared; *problems* say what could not be."""

    mapping: ColumnMapping
    digest: RowDigest
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """A row that is not on the hub as the box has it; *reason*: what explains it, if anything."""

    layout: Layout
    row: Row
    kind: Kind
    reason: Reason | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """The values of its key."""
        return key_of(self.layout, self.row)

    @property
    def text(self) -> str:
        """Table and key, for a person."""
        return f"{self.layout.table} {key_text(self.key)}"


def key_of(layout: Layout, row: Row) -> tuple[Any, ...]:
    """Return the values of *layout*'s key in *row*."""
    return tuple(row[position] for position in layout.key_positions)


def revisions_of(connection: sqlite3.Connection) -> RevisionRecord:
    """Return the record of the box's file; an empty one where this build cannot read it.

    Names are then taken as they are, and what does not fit them is reported.
    """
    try:
        return read_record(connection)
    except ValueError as error:
        logger.warning("the record of revisions cannot be read: %s", error)
        return RevisionRecord()


class HubContent:
    """The hub's rows, looked at without changing anything; raises HubError."""

    def __init__(
        self,
        hub: Hub,
        models: Mapping[str, Any],
        record: RevisionRecord | None = None,
        *,
        whole: bool = False,
    ) -> None:
        """*models*: ``tables`` of tables.json; *record*: of the revisions of the box's file.

        *whole*: every column is compared, as :func:`row_digest` has it.
        """
        self._whole = whole
        self._hub = hub
        self._models = models
        self._record = record or RevisionRecord()
        self._tables: dict[Layout, ComparedTable] = {}

    def table(self, layout: Layout) -> ComparedTable:
        """Return how the rows of *layout* are compared; raises NotComparable."""
        found = self._tables.get(layout)
        if found is None:
            found = self._tables[layout] = self._described(layout)
        return found

    def _described(self, layout: Layout) -> ComparedTable:
        naming = Naming(self._hub.revisions, self._record)
        names = naming.at_hub(layout)
        there = self._hub.tables.get(names.table or "")
        problems = []
        if there is not None and not there.key:
            # Each id may be there several times; which are is found by comparing all the same.
            problems.append(f"PostgreSQL's table {there.name} has no primary key")
            there = replace(there, key=tuple(names.columns[name] or "" for name in layout.key))
        try:
            mapping = self._mapped(layout, there, naming)
        except SchemaDrift as error:
            # Values may be rounded, or not: those that are there are compared all the same.
            problems.append(str(error))
            mapping = self._mapped_anyhow(layout, there, naming)
        digest = row_digest(mapping, whole=True) if self._whole else row_digest(mapping)
        if lost := set(digest.incomparable) & set(layout.key):
            raise NotComparable(
                f"PostgreSQL's column {layout.table}.{min(lost)} is of another kind than the box's"
            )
        problems += [
            f"PostgreSQL's column {layout.table}.{name} is of another kind than the box's"
            for name in digest.incomparable
        ]
        return ComparedTable(mapping, digest, tuple(problems))

    def _mapped(self, layout: Layout, there: HubTable | None, naming: Naming) -> ColumnMapping:
        tables = self._hub.tables if there is None else {there.name: there}
        try:
            return map_columns(layout, tables, self._models, naming)
        except TableDropped:
            raise NotComparable(
                f"PostgreSQL has no table {layout.table}, of which the box delivered rows"
            ) from None

    def _mapped_anyhow(
        self, layout: Layout, there: HubTable | None, naming: Naming
    ) -> ColumnMapping:
        """Map by names alone, whatever the types there keep of a value; raises NotComparable."""
        try:
            return self._mapped(
                layout, None if there is None else replace(there, shape=None), naming
            )
        except SchemaDrift as error:
            raise NotComparable(str(error)) from error

    def differences(self, layout: Layout, rows: Sequence[Row]) -> list[Difference]:
        """Return those of *rows* that the hub does not have as they are, with what explains them.

        In a snapshot of the hub of its own, taken after the call: what the box had delivered
        before it is in it. Raises NotComparable, HubError.
        """
        table = self.table(layout)
        if not rows:
            return []
        self._hub.begin(snapshot=True)
        try:
            found = self._compare(table, rows)
            return self._explained(layout, found) if found else []
        finally:
            self._hub.rollback()

    def digests(
        self, layout: Layout, rows: Sequence[Row]
    ) -> tuple[list[int | None], dict[int, list[int]] | None]:
        """Return the digests of *rows*, and those that the hub has under their keys.

        By the number of the row; None: there is one of each, and all are equal. In a snapshot of
        its own, as :meth:`differences`. Raises NotComparable, HubError.
        """
        table = self.table(layout)
        if _sendable(table.mapping, rows)[1]:
            raise NotComparable("a key is none that PostgreSQL could have")
        self._hub.begin(snapshot=True)
        try:
            own, same = self._sums(table, rows)
            return own, None if same else self._digests(table, rows)
        finally:
            self._hub.rollback()

    def _compare(self, table: ComparedTable, rows: Sequence[Row]) -> list[Difference]:
        layout = table.mapping.layout
        sent, unsendable = _sendable(table.mapping, rows)
        found = [Difference(layout, row, "missing") for row in unsendable]
        if not sent:
            return found
        own, same = self._sums(table, sent)
        if same:
            return found
        try:
            there = self._digests(table, sent)
        except RowRefused:
            # A key that the type of the hub's column cannot have: it is found by halving.
            if len(sent) == 1:
                return [*found, Difference(layout, sent[0], "missing")]
            middle = len(sent) // 2
            halves = (sent[:middle], sent[middle:])
            return found + [one for half in halves for one in self._compare(table, half)]
        for number, row in enumerate(sent):
            digests = there.get(number, [])
            if digests != [own[number]]:
                kind: Kind = "missing" if not digests else "differs"
                found.append(Difference(layout, row, "doubled" if len(digests) > 1 else kind))
        return found

    def _sums(self, table: ComparedTable, rows: Sequence[Row]) -> tuple[list[int | None], bool]:
        """Return the digests of *rows* on the box, and whether the hub's have the same sum.

        Both sides compute theirs at the same time.
        """
        selected = f"count(*), coalesce(sum({table.digest.sql}), 0)::text"
        self._hub.send(self._in_savepoint(table, _statement(table, rows, selected)))
        own = [_digest(table.digest, row) for row in rows]
        try:
            ((count, total),) = self._received()
        except RowRefused:
            return own, False
        known = [one for one in own if one is not None]
        same = len(known) == len(rows) == int(count) and sum(known) == int(total)
        return own, same

    def _digests(self, table: ComparedTable, rows: Sequence[Row]) -> dict[int, list[int]]:
        statement = _statement(table, rows, f"w.n, {table.digest.sql}")
        found: dict[int, list[int]] = {}
        self._hub.send(self._in_savepoint(table, statement))
        for number, digest in self._received():
            found.setdefault(int(number) - 1, []).append(int(digest))
        return found

    def _in_savepoint(self, table: ComparedTable, statement: Statement) -> list[Statement]:
        by_key = bool(self._hub.tables[table.mapping.hub_table].key)
        how = [_BY_KEY, statement, _AS_BEFORE] if by_key else [statement]
        return [("SAVEPOINT part", ()), *how, ("RELEASE SAVEPOINT part", ())]

    def _received(self) -> list[list[Any]]:
        """Return the rows of the statement that was sent; the transaction goes on if it fails."""
        try:
            results = self._hub.receive()
        except RowRefused:
            self._hub.run([("ROLLBACK TO SAVEPOINT part", ()), ("RELEASE SAVEPOINT part", ())])
            raise
        return results[len(results) // 2].rows

    def _explained(self, layout: Layout, found: Sequence[Difference]) -> list[Difference]:
        keys = {bounded_key(key_text(one.key)): one for one in found}
        asked = json.dumps(list(keys))
        results = self._hub.run(
            [
                (
                    f"SELECT DISTINCT row_key FROM {where} tbl = $1::text AND row_key = ANY "  # noqa: S608
                    "(ARRAY(SELECT json_array_elements_text($2::text::json)))",
                    (layout.table, asked),
                )
                for _, where in _REASONS
            ]
        )
        reasons: dict[str, Reason] = {}
        for (reason, _), result in zip(_REASONS, results, strict=True):
            for (key,) in result.rows:
                reasons.setdefault(key, reason)
        return [
            Difference(one.layout, one.row, one.kind, reasons.get(key)) for key, one in keys.items()
        ]


def _digest(digest: RowDigest, row: Row) -> int | None:
    try:
        return digest.of(row)
    except NoDigest:
        return None


def _sendable(mapping: ColumnMapping, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows whose keys can be sent at all, and the others."""
    try:
        _keys(mapping, rows)
    except UnsendableValue:
        if len(rows) == 1:
            return [], list(rows)
        middle = len(rows) // 2
        sent, unsendable = _sendable(mapping, rows[:middle])
        more, others = _sendable(mapping, rows[middle:])
        return sent + more, unsendable + others
    return list(rows), []


def _keys(mapping: ColumnMapping, rows: Sequence[Row]) -> tuple[bytes, ...]:
    return tuple(
        values.array([row[mapped.position] for row in rows], is_bytea=mapped.column.is_bytes)
        for mapped in mapping.key
    )


def _statement(table: ComparedTable, rows: Sequence[Row], selected: str) -> Statement:
    mapping = table.mapping
    arrays = ", ".join(
        f"${number}::{mapped.column.parameter_type}[]"
        for number, mapped in enumerate(mapping.key, start=1)
    )
    names = ", ".join(f"k{mapped.position}" for mapped in mapping.key)
    same = " AND ".join(
        f"t.{mapped.name} = "
        + mapped.column.stored(mapped.column.from_parameter(f"w.k{mapped.position}"))
        for mapped in mapping.key
    )
    return (
        f"SELECT {selected} FROM unnest({arrays}) WITH ORDINALITY AS w({names}, n) "  # noqa: S608
        f"JOIN {mapping.table} t ON {same}",
        _keys(mapping, rows),
    )
