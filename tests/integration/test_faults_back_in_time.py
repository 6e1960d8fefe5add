# SPDX-License-Identifier: Apache-2.0
"""A whole box before a PostgreSQL that goes back in time under load: nothing acknowledged is lost.

The clients keep a record of their own. What is sent again arrives after what was written since,
so that the order of arrival says nothing here.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import standby as streaming
from tests.support.checker import Complaint, check, summary
from tests.support.history import History
from tests.support.hub_database import HubDatabase, make_template
from tests.support.live_box import Clients, LiveBox
from tests.support.postgres_server import USER, PostgresServer
from tests.support.relay import Relay
from tests.support.search import SOAK
from tests.support.service_process import until

#: Rows that are acknowledged before, in and after what is lost.
LOAD = 150 if SOAK else 25

pytestmark = pytest.mark.skipif(
    not SOAK, reason="long: EDGEPAAS_SOAK=1; test_sync_resend.py has a short form of each"
)


@contextlib.contextmanager
def loaded(box: LiveBox, history: History) -> Iterator[Clients]:
    """Give clients that write to *box*."""
    clients = Clients(box.port, history, count=3, pause=0.02)
    with clients.writing():
        yield clients


def complaints(history: History, hub: HubDatabase) -> list[Complaint]:
    """Return what the clients miss or find twice on *hub*."""
    found = hub.witness.look()
    print(summary(history, found))
    return [
        one
        for one in check(history, found, conflicts=None, streams=None)
        if one.kind != "reordered"
    ]


def all_home(box: LiveBox, history: History, hub: HubDatabase) -> int:
    """Wait until the clients miss nothing on *hub*, and the box says so; how many facts it has."""
    box.wait_drained(limit=120)
    until(
        lambda: not complaints(history, hub),
        f"{complaints(history, hub)[:5]}; it printed:\n{box.output()[-6000:]}",
        120,
    )
    _, said = box.run("sync", "status", "--json")
    assert json.loads(said)["forwarding"]["hub_lost"] == 0, said
    return len(hub.witness.look().facts)


def outage(box: LiveBox, relay: Relay, clients: Clients) -> None:
    """Have SQLite take rows for a while, and bring them home."""
    relay.cut()
    box.wait_state("fallback", limit=120)
    clients.wait_for(LOAD)
    relay.heal()
    box.wait_state("primary", limit=120)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_lagging_standby_is_promoted_under_load(tmp_path: Path, *, pooled: bool) -> None:
    """Rows of PostgreSQL's time and of an outage, facts and shared ones."""
    history = History()
    with streaming.servers() as (primary, standby), contextlib.ExitStack() as stack:
        template = make_template(primary, tmp_path / "template")
        hub = stack.enter_context(HubDatabase.copy_of(primary, template))
        there = HubDatabase(standby, hub.name)
        pooler = stack.enter_context(streaming.pooler(primary, hub.name)) if pooled else None
        relay = stack.enter_context(Relay(pooler.port if pooler else primary.port))
        url = relay.reroute(pooler.url if pooler else hub.url)
        box = stack.enter_context(LiveBox(tmp_path / "box", DATABASE_URL=url))
        clients = stack.enter_context(loaded(box, history))
        box.wait_state("primary")
        clients.wait_for(LOAD)
        streaming.catch_up(primary, standby)
        streaming.stop_following(standby)
        clients.wait_for(LOAD)
        outage(box, relay, clients)
        clients.wait_for(LOAD)
        streaming.promote(standby)
        if pooler:
            pooler.switch(standby)
        else:
            relay.cut()
            primary.kill()
            relay.switch(standby.port)
            relay.heal()
        clients.wait_for(LOAD)
        clients.stop()
        box.wait_state("primary", limit=120)
        assert all_home(box, history, there) > LOAD
        assert "sent again from the journal" in box.output(), "something was lost"
        if not pooler:
            primary.start()  # for the fixtures, which tidy up


