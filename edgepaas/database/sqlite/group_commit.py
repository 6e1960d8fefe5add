# SPDX-License-Identifier: Apache-2.0
"""Durable writes on SQLite: one thread that commits whatever is waiting as one group.

SQLite has one writer at a time and each commit waits for the disk. Requests that commit
for themselves fight over the lock with growing back-off; here they queue, and while one
group is being synced the next one gathers. A lone job pays for nothing but its own commit.
"""

import contextlib
import contextvars
import logging
import queue
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from edgepaas.database.sqlite.transaction_stamp import TransactionStamp
from edgepaas.database.write_session import WriteSession
from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseUnavailable

logger = logging.getLogger("edgepaas.database")

T = TypeVar("T")

#: Jobs that may wait; more than that many threads never write in one service.
QUEUE_LENGTH = 1000
#: A group stops gathering after this many seconds, so that its first job is not held up
#: by a queue that never empties.
GROUP_SECONDS = 0.02


class GroupSizes:
    """How many jobs went into a commit: a histogram that one thread writes and others read."""

    #: Upper bounds; the last bucket is infinity.
    BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128)

    def __init__(self) -> None:
        self.counts = [0] * (len(self.BOUNDS) + 1)
        self.jobs = 0

    def note(self, jobs: int) -> None:
        """Count a group of *jobs* that was committed."""
        self.counts[bisect_left(self.BOUNDS, jobs)] += 1
        self.jobs += jobs


class _Job:
    __slots__ = ("context", "future", "result", "work")

    def __init__(self, work: Callable[[Session], Any]) -> None:
        self.work = work
        self.context = contextvars.copy_context()
        self.future: Future[Any] = Future()
        self.result: Any = None

    def run(self, session: WriteSession) -> None:
        """Run the work up to its last statement, and keep its objects from the next one's."""
        self.result = self.context.run(self.work, session)
        session.flush()
        session.expunge_all()


class GroupCommitWriter:
    """Runs jobs on one connection of *engine*, whose transactions begin IMMEDIATE."""

    def __init__(
        self,
        engine: Engine,
        *,
        patience: float | None,
        check: Callable[[], None] = lambda: None,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """*patience*: seconds that a caller waits for its job at most, None: without end.

        *check* raises DatabaseUnavailable when what is written now would be lost; it is
        called before each group, and after its commit, before anybody is told of it.
        *on_commit* is called after each group that has captured rows for the hub, once its
        callers have been answered; it neither waits nor raises.
        """
        self._engine = engine
        self._patience = patience
        self._check = check
        self._on_commit = on_commit
        self.sizes = GroupSizes()
        #: Whether the last group failed because the database cannot be written.
        self.failing = False
        self._queue: queue.Queue[_Job | None] = queue.Queue(QUEUE_LENGTH)
        self._connection: Connection | None = None
        self._stamp: TransactionStamp | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="database-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Session], T]) -> T:
        """Run *work* in the writer's thread and return its result after the commit.

        Raises what *work* raised (it alone is undone; *work* may have run twice),
        DatabaseFull, DatabaseBusy when it did not get its turn in time,
        DatabaseUnavailable when the outcome is unknown.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("Database.write was called inside Database.write")
        job = _Job(work)
        until = None if self._patience is None else time.monotonic() + self._patience
        try:
            if self._closing:
                raise DatabaseUnavailable("the database is being closed")
            self._queue.put(job, timeout=self._patience)
        except queue.Full:
            raise DatabaseBusy(f"{QUEUE_LENGTH} writes are waiting for the disk") from None
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

    @property
    def alive(self) -> bool:
        """Whether the thread is there to take work."""
        return self._thread.is_alive()

    def close(self, timeout: float = 10.0) -> None:
        """Finish what is queued, then end the thread; waits up to *timeout* seconds."""
        self._closing = True
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout)
        self._thread.join(timeout)

    # ------------------------------------------------------------ in the writer's thread

    def _loop(self) -> None:
        while (job := self._queue.get()) is not None:
            if job.future.set_running_or_notify_cancel():
                self._run(job)
            # An idle writer must not keep the last request's rows and exception alive.
            del job
        self._refuse_the_rest()
        if self._connection is not None:
            self._connection.close()

    def _run(self, first: _Job, *, gather: bool = True) -> None:
        """Run *first* and, with *gather*, what waits by then, in one transaction.

        There are no savepoints: each would cost as much as a job's own statements, and
        nearly all jobs succeed. If one fails, nothing of the group is stored and each is
        run again by itself; whose fault it was shows then.
        """
        jobs = [first]
        session: WriteSession | None = None
        try:
            self._check()
            session = WriteSession(self._connect())
            connection = session.connection()
            stamp = self._begin_stamp(connection)
            until = time.monotonic() + GROUP_SECONDS
            first.run(session)
            _check_transaction(connection)
            stamp.mark()
            while gather and time.monotonic() < until and (job := self._next()) is not None:
                jobs.append(job)
                job.run(session)
                _check_transaction(connection)
                stamp.mark()
            session.finish()
            self._check()
        except BaseException as error:  # noqa: BLE001 - it belongs to the callers, whatever it is
            self.failing = isinstance(error, DatabaseUnavailable)
            self._undo(session, error)
            if len(jobs) > 1 and not isinstance(error, DatabaseError):
                for job in jobs:
                    self._run(job, gather=False)
                return
            for job in jobs:
                job.future.set_exception(_copy(error) if len(jobs) > 1 else error)
        else:
            session.close()
            self.failing = False
            self.sizes.note(len(jobs))
            for job in jobs:
                job.future.set_result(job.result)
            if stamp.captured:
                self._on_commit()

    def _undo(self, session: WriteSession | None, error: BaseException) -> None:
        if session is not None:
            try:
                session.undo()
            except Exception as another:  # noqa: BLE001 - the failure before it is reported
                logger.debug("rolling back: %s", another)
            session.close()
        connection = self._connection
        if connection is not None and (
            isinstance(error, DatabaseError)
            or connection.invalidated
            or _in_transaction(connection)
        ):
            self._disconnect()

    def _next(self) -> _Job | None:
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return None
            if job is None:
                self._queue.put(None)  # for the loop, which ends the thread
                return None
            if job.future.set_running_or_notify_cancel():
                return job

    def _begin_stamp(self, connection: Connection) -> TransactionStamp:
        if self._stamp is None:
            driver: Any = connection.connection.dbapi_connection
            self._stamp = TransactionStamp(driver)
        self._stamp.begin()
        return self._stamp

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _disconnect(self) -> None:
        """Drop the connection: after a failed commit or sync nothing it remembers is trusted."""
        connection, self._connection, self._stamp = self._connection, None, None
        if connection is None:
            return
        try:
            connection.invalidate()
            connection.close()
        except Exception as error:  # noqa: BLE001 - the failure that led here is being reported
            logger.warning("the writer's connection could not be closed: %s", error)

    def _refuse_the_rest(self) -> None:
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return
            if job is not None and job.future.set_running_or_notify_cancel():
                job.future.set_exception(DatabaseUnavailable("the database is being closed"))


def _in_transaction(connection: Connection) -> bool:
    driver = connection.connection.dbapi_connection
    return driver is not None and bool(driver.in_transaction)


def _check_transaction(connection: Connection) -> None:
    """Raise when a work has ended the transaction behind the session's back (raw SQL)."""
    if not _in_transaction(connection):
        raise RuntimeError("a write ended the transaction that it is a part of")


def _copy(error: BaseException) -> BaseException:
    """Return an exception of its own for one caller: each adds its own traceback."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy
