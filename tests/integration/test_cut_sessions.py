# SPDX-License-Identifier: Apache-2.0
"""Cut after cut on a server with few connections: none is left behind, and the service goes on."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pg8000.native
import pytest

from edgepaas.settings import split_url
from tests.support.checker import check, summary
from tests.support.history import History
from tests.support.hub_database import HubDatabase, make_template
from tests.support.live_box import Clients, LiveBox
from tests.support.postgres_server import PostgresServer, temporary_home
from tests.support.relay import Relay
from tests.support.service_process import until

SOAK = bool(os.environ.get("EDGEPAAS_SOAK"))
SEED = int(os.environ.get("EDGEPAAS_SEED", "5"))
CUTS = int(os.environ.get("EDGEPAAS_CUTS", "50")) if SOAK else 2
CLIENTS = 4
#: What the box holds of the server: one for each client's request and for a look at the
#: schema, the ping's, the drainer's.
CONNECTIONS = CLIENTS + 3
ROLE = "box_role"
#: Every database object of the box, and what the witness beside it writes.
RIGHTS = """
CREATE ROLE box_role LOGIN PASSWORD 'secret';
GRANT ALL ON SCHEMA public, witness TO box_role;
GRANT ALL ON ALL TABLES IN SCHEMA public, witness TO box_role;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public, witness TO box_role
"""


@pytest.fixture
def small_hub(tmp_path: Path) -> Iterator[HubDatabase]:
    """A hub on a server that has 17 connections for everybody, and 3 for its superuser."""
    server = PostgresServer(temporary_home())
    try:
        server.create_cluster()
        server.start("max_connections=20", "superuser_reserved_connections=3")
        with HubDatabase.copy_of(server, make_template(server, tmp_path / "template")) as hub:
            for statement in RIGHTS.split(";"):
                hub.execute(statement)
            yield hub
    finally:
        server.remove()


class Sampler:
    """Counts the sessions of the box at the server all the time, on a reserved connection."""

    def __init__(self, hub: HubDatabase) -> None:
        address = split_url(hub.url)
        self._connection = pg8000.native.Connection(
            address.username, host=address.host, port=address.port, database=hub.name,
            password=address.password,
        )  # fmt: skip
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.samples = 0
        self.most = 0
        #: What they were at that moment.
        self.names: list[str] = []

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)
        self._connection.close()

    def _sample(self) -> None:
        query = f"SELECT application_name FROM pg_stat_activity WHERE usename = '{ROLE}'"
        while not self._over.wait(0.02):
            names = sorted(str(name) for (name,) in self._connection.run(query) or [])
            self.samples += 1
            if len(names) > self.most:
                self.most, self.names = len(names), names


def reset(relay: Relay) -> None:
    """RST to both ends."""
    relay.break_connections("reset")


def close(relay: Relay) -> None:
    """FIN to both ends."""
    relay.break_connections("close")


def half_open(relay: Relay) -> None:
    """The server has ended, and the box hears nothing of it."""
    relay.break_connections("silence")


def forget(relay: Relay) -> None:
    """A firewall forgets every connection: both ends stay open; new ones are let through."""
    relay.black_hole()
    relay.heal()


def drop(relay: Relay) -> None:
    """Nothing comes through for a moment, and what was open stays dead."""
    relay.black_hole()
    time.sleep(1.0)
    relay.heal()


def lose_an_answer(relay: Relay) -> None:
    """The answer to a COMMIT is lost together with its connection."""
    cuts = relay.cuts
    relay.commit_cut = 1.0
    try:
        until(lambda: relay.cuts > cuts, "a COMMIT", 60)
    finally:
        relay.commit_cut = 0.0


KINDS: list[Callable[[Relay], None]] = [forget, reset, lose_an_answer, half_open, close, drop]


def test_cuts_leave_no_session_behind_and_the_service_goes_on(
    tmp_path: Path, small_hub: HubDatabase
) -> None:
    """36 of them stood there for four after ten cuts, until the server had no further one."""
    history = History()
    settings: dict[str, Any] = {"POSTGRES_HOLD": "1", "HANDBACK_ROWS": "100000"}
    url = f"postgresql://{ROLE}:secret@127.0.0.1:{small_hub.server.port}/{small_hub.name}"
    gaps: dict[str, list[float]] = {kind.__name__: [] for kind in KINDS}
    with (
        Relay(small_hub.server.port, seed=SEED) as relay,
        LiveBox(tmp_path / "box", DATABASE_URL=relay.reroute(url), **settings) as box,
        Sampler(small_hub) as sampler,
        Clients(box.port, history, count=CLIENTS, seed=SEED, pause=0.05).writing() as clients,
    ):
        clients.wait_for(30)
        print(f"before the first cut: {sampler.most} sessions")
        for number in range(CUTS):
            kind = KINDS[number % len(KINDS)]
            clients.longest_gap = 0.0
            kind(relay)
            clients.wait_for(12)
            gaps[kind.__name__].append(clients.longest_gap)
        clients.stop()
        relay.calm()
        box.wait_state("primary", limit=120)
        box.wait_drained()
        found = small_hub.witness.look()
        for name, measured in gaps.items():
            shown = ", ".join(f"{gap:.1f}" for gap in measured)
            print(f"{name}: seconds without an accepted write: {shown or 'not cut'}")
        (tmp_path / "box" / "shown").write_text(box.output())
        print(f"{summary(history, found)}; most sessions {sampler.most} ({sampler.samples} "
              f"samples): {sampler.names}; refused or unanswered {clients.refused}")  # fmt: skip
        assert sampler.samples > 10
        assert sampler.most <= CONNECTIONS + 2, box.output()[-6000:]
        assert clients.surprises == []
        assert check(history, found, conflicts=None) == []
        if SOAK:
            assert max(gap for measured in gaps.values() for gap in measured) <= 10.0
