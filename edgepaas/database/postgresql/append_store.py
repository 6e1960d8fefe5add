# SPDX-License-Identifier: Apache-2.0
"""Stores appended facts in one round trip, and finds out what became of those it cannot.

The rules, for a group of jobs whose flight

- *is refused* for what stands in the statements: halves of it are sent again, until the job
  that is at fault is alone; that one goes the ordinary way, which raises what it always does.
- *is refused* for a condition of the server's: all of the group end with that.
- *is lost*, its COMMIT with it: it is sent once more, on a new connection. That stores nothing
  twice, since the keys are known, and it tells what the lost answer would have told: where the
  first had been committed, its rows are found with this very call's stamp. Where the first is
  still at work at the server, the second waits for it, as for any row that another session
  inserts.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Engine, exc

from edgepaas.database.append import (
    AppendJob,
    append_in_session,
    compared_columns,
    stored_now,
)
from edgepaas.database.bulk_insert import Row, rows_by_id
from edgepaas.database.failures import is_retryable, translate_postgres
from edgepaas.database.postgresql.append_journal import AppendJournal, JournaledFlight
from edgepaas.database.postgresql.append_queue import Waiting
from edgepaas.database.postgresql.append_statements import (
    CannotTravel,
    Flight,
    PreparedJob,
    inserted_before,
    prepare,
    tables_of,
)
from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseRefused
from edgepaas.outcomes.outcomes import Outcomes
from edgepaas.pgdriver.failures import is_lost, sqlstate
from edgepaas.pgdriver.flights import run_flight

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

#: How often a flight is sent that PostgreSQL asks for again, before its jobs go one by one.
_ATTEMPTS = 3
_UNIQUE_VIOLATION = "23505"


class OrdinaryWay(Protocol):
    """The rest of the database: what an append uses of it."""

    def read(self) -> "AbstractContextManager[Session]": ...

    def write(self, work: "Callable[[Session], int]") -> int: ...


@dataclass(eq=False)
class _Travelling:
    """A job that can be a part of a flight; ``journaled`` is that flight's part of the journal."""

    waiting: Waiting
    prepared: PreparedJob
    journaled: JournaledFlight | None = None

    @property
    def job(self) -> AppendJob:
        return self.waiting.job


