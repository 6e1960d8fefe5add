# SPDX-License-Identifier: Apache-2.0
"""One job's failure in a group commit: its own caller gets it, its neighbours are stored."""

import sqlite3
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import Session

from edgepaas.database.sqlite.database import EmbeddedDatabase
from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseFull, DatabaseUnavailable
from edgepaas.pgdriver.failures import ConnectFailure, Failure
from tests.support.databases import adding, in_one_group, open_embedded, reading, values_in

#: Seconds; longer than anything here takes, so that a caller without an answer shows.
PATIENCE = 10.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    """An open database with the telemetry tables."""
    opened = open_embedded(tmp_path / "edgepaas.db", patience=PATIENCE)
    yield opened
    opened.close()


class TwoArguments(Exception):
    def __init__(self, device: str, limit: int) -> None:
        super().__init__(f"{device} has more than {limit}")


class FullOfTwoArguments(DatabaseFull):
    def __init__(self, device: str, limit: int) -> None:
        super().__init__(f"{device} has more than {limit}")


class KeywordOnly(DatabaseUnavailable):
    def __init__(self, *, reason: str) -> None:
        super().__init__(reason)


class NoArguments(DatabaseBusy):
    def __init__(self) -> None:
        super().__init__("a text", 1, {})


class _NoText:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class NoText(_NoText, Exception):
    """Cannot be printed."""


class FullWithoutText(_NoText, DatabaseFull):
    """Cannot be printed."""


class UnavailableWithoutText(_NoText, DatabaseUnavailable):
    """Cannot be printed."""


class NoCopy(DatabaseBusy):
    def __copy__(self) -> NoReturn:
        raise TypeError("not to be copied")

    def __deepcopy__(self, _memo: object) -> NoReturn:
        raise TypeError("not to be copied")

    def __reduce__(self) -> NoReturn:
        raise TypeError("not to be pickled")


@dataclass(frozen=True)
class Frozen(DatabaseUnavailable):
    """Takes no attribute, ``__cause__`` included."""

    number: int


ERRORS: dict[str, Callable[[], BaseException]] = {
    "two-arguments": lambda: TwoArguments("boiler", 3),
    "two-arguments-of-ours": lambda: FullOfTwoArguments("boiler", 3),
    "keyword-only": lambda: KeywordOnly(reason="a reason"),
    "no-arguments": NoArguments,
    "no-text": NoText,
    "no-text-of-ours": FullWithoutText,
    "no-text-unavailable": UnavailableWithoutText,
    "no-copy": NoCopy,
    "frozen": lambda: Frozen(3),
    "connect-failure": lambda: ConnectFailure(Failure.SILENT, "another server is silent"),
    "busy": lambda: DatabaseBusy("the work's own"),
    "full": lambda: DatabaseFull("the work's own"),
    "unavailable": lambda: DatabaseUnavailable("the work's own"),
    "system-exit": lambda: SystemExit(3),
    "keyboard-interrupt": KeyboardInterrupt,
    "generator-exit": GeneratorExit,
    "memory-error": MemoryError,
    "stop-iteration": StopIteration,
    "timeout": TimeoutError,
    "cancelled": CancelledError,
    "group": lambda: BaseExceptionGroup("two", [SystemExit(1), ValueError("a value")]),
}


@pytest.mark.parametrize("culprit", [0, 1, 2])
@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
def test_an_exception_of_whatever_kind_reaches_its_own_caller_alone(
    database: EmbeddedDatabase, make: Callable[[], BaseException], culprit: int
) -> None:
    """It is the very object that the work raised last, with the work in its traceback."""
    raised: list[BaseException] = []

    def failing_work(session: Session) -> None:
        adding(reading(-1.0))(session)
        raised.append(make())
        raise raised[-1]

    jobs: list[Callable[[Session], object]] = [
        failing_work if place == culprit else adding(reading(float(place))) for place in range(3)
    ]
    errors = in_one_group(database, *jobs)
    assert errors[culprit] is raised[-1]
    frames = traceback.extract_tb(raised[-1].__traceback__)
    assert "failing_work" in [frame.name for frame in frames]
    assert [error for place, error in enumerate(errors) if place != culprit] == [None, None]
    assert values_in(database) == [float(place) for place in range(3) if place != culprit]
    database.write(adding(reading(9.0)))
    database.ping()


