# SPDX-License-Identifier: Apache-2.0
"""The statements that apply changes: many rows each, sent as arrays, one a column.

Each function returns a StatementTemplate. In its SQL, ``r`` are the rows as sent (``s`` sequence
number, ``k`` key as text, ``n…`` new and ``o…`` old values by position), ``t`` is the hub's
table, and ``h`` are the rows that exist there already, locked, with their values as ``h…``.
"""
# ruff: noqa: S608 - names come from the catalogue, quoted; every value is a parameter

from collections.abc import Callable, Iterable, Sequence

from edgepaas.sync.delivery.column_mapping import ColumnMapping, MappedColumn, literal
from edgepaas.sync.delivery.statement_template import Parameter, StatementBuilder, StatementTemplate


def insert(mapping: ColumnMapping, *, guarded: bool) -> StatementTemplate:
    """Insert the rows whose key is not there; *guarded*: nor was deleted on the hub."""
    w = StatementBuilder()
    columns, key = (
        ", ".join(mapped.name for mapped in some) for some in (mapping.columns, mapping.key)
    )
    values = ", ".join(mapped.column.value(f"r.n{mapped.position}") for mapped in mapping.columns)
    sent = [w.values("new", mapped) for mapped in mapping.columns]
    names = [f"n{mapped.position}" for mapped in mapping.columns]
    where = ""
    if guarded:
        sent.append(w.parameter(Parameter("key"), "text[]"))
        names.append("k")
        where = (
            "WHERE NOT EXISTS (SELECT 1 FROM sync_tombstones d "
            f"WHERE d.tbl = {literal(mapping.layout.table)} AND d.row_key = r.k) "
        )
    # Boxes that met the same shared rows wait for each other instead of dying crosswise.
    order = ""
    if mapping.layout.kind != "facts":
        order = "ORDER BY " + ", ".join(f"r.n{mapped.position}" for mapped in mapping.key) + " "
    return w.template(
        f"INSERT INTO {mapping.table} ({columns}) SELECT {values} "
        f"FROM unnest({', '.join(sent)}) AS r({', '.join(names)}) "
        f"{where}{order}ON CONFLICT ({key}) DO NOTHING"
    )


def clear_tombstones(mapping: ColumnMapping) -> StatementTemplate:
    """Forget that the rows were ever deleted."""
    w = StatementBuilder()
    return w.template(
        f"DELETE FROM sync_tombstones WHERE tbl = {literal(mapping.layout.table)} "
        f"AND row_key = ANY ({w.parameter(Parameter('key'), 'text[]')})"
    )


def compare(mapping: ColumnMapping, *, resent: bool) -> StatementTemplate:
    """Record the inserted rows that are there with other content, and those that are not there.

    *resent*: they were deleted there since. Else a trigger or a rule of the hub's own kept
    them out without an error, and whoever counts its answers would count them as delivered.
    """
    w = StatementBuilder()
    rows = w.rows(new=mapping.columns)
    absent = f"t.{mapping.key[0].name} IS NULL"
    gone = "sent again, and deleted on the hub since" if resent else "taken and not kept: a trigger"
    other = literal("the same key is there with other content")
    hub = _object(mapping.columns, lambda mapped: f"t.{mapped.name}")
    record = _record(
        w,
        mapping,
        "r",
        reason=f"CASE WHEN {absent} THEN {literal(gone)} ELSE {other} END",
        hub=f"CASE WHEN {absent} THEN NULL ELSE {hub} END",
        box=_object(mapping.columns, _sent),
    )
    return w.template(
        f"{record} FROM ({rows}) AS r LEFT JOIN {mapping.table} t "
        f"ON {_same_key(mapping, 'r', 'n', 't')} "
        f"WHERE ({absent} OR {_differs(mapping, 'n', 't.')})",
        records=True,
    )


def merge(mapping: ColumnMapping) -> StatementTemplate:
    """Bring shared rows, all of them there by now, together with what was there before."""
    w = StatementBuilder()
    others = [mapped for mapped in mapping.columns if not mapped.in_key]
    rows = w.rows(new=mapping.columns)
    overwritten = []
    for mapped in others:
        if mapped.merge:
            continue
        new, hub = f"h.n{mapped.position}", f"h.h{mapped.position}"
        both_say = f"{_said(mapped, new)} IS NOT NULL AND {_said(mapped, hub)} IS NOT NULL"
        condition = f"{both_say} AND {_unlike(mapped, hub, new)}"
        overwritten.append(f"({condition}{_not_filled(mapped, 'n', 'h.h')})")
    box = _object(others, lambda mapped: f"h.n{mapped.position}")
    hub = _object(others, lambda mapped: f"h.h{mapped.position}")
    record = _record(
        w, mapping, "h", reason=literal("merged: another value was overwritten"), hub=hub, box=box
    )
    gone = _record(
        w,
        mapping,
        "r",
        reason=literal("deleted on the hub meanwhile"),
        hub="NULL",
        box=_object(others, _sent),
    )
    update = ""
    if others:
        values = ", ".join(f"{mapped.name} = {_merged(mapped)}" for mapped in others)
        changes = " OR ".join(
            _unlike(mapped, f"h.h{mapped.position}", _merged(mapped)) for mapped in others
        )
        update = (
            f", u AS (UPDATE {mapping.table} t SET {values} FROM h "
            f"WHERE {_same_key(mapping, 'h', 'n', 't')} AND ({changes}))"
        )
    return w.template(
        f"WITH r AS MATERIALIZED ({rows}), {_met(mapping, others, 'n')}, "
        f"c AS ({record} FROM h WHERE {_any(overwritten)} RETURNING 1), "
        f"g AS ({gone} FROM r WHERE {_NOT_MET} RETURNING 1){update} {_COUNT}",
        counts=True,
    )


