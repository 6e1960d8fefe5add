# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL that is shared by many boxes and has no further connection for this one."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy import text

from edgepaas.database.postgresql.database import ServerDatabase
from edgepaas.errors import DatabaseBusy, DatabaseUnavailable
from edgepaas.logs import configure_logging
from edgepaas.settings import Settings
from edgepaas.settings.urls import split_url
from tests.support.postgres_server import PostgresServer

MOST = 2


@pytest.fixture
def role(postgres: PostgresServer) -> Iterator[str]:
    """A role that PostgreSQL gives two connections and no more (53300)."""
    role = f"crowded_{uuid4().hex[:8]}"
    postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret' CONNECTION LIMIT {MOST}")
    yield role
    postgres.execute(f"DROP ROLE {role}")


@pytest.fixture
def crowded(postgres_url: str, role: str) -> Iterator[ServerDatabase]:
    """A box with that role, told of losses in its ``lost``."""
    address = replace(split_url(postgres_url), username=role, password="secret")
    database = ServerDatabase(address.url(), Settings.of())
    yield database
    database.close()


@pytest.fixture
def lost(crowded: ServerDatabase) -> list[BaseException]:
    """What it took for a loss of PostgreSQL."""
    found: list[BaseException] = []
    crowded.on_unavailable = found.append
    return found


def pid_of(database: ServerDatabase) -> int:
    with database.read() as session:
        return int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the pool wait less long for a connection."""
    monkeypatch.setattr("edgepaas.database.postgresql.pool.POOL_TIMEOUT", 0.1)


def test_requests_beyond_them_wait_for_one_of_the_boxs_own(
    crowded: ServerDatabase, lost: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is no loss of PostgreSQL: nobody decides again."""
    monkeypatch.setattr(
        "edgepaas.database.postgresql.pool.POOL_TIMEOUT", 60.0
    )  # a machine may be busy
    together = threading.Barrier(8)
    served: list[int] = []

    def ask() -> None:
        together.wait(30)
        for _ in range(20):
            served.append(pid_of(crowded))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(served) == 160
    assert len(set(served)) <= MOST
    assert not lost


def test_what_comes_free_for_nobody_is_busy_and_no_loss(
    short_patience: None, crowded: ServerDatabase, lost: list[BaseException]
) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(MOST):
            held.enter_context(crowded.read()).execute(text("SELECT 1"))
        with pytest.raises(DatabaseBusy, match=f"continues with the {MOST} that"):
            pid_of(crowded)
    assert pid_of(crowded)
    assert not lost


def test_a_box_without_any_has_lost_its_postgresql(
    crowded: ServerDatabase, lost: list[BaseException], postgres: PostgresServer, role: str
) -> None:
    """Else it would answer 503 for ever, with SQLite beside it."""
    used = pid_of(crowded)
    postgres.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    postgres.execute(f"SELECT pg_terminate_backend({used})")
    for _ in range(2):  # what finds the old one gone, and what asks for a new one
        with pytest.raises(DatabaseUnavailable):
            pid_of(crowded)
    assert any("too many connections" in str(error) for error in lost)


def test_one_that_is_lost_or_too_old_does_not_stand_before_those_that_work(
    crowded: ServerDatabase, lost: list[BaseException], postgres: PostgresServer, role: str
) -> None:
    """The others go on being used while the server has no place for a new one."""
    with contextlib.ExitStack() as held:
        for _ in range(MOST):
            held.enter_context(crowded.read()).execute(text("SELECT 1"))
    with crowded.read() as session:
        top = session.connection().connection
        postgres.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1")
        top.invalidate()
    assert len({pid_of(crowded) for _ in range(5)}) == 1
    assert not lost


def test_a_connection_that_cannot_be_closed_in_order_is_no_traceback_in_the_log(
    crowded: ServerDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError("the link is gone")

    configure_logging()
    with crowded.read() as session:
        found = session.connection().connection
        found.dbapi_connection.close = fail  # type: ignore[union-attr, method-assign]
        found.invalidate()
    assert pid_of(crowded)
    assert "Traceback" not in capsys.readouterr().err


def test_the_watchs_own_connection_is_not_given_up_for_a_younger_one(
    crowded: ServerDatabase, lost: list[BaseException], postgres: PostgresServer, role: str
) -> None:
    crowded._pinger._max_age = 0.0
    crowded.ping()
    postgres.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1")
    for _ in range(3):
        crowded.ping()
    assert not lost
    postgres.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
    old = crowded._pinger._connection
    crowded.ping()
    assert crowded._pinger._connection is not old


def test_connections_that_nobody_wants_are_given_back_but_one(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepaas.database.postgresql.database.IDLE_KEPT", 0.2)
    database = ServerDatabase(postgres_url, Settings.of())
    with contextlib.ExitStack() as held:
        for _ in range(4):
            held.enter_context(database.read()).execute(text("SELECT 1"))
    pool = database._engine.pool
    assert pool.checkedin() == 4  # type: ignore[attr-defined]
    deadline = time.monotonic() + 30
    while pool.checkedin() > 1:  # type: ignore[attr-defined]
        assert time.monotonic() < deadline, pool.status()
        time.sleep(0.1)
        database.ping()
    with contextlib.ExitStack() as held:
        pids = {
            held.enter_context(database.read()).execute(text("SELECT pg_backend_pid()")).scalar()
            for _ in range(4)
        }
    assert len(pids) == 4
    database.close()
