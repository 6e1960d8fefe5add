# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL behind the Database interface, on a real server and with a line that breaks."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from edgepaas.database.postgresql.database import ServerDatabase
from edgepaas.errors import DatabaseBusy, DatabaseUnavailable
from edgepaas.settings import Settings
from edgepaas.settings.urls import split_url
from edgepaas.telemetry.models import Device, Model, Reading
from tests.support.databases import adding, count_in, reading, values_in


def open_server(url: str, **settings: str) -> ServerDatabase:
    """Open the PostgreSQL at *url* with the telemetry tables in it."""
    database = ServerDatabase(url, Settings.of(**settings))
    database.write(lambda session: Model.metadata.create_all(session.connection()))
    return database


@pytest.fixture
def database(postgres_url: str) -> Iterator[ServerDatabase]:
    """An open database with the telemetry tables."""
    opened = open_server(postgres_url)
    yield opened
    opened.close()


class Line:
    """A line to the server that can be cut: closed (``cut``) or gone silent (``freeze``)."""

    def __init__(self, url: str) -> None:
        address = split_url(url)
        self._target = (address.host, address.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[socket.socket] = []
        self._frozen = threading.Event()
        port = self._listener.getsockname()[1]
        self.url = url.replace(f":{address.port}/", f":{port}/")
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close every connection; new ones go through."""
        for end in self._pairs:
            with contextlib.suppress(OSError):  # closed by then
                end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def freeze(self) -> None:
        """Let nothing through any more, on old and new connections."""
        self._frozen.set()

    def close(self) -> None:
        """End it all."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                ours = self._listener.accept()[0]
            except OSError:
                return
            theirs = socket.create_connection(self._target)
            self._pairs += [ours, theirs]
            for one, other in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self._frozen.is_set():
                    target.sendall(data)
        except OSError:
            return


@pytest.fixture
def line(postgres_url: str) -> Iterator[Line]:
    """A line to an empty database."""
    opened = Line(postgres_url)
    yield opened
    opened.close()


def test_a_written_row_is_read_back(database: ServerDatabase) -> None:
    """With all its types."""
    row = reading(1.5, unit="°C")
    stored = database.write(lambda session: session.merge(row))
    with database.read() as session:
        found = session.scalars(select(Reading)).one()
    for column in Reading.__table__.columns:
        assert getattr(found, column.name) == getattr(stored, column.name)
    database.ping()
    database.ping()


def test_json_is_kept_as_it_is(database: ServerDatabase) -> None:
    """As jsonb."""
    labels = {"b": [1, 2.5, None], "a": {"ü": True}}
    device = Device(id=reading().id, name="boiler", labels=labels)
    database.write(lambda session: session.add(device))
    with database.read() as session:
        assert session.scalars(select(Device)).one().labels == labels
        assert session.scalar(select(func.jsonb_typeof(Device.labels))) == "object"


def test_work_that_raises_leaves_nothing(database: ServerDatabase) -> None:
    """Its exception, or the constraint's, comes out as it is."""
    row = reading()
    database.write(adding(row))

    def work(session: Session) -> None:
        adding(reading())(session)
        raise LookupError

    with pytest.raises(LookupError):
        database.write(work)
    with pytest.raises(IntegrityError):
        database.write(adding(reading(id=row.id)))
    assert count_in(database) == 1


def test_work_does_not_end_the_transaction_itself(database: ServerDatabase) -> None:
    """As little as on SQLite, where it would be other people's too."""
    with pytest.raises(TypeError, match="does not commit"):
        database.write(lambda session: session.commit())


def test_a_session_for_reading_stores_nothing(database: ServerDatabase) -> None:
    """It is rolled back."""
    with database.read() as session:
        adding(reading())(session)
    assert count_in(database) == 0


def test_a_list_of_rows_travels_as_few_statements(database: ServerDatabase) -> None:
    """And is counted as a whole."""
    rows = [
        {c.name: getattr(row, c.name) for c in Reading.__table__.columns}
        | {"received_at": row.recorded_at}
        for row in (reading(float(n)) for n in range(3000))
    ]

    def store(session: Session) -> tuple[int, int]:
        plain = session.execute(insert(Reading.__table__), rows).rowcount  # type: ignore[arg-type, attr-defined]
        again = pg_insert(Reading.__table__).on_conflict_do_nothing()  # type: ignore[arg-type]
        known = session.execute(again.returning(Reading.id), rows).all()
        return plain, len(known)

    assert database.write(store) == (3000, 0)
    assert count_in(database) == 3000


def test_transactions_in_each_others_way_are_run_again(database: ServerDatabase) -> None:
    """A deadlock's victim is no client's error."""
    first, second = reading(1.0), reading(2.0)
    database.write(adding(first, second))
    met = threading.Barrier(2, timeout=10)
    runs: list[str] = []

    def change(name: str, one: Reading, other: Reading) -> None:
        def work(session: Session) -> None:
            runs.append(name)
            statement = text("UPDATE readings SET value = value + 1 WHERE id = :id")
            session.execute(statement, {"id": one.id})
            if runs.count(name) == 1:
                met.wait()
            session.execute(statement, {"id": other.id})

        database.write(work)

    threads = [
        threading.Thread(target=change, args=("a", first, second)),
        threading.Thread(target=change, args=("b", second, first)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(runs) == 3
    assert values_in(database) == [3.0, 4.0]


def test_objects_made_before_the_work_are_stored_when_it_runs_again(
    database: ServerDatabase,
) -> None:
    """They must not be taken for rows that are there already."""
    row = reading(8.0)
    runs = []

    def work(session: Session) -> None:
        adding(row)(session)
        runs.append(1)
        if len(runs) < 3:
            session.execute(text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"))

    database.write(work)
    assert values_in(database) == [8.0]


def test_a_transaction_that_never_gets_through_is_busy(database: ServerDatabase) -> None:
    """After a bounded number of runs."""
    runs = []

    def work(session: Session) -> None:
        runs.append(1)
        session.execute(text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"))

    with pytest.raises(DatabaseBusy, match="6 times"):
        database.write(work)
    assert len(runs) == 6


def test_a_cut_line_is_told_once_and_the_next_write_goes_through(line: Line) -> None:
    """In mid-transaction: the outcome is unknown to the client, the service hears of it."""
    database = open_server(line.url)
    told: list[BaseException] = []
    database.on_unavailable = told.append

    def work(session: Session) -> None:
        adding(reading())(session)
        line.cut()
        session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        database.write(work)
    assert told
    assert database.write(adding(reading(5.0))) == 1
    assert values_in(database) == [5.0]
    database.close()


def test_idle_connections_that_were_cut_are_replaced_unnoticed(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall drops what was quiet for long; nobody gets a 503 for it."""
    monkeypatch.setattr("edgepaas.database.postgresql.pool.FRESH", 0.0)
    database = open_server(line.url)
    line.cut()
    assert database.write(adding(reading())) == 1
    assert count_in(database) == 1
    database.close()


def test_a_ping_over_a_cut_line_is_asked_again_on_a_new_one(line: Line) -> None:
    """One connection that ended is no server that is lost."""
    database = open_server(line.url)
    suspicions: list[BaseException] = []
    database.on_unavailable = suspicions.append
    database.ping()
    line.cut()
    database.ping()
    assert suspicions == []
    database.close()


def test_a_ping_over_a_silent_line_ends(line: Line) -> None:
    """No timeout of the driver would: its connections wait for ever."""
    database = open_server(line.url)
    database.ping()
    suspicions: list[BaseException] = []
    database.on_unavailable = suspicions.append
    line.freeze()
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            database.ping()
        assert time.monotonic() - began < 8
    assert len(suspicions) == 2, "whoever asks, a health check for one, makes the watch look"
    database.close()


def test_a_server_that_ended_our_session_is_lost(database: ServerDatabase) -> None:
    """pg_terminate_backend, a restart: DatabaseUnavailable, and the pool starts anew."""

    def work(session: Session) -> None:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        killer = ServerDatabase(database._connector.address.url(), Settings.of())
        killer.write(lambda s: s.execute(text("SELECT pg_terminate_backend(:p)"), {"p": pid}))
        killer.close()
        time.sleep(0.1)
        session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        database.write(work)
    assert database.write(adding(reading())) == 1


def test_no_idle_session_is_used_of_a_server_that_another_one_has_replaced(
    database: ServerDatabase,
) -> None:
    """Of several hosts the next one answers the ping: the first is a standby, and falls behind."""
    question = text("SELECT pg_backend_pid()")
    found = []
    for _ in range(3):
        with database.read() as session:
            found.append(session.execute(question).scalar_one())
        database.ping()
    assert len(set(found)) == 1
    database._pinger.place = "192.0.2.1:5432"  # it answered the ping before
    database.ping()
    with database.read() as session:
        assert session.execute(question).scalar_one() not in found


def test_nobody_there_is_unavailable() -> None:
    """Not a driver's error; the service hears of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    database = ServerDatabase(f"postgresql://u:secret@127.0.0.1:{port}/d", Settings.of())
    told: list[BaseException] = []
    database.on_unavailable = told.append
    with pytest.raises(DatabaseUnavailable) as failure, database.read() as session:
        session.execute(text("SELECT 1"))
    assert "secret" not in str(failure.value)
    assert len(told) == 1
    with pytest.raises(DatabaseUnavailable):
        database.ping()
    database.close()


def test_errors_do_not_show_peoples_data(database: ServerDatabase) -> None:
    """They reach logs."""
    row = reading(unit="private")
    database.write(adding(row))
    with pytest.raises(IntegrityError) as failure:
        database.write(adding(reading(id=row.id, unit="private")))
    assert "private" not in str(failure.value)


def test_a_full_pool_is_busy(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a driver's error."""
    monkeypatch.setattr("edgepaas.database.postgresql.pool.POOL_TIMEOUT", 0.1)
    database = open_server(postgres_url, DB_POOL_SIZE="1", DB_MAX_OVERFLOW="0")
    with database.read() as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(DatabaseBusy, match="came free"):
            database.write(adding(reading()))
    database.close()


def test_a_transaction_that_lost_its_box_gives_its_rows_free(
    postgres_url: str, database: ServerDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a frozen box was writing must not keep the same rows from coming home from SQLite."""
    monkeypatch.setattr("edgepaas.database.postgresql.connector.IDLE_TIMEOUT", 1.0)
    row, again = reading(), reading()
    again.id = row.id
    frozen, thawed = threading.Event(), threading.Event()

    def freeze(session: Session) -> None:
        session.add(row)
        session.flush()
        frozen.set()
        assert thawed.wait(60)

    half_open = open_server(postgres_url)

    def write() -> None:
        with contextlib.suppress(DatabaseUnavailable, DatabaseBusy):
            half_open.write(freeze)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert frozen.wait(60)
        database.write(adding(again))  # waits for the row's other transaction
    finally:
        thawed.set()
        thread.join(60)
        half_open.close()
    assert count_in(database) == 1
