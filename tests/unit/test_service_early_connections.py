# SPDX-License-Identifier: Apache-2.0
"""Connections that are begun before the service needs them: taken once, or closed."""

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from edgepaas.database.postgresql import connector as connecting
from edgepaas.database.postgresql.connector import service_connector
from edgepaas.decision.contract import DatabaseContract
from edgepaas.decision.rehearsal_record import note_rehearsal
from edgepaas.files.paths import Paths
from edgepaas.outbox.layout import TABLES_RECORD
from edgepaas.pgdriver.failures import ConnectFailure, Failure
from edgepaas.pgdriver.sessions import forget_identity
from edgepaas.service import early_connections
from edgepaas.settings import Settings
from tests.support.boxes import contract
from tests.support.service_process import until

URL = "postgresql://hub.example/db"


class Connection:
    """One that was made."""

    def __init__(self) -> None:
        self.closed = False
        self.autocommit = False
        self.link = socket.socket()
        self.asked = ""

    def execute_simple(self, sql: str) -> Any:
        """Answer the question for the marks: it has none, and no table."""
        self.asked = sql
        return SimpleNamespace(rows=[[False, None, None, None]])

    def close(self) -> None:
        """Be closed."""
        self.closed = True
        self.link.close()


class Server:
    """Makes connections, each once it is let; refuses where it is told to."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.let = threading.Event()
        self.away = False

    def connect(self, *_: Any, **__: Any) -> Any:
        """Log in."""
        assert self.let.wait(60)
        if self.away:
            raise ConnectFailure(Failure.REFUSED, "refused")
        self.made.append(Connection())
        return self.made[-1]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that lets everyone in."""
    found = Server()
    monkeypatch.setattr(connecting, "connect", found.connect)
    return found


def primary(paths: Paths, **changes: Any) -> DatabaseContract:
    """A decision for PostgreSQL."""
    return contract(paths, **({"database_url": URL, "hub_url": URL} | changes))


def test_the_first_calls_take_what_was_begun(server: Server) -> None:
    connector = service_connector(URL, Settings.of())
    connector.begin_early(2)
    server.let.set()
    taken = {connector(), connector()}
    assert taken == set(server.made)
    until(lambda: len(server.made) == 2, "both connections")
    assert connector() not in taken


def test_why_it_failed_is_raised_where_it_is_taken(server: Server) -> None:
    server.away = True
    server.let.set()
    connector = service_connector(URL, Settings.of())
    connector.begin_early(1)
    with pytest.raises(ConnectFailure, match="refused"):
        connector()
    server.away = False
    assert connector() is server.made[0]


def test_what_nobody_takes_is_closed(server: Server) -> None:
    server.let.set()
    connector = service_connector(URL, Settings.of())
    connector.begin_early(2)
    until(lambda: len(server.made) == 2, "both connections")
    connector.close_early()
    until(lambda: all(one.closed for one in server.made), "the end of both")
    assert len(server.made) == 2


def test_where_sqlite_serves_nothing_is_begun(server: Server, paths: Paths) -> None:
    server.let.set()
    assert early_connections.begin(contract(paths, hub_url=URL), Settings.of(), paths) is None
    assert server.made == []


@pytest.mark.parametrize("handed_back", [False, True])
def test_more_are_begun_where_writes_wait_for_the_service(
    server: Server, paths: Paths, handed_back: bool
) -> None:
    if handed_back:
        note_rehearsal(paths, URL, ["alembic_version_telemetry 0002"])
    server.let.set()
    found = early_connections.begin(primary(paths), Settings.of(), paths)
    assert found is not None
    count = early_connections.COUNT_OF_HAND_BACK if handed_back else early_connections.COUNT
    until(lambda: len(server.made) == count, "the connections")
    assert {found() for _ in range(count)} == set(server.made)


@pytest.fixture
def handed_back(server: Server, paths: Paths) -> Iterator[None]:
    """A decision that is about to end: a rehearsal has passed."""
    Settings.of().write(paths.env_contract)
    contract(paths, hub_url=URL, db_state="fallback").write(paths.db_contract)
    note_rehearsal(paths, URL, ["alembic_version_telemetry 0002"])
    server.let.set()
    yield
    forget_identity()


def test_without_a_rehearsal_the_next_service_does_not_connect(
    server: Server, paths: Paths
) -> None:
    Settings.of().write(paths.env_contract)
    contract(paths, hub_url=URL, db_state="fallback").write(paths.db_contract)
    assert not early_connections.begin_for_hand_back(paths)
    assert server.made == []


@pytest.mark.usefixtures("handed_back")
def test_the_next_service_connects_while_it_is_handed_back_to(server: Server, paths: Paths) -> None:
    """By the decision that is about to end; its stages have not run yet."""
    assert early_connections.begin_for_hand_back(paths)
    count = early_connections.COUNT_OF_HAND_BACK
    until(lambda: len(server.made) == count, "the connections")
    found = early_connections.begin(primary(paths), Settings.of(), paths)
    assert found is not None
    assert {found() for _ in range(count)} == set(server.made)
    assert len(server.made) == count


@pytest.mark.usefixtures("handed_back")
def test_its_connections_have_compared_their_marks_before_it_is_needed(
    server: Server, paths: Paths
) -> None:
    """Over a slow link each would take a round trip more while writes wait."""
    column = dict.fromkeys(("type", "storage", "merge", "filled_from"), "") | {
        "name": "id", "nullable": False, "primary_key": True, "values": [],
    }  # fmt: skip
    table = {
        "kind": "facts",
        "columns": [column],
        "key": ["id"],
        "foreign": [],
        "checks": [],
        "unique": [],
    }
    TABLES_RECORD.write(
        paths.tables, {"fingerprint": "", "revision": [], "tables": {"facts": table}}
    )
    assert early_connections.begin_for_hand_back(paths)
    found = early_connections.begin(primary(paths), Settings.of(), paths)
    assert found is not None
    assert found.keeper is not None
    assert found.keeper.tables == ("facts",)
    connections = [found() for _ in range(early_connections.COUNT_OF_HAND_BACK)]
    assert all(found.keeper.keeps(connection) for connection in connections)
    assert all("sync_connections" in one.asked for one in server.made)


@pytest.mark.usefixtures("handed_back")
@pytest.mark.parametrize("why", ["sqlite", "settings"])
def test_where_the_stages_decide_otherwise_they_are_closed(
    server: Server, paths: Paths, why: str
) -> None:
    assert early_connections.begin_for_hand_back(paths)
    count = early_connections.COUNT_OF_HAND_BACK
    until(lambda: len(server.made) == count, "the connections")
    early = list(server.made)
    if why == "sqlite":
        assert early_connections.begin(contract(paths, hub_url=URL), Settings.of(), paths) is None
    else:
        changed = Settings.of(DB_STATEMENT_TIMEOUT="7")
        changed.write(paths.env_contract)
        assert early_connections.begin(primary(paths), changed, paths) is not None
    until(lambda: all(one.closed for one in early), "the end of all")