@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
def test_several_failures_in_a_group_are_told_apart(
    database: EmbeddedDatabase, make: Callable[[], BaseException]
) -> None:
    """Each caller gets an exception of its own."""
    raised: dict[int, BaseException] = {}

    def failing(place: int) -> Callable[[Session], None]:
        def work(session: Session) -> None:
            adding(reading(-1.0))(session)
            raised[place] = make()
            raise raised[place]

        return work

    errors = in_one_group(
        database, failing(0), adding(reading(1.0)), failing(2), adding(reading(3.0)), failing(4)
    )
    assert [errors[0], errors[2], errors[4]] == [raised[0], raised[2], raised[4]]
    assert len({id(error) for error in raised.values()}) == 3
    assert (errors[1], errors[3]) == (None, None)
    assert values_in(database) == [1.0, 3.0]


def test_a_flush_that_fails_after_the_work_is_the_jobs_own(database: EmbeddedDatabase) -> None:
    """Added and not flushed: the value is refused when the job is over."""
    errors = in_one_group(
        database,
        adding(reading(1.0)),
        lambda session: session.add(reading(float("nan"))),
        adding(reading(3.0)),
    )
    assert (errors[0], errors[2]) == (None, None)
    assert isinstance(errors[1], StatementError)
    assert isinstance(errors[1].orig, ValueError)
    assert values_in(database) == [1.0, 3.0]


def test_a_failed_flush_that_the_work_hides_undoes_that_job_alone(
    database: EmbeddedDatabase,
) -> None:
    """SQLAlchemy has rolled back by then, the neighbours' rows as well."""
    row = reading(9.0)
    database.write(adding(row))

    def hiding(session: Session) -> None:
        try:
            adding(reading(-1.0, id=row.id))(session)
        except IntegrityError:
            session.expunge_all()

    errors = in_one_group(database, adding(reading(1.0)), hiding, adding(reading(3.0)))
    assert (errors[0], errors[2]) == (None, None)
    assert errors[1] is not None
    assert values_in(database) == [1.0, 3.0, 9.0]


def _closes_connection(session: Session) -> None:
    session.connection().close()


def _closes_driver(session: Session) -> None:
    driver = session.connection().connection.dbapi_connection
    assert driver is not None
    driver.close()


def _loses_connection(session: Session) -> None:
    session.connection().invalidate()


def _closes_session(session: Session) -> None:
    session.close()


def _resets_session(session: Session) -> None:
    session.reset()


def _leaves_session(session: Session) -> None:
    with session:
        adding(reading(2.0))(session)


def _loses_session(session: Session) -> None:
    session.invalidate()


def _raises_while_undone(session: Session) -> None:
    def refuse(_session: Session) -> NoReturn:
        raise SystemExit(5)

    event.listen(session, "after_rollback", refuse)
    raise LookupError("no such device")


@pytest.mark.parametrize(
    "work",
    [
        _closes_connection,
        _closes_driver,
        _loses_connection,
        _closes_session,
        _resets_session,
        _leaves_session,
        _loses_session,
        _raises_while_undone,
    ],
)
def test_work_that_breaks_the_writers_connection_harms_itself_alone(
    database: EmbeddedDatabase, work: Callable[[Session], object]
) -> None:
    """The writer goes on with another connection."""
    errors = in_one_group(database, adding(reading(1.0)), work, adding(reading(3.0)))
    assert (errors[0], errors[2]) == (None, None)
    assert errors[1] is not None
    assert values_in(database) == [1.0, 3.0]
    database.write(adding(reading(9.0)))
    database.ping()


@pytest.mark.parametrize(
    "statement",
    ["COMMIT", " end transaction", "/* now */ COMMIT", "-- x\nEND", ";COMMIT", "\ufeffCOMMIT"],
)
def test_work_that_commits_by_raw_sql_stores_nothing(
    database: EmbeddedDatabase, statement: str
) -> None:
    """It would commit its neighbours' half, who are then run again."""
    errors = in_one_group(
        database,
        adding(reading(1.0)),
        lambda session: [adding(reading(2.0))(session), session.execute(text(statement))],
        adding(reading(3.0)),
    )
    assert (errors[0], errors[2]) == (None, None)
    assert isinstance(errors[1], RuntimeError)
    assert values_in(database) == [1.0, 3.0]


