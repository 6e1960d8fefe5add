# SPDX-License-Identifier: Apache-2.0
"""A server that went back in time is found, with the number that a client's record gives.

And one that did not is never taken for one: kills, cuts, restarts and two processes at once.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepaas.alerts import catalogue_entry
from edgepaas.marks.comparison import NOTHING, Mark
from edgepaas.marks.record import read_record, settle
from edgepaas.sync.resend.lost_connections import LostConnections
from tests.support.forwarding import TestHub, make_hub
from tests.support.marked_box import FACTS, NODE, MarkedBox
from tests.support.postgres_server import PostgresServer
from tests.support.weaken import weakened


@pytest.fixture(scope="module")
def template(postgres: PostgresServer) -> str:
    """A database with the platform's tables and one of facts."""
    hub = make_hub(postgres)
    hub.ask(FACTS)
    return hub.name


class Server:
    """A database that can be saved, and set back to what was saved."""

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server = server
        self.hub = TestHub(server, f"m_{random.randrange(10**12)}")
        self._copy(template, self.hub.name)

    @property
    def url(self) -> str:
        """Its address."""
        return self.hub.url

    def _copy(self, source: str, target: str) -> None:
        self._server.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{source}'"
        )
        self._server.execute(f'CREATE DATABASE "{target}" TEMPLATE "{source}"')

    def save(self) -> None:
        """Back it up; every connection is cut."""
        self._copy(self.hub.name, f"{self.hub.name}_backup")

    def set_back(self) -> None:
        """Restore what was saved; every connection is cut."""
        self._server.drop_database(self.hub.name)
        self._copy(f"{self.hub.name}_backup", self.hub.name)

    def remove(self) -> None:
        """Drop it, and its backup."""
        for name in (self.hub.name, f"{self.hub.name}_backup"):
            self._server.drop_database(name)


@pytest.fixture
def server(postgres: PostgresServer, template: str) -> Iterator[Server]:
    found = Server(postgres, template)
    yield found
    found.remove()


@pytest.fixture
def box(server: Server, tmp_path: Path) -> MarkedBox:
    return MarkedBox(tmp_path / "box", server.url)


