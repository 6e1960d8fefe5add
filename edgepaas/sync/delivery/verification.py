# SPDX-License-Identifier: Apache-2.0
"""Whether rows that PostgreSQL accepted are there as they were sent.

A trigger may remove a row or change its values, and the statement reports no error. What was
swallowed or changed was not delivered: it becomes a dead letter, and what the statements did
for it is undone. The statements are those of ``statements.py`` and use its aliases; they run
after the change in the same transaction, so that they see what triggers left.
"""
# ruff: noqa: S608 - names come from the catalogue, quoted; every value is a parameter

from collections.abc import Sequence
from itertools import cycle

from edgepaas.pgdriver.pipeline import Result
from edgepaas.sync.delivery.column_mapping import ColumnMapping, MappedColumn, literal
from edgepaas.sync.delivery.runs import Run
from edgepaas.sync.delivery.sql_fragments import (
    any_of,
    content_differs,
    nonempty,
    same_key,
    values_differ,
)
from edgepaas.sync.delivery.statement_template import StatementBuilder, StatementTemplate

SWALLOWED = "accepted, but not stored: a trigger of the table removed it"
CHANGED = "accepted, but stored with other values: a trigger of the table changed it"
NOT_DELETED = "the delete was accepted, and the row is there: a trigger of the table kept it"
NOT_UPDATED = "the update was accepted, and the row is as it was: a trigger of the table kept it"


def existing(mapping: ColumnMapping) -> StatementTemplate:
    """Return which of the rows, by sequence number, are there before they are inserted."""
    builder = StatementBuilder()
    rows = builder.rows(new=mapping.key)
    return builder.template(
        f"SELECT r.s FROM ({rows}) AS r WHERE EXISTS "
        f"(SELECT 1 FROM {mapping.table} t WHERE {same_key(mapping, 'r', 'n', 't')})",
        role="existing",
    )


def verify(mapping: ColumnMapping, run: Run) -> StatementTemplate | None:
    """Return the statement that names the rows of *run* that are not there as they were sent.

    Its rows: the sequence number, and why. None where nothing of them can be told: the hub has
    none of the columns.
    """
    if run.op == "delete":
        return _verify_deletes(mapping, resent=run.resent)
    if run.op == "update":
        return _verify_updates(mapping, run)
    return _verify_inserts(mapping, run)


def unstored(templates: Sequence[StatementTemplate], results: Sequence[Result]) -> dict[int, str]:
    """Return why rows are not there as they were sent, by sequence number.

    *results* are those of *templates*, once for each slice of rows that was sent. A row that was
    there before with other values is none of them: that is a conflict, which another statement
    records.
    """
    found: dict[int, str] = {}
    before: set[int] = set()
    for template, result in zip(cycle(templates), results, strict=False):
        if template.role == "existing":
            before.update(int(row[0]) for row in result.rows)
        elif template.role == "verify":
            found.update((int(seq), str(why)) for seq, why in result.rows)
    return {seq: why for seq, why in found.items() if why != CHANGED or seq not in before}


def _verify_inserts(mapping: ColumnMapping, run: Run) -> StatementTemplate:
    builder = StatementBuilder()
    rows = builder.rows(new=mapping.columns)
    missing = f"t.{mapping.key[0].name} IS NULL"
    # Sent again, a row may be there with what was changed since; deleted since, it has a tombstone.
    changed = "false" if run.resent else _differs_from_sent(mapping, run)
    kept_away = (
        " AND NOT EXISTS (SELECT 1 FROM sync_tombstones d "
        f"WHERE d.tbl = {literal(mapping.hub_table)} AND d.row_key = r.k)"
        if run.resent
        else ""
    )
    return builder.template(
        f"SELECT r.s, CASE WHEN {missing} THEN {literal(SWALLOWED)} ELSE {literal(CHANGED)} END "
        f"FROM ({rows}) AS r LEFT JOIN {mapping.table} t ON {same_key(mapping, 'r', 'n', 't')} "
        f"WHERE ({missing}{kept_away}) OR (NOT {missing} AND {changed})",
        role="verify",
    )


def _differs_from_sent(mapping: ColumnMapping, run: Run) -> str:
    """Return the condition that an inserted row is there with other content than was sent."""
    if run.layout.kind == "facts":
        return content_differs(mapping, "n", "t.")
    # Merged with a row that was there: an empty value leaves what that one has.
    return any_of(
        f"({nonempty(mapped, _sent(mapped, 'n'))} IS NOT NULL AND {_differs(mapped, 'n')})"
        for mapped in mapping.columns
        if mapped.is_content
    )


def _verify_updates(mapping: ColumnMapping, run: Run) -> StatementTemplate | None:
    columns = [
        mapped for mapped in mapping.columns if mapped.position in run.changed and mapped.is_content
    ]
    if not columns:
        return None
    builder = StatementBuilder()
    old: Sequence[MappedColumn] = (*mapping.key, *(columns if run.resent else ()))
    rows = builder.rows(new=columns, old=old)
    differs = any_of(_differs(mapped, "n") for mapped in columns)
    why = CHANGED
    if run.resent:  # applied only where the old values are there; else it is a conflict
        differs += f" AND NOT {any_of(_differs(mapped, 'o') for mapped in columns)}"
        why = NOT_UPDATED
    return builder.template(
        f"SELECT r.s, {literal(why)} FROM ({rows}) AS r JOIN {mapping.table} t "
        f"ON {same_key(mapping, 'r', 'o', 't')} WHERE {differs}",
        role="verify",
    )


def _verify_deletes(mapping: ColumnMapping, *, resent: bool) -> StatementTemplate:
    builder = StatementBuilder()
    rows = builder.rows(old=mapping.columns if resent else mapping.key)
    same = f" AND NOT {content_differs(mapping, 'o', 't.')}" if resent else ""
    return builder.template(
        f"SELECT r.s, {literal(NOT_DELETED)} FROM ({rows}) AS r JOIN {mapping.table} t "
        f"ON {same_key(mapping, 'r', 'o', 't')} WHERE true{same}",
        role="verify",
    )


def _sent(mapped: MappedColumn, prefix: str) -> str:
    return f"r.{prefix}{mapped.position}"


def _differs(mapped: MappedColumn, prefix: str) -> str:
    return values_differ(mapped, f"t.{mapped.name}", _sent(mapped, prefix))