def _commits_connection(session: Session) -> None:
    session.connection().commit()


def _commits_transaction(session: Session) -> None:
    transaction = session.get_transaction()
    assert transaction is not None
    transaction.commit()


def _commits_as_any_session(session: Session) -> None:
    Session.commit(session)
    adding(reading(2.5))(session)


def _rolls_connection_back(session: Session) -> None:
    session.connection().rollback()


def _rolls_back_as_any_session(session: Session) -> None:
    Session.rollback(session)
    adding(reading(2.5))(session)


@pytest.mark.parametrize(
    "work",
    [
        _commits_connection,
        _commits_transaction,
        _commits_as_any_session,
        _rolls_connection_back,
        _rolls_back_as_any_session,
    ],
)
def test_work_that_ends_the_transaction_past_its_session_harms_itself_alone(
    database: EmbeddedDatabase, work: Callable[[Session], object]
) -> None:
    """Neither is a neighbour's row stored twice nor one lost that was acknowledged."""
    database.write(lambda session: session.execute(text("CREATE TABLE marks (mark TEXT)")) and None)
    errors = in_one_group(
        database,
        lambda session: session.execute(text("INSERT INTO marks (mark) VALUES ('first')")) and None,
        lambda session: [adding(reading(2.0))(session), work(session)],
        adding(reading(3.0)),
    )
    assert (errors[0], errors[2]) == (None, None)
    assert isinstance(errors[1], RuntimeError)
    assert values_in(database) == [3.0]
    marks = database.write(lambda session: session.execute(text("SELECT mark FROM marks")).all())
    assert [tuple(mark) for mark in marks] == [("first",)]


def test_savepoints_are_the_works_own_affair(database: EmbeddedDatabase) -> None:
    """What a work takes back by one is taken back, and the rest of it is stored."""

    def work(session: Session) -> None:
        adding(reading(2.0))(session)
        with pytest.raises(LookupError), session.begin_nested():
            adding(reading(-1.0))(session)
            raise LookupError
        with session.begin_nested():
            adding(reading(2.5))(session)

    assert in_one_group(database, adding(reading(1.0)), work, adding(reading(3.0))) == [None] * 3
    assert values_in(database) == [1.0, 2.0, 2.5, 3.0]


class CommitFails:
    """Stands for the driver's COMMIT: fails so often, before or after it is done."""

    def __init__(
        self,
        database: EmbeddedDatabase,
        monkeypatch: pytest.MonkeyPatch,
        make: Callable[[], BaseException],
        *,
        times: int,
        stored: bool,
    ) -> None:
        self._dialect = database._writer._engine.dialect
        self._original = self._dialect.do_commit
        self._make, self._left, self._stored = make, times, stored
        monkeypatch.setattr(self._dialect, "do_commit", self)

    def __call__(self, connection: Any) -> None:
        # The first group of in_one_group only holds the writer: nothing is in it.
        if connection.total_changes == 0 or not self._left:
            self._original(connection)
            return
        self._left -= 1
        if self._stored:
            self._original(connection)
        raise self._make()


def _sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("an injected failure")
    error.sqlite_errorcode = code
    return error


