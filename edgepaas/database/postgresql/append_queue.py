# SPDX-License-Identifier: Apache-2.0
"""What waits to be appended goes to PostgreSQL together: a few threads, a flight at a time each.

One flight costs one round trip, whatever it holds. On a near server one thread sends all, and
what comes meanwhile goes together; over a slow link another thread takes what has waited for
:data:`HELP_AFTER`, so that a reading seldom waits for another one's round trip.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgepaas.database.append import AppendJob, AppendOutcome
from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseUnavailable

#: Threads, and with them connections, that send at once.
SENDERS = 3
#: Seconds that a job waits while a flight is under way, before another thread takes it.
HELP_AFTER = 0.005
#: Jobs that wait, and rows of one flight (a single job may have more).
MOST_WAITING = 2_000
MOST_ROWS = 2_000

logger = logging.getLogger("edgepaas.database")


@dataclass(eq=False)
class Waiting:
    """A job that waits; ``began`` is by time.monotonic(). ``ends`` has what it ended with."""

    job: AppendJob
    began: float = field(default_factory=time.monotonic)
    ends: list[AppendOutcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        done, ends = self.job.done, self.ends

        def end(outcome: AppendOutcome) -> None:
            ends.append(outcome)
            done(outcome)

        self.job.done = end


class AppendQueue:
    """Hands what waits to *store*, in groups; for any thread.

    *store* ends each job of its group. What it raises all the same ends those that are left.
    """

    def __init__(self, store: Callable[[Sequence[Waiting]], None]) -> None:
        self._store = store
        self._waiting: deque[Waiting] = deque()
        self._changed = threading.Condition()
        #: How many threads send, and whether one waits for its turn to help.
        self._sending = 0
        self._patient = False
        self._closed = False
        self._threads: list[threading.Thread] = []

    def put(self, job: AppendJob) -> None:
        """Have *job* stored; never waits. A job that finds no place ends at once."""
        with self._changed:
            if not self._closed and len(self._waiting) < MOST_WAITING:
                self._waiting.append(Waiting(job))
                if len(self._threads) < SENDERS:
                    self._start_thread()
                if self._threads:
                    if not self._sending or not self._patient:
                        self._changed.notify()
                    return
                self._waiting.pop()
                refusal: DatabaseError = DatabaseBusy("no thread can be started")
            elif self._closed:
                refusal = DatabaseUnavailable("the database is closed")
            else:
                refusal = DatabaseBusy(f"{MOST_WAITING:,} writes wait for PostgreSQL already")
        if job.claim():
            job.done(refusal)

    def close(self, seconds: float) -> None:
        """Store what waits, for up to *seconds*; what is left then ends unstored."""
        until = time.monotonic() + seconds
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        with self._changed:
            left, self._waiting = list(self._waiting), deque()
        for one in left:
            if one.job.claim():
                one.job.done(DatabaseUnavailable("the database is closed; nothing was written"))

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=self._run, name=f"append-{len(self._threads) + 1}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # tried again by the next job
            logger.warning("a thread that sends appended facts cannot be started: %s", error)
        else:
            self._threads.append(thread)

    def _run(self) -> None:
        while True:
            with self._changed:
                group = self._next_group()
                if group is None:
                    return
                self._sending += 1
            try:
                if group:
                    self._store(group)
            except Exception as error:  # else nobody would send any more, and callers wait
                logger.exception("a flight of appended facts failed")
                for one in group:
                    if not one.ends:
                        one.job.done(
                            DatabaseUnavailable(
                                f"whether the write was stored is unknown: {error!r}"
                            )
                        )
            finally:
                with self._changed:
                    self._sending -= 1

    def _next_group(self) -> list[Waiting] | None:
        """Wait for jobs that are this thread's to send; None: there will be none."""
        while True:
            if not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
                continue
            patience = HELP_AFTER - (time.monotonic() - self._waiting[0].began)
            if not self._sending or patience <= 0 or self._closed:
                return self._taken()
            if self._patient:  # one helper is enough at a time
                self._changed.wait()
                continue
            self._patient = True
            self._changed.wait(patience)
            self._patient = False

    def _taken(self) -> list[Waiting]:
        """Take the jobs of one flight; one whose facts are in it already stays for the next."""
        group: list[Waiting] = []
        keys: set[object] = set()
        rows = 0
        while self._waiting:
            one = self._waiting[0]
            more = one.job.positions.keys()
            if group and (rows + len(more) > MOST_ROWS or not keys.isdisjoint(more)):
                break
            self._waiting.popleft()
            if not one.job.claim():
                continue  # its caller waits no longer
            group.append(one)
            keys.update(more)
            rows += len(more)
        if self._waiting:
            self._changed.notify()  # for a thread that has nothing to do
        return group
