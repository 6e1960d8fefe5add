# SPDX-License-Identifier: Apache-2.0
"""The statements that apply changes: many rows each, sent as arrays, one a column.

Each is a Plan: its SQL and what its parameters are made of. In the SQL ``r`` are the rows
as sent (``s`` number, ``k`` key as text, ``n…`` new and ``o…`` old values by position), ``t``
is the hub's table, ``h`` the rows of it that were met, locked, with its values as ``h…``.
"""
# ruff: noqa: S608 - names come from the catalogue, quoted; every value is a parameter

from collections.abc import Callable, Iterable, Sequence

from edgepaas.sync.delivery.shape import Shape, Slot, literal
from edgepaas.sync.delivery.statement_template import Plan, Want, Writer


def insert(shape: Shape, *, guarded: bool) -> Plan:
    """Insert the rows whose key is not there; *guarded*: nor was deleted on the hub."""
    w = Writer()
    columns, key = (", ".join(slot.name for slot in some) for some in (shape.slots, shape.key))
    values = ", ".join(slot.column.value(f"r.n{slot.position}") for slot in shape.slots)
    sent = [w.values("new", slot) for slot in shape.slots]
    names = [f"n{slot.position}" for slot in shape.slots]
    where = ""
    if guarded:
        sent.append(w.parameter(Want("key"), "text[]"))
        names.append("k")
        where = (
            "WHERE NOT EXISTS (SELECT 1 FROM sync_tombstones d "
            f"WHERE d.tbl = {literal(shape.layout.table)} AND d.row_key = r.k) "
        )
    # Boxes that met the same shared rows wait for each other instead of dying crosswise.
    order = ""
    if shape.layout.kind != "facts":
        order = "ORDER BY " + ", ".join(f"r.n{slot.position}" for slot in shape.key) + " "
    return w.plan(
        f"INSERT INTO {shape.table} ({columns}) SELECT {values} "
        f"FROM unnest({', '.join(sent)}) AS r({', '.join(names)}) "
        f"{where}{order}ON CONFLICT ({key}) DO NOTHING"
    )


def clear_tombstones(shape: Shape) -> Plan:
    """Forget that the rows were ever deleted."""
    w = Writer()
    return w.plan(
        f"DELETE FROM sync_tombstones WHERE tbl = {literal(shape.layout.table)} "
        f"AND row_key = ANY ({w.parameter(Want('key'), 'text[]')})"
    )


def compare(shape: Shape, *, resent: bool) -> Plan:
    """Record the inserted rows that are there with other content, and those that are not there.

    *resent*: they were deleted there since. Else a trigger or a rule of the hub's own kept
    them out without an error, and whoever counts its answers would count them as delivered.
    """
    w = Writer()
    rows = w.rows(new=shape.slots)
    absent = f"t.{shape.key[0].name} IS NULL"
    gone = "sent again, and deleted on the hub since" if resent else "taken and not kept: a trigger"
    other = literal("the same key is there with other content")
    hub = _object(shape.slots, lambda slot: f"t.{slot.name}")
    record = _record(
        w,
        shape,
        "r",
        reason=f"CASE WHEN {absent} THEN {literal(gone)} ELSE {other} END",
        hub=f"CASE WHEN {absent} THEN NULL ELSE {hub} END",
        box=_object(shape.slots, _sent),
    )
    return w.plan(
        f"{record} FROM ({rows}) AS r LEFT JOIN {shape.table} t "
        f"ON {_same_key(shape, 'r', 'n', 't')} WHERE ({absent} OR {_differs(shape, 'n', 't.')})",
        records=True,
    )


def merge(shape: Shape) -> Plan:
    """Bring shared rows, all of them there by now, together with what was there before."""
    w = Writer()
    others = [slot for slot in shape.slots if not slot.in_key]
    rows = w.rows(new=shape.slots)
    overwritten = []
    for slot in others:
        if slot.merge:
            continue
        new, hub = f"h.n{slot.position}", f"h.h{slot.position}"
        both_say = f"{_said(slot, new)} IS NOT NULL AND {_said(slot, hub)} IS NOT NULL"
        condition = f"{both_say} AND {_unlike(slot, hub, new)}"
        overwritten.append(f"({condition}{_not_filled(slot, 'n', 'h.h')})")
    box = _object(others, lambda slot: f"h.n{slot.position}")
    hub = _object(others, lambda slot: f"h.h{slot.position}")
    record = _record(
        w, shape, "h", reason=literal("merged: another value was overwritten"), hub=hub, box=box
    )
    gone = _record(
        w,
        shape,
        "r",
        reason=literal("deleted on the hub meanwhile"),
        hub="NULL",
        box=_object(others, _sent),
    )
    update = ""
    if others:
        values = ", ".join(f"{slot.name} = {_merged(slot)}" for slot in others)
        changes = " OR ".join(
            _unlike(slot, f"h.h{slot.position}", _merged(slot)) for slot in others
        )
        update = (
            f", u AS (UPDATE {shape.table} t SET {values} FROM h "
            f"WHERE {_same_key(shape, 'h', 'n', 't')} AND ({changes}))"
        )
    return w.plan(
        f"WITH r AS MATERIALIZED ({rows}), {_met(shape, others, 'n')}, "
        f"c AS ({record} FROM h WHERE {_any(overwritten)} RETURNING 1), "
        f"g AS ({gone} FROM r WHERE {_NOT_MET} RETURNING 1){update} {_COUNT}",
        counts=True,
    )


