# SPDX-License-Identifier: Apache-2.0
"""Boxes and a hub for tests of what is between them: real files, a real PostgreSQL, no service."""

import contextlib
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    create_engine,
)
from sqlalchemy import Numeric as AnyNumeric
from sqlalchemy import Uuid as PlainUuid
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

from edgepaas.database.ids import name_id
from edgepaas.database.model import KindedModel, forwarded_tables, new_metadata
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.sqlite.transaction_stamp import TransactionStamp
from edgepaas.database.types import Json, Number, Numeric, Text, UtcDateTime, Uuid
from edgepaas.outbox import capture, ledger, strictness
from edgepaas.outbox.hub_capture.upkeep import ensure
from edgepaas.outbox.stream import read_stream
from edgepaas.pgdriver.connection import connect
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.schema.chain import platform_chain
from edgepaas.schema.migrations import upgrade
from edgepaas.schema.table_contract import describe
from edgepaas.settings.urls import split_url
from edgepaas.sync.delivery.drain import DrainResult, drain_batch
from edgepaas.sync.hub.connection import Hub, connect_hub
from edgepaas.sync.resend.recovery import Recovery
from tests.support.postgres_server import PostgresServer

PLAIN = TLSPolicy("disable")


class Mood(Enum):
    """A type of PostgreSQL's own."""

    calm = "calm"
    wild = "wild"


class Model(KindedModel, DeclarativeBase):
    """Base of the tables below."""

    metadata = new_metadata()


class Place(Model, kind="shared"):
    """A shared table with every rule of merging."""

    __tablename__ = "places"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    name: Mapped[str] = mapped_column(Text(20), unique=True)
    note: Mapped[str | None] = mapped_column(Text())
    labels: Mapped[dict[str, Any] | None] = mapped_column(Json)
    first: Mapped[int | None] = mapped_column(Integer, info={"merge": "least"})
    last: Mapped[int | None] = mapped_column(Integer, info={"merge": "greatest"})
    origin: Mapped[str | None] = mapped_column(Text(), info={"merge": "keep"})
    visits: Mapped[int | None] = mapped_column(Integer, info={"merge": "add"})
    paid: Mapped[Decimal | None] = mapped_column(Numeric(12, 2), info={"merge": "add"})


class Sensor(Model, kind="shared"):
    """Belongs to a place."""

    __tablename__ = "sensors"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    place_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("places.id"))


class Sample(Model, kind="facts"):
    """A fact; ``at`` is filled in from ``got`` where nothing was given."""

    __tablename__ = "samples"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    value: Mapped[float | None] = mapped_column(Number)
    text: Mapped[str | None] = mapped_column(Text(50))
    at: Mapped[str | None] = mapped_column(Text(), info={"filled_from": "got"})
    got: Mapped[str | None] = mapped_column(Text(), info={"merge": "keep"})


class Everything(Model, kind="facts"):
    """A column of every type that can be forwarded, under names that need quoting."""

    __tablename__ = 'all "kinds"'
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 (as SQLAlchemy declares it)

    word: Mapped[str] = mapped_column("wo'rd", Text(), primary_key=True)
    number: Mapped[int] = mapped_column("select", Integer, primary_key=True, autoincrement=False)
    ident: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    text: Mapped[str | None] = mapped_column(Text())
    small: Mapped[int | None] = mapped_column(Integer)
    big: Mapped[int | None] = mapped_column(BigInteger)
    real: Mapped[float | None] = mapped_column()
    flag: Mapped[bool | None] = mapped_column(Boolean)
    blob: Mapped[bytes | None] = mapped_column(LargeBinary)
    doc: Mapped[dict[str, Any] | None] = mapped_column(Json)
    moment: Mapped[datetime | None] = mapped_column(UtcDateTime)
    local: Mapped[datetime | None] = mapped_column()
    day: Mapped[date | None] = mapped_column()
    hour: Mapped[time | None] = mapped_column()
    mood: Mapped[Mood | None] = mapped_column()
    price: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    fine: Mapped[Decimal | None] = mapped_column(AnyNumeric(30, 12))
    zoned: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    plain: Mapped[uuid.UUID | None] = mapped_column(PlainUuid)


def document(metadata: MetaData = Model.metadata) -> dict[str, Any]:
    """Return what run/tables.json says of *metadata*."""
    return {"fingerprint": "f", "revision": ["1"], "tables": describe(metadata)}


class TestHub:
    """A database with the tables of *metadata* and the platform's own."""

    __test__ = False

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server = server
        self.name = name

    @property
    def url(self) -> str:
        """Its address."""
        return self.server.url(self.name)

    def ask(self, sql: str) -> list[list[Any]]:
        """Return the rows of *sql*."""
        return self.server.execute(sql, self.name)

    def one(self, sql: str) -> Any:
        """Return the one value that *sql* asks for."""
        return self.ask(sql)[0][0]

    def link(self, url: str = "", **options: Any) -> Hub:
        """Return a new connection."""
        return connect_hub(split_url(url or self.url), tls=PLAIN, **options)


def make_hub(server: PostgresServer, metadata: MetaData = Model.metadata) -> TestHub:
    """Create a database and bring it to head through the platform's migration."""
    hub = TestHub(server, server.create_database())

    def dial() -> Any:
        return connect(split_url(hub.url), deadline=5, tls=PLAIN)

    engine = create_engine("postgresql+pg8000://", creator=dial, poolclass=NullPool)
    with engine.begin() as connection:
        upgrade(connection, platform_chain(), None)
        metadata.create_all(connection)
    engine.dispose()
    ensure(hub.ask, list(forwarded_tables(metadata)))
    return hub


