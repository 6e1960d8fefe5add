# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL goes back further than the box's journal reaches: what is lost has its exact number.

The number is that of the client, which keeps the id of each reading that was acknowledged. What
the journal still has comes home, and so does what was written in an outage.
"""

import contextlib
import itertools
import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from edgepaas.outbox.journal.tables import journal_path
from tests.support import standby as streaming
from tests.support.hub_database import HubDatabase, make_template
from tests.support.live_box import LiveBox, request
from tests.support.postgres_server import PostgresServer
from tests.support.relay import Relay
from tests.support.search import SOAK
from tests.support.service_process import until

pytestmark = pytest.mark.skipif(
    not SOAK, reason="long: EDGEPAAS_SOAK=1; test_sync_resend.py has a short form"
)

#: The journal takes half of it: some 7,000 readings.
BUDGET = "3MiB"
#: Rows of a request, in turn: a loss is counted by rows, whatever a transaction has of them.
SIZES = (1, 7, 400, 950, 2, 733)


class Client:
    """Posts readings, and repeats what was not acknowledged under the ids that it had."""

    def __init__(self, box: LiveBox) -> None:
        self._box = box
        self._sizes = itertools.cycle(SIZES)
        self.acknowledged: set[str] = set()

    def post(self, count: int) -> bool:
        """Have *count* requests acknowledged; returns False."""
        for size in itertools.islice(self._sizes, count):
            ids = [str(uuid.uuid4()) for _ in range(size)]
            content = [
                {"id": one, "device": f"d{number % 5}", "metric": "m", "value": number}
                for number, one in enumerate(ids)
            ]
            until(partial(self._take, content), "an acknowledgement", 120)
            self.acknowledged.update(ids)
        return False

    def _take(self, content: list[dict[str, object]]) -> bool:
        return request(self._box.port, "POST", "/api/v1/readings", content)[0] in (200, 201)

    def fill(self) -> None:
        """Post until the journal has given up rows."""
        until(lambda: dropped(self._box) > 1000 or self.post(6), "the journal to be full", 240)

    def missing(self, hub: HubDatabase, wanted: set[str] | None = None) -> int:
        """How many acknowledged readings, or of *wanted*, *hub* lacks; none may be there twice."""
        there = [str(row[0]) for row in hub.execute("SELECT id::text FROM readings")]
        assert len(there) == len(set(there))
        assert set(there) <= self.acknowledged
        return len((self.acknowledged if wanted is None else wanted) - set(there))


def kept(box: LiveBox) -> set[str]:
    """The readings that the SQLite file holds, written there or copied from the journal."""
    with closing(sqlite3.connect(box.paths.sqlite, timeout=10)) as file:
        return {str(row[0]) for row in file.execute("SELECT id FROM readings")}


def dropped(box: LiveBox) -> int:
    """How many rows have left the journal."""
    with closing(sqlite3.connect(journal_path(box.paths.sqlite), timeout=10)) as journal:
        ((rows,),) = journal.execute("SELECT dropped_rows FROM journal_state").fetchall()
    return int(rows)


@contextlib.contextmanager
def going_back(
    how: str, folder: Path, postgres: PostgresServer
) -> Iterator[tuple[HubDatabase, Relay, str, Callable[[], None], Callable[[], HubDatabase]]]:
    """Give a hub, the relay to it, its address, what keeps its state, and what goes back to it."""
    with contextlib.ExitStack() as stack:
        if how == "restored":
            template = make_template(postgres, folder / "template")
            hub = stack.enter_context(HubDatabase.copy_of(postgres, template))
            relay = stack.enter_context(Relay(postgres.port))
            kept = f"{hub.name}_kept"
            stack.callback(postgres.drop_database, kept)

            def copy(source: str, target: str) -> None:
                for name in (source, target):
                    postgres.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        f"WHERE datname = '{name}'"
                    )
                postgres.execute(f'DROP DATABASE IF EXISTS "{target}" WITH (FORCE)')
                postgres.execute(f'CREATE DATABASE "{target}" TEMPLATE "{source}"')

            def keep() -> None:
                relay.cut()
                copy(hub.name, kept)
                relay.heal()

            def go_back() -> HubDatabase:
                relay.cut()
                copy(kept, hub.name)
                relay.heal()
                return hub

            yield hub, relay, relay.reroute(hub.url), keep, go_back
            return
        primary, standby = stack.enter_context(streaming.servers())
        hub = stack.enter_context(
            HubDatabase.copy_of(primary, make_template(primary, folder / "template"))
        )
        pooler = (
            stack.enter_context(streaming.pooler(primary, hub.name)) if how == "pooled" else None
        )
        relay = stack.enter_context(Relay(pooler.port if pooler else primary.port))

        def lag() -> None:
            streaming.catch_up(primary, standby)
            streaming.stop_following(standby)

        def promoted() -> HubDatabase:
            streaming.promote(standby)
            if pooler:
                pooler.switch(standby)
            else:
                relay.cut()
                primary.kill()
                stack.callback(primary.start)  # for the fixtures, which tidy up
                relay.switch(standby.port)
                relay.heal()
            return HubDatabase(standby, hub.name)

        yield hub, relay, relay.reroute(pooler.url if pooler else hub.url), lag, promoted


@pytest.mark.parametrize("how", ["restored", "promoted", "pooled"])
def test_what_no_journal_reaches_is_lost_and_counted_exactly(
    tmp_path: Path, postgres: PostgresServer, how: str
) -> None:
    with going_back(how, tmp_path, postgres) as (hub, relay, url, keep, go_back):
        box = LiveBox(
            tmp_path / "box",
            weak=("prune-soon", "audit-soon"),
            DATABASE_URL=url,
            DISK_BUDGET=BUDGET,
        )
        with box:
            client = Client(box)
            box.wait_state("primary")
            client.post(6)
            keep()
            box.wait_state("primary", limit=120)
            client.fill()
            relay.cut()
            box.wait_state("fallback", limit=120)
            client.post(4)
            relay.heal()
            box.wait_state("primary", limit=120)
            client.post(2)
            assert client.missing(hub) == 0
            there = go_back()
            client.post(2)
            box.wait_state("primary", "degraded", limit=120)
            box.wait_drained(limit=120)

            def lost() -> int:
                _, said = box.run("sync", "status", "--json")
                return int(json.loads(said)["forwarding"]["hub_lost"])

            def exact() -> bool:
                return lost() == client.missing(there) > 0

            def said_instead() -> str:
                return f"{client.missing(there)} rows, not {lost()}:\n{box.output()[-6000:]}"

            until(exact, said_instead(), 120)
            # The audit finds those that the journal has no more, and the file a copy of.
            until(lambda: client.missing(there, kept(box)) == 0, "the copies to come home", 120)
            until(exact, said_instead(), 120)
            missing = client.missing(there)
            assert missing <= dropped(box) + 6 * sum(SIZES)
            status, said = box.run("audit", "--json")
            assert (status, json.loads(said)["not_in_place"]) == (1, missing), said
            assert box.run("sync", "acknowledge")[0] == 0
            status, said = box.run("audit")
            assert status == 0, said
            assert f"{missing:,} rows that are not in place" in said, said
            assert client.missing(there) == missing
