# SPDX-License-Identifier: Apache-2.0
"""The primary dies and its standby is promoted: the box finds it by its second host alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checker import check, summary
from tests.support.history import History
from tests.support.hub_database import HubDatabase, make_template
from tests.support.live_box import Clients, LiveBox
from tests.support.postgres_server import PostgresServer
from tests.support.search import SOAK
from tests.support.service_process import get, until
from tests.support.standby import promote, servers


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary that this test may kill, and its standby."""
    with servers("synchronous_commit=on") as found:
        yield found


def follow(primary: PostgresServer) -> None:
    """Have each COMMIT wait for the standby from now on."""
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.execute("SELECT pg_reload_conf()")
    state = "SELECT sync_state FROM pg_stat_replication"
    until(lambda: primary.execute(state) == [["sync"]], "a synchronous standby", 60)


@pytest.mark.parametrize("local_first", [False, True] if SOAK else [False])
def test_a_promoted_standby_needs_no_operator(
    tmp_path: Path, pair: tuple[PostgresServer, PostgresServer], *, local_first: bool
) -> None:
    """Under load; the service where PostgreSQL serves, the drainer where it receives."""
    primary, standby = pair
    history = History()
    settings: dict[str, Any] = {"POSTGRES_HOLD": "1", "HANDBACK_ROWS": "100000"}
    settings["USE_SQLITE"] = str(local_first).lower()
    before = "local-first" if local_first else "primary"
    with HubDatabase.copy_of(primary, make_template(primary, tmp_path / "template")) as hub:
        follow(primary)
        now_there = HubDatabase(standby, hub.name)
        places = [f"127.0.0.1:{server.port}" for server in (primary, standby)]
        # The standby stands first: it is passed over for as long as it is one.
        url = hub.url.replace(places[0], f"{places[1]},{places[0]}")
        with (
            LiveBox(tmp_path / "box", DATABASE_URL=url, **settings) as box,
            Clients(box.port, history, count=3, pause=0.05).writing() as clients,
        ):
            box.wait_state(before)
            clients.wait_for(30)
            assert places[0] in where(box), "it serves from the primary"
            primary.kill()
            promote(standby)
            clients.longest_gap = 0.0
            clients.wait_for(30)
            box.wait_state(before, limit=120)
            clients.wait_for(10)
            until(lambda: places[1] in where(box), f"{places[1]} in {where(box)}", 60)
            clients.stop()
            box.wait_drained(limit=120)
            status, said = box.run("doctor")
            assert f"at {places[1]} answers" in said, said
            _, shown = box.run("status")
            assert places[1] in shown, shown
            found = now_there.witness.look()
            print(f"{before}: {summary(history, found)}; {clients.longest_gap:.1f} s without an "
                  f"accepted write; doctor ended with {status}")  # fmt: skip
            assert clients.surprises == []
            assert check(history, found, conflicts=None) == []
            status, text = box.run("audit")
            assert status == 0, text
        primary.start()  # for the fixtures, which tidy up


def where(box: LiveBox) -> str:
    """What readiness says of the database and of forwarding."""
    _, body = get(box.port, "/health/ready", timeout=10)
    document = json.loads(body)
    return json.dumps(document)