def update(shape: Shape, changed: Sequence[int], *, resent: bool) -> Plan | None:
    """Give the *changed* columns their new values; None where the hub has none of them.

    What somebody else wrote there in between is recorded; *resent*: and left alone.
    """
    w = Writer()
    slots = [slot for slot in shape.slots if slot.position in changed and not slot.in_key]
    if not slots:
        return None
    rows = w.rows(new=slots, old=(*shape.key, *slots))
    content = [slot for slot in slots if not slot.merge]
    foreign = _any(
        f"({_unlike(slot, f'h.h{slot.position}', f'h.o{slot.position}')} AND "
        f"{_unlike(slot, f'h.h{slot.position}', f'h.n{slot.position}')})"
        for slot in content
    )
    reason = (
        "sent again, and changed on the hub since" if resent else "another value was overwritten"
    )
    box = _object(slots, lambda slot: f"h.n{slot.position}")
    hub = _object(slots, lambda slot: f"h.h{slot.position}")
    record = _record(w, shape, "h", reason=literal(reason), hub=hub, box=box)
    gone = _record(
        w,
        shape,
        "r",
        reason=literal("updated, but deleted on the hub"),
        hub="NULL",
        box=_object(slots, _sent),
    )
    values = ", ".join(f"{slot.name} = {_updated(slot)}" for slot in slots)
    guard = f" AND NOT {foreign}" if resent else ""
    return w.plan(
        f"WITH r AS MATERIALIZED ({rows}), {_met(shape, slots, 'o')}, "
        f"c AS ({record} FROM h WHERE {foreign} RETURNING 1), "
        f"g AS ({gone} FROM r WHERE {_NOT_MET} RETURNING 1), "
        f"u AS (UPDATE {shape.table} t SET {values} FROM h "
        f"WHERE {_same_key(shape, 'h', 'o', 't')}{guard}) {_COUNT}",
        counts=True,
    )


def delete(shape: Shape, *, resent: bool) -> Plan:
    """Delete the rows and leave tombstones; what somebody else changed in them is recorded."""
    w = Writer()
    others = [slot for slot in shape.slots if not slot.in_key]
    rows = w.rows(old=shape.slots)
    foreign = _differs(shape, "o", "h.h", of="h")
    reason = "sent again, and changed on the hub since" if resent else "deleted with a change in it"
    box = _object(others, lambda slot: f"h.o{slot.position}")
    hub = _object(others, lambda slot: f"h.h{slot.position}")
    record = _record(w, shape, "h", reason=literal(reason), hub=hub, box=box)
    guard = f" AND NOT {foreign}" if resent else ""
    kept = f" WHERE NOT EXISTS (SELECT 1 FROM h WHERE h.s = r.s AND {foreign})" if resent else ""
    return w.plan(
        f"WITH r AS MATERIALIZED ({rows}), {_met(shape, others, 'o')}, "
        f"c AS ({record} FROM h WHERE {foreign} RETURNING 1), "
        f"g AS (INSERT INTO sync_tombstones AS d (tbl, row_key, node_id, stream_id, seq) "
        f"SELECT {literal(shape.layout.table)}, r.k, {w.origin()}, r.s FROM r{kept} "
        "ON CONFLICT (tbl, row_key) DO UPDATE SET node_id = excluded.node_id, "
        "stream_id = excluded.stream_id, seq = excluded.seq, deleted_at = excluded.deleted_at), "
        f"u AS (DELETE FROM {shape.table} t USING h "
        f"WHERE {_same_key(shape, 'h', 'o', 't')}{guard}) "
        "SELECT (SELECT count(*) FROM c)",
        counts=True,
    )


_COUNT = "SELECT (SELECT count(*) FROM c) + (SELECT count(*) FROM g)"
_NOT_MET = "NOT EXISTS (SELECT 1 FROM h WHERE h.s = r.s)"


