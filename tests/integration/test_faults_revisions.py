# SPDX-License-Identifier: Apache-2.0
"""Box and hub at different revisions of the schema, with rows waiting: every row comes home."""

import contextlib
import json
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.decision.contract import DatabaseContract
from edgepaas.errors import EdgePaaSError
from edgepaas.files.paths import Paths
from edgepaas.outbox import ledger
from edgepaas.outbox.ledger import pending
from edgepaas.schema.postgresql.hub import prepare_hub
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.sync.delivery.drain import drain_batch
from edgepaas.sync.errors import SchemaDrift
from edgepaas.sync.hub.connection import open_hub
from tests.support.chains import shop, sqlite_contract
from tests.support.hub_database import HubDatabase
from tests.support.postgres_server import PostgresServer


class ShopBox:
    """A local-first box of the shop, whose build can be changed."""

    def __init__(self, folder: Path, paths: Paths, url: str) -> None:
        self.folder, self.paths = folder, paths
        self.settings = Settings.of(RUN_MIGRATIONS="true")
        values = vars(sqlite_contract(paths)) | {"db_state": "local-first", "hub_url": url}
        self.contract = DatabaseContract(**values)
        self.url = url

    def upgrade(self, revision: str) -> None:
        """What the schema stage of this build does to the file."""
        prepare_database(self.contract, self.settings, self.paths, shop(self.folder, revision))

    def upgrade_hub(self, revision: str) -> None:
        """What ``edgepaas schema --hub`` of this build does."""
        prepare_hub(self.contract, self.settings, shop(self.folder, revision))

    @contextlib.contextmanager
    def file(self) -> Iterator[sqlite3.Connection]:
        """The file, as any program opens it."""
        connection = open_sqlite(self.paths.sqlite)
        try:
            yield connection
        finally:
            connection.close()

    def execute(self, sql: str, *values: object) -> None:
        """Run one statement in a transaction of its own."""
        with self.file() as connection:
            connection.execute(sql, values)

    def add(self, count: int, **more: int) -> list[str]:
        """Store items, one a transaction; returns their ids."""
        names = ["id", "name", *more]
        ids = [str(uuid.uuid4()) for _ in range(count)]
        marks = ", ".join("?" * len(names))
        for n, identity in enumerate(ids):
            statement = f"INSERT INTO items ({', '.join(names)}) VALUES ({marks})"
            self.execute(statement, identity, f"item {n}", *more.values())
        return ids

    def drain(self) -> None:
        """Send everything; raises SchemaDrift."""
        models = json.loads(self.paths.tables.read_text())["tables"]
        with self.file() as connection, open_hub(self.settings, self.url) as hub:
            while pending(connection):
                drain_batch(connection, hub, rows=5, models=models)

    def counts(self) -> dict[str, int]:
        """The ledger."""
        with self.file() as connection:
            return ledger.read(connection)


@pytest.fixture
def hub(postgres: PostgresServer, postgres_url: str) -> HubDatabase:
    """An empty database."""
    return HubDatabase(postgres, postgres_url.rpartition("/")[2])


@pytest.fixture
def box(tmp_path: Path, paths: Paths, hub: HubDatabase) -> ShopBox:
    """A box and a hub, both at the first revision."""
    box = ShopBox(tmp_path, paths, hub.url)
    box.upgrade("0001")
    box.upgrade_hub("0001")
    return box


def test_rows_wait_while_the_box_is_upgraded_and_then_the_hub(
    box: ShopBox, hub: HubDatabase
) -> None:
    """Rows of two layouts; the hub that lacks a column is not written to until it has it."""
    older = box.add(12)
    box.execute("UPDATE items SET name = 'renamed' WHERE id = ?", older[0])
    box.upgrade("0002")
    newer = box.add(12, price=3)
    box.execute("UPDATE items SET price = 9 WHERE id = ?", older[1])
    with pytest.raises(SchemaDrift):
        box.drain()
    box.upgrade_hub("0002")
    box.drain()
    found = {str(i): (str(n), p) for i, n, p in hub.execute("SELECT id, name, price FROM items")}
    assert set(found) == {*older, *newer}
    assert found[older[0]] == ("renamed", None)
    assert found[older[1]][1] == 9
    assert {found[identity][1] for identity in newer} == {3}
    counts = box.counts()
    assert (counts["accepted"], counts["conflicts"], counts["dead"]) == (counts["delivered"], 0, 0)


def test_a_box_one_revision_behind_the_hub_sends_and_resets_nothing(
    box: ShopBox, hub: HubDatabase
) -> None:
    """The hub accepts rows of the revision before; what the box does not know stays."""
    ids = box.add(6)
    box.drain()
    box.upgrade_hub("0002")
    hub.execute("UPDATE items SET price = 5")
    box.execute("UPDATE items SET name = 'renamed' WHERE id = ?", ids[0])
    more = box.add(6)
    box.execute("DELETE FROM items WHERE id = ?", ids[1])
    box.drain()
    found = {str(i): (str(n), p) for i, n, p in hub.execute("SELECT id, name, price FROM items")}
    assert set(found) == {ids[0], *ids[2:], *more}
    assert found[ids[0]] == ("renamed", 5)
    assert {found[identity][1] for identity in more} == {None}
    assert box.counts()["conflicts"] == 0


def test_a_hub_that_is_lost_during_its_upgrade_is_upgraded_the_next_time(
    box: ShopBox, hub: HubDatabase
) -> None:
    """Half an upgrade is none: rows wait, and go home after the whole one."""
    box.upgrade("0002")
    ids = box.add(3, price=1)
    hub.execute(
        "CREATE FUNCTION lost() RETURNS event_trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); END $$"
    )
    hub.execute("CREATE EVENT TRIGGER lost ON ddl_command_end EXECUTE FUNCTION lost()")
    with pytest.raises(EdgePaaSError, match="migrating it to 0002 failed"):
        box.upgrade_hub("0002")
    hub.execute("DROP EVENT TRIGGER lost")  # fires none itself
    box.upgrade_hub("0002")
    box.drain()
    assert {str(row[0]) for row in hub.execute("SELECT id FROM items WHERE price = 1")} == set(ids)
