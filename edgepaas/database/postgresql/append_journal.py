# SPDX-License-Identifier: Apache-2.0
"""Appended facts on their way into the box's journal, ahead of the COMMIT that stores them.

All facts of a flight are written, those as well that prove to be there already: the call that
stored them first may have been that of a process which was killed before it had written them.
Rows of other tables (``before``, ``following``) are written as far as they were inserted.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Table

from edgepaas.database.append import AppendJob
from edgepaas.database.bulk_insert import Row, key_of
from edgepaas.database.postgresql.append_statements import CannotTravel, PreparedJob
from edgepaas.database.sqlite.append_statements import stored_values
from edgepaas.marks.changes import Change
from edgepaas.marks.journaling import Expected, StreamJournal

#: Keys of rows that facts need before them, which are on the server: not written each time.
_KNOWN_KEYS = 4_096

_Encode = Callable[[Sequence[Row]], list[tuple[Any, ...]]]


class AppendJournal:
    """Makes the journal's rows of appended facts; for several threads at once."""

    def __init__(self, journal: StreamJournal) -> None:
        self._journal = journal
        self._columns = journal.columns
        self._known: OrderedDict[tuple[str, Any], None] = OrderedDict()

    def require_known(self, job: PreparedJob) -> None:
        """Raise CannotTravel where the rows of *job* are not all known before they are stored."""
        self._encoder(job.job.table, job.job.distinct)
        for table, rows in job.job.before.items():
            self._encoder(table, rows)
        for table, rows in job.following_rows.items():
            for row in rows:
                self._encoder(table, [row])

    def flight(self, jobs: Sequence[PreparedJob]) -> "JournaledFlight":
        """Return what *jobs*, which travel together, write; their rows are known."""
        return JournaledFlight(self, self._journal, jobs)

    def facts_of(self, job: AppendJob) -> Expected:
        """Return what *job* writes where it is stored the ordinary way, as far as it is known."""
        try:
            return Expected(self.changes(job.table, job.distinct))
        except CannotTravel:
            return Expected([])

    def changes(self, table: Table, rows: Sequence[Row]) -> list[Change]:
        """Return inserted *rows* as changes; none of a table that is not forwarded.

        Raises CannotTravel where the server, or SQLAlchemy, would fill a column in.
        """
        make = self._encoder(table, rows)
        return [] if make is None else [Change(table.name, "I", values) for values in make(rows)]

    def _encoder(self, table: Table, rows: Sequence[Row]) -> "_Encode | None":
        columns = self._columns.get(table.name)
        if columns is None or not rows:
            return None
        return _encoder(table, columns, tuple(rows[0]))

    def is_known(self, table: Table, key: Any) -> bool:
        """Whether a row was on the server when a flight of this process looked."""
        return (table.name, key) in self._known

    def note_known(self, keys: Iterable[tuple[str, Any]]) -> None:
        """Note that these rows are on the server."""
        for key in keys:
            self._known[key] = None
        while len(self._known) > _KNOWN_KEYS:
            try:
                self._known.popitem(last=False)
            except KeyError:  # another thread was faster
                return


class JournaledFlight:
    """What one flight writes: ``expected`` is given to the rider, with the rows written ahead."""

    def __init__(
        self, maker: AppendJournal, journal: StreamJournal, jobs: Sequence[PreparedJob]
    ) -> None:
        self._maker = maker
        self._journal = journal
        self._jobs = jobs
        changes: list[Change] = []
        self._facts: dict[int, range] = {}
        self._following: dict[int, range] = {}
        for one in jobs:
            start = len(changes)
            changes += maker.changes(one.job.table, one.job.distinct)
            self._facts[id(one.job)] = range(start, len(changes))
        for one in jobs:
            start = len(changes)
            for table, rows in one.following_rows.items():
                for row in rows:
                    changes += maker.changes(table, [row])
            self._following[id(one.job)] = range(start, len(changes))
        #: Rows that go before, by key: where they stand, None: nowhere, since they are known.
        self._before: dict[tuple[str, Any], int | None] = {}
        self._rows: dict[tuple[str, Any], tuple[Table, Row]] = {}
        for one in jobs:
            for table, rows in one.job.before.items():
                self._add_before(changes, table, rows)
        self.expected = Expected(changes)

    def _add_before(self, changes: list[Change], table: Table, rows: Sequence[Row]) -> None:
        name = key_of(table).name
        for row in rows:
            key = (table.name, row[name])
            if key in self._before:
                continue
            self._rows[key] = (table, row)
            made = (
                [] if self._maker.is_known(table, row[name]) else self._maker.changes(table, [row])
            )
            self._before[key] = len(changes) if made else None
            changes += made

    def stored(self, left_out: Collection[int], inserted: Collection[tuple[str, str]]) -> None:
        """Note what became of it; the flight is committed.

        *left_out*: the ids of the prepared jobs of which nothing was stored. *inserted*: which
        rows that go before were: table and key as text. Raises DatabaseFull, DatabaseBusy where
        one of them was not expected to be, and cannot be written.
        """
        void = [
            place
            for one in self._jobs
            if id(one) in left_out
            for place in self._following[id(one.job)]
        ]
        missed: list[Change] = []
        for key, place in self._before.items():
            was = (key[0], str(key[1])) in inserted
            if place is not None and not was:
                void.append(place)
            elif place is None and was:
                table, row = self._rows[key]
                missed += self._maker.changes(table, [row])
        self._void(void)
        entry = self.expected.entry
        if missed and entry is not None:
            self._journal.record(entry.stream_id, entry.mark, missed)
        if not left_out:
            self._maker.note_known(self._before)

    def void(self, job: AppendJob) -> None:
        """Note that the facts of *job*, which was left out, are not those that are stored."""
        self._void(self._facts[id(job)])

    def _void(self, places: Collection[int]) -> None:
        if places and self.expected.entry is not None:
            self._journal.void(self.expected.entry, places)


@cache
def _encoder(table: Table, columns: tuple[str, ...], given: tuple[str, ...]) -> _Encode:
    """Return what makes the journal's values of rows that have the columns *given*."""
    names = tuple(name for name in columns if name in given)
    for name in columns:
        if name in given:
            continue
        column = table.columns.get(name)
        if column is None or column.default is not None or column.server_default is not None:
            raise CannotTravel(f"{table.name}.{name} is filled in")
    values = stored_values(table, names)
    places = [names.index(name) if name in names else None for name in columns]
    width, plain = len(names), names == columns

    def encode(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
        flat = values(rows)
        found = [tuple(flat[at : at + width]) for at in range(0, len(flat), width)]
        if plain:
            return found
        return [tuple(None if at is None else one[at] for at in places) for one in found]

    return encode
