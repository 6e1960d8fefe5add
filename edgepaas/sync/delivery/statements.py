# SPDX-License-Identifier: Apache-2.0
"""The statements that apply changes: many rows each, sent as one array a column.

Each function returns a StatementTemplate. In its SQL, ``r`` are the rows as sent (``s`` sequence
number, ``k`` key as text, ``n…`` new and ``o…`` old values by position), ``t`` is the hub's
table, and ``h`` are the rows that exist there already, locked, with their values as ``h…``.
"""
# ruff: noqa: S608 - names come from the catalogue, quoted; every value is a parameter

from collections.abc import Sequence

from edgepaas.sync.delivery.column_mapping import ColumnMapping, MappedColumn, literal
from edgepaas.sync.delivery.sql_fragments import (
    COUNT_CONFLICTS,
    NOT_EXISTING,
    added_value,
    any_of,
    content_differs,
    existing_rows,
    given,
    merged_value,
    nonempty,
    record_conflict,
    same_key,
    sent_value,
    text_object,
    updated_value,
    values_differ,
)
from edgepaas.sync.delivery.statement_template import (
    Parameter,
    StatementBuilder,
    StatementTemplate,
)


def insert(mapping: ColumnMapping, *, guarded: bool, adding: bool = True) -> StatementTemplate:
    """Insert the rows whose key does not exist; *guarded*: nor was deleted on the hub.

    *adding*: where it exists, counters are added to its own.
    """
    builder = StatementBuilder()
    names, key = (
        ", ".join(mapped.name for mapped in some) for some in (mapping.columns, mapping.key)
    )
    values = ", ".join(
        mapped.column.from_parameter(f"r.n{mapped.position}") for mapped in mapping.columns
    )
    arrays = [builder.values("new", mapped) for mapped in mapping.columns]
    aliases = [f"n{mapped.position}" for mapped in mapping.columns]
    where = ""
    if guarded:
        arrays.append(builder.parameter(Parameter("key"), "text[]"))
        aliases.append("k")
        where = (
            "WHERE NOT EXISTS (SELECT 1 FROM sync_tombstones d "
            f"WHERE d.tbl = {literal(mapping.hub_table)} AND d.row_key = r.k) "
        )
    # In the order of the key, boxes that insert the same shared rows wait and do not deadlock.
    order = ""
    if mapping.layout.kind != "facts":
        order = "ORDER BY " + ", ".join(f"r.n{mapped.position}" for mapped in mapping.key) + " "
    counters = [mapped for mapped in mapping.columns if mapped.merge == "add"]
    action = "NOTHING"
    if adding and counters:
        sums = ", ".join(f"{mapped.name} = {added_value(mapped)}" for mapped in counters)
        action = f"UPDATE SET {sums}"
    return builder.template(
        f"INSERT INTO {mapping.table} AS t ({names}) SELECT {values} "
        f"FROM unnest({', '.join(arrays)}) AS r({', '.join(aliases)}) "
        f"{where}{order}ON CONFLICT ({key}) DO {action}"
    )


def clear_tombstones(mapping: ColumnMapping) -> StatementTemplate:
    """Delete the tombstones of the rows, which are inserted again."""
    builder = StatementBuilder()
    return builder.template(
        f"DELETE FROM sync_tombstones WHERE tbl = {literal(mapping.hub_table)} "
        f"AND row_key = ANY ({builder.parameter(Parameter('key'), 'text[]')})"
    )


def compare(mapping: ColumnMapping, *, resent: bool) -> StatementTemplate:
    """Record the inserted rows that have other content on the hub.

    *resent*: and those that were deleted there since. Otherwise a missing row was swallowed, which
    :mod:`edgepaas.sync.delivery.verification` finds.
    """
    builder = StatementBuilder()
    rows = builder.rows(new=mapping.columns)
    missing = f"t.{mapping.key[0].name} IS NULL"
    gone = literal("sent again, and deleted on the hub since")
    other = literal("the same key is there with other content")
    hub = text_object(mapping.columns, lambda mapped: f"t.{mapped.name}")
    record = record_conflict(
        builder,
        mapping,
        "r",
        reason=f"CASE WHEN {missing} THEN {gone} ELSE {other} END" if resent else other,
        hub=f"CASE WHEN {missing} THEN NULL ELSE {hub} END" if resent else hub,
        box=text_object(mapping.columns, sent_value),
    )
    differs = content_differs(mapping, "n", "t.")
    return builder.template(
        f"{record} FROM ({rows}) AS r {'LEFT ' if resent else ''}JOIN {mapping.table} t "
        f"ON {same_key(mapping, 'r', 'n', 't')} "
        f"WHERE {f'({missing} OR {differs})' if resent else differs}",
        records=True,
    )


