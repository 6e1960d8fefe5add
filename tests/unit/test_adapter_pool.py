# SPDX-License-Identifier: Apache-2.0
"""The contract with SQLAlchemy's pool: what edgepaas.database.postgresql.pool_adapter uses."""

import inspect
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, exc, text
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.util import queue

from edgepaas.database.postgresql.pool_adapter import AdaptedPool


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine with room for one idle connection and one more."""
    made = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(":memory:", check_same_thread=False),
        poolclass=AdaptedPool,
        pool_size=1,
        max_overflow=1,
        pool_timeout=0.05,
        pool_use_lifo=True,
    )
    yield made
    made.dispose()


def pool_of(engine: Engine) -> AdaptedPool:
    assert isinstance(engine.pool, AdaptedPool)
    return engine.pool


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_do_get", ["self"]),
        ("_do_return_conn", ["self", "record"]),
        ("_dec_overflow", ["self"]),
    ],
)
def test_the_hooks_take_what_they_took(method: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(QueuePool, method)).parameters) == parameters


def test_a_pool_calls_its_hooks(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each checkout goes through take(), each return through give_back()."""
    calls: list[str] = []
    pool = pool_of(engine)

    def take(self: AdaptedPool) -> ConnectionPoolEntry:
        calls.append("take")
        return self.take_or_make()

    def give_back(self: AdaptedPool, record: ConnectionPoolEntry) -> None:
        calls.append("give_back")
        self.keep(record)

    monkeypatch.setattr(AdaptedPool, "take", take)
    monkeypatch.setattr(AdaptedPool, "give_back", give_back)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        assert calls == ["take"]
        assert pool.checkedout() == 1
    assert calls == ["take", "give_back"]
    assert pool.checkedin() == 1


def test_an_idle_record_is_waited_for_and_none_is_not(engine: Engine) -> None:
    pool = pool_of(engine)
    assert pool.take_idle(0) is None
    began = time.monotonic()
    assert pool.take_idle(0.05) is None
    assert time.monotonic() - began >= 0.04
    record = pool.take_or_make()
    timer = threading.Timer(0.05, pool.keep, [record])
    timer.start()
    assert pool.take_idle(10) is record
    pool.keep(record)
    timer.join()


def test_all_places_taken_is_a_timeout_after_the_patience(engine: Engine) -> None:
    pool = pool_of(engine)
    assert pool.patience == 0.05
    records = [pool.take_or_make(), pool.take_or_make()]
    began = time.monotonic()
    with pytest.raises(exc.TimeoutError):
        pool.take_or_make()
    assert time.monotonic() - began >= 0.04
    for record in records:
        pool.keep(record)
    assert (pool.checkedin(), pool.checkedout()) == (1, 0)


def test_a_place_that_is_freed_can_be_taken_again(engine: Engine) -> None:
    """A record without a connection does not come back; another is made in its place."""
    pool = pool_of(engine)
    records = [pool.take_or_make(), pool.take_or_make()]
    records[0].close()
    assert records[0].dbapi_connection is None
    pool.free_place()
    another = pool.take_or_make()
    assert another is not records[0]
    assert pool.checkedout() == 2


def test_a_record_opens_its_connection_anew_when_it_is_too_old(engine: Engine) -> None:
    pool = pool_of(engine)
    record = pool.take_or_make()
    first: Any = pool.open_connection(record)
    assert first is pool.open_connection(record)
    pool._recycle = 0
    time.sleep(0.01)
    second = pool.open_connection(record)
    assert second is not first
    with pytest.raises(sqlite3.ProgrammingError):
        first.execute("SELECT 1")
    pool.keep(record)


def test_the_queue_is_the_librarys_own(engine: Engine) -> None:
    """Its exception is the one that is caught."""
    pool = pool_of(engine)
    assert isinstance(pool._pool, queue.Queue)
    with pytest.raises(queue.Empty):
        pool._pool.get(False)


def test_a_pool_logs_below_the_librarys_pools(engine: Engine) -> None:
    """edgepaas.logs silences them together."""
    logger: Any = pool_of(engine).logger
    assert logger.name == "sqlalchemy.pool.AdaptedPool"
    assert logging.getLogger("sqlalchemy.pool").isEnabledFor(logging.CRITICAL)


def test_a_pool_that_is_made_anew_is_of_the_same_kind(engine: Engine) -> None:
    """Engine.dispose() makes one."""
    before = engine.pool
    engine.dispose()
    assert engine.pool is not before
    assert isinstance(engine.pool, AdaptedPool)
    assert engine.pool.patience == 0.05
