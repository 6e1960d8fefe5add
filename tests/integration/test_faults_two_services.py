# SPDX-License-Identifier: Apache-2.0
"""Two services write in `primary` at once, and their server loses what it acknowledged last."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.marks.record import lost_rows
from tests.support.checker import Complaint, check, summary
from tests.support.history import History
from tests.support.hub_database import HubDatabase, make_template
from tests.support.live_box import Clients
from tests.support.postgres_server import PostgresServer, temporary_home
from tests.support.search import SOAK
from tests.support.service_process import until
from tests.support.two_services import TwoServices

LOAD = 150 if SOAK else 40
KILLS, MOST_KILLS = (8, 30) if SOAK else (2, 12)
#: What is acknowledged stays in memory for so long.
OPTIONS = ("synchronous_commit=off", "wal_writer_delay=10000")


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server that loses its last transactions when it is killed."""
    found = PostgresServer(temporary_home())
    try:
        found.create_cluster()
        found.start(*OPTIONS)
        yield found
    finally:
        found.remove()


def complaints(history: History, hub: HubDatabase) -> list[Complaint]:
    """What the clients miss, or find twice, on *hub*; what is sent again comes in no order."""
    found = hub.witness.look()
    print(summary(history, found))
    return [
        one
        for one in check(history, found, conflicts=None, streams=None)
        if one.kind != "reordered"
    ]


def test_two_services_lose_and_double_nothing(tmp_path: Path, server: PostgresServer) -> None:
    """They do not ask for durability here, so that a kill of the server loses something."""
    history = History()
    template = make_template(server, tmp_path / "template")
    with (
        HubDatabase.copy_of(server, template) as hub,
        TwoServices(
            tmp_path / "box",
            weak=("durability-not-asked",),
            DATABASE_URL=hub.url,
            HEARTBEAT_INTERVAL="5",
            MIRROR_INTERVAL="5",
        ) as box,
    ):
        box.wait_state("primary")
        clients = Clients(box.port, history, count=4, pause=0.02)
        with clients.writing():
            clients.wait_for(LOAD)
            until(
                lambda: hub.number("SELECT count(DISTINCT owner_id) FROM sync_connections") > 1,
                "marks of two services",
            )
            assert "went back" not in box.output() and lost_rows(box.paths) == 0
            for kills in range(1, MOST_KILLS):
                clients.wait_for(LOAD)
                server.kill()
                server.start(*OPTIONS)
                box.wait_state("primary", limit=120)
                if kills >= KILLS and "went back" in box.output():
                    break
        box.wait_state("primary", limit=120)
        until(
            lambda: not complaints(history, hub) and not box.waiting(),
            f"all rows at home: {complaints(history, hub)[:5]}\n{box.output()[-6000:]}",
            120,
        )
        assert "sent again from the journal" in box.output(), "something was lost"
        assert "fork" not in box.output()
        assert clients.surprises == []
        until(lambda: lost_rows(box.paths) == 0, "no row that counts as lost")
        _, said = box.run("sync", "status", "--json")
        assert '"hub_lost": 0' in said, said
