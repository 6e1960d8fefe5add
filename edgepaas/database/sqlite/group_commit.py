# SPDX-License-Identifier: Apache-2.0
"""Durable writes on SQLite: one thread that commits whatever is waiting as one group.

SQLite has one writer at a time and each commit waits for the disk. Requests that commit
for themselves fight over the lock with growing back-off; here they queue, and while one
group is being synced the next one gathers. A lone job pays for nothing but its own commit.

Failures take one path. A transaction ends as an ``Outcome`` (write_job.py), which records how
far it came: no job is answered before it is known whether the transaction was stored. A job
that fails alone gets the exception that it raised. In a group nothing is stored when one
job fails, and each job is run again by itself; the failure then shows at the job that
causes it, and the others are stored. Only two kinds of failure belong to every job: a
database that does not begin a transaction, and a commit whose outcome is unknown, which
must not be repeated.
"""

import logging
import queue
import re
import sqlite3
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session

from edgepaas.database.append import AppendJob
from edgepaas.database.sqlite.capture_guard import Capture
from edgepaas.database.sqlite.job_queue import JobQueue
from edgepaas.database.sqlite.transaction import Transaction, WriterConnection, in_transaction
from edgepaas.database.sqlite.write_job import (
    FactsJob,
    Job,
    Outcome,
    Step,
    WorkJob,
    own_exception,
)
from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseUnavailable

logger = logging.getLogger("edgepaas.database")

T = TypeVar("T")

#: Jobs that may wait; the next one is refused, so that memory and waiting are bounded.
QUEUE_LENGTH = 1000
#: A group stops gathering after this many seconds, so that its first job is not held up
#: by a queue that never empties.
GROUP_SECONDS = 0.02

#: A statement that ends a transaction; ROLLBACK TO a savepoint does not.
_ENDS_TRANSACTION = re.compile(
    r"(?:[\s;\ufeff]|--[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)*"
    r"(?:COMMIT|END|ROLLBACK(?!\s+(?:TRANSACTION\s+)?TO\b))\b",
    re.IGNORECASE,
)
_CLOSING = "the database is being closed"
_CROWDED = f"{QUEUE_LENGTH} writes are waiting for the disk"
_ENDED = "a write ended the transaction that it is a part of"


class GroupSizes:
    """How many jobs went into a commit: a histogram that one thread writes and others read."""

    #: Upper bounds of the histogram's buckets; one without a bound follows.
    BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128)

    def __init__(self) -> None:
        self.counts = [0] * (len(self.BOUNDS) + 1)
        self.jobs = 0

    def note(self, jobs: int) -> None:
        """Count a group of *jobs* that was committed."""
        self.counts[bisect_left(self.BOUNDS, jobs)] += 1
        self.jobs += jobs


