# SPDX-License-Identifier: Apache-2.0
"""A write that waits for its transaction, and what the transaction's end means for it. Pure."""

import contextvars
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from edgepaas.database.append import AppendJob, AppendOutcome
from edgepaas.database.write_session import WriteSession
from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseFull, DatabaseUnavailable

logger = logging.getLogger("edgepaas.database")


class Job(Protocol):
    """One write that waits for its turn."""

    def claim(self) -> bool:
        """Take the job to run it; False: its caller waits no longer."""

    def succeed(self) -> None:
        """Answer the caller: the transaction is durable."""

    def fail(self, error: BaseException) -> None:
        """Answer the caller that its write, or the transaction around it, has failed."""


class WorkJob:
    """A ``Database.write``: its work, and the future that its caller waits for."""

    __slots__ = ("context", "future", "result", "work")

    def __init__(self, work: Callable[[Session], Any]) -> None:
        self.work = work
        self.context = contextvars.copy_context()
        self.future: Future[Any] = Future()
        self.result: Any = None

    def claim(self) -> bool:
        """Take the job to run it; False: its caller waits no longer."""
        return self.future.set_running_or_notify_cancel()

    def run(self, session: WriteSession) -> None:
        """Run the work up to its last statement, and keep its objects from the next one's."""
        self.result = self.context.run(self.work, session)
        session.flush()
        session.expunge_all()

    def succeed(self) -> None:
        """Give the work's result to the caller."""
        self.future.set_result(self.result)

    def fail(self, error: BaseException) -> None:
        """Raise *error* at the caller."""
        self.future.set_exception(error)


class FactsJob:
    """A ``Database.submit``: facts to append, and how that went in the open transaction."""

    __slots__ = ("_outcome", "job")

    def __init__(self, job: AppendJob) -> None:
        self.job = job
        self._outcome: AppendOutcome | None = None

    def claim(self) -> bool:
        """Take the job to run it; False: its caller waits no longer."""
        return self.job.claim()

    def note(self, outcome: AppendOutcome) -> None:
        """Keep what the caller is answered once the transaction is durable.

        An exception: the job alone was undone.
        """
        self._outcome = outcome

    def succeed(self) -> None:
        """Give the caller what was noted."""
        self._done(self._outcome or DatabaseUnavailable("the write was not run"))

    def fail(self, error: BaseException) -> None:
        """Give the caller *error*."""
        self._done(error)

    def _done(self, outcome: AppendOutcome) -> None:
        try:
            self.job.done(outcome)
        except Exception:  # others wait for this thread
            logger.exception("the caller of an append could not be answered")


class Step(IntEnum):
    """How far a transaction came; each step begins where the one before it is done."""

    BEGIN = 0
    JOBS = 1
    COMMIT = 2
    CHECK = 3
    DONE = 4


@dataclass
class Outcome:
    """How a transaction of *jobs* ended: at which step, and by which exception, if any."""

    jobs: list[Job]
    step: Step = Step.BEGIN
    error: BaseException | None = None
    #: Whether SQLite still had the transaction open when the error came.
    open: bool = False
    #: Rows captured for the hub.
    captured: int = 0

    @property
    def not_begun(self) -> bool:
        """Whether its transaction could not begin; that of the next job could not either."""
        return self.step is Step.BEGIN and isinstance(self.error, DatabaseError)

    @property
    def unknown(self) -> bool:
        """Whether the jobs may be stored nevertheless, so that they must not run again."""
        if self.step < Step.COMMIT or self.error is None:
            return False
        if self.step is Step.CHECK or isinstance(self.error, DatabaseUnavailable):
            return True
        # SQLite undoes what it refuses to commit. Any other exception does not tell whether
        # it came before COMMIT or after it; that the transaction is open does.
        return not self.open and not isinstance(self.error, DBAPIError | DatabaseError)


def own_exception(error: BaseException) -> DatabaseError:
    """Return a new exception for one of several callers: each adds its own traceback.

    *error* is its cause. An exception cannot be copied in general: its constructor may take
    other arguments than it keeps.
    """
    kinds = (DatabaseBusy, DatabaseFull, DatabaseUnavailable)
    kind = next((each for each in kinds if isinstance(error, each)), None)
    if kind is None:
        own: DatabaseError = DatabaseUnavailable(
            f"{type(error).__name__} after the write was handed to the disk; "
            f"whether it was stored is unknown"
        )
    else:
        own = kind(_text(error))
    own.__cause__ = error
    return own


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - its class has no text, and the callers wait
        return type(error).__name__
