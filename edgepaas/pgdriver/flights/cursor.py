# SPDX-License-Identifier: Apache-2.0
"""The cursor of a FlightConnection, as the DB-API (PEP 249) and SQLAlchemy's dialect want it."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from edgepaas.pgdriver import pg8000_adapter
from edgepaas.pgdriver.flights.answers import Answer, count_of

if TYPE_CHECKING:
    from edgepaas.pgdriver.flights.connection import FlightConnection

#: What a column's description has beside its name and type.
_UNKNOWN = (None, None, None, None, None)


class FlightCursor:
    """Runs statements, each in one round trip; ``%s`` stands for a parameter.

    Raises pg8000's errors. A statement without parameters may be several, with semicolons.
    """

    def __init__(self, connection: "FlightConnection") -> None:
        self.arraysize = 1
        self.rowcount = -1
        self._connection: FlightConnection | None = connection
        self._columns: tuple[tuple[str, int], ...] = ()
        self._rows: Iterator[list[Any]] | None = None
        self._types: Sequence[int] = ()

    @property
    def connection(self) -> "FlightConnection":
        """The connection; raises InterfaceError once the cursor is closed."""
        if self._connection is None:
            raise pg8000_adapter.interface_error("Cursor closed")
        return self._connection

    @property
    def description(self) -> list[tuple[Any, ...]] | None:
        """Name and type of each column, None where the last statement gives no rows."""
        return [(name, oid, *_UNKNOWN) for name, oid in self._columns] or None

    def execute(self, operation: str, args: Sequence[Any] = (), stream: Any = None) -> Any:
        """Run *operation*; *stream* is what a COPY reads or writes."""
        types, self._types = self._types, ()
        self._keep(self.connection.run_statement(operation, args, types=types, stream=stream))
        return self

    def executemany(self, operation: str, param_sets: Sequence[Sequence[Any]]) -> Any:
        """Run *operation* with each of *param_sets*; ``rowcount`` is the sum."""
        types, self._types = self._types, ()
        answers = self.connection.run_many(operation, list(param_sets), types=types)
        self._keep(answers)
        if any(count_of(answer.tag) < 0 for answer in answers):
            self.rowcount = -1
        return self

    def fetchone(self) -> list[Any] | None:
        """Return the next row, None after the last one."""
        return next(self._fetched(), None)

    def fetchmany(self, num: int | None = None) -> Sequence[list[Any]]:
        """Return the next *num* rows, or ``arraysize``."""
        return tuple(islice(self._fetched(), self.arraysize if num is None else num))

    def fetchall(self) -> Sequence[list[Any]]:
        """Return the rows that are left."""
        return tuple(self._fetched())

    def __iter__(self) -> Iterator[list[Any]]:
        return self._fetched()

    def setinputsizes(self, *sizes: Any) -> None:
        """Say the types of the next statement's parameters: OIDs, or what pg8000 knows."""
        self._types = [pg8000_adapter.type_oid(size) for size in sizes]

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Do nothing, as PEP 249 allows."""

    def close(self) -> None:
        """Let go of the connection."""
        self._connection = None

    def __enter__(self) -> "FlightCursor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, answers: Sequence[Answer]) -> None:
        """Keep what the last statement gave; of several, all rows, as pg8000 does."""
        self._columns = ()
        counts = [count for answer in answers if (count := count_of(answer.tag)) >= 0]
        self.rowcount = sum(counts) if counts else -1
        rows: list[list[Any]] = []
        for answer in answers:
            if answer.format is not None:
                self._columns = answer.format.columns
                rows = [*rows, *answer.rows] if rows else answer.rows
        self._rows = iter(rows)

    def _fetched(self) -> Iterator[list[Any]]:
        if self._rows is None:
            raise pg8000_adapter.programming_error("A query hasn't been issued.")
        if not self._columns:
            raise pg8000_adapter.programming_error("no result set")
        return self._rows
