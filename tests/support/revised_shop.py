# SPDX-License-Identifier: Apache-2.0
"""An application of one table whose revisions a test writes, and boxes that forward its rows."""

import contextlib
import json
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.types import TypeEngine

from edgepaas.app import Application
from edgepaas.database.model import new_metadata
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.files.node_identity import node_identity
from edgepaas.files.paths import Paths, find_paths
from edgepaas.outbox import ledger
from edgepaas.schema.postgresql.hub import prepare_hub
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.sync.delivery.drain import drain_batch
from edgepaas.sync.hub.connection import Hub, open_hub
from edgepaas.sync.hub.layouts import reports_of, send_reports
from tests.support.chains import (
    migrations_folder,
    sqlite_contract,
    upgrade_body,
    write_revision,
)
from tests.support.hub_database import HubDatabase

Columns = Mapping[str, TypeEngine[Any]]

BATCH = 'with op.batch_alter_table("goods") as batch: '
#: The ways in which a column can be renamed, as the lines of a migration.
RENAMED = {
    "operation": ('op.alter_column("goods", "a", new_column_name="b")',),
    "batch": (BATCH + 'batch.alter_column("a", new_column_name="b")',),
    "batch-anew": (
        'with op.batch_alter_table("goods", recreate="always") as batch:',
        '    batch.alter_column("a", new_column_name="b")',
    ),
    "raw": ('op.execute("ALTER TABLE goods RENAME COLUMN a TO b")',),
    "copied": (
        'op.add_column("goods", sa.Column("b", sa.String(20)))',
        'op.execute("UPDATE goods SET b = a")',
        BATCH + 'batch.drop_column("a")',
        "from edgepaas.app import renamed",
        'renamed("goods", "a", "b")',
    ),
}
SWAPPED = tuple(
    f'op.execute("ALTER TABLE goods RENAME COLUMN {old} TO {new}")'
    for old, new in (("a", "middle"), ("c", "a"), ("middle", "c"))
)

DROPPED = BATCH + 'batch.drop_column("a")'


class Demanded(Integer):
    """A number without which no row is taken."""


def _demanded(kind: TypeEngine[Any]) -> bool:
    return isinstance(kind, Demanded)


