# SPDX-License-Identifier: Apache-2.0
"""Asking PostgreSQL whether it answers: bounded, once for all who ask, never on trust."""

import threading
from typing import Any, cast

import pytest

from edgepaas.database.postgresql import pinger as server
from edgepaas.database.postgresql.pinger import Pinger
from edgepaas.database.postgresql.pool import PING_TIMEOUT
from edgepaas.errors import DatabaseUnavailable
from edgepaas.timing.link import Link
from tests.support.service_process import until


class FakeConnection:
    """What the pinger keeps; whether it answers is the test's to say."""

    endpoint = "hub:5432"

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        """Be closed."""
        self.closed = True


class FakeServer:
    """Counts connections and questions; hangs or refuses as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.link = Link()
        self.made: list[FakeConnection] = []
        self.asked = 0
        self.deaf: set[FakeConnection] = set()
        self.away = False
        self.answers = threading.Event()
        self.answers.set()
        monkeypatch.setattr(server, "ask", self._ask)

    def __call__(self, *, deadline: float) -> FakeConnection:
        """Connect."""
        assert 0 < deadline <= PING_TIMEOUT
        if self.away:
            raise DatabaseUnavailable("refused")
        self.made.append(FakeConnection())
        return self.made[-1]

    def _ask(self, connection: Any, _question: str, _seconds: float) -> list[list[Any]]:
        self.asked += 1
        self.answers.wait(10)
        if connection in self.deaf or self.away:
            raise ConnectionResetError("reset")
        return [[False, "off"]]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """A server that answers."""
    return FakeServer(monkeypatch)


def pinger(fake: FakeServer) -> Pinger:
    """Return a pinger that has a connection, which was asked already."""
    made = Pinger(cast(Any, fake), max_age=3600.0)
    made.ping()
    fake.asked = 0
    return made


def test_one_connection_serves_every_question(fake: FakeServer) -> None:
    """A login a ping would load the server more than the ping."""
    asking = pinger(fake)
    asking.ping()
    asking.ping()
    assert (len(fake.made), fake.asked) == (1, 2)


def test_a_connection_that_broke_is_no_server_that_is_lost(fake: FakeServer) -> None:
    """Somebody ended that session: a new one answers."""
    asking = pinger(fake)
    fake.deaf.add(fake.made[0])
    asking.ping()
    assert len(fake.made) == 2
    assert fake.made[0].closed


def test_who_asks_meanwhile_gets_the_same_answer_at_the_same_time(fake: FakeServer) -> None:
    """The watch does not wait for its turn behind a health check on a silent server."""
    asking = pinger(fake)
    fake.answers.clear()
    fake.away = True
    troubles: list[str] = []

    def ask() -> None:
        try:
            asking.ping()
        except DatabaseUnavailable as error:
            troubles.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: fake.asked == 1, "the question")
    fake.answers.set()
    for thread in threads:
        thread.join(10)
    assert len(troubles) == 3
    assert fake.asked < 4


def test_a_pinger_that_is_closed_while_it_asks_leaves_no_connection(fake: FakeServer) -> None:
    """The end of the service does not wait for a server that says nothing."""
    asking = pinger(fake)
    fake.answers.clear()
    thread = threading.Thread(target=asking.ping)
    thread.start()
    until(lambda: fake.asked == 1, "the question")
    asking.close()
    fake.answers.set()
    thread.join(10)
    assert fake.made[0].closed
    with pytest.raises(DatabaseUnavailable):
        asking.ping()


def test_whether_the_last_ping_had_its_answer_is_known(fake: FakeServer) -> None:
    """A database that is lost is closed without waiting for what nobody answers."""
    asking, found = pinger(fake), []
    found.append(asking.works)
    fake.away = True
    with pytest.raises(DatabaseUnavailable):
        asking.ping()
    found.append(asking.works)
    fake.away = False
    asking.ping()
    found.append(asking.works)
    assert found == [True, False, True]


def test_over_a_slow_link_an_answer_is_waited_for_longer(fake: FakeServer) -> None:
    asking = pinger(fake)
    fast = asking.longest
    for _ in range(2):
        fake.link.measured(0.6)
    assert asking.longest > fast + 3