class FactStore:
    """Stores groups of append jobs on *engine*; for several threads at once."""

    def __init__(
        self,
        engine: Engine,
        ordinary: OrdinaryWay,
        outcomes: Outcomes,
        *,
        lost: Callable[[BaseException, DatabaseError], None],
        suspect: Callable[[BaseException], None],
        forget_idle: Callable[[], None],
        bounded: Callable[[Any, int], AbstractContextManager[None]],
    ) -> None:
        """*lost* is called with an error and what it means for callers, *suspect* for the first.

        *forget_idle* closes the idle connections: where one was cut, the others are as well.
        *bounded* is given a connection and a number of rows, and bounds the flight in its block;
        it raises CommitUnconfirmed (:class:`edgepaas.pgdriver.commit_wait.CommitWatch`).
        """
        self._engine = engine
        self._ordinary = ordinary
        self._outcomes = outcomes
        self._lost = lost
        self._suspect = suspect
        self._forget_idle = forget_idle
        self._bounded = bounded
        #: About how many facts were stored: threads may count at once.
        self._stored = 0
        #: Where the facts are written as well; None: nowhere.
        self.journal: AppendJournal | None = None

    def store(self, group: Sequence[Waiting]) -> None:
        """Store the jobs of *group* and end each of them; raises nothing."""
        travelling: list[_Travelling] = []
        others: list[Waiting] = []
        for one in group:
            try:
                prepared = prepare(one.job)
                if self.journal is not None:
                    self.journal.require_known(prepared)
                travelling.append(_Travelling(one, prepared))
            except CannotTravel:
                others.append(one)
        if travelling:
            self._store_in_flights(travelling)
        for one in others:
            self._store_alone(one.job)

    def _store_in_flights(self, jobs: Sequence[_Travelling]) -> None:
        """Send *jobs*, and what is refused in halves."""
        parts = [jobs]
        while parts:
            some = parts.pop()
            try:
                left_out = self._send(some)
            except Exception as error:  # noqa: BLE001 - each job ends with what it means
                failure: BaseException | None = self._meaning(error, some)
                if failure is None and len(some) > 1:
                    half = len(some) // 2
                    parts += [some[half:], some[:half]]
                    continue
                if failure is None:
                    failure = self._store_refused(some[0], error)
                if isinstance(failure, DatabaseError) and not isinstance(failure, DatabaseRefused):
                    # The server's condition, not one row's: the others would meet it as well.
                    parts, rest = [], [one for part in parts for one in part]
                    _end_all(rest, failure)
                continue
            self._settle(left_out)

    def _send(self, jobs: Sequence[_Travelling]) -> list[_Travelling]:
        """Store *jobs* and end those that are stored; return the others. Raises what refused it."""
        prepared = [one.prepared for one in jobs]
        flight = Flight(prepared, stored=self._stored)
        journaled = None if self.journal is None else self.journal.flight(prepared)
        lost = False
        for attempt in range(_ATTEMPTS):
            try:
                left = {id(one) for one in self._fly(flight, journaled)}
                break
            except Exception as error:
                if is_lost(error) and not isinstance(error, DatabaseError) and not lost:
                    lost = True
                    self._suspect(error)
                    self._forget_idle()
                elif not is_retryable(error) or attempt == _ATTEMPTS - 1:
                    raise
        else:
            raise DatabaseBusy("PostgreSQL asked again and again to run the transaction anew")
        self._stored += flight.rows
        self._outcomes.record(tables_of(prepared), None)
        for one in jobs:
            one.journaled = journaled
            if id(one.prepared) not in left:
                one.job.done(one.job.appended(len(one.job.distinct)))
        return [one for one in jobs if id(one.prepared) in left]

    def _fly(self, flight: Flight, journaled: JournaledFlight | None) -> list[PreparedJob]:
        """Run *flight* on a connection of the pool; return the jobs that it left out.

        All that is *journaled* of it is in the journal then.
        """
        connection = self._engine.raw_connection()
        try:
            driver: Any = connection.driver_connection
            with self._bounded(driver, flight.rows):
                known = None if journaled is None else journaled.expected
                results = run_flight(driver, flight.statements, known)
            left_out = flight.left_out(results)
            if journaled is not None:
                journaled.stored({id(one) for one in left_out}, inserted_before(flight, results))
            return left_out
        except BaseException as error:
            if is_lost(error):
                connection.invalidate(error)
            raise
        finally:
            connection.close()

    def _meaning(self, error: Exception, jobs: Sequence[_Travelling]) -> DatabaseError | None:
        """End *jobs* where *error* is the server's or the link's, and return what they got."""
        if isinstance(error, exc.TimeoutError):
            failure: DatabaseError | None = DatabaseBusy(f"no connection to PostgreSQL: {error}")
        else:
            failure = None if is_retryable(error) else translate_postgres(error)
            if isinstance(failure, DatabaseRefused):
                return None  # one row's text
        tables = tables_of([one.prepared for one in jobs])
        found: list[DatabaseError] = []
        for one in jobs:
            began = one.waiting.began
            instead = self._outcomes.record(tables, error, began=began) or failure
            if instead is None:
                return None
            found.append(instead)
        if failure is not None and failure is not error:  # else the pool has reported it
            self._lost(error, failure)
        for one, said in zip(jobs, found, strict=True):
            one.job.done(said)
        return found[0]

    def _store_refused(self, one: _Travelling, error: Exception) -> BaseException | None:
        """End a job that was refused alone; return the error that it ended with."""
        if sqlstate(error) == _UNIQUE_VIOLATION and self.journal is None:
            # Another session stored it meanwhile; perhaps this job's own first flight.
            return self._settle([one])
        return self._store_alone(one.job)

    def _store_alone(self, job: AppendJob) -> BaseException | None:
        """Store *job* the ordinary way and end it; return the error that it ended with."""
        try:
            accepted = self._ordinary.write(partial(self._append, job))
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller, whatever it is
            job.done(error)
            return error
        job.done(job.appended(accepted))
        return None

    def _append(self, job: AppendJob, session: "Session") -> int:
        accepted = append_in_session(session, job)
        if self.journal is not None:
            driver: Any = session.connection().connection.dbapi_connection
            driver.expect(self.journal.facts_of(job))
        return accepted

    def _settle(self, jobs: Sequence[_Travelling]) -> BaseException | None:
        """End *jobs*, of which some facts are stored already; return the last error."""
        failure: BaseException | None = None
        by_table: dict[tuple[Any, str], list[_Travelling]] = {}
        for one in jobs:
            by_table.setdefault((one.job.table, one.job.stamp), []).append(one)
        for (table, stamp), some in by_table.items():
            keys = dict.fromkeys(key for one in some for key in one.job.positions)
            try:
                with self._ordinary.read() as session:
                    stored = rows_by_id(session, table, keys, compared_columns(table, stamp))
            except BaseException as error:  # noqa: BLE001 - it belongs to the callers
                failure = error
                for one in some:
                    one.job.done(error)
                continue
            for one in some:
                failure = self._compare(one, stored) or failure
        return failure

    def _compare(self, one: _Travelling, stored: Mapping[uuid.UUID, Row]) -> BaseException | None:
        """End a job by what is *stored* under its keys; return the error that it ended with."""
        job = one.job
        known = {key: stored[key] for key in job.positions if key in stored}
        try:
            new = stored_now(job, known) if len(known) == len(job.positions) else None
        except Exception as error:  # noqa: BLE001 - FactsDiffer is the caller's
            if one.journaled is not None:
                one.journaled.void(job)
            job.done(error)
            return error
        if new is None:
            if one.journaled is not None:
                one.journaled.void(job)
            return self._store_alone(job)
        # Those with this call's stamp are of a flight of its own whose answer was lost.
        job.done(job.appended(len(new)))
        return None


def _end_all(jobs: Sequence[_Travelling], failure: DatabaseError) -> None:
    for one in jobs:
        one.job.done(failure)
