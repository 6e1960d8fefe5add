# SPDX-License-Identifier: Apache-2.0
"""A box in pieces, in this process: the real writer, the real outbox, the real drain.

    node = Node(folder, relay.reroute(hub.url))
    node.facts("press", 1, 2, 3)        # one transaction
    node.set("press", 4)
    node.drain()                        # again and again, until nothing waits

For what needs many faults a second; tests/support/live_box.py has the whole box.
"""

import contextlib
import sqlite3
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from edgepaas.database.ids import name_id
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.sqlite.database import EmbeddedDatabase
from edgepaas.database.types import utc_now
from edgepaas.outbox import capture, ledger
from edgepaas.outbox.stream import pending
from edgepaas.schema.table_contract import describe
from edgepaas.settings import Settings
from edgepaas.sync.errors import HubUnreachable
from edgepaas.sync.hub.connection import Hub, open_hub
from edgepaas.telemetry.models import Device, Model, Reading
from tests.support.databases import create_sqlite_file, table_of
from tests.support.history import History

READINGS = table_of(Reading)
DEVICES = table_of(Device)
LIMIT = 60.0


class Node:
    """One box: its file, its history, and the way to the hub at *url*."""

    def __init__(
        self, folder: Path, url: str, history: History | None = None, *, rows: int = 7,
        node_id: str = "", hub: bool = True, **settings: str,
    ) -> None:  # fmt: skip
        """*rows*: the size of a batch; small, so that transactions do not fit into one."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "edgepaas.db"
        self.url, self.rows = url, rows
        self.history = history or History()
        self.node_id = node_id or str(uuid.uuid4())
        self.settings = Settings.of(**({"DB_CONNECT_TIMEOUT": "2"} | settings))
        self.document: dict[str, Any] = {"revision": ["test"], "tables": describe(Model.metadata)}
        self.said: list[str] = []
        self.broken_links = 0
        if not self.path.exists():
            create_sqlite_file(self.path)
        self._connection: sqlite3.Connection | None = None
        self._database: EmbeddedDatabase | None = None
        self._hub: Hub | None = None
        if hub:
            self.install()

    # -- its file --

    @property
    def connection(self) -> sqlite3.Connection:
        """The drainer's connection."""
        if self._connection is None:
            self._connection = open_sqlite(self.path)
        return self._connection

    @property
    def database(self) -> EmbeddedDatabase:
        """The service's side."""
        if self._database is None:
            lock = self.path.with_name("db.lock")
            self._database = EmbeddedDatabase(self.path, lock=lock, readers=1, patience=20.0)
        return self._database

    def install(self) -> capture.Installed:
        """Begin to capture, as the schema stage does."""
        return capture.install(self.connection, self.document, node_id=self.node_id)

    def waiting(self) -> int:
        """How many rows wait."""
        return pending(self.connection)

    def ledger(self) -> dict[str, int]:
        """The file's counters."""
        return ledger.read(self.connection)

    def close(self) -> None:
        """Let go of file and hub."""
        self.hang_up()
        if self._database is not None:
            self._database.close()
        if self._connection is not None:
            self._connection.close()
        self._database = self._connection = None

    def kill(self) -> None:
        """End without a word to the hub or the file, and begin again."""
        if self._hub is not None:
            self._hub.abort()
        self.close()
        self.install()

    def add_column(self, table: str, name: str) -> None:
        """Migrate the file: a new column, captured from now on."""
        with contextlib.closing(open_sqlite(self.path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            capture.drop_triggers(connection)
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} INTEGER")
            connection.execute("COMMIT")
        columns = self.document["tables"][table]["columns"]
        columns.append(
            {"name": name, "type": "INTEGER", "storage": "INTEGER", "nullable": True,
             "primary_key": False}
        )  # fmt: skip
        self.install()

    def fill(self) -> None:
        """Leave no room for another page, as a full disk does."""
        pages = self.connection.execute("PRAGMA page_count").fetchone()[0]
        for connection in (self.connection, self._writing()):
            connection.execute(f"PRAGMA max_page_count={pages}")

    def free(self) -> None:
        """There is room again."""
        for connection in (self.connection, self._writing()):
            connection.execute("PRAGMA max_page_count=1000000000")

    def _writing(self) -> sqlite3.Connection:
        """The connection of the service's writer."""
        found: list[Any] = []

        def look(session: Session) -> None:
            found.append(session.connection().connection.dbapi_connection)

        self.database.write(look)
        connection: sqlite3.Connection = found[0]
        return connection

    # -- writes --

    def facts(self, key: str, *numbers: int) -> None:
        """Store facts in one transaction."""
        ids = [uuid.uuid4() for _ in numbers]
        with self.history.writing("fact", key, *numbers, ids=[str(i) for i in ids]):
            self.database.write(lambda session: _insert_facts(session, key, numbers, ids))

    def set(self, key: str, number: int) -> None:
        """Give the shared row *key* the number."""
        with self.history.writing("set", key, number):
            self.database.write(lambda session: _set(session, key, number))

    def register(self, key: str) -> None:
        """Make the shared row as the first reading of a device does, without a number."""
        values = {"id": name_id("devices", key), "name": key, "labels": {}}
        self.database.write(lambda session: session.execute(insert(DEVICES).values(values)))

    def delete(self, key: str) -> None:
        """Delete the shared row."""
        with self.history.writing("delete", key, 0):
            self.database.write(
                lambda session: session.execute(delete(DEVICES).where(DEVICES.c.name == key))
            )

    # -- sending --

    def hub(self) -> Hub:
        """The connection to the hub, a new one where the last one broke."""
        if self._hub is None or self._hub.broken:
            self.hang_up()
            self._hub = open_hub(self.settings, self.url)
        return self._hub

    def hang_up(self) -> None:
        """Close the connection to the hub."""
        if self._hub is not None:
            self._hub.close()
        self._hub = None

    def drain_once(self) -> Any:
        """Send one batch; raises what the drain raises."""
        from edgepaas.sync.delivery import drain

        return drain.drain_batch(self.connection, self.hub(), rows=self.rows, log=self.said.append)

    def drain(self, limit: float = LIMIT, *, until: Callable[[], bool] | None = None) -> None:
        """Send until nothing waits, however often the link breaks."""
        deadline = time.monotonic() + limit
        until = until or (lambda: self.waiting() == 0)
        while not until():
            assert time.monotonic() < deadline, f"{self.waiting()} rows wait; {self.said[-5:]}"
            try:
                self.drain_once()
            except HubUnreachable:
                self.broken_links += 1
                self.hang_up()
                time.sleep(0.005)


def _insert_facts(
    session: Session, key: str, numbers: tuple[int, ...], ids: list[uuid.UUID]
) -> None:
    now = utc_now()
    session.execute(
        insert(READINGS),
        [
            {"id": i, "device_id": name_id("devices", key), "device": key, "metric": "m",
             "value": float(n), "recorded_at": now, "received_at": now}
            for i, n in zip(ids, numbers, strict=True)
        ],
    )  # fmt: skip


def _set(session: Session, key: str, number: int) -> None:
    text = str(number)
    if session.execute(select(DEVICES.c.id).where(DEVICES.c.name == key)).first() is None:
        values = {"id": name_id("devices", key), "name": key, "description": text, "labels": {}}
        session.execute(insert(DEVICES).values(values))
    else:
        session.execute(update(DEVICES).where(DEVICES.c.name == key).values(description=text))


@contextlib.contextmanager
def nodes(*boxes: Node) -> Any:
    """Close the boxes after the block."""
    try:
        yield boxes if len(boxes) != 1 else boxes[0]
    finally:
        for box in boxes:
            box.close()