class Shop:
    """An application of one table, whose revisions a test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._revisions: list[tuple[str, tuple[str, ...]]] = []
        self._tables: dict[str, tuple[str, Columns]] = {}
        #: What the downgrade of a revision does, where it does anything.
        self.taken_back: dict[str, tuple[str, ...]] = {}

    def revision(self, name: str, columns: Columns, *lines: str, table: str = "goods") -> None:
        """Add the revision *name*, after which the models have *columns* beside the id."""
        self._revisions.append((name, lines))
        self._tables[name] = (table, columns)

    def application(self, revision: str) -> Application:
        """Return the build at *revision*."""
        scripts = self.folder / f"scripts-{revision}"
        names = [name for name, _ in self._revisions]
        if not scripts.exists():
            migrations_folder(scripts, ())
            for number, (name, lines) in enumerate(self._revisions):
                if name <= revision:
                    before = names[number - 1] if number else None
                    back = upgrade_body(*self.taken_back.get(name, ()))
                    write_revision(scripts, name, before, upgrade_body(*lines), back)
        return Application(
            name="shop",
            version=revision,
            models=lambda: self.models(revision),
            migrations=scripts,
            blueprints=lambda _box: [],
        )

    def models(self, revision: str) -> MetaData:
        """Return the models at *revision*."""
        metadata = new_metadata()
        table, columns = self._tables[revision]
        Table(
            table,
            metadata,
            Column("id", String(36), primary_key=True),
            *(Column(name, kind, nullable=not _demanded(kind)) for name, kind in columns.items()),
            info={"kind": "shared"},
        )
        return metadata


class Box:
    """A local-first box of the shop, whose build can be changed."""

    def __init__(self, shop: Shop, folder: Path, url: str) -> None:
        self.shop = shop
        self.paths: Paths = find_paths({"EDGEPAAS_HOME": str(folder)})
        self.paths.create()
        self.settings = Settings.of(RUN_MIGRATIONS="true", NODE_NAME=folder.name)
        self.contract = replace(sqlite_contract(self.paths), db_state="local-first", hub_url=url)

    def upgrade(self, revision: str) -> SchemaReport:
        """What the schema stage of the build at *revision* does to the file."""
        application = self.shop.application(revision)
        return prepare_database(self.contract, self.settings, self.paths, application)

    def upgrade_hub(self, revision: str) -> SchemaReport:
        """What ``edgepaas schema --hub`` of that build does."""
        application = self.shop.application(revision)
        return prepare_hub(self.contract, self.settings, application, node_id=self.node_id)

    @contextlib.contextmanager
    def file(self) -> Iterator[sqlite3.Connection]:
        """The file, as any program opens it."""
        with contextlib.closing(open_sqlite(self.paths.sqlite)) as connection:
            yield connection

    def execute(self, sql: str, *values: object) -> None:
        """Run one statement in a transaction of its own."""
        with self.file() as connection:
            connection.execute(sql, values)

    def add(self, table: str = "goods", **values: object) -> str:
        """Store a row; returns its id."""
        identity = str(uuid.uuid4())
        names = ["id", *values]
        marks = ", ".join("?" * len(names))
        self.execute(
            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})",
            identity,
            *values.values(),
        )
        return identity

    def drain(self, hub: Hub | None = None) -> None:
        """Send everything that waits."""
        models = json.loads(self.paths.tables.read_text())["tables"]
        with contextlib.ExitStack() as stack:
            link = hub or stack.enter_context(open_hub(self.settings, self.contract.hub_url))
            connection = stack.enter_context(self.file())
            for _ in range(1000):
                if not drain_batch(connection, link, rows=5, models=models).remaining:
                    return
        raise AssertionError("rows still wait")

    def counts(self) -> dict[str, int]:
        """The ledger."""
        with self.file() as connection:
            return ledger.read(connection)

    @property
    def node_id(self) -> str:
        """Under which name the hub knows it."""
        return node_identity(self.paths).node_id


def first_shop(folder: Path) -> Shop:
    """Return a shop with its first revision: two texts."""
    found = Shop(folder)
    texts: Columns = {"a": String(20), "c": String(20)}
    found.revision(
        "0001",
        texts,
        'op.create_table("goods", sa.Column("id", sa.String(36), primary_key=True),'
        ' sa.Column("a", sa.String(20)), sa.Column("c", sa.String(20)))',
    )
    return found


def boxes(shop: Shop, folder: Path, hub: HubDatabase, *names: str) -> list[Box]:
    """Return boxes, all at the first revision, as is the hub."""
    found = []
    for name in names:
        (folder / name).mkdir()
        box = Box(shop, folder / name, hub.url)
        box.upgrade("0001")
        found.append(box)
    found[0].upgrade_hub("0001")
    return found


def rows(hub: HubDatabase, columns: str, table: str = "goods") -> dict[str, Sequence[object]]:
    """Return the hub's rows by id."""
    found = hub.execute(f"SELECT id, {columns} FROM {table}")
    return {str(row[0]): tuple(row[1:]) for row in found}


def reported(box: Box, link: Hub, hub: HubDatabase) -> None:
    """What a drainer tells the hub with its heartbeats."""
    name = box.settings.text("NODE_NAME")
    hub.execute(
        "INSERT INTO nodes (node_id, name, version, build, state, rows_waiting, boot_id, "
        f"first_seen, last_seen) VALUES ('{box.node_id}', '{name}', '1', '1', 'local-first', 0, "
        "'b', now(), now()) ON CONFLICT (node_id) DO NOTHING"
    )
    with box.file() as connection:
        document = json.loads(box.paths.tables.read_text())
        send_reports(link, box.node_id, reports_of(document, connection))
