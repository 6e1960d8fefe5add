# SPDX-License-Identifier: Apache-2.0
"""What follows when the database does not answer."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from edgepaas.decision.contract import DatabaseContract, FinalMode
from edgepaas.decision.losses import loss_reason
from edgepaas.errors import DatabaseUnavailable
from edgepaas.files.paths import Paths
from edgepaas.health.checks import HealthBoard
from edgepaas.health.state import StateBoard
from edgepaas.httpd.startup_responder import NotReady, StartupResponder
from edgepaas.service.shutdown import Control, Ending
from edgepaas.service.watches import database_loss as loss
from edgepaas.service.watches.database_loss import LossHandlers, LossWatch
from edgepaas.timing.task_registry import TaskRegistry
from tests.support.service_process import until


class FakeDatabase:
    """A database that answers, fails or hangs as it is told."""

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self.longest_ping = 0.0
        self.on_unavailable: Callable[[BaseException], None] | None = None
        self.trouble: BaseException | None = None
        self.hang = threading.Event()
        self.hang.set()

    def ping(self) -> None:
        """Answer, or not."""
        self.hang.wait(30)
        if self.trouble is not None:
            raise self.trouble


def build(
    paths: Paths, dialect: str, mode: FinalMode
) -> tuple[FakeDatabase, LossWatch, LossHandlers, list[str]]:
    """Return a watch on a fake database, and every path that reaches the application."""
    contract = DatabaseContract(
        database_url="postgresql://x/y" if dialect == "postgresql" else "sqlite:////x",
        run_migrations=False,
        final_db_mode=mode,
        db_state="primary" if dialect == "postgresql" else "standalone",
        db_fallback=False,
        hub_url="",
        sqlite_path=Path("/x"),
        reason="",
        generation="1",
        decided_at="",
    )
    state = StateBoard(contract)
    state.phase = "running"
    front = StartupResponder(NotReady("starting", ""))
    reached: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        reached.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        return []

    front.open(application)
    around = LossHandlers(
        contract=contract,
        paths=paths,
        state=state,
        board=HealthBoard([]),
        responder=front,
        control=Control(lambda: None),
        back_off=lambda: 0.0,
    )
    database = FakeDatabase(dialect)
    return database, LossWatch(cast(Any, database), around), around, reached


def ask(front: StartupResponder) -> str:
    """Ask for something that needs the database; returns the status."""
    answer: list[str] = []
    list(front({"PATH_INFO": "/api", "REQUEST_METHOD": "GET"}, lambda s, _h: answer.append(s[:3])))
    return answer[0]


def started(watch: LossWatch, around: LossHandlers) -> None:
    """Start the watch's thread, as the service does."""
    around.control.at_end(watch.task.request_stop)
    watch.task.start()


def test_a_suspicion_that_does_not_hold_has_no_consequence(paths: Paths) -> None:
    """One broken connection is no lost database."""
    database, watch, around, _ = build(paths, "postgresql", "try_postgres")
    assert watch.look()
    assert around.control.ending is None
    assert ask(around.responder) == "200"
    assert database.on_unavailable == watch.suspect


def test_a_confirmed_loss_asks_for_a_new_decision_where_a_fallback_is_armed(paths: Paths) -> None:
    """run/db-lost, exit status 75, requests are turned away at once."""
    database, watch, around, reached = build(paths, "postgresql", "try_postgres")
    database.trouble = DatabaseUnavailable("connection refused")
    assert not watch.look()
    assert around.control.ending is not None
    assert around.control.ending.status == 75
    assert loss_reason(paths) == "PostgreSQL was lost: connection refused"
    assert ask(around.responder) == "503"
    assert reached == []
    assert around.state.state().state == "degraded"


