# SPDX-License-Identifier: Apache-2.0
"""Which tables a transaction on PostgreSQL touches, and trying one's write path on the side."""

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event
from sqlalchemy.dialects import postgresql

from edgepaas.errors import DatabaseUnavailable, RowNotStored
from edgepaas.outcomes.causes import Access, KnownTable, Refusal
from edgepaas.outcomes.rehearsal import rehearse, shown_refusal
from edgepaas.outcomes.statements import Tables, inserted_table, tables_of
from edgepaas.pgdriver.connection import bounded, close_quietly
from edgepaas.pgdriver.failures import READ_ONLY, is_lost, server_message, sqlstate
from edgepaas.pgdriver.pg8000_adapter import simple_query

if TYPE_CHECKING:
    from sqlalchemy import MetaData

#: Seconds that a rehearsal takes at most, its connection included: a request waits for it.
REHEARSAL_TIMEOUT = 5.0
#: Seconds that it waits for a lock.
_LOCK_TIMEOUT = 1.0


@dataclass
class TouchedTables:
    """The tables of one transaction so far; ``began`` is by time.monotonic()."""

    began: float = field(default_factory=time.monotonic)
    #: In the order in which they were named first; a dict, as a set has no order.
    written: dict[str, None] = field(default_factory=dict)
    read: dict[str, None] = field(default_factory=dict)
    #: Those of the statement that was run last.
    last: Tables = field(default_factory=Tables)
    committing: bool = False

    def add(self, statement: str) -> None:
        """Note that *statement* is run."""
        self.last = tables_of(statement)
        self.written |= dict.fromkeys(self.last.written)
        self.read |= dict.fromkeys(self.last.read)

    def forget(self) -> None:
        """Note that the transaction was rolled back, to be run again."""
        self.written, self.read, self.last = {}, {}, Tables()

    @property
    def blamed(self) -> tuple[str, ...]:
        """The tables that an error now is about, the most likely one last."""
        if self.committing:
            return tuple(self.written)
        return (*self.last.read, *self.last.written)

    @property
    def access(self) -> Access:
        """What was wanted of them, in a transaction that writes."""
        return Access.WRITE if self.committing or self.last.written else Access.LOOK


class StatementTracker:
    """Notes the tables of the statements that a thread runs on *engine*.

    It also sees that rows which were given to an INSERT of a ``forwarded`` table are stored: a
    trigger that removes them makes no statement fail.
    """

    def __init__(self, engine: Engine) -> None:
        self.forwarded: Collection[str] = ()
        self._local = threading.local()
        event.listen(engine, "before_cursor_execute", self._on_execute)
        event.listen(engine, "after_cursor_execute", self._on_executed)

    @contextlib.contextmanager
    def tracking(self) -> Iterator[TouchedTables]:
        """Note what this thread runs in the block; a block within it has notes of its own."""
        outer = getattr(self._local, "touched", None)
        touched = self._local.touched = TouchedTables()
        try:
            yield touched
        finally:
            self._local.touched = outer

    def _on_execute(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        touched: TouchedTables | None = getattr(self._local, "touched", None)
        if touched is not None:
            touched.add(statement)

    def _on_executed(
        self, _connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any
    ) -> None:
        """Raise RowNotStored where an INSERT stored fewer rows than it was given."""
        table = inserted_table(statement)
        if table not in self.forwarded:
            return
        *_, context, many = rest
        stored, given = cursor.rowcount, len(parameters) if many else 1
        if many and not isinstance(parameters, list):
            # One INSERT of many VALUES, which has the parameters of all rows in one.
            given //= len(context.compiled.positiontup)
        if 0 <= stored < given:
            raise RowNotStored(
                f"{given - stored} rows of {table} were accepted and not stored: a trigger "
                "removed them"
            )


def known_tables(metadata: "MetaData") -> Mapping[str, KnownTable]:
    """Return the columns and constraints of *metadata*, by table; computed columns left out."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return {
        table.name: KnownTable(
            {
                column.name: column.type.compile(dialect)
                for column in table.columns
                if column.computed is None
            },
            frozenset(
                str(name)
                for name in (
                    *(one.name for one in table.constraints),
                    *(one.name for one in table.indexes if one.unique),
                )
                if name is not None
            ),
        )
        for table in metadata.tables.values()
        if table.schema is None
    }


def forwarded_tables(metadata: "MetaData") -> frozenset[str]:
    """Return the names of the facts and shared tables of *metadata*."""
    return frozenset(
        table.name
        for table in metadata.tables.values()
        if table.schema is None and table.info.get("kind", "local") != "local"
    )


def rehearse_on(
    connect: Callable[[float], Any], table: str, known: KnownTable | None
) -> Refusal | None:
    """Rehearse a write to *table* on a new connection of *connect*(seconds), which is closed.

    Returns what it shows of the table; raises DatabaseUnavailable where there was no answer.
    """
    connection = connect(REHEARSAL_TIMEOUT)
    milliseconds = round(1000 * _LOCK_TIMEOUT)

    def read(sql: str) -> list[list[object]]:
        return simple_query(connection, sql)

    def attempt(sql: str) -> int:
        try:
            stored = simple_query(
                connection,
                f"BEGIN; SET LOCAL lock_timeout = {milliseconds}; {sql}; "
                "SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK",
            )
        except Exception:
            simple_query(connection, "ROLLBACK")
            raise
        return len(stored)

    try:
        with bounded(connection, REHEARSAL_TIMEOUT):
            columns = known.columns if known is not None else {}
            found = rehearse(table, columns, read=read, attempt=attempt)
    except TimeoutError as late:
        raise DatabaseUnavailable(f"the rehearsal of a write to {table}: {late}") from late
    finally:
        close_quietly(connection)
    if found.error is not None and _was_cut(found.error):
        said = server_message(found.error)
        raise DatabaseUnavailable(f"the rehearsal of a write: {said}") from found.error
    return shown_refusal(found, table, known)


def _was_cut(error: Exception) -> bool:
    """Whether the connection was lost; read-only is an answer all the same."""
    return is_lost(error) and sqlstate(error) != READ_ONLY
