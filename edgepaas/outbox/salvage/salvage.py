# SPDX-License-Identifier: Apache-2.0
"""What an unusable SQLite file still holds for the hub, brought into its successor.

Its outbox is read through SQLite around the damage, and where that leads no further page
by page. What could be read is sent anew, marked as resent: the hub applies it only where
it meets what it expects. Where a part of the outbox is lost, the rows of the forwarded
tables themselves are queued as well: a change whose outbox row is gone may be read there.
"""

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from edgepaas.database.reserved_names import OUTBOX, TRANSACTIONS
from edgepaas.outbox import ledger, tables
from edgepaas.outbox.layout import forwarded_layouts, registered, stored_layouts
from edgepaas.outbox.salvage.damaged_outbox import DamagedOutbox, read_damaged
from edgepaas.outbox.tables import quoted
from edgepaas.outbox.triggers import values_of

#: Seconds that a boot spends on one file.
SECONDS: Final = 60.0

#: Which files were salvaged into this one: a power cut may come before that is noted elsewhere.
_DONE: Final = "outbox_salvaged"


@dataclass(frozen=True)
class Salvaged:
    """The result: ``rows`` of the outbox, ``again`` of the tables (queued anew), ``lost`` ones.

    ``uncertain``: more may be lost, since the counters are lost as well.
    """

    rows: int
    again: int
    lost: int
    uncertain: bool

    @property
    def line(self) -> str:
        """The outcome in words; empty when there was nothing."""
        parts = []
        if self.rows:
            parts.append(f"{self.rows:,} rows that wait for the hub were saved")
        if self.again:
            parts.append(f"{self.again:,} rows of its tables are sent again")
        if self.uncertain:
            parts.append(f"at least {self.lost:,} of its waiting changes cannot be read")
        elif self.lost:
            parts.append(f"{self.lost:,} of its waiting changes cannot be read")
        return ", ".join(parts)


def salvage(
    damaged: Path,
    connection: sqlite3.Connection,
    document: Mapping[str, Any],
    *,
    seconds: float = SECONDS,
) -> Salvaged:
    """Bring what *damaged* holds for the hub into *connection*, which captures already.

    *document* is tables.json's. Takes about *seconds* at most; *damaged* and what lies
    beside it stay as they are. Done twice for one file it counts once. Raises UnknownOutbox
    where *damaged* was written by a newer release, and OSError, sqlite3.Error, which concern the
    new file; nothing was brought in then.
    """
    name = f"{damaged.parent.name}/{damaged.name}"
    with tables.transaction(connection):
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {_DONE} (source TEXT PRIMARY KEY, rows INTEGER, "
            "again INTEGER, lost INTEGER, uncertain INTEGER, at TEXT)"
        )
    done = connection.execute(
        f"SELECT rows, again, lost, uncertain FROM {_DONE} WHERE source = ?",  # noqa: S608
        (name,),
    ).fetchone()
    if done is not None:
        return Salvaged(done[0], done[1], done[2], bool(done[3]))
    if not damaged.is_file():
        return Salvaged(0, 0, 0, False)
    with _workspace_beside(connection) as workspace:
        layouts = forwarded_layouts(document)
        spare = stored_layouts(connection)
        contents = read_damaged(
            damaged, workspace, layouts, spare, until=time.monotonic() + seconds
        )
        return _bring_in(connection, workspace, contents, name)


def was_salvaged(connection: sqlite3.Connection, source: str) -> bool:
    """Whether rows of *source* (``FOLDER/FILE``) were brought in: they are queued already."""
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (_DONE,)).fetchone():
        return False
    found = connection.execute(
        f"SELECT 1 FROM {_DONE} WHERE source = ? AND rows + again > 0",  # noqa: S608
        (source,),
    ).fetchone()
    return found is not None


