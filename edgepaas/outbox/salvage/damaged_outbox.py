# SPDX-License-Identifier: Apache-2.0
"""Reading a damaged SQLite file: its outbox and its tables, as far as they can be read."""

import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgepaas.database.reserved_names import LAYOUTS, OUTBOX, STATE, TRANSACTIONS
from edgepaas.files.sqlite_file import open_refusal_reason
from edgepaas.outbox import versions
from edgepaas.outbox.layout import Layout
from edgepaas.outbox.salvage.page_file import Values
from edgepaas.outbox.salvage.page_recovery import recovered_records, wal_is_damaged
from edgepaas.outbox.salvage.workspace import SalvageWorkspace
from edgepaas.outbox.tables import quoted, width_of

logger = logging.getLogger("edgepaas.outbox")

#: After so many tries in vain SQLite leads to nothing more.
_IN_VAIN: Final = 2000
_INSTRUCTIONS: Final = 100_000
#: A row of a table takes this many bytes at least: bounds row numbers that cannot be asked for.
_SMALLEST_ROW: Final = 16
#: So far the counter of the outbox may lag behind its rows (outbox.tables); a row far beyond
#: it is none that was ever written.
_LAG: Final = 1000


@dataclass(frozen=True)
class DamagedOutbox:
    """What the workspace holds: ``found`` rows of *layouts*, with *width* columns of values.

    *again*: tables of the workspace with the rows of forwarded tables. *lost* rows of the outbox
    are known to have been there; *uncertain*: there may have been more.
    """

    width: int
    layouts: Mapping[int, Layout]
    again: tuple[tuple[str, Layout], ...]
    lost: int
    uncertain: bool


def read_damaged(
    damaged: Path,
    workspace: Path,
    layouts: Sequence[Layout],
    spare: Mapping[int, Layout],
    *,
    until: float,
) -> DamagedOutbox:
    """Read *damaged* into the new file *workspace*, until ``time.monotonic()`` is *until*.

    *layouts* are those of the forwarded tables now; *spare* by the ids of the new file, for
    rows whose own layout is lost: those of one build are alike. Raises UnknownOutbox where
    *damaged* was written by a newer release, OSError, sqlite3.Error where the workspace cannot
    be written.
    """
    with contextlib.closing(SalvageWorkspace(workspace, spare)) as opened:
        return _Reader(opened, damaged, until).read(layouts)