def update(
    mapping: ColumnMapping, changed: Sequence[int], *, resent: bool
) -> StatementTemplate | None:
    """Give the *changed* columns their new values; None where the hub has none of them.

    What somebody else wrote there in between is recorded; *resent*: and left alone.
    """
    w = StatementBuilder()
    mapped_columns = [
        mapped for mapped in mapping.columns if mapped.position in changed and not mapped.in_key
    ]
    if not mapped_columns:
        return None
    rows = w.rows(new=mapped_columns, old=(*mapping.key, *mapped_columns))
    content = [mapped for mapped in mapped_columns if not mapped.merge]
    foreign = _any(
        f"({_unlike(mapped, f'h.h{mapped.position}', f'h.o{mapped.position}')} AND "
        f"{_unlike(mapped, f'h.h{mapped.position}', f'h.n{mapped.position}')})"
        for mapped in content
    )
    reason = (
        "sent again, and changed on the hub since" if resent else "another value was overwritten"
    )
    box = _object(mapped_columns, lambda mapped: f"h.n{mapped.position}")
    hub = _object(mapped_columns, lambda mapped: f"h.h{mapped.position}")
    record = _record(w, mapping, "h", reason=literal(reason), hub=hub, box=box)
    gone = _record(
        w,
        mapping,
        "r",
        reason=literal("updated, but deleted on the hub"),
        hub="NULL",
        box=_object(mapped_columns, _sent),
    )
    values = ", ".join(f"{mapped.name} = {_updated(mapped)}" for mapped in mapped_columns)
    guard = f" AND NOT {foreign}" if resent else ""
    return w.template(
        f"WITH r AS MATERIALIZED ({rows}), {_met(mapping, mapped_columns, 'o')}, "
        f"c AS ({record} FROM h WHERE {foreign} RETURNING 1), "
        f"g AS ({gone} FROM r WHERE {_NOT_MET} RETURNING 1), "
        f"u AS (UPDATE {mapping.table} t SET {values} FROM h "
        f"WHERE {_same_key(mapping, 'h', 'o', 't')}{guard}) {_COUNT}",
        counts=True,
    )


def delete(mapping: ColumnMapping, *, resent: bool) -> StatementTemplate:
    """Delete the rows and leave tombstones; what somebody else changed in them is recorded."""
    w = StatementBuilder()
    others = [mapped for mapped in mapping.columns if not mapped.in_key]
    rows = w.rows(old=mapping.columns)
    foreign = _differs(mapping, "o", "h.h", of="h")
    reason = "sent again, and changed on the hub since" if resent else "deleted with a change in it"
    box = _object(others, lambda mapped: f"h.o{mapped.position}")
    hub = _object(others, lambda mapped: f"h.h{mapped.position}")
    record = _record(w, mapping, "h", reason=literal(reason), hub=hub, box=box)
    guard = f" AND NOT {foreign}" if resent else ""
    kept = f" WHERE NOT EXISTS (SELECT 1 FROM h WHERE h.s = r.s AND {foreign})" if resent else ""
    return w.template(
        f"WITH r AS MATERIALIZED ({rows}), {_met(mapping, others, 'o')}, "
        f"c AS ({record} FROM h WHERE {foreign} RETURNING 1), "
        f"g AS (INSERT INTO sync_tombstones AS d (tbl, row_key, node_id, stream_id, seq) "
        f"SELECT {literal(mapping.layout.table)}, r.k, {w.origin()}, r.s FROM r{kept} "
        "ON CONFLICT (tbl, row_key) DO UPDATE SET node_id = excluded.node_id, "
        "stream_id = excluded.stream_id, seq = excluded.seq, deleted_at = excluded.deleted_at), "
        f"u AS (DELETE FROM {mapping.table} t USING h "
        f"WHERE {_same_key(mapping, 'h', 'o', 't')}{guard}) "
        "SELECT (SELECT count(*) FROM c)",
        counts=True,
    )


_COUNT = "SELECT (SELECT count(*) FROM c) + (SELECT count(*) FROM g)"
_NOT_MET = "NOT EXISTS (SELECT 1 FROM h WHERE h.s = r.s)"