def merge(mapping: ColumnMapping) -> StatementTemplate:
    """Merge shared rows, all of which exist by now, with what existed before the insert."""
    builder = StatementBuilder()
    others = [mapped for mapped in mapping.columns if not mapped.in_key]
    rows = builder.rows(new=mapping.columns)
    overwritten = any_of(_overwritten(mapped) for mapped in others if not mapped.merge)
    record = record_conflict(
        builder,
        mapping,
        "h",
        reason=literal("merged: another value was overwritten"),
        hub=text_object(others, lambda mapped: f"h.h{mapped.position}"),
        box=text_object(others, lambda mapped: f"h.n{mapped.position}"),
    )
    gone = record_conflict(
        builder,
        mapping,
        "r",
        reason=literal("deleted on the hub meanwhile"),
        hub="NULL",
        box=text_object(others, sent_value),
    )
    update = ""
    if others:
        values = ", ".join(f"{mapped.name} = {merged_value(mapped)}" for mapped in others)
        changes = " OR ".join(
            values_differ(mapped, f"h.h{mapped.position}", merged_value(mapped))
            for mapped in others
        )
        update = (
            f", u AS (UPDATE {mapping.table} t SET {values} FROM h "
            f"WHERE {same_key(mapping, 'h', 'n', 't')} AND ({changes}))"
        )
    return builder.template(
        f"WITH r AS MATERIALIZED ({rows}), {existing_rows(mapping, others, 'n')}, "
        f"c AS ({record} FROM h WHERE {overwritten} RETURNING 1), "
        f"g AS ({gone} FROM r WHERE {NOT_EXISTING} RETURNING 1){update} {COUNT_CONFLICTS}",
        counts=True,
    )


def _overwritten(mapped: MappedColumn) -> str:
    """Return the condition that a merge overwrites a value of the hub with another one."""
    new, hub = f"h.n{mapped.position}", f"h.h{mapped.position}"
    both_given = f"{nonempty(mapped, new)} IS NOT NULL AND {nonempty(mapped, hub)} IS NOT NULL"
    return f"({both_given} AND {values_differ(mapped, hub, new)}{given(mapped, 'n', 'h.h')})"


def update(
    mapping: ColumnMapping, changed: Sequence[int], *, resent: bool, missing: bool = False
) -> StatementTemplate | None:
    """Set the *changed* columns to their new values; None where the hub has none of them.

    A value that another writer set there in between is recorded; *resent*: and left as it is.
    Counters are added to all the same, where the update is not resent, or *missing* on the hub.
    """
    builder = StatementBuilder()
    columns = [
        mapped for mapped in mapping.columns if mapped.position in changed and not mapped.in_key
    ]
    if not columns:
        return None
    in_doubt = resent and not missing
    rows = builder.rows(new=columns, old=(*mapping.key, *columns))
    foreign = any_of(
        f"({values_differ(mapped, f'h.h{mapped.position}', f'h.o{mapped.position}')} AND "
        f"{values_differ(mapped, f'h.h{mapped.position}', f'h.n{mapped.position}')})"
        for mapped in columns
        if not mapped.merge or (mapped.merge == "add" and in_doubt)
    )
    reason = (
        "sent again, and changed on the hub since" if resent else "another value was overwritten"
    )
    record = record_conflict(
        builder,
        mapping,
        "h",
        reason=literal(reason),
        hub=text_object(columns, lambda mapped: f"h.h{mapped.position}"),
        box=text_object(columns, lambda mapped: f"h.n{mapped.position}"),
    )
    gone = record_conflict(
        builder,
        mapping,
        "r",
        reason=literal("updated, but deleted on the hub"),
        hub="NULL",
        box=text_object(columns, sent_value),
    )
    guard = f" AND NOT {foreign}" if resent else ""
    values = {mapped: updated_value(mapped, known=not in_doubt) for mapped in columns}
    if missing and any(mapped.merge == "add" for mapped in columns):
        guard = ""  # for each column on its own: what else was changed there keeps no counter back
        for mapped in columns:
            if mapped.merge != "add":
                hub = f"h.h{mapped.position}"
                values[mapped] = f"CASE WHEN {foreign} THEN {hub} ELSE {values[mapped]} END"
    assignments = ", ".join(f"{mapped.name} = {value}" for mapped, value in values.items())
    return builder.template(
        f"WITH r AS MATERIALIZED ({rows}), {existing_rows(mapping, columns, 'o')}, "
        f"c AS ({record} FROM h WHERE {foreign} RETURNING 1), "
        f"g AS ({gone} FROM r WHERE {NOT_EXISTING} RETURNING 1), "
        f"u AS (UPDATE {mapping.table} t SET {assignments} FROM h "
        f"WHERE {same_key(mapping, 'h', 'o', 't')}{guard}) {COUNT_CONFLICTS}",
        counts=True,
    )