class Hubs:
    """Gives each test a hub that knows no box, without a new database where it can."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._template = make_hub(server)
        self._shape = self._template.ask(_SHAPE)
        self._tables = self._template.one(_TABLES)
        self._clean: list[str] = []

    def take(self) -> TestHub:
        """Return a hub whose tables are empty."""
        if self._clean:
            return TestHub(self._server, self._clean.pop())
        name = f"h_{uuid.uuid4().hex[:12]}"
        self._server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{self._template.name}"')
        return TestHub(self._server, name)

    def give_back(self, hub: TestHub) -> None:
        """Empty *hub*'s tables for the next test; one whose tables were altered is dropped."""
        self._server.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{hub.name}'"
        )
        if hub.ask(_SHAPE) == self._shape:
            hub.ask(f"TRUNCATE {self._tables}")
            self._clean.append(hub.name)
        else:
            self._server.drop_database(hub.name)


_SHAPE = """
SELECT attrelid::regclass::text, attname, atttypid::text, atttypmod, attnotnull, attisdropped
FROM pg_attribute WHERE attrelid > 16383 AND attnum > 0
UNION ALL
SELECT conrelid::regclass::text, conname, contype::text, 0, false, condeferrable
FROM pg_constraint WHERE oid > 16383
UNION ALL
SELECT tgrelid::regclass::text, tgname, '', 0, false, false FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT oid::regclass::text, relpersistence::text, relkind::text, 0, relrowsecurity, relhasrules
FROM pg_class WHERE oid > 16383
ORDER BY 1, 2, 3"""
_TABLES = """
SELECT string_agg(quote_ident(relname), ', ') FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'edgepaas_version'"""


class TestBox:
    """A file with capture, and its connection."""

    __test__ = False

    def __init__(
        self,
        path: Path,
        metadata: MetaData = Model.metadata,
        node: str = "",
        *,
        strict: bool = False,
    ) -> None:
        """*strict*: the file refuses what PostgreSQL would, as the schema stage sees to it."""
        self.path = path
        self.node = node or str(uuid.uuid4())
        self.said: list[str] = []
        self.recovery = Recovery(document(metadata))
        if not path.exists():
            engine = create_engine(
                "sqlite://", creator=lambda: open_sqlite(path, create=True), poolclass=NullPool
            )
            metadata.create_all(engine)
            engine.dispose()
        self.file = open_sqlite(path)
        capture.install(self.file, document(metadata), node_id=self.node)
        if strict:
            assert strictness.install(self.file, document(metadata), captured=True) == []

    def write(self, sql: str, *rows: Any) -> None:
        """Run *sql* once, or for each of *rows*, in one transaction of its own."""
        self.file.execute("BEGIN IMMEDIATE")
        stamp = TransactionStamp(self.file)
        stamp.begin()
        if rows:
            self.file.executemany(sql, rows)
        else:
            self.file.execute(sql)
        stamp.mark()
        self.file.execute("COMMIT")

    def samples(self, *values: Any, text: str | None = None) -> list[str]:
        """Write a sample for each of *values*; returns their ids."""
        ids = [str(uuid.uuid4()) for _ in values]
        self.write(
            "INSERT INTO samples (id, value, text) VALUES (?, ?, ?)",
            *[(one, value, text) for one, value in zip(ids, values, strict=True)],
        )
        return ids

    def place(self, name: str, **columns: Any) -> str:
        """Write a place; returns its id, which is made of *name*."""
        identity = str(name_id("places", name))
        values = {"id": identity, "name": name, **columns}
        marks = ", ".join("?" * len(values))
        self.write(
            f"INSERT INTO places ({', '.join(values)}) VALUES ({marks})", tuple(values.values())
        )
        return identity

    def drain(self, hub: Hub, *, rows: int = 1000) -> DrainResult:
        """Send one batch."""
        return drain_batch(self.file, hub, rows=rows, log=self.said.append, recovery=self.recovery)

    def drain_all(self, hub: Hub, *, rows: int = 1000) -> list[DrainResult]:
        """Send batches until nothing waits."""
        done = [self.drain(hub, rows=rows)]
        while done[-1].remaining:
            done.append(self.drain(hub, rows=rows))
        return done

    def clone(self, path: Path, *, keep_open: bool = False) -> "TestBox":
        """Return a box with a copy of the file as it is now."""
        self.file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copyfile(self.path, path)
        return TestBox(path, node=self.node)

    def adds_up(self, hub: TestHub) -> dict[str, int]:
        """Return the ledger, after checking it by itself and against the hub's."""
        found = ledger.read(self.file)
        assert found["accepted"] == (
            found["delivered"] + found["dead"] + found["shed"] + found["pending"]
        ), found
        stream = read_stream(self.file)
        assert stream is not None
        rows = hub.ask(
            "SELECT base, mark, rows, dead, shed FROM sync_streams "
            f"WHERE stream_id = '{stream.stream_id}'"
        )
        for base, mark, delivered, dead, shed in rows:
            assert mark == stream.confirmed_seq
            assert mark - base == delivered + dead + shed, (base, mark, delivered, dead, shed)
        totals = hub.ask(
            "SELECT coalesce(sum(rows), 0)::int, coalesce(sum(dead), 0)::int, "
            f"coalesce(sum(conflicts), 0)::int FROM sync_streams WHERE node_id = '{self.node}'"
        )
        assert [found["delivered"], found["dead"], found["conflicts"]] == totals[0]
        return found

    def close(self) -> None:
        """Close the file."""
        self.file.close()


@contextlib.contextmanager
def box_at(path: Path, metadata: MetaData = Model.metadata) -> Iterator[TestBox]:
    """Give a new box."""
    box = TestBox(path, metadata)
    try:
        yield box
    finally:
        box.close()


def rows_of(file: sqlite3.Connection, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of *sql*."""
    return file.execute(sql).fetchall()
