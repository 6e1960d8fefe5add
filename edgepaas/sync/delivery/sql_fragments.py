# SPDX-License-Identifier: Apache-2.0
"""SQL expressions and clauses that the statements of the delivery are composed of.

The aliases are those of ``statements.py``: ``r`` rows as sent, ``h`` existing rows of the hub,
``t`` the hub's table. *prefix* says which of the sent values is meant: ``n`` new, ``o`` old.
"""
# ruff: noqa: S608 - names come from the catalogue, quoted; every value is a parameter

from collections.abc import Callable, Iterable, Sequence

from edgepaas.sync.delivery.column_mapping import ColumnMapping, MappedColumn, literal
from edgepaas.sync.delivery.statement_template import StatementBuilder

#: The result of a statement with the parts ``c`` and ``g``, which record conflicts.
COUNT_CONFLICTS = "SELECT (SELECT count(*) FROM c) + (SELECT count(*) FROM g)"
#: The condition that a sent row does not exist on the hub.
NOT_EXISTING = "NOT EXISTS (SELECT 1 FROM h WHERE h.s = r.s)"


def existing_rows(mapping: ColumnMapping, columns: Iterable[MappedColumn], prefix: str) -> str:
    """Return ``h``: the rows that exist on the hub, locked, with their committed values."""
    values = "".join(f", t.{mapped.name} AS h{mapped.position}" for mapped in columns)
    order = ", ".join(f"t.{mapped.name}" for mapped in mapping.key)
    return (
        f"h AS MATERIALIZED (SELECT r.*{values} FROM r JOIN {mapping.table} t "
        f"ON {same_key(mapping, 'r', prefix, 't')} ORDER BY {order} FOR UPDATE OF t)"
    )


def same_key(mapping: ColumnMapping, left: str, prefix: str, right: str) -> str:
    """Return the condition that the key sent in *left* is the key of *right*."""
    return " AND ".join(
        f"{right}.{mapped.name} = {mapped.column.stored(f'{left}.{prefix}{mapped.position}')}"
        for mapped in mapping.key
    )


def nonempty(mapped: MappedColumn, value: str) -> str:
    """Return *value*, NULL where it is an empty document.

    An empty document means no more than NULL: it is what a box stores for a document that was
    not given, such as the labels of a device that it only heard of.
    """
    return f"nullif({value}, '{{}}'::jsonb)" if mapped.column.base == "jsonb" else value


def merged_value(mapped: MappedColumn) -> str:
    """Return the value of a column after an insert that met an existing row."""
    new, hub = f"h.n{mapped.position}", f"h.h{mapped.position}"
    if mapped.merge in ("least", "greatest"):
        return f"{mapped.merge}({new}, {hub})"
    if mapped.merge == "keep":
        return f"coalesce({hub}, {new})"
    if mapped.merge == "add":
        return hub  # the insert has added already, since this may meet the row that it made
    return f"coalesce({nonempty(mapped, new)}, {hub}, {new})"


def added_value(mapped: MappedColumn) -> str:
    """Return the value of a counter after an insert that met the row ``t``."""
    hub, new = f"t.{mapped.name}", f"excluded.{mapped.name}"
    return f"CASE WHEN {new} IS NULL THEN {hub} ELSE coalesce({hub}, 0) + {new} END"


def updated_value(mapped: MappedColumn, *, known: bool = True) -> str:
    """Return the value of a column after an update.

    A merge rule applies only where the hub's value is not the old one any more; the
    difference that a counter's update makes is added always, unless it is not *known*
    whether the hub has it already.
    """
    new, hub = f"h.n{mapped.position}", f"h.h{mapped.position}"
    if not mapped.merge:
        return new
    if mapped.merge == "add":
        old = f"h.o{mapped.position}"
        if known:
            return f"coalesce({hub}, 0) + (coalesce({new}, 0) - coalesce({old}, 0))"
        return f"CASE WHEN {values_differ(mapped, hub, old)} THEN {hub} ELSE {new} END"
    merged = hub if mapped.merge == "keep" else f"{mapped.merge}({new}, {hub})"
    unchanged = f"NOT {values_differ(mapped, hub, f'h.o{mapped.position}')}"
    return f"CASE WHEN {unchanged} THEN {new} ELSE {merged} END"


def content_differs(mapping: ColumnMapping, prefix: str, hub: str, *, of: str = "r") -> str:
    """Return the condition that the hub's row has other content than the row as sent.

    *hub*: ``t.`` or ``h.h``, what the hub's values are addressed by; *of*: ``r`` or ``h``.
    """
    conditions = []
    for mapped in mapping.columns:
        if not mapped.is_content:
            continue
        hub_value = f"{hub}{mapped.name}" if hub == "t." else f"{hub}{mapped.position}"
        differ = values_differ(mapped, hub_value, f"{of}.{prefix}{mapped.position}")
        conditions.append(f"({differ}{given(mapped, prefix, hub, mapping=mapping, of=of)})")
    return any_of(conditions)


def given(
    mapped: MappedColumn,
    prefix: str,
    hub: str,
    *,
    mapping: ColumnMapping | None = None,
    of: str = "h",
) -> str:
    """Return `` AND …``: neither side's value was filled in from another column by a box.

    Empty where the column is never filled in.
    """
    source = mapped.filled_from
    if source < 0:
        return ""
    sent, sent_source = f"{of}.{prefix}{mapped.position}", f"{of}.{prefix}{source}"
    if hub == "t." and mapping is not None:
        other = mapping.at(source)
        if other is None:
            return ""
        hub_value, hub_source = f"t.{mapped.name}", f"t.{other.name}"
    else:
        hub_value, hub_source = f"{hub}{mapped.position}", f"{hub}{source}"
    return (
        f" AND {sent} IS DISTINCT FROM {sent_source} AND {hub_value} IS DISTINCT FROM {hub_source}"
    )


def values_differ(mapped: MappedColumn, hub: str, sent: str) -> str:
    """Return the condition that the hub's value is not the sent one, as the column stores it."""
    column = mapped.column
    return f"{column.comparable(hub)} IS DISTINCT FROM {column.comparable(column.stored(sent))}"


def sent_value(mapped: MappedColumn) -> str:
    """Return the new value of a column in ``r``."""
    return f"r.n{mapped.position}"


def text_object(columns: Sequence[MappedColumn], value: Callable[[MappedColumn], str]) -> str:
    """Return a JSON object of texts; built from two arrays, as arguments are limited to 100."""
    names = ", ".join(literal(mapped.column.name) for mapped in columns)
    values = ", ".join(f"{value(mapped)}::text" for mapped in columns)
    return f"jsonb_object(ARRAY[{names}]::text[], ARRAY[{values}]::text[])"


def record_conflict(
    builder: StatementBuilder,
    mapping: ColumnMapping,
    rows: str,
    *,
    reason: str,
    hub: str,
    box: str,
) -> str:
    """Return the INSERT, up to its FROM, that records conflicts of *rows* (``r`` or ``h``)."""
    return (
        "INSERT INTO sync_conflicts (id, node_id, stream_id, seq, tbl, row_key, reason, hub, box) "
        f"SELECT gen_random_uuid(), {builder.origin()}, {rows}.s, "
        f"{literal(mapping.hub_table)}, {rows}.k, {reason}, {hub}, {box}"
    )


def any_of(conditions: Iterable[str]) -> str:
    """Return the disjunction of *conditions*; ``false`` without any."""
    return f"({' OR '.join(conditions) or 'false'})"