def keep_dropped(mapping: ColumnMapping, changed: Sequence[int] | None) -> StatementTemplate | None:
    """Keep, as conflicts, the new values of columns that the hub has no more; None without any.

    *changed*: the positions that an update changes; None: all of a row. A row without such a value
    is no conflict.
    """
    builder = StatementBuilder()
    columns = [one for one in mapping.dropped if changed is None or one.position in changed]
    if not columns:
        return None
    rows = builder.rows(new=columns)
    brings = any_of(f"{sent_value(mapped)} IS NOT NULL" for mapped in columns)
    record = record_conflict(
        builder,
        mapping,
        "r",
        reason=literal("PostgreSQL has this column no more: its value is kept here"),
        hub="NULL",
        box=f"jsonb_strip_nulls({text_object(columns, sent_value)})",
    )
    return builder.template(
        f"WITH r AS MATERIALIZED ({rows}) {record} FROM r WHERE {brings}", records=True
    )


def delete(mapping: ColumnMapping, *, resent: bool) -> StatementTemplate:
    """Delete the rows and leave tombstones; changes of other writers in them are recorded."""
    builder = StatementBuilder()
    others = [mapped for mapped in mapping.columns if not mapped.in_key]
    rows = builder.rows(old=mapping.columns)
    foreign = content_differs(mapping, "o", "h.h", of="h")
    reason = "sent again, and changed on the hub since" if resent else "deleted with a change in it"
    record = record_conflict(
        builder,
        mapping,
        "h",
        reason=literal(reason),
        hub=text_object(others, lambda mapped: f"h.h{mapped.position}"),
        box=text_object(others, lambda mapped: f"h.o{mapped.position}"),
    )
    guard = f" AND NOT {foreign}" if resent else ""
    kept = f" WHERE NOT EXISTS (SELECT 1 FROM h WHERE h.s = r.s AND {foreign})" if resent else ""
    return builder.template(
        f"WITH r AS MATERIALIZED ({rows}), {existing_rows(mapping, others, 'o')}, "
        f"c AS ({record} FROM h WHERE {foreign} RETURNING 1), "
        f"g AS (INSERT INTO sync_tombstones AS d (tbl, row_key, node_id, stream_id, seq) "
        f"SELECT {literal(mapping.hub_table)}, r.k, {builder.origin()}, r.s FROM r{kept} "
        "ON CONFLICT (tbl, row_key) DO UPDATE SET node_id = excluded.node_id, "
        "stream_id = excluded.stream_id, seq = excluded.seq, deleted_at = excluded.deleted_at), "
        f"u AS (DELETE FROM {mapping.table} t USING h "
        f"WHERE {same_key(mapping, 'h', 'o', 't')}{guard}) "
        "SELECT (SELECT count(*) FROM c)",
        counts=True,
    )
