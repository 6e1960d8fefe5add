# SPDX-License-Identifier: Apache-2.0
"""What a connection of flights does on a real PostgreSQL, beside what pg8000's own does."""

import io
import socket
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import pg8000
import pytest
from sqlalchemy import (
    JSON,
    Column,
    Connection,
    DateTime,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    create_engine,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from edgepaas.database.failures import is_retryable
from edgepaas.database.postgresql.database import ServerDatabase
from edgepaas.errors import DatabaseError
from edgepaas.pgdriver.connection import bounded, connect
from edgepaas.pgdriver.failures import is_lost, sqlstate
from edgepaas.pgdriver.flights import FlightConnection, run_flight
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings import Settings
from edgepaas.settings.urls import split_url
from tests.support.postgres_server import PostgresServer
from tests.support.relay import Relay

METADATA = MetaData()
THINGS = Table(
    "things",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("key", Uuid),
    Column("name", Text),
    Column("price", Numeric(12, 3)),
    Column("made", DateTime(timezone=True)),
    Column("more", JSON),
)


VALUES = (
    *("'{1,2}'::int[]", "'1 day'::interval", "1.5::numeric", r"'\x00ff'::bytea", "null", "true"),
    *("'2026-01-02'::date", "'0044-03-15 BC'::date", "'03:04'::time", "'[1,2)'::int4range"),
    *("'NaN'::float8", """'{"a":1}'::jsonb""", "'2026-01-02 03:04:05'::timestamp"),
    *("'infinity'::timestamptz", "'2026-01-02 03:04:05.123456+05:30'::timestamptz"),
    *("'10000-01-01 00:00:00+00'::timestamptz", "'1883-01-01 00:00:00'::timestamptz"),
)


def dial(url: str, *, keep_prepared: bool = True) -> FlightConnection:
    return connect(
        split_url(url), deadline=60.0, tls=TLSPolicy("disable"), keep_prepared=keep_prepared
    )


@pytest.fixture
def connection(postgres_url: str) -> Iterator[FlightConnection]:
    opened = dial(postgres_url)
    yield opened
    if not opened.lost:
        opened.close()


def run(connection: FlightConnection, sql: str, *args: Any) -> Sequence[Sequence[Any]]:
    cursor = connection.cursor()
    cursor.execute(sql, args)
    return cursor.fetchall() if cursor.description else ()


# ---------------------------------------------------------------- like pg8000's own


def plain_pg8000(url: str) -> Any:
    address = split_url(url)
    return pg8000.connect(
        address.username, address.host, address.database, address.port, address.password
    )


def core_and_orm(connection: Connection) -> list[Any]:
    """Much of what SQLAlchemy can do, and all that it gives back."""
    seen: list[Any] = []
    METADATA.create_all(connection)
    rows = [
        {"id": n, "key": UUID(int=n), "name": f"n%s{n}", "price": Decimal(n) / 8, "more": {"n": n}}
        for n in range(1, 8)
    ]
    seen.append(connection.execute(insert(THINGS), rows).rowcount)
    returned = connection.execute(
        insert(THINGS).returning(THINGS.c.id, THINGS.c.key),
        [{"id": 100 + n, "name": None} for n in range(5)],
    )
    seen.append(sorted(map(tuple, returned)))
    seen.append(
        connection.execute(
            text("UPDATE things SET made = :m WHERE id = :i"),
            [{"m": f"2026-01-0{n} 03:04:05.{n}+00", "i": n} for n in range(1, 4)],
        ).rowcount
    )
    seen.append(connection.execute(update(THINGS).where(THINGS.c.id > 5).values(name="x")).rowcount)
    everything = select(THINGS).order_by(THINGS.c.id)
    for _ in range(3):  # the third time it is prepared
        seen.append([tuple(row) for row in connection.execute(everything)])
    seen.append(connection.execute(text("SELECT 1 AS a, 'b' AS b WHERE false")).keys())
    savepoint = connection.begin_nested()
    connection.execute(insert(THINGS), {"id": 500})
    savepoint.rollback()
    try:
        with connection.begin_nested():
            connection.execute(insert(THINGS), {"id": 1})
    except Exception as error:
        seen.append((type(error).__name__, sqlstate(error)))
    with Session(connection, join_transaction_mode="create_savepoint") as session:
        session.execute(insert(THINGS), {"id": 501, "name": "ä€𝄞"})
        seen.append(session.scalar(select(THINGS.c.name).where(THINGS.c.id == 501)))
        session.commit()
    seen.append(connection.exec_driver_sql("SELECT count(*), '50%' FROM things").all())
    seen.append(connection.exec_driver_sql("SET LOCAL lock_timeout = 5; SELECT 7").all())
    for value in VALUES:
        seen.append(repr(connection.exec_driver_sql(f"SELECT {value}").scalar()))
    return seen


def test_sqlalchemy_sees_no_difference(postgres: PostgresServer) -> None:
    """Core, ORM, raw SQL, savepoints, many rows, every type: the same results."""
    found = []
    for opener in (plain_pg8000, dial):
        name = postgres.create_database()
        engine = create_engine(
            "postgresql+pg8000://",
            creator=partial(opener, postgres.url(name)),
            poolclass=NullPool,
            execution_options={"preserve_rowcount": True},
        )
        with engine.begin() as connection:
            found.append(core_and_orm(connection))
        with engine.connect() as connection:
            found[-1].append(connection.execute(select(THINGS.c.id).order_by(THINGS.c.id)).all())
        postgres.drop_database(name)
    assert found[0] == found[1]
    assert len(found[0][-1]) > 10


def test_many_rows_are_one_round_trip_and_stop_at_the_first_error(
    connection: FlightConnection, postgres: PostgresServer, postgres_url: str
) -> None:
    run(connection, "CREATE TABLE t (n integer CHECK (n <> 5))")
    connection.commit()
    with Relay(postgres.port) as relay:
        far = dial(relay.reroute(postgres_url))
        before = relay.round_trips
        cursor = far.cursor()
        cursor.executemany("INSERT INTO t VALUES (%s)", [(n,) for n in range(10, 160)])
        assert cursor.rowcount == 150
        far.commit()
        assert relay.round_trips - before == 2
        with pytest.raises(pg8000.ProgrammingError):
            cursor.executemany("INSERT INTO t VALUES (%s)", [(n,) for n in range(3, 9)])
        far.rollback()
        far.autocommit = True
        with pytest.raises(pg8000.ProgrammingError):
            cursor.executemany("INSERT INTO t VALUES (%s)", [(n,) for n in range(3, 9)])
        assert run(far, "SELECT count(*), max(n) FROM t WHERE n < 10") == ([2, 4],)
        far.close()


def test_notices_are_kept(connection: FlightConnection) -> None:
    run(connection, "DO $$ BEGIN RAISE WARNING 'look here'; END $$")
    assert [notice[b"M"] for notice in connection.notices] == [b"look here"]


# ---------------------------------------------------------------- COPY


def test_copy_goes_in_and_out(connection: FlightConnection) -> None:
    run(connection, "CREATE TABLE t (a text, b integer)")
    cursor = connection.cursor()
    cursor.execute("COPY t FROM STDIN", stream=io.BytesIO(b"x\t1\ny\t2\n"))
    assert cursor.rowcount == 2
    cursor.execute("COPY t FROM STDIN", stream=["z\t", "3\n"])
    cursor.execute("COPY t FROM STDIN WITH (FORMAT csv)", stream=io.StringIO("ä,4\n"))
    out = io.BytesIO()
    cursor.execute("COPY (SELECT * FROM t ORDER BY b) TO STDOUT", stream=out)
    assert out.getvalue() == "x\t1\ny\t2\nz\t3\nä\t4\n".encode()
    connection.commit()
    assert run(connection, "SELECT count(*) FROM t") == ([4],)


class Broken:
    """A stream that fails, after *pieces*."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def read(self, _size: int) -> bytes:
        if self.pieces:
            return self.pieces.pop(0)
        raise OSError("the stick was pulled")

    def write(self, _data: bytes) -> None:
        raise ValueError("full")


@pytest.mark.parametrize(
    ("sql", "stream"),
    [
        ("COPY t FROM STDIN", Broken(b"x\t1\n")),
        ("COPY t FROM STDIN", Broken()),
        ("COPY t FROM STDIN", io.BytesIO(b"x\tnot a number\n")),
        ("COPY t FROM STDIN", io.BytesIO(b"x\tnot a number\n" * 100_000)),
        ("COPY t TO STDOUT", Broken()),
        ("COPY t TO STDOUT", None),
        ("COPY t FROM STDIN", None),
    ],
)
def test_a_copy_that_fails_leaves_a_connection_that_works(
    connection: FlightConnection, sql: str, stream: Any
) -> None:
    run(connection, "CREATE TABLE t (a text, b integer)")
    run(connection, "INSERT INTO t VALUES ('kept', 1)")
    connection.commit()
    with pytest.raises(Exception, match=r".*"):
        connection.cursor().execute(sql, (), stream)
    connection.rollback()
    assert run(connection, "SELECT a FROM t") == (["kept"],)
    connection.commit()


# ---------------------------------------------------------------- one transaction, one flight


@pytest.mark.parametrize("place", range(4))
def test_an_error_at_any_place_of_a_flight_stores_nothing(
    connection: FlightConnection, place: int
) -> None:
    run(connection, "CREATE TABLE t (n integer)")
    connection.commit()
    statements: list[Any] = [("INSERT INTO t VALUES ($1)", [n]) for n in range(4)]
    statements[place] = ("SELECT 1 / $1", [0])
    with pytest.raises(pg8000.DatabaseError) as caught:
        run_flight(connection, statements)
    assert sqlstate(caught.value) == "22012"
    assert not connection.in_transaction
    assert [result.count for result in run_flight(connection, [statements[place - 1]])] == [1]
    assert run(connection, "SELECT count(*) FROM t") == ([1],)


class CutLink:
    """A link that takes so many bytes and then is gone."""

    def __init__(self, link: socket.socket, length: int) -> None:
        self._link, self._left = link, length

    def send(self, data: memoryview) -> int:
        some = data[: self._left]
        if some:
            self._link.sendall(some)
        self._left -= len(some)
        if not self._left:
            self._link.shutdown(socket.SHUT_WR)
        if not some:
            raise BrokenPipeError(32, "Broken pipe")
        return len(some)


def test_a_transaction_that_is_cut_at_any_byte_is_stored_as_a_whole_or_not(
    postgres_url: str, connection: FlightConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has the answer is stored; what was not sent up to its COMMIT is not."""
    run(connection, "CREATE TABLE t (n integer, part integer)")
    connection.commit()
    length, answered = 0, False
    while not answered:
        length += 1 if length > 240 else 6
        cut = dial(postgres_url, keep_prepared=False)
        monkeypatch.setattr(cut._exchange, "_link", CutLink(cut.link, length))
        rows = [("INSERT INTO t VALUES ($1, $2)", [length, part]) for part in range(2)]
        try:
            run_flight(cut, rows)
        except Exception as error:
            assert is_lost(error)
        else:
            answered = True
        assert length < 5000
        cut.link.close()
    assert run(connection, "SELECT count(*) FROM t WHERE n = %s", length) == ([2],)
    connection.commit()
    halves = "SELECT n FROM t GROUP BY n HAVING count(*) <> 2"
    assert run(connection, halves) == ()


def test_a_constraint_that_is_checked_at_commit_is_an_error(connection: FlightConnection) -> None:
    run(connection, "CREATE TABLE t (n integer UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    connection.commit()
    with pytest.raises(pg8000.DatabaseError) as caught:
        run_flight(connection, [("INSERT INTO t VALUES ($1)", [1])] * 2)
    assert sqlstate(caught.value) == "23505"
    run(connection, "INSERT INTO t VALUES (1), (1)")
    with pytest.raises(pg8000.DatabaseError):
        connection.commit()
    assert not connection.in_transaction
    assert run(connection, "SELECT count(*) FROM t") == ([0],)


def test_a_deadline_cuts_a_flight_off(connection: FlightConnection) -> None:
    with pytest.raises(Exception, match=r".*") as caught, bounded(connection, 0.2):
        run(connection, "SELECT pg_sleep(%s)", 600)
    assert is_lost(caught.value)
    assert connection.lost


# ---------------------------------------------------------------- prepared statements


def prepared(connection: FlightConnection) -> list[str]:
    rows = run(connection, "SELECT statement FROM pg_prepared_statements ORDER BY 1;")
    return [row[0] for row in rows]


def test_what_comes_again_is_prepared_and_its_number_is_bounded(
    connection: FlightConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepaas.pgdriver.flights.prepared.MOST", 3)
    for _ in range(3):
        for number in range(6):
            assert run(connection, f"SELECT %s + {number}", 1) == ([1 + number],)
    run(connection, "SELECT 8 + %s", 1)
    run(connection, "SELECT 8 + %s", 1)  # closes what was pushed out
    assert len(prepared(connection)) <= 4


@pytest.mark.parametrize("first", [True, False], ids=["first statement", "later statement"])
def test_a_table_that_changes_under_a_prepared_statement(
    postgres_url: str, connection: FlightConnection, first: bool
) -> None:
    """At the start of a transaction it is sent again; in the middle the whole has to be."""
    run(connection, "CREATE TABLE t (n integer)")
    connection.commit()
    for _ in range(3):
        run(connection, "SELECT * FROM t WHERE %s", True)
        connection.commit()
    other = dial(postgres_url)
    run(other, "ALTER TABLE t ADD COLUMN name text DEFAULT 'x'")
    run(other, "INSERT INTO t VALUES (1)")
    other.commit()
    other.close()
    if not first:
        run(connection, "SELECT 1")
        with pytest.raises(pg8000.DatabaseError) as caught:
            run(connection, "SELECT * FROM t WHERE %s", True)
        assert is_retryable(caught.value)
        connection.rollback()
    assert run(connection, "SELECT * FROM t WHERE %s", True) == ([1, "x"],)
    connection.commit()


def test_a_prepared_statement_that_is_gone_is_sent_as_a_whole(connection: FlightConnection) -> None:
    """As behind a pooler that was not noticed: nothing is kept from then on."""
    for _ in range(3):
        assert run(connection, "SELECT %s + 1", 1) == ([2],)
        connection.commit()
    connection.send_statements([("DEALLOCATE ALL", ())])
    connection.receive_results()
    assert run(connection, "SELECT %s + 1", 1) == ([2],)
    assert not connection.prepared.allowed


def test_long_texts_are_not_remembered(connection: FlightConnection) -> None:
    """An INSERT of many rows has one for each number of rows: they would fill a box's memory."""
    tracemalloc.start()
    try:
        for number in range(18):
            run(connection, f"SELECT %s /* {'x' * 20_000}{number} */", "a")
            if number == 6:
                before, _ = tracemalloc.get_traced_memory()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 200_000


def test_a_flight_that_could_not_be_encoded_leaves_no_statement_for_prepared(
    connection: FlightConnection,
) -> None:
    """It was never sent, and the next one would rely upon it."""
    first = ("SELECT 1", ())
    run_flight(connection, [first])
    with pytest.raises(UnicodeEncodeError):
        run_flight(connection, [first, ("SELECT $1::text", ["\ud800"])])
    for _ in range(4):
        run_flight(connection, [first])
    assert connection.prepared.allowed


def test_a_migration_sees_its_own_changes(connection: FlightConnection) -> None:
    run(connection, "CREATE TABLE t (n integer)")
    for _ in range(3):
        assert run(connection, "SELECT * FROM t WHERE %s", True) == ()
    run(connection, "ALTER TABLE t ADD COLUMN name text")
    run(connection, "INSERT INTO t VALUES (1, 'x')")
    for _ in range(3):
        assert run(connection, "SELECT * FROM t WHERE %s", True) == ([1, "x"],)


# ---------------------------------------------------------------- a connection that died


@pytest.fixture
def relay(postgres: PostgresServer) -> Iterator[Relay]:
    with Relay(postgres.port) as relay:
        yield relay


@pytest.fixture
def database(
    relay: Relay, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ServerDatabase]:
    """A database over *relay*, with a table; every idle connection has to prove itself."""
    monkeypatch.setattr("edgepaas.database.postgresql.pool.FRESH", 0.0)
    opened = ServerDatabase(relay.reroute(postgres_url), Settings.of(DB_CONNECT_TIMEOUT="60"))
    opened.write(lambda session: session.execute(text("CREATE TABLE t (n integer)")))
    yield opened
    opened.close()


def numbers(database: ServerDatabase) -> list[int]:
    with database.read() as session:
        return list(session.scalars(text("SELECT n FROM t ORDER BY n")))


@pytest.mark.parametrize("end", ["reset", "close"])
def test_an_idle_connection_that_was_cut_costs_nobody_an_error(
    database: ServerDatabase, relay: Relay, end: Any
) -> None:
    """Neither a read nor a write, whose work runs once."""
    ran: list[int] = []

    def work(session: Session) -> None:
        ran.append(1)
        session.execute(text("INSERT INTO t VALUES (1)"))

    relay.break_connections(end)
    assert numbers(database) == []
    relay.break_connections(end)
    database.write(work)
    assert (len(ran), numbers(database)) == (1, [1])


def test_an_idle_connection_in_a_black_hole_costs_nobody_an_error(
    database: ServerDatabase, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepaas.database.postgresql.pool.PING_TIMEOUT", 0.5)
    told: list[BaseException] = []
    database.on_unavailable = told.append
    relay.black_hole()
    relay.heal()
    database.write(lambda session: session.execute(text("INSERT INTO t VALUES (1)")))
    monkeypatch.setattr("edgepaas.database.postgresql.pool.PING_TIMEOUT", 60.0)
    assert numbers(database) == [1]
    assert told, "a loss should be known before a new connection is tried"


def test_an_idle_connection_has_the_round_trips_of_a_slow_link_to_prove_itself(
    database: ServerDatabase,
) -> None:
    for _ in range(2):
        database._connector.link.measured(1.0)
    with database.read() as session:
        assert session.connection().connection.dbapi_connection.prove_within == 3.0  # type: ignore[union-attr]
    assert numbers(database) == []


def test_a_whole_transaction_in_a_black_hole_is_lost_in_time(
    relay: Relay, postgres_url: str
) -> None:
    """Its outcome stays open, so it is for the caller to send it again."""
    connection = dial(relay.reroute(postgres_url))
    run(connection, "CREATE TABLE t (n integer)")
    connection.commit()
    connection.prove_within = 60.0
    run_flight(connection, [("INSERT INTO t SELECT 1 FROM pg_sleep($1)", [0.1])])
    relay.black_hole()
    connection.prove_within = 0.3
    with pytest.raises(TimeoutError) as caught:
        run_flight(connection, [("INSERT INTO t VALUES ($1)", [1])])
    assert is_lost(caught.value)
    assert connection.lost


def test_a_slow_statement_of_an_idle_connection_is_waited_for(
    database: ServerDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has to give a sign, and no result, in that time."""
    with database.read() as session:
        first = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
    monkeypatch.setattr("edgepaas.database.postgresql.pool.PING_TIMEOUT", 5.0)
    with database.read() as session:
        found = session.execute(text("SELECT pg_backend_pid() FROM pg_sleep(6)")).scalar_one()
    assert found == first


def test_a_commit_that_got_no_answer_is_not_sent_again(
    database: ServerDatabase, relay: Relay
) -> None:
    relay.commit_cut = 1.0
    with pytest.raises(DatabaseError):
        database.write(lambda session: session.execute(text("INSERT INTO t VALUES (1)")))
    relay.calm()
    assert numbers(database) == [1]


def test_a_read_keeps_nothing_that_it_writes(database: ServerDatabase) -> None:
    with database.read() as session:
        assert session.scalars(text("SELECT n FROM t")).all() == []
        session.execute(text("INSERT INTO t VALUES (1)"))
        assert session.scalars(text("SELECT n FROM t")).all() == [1]
    with database.read() as session:
        session.execute(
            text("WITH x AS (INSERT INTO t VALUES (2) RETURNING n) SELECT * FROM x")
        ).all()
    assert numbers(database) == []


def test_a_function_that_writes_keeps_nothing_in_a_read_and_moves_the_mark_in_a_write(
    database: ServerDatabase,
) -> None:
    """Neither shows in the text or in the command tag of a plain SELECT."""
    create = "CREATE FUNCTION put() RETURNS integer LANGUAGE sql AS $$ {} $$"
    insert_one = create.format("INSERT INTO t VALUES (1) RETURNING n")
    database.write(lambda session: session.execute(text(insert_one)))
    nested = "SELECT n FROM (SELECT put() AS n) AS x"
    for sql in ("SELECT put()", 'SELECT public."put" ( )', nested):
        with database.read() as session:
            assert session.execute(text(sql)).all() == [(1,)]
    assert numbers(database) == []
    wrote: list[bool] = []

    def work(session: Session) -> None:
        session.execute(text("SELECT put()"))
        wrote.append(session.connection().connection.dbapi_connection._wrote)  # type: ignore[union-attr]

    database.write(work)
    assert (wrote, numbers(database)) == ([True], [1])


def test_a_session_with_settings_of_its_own_is_not_replaced_by_another(
    database: ServerDatabase, relay: Relay
) -> None:
    """That one would go on with the server's defaults, and nobody would know."""
    with pytest.raises(DatabaseError), database.read() as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        relay.break_connections("close")
        session.execute(text("SELECT n FROM t")).all()


def test_a_read_with_an_isolation_level_of_its_own_sees_one_snapshot(
    database: ServerDatabase,
) -> None:
    with database.read() as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        assert session.scalars(text("SELECT n FROM t")).all() == []
        writing = threading.Thread(
            target=lambda: database.write(
                lambda other: other.execute(text("INSERT INTO t VALUES (1)"))
            )
        )
        writing.start()
        writing.join(60)
        assert session.scalars(text("SELECT n FROM t")).all() == []
    assert numbers(database) == [1]