def _met(shape: Shape, slots: Iterable[Slot], letter: str) -> str:
    """Return ``h``: the rows that are there, locked, as the last to commit left them."""
    columns = "".join(f", t.{slot.name} AS h{slot.position}" for slot in slots)
    order = ", ".join(f"t.{slot.name}" for slot in shape.key)
    return (
        f"h AS MATERIALIZED (SELECT r.*{columns} FROM r JOIN {shape.table} t "
        f"ON {_same_key(shape, 'r', letter, 't')} ORDER BY {order} FOR UPDATE OF t)"
    )


def _said(slot: Slot, value: str) -> str:
    """Return what an inserted *value* says where the row is there already: NULL for nothing.

    An empty document says no more than NULL: it is what a box fills in for a document that
    was not given, such as the labels of a device that it only heard of.
    """
    return f"nullif({value}, '{{}}'::jsonb)" if slot.column.base == "jsonb" else value


def _merged(slot: Slot) -> str:
    new, hub = f"h.n{slot.position}", f"h.h{slot.position}"
    if slot.merge in ("least", "greatest"):
        return f"{slot.merge}({new}, {hub})"
    if slot.merge == "keep":
        return f"coalesce({hub}, {new})"
    return f"coalesce({_said(slot, new)}, {hub}, {new})"


def _updated(slot: Slot) -> str:
    """Return the new value of an update: a merge rule counts where the hub has moved on."""
    new, hub = f"h.n{slot.position}", f"h.h{slot.position}"
    if not slot.merge:
        return new
    merged = hub if slot.merge == "keep" else f"{slot.merge}({new}, {hub})"
    untouched = f"NOT {_unlike(slot, hub, f'h.o{slot.position}')}"
    return f"CASE WHEN {untouched} THEN {new} ELSE {merged} END"


def _differs(shape: Shape, letter: str, hub: str, *, of: str = "r") -> str:
    """Return whether the hub's row has other content than the row as sent."""
    conditions = []
    for slot in shape.slots:
        if not slot.is_content:
            continue
        place = f"{hub}{slot.name}" if hub == "t." else f"{hub}{slot.position}"
        unlike = _unlike(slot, place, f"{of}.{letter}{slot.position}")
        conditions.append(f"({unlike}{_not_filled(slot, letter, hub, shape=shape, of=of)})")
    return _any(conditions)


def _not_filled(
    slot: Slot, letter: str, hub: str, *, shape: Shape | None = None, of: str = "h"
) -> str:
    """Return that no box filled the value in, as a further condition; empty: none could."""
    source = slot.filled_from
    if source < 0:
        return ""
    mine, origin = f"{of}.{letter}{slot.position}", f"{of}.{letter}{source}"
    if hub == "t." and shape is not None:
        other = shape.at(source)
        if other is None:
            return ""
        there, there_origin = f"t.{slot.name}", f"t.{other.name}"
    else:
        there, there_origin = f"{hub}{slot.position}", f"{hub}{source}"
    return f" AND {mine} IS DISTINCT FROM {origin} AND {there} IS DISTINCT FROM {there_origin}"


def _unlike(slot: Slot, hub: str, sent: str) -> str:
    """Return whether the hub's value is not the one that was sent, as the column stores it."""
    column = slot.column
    return f"{column.comparable(hub)} IS DISTINCT FROM {column.comparable(column.stored(sent))}"


def _same_key(shape: Shape, left: str, letter: str, right: str) -> str:
    return " AND ".join(
        f"{right}.{slot.name} = {slot.column.stored(f'{left}.{letter}{slot.position}')}"
        for slot in shape.key
    )


def _sent(slot: Slot) -> str:
    return f"r.n{slot.position}"


def _object(slots: Sequence[Slot], value: Callable[[Slot], str]) -> str:
    """Return a JSON object of texts; its two-array form knows no limit of 100 arguments."""
    names = ", ".join(literal(slot.column.name) for slot in slots)
    values = ", ".join(f"{value(slot)}::text" for slot in slots)
    return f"jsonb_object(ARRAY[{names}]::text[], ARRAY[{values}]::text[])"


def _record(w: Writer, shape: Shape, rows: str, *, reason: str, hub: str, box: str) -> str:
    """Return the INSERT, up to its FROM, that records conflicts of *rows* (``r`` or ``h``)."""
    return (
        "INSERT INTO sync_conflicts (id, node_id, stream_id, seq, tbl, row_key, reason, hub, box) "
        f"SELECT gen_random_uuid(), {w.origin()}, {rows}.s, {literal(shape.layout.table)}, "
        f"{rows}.k, {reason}, {hub}, {box}"
    )


def _any(conditions: Iterable[str]) -> str:
    return f"({' OR '.join(conditions) or 'false'})"