def test_a_silent_database_is_lost_within_the_bound(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A black hole answers nothing, not even an error."""
    monkeypatch.setattr(loss, "CONFIRM_WITHIN", 0.1)
    database, watch, around, _ = build(paths, "postgresql", "try_postgres")
    database.hang.clear()
    assert not watch.look()
    assert around.control.ending is not None
    assert "no answer within 0.1 s" in around.control.ending.reason
    database.hang.set()


def test_without_a_fallback_the_service_holds_out_until_the_database_is_back(paths: Paths) -> None:
    """BOTH_DB=false: 503 meanwhile, everything as before afterwards."""
    database, watch, around, _ = build(paths, "postgresql", "postgres_only")
    database.trouble = ConnectionResetError("reset")
    assert not watch.look()
    assert around.control.ending is None
    assert ask(around.responder) == "503"
    assert "BOTH_DB=false" in around.state.state().reasons[0]
    database.trouble = None
    assert watch.look()
    assert ask(around.responder) == "200"
    assert around.state.state().state == "primary"


def status_asked_for(control: Control) -> int | None:
    """The exit status that the service was asked to end with, if it was."""
    return control.ending.status if control.ending else None


def test_a_sqlite_file_that_keeps_failing_is_handed_to_the_schema_stage(paths: Paths) -> None:
    """Five looks in a row, then exit status 1: the chain checks the file."""
    database, watch, around, _ = build(paths, "sqlite", "sqlite_only")
    database.trouble = DatabaseUnavailable("disk I/O error")
    for _ in range(loss.EMBEDDED_FAILURES - 1):
        watch.look()
    assert status_asked_for(around.control) is None
    watch.look()
    assert status_asked_for(around.control) == 1


def test_a_complaint_is_looked_into_at_once(paths: Paths) -> None:
    """The thread does not wait for its next round."""
    database, watch, around, _ = build(paths, "postgresql", "try_postgres")
    started(watch, around)
    error = DatabaseUnavailable("server closed the connection")
    database.trouble = error
    watch.suspect(error)
    until(lambda: around.control.ending, "the end to be asked for", limit=4)
    assert status_asked_for(around.control) == 75


def test_requests_in_work_have_the_database_looked_at_sooner(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may hang in it, and then none of them comes back to complain."""
    monkeypatch.setitem(loss.LOOK_EVERY, "postgresql", 3600.0)
    monkeypatch.setitem(loss.LOOK_EVERY_BUSY, "postgresql", 0.05)
    busy = threading.Event()
    database, _, around, _ = build(paths, "postgresql", "try_postgres")
    database.trouble = DatabaseUnavailable("no answer")
    watch = LossWatch(cast(Any, database), replace(around, busy=busy.is_set))
    started(watch, around)
    assert not around.control.wait(0.3)
    busy.set()
    until(lambda: around.control.ending, "the end to be asked for")


def test_a_database_that_is_away_is_not_asked_in_a_storm(paths: Paths) -> None:
    """Each failing ping of a health check is a complaint; the next look waits all the same."""
    database, watch, around, _ = build(paths, "postgresql", "postgres_only")
    asked: list[float] = []

    def ping() -> None:
        asked.append(time.monotonic())
        error = DatabaseUnavailable("refused")
        watch.suspect(error)
        raise error

    database.ping = ping  # type: ignore[method-assign]
    watch.suspect(DatabaseUnavailable("first"))
    started(watch, around)
    until(lambda: len(asked) >= 3, "three looks")
    around.control.end(Ending(0, "the test is over", 0.0))
    assert asked[2] - asked[1] >= loss.RETRY_EVERY / 2


@contextlib.contextmanager
def no_more_threads() -> Iterator[None]:
    """Every new thread wants a stack for which no machine has room, so none can be started."""
    before = threading.stack_size(1 << 47)
    try:
        yield
    finally:
        threading.stack_size(before)


def test_a_loss_is_found_after_a_time_in_which_no_thread_could_be_started(paths: Paths) -> None:
    """ "can't start new thread" says nothing of the database, and ends no watch of it."""
    database, watch, around, _ = build(paths, "postgresql", "try_postgres")
    raised: list[str] = []
    registry = TaskRegistry(
        lambda message, **_: raised.append(message), lambda message, **_: raised.append(message)
    )
    registry.add(watch.task)
    started(watch, around)
    database.trouble = DatabaseUnavailable("server closed the connection")
    with no_more_threads():
        watch.suspect(database.trouble)
        until(registry.problems, "the problem to be reported")
        (problem,) = registry.problems()
        assert "database-watch" in problem
        assert "can't start new thread" in problem
        assert len(raised) == 1
        assert around.control.ending is None
    until(lambda: around.control.ending, "the loss to be found")
    assert watch.task.failures >= 2


def test_a_watch_whose_thread_could_not_be_started_is_started_later(paths: Paths) -> None:
    """The box serves meanwhile, and reports by name what it does without."""
    database, watch, around, _ = build(paths, "postgresql", "try_postgres")
    said: list[str] = []
    registry = TaskRegistry(
        lambda message, **_: said.append(message), lambda message, **_: said.append(message)
    )
    registry.add(watch.task)
    state = StateBoard(around.contract, tasks=registry.problems)
    state.phase = "running"
    with no_more_threads():
        started(watch, around)
        assert not watch.task.alive
        registry.check()
        assert state.state().state == "degraded"
        assert "the thread database-watch cannot be started" in state.state().reasons[0]
        assert len(said) == 1
    database.trouble = DatabaseUnavailable("gone")
    watch.suspect(database.trouble)

    def ending() -> Ending | None:
        registry.check()
        return around.control.ending

    until(ending, "the loss to be found")