def test_the_server_that_a_drainer_is_pooled_to_changes_under_its_session(tmp_path: Path) -> None:
    """SQLite serves; not a connection of the box is lost, and nothing is to be sent any more."""
    history = History()
    with streaming.servers() as (primary, standby), contextlib.ExitStack() as stack:
        template = make_template(primary, tmp_path / "template")
        hub = stack.enter_context(HubDatabase.copy_of(primary, template))
        pooler = stack.enter_context(streaming.pooler(primary, hub.name))
        box = stack.enter_context(
            LiveBox(tmp_path / "box", DATABASE_URL=pooler.url, USE_SQLITE="true")
        )
        with loaded(box, history) as clients:
            clients.wait_for(LOAD)
            streaming.catch_up(primary, standby)
            streaming.stop_following(standby)
            clients.wait_for(LOAD)
        box.wait_drained()
        streaming.promote(standby)
        pooler.switch(standby)
        assert all_home(box, history, HubDatabase(standby, hub.name)) > LOAD


def test_a_restore_of_a_dump_under_load(tmp_path: Path, postgres: PostgresServer) -> None:
    """pg_dump's state of a while ago takes the database's place."""
    history = History()
    with contextlib.ExitStack() as stack:
        template = make_template(postgres, tmp_path / "template")
        hub = stack.enter_context(HubDatabase.copy_of(postgres, template))
        relay = stack.enter_context(Relay(postgres.port))
        url = relay.reroute(hub.url)
        box = stack.enter_context(LiveBox(tmp_path / "box", DATABASE_URL=url))
        clients = stack.enter_context(loaded(box, history))
        box.wait_state("primary")
        clients.wait_for(LOAD)
        dump = tmp_path / "dump"
        tool(postgres, "pg_dump", "-Fc", "-f", str(dump), hub.name)
        clients.wait_for(LOAD)
        outage(box, relay, clients)
        clients.wait_for(LOAD)
        relay.cut()
        postgres.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{hub.name}'"
        )
        postgres.execute(f'DROP DATABASE "{hub.name}" WITH (FORCE)')
        postgres.execute(f'CREATE DATABASE "{hub.name}"')
        tool(postgres, "pg_restore", "-d", hub.name, str(dump))
        relay.heal()
        clients.wait_for(LOAD)
        clients.stop()
        box.wait_state("primary", limit=120)
        assert all_home(box, history, hub) > LOAD
        assert "sent again from the journal" in box.output(), "something was lost"


def test_a_server_without_synchronous_commit_is_killed(tmp_path: Path) -> None:
    """Each transaction of the box asks for durability, whatever the server's default is.

    The kills come while rows of PostgreSQL's time and of an outage are on their way.
    """
    history = History()
    with streaming.servers("synchronous_commit=off") as (primary, standby):
        standby.stop()
        template = make_template(primary, tmp_path / "template")
        with (
            HubDatabase.copy_of(primary, template) as hub,
            Relay(primary.port) as relay,
            LiveBox(tmp_path / "box", DATABASE_URL=relay.reroute(hub.url)) as box,
        ):
            with loaded(box, history) as clients:
                box.wait_state("primary")
                for _ in range(5 if SOAK else 1):
                    clients.wait_for(LOAD)
                    primary.kill()
                    primary.start("synchronous_commit=off")
                    box.wait_state("primary", limit=120)
                    clients.wait_for(LOAD)
                    outage(box, relay, clients)
            box.wait_state("primary", limit=120)
            assert all_home(box, history, hub) > LOAD


def tool(server: PostgresServer, name: str, *arguments: str) -> None:
    """Run a client program of *server*."""
    subprocess.run(
        [
            str(server.binaries / name), "-h", "127.0.0.1", "-p", str(server.port), "-U", USER,
            *arguments,
        ],
        env={**os.environ, "PGPASSWORD": server.password}, check=True, timeout=120,
        capture_output=True,
    )  # fmt: skip