def test_a_commit_without_room_is_tried_for_each_job_by_itself(
    database: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has undone the group; what is smaller may fit."""
    CommitFails(
        database, monkeypatch, lambda: _sqlite_error(sqlite3.SQLITE_FULL), times=2, stored=False
    )
    errors = in_one_group(database, *(adding(reading(float(n))) for n in range(3)))
    assert [type(error) for error in errors] == [DatabaseFull, type(None), type(None)]
    assert values_in(database) == [1.0, 2.0]


@pytest.mark.parametrize("stored", [False, True])
def test_a_commit_of_unknown_outcome_is_not_repeated(
    database: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """An I/O error: the rows may be in the file; each caller learns so by its own exception."""
    CommitFails(
        database, monkeypatch, lambda: _sqlite_error(sqlite3.SQLITE_IOERR), times=1, stored=stored
    )
    errors = in_one_group(database, *(adding(reading(float(n))) for n in range(3)))
    assert [type(error) for error in errors] == [DatabaseUnavailable] * 3
    assert len({id(error) for error in errors}) == 3
    assert values_in(database) == ([0.0, 1.0, 2.0] if stored else [])
    database.write(adding(reading(9.0)))


@pytest.mark.parametrize(
    "make", [MemoryError, NoText, UnavailableWithoutText, lambda: SystemExit(4)]
)
def test_what_fails_after_the_commit_does_not_store_anything_twice(
    database: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch, make: Callable[[], BaseException]
) -> None:
    """The transaction is over and no database error says that it was undone."""
    CommitFails(database, monkeypatch, make, times=1, stored=True)
    ran: list[int] = []

    def counted(number: int) -> Callable[[Session], object]:
        def work(session: Session) -> object:
            ran.append(number)
            return adding(reading(float(number)))(session)

        return work

    errors = in_one_group(database, *(counted(n) for n in range(3)))
    assert [type(error) for error in errors] == [DatabaseUnavailable] * 3
    assert ran == [0, 1, 2]
    assert values_in(database) == [0.0, 1.0, 2.0]
    database.write(adding(reading(9.0)))


@pytest.mark.parametrize("make", [MemoryError, NoText])
def test_what_fails_before_the_commit_is_done_again_job_by_job(
    database: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch, make: Callable[[], BaseException]
) -> None:
    CommitFails(database, monkeypatch, make, times=1, stored=False)
    errors = in_one_group(database, *(adding(reading(float(n))) for n in range(3)))
    assert errors == [None] * 3
    assert values_in(database) == [0.0, 1.0, 2.0]


def test_a_database_that_begins_nothing_is_not_tried_for_each_of_the_rest(
    database: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would wait for the lock as long as the one before it; each has its own exception."""
    begun: list[int] = []

    def failing(_session: Session) -> NoReturn:
        def refuse() -> NoReturn:
            begun.append(1)
            raise DatabaseBusy("another process keeps the database locked")

        monkeypatch.setattr(database._writer, "_check", refuse)
        raise LookupError

    errors = in_one_group(database, adding(reading(1.0)), adding(reading(2.0)), failing)
    assert [type(error) for error in errors] == [DatabaseBusy] * 3
    assert len({id(error) for error in errors}) == 3
    assert begun == [1]
    monkeypatch.undo()
    database.write(adding(reading(9.0)))
    assert values_in(database) == [9.0]


def test_a_notice_of_a_commit_that_fails_does_not_end_the_writer(
    database: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The callers have their answers by then; the next ones get theirs."""

    def refuse() -> NoReturn:
        raise NoText

    monkeypatch.setattr(database._writer, "_on_commit", refuse)
    monkeypatch.setattr("edgepaas.database.sqlite.transaction_stamp.TransactionStamp.captured", 1)
    database.write(adding(reading(1.0)))
    database.write(adding(reading(2.0)))
    assert values_in(database) == [1.0, 2.0]
    assert database._writer.alive
    assert "after a commit" in caplog.text


def test_the_callers_own_frames_are_in_the_traceback(database: EmbeddedDatabase) -> None:
    """From the view to the statement, over two threads."""

    def view() -> None:
        database.write(adding(reading(float("inf"))))

    seen: list[str] = []

    def run() -> None:
        try:
            view()
        except StatementError as error:
            seen.extend(frame.name for frame in traceback.extract_tb(error.__traceback__))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert {"view", "work"} <= set(seen)


def test_an_error_of_the_database_keeps_its_cause(
    database: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk said is in the log of each caller."""
    CommitFails(
        database, monkeypatch, lambda: _sqlite_error(sqlite3.SQLITE_IOERR), times=1, stored=False
    )
    errors = in_one_group(database, adding(reading(1.0)), adding(reading(2.0)))
    for error in errors:
        assert isinstance(error, DatabaseError)
        assert "an injected failure" in "".join(traceback.format_exception(error))
