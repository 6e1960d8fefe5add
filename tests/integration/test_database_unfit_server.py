# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL that answers and yet does not do: locked, read-only, lacking tables."""

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import CursorResult, create_engine, select, text
from sqlalchemy.orm import Session

from edgepaas.database.database import Database
from edgepaas.database.postgresql.database import ServerDatabase
from edgepaas.database.table_presence import missing_in
from edgepaas.errors import DatabaseBusy, DatabaseUnavailable
from edgepaas.files.paths import Paths
from edgepaas.schema.at_head import schema_at_head
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.settings.urls import split_url
from edgepaas.telemetry import application as telemetry
from edgepaas.telemetry.models import Model, Reading
from tests.support.chains import postgres_contract
from tests.support.databases import adding, count_in, open_embedded, reading
from tests.support.postgres_server import PostgresServer

Told = list[BaseException]


@pytest.fixture
def told() -> Told:
    """What the service heard."""
    return []


@pytest.fixture
def database(postgres_url: str, told: Told) -> Iterator[ServerDatabase]:
    """An open database with the telemetry tables, which it relies on."""
    opened = open_server(postgres_url, told)
    yield opened
    opened.close()


def open_server(url: str, told: Told, **settings: str) -> ServerDatabase:
    """Open the PostgreSQL at *url* with the telemetry tables in it, and rely on them."""
    database = ServerDatabase(url, Settings.of(**settings))
    database.write(lambda session: Model.metadata.create_all(session.connection()))
    database.require_tables(Model.metadata)
    database.on_unavailable = told.append
    return database


def until_ping(database: Database, *, fails: bool) -> str:
    """Ping until the outcome is as wished; return the error's text."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            database.ping()
        except DatabaseUnavailable as error:
            if fails:
                return str(error)
        else:
            if not fails:
                return ""
        time.sleep(0.05)
    raise AssertionError(f"the ping never {'failed' if fails else 'passed'}")


def execute(database: Database, *statements: str) -> Any:
    """Run *statements* in one transaction; return the last one's first value, if it has any."""

    def work(session: Session) -> Any:
        results = [session.execute(text(statement)) for statement in statements]
        last = results[-1]
        return last.scalar() if isinstance(last, CursorResult) and last.returns_rows else None

    return database.write(work)


@contextlib.contextmanager
def locked(url: str, table: str) -> Iterator[None]:
    """Hold *table* locked against everybody by another session."""
    other = ServerDatabase(url, Settings.of())
    with other.read() as session:
        session.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        yield
    other.close()


def test_a_session_waits_for_no_lock_and_no_statement_for_long(database: ServerDatabase) -> None:
    """The watchdog takes a service for dead whose threads all wait."""
    assert execute(database, "SHOW lock_timeout") == "3s"
    assert execute(database, "SHOW statement_timeout") == "10s"


def test_a_statement_may_take_without_end_when_the_setting_says_so(postgres_url: str) -> None:
    """DB_STATEMENT_TIMEOUT=off is not a timeout of nothing."""
    database = ServerDatabase(postgres_url, Settings.of(DB_STATEMENT_TIMEOUT="off"))
    assert execute(database, "SHOW statement_timeout") == "0"
    database.close()


def test_a_locked_table_is_busy_and_no_loss(
    postgres_url: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was stored, and nobody decides again for it: a ping and the schema check pass."""
    monkeypatch.setattr("edgepaas.database.postgresql.connector.LOCK_TIMEOUT", 0.2)
    database = open_server(postgres_url, told)
    with locked(postgres_url, "readings"):
        with pytest.raises(DatabaseBusy, match="lock timeout"):
            database.write(adding(reading()))
        with pytest.raises(DatabaseBusy, match="lock timeout"):
            count_in(database)
        database.ping()
        with database.read() as session:
            assert missing_in(session.connection(), Model.metadata) == ""
    assert not told
    assert database.write(adding(reading())) == 1
    database.close()


def test_a_server_that_turns_read_only_is_suspected_and_confirmed(
    postgres: PostgresServer, database: ServerDatabase, told: Told
) -> None:
    """It answers every question; only a write shows it."""
    database.ping()
    postgres.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    try:
        postgres.execute("SELECT pg_reload_conf()")
        assert "read-only" in until_ping(database, fails=True)
        told.clear()
        with pytest.raises(DatabaseUnavailable, match="read-only"):
            database.write(adding(reading()))
        assert told
    finally:
        postgres.execute("ALTER SYSTEM RESET default_transaction_read_only")
        postgres.execute("SELECT pg_reload_conf()")
    until_ping(database, fails=False)
    assert database.write(adding(reading())) == 1


@pytest.fixture
def guest(postgres: PostgresServer, postgres_url: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Return the address for an account of its own, and what changes its password."""
    name = f"guest_{secrets.token_hex(4)}"
    address = split_url(postgres_url)
    postgres.execute(f"CREATE ROLE {name} LOGIN SUPERUSER PASSWORD 'first'")
    url = f"postgresql://{name}:first@127.0.0.1:{address.port}/{address.database}"

    def change_password() -> None:
        postgres.execute(f"ALTER ROLE {name} PASSWORD 'second'")

    yield url, change_password
    postgres.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER", str(address.database))
    postgres.execute(f"DROP ROLE {name}")


def test_a_refused_login_makes_the_next_ping_log_in_afresh(
    guest: tuple[str, Callable[[], None]], told: Told
) -> None:
    """The connections that are open go on working, and prove nothing."""
    url, change_password = guest
    database = open_server(url, told)
    database.ping()
    change_password()
    database.ping()
    with database.read() as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable, match="does not admit"):
            count_in(database)
    assert told
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match="does not admit"):
            database.ping()
    database.close()


