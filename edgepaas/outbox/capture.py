# SPDX-License-Identifier: Apache-2.0
"""Capture: installed where a hub is to get every change, removed where there is none."""

import contextlib
import hashlib
import json
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from edgepaas.database.reserved_names import OUTBOX, STATE
from edgepaas.errors import EdgePaaSError
from edgepaas.outbox import baseline, stream, tables, versions
from edgepaas.outbox.layout import Layout, forwarded_layouts, registered, stored_layouts
from edgepaas.outbox.references import references
from edgepaas.outbox.resending import agreed_rows
from edgepaas.outbox.tables import quoted
from edgepaas.outbox.triggers import PREFIX, triggers_for


class CaptureError(EdgePaaSError):
    """The tables in the file are not the ones that are to be captured."""


@dataclass(frozen=True)
class Installed:
    """What ``install`` did; ``baseline_rows`` were there before capture and wait to be sent."""

    changed: bool
    baseline_rows: int
    new_stream: bool


def install(
    connection: sqlite3.Connection, document: Mapping[str, Any], *, node_id: str
) -> Installed:
    """Capture every change of the forwarded tables of *document* (run/tables.json).

    One transaction of its own, and none where everything is in place. Rows that were there
    before are queued once as a baseline; where a hub may know them already (capture was
    removed in between, or the table is new to it) as resent ones. A *node_id* that is not
    the file's makes a new stream: the file comes from another box.

    Raises CaptureError when a table or a column of *document* is not in the file,
    UnknownOutbox, sqlite3.Error.
    """
    layouts = forwarded_layouts(document)
    versions.bring_to_current(connection)
    if _in_place(connection, layouts, node_id):
        return Installed(changed=False, baseline_rows=0, new_stream=False)
    with tables.transaction(connection):
        _check_tables(connection, layouts)
        first = not tables.exist(connection)
        tables.create(connection)
        tables.widen(connection, max((2 * len(layout.columns) for layout in layouts), default=1))
        layouts = list(registered(connection, layouts))
        _replace_triggers(connection, layouts)
        new_stream = _keep_state(connection, layouts, node_id, first=first)
        rows = _queue_baseline(connection, layouts)
    return Installed(changed=True, baseline_rows=rows, new_stream=new_stream)


def remove(connection: sqlite3.Connection) -> bool:
    """Capture nothing any more, at no cost to a write; whether there was anything to do.

    What waits stays, and so do the counters. One transaction, of its own unless one is open.
    Raises UnknownOutbox, sqlite3.Error.
    """
    versions.require_known(connection)
    if not is_installed(connection):
        return False
    with tables.transaction(connection):
        drop_triggers(connection)
        agreed_rows.forget_all(connection)
        connection.execute(
            f"UPDATE {STATE} SET capture = 0, triggers = '', fence = NULL, covered = '[]'"  # noqa: S608
        )
    return True


def drop_triggers(connection: sqlite3.Connection) -> None:
    """Drop the triggers alone, before a migration: SQLite drops no column that one names.

    Inside the caller's transaction; ``install`` puts them back and queues nothing anew.
    """
    for name in _present(connection):
        connection.execute(f"DROP TRIGGER {quoted(name)}")


def is_installed(connection: sqlite3.Connection) -> bool:
    """Whether changes are captured, or would be if the triggers had not been dropped."""
    if not tables.exist(connection):
        return False
    found = connection.execute(f"SELECT triggers FROM {STATE}").fetchone()  # noqa: S608
    return bool(found and found[0])


def problems(connection: sqlite3.Connection, document: Mapping[str, Any]) -> list[str]:
    """Return what keeps the file from capturing as *document* says; empty: nothing does."""
    if not tables.exist(connection):
        return ["the file has no outbox"]
    if unknown := versions.problem(connection):
        return [unknown]
    state = connection.execute(f"SELECT capture, triggers FROM {STATE}").fetchone()  # noqa: S608
    if state is None:
        return [f"{STATE} has no row"]
    found = [] if state[0] == 1 else ["capture is switched off"]
    ids = {(one.table, one.definition()): one.id for one in stored_layouts(connection).values()}
    expected: dict[str, str] = {}
    for layout in forwarded_layouts(document):
        identity = ids.get((layout.table, layout.definition()))
        if identity is None:
            found.append(f"the table {layout.table} is captured in another layout or not at all")
        else:
            expected |= triggers_for(replace(layout, id=identity))
    present = _present(connection)
    for name, text in expected.items():
        if name not in present:
            found.append(f"the trigger {name} is missing")
        elif present[name] != text:
            found.append(f"the trigger {name} was changed")
    found.extend(f"the trigger {name} is not ours" for name in present if name not in expected)
    if not found and state[1] != _hash(expected):
        found.append("the triggers are not the ones that were installed")
    return found


def restore(connection: sqlite3.Connection, document: Mapping[str, Any]) -> list[str]:
    """Put back the triggers of *document*'s tables that are missing or changed; say which.

    Inside the caller's transaction, which has the write lock. Nothing is done where nothing is
    to be captured, and to a table that is captured in another layout. Raises sqlite3.Error.
    """
    if not is_installed(connection) or versions.problem(connection):
        return []
    ids = {(one.table, one.definition()): one.id for one in stored_layouts(connection).values()}
    present = _present(connection)
    found = []
    for layout in forwarded_layouts(document):
        identity = ids.get((layout.table, layout.definition()))
        if identity is None:
            continue
        for name, text in triggers_for(replace(layout, id=identity)).items():
            if present.get(name) == text:
                continue
            found.append(f"the trigger {name} {'was changed' if name in present else 'is missing'}")
            if name in present:
                connection.execute(f"DROP TRIGGER {quoted(name)}")
            connection.execute(text)
    return found


