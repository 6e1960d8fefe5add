# SPDX-License-Identifier: Apache-2.0
"""Twenty boxes drain at once through PgBouncer, which hands each transaction to any server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from edgepaas.database.postgresql.database import ServerDatabase
from edgepaas.settings import Settings
from tests.integration.test_faults_streams import drain_at_once
from tests.support.hub_database import HubDatabase
from tests.support.nodes import Node
from tests.support.pooler import find_pgbouncer, pooled
from tests.system.conftest import REQUIRED

BOXES = 20


@pytest.fixture
def pooler(hub_database: HubDatabase) -> Iterator[str]:
    """The hub's address through a PgBouncer with fewer servers than there are boxes."""
    if find_pgbouncer() is None:
        if REQUIRED:
            pytest.fail("pgbouncer is not installed")
        pytest.skip("pgbouncer is not installed (Debian: pgbouncer)")
    with pooled(hub_database.server, hub_database.name) as url:
        yield url


@pytest.mark.parametrize("way", ["pooled", "direct"])
def test_twenty_boxes_drain_at_once(
    tmp_path: Path, hub_database: HubDatabase, pooler: str, way: str
) -> None:
    url = pooler if way == "pooled" else hub_database.url
    boxes = [Node(tmp_path / f"{n}", url, rows=50) for n in range(BOXES)]
    assert drain_at_once(boxes, hub_database) >= 40 * BOXES


@pytest.mark.parametrize("way", ["pooled", "direct"])
def test_statements_are_kept_prepared_by_the_servers_own_connection_alone(
    hub_database: HubDatabase, pooler: str, way: str
) -> None:
    """Behind the pooler the same statements go on working, whichever server runs them."""
    database = ServerDatabase(pooler if way == "pooled" else hub_database.url, Settings.of())
    try:
        database.write(lambda session: session.execute(text("CREATE TABLE kept (n integer)")))

        def write(number: int) -> int:
            def work(session: Session) -> int:
                session.execute(text("INSERT INTO kept VALUES (:n)"), {"n": number})
                return int(session.execute(text("SELECT count(*) FROM kept")).scalar_one())

            return database.write(work)

        assert [write(number) for number in range(6)] == [1, 2, 3, 4, 5, 6]
        with database.read() as session:
            names = session.execute(
                text("SELECT statement FROM pg_prepared_statements WHERE statement LIKE :like"),
                {"like": "INSERT INTO kept%"},
            ).all()
        assert len(names) == (0 if way == "pooled" else 1)
    finally:
        database.close()