class _Reader:
    def __init__(self, workspace: SalvageWorkspace, damaged: Path, until: float) -> None:
        self._workspace = workspace
        self._connection = workspace.connection
        self._damaged = damaged
        self._until = until

    def read(self, layouts: Sequence[Layout]) -> DamagedOutbox:
        # SQLite deletes the -wal beside a file of no bytes.
        attached = not open_refusal_reason(self._damaged) and self._attach()
        captured = not attached or self._has_outbox()
        lost, uncertain = 0, False
        if captured:
            if attached:
                self._require_known_version()
                self._read_outbox()
                self._note_damage_of_the_wal()
            self._workspace.drop_implausible()
            if self._workspace.missing() != (0, False):
                self._recover_from_pages()
                self._workspace.drop_implausible()
            lost, uncertain = self._workspace.missing()
        again: list[tuple[str, Layout]] = []
        if attached and (lost or uncertain or not captured):
            again = [pair for pair in map(self._read_table, layouts) if pair is not None]
        if attached:
            self._connection.execute("DETACH damaged")
        return DamagedOutbox(
            self._workspace.width, self._workspace.layouts(), tuple(again), lost, uncertain
        )

    # --- through SQLite ---------------------------------------------------------------

    def _attach(self) -> bool:
        uri = f"{self._damaged.absolute().as_uri()}?mode=ro"
        try:
            self._connection.execute("ATTACH ? AS damaged", (uri,))
        except sqlite3.Error as error:
            logger.info("%s is not opened by SQLite: %s", self._damaged, error)
            return False
        if self._query("SELECT count(*) FROM damaged.sqlite_schema"):
            return True
        # Cut short, or attached with a damaged schema, which would spoil every other statement.
        self._connection.execute("DETACH damaged")
        return False

    def _has_outbox(self) -> bool:
        names = f"('{OUTBOX}', '{STATE}')"
        found = f"SELECT count(*) FROM damaged.sqlite_schema WHERE name IN {names}"  # noqa: S608
        return bool(self._query(found))

    def _read_outbox(self) -> None:
        workspace = self._workspace
        workspace.confirmed = self._query(f"SELECT confirmed_seq FROM damaged.{STATE}")  # noqa: S608
        workspace.last = self._greatest()
        workspace.widen(self._width())
        for table, columns_of_it, key in (
            (LAYOUTS, "id, tbl, revision, definition", "id"),
            (TRANSACTIONS, "first, last", "first"),
        ):
            target = "markers" if table == TRANSACTIONS else table
            self._copy(
                f"INSERT OR IGNORE INTO main.{target} "  # noqa: S608
                f"SELECT {columns_of_it} FROM damaged.{table} WHERE {key} BETWEEN ? AND ?",
                -(1 << 62),
                1 << 62,
                halve=False,
            )
        low = (workspace.confirmed or 0) + 1
        self._copy(
            f"INSERT OR IGNORE INTO main.found ({workspace.names()}) "  # noqa: S608
            f"SELECT {workspace.names()} FROM damaged.{OUTBOX} WHERE seq BETWEEN ? AND ?",
            low,
            max(low, workspace.last or self._most_rows()),
        )

    def _width(self) -> int:
        try:
            rows = self._connection.execute(
                "SELECT name FROM pragma_table_info(?, 'damaged')", (OUTBOX,)
            ).fetchall()
        except sqlite3.Error as error:
            _raise_unless_damage(error)
            return 0
        return width_of(name for (name,) in rows)

    def _require_known_version(self) -> None:
        """Raise UnknownOutbox for another release's; where it cannot be read, go on."""
        try:
            versions.require_known(self._connection, "damaged")
        except sqlite3.Error as error:
            _raise_unless_damage(error)

    def _greatest(self) -> int | None:
        """Return the greatest number that was given out."""
        counter = self._query(f"SELECT seq FROM damaged.sqlite_sequence WHERE name = '{OUTBOX}'")  # noqa: S608
        row = self._query(f"SELECT max(seq) FROM damaged.{OUTBOX}")  # noqa: S608
        if counter is None or row is None:
            return counter
        return row if counter < row <= counter + _LAG else counter

    def _read_table(self, layout: Layout) -> tuple[str, Layout] | None:
        """Copy the table's rows as far as they can be read; None where there are none."""
        try:
            rows = self._connection.execute(
                "SELECT name FROM pragma_table_info(?, 'damaged')", (layout.table,)
            )
            there = {row[0] for row in rows}
        except sqlite3.Error:
            return None
        lacking = [c.name for c in layout.columns if c.name not in there and not c.nullable]
        if lacking:
            if there:
                logger.warning(
                    "the rows of %s in %s are not sent again: they have no %s",
                    *(layout.table, self._damaged, ", ".join(lacking)),
                )
            return None
        name = f"again_{layout.table}"
        columns = ", ".join(map(quoted, layout.names))
        self._connection.execute(f"CREATE TABLE main.{quoted(name)} ({columns})")
        values = ", ".join(quoted(c) if c in there else "NULL" for c in layout.names)
        table = f"damaged.{quoted(layout.table)}"
        statement = f"INSERT INTO main.{quoted(name)} SELECT {values} FROM {table} WHERE "  # noqa: S608
        # At once, as a table WITHOUT ROWID can be read only; else around the damage.
        if not self._copy(f"{statement} ? < ?", 0, 1, halve=False):
            high = self._query(f"SELECT max(_rowid_) FROM {table}")  # noqa: S608
            self._copy(f"{statement} _rowid_ BETWEEN ? AND ?", 1, high or self._most_rows())
        return name, layout

    def _most_rows(self) -> int:
        return max(1, self._damaged.stat().st_size // _SMALLEST_ROW)

    def _copy(self, statement: str, low: int, high: int, *, halve: bool = True) -> bool:
        """Copy the rows numbered *low* to *high*, halving what cannot be read at once.

        Returns whether each of them was read.
        """
        waiting = deque([(low, high)])
        whole = True
        in_vain = 0
        self._connection.set_progress_handler(self._too_late, _INSTRUCTIONS)
        try:
            # The largest parts come first: they hold the most.
            while waiting and in_vain < _IN_VAIN and not self._too_late():
                first, last = waiting.popleft()
                try:
                    self._connection.execute(statement, (first, last))
                    in_vain = 0
                except sqlite3.Error as error:
                    _raise_unless_damage(error)
                    in_vain += 1
                    if first < last and halve:
                        middle = (first + last) // 2
                        waiting += [(first, middle), (middle + 1, last)]
                    else:
                        whole = False
        finally:
            self._connection.set_progress_handler(None, 0)
        return whole and not waiting

    def _too_late(self) -> bool:
        return time.monotonic() > self._until

    def _query(self, statement: str) -> int | None:
        try:
            row = self._connection.execute(statement).fetchone()
        except sqlite3.Error as error:
            _raise_unless_damage(error)
            return None
        return row[0] if row and isinstance(row[0], int) else None

    # --- page by page -----------------------------------------------------------------

    def _note_damage_of_the_wal(self) -> None:
        """Notice rows that SQLite does not see: it stops at the first damaged frame of a WAL."""
        self._workspace.uncounted = wal_is_damaged(self._damaged)
        cells = recovered_records(self._damaged, until=self._until, only_replaced=True)
        counters = [values[1] for kind, _, values in cells if kind == "sequence"]
        if self._workspace.last is not None:
            self._workspace.last = max([self._workspace.last, *counters])

    def _recover_from_pages(self) -> None:
        """Take from the leaves of every table in the file what has the outbox's form."""
        confirmed: list[int] = []
        last: list[int] = []
        keep: dict[str, Callable[[int, Values], object]] = {
            "state": lambda _row, values: confirmed.append(_confirmed_in(values)),
            "sequence": lambda _row, values: last.append(values[1]),
            "layout": self._workspace.keep_layout,
            "outbox": self._workspace.keep_row,
        }
        # Outside of a transaction each row found would be one.
        self._connection.execute("BEGIN")
        try:
            for kind, row, values in recovered_records(self._damaged, until=self._until):
                keep[kind](row, values)
        finally:
            self._connection.execute("COMMIT")
        # Of several copies the one that sends more again, and misses more.
        if self._workspace.confirmed is None and confirmed:
            self._workspace.confirmed = min(confirmed)
        if self._workspace.last is None and last:
            self._workspace.last = max(last)


def _confirmed_in(state: Values) -> int:
    """Return ``confirmed_seq`` of a record of the state; raises UnknownOutbox for a newer one."""
    versions.require_known_version(state[1])
    return int(state[8])


def _raise_unless_damage(error: sqlite3.Error) -> None:
    """Raise *error* where it is not the damaged file's: the workspace has no room."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM):
        raise error