def forget_covered(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    """Have the rows of the tables *names* queued anew, as resent ones, by the next ``install``.

    Inside the caller's transaction. Nothing happens where no baseline was ever queued.
    """
    state = connection.execute(f"SELECT covered FROM {STATE}").fetchone()  # noqa: S608
    if state is not None:
        covered = [name for name in json.loads(state[0]) if name not in names]
        connection.execute(f"UPDATE {STATE} SET covered = ?", (json.dumps(covered),))  # noqa: S608


@contextlib.contextmanager
def paused(connection: sqlite3.Connection) -> Iterator[None]:
    """Capture nothing of the block, which is a part of the caller's open transaction.

    For what must not travel: the mirror, retention, salvage. Others are not affected: they
    cannot write until the transaction ends. A file without an outbox captures nothing anyway.
    Raises UnknownOutbox, sqlite3.Error.
    """
    if not connection.in_transaction:
        raise RuntimeError("capture is paused only inside a transaction")
    if not tables.exist(connection):
        yield
        return
    versions.require_known(connection)
    (before,) = connection.execute(f"SELECT capture FROM {STATE}").fetchone()  # noqa: S608
    connection.execute(f"UPDATE {STATE} SET capture = 0")  # noqa: S608
    try:
        yield
    finally:
        if connection.in_transaction:  # else it was rolled back, and this with it
            connection.execute(f"UPDATE {STATE} SET capture = ?", (before,))  # noqa: S608


def _in_place(connection: sqlite3.Connection, layouts: Sequence[Layout], node_id: str) -> bool:
    if not tables.exist(connection):
        return False
    state = connection.execute(
        f"SELECT version, capture, node_id, triggers, covered FROM {STATE}"  # noqa: S608
    ).fetchone()
    if state is None or tuple(state[:3]) != (tables.VERSION, 1, node_id):
        return False
    ids = {(one.table, one.definition()): one.id for one in stored_layouts(connection).values()}
    expected: dict[str, str] = {}
    for layout in layouts:
        identity = ids.get((layout.table, layout.definition()))
        if identity is None:
            return False
        expected |= triggers_for(replace(layout, id=identity))
    covered = {layout.table for layout in layouts} <= set(json.loads(state[4]))
    return covered and state[3] == _hash(expected) and _present(connection) == expected


def _check_tables(connection: sqlite3.Connection, layouts: Sequence[Layout]) -> None:
    for layout in layouts:
        rows = connection.execute("SELECT name FROM pragma_table_info(?)", (layout.table,))
        missing = set(layout.names) - {row[0] for row in rows}
        if missing:
            raise CaptureError(
                f"the table {layout.table} lacks {', '.join(sorted(missing))} in the SQLite file: "
                f"'edgepaas schema' brings the file to the application's models"
            )


def _present(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND substr(name, 1, ?) = ?",
        (len(PREFIX), PREFIX),
    )
    return dict(rows.fetchall())


def _hash(triggers: Mapping[str, str]) -> str:
    text = json.dumps(sorted(triggers.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _replace_triggers(connection: sqlite3.Connection, layouts: Sequence[Layout]) -> None:
    drop_triggers(connection)
    for layout in layouts:
        for statement in triggers_for(layout).values():
            connection.execute(statement)


def _keep_state(
    connection: sqlite3.Connection, layouts: Sequence[Layout], node_id: str, *, first: bool
) -> bool:
    """Write the one row of state; whether the file is a new stream, or none had been."""
    expected: dict[str, str] = {}
    for layout in layouts:
        expected |= triggers_for(layout)
    found = connection.execute(f"SELECT node_id FROM {STATE}").fetchone()  # noqa: S608
    if found is None:
        # Where only the state is lost, it is unknown what was sent: all of it is sent again.
        connection.execute(f"UPDATE {OUTBOX} SET resent = 1")  # noqa: S608
        connection.execute(
            f"INSERT INTO {STATE} (id, version, capture, node_id, stream_id) "  # noqa: S608
            "VALUES (1, ?, 1, ?, ?)",
            (tables.VERSION, node_id, str(uuid.uuid4())),
        )
    elif found[0] != node_id:
        stream.fork(connection, "the file comes from another box", node_id=node_id)
    connection.execute(
        f"UPDATE {STATE} SET version = ?, capture = 1, triggers = ?",  # noqa: S608
        (tables.VERSION, _hash(expected)),
    )
    return not first and (found is None or found[0] != node_id)


def _queue_baseline(connection: sqlite3.Connection, layouts: Sequence[Layout]) -> int:
    """Queue the rows of the tables that were not captured before; return how many."""
    before, covered = connection.execute(
        f"SELECT baseline, covered FROM {STATE}"  # noqa: S608
    ).fetchone()
    done = set(json.loads(covered))
    found = references(connection)
    rows = 0
    for layout in layouts:
        if layout.table in done:
            continue
        rows += baseline.queue(connection, layout, resent=bool(before), found=found)
    names = sorted(layout.table for layout in layouts)
    connection.execute(
        f"UPDATE {STATE} SET covered = ?, baseline = CASE baseline WHEN '' THEN ? ELSE baseline END",  # noqa: S608, E501
        (json.dumps(names), datetime.now(UTC).isoformat(timespec="seconds")),
    )
    return rows