class GroupCommitWriter:
    """Runs jobs on one connection of *engine*, whose transactions begin IMMEDIATE."""

    def __init__(
        self,
        engine: Engine,
        *,
        patience: float | None,
        translate: Callable[[sqlite3.Error], BaseException],
        check: Callable[[], None] = lambda: None,
        require_room: Callable[[sqlite3.Connection], None] = lambda _: None,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """*patience*: seconds that a caller waits for its job at most, None: without end.

        *translate* returns what callers get for an error of the bare driver, as *engine*
        raises it for its own statements.
        *check* raises DatabaseUnavailable when what is written now would be lost; it is
        called before each transaction, and after its commit, before a caller is answered.
        *require_room* gets the connection with the transaction open, and raises DatabaseFull where
        what was written is not to be committed.
        *on_commit* is called after each transaction that has captured rows for the hub, once
        its callers have been answered; it must not wait.
        """
        self._engine = engine
        self._translate = translate
        self._patience = patience
        self._check = check
        self._require_room = require_room
        self._on_commit = on_commit
        #: How changes are captured; None: they are not.
        self.capture: Capture | None = None
        self.sizes = GroupSizes()
        #: Whether the last transaction failed because the database cannot be written.
        self.failing = False
        self._queue: JobQueue[Job | None] = JobQueue(QUEUE_LENGTH)
        self._connection: WriterConnection | None = None
        self._closing = False
        #: Whether a job runs now, to whom the transaction's end does not belong.
        self._in_job = False
        #: Whether the transaction was rolled back during the last job.
        self._rolled_back = False
        event.listen(engine, "before_cursor_execute", _refuse_end_of_transaction)
        event.listen(engine, "commit", self._refuse_commit)
        event.listen(engine, "rollback", self._note_rollback)
        self._thread = threading.Thread(target=self._loop, name="database-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Session], T]) -> T:
        """Run *work* in the writer's thread and return its result after the commit.

        Raises what *work* raised, the same object with its traceback (it alone is undone;
        *work* may have run twice), DatabaseFull, DatabaseBusy when it did not get its turn
        in time, DatabaseUnavailable when the outcome is unknown.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("Database.write was called inside Database.write")
        job = WorkJob(work)
        until = None if self._patience is None else time.monotonic() + self._patience
        if self._closing:
            raise DatabaseUnavailable(_CLOSING)
        if not self._queue.put(job, timeout=self._patience):
            raise DatabaseBusy(_CROWDED)
        try:
            left = None if until is None else max(until - time.monotonic(), 0)
            result: T = job.future.result(left)
        except TimeoutError:
            if job.future.done():
                raise  # the work's own
            if job.future.cancel():
                raise DatabaseBusy(
                    f"the write did not get its turn within {self._patience or 0:g} s; "
                    f"nothing was written"
                ) from None
            raise DatabaseUnavailable(
                f"the disk did not take the write within {self._patience or 0:g} s; "
                f"whether it was stored is unknown"
            ) from None
        return result

    def append(self, job: AppendJob) -> None:
        """Have *job* run in the writer's thread; its outcome goes to ``job.done``. Never waits."""
        waiting = FactsJob(job)
        if self._closing:
            _refuse(waiting, DatabaseUnavailable(_CLOSING))
        elif not self._queue.put_at_once(waiting):
            _refuse(waiting, DatabaseBusy(_CROWDED))
        elif not self.alive:
            self._refuse_the_rest()  # closed at this very moment

    @property
    def alive(self) -> bool:
        """Whether the thread is there to take work."""
        return self._thread.is_alive()

    def close(self, timeout: float = 10.0) -> None:
        """Finish what is queued, then end the thread; waits up to *timeout* seconds."""
        self._closing = True
        self._queue.put_always(None)
        self._thread.join(timeout)

    # ------------------------------------------------------------ in the writer's thread

    def _loop(self) -> None:
        while (job := self._queue.get()) is not None:
            if job.claim():
                self._run(job)
            # An idle writer must not keep the last request's rows and exception alive.
            del job
        self._refuse_the_rest()
        if self._connection is not None:
            self._connection.connection.close()

    def _run(self, first: Job) -> None:
        """Run *first* and what waits by then, and answer each of them; never raises.

        There are no savepoints: each would cost as much as a job's own statements, and
        nearly all jobs succeed.
        """
        group = self._transaction(first, gather=True)
        if group.error is None or group.unknown or len(group.jobs) == 1:
            self._answer(group)
            return
        for number, job in enumerate(group.jobs):
            alone = self._transaction(job, gather=False)
            if alone.not_begun:
                # Each of the rest would wait for the same lock or disk in vain.
                alone.jobs = group.jobs[number:]
                self._answer(alone)
                return
            self._answer(alone)

    def _transaction(self, job: Job, *, gather: bool) -> Outcome:
        """Run *job* and, with *gather*, what waits by then, in one transaction; never raises."""
        outcome = Outcome([job])
        transaction: Transaction | None = None
        try:
            self._check()
            transaction = self._connect().transaction()
            transaction.begin(job)
            outcome.step = Step.JOBS
            until = time.monotonic() + GROUP_SECONDS
            self._run_job(job, transaction)
            while gather and time.monotonic() < until and (another := self._next()) is not None:
                outcome.jobs.append(another)
                self._run_job(another, transaction)
            transaction.finish(self._require_room)
            outcome.step = Step.COMMIT
            transaction.commit()
            outcome.step = Step.CHECK
            self._check()
            transaction.release()
            outcome.step = Step.DONE
            outcome.captured = transaction.captured
        except BaseException as error:  # noqa: BLE001 - it belongs to the callers, whatever it is
            outcome.error = error
            outcome.open = self._in_transaction()
            self._undo(transaction, error)
        self.failing = isinstance(outcome.error, DatabaseUnavailable)
        return outcome

    def _run_job(self, job: Job, transaction: Transaction) -> None:
        """Run *job* in the open transaction; raises what it raises, and where it ended that."""
        if isinstance(job, FactsJob):
            transaction.append(job)
            return
        self._in_job, self._rolled_back = True, False
        try:
            transaction.run(job)
        finally:
            self._in_job = False
        # Another transaction may be open by now, without what the jobs before this one wrote.
        if self._rolled_back or not transaction.is_open:
            raise RuntimeError(_ENDED)
        transaction.mark()

    def _refuse_commit(self, connection: Connection) -> None:
        """Raise before a job's ``session.connection().commit()`` stores half of a group."""
        if self._in_job and self._is_mine(connection):
            raise RuntimeError(_ENDED)

    def _note_rollback(self, connection: Connection) -> None:
        """Take note of a rollback; it is not refused, for a flush that fails begins with it."""
        if self._is_mine(connection):
            self._rolled_back = True

    def _is_mine(self, connection: Connection) -> bool:
        return self._connection is not None and connection is self._connection.connection

    def _answer(self, outcome: Outcome) -> None:
        """Give each job of *outcome* its result or an exception of its own."""
        error, jobs = outcome.error, outcome.jobs
        if error is None:
            self.sizes.note(len(jobs))
            for job in jobs:
                job.succeed()
            if outcome.captured:
                self._tell_commit()
        elif len(jobs) == 1 and (isinstance(error, DatabaseError) or not outcome.unknown):
            jobs[0].fail(error)
        else:
            for job in jobs:
                job.fail(own_exception(error))

    def _tell_commit(self) -> None:
        try:
            self._on_commit()
        except Exception:  # the callers have been answered, and others wait for this thread
            logger.exception("the notification after a commit has failed")

    def _undo(self, transaction: Transaction | None, error: BaseException) -> None:
        """Roll back, and drop a connection that cannot be trusted any more; never raises."""
        trusted = not isinstance(error, DatabaseError)
        if transaction is not None:
            try:
                transaction.undo()
            except BaseException as another:  # noqa: BLE001 - the failure before it is reported
                logger.debug("rolling back has failed (%s)", type(another).__name__)
                trusted = False
        if self._connection is not None and (
            not trusted or self._connection.is_lost or self._in_transaction()
        ):
            connection, self._connection = self._connection, None
            connection.drop()

    def _next(self) -> Job | None:
        while True:
            try:
                job = self._queue.get_at_once()
            except queue.Empty:
                return None
            if job is None:
                self._queue.put_always(None)  # for the loop, which ends the thread
                return None
            if job.claim():
                return job

    def _connect(self) -> WriterConnection:
        if self._connection is None:
            self._connection = WriterConnection(
                self._engine.connect(), self._translate, lambda: self.capture
            )
        return self._connection

    def _refuse_the_rest(self) -> None:
        while True:
            try:
                job = self._queue.get_at_once()
            except queue.Empty:
                return
            if job is not None:
                _refuse(job, DatabaseUnavailable(_CLOSING))

    def _in_transaction(self) -> bool:
        """Whether SQLite has a transaction open on the writer's connection."""
        connection = self._connection
        if connection is None or connection.is_lost:
            return False
        try:
            return in_transaction(connection.connection)
        except Exception as error:  # noqa: BLE001 - a work has broken it; it is dropped
            logger.debug("the writer's connection is broken (%s)", type(error).__name__)
            return False


def _refuse_end_of_transaction(
    _connection: Connection, _cursor: object, statement: str, *_: object
) -> None:
    """Raise before a raw COMMIT stores one half of a group whose jobs are then run again."""
    if _ENDS_TRANSACTION.match(statement):
        raise RuntimeError(_ENDED)


def _refuse(job: Job, error: DatabaseError) -> None:
    if job.claim():
        job.fail(error)