def test_a_pings_connection_is_replaced_at_the_age_of_the_others(
    guest: tuple[str, Callable[[], None]], told: Told
) -> None:
    """A password that was changed long ago must not show only at the next boot."""
    url, change_password = guest
    database = open_server(url, told)
    database.ping()
    change_password()
    database._pinger._made_at -= 3601
    with pytest.raises(DatabaseUnavailable, match="does not admit"):
        database.ping()
    database.close()


@pytest.mark.parametrize(
    ("statement", "lacking"),
    [
        ("DROP TABLE readings", "the table readings is missing"),
        ("ALTER TABLE readings DROP COLUMN unit", "the column readings.unit is missing"),
        ("ALTER SCHEMA public RENAME TO gone", "the table .* is missing"),
    ],
)
def test_a_table_that_was_dropped_is_a_loss_not_a_clients_error(
    database: ServerDatabase, told: Told, statement: str, lacking: str
) -> None:
    """The request gets 503, the service hears of it, and a ping confirms it."""
    database.ping()
    execute(database, statement)
    with pytest.raises(DatabaseUnavailable, match="does not exist"):
        database.write(adding(reading()))
    with pytest.raises(DatabaseUnavailable, match="does not exist"), database.read() as session:
        session.scalars(select(Reading)).all()
    assert told
    with pytest.raises(DatabaseUnavailable, match=lacking):
        database.ping()


def test_a_statement_with_a_wrong_name_costs_no_connection(database: ServerDatabase) -> None:
    """An application's own mistake must not make everybody log in again."""
    before = execute(database, "SELECT pg_backend_pid()")
    with pytest.raises(DatabaseUnavailable, match="no_such_table"):
        execute(database, "SELECT * FROM no_such_table")
    database.ping()
    assert execute(database, "SELECT pg_backend_pid()") == before


def test_the_schema_check_says_what_is_missing(paths: Paths, postgres_url: str) -> None:
    """The version table goes on claiming that all is well."""
    contract = postgres_contract(paths, postgres_url, fallback=True)
    prepare_database(contract, Settings.of(), paths, telemetry)
    database = ServerDatabase(postgres_url, Settings.of())
    assert schema_at_head(database, telemetry).at_head
    execute(database, "DROP TABLE readings")
    state = schema_at_head(database, telemetry)
    database.close()
    assert not state.at_head
    assert "readings is missing" in state.message
    assert "--repair" in state.message


def test_what_is_missing_is_found_on_sqlite_too(tmp_path: Path) -> None:
    """By the same question."""
    path = tmp_path / "edgepaas.db"
    database = open_embedded(path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert missing_in(connection, Model.metadata) == ""
    execute(database, "ALTER TABLE readings RENAME COLUMN unit TO unity")
    with engine.connect() as connection:
        assert missing_in(connection, Model.metadata) == "the column readings.unit is missing"
    execute(database, "DROP TABLE readings")
    with engine.connect() as connection:
        assert missing_in(connection, Model.metadata) == "the table readings is missing"
    engine.dispose()
    database.close()


def test_closing_waits_for_no_server_that_takes_nothing(
    postgres_url: str,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its end of the line is full: even closing would wait for ever."""
    monkeypatch.setattr("edgepaas.database.postgresql.database.CLOSE_TIMEOUT", 0.2)
    database = open_server(postgres_url, told)
    database.ping()
    near, far = socket.socketpair()
    with database._engine.connect() as connection, near, far:
        flights: Any = connection.connection.dbapi_connection
        driver = flights._driver
        near.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                near.send(bytes(65536))
        near.setblocking(True)
        real, driver._sock = driver._sock, near.makefile("rwb")
        connection.close()  # which puts it back: the next to use it is the close
        closing = threading.Thread(target=database.close)
        closing.start()
        closing.join(20)
        stuck = closing.is_alive()
        real.close()
    assert not stuck
    assert "was closed in order" in caplog.text
