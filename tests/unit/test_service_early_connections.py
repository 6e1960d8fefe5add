# SPDX-License-Identifier: Apache-2.0
"""Connections that are begun before the service needs them: taken once, or closed."""

import threading
from typing import Any

import pytest

from edgepaas.database.postgresql import connector as connecting
from edgepaas.database.postgresql.connector import service_connector
from edgepaas.decision.contract import DatabaseContract
from edgepaas.decision.rehearsal_record import note_rehearsal
from edgepaas.files.paths import Paths
from edgepaas.pgdriver.failures import ConnectFailure, Failure
from edgepaas.service import early_connections
from edgepaas.settings import Settings
from tests.support.boxes import contract
from tests.support.service_process import until

URL = "postgresql://hub.example/db"


class Connection:
    """One that was made."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        """Be closed."""
        self.closed = True


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
        note_rehearsal(paths, URL, ["alembic_version 0002"])
    server.let.set()
    found = early_connections.begin(primary(paths), Settings.of(), paths)
    assert found is not None
    count = early_connections.COUNT_OF_HAND_BACK if handed_back else early_connections.COUNT
    until(lambda: len(server.made) == count, "the connections")
    assert {found() for _ in range(count)} == set(server.made)