@contextlib.contextmanager
def _workspace_beside(connection: sqlite3.Connection) -> Iterator[Path]:
    """Give the name of a file for what is found: it need not fit into the memory."""
    file = Path(connection.execute("PRAGMA database_list").fetchone()[2])
    # A name that the schema stage sweeps, should this be killed.
    workspace = file.with_name(f".{file.name}.salvage.new")
    workspace.unlink(missing_ok=True)
    try:
        yield workspace
    finally:
        workspace.unlink(missing_ok=True)


def _bring_in(
    connection: sqlite3.Connection, workspace: Path, contents: DamagedOutbox, name: str
) -> Salvaged:
    connection.execute("ATTACH ? AS workspace", (str(workspace),))
    try:
        with tables.transaction(connection):
            tables.widen(connection, contents.width)
            rows = _bring_outbox(connection, contents)
            again = _bring_tables(connection, contents)
            ledger.add(connection, "salvaged", rows + again)
            ledger.add(connection, "lost_in_damage", contents.lost)
            found = Salvaged(rows, again, contents.lost, contents.uncertain)
            connection.execute(
                f"INSERT INTO {_DONE} (source, rows, again, lost, uncertain, at) "  # noqa: S608
                "VALUES (?, ?, ?, ?, ?, ?)",
                (name, rows, again, found.lost, found.uncertain, _now()),
            )
    finally:
        connection.execute("DETACH workspace")
    return found


def _bring_outbox(connection: sqlite3.Connection, contents: DamagedOutbox) -> int:
    before = tables.last_seq(connection)
    for old, layout in contents.layouts.items():
        (known_here,) = registered(connection, [layout])
        connection.execute(
            "INSERT INTO workspace.ids (old, new) VALUES (?, ?)", (old, known_here.id)
        )
    _close_gaps(connection)
    values = values_of(contents.width)
    cursor = connection.execute(
        f"INSERT INTO main.{OUTBOX} (layout, op, resent, {values}) "  # noqa: S608
        f"SELECT coalesce(new, 0), op, 1, {values} FROM workspace.found "
        "LEFT JOIN workspace.ids ON old = layout ORDER BY seq"
    )
    # Whole transactions stay whole, as far as their rows are there.
    connection.execute(
        "CREATE TABLE workspace.ranks AS "
        "SELECT seq, row_number() OVER (ORDER BY seq) AS n FROM workspace.found"
    )
    connection.execute("CREATE INDEX workspace.ranks_seq ON ranks (seq, n)")
    connection.execute(
        f"INSERT INTO main.{TRANSACTIONS} (first, last) "  # noqa: S608
        "SELECT ? + min(n), ? + max(n) FROM workspace.markers JOIN workspace.ranks "
        "ON seq BETWEEN first AND last GROUP BY first HAVING count(*) > 1",
        (before, before),
    )
    return cursor.rowcount


def _bring_tables(connection: sqlite3.Connection, contents: DamagedOutbox) -> int:
    rows = 0
    for workspace_table, layout in contents.again:
        (known_here,) = registered(connection, [layout])
        names = ", ".join(quoted(name) for name in layout.names)
        rows += connection.execute(
            f"INSERT INTO main.{OUTBOX} (layout, op, resent, {values_of(len(layout.columns))}) "  # noqa: S608
            f"SELECT ?, 'I', 1, {names} FROM workspace.{quoted(workspace_table)} ORDER BY _rowid_",
            (known_here.id,),
        ).rowcount
    return rows


def _close_gaps(connection: sqlite3.Connection) -> None:
    """Have gap rows name no numbers: those were the old stream's, and would be missed here."""
    gaps = connection.execute("SELECT seq, v0 FROM workspace.found WHERE op = 'G'").fetchall()
    for seq, text in gaps:
        gap = json.loads(text)
        gap["was"], gap["ranges"] = gap.get("ranges", []), []
        connection.execute(
            "UPDATE workspace.found SET v0 = ?, layout = 0 WHERE seq = ?", (json.dumps(gap), seq)
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