@pytest.fixture
def alerts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was raised."""
    found: list[str] = []

    def raise_alert(message: str, **_: Any) -> None:
        found.append(message)

    monkeypatch.setattr(catalogue_entry, "raise_alert", raise_alert)
    return found


def write_some(box: MarkedBox, chance: random.Random, turns: int) -> None:
    """Write over connections that come and go; where COMMIT is not answered, send it again."""
    connections = [box.connect()]
    for _ in range(turns):
        position = chance.randrange(len(connections))
        connection = connections[position]
        action = chance.random()
        if action < 0.7:
            connection.write(chance.randint(1, 3))
        elif action < 0.85:
            with pytest.raises(ConnectionResetError):
                connection.write(answer=False)
            connections[position] = box.connect()
            # As any client does: what is there already is acknowledged to it now.
            connections[position].write(ids=box.unanswered)
        elif action < 0.95 and len(connections) > 1:
            connections.pop(position).close()
        else:
            connections.append(box.connect())
    box.look(connections[0])
    for connection in connections:
        connection.close()


def test_ordinary_life_finds_nothing(server: Server, box: MarkedBox, alerts: list[str]) -> None:
    """Connections end in every way, processes are killed, and streams are joined meanwhile."""
    chance = random.Random(3)
    for turn in range(12):
        write_some(box, chance, 12)
        if turn % 3 == 2:
            box.kill()
    box.look(box.connect())
    assert box.lost == NOTHING and alerts == []
    assert box.missing(server.hub.ask) == 0


def test_what_a_restored_backup_lacks_is_named_with_its_number(
    server: Server, box: MarkedBox, alerts: list[str]
) -> None:
    """Whatever became of the streams since then: open, ended, joined, of a killed process."""
    chance = random.Random(5)
    write_some(box, chance, 20)
    write_some(box, chance, 20)
    server.save()
    write_some(box, chance, 20)
    box.look(box.connect())
    write_some(box, chance, 20)
    server.set_back()
    missing = box.missing(server.hub.ask)
    assert missing > 20
    box.connect()
    assert box.lost.rows == missing
    assert len(alerts) == 1 and f"lacks {missing:,} rows" in alerts[0]
    # Writes go on, and nothing is found twice.
    for _ in range(3):
        write_some(box, chance, 20)
    assert box.lost.rows == missing and len(alerts) == 1


def test_a_second_loss_is_added_to_the_first(server: Server, box: MarkedBox) -> None:
    chance = random.Random(7)
    write_some(box, chance, 20)
    server.save()
    for _ in range(2):
        write_some(box, chance, 15)
        server.set_back()
        box.connect()
    assert box.lost.rows == box.missing(server.hub.ask) > 10


def test_what_is_back_again_is_not_lost_any_more(
    server: Server, box: MarkedBox, postgres: PostgresServer
) -> None:
    """A restore in two steps: the tables are made first, and filled later."""
    connection = box.connect()
    for _ in range(5):
        connection.write()
    box.look(connection)
    server.hub.ask("CREATE TABLE kept AS SELECT * FROM sync_connections")
    server.hub.ask("DELETE FROM sync_connections")
    box.look(connection)
    assert box.lost.rows == 5
    server.hub.ask("INSERT INTO sync_connections SELECT * FROM kept")
    box.look(connection)
    assert box.lost == NOTHING


def test_another_database_lacks_everything(
    server: Server, box: MarkedBox, template: str, postgres: PostgresServer
) -> None:
    write_some(box, random.Random(11), 30)
    other = Server(postgres, template)
    try:
        box.connect(other.url)
        assert box.lost.rows == len(box.acknowledged)
    finally:
        other.remove()


@pytest.mark.parametrize("how", ["dropped", "forbidden"])
def test_a_server_without_the_table_is_written_without_marks(
    server: Server, box: MarkedBox, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the box may not migrate: it serves, and that is logged once."""
    url = server.url
    if how == "dropped":
        server.hub.ask("DROP TABLE sync_connections")
    else:
        role = f"r_{random.randrange(10**9)}"
        server.hub.ask(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        server.hub.ask(f"GRANT INSERT, SELECT ON facts TO {role}")
        url = url.replace(url[url.index("//") + 2 : url.index("@")], f"{role}:x")
    connections = [box.connect(url) for _ in range(3)]
    for connection in connections:
        connection.write()
        box.look(connection)
        connection.close()
    assert box.missing(server.hub.ask) == 0 and box.lost == NOTHING
    assert caplog.text.count("keeps no marks") == 1
    if how == "forbidden":
        server.hub.ask(f"DROP OWNED BY {role}")
        server.hub.ask(f"DROP ROLE {role}")


def test_a_table_that_is_dropped_meanwhile_is_evidence(server: Server, box: MarkedBox) -> None:
    """One write is refused, the next ones go on, and what was marked is named."""
    connection = box.connect()
    for _ in range(4):
        connection.write()
    server.hub.ask("DROP TABLE sync_connections")
    with pytest.raises(Exception, match="sync_connections"):
        connection.write()
    connection = box.connect()
    connection.write()
    assert box.lost.rows == 4


def test_two_processes_at_once_are_no_loss(server: Server, box: MarkedBox) -> None:
    """As at a restart: the first still serves while the second one compares and joins."""
    first, old = box.connect(), box.keeper
    first.write()
    box.look(first)
    box.new_process()
    second = box.connect()
    for _ in range(5):
        second.write()
        first._box.keeper, new = old, box.keeper
        first.write()
        box.look(first)
        box.keeper = new
        box.look(second)
    box.keeper = old
    first.close()
    old.close()
    box.keeper = new
    for _ in range(3):
        box.look(second)
    assert box.lost == NOTHING
    record = read_record(box.paths, NODE)
    assert record is not None and record.sum_mark == Mark(6, 6)
    assert len(list(box.paths.marks_owners.iterdir())) == 1


def test_the_streams_of_closed_connections_leave_the_hub(server: Server, box: MarkedBox) -> None:
    """Each has an owner and a lifetime: what stays is the open ones, and one for all the others."""
    for _ in range(10):
        connection = box.connect()
        connection.write(2)
        connection.close()
    last = box.connect()
    last.write()
    for _ in range(2):
        box.look(last)
    assert server.hub.one("SELECT count(*) FROM sync_connections") == 2
    assert server.hub.one("SELECT sum(rows)::int FROM sync_connections") == 21


def test_a_lost_answer_to_the_joining_is_settled(server: Server, box: MarkedBox) -> None:
    """The statement was committed, and the box does not know."""
    for _ in range(3):
        connection = box.connect()
        connection.write()
        connection.close()
    last = box.connect()
    asked = last.ask

    def cut(sql: str) -> Any:
        rows = asked(sql)
        if "joined" in sql:
            raise ConnectionResetError("the answer is lost")
        return rows

    box.now += 60
    with pytest.raises(ConnectionResetError):
        box.keeper.look(cut)
    box.kill()
    again = box.connect()
    for _ in range(3):
        box.look(again)
    assert box.lost == NOTHING
    record = read_record(box.paths, NODE)
    assert record is not None and record.sum_mark == Mark(3, 3) and not record.joining


def test_the_drainer_finds_it_by_the_record(server: Server, box: MarkedBox) -> None:
    """Also where the service holds no connection; and both of them count it once."""
    connection = box.connect()
    for _ in range(6):
        connection.write(2)
    box.look(connection)
    server.save()
    connection = box.connect()
    connection.write()
    box.look(connection)
    server.set_back()
    with server.hub.link() as hub:
        connections = LostConnections(
            box.paths, NODE, box.paths.state / "journal", lambda _stream, _owner: False
        )
        for _ in range(2):
            connections.compare(hub, None)
    assert box.lost.rows == box.missing(server.hub.ask) == 1
    box.connect()
    assert box.lost.rows == 1


def test_acknowledged_is_not_found_again(server: Server, box: MarkedBox) -> None:
    connection = box.connect()
    connection.write()
    server.save()
    box.connect().write(3)
    server.set_back()
    box.look(box.connect())
    settle(box.paths)
    connection = box.connect()
    connection.write()
    box.look(connection)
    record = read_record(box.paths, NODE)
    assert record is not None and record.lost == record.acknowledged == Mark(1, 3)


@pytest.mark.parametrize(
    ("of_the_server", "of_the_transaction"),
    [("off", "on"), ("local", "on"), ("on", "on"), ("remote_apply", "remote_apply")],
)
def test_every_transaction_asks_for_durability(
    server: Server, box: MarkedBox, of_the_server: str, of_the_transaction: str
) -> None:
    connection = box.connect()
    connection.ask(f"SET synchronous_commit = {of_the_server}")
    ((begin, _),) = connection._holder.rider.begin()
    assert connection.ask(f"{begin}; SHOW synchronous_commit")[-1] == [of_the_transaction]


def test_a_mark_that_is_merely_set_hides_the_loss(
    server: Server, box: MarkedBox, alerts: list[str]
) -> None:
    """The weakened build: the next write overwrites the evidence, so a comparison comes late."""

    def lost_behind_an_open_session() -> tuple[int, int]:
        connection = box.connect()
        connection.write()
        server.hub.ask("CREATE TABLE kept AS SELECT * FROM sync_connections")
        ids = connection.write(3)
        # The pooler's server changes behind the session.
        server.hub.ask("DELETE FROM facts WHERE id IN (" + ",".join(f"'{i}'" for i in ids) + ")")
        server.hub.ask("DELETE FROM sync_connections")
        server.hub.ask("INSERT INTO sync_connections SELECT * FROM kept")
        server.hub.ask("DROP TABLE kept")
        connection.write()
        connection.write()
        before = box.lost.rows
        box.look(connection)
        return box.lost.rows - before, len(ids)

    found, missing = lost_behind_an_open_session()
    assert found == missing
    with weakened("set-marks"):
        box.keeper._streams.use(None)  # so that the statements are made anew
        found, missing = lost_behind_an_open_session()
    assert found != missing