def _met(mapping: ColumnMapping, mapped_columns: Iterable[MappedColumn], letter: str) -> str:
    """Return ``h``: the rows that are there, locked, as the last to commit left them."""
    columns = "".join(f", t.{mapped.name} AS h{mapped.position}" for mapped in mapped_columns)
    order = ", ".join(f"t.{mapped.name}" for mapped in mapping.key)
    return (
        f"h AS MATERIALIZED (SELECT r.*{columns} FROM r JOIN {mapping.table} t "
        f"ON {_same_key(mapping, 'r', letter, 't')} ORDER BY {order} FOR UPDATE OF t)"
    )


def _said(mapped: MappedColumn, value: str) -> str:
    """Return what an inserted *value* says where the row is there already: NULL for nothing.

    An empty document says no more than NULL: it is what a box fills in for a document that
    was not given, such as the labels of a device that it only heard of.
    """
    return f"nullif({value}, '{{}}'::jsonb)" if mapped.column.base == "jsonb" else value


def _merged(mapped: MappedColumn) -> str:
    new, hub = f"h.n{mapped.position}", f"h.h{mapped.position}"
    if mapped.merge in ("least", "greatest"):
        return f"{mapped.merge}({new}, {hub})"
    if mapped.merge == "keep":
        return f"coalesce({hub}, {new})"
    return f"coalesce({_said(mapped, new)}, {hub}, {new})"


def _updated(mapped: MappedColumn) -> str:
    """Return the new value of an update: a merge rule counts where the hub has moved on."""
    new, hub = f"h.n{mapped.position}", f"h.h{mapped.position}"
    if not mapped.merge:
        return new
    merged = hub if mapped.merge == "keep" else f"{mapped.merge}({new}, {hub})"
    untouched = f"NOT {_unlike(mapped, hub, f'h.o{mapped.position}')}"
    return f"CASE WHEN {untouched} THEN {new} ELSE {merged} END"


def _differs(mapping: ColumnMapping, letter: str, hub: str, *, of: str = "r") -> str:
    """Return whether the hub's row has other content than the row as sent."""
    conditions = []
    for mapped in mapping.columns:
        if not mapped.is_content:
            continue
        place = f"{hub}{mapped.name}" if hub == "t." else f"{hub}{mapped.position}"
        unlike = _unlike(mapped, place, f"{of}.{letter}{mapped.position}")
        conditions.append(f"({unlike}{_not_filled(mapped, letter, hub, mapping=mapping, of=of)})")
    return _any(conditions)


def _not_filled(
    mapped: MappedColumn,
    letter: str,
    hub: str,
    *,
    mapping: ColumnMapping | None = None,
    of: str = "h",
) -> str:
    """Return that no box filled the value in, as a further condition; empty: none could."""
    source = mapped.filled_from
    if source < 0:
        return ""
    mine, origin = f"{of}.{letter}{mapped.position}", f"{of}.{letter}{source}"
    if hub == "t." and mapping is not None:
        other = mapping.at(source)
        if other is None:
            return ""
        there, there_origin = f"t.{mapped.name}", f"t.{other.name}"
    else:
        there, there_origin = f"{hub}{mapped.position}", f"{hub}{source}"
    return f" AND {mine} IS DISTINCT FROM {origin} AND {there} IS DISTINCT FROM {there_origin}"


def _unlike(mapped: MappedColumn, hub: str, sent: str) -> str:
    """Return whether the hub's value is not the one that was sent, as the column stores it."""
    column = mapped.column
    return f"{column.comparable(hub)} IS DISTINCT FROM {column.comparable(column.stored(sent))}"


def _same_key(mapping: ColumnMapping, left: str, letter: str, right: str) -> str:
    return " AND ".join(
        f"{right}.{mapped.name} = {mapped.column.stored(f'{left}.{letter}{mapped.position}')}"
        for mapped in mapping.key
    )


def _sent(mapped: MappedColumn) -> str:
    return f"r.n{mapped.position}"


def _object(mapped_columns: Sequence[MappedColumn], value: Callable[[MappedColumn], str]) -> str:
    """Return a JSON object of texts; its two-array form knows no limit of 100 arguments."""
    names = ", ".join(literal(mapped.column.name) for mapped in mapped_columns)
    values = ", ".join(f"{value(mapped)}::text" for mapped in mapped_columns)
    return f"jsonb_object(ARRAY[{names}]::text[], ARRAY[{values}]::text[])"


def _record(
    w: StatementBuilder, mapping: ColumnMapping, rows: str, *, reason: str, hub: str, box: str
) -> str:
    """Return the INSERT, up to its FROM, that records conflicts of *rows* (``r`` or ``h``)."""
    return (
        "INSERT INTO sync_conflicts (id, node_id, stream_id, seq, tbl, row_key, reason, hub, box) "
        f"SELECT gen_random_uuid(), {w.origin()}, {rows}.s, {literal(mapping.layout.table)}, "
        f"{rows}.k, {reason}, {hub}, {box}"
    )


def _any(conditions: Iterable[str]) -> str:
    return f"({' OR '.join(conditions) or 'false'})"
