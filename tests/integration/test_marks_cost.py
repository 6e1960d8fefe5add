# SPDX-License-Identifier: Apache-2.0
"""Marks cost no round trip of their own, and a server without their table is served by."""

from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from edgepaas.database.postgresql.connector import Connector
from edgepaas.database.postgresql.database import ServerDatabase
from edgepaas.files.node_identity import node_identity
from edgepaas.files.paths import Paths
from edgepaas.marks.keeper import MarkKeeper
from edgepaas.schema.chain import chain_of
from edgepaas.schema.postgresql.migrate import check_postgres, parts_of
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.telemetry import application as telemetry
from tests.bench.counting_relay import CountingRelay
from tests.support.databases import adding, count_in, reading
from tests.support.postgres_server import PostgresServer
from tests.support.telemetry_box import contract_for


@pytest.fixture
def name(paths: Paths, postgres: PostgresServer) -> str:
    """A database at head."""
    found = postgres.create_database()
    prepare_database(contract_for(paths, postgres.url(found)), Settings.of(), paths, telemetry)
    return found


def round_trips_of(
    database: ServerDatabase, relay: CountingRelay, work: Callable[[ServerDatabase], object]
) -> int:
    """Return how many round trips *work* costs on a connection that has done it before."""
    for _ in range(3):
        work(database)
    before = sum(relay.round_trips().values())
    work(database)
    return sum(relay.round_trips().values()) - before


def one_row(database: ServerDatabase) -> None:
    database.write(adding(reading()))


def two_statements(database: ServerDatabase) -> None:
    def work(session: Session) -> None:
        session.execute(text("UPDATE devices SET name = name WHERE false"))
        adding(reading())(session)

    database.write(work)


def a_read(database: ServerDatabase) -> None:
    count_in(database)


@pytest.mark.parametrize("work", [one_row, two_statements, a_read])
def test_marks_cost_no_round_trip(
    paths: Paths, postgres: PostgresServer, name: str, work: Callable[[ServerDatabase], object]
) -> None:
    """Counted by a relay, with marks and without."""
    found = {}
    for marked in (False, True):
        node_id = node_identity(paths).node_id
        marks = MarkKeeper(paths, node_id, ["readings", "devices"]) if marked else None
        with CountingRelay(postgres.port, delay=0.0) as relay:
            url = relay.reroute(postgres.url(name))
            database = ServerDatabase(url, Settings.of(), marks=marks)
            try:
                found[marked] = round_trips_of(database, relay, work)
            finally:
                database.close()
    assert found[True] == found[False]
    wrote = postgres.execute("SELECT coalesce(sum(mark), 0)::int FROM sync_connections", name)
    assert wrote == [[0 if work is a_read else 4]]


def test_a_box_that_may_not_migrate_serves_without_marks(
    paths: Paths, postgres: PostgresServer, name: str
) -> None:
    """PostgreSQL is at the platform's first revision: all that is needed is there."""
    postgres.execute("DROP TABLE sync_connections", name)
    postgres.execute("UPDATE edgepaas_version SET version_num = '0001'", name)
    url = postgres.url(name)
    parts = parts_of(chain_of(telemetry), lambda: None)
    report = check_postgres(Connector(url, Settings.of()), parts)
    assert "it holds all that this build needs" in report.message
    keeper = MarkKeeper(paths, node_identity(paths).node_id, ["readings"])
    database = ServerDatabase(url, Settings.of(), marks=keeper)
    try:
        one_row(database)
        database.compare_marks()
        assert count_in(database) == 1
    finally:
        database.close()
