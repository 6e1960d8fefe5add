# SPDX-License-Identifier: Apache-2.0
"""Databases and rows for tests of the layers below HTTP."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sqlalchemy import Table, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import NullPool

from edgepaas.database.database import Database
from edgepaas.database.ids import name_id, uuid7
from edgepaas.database.sqlite import group_commit
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.sqlite.database import EmbeddedDatabase
from edgepaas.database.types import utc_now
from edgepaas.telemetry.models import Model, Reading


def create_sqlite_file(path: Path) -> None:
    """Create the telemetry tables in a new file, without a version."""
    engine = create_engine(
        "sqlite://", creator=lambda: open_sqlite(path, create=True), poolclass=NullPool
    )
    Model.metadata.create_all(engine)
    engine.dispose()


def open_embedded(path: Path, *, patience: float | None = 20.0) -> EmbeddedDatabase:
    """Open *path*, which is created with the telemetry tables when it is not there."""
    if not path.exists():
        create_sqlite_file(path)
    return EmbeddedDatabase(path, lock=path.with_name("db.lock"), readers=4, patience=patience)


def reading(value: float = 1.0, **columns: Any) -> Reading:
    """Return a reading that is ready to be stored."""
    return Reading(
        **{
            "id": uuid7(),
            "device_id": name_id("devices", "boiler"),
            "device": "boiler",
            "metric": "temperature",
            "value": value,
            "recorded_at": utc_now(),
            **columns,
        }
    )


def adding(*readings: Reading) -> Callable[[Session], int]:
    """Return work that stores *readings* and says how many they are."""

    def work(session: Session) -> int:
        session.add_all(readings)
        session.flush()
        return len(readings)

    return work


def values_in(database: Database) -> list[float]:
    """Return the values of all readings, sorted."""
    with database.read() as session:
        return sorted(session.scalars(select(Reading.value)))


def count_in(database: Database) -> int:
    """Return how many readings there are."""
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(Reading)) or 0


def in_one_group(
    database: EmbeddedDatabase, *jobs: Callable[[Session], object]
) -> list[BaseException | None]:
    """Have *jobs* gathered into one group, in order; return what each raised, None if nothing."""
    started, gate = threading.Event(), threading.Event()
    own_group = group_commit.GROUP_SECONDS
    raised: list[BaseException | None] = [None] * len(jobs)

    def hold(_: Session) -> None:
        started.set()
        assert gate.wait(20)
        time.sleep(own_group)  # so that this one's own group gathers nothing any more

    def run(index: int, job: Callable[[Session], object]) -> None:
        try:
            database.write(job)
        except BaseException as error:
            raised[index] = error

    threads = [threading.Thread(target=database.write, args=(hold,), daemon=True)]
    threads[0].start()
    assert started.wait(20)
    deadline = time.monotonic() + 20
    for index, job in enumerate(jobs):
        threads.append(threading.Thread(target=run, args=(index, job), daemon=True))
        threads[-1].start()
        while database._writer._queue.qsize() <= index:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    with patch.object(group_commit, "GROUP_SECONDS", 20.0):  # a slow machine gathers all as well
        gate.set()
        for thread in threads:
            thread.join(20)
    for thread in threads:
        assert not thread.is_alive(), "a caller of the group got no answer"
    return raised


def table_of(model: type[DeclarativeBase]) -> Table:
    """Return the table that *model* is mapped to."""
    assert isinstance(model.__table__, Table)
    return model.__table__
