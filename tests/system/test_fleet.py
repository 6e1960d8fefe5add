# SPDX-License-Identifier: Apache-2.0
"""Twenty boxes at one PostgreSQL, each a whole ``edgepaas up``; no booted box.

Ten serve from PostgreSQL, ten from SQLite and forward. The server takes as many
connections as one that nobody has tuned (100), is empty when all of them start at the same
moment, and goes away in the middle.
"""

import contextlib
import functools
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgepaas import __version__
from edgepaas.schema.chain import chain_of, platform_chain
from edgepaas.telemetry import application as telemetry
from tests.support.checker import check, summary
from tests.support.history import History
from tests.support.hub_database import HubDatabase
from tests.support.live_box import Clients, LiveBox, descendants
from tests.support.postgres_server import PostgresServer, temporary_home
from tests.support.service_process import get, until

BOXES = 20
#: Seconds for what twenty boxes do at once, on two processors that others use as well.
LIMIT = 180.0
#: Seconds between two heartbeats of a box.
HEARTBEAT = 2
#: By what PostgreSQL's log would show that boxes stood in each other's way.
TROUBLE = (
    "deadlock detected", "lock timeout", "already exists", "duplicate key", "too many clients",
    "connection slots are reserved", "could not serialize", "PANIC",
)  # fmt: skip

# Of a transaction that is rolled back nothing stays here; that one shows in the server's log.
_WATCH_SCHEMA = (
    "CREATE SCHEMA watch",
    "CREATE TABLE watch.ddl (command text NOT NULL, object text NOT NULL)",
    """CREATE FUNCTION watch.note() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO watch.ddl SELECT command_tag, object_identity
    FROM pg_event_trigger_ddl_commands() WHERE schema_name = 'public'; END $$""",
    "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION watch.note()",
)

_CONFLICTS_OF_LOCAL_FIRST = """
SELECT n.name, c.tbl, c.row_key, c.reason FROM sync_conflicts c JOIN nodes n USING (node_id)
WHERE n.state = 'local-first'"""


@dataclass
class Fleet:
    """The boxes by name, and the hub; every other box is local-first."""

    folder: Path
    hub: HubDatabase
    boxes: dict[str, LiveBox] = field(default_factory=dict)
    #: When the first one was started (``time.monotonic()``), and what each needed to be ready.
    began: float = 0.0
    ready_after: dict[str, float] = field(default_factory=dict)

    def make(self) -> None:
        """Make the boxes, not started."""
        for number in range(BOXES):
            name = f"box{number:02}"
            self.boxes[name] = LiveBox(
                self.folder / name, NODE_NAME=name, DATABASE_URL=self.hub.url,
                HEARTBEAT_INTERVAL=str(HEARTBEAT), HANDBACK_ROWS="100000", POSTGRES_HOLD="1",
                USE_SQLITE="true" if number % 2 else "false",
            )  # fmt: skip

    @property
    def states(self) -> dict[str, str]:
        """The state in which each is to be when all is well."""
        return {
            name: "local-first" if number % 2 else "primary"
            for number, name in enumerate(self.boxes)
        }

    def named(self, state: str) -> list[LiveBox]:
        """The boxes that are meant to be in *state*."""
        return [self.boxes[name] for name, meant in self.states.items() if meant == state]

    def wait_ready(self, names: Sequence[str] = ()) -> None:
        """Wait until each of these (empty: all) is in the state it is meant for."""
        deadline = time.monotonic() + LIMIT
        missing = set(names or self.boxes)
        while missing:
            for name in sorted(missing):
                if self.boxes[name].state() == self.states[name]:
                    missing.remove(name)
                    self.ready_after.setdefault(name, time.monotonic() - self.began)
            if missing and time.monotonic() > deadline:
                told = "\n".join(f"{n}:\n{self.boxes[n].output()[-3000:]}" for n in missing)
                raise AssertionError(f"not as they are meant to be: {sorted(missing)}\n{told}")
            time.sleep(0.2)

    def wait_drained(self) -> None:
        """Wait until no row waits on any of them."""
        for box in self.boxes.values():
            box.wait_drained(LIMIT)

    def nodes(self, box: LiveBox) -> dict[str, dict[str, Any]]:
        """What *box* lists, by name; it must be complete."""
        partial, listed = self.listed(box)
        assert not partial, listed
        return listed

    def listed(self, box: LiveBox) -> tuple[bool, dict[str, dict[str, Any]]]:
        """What *box* lists, by name, all of it of different boxes; and whether it is partial."""
        status, body = get(box.port, "/api/v1/nodes")
        assert status == 200, body
        document = json.loads(body)
        listed = {one["name"]: one for one in document["items"]}
        assert len(listed) == len({one["node_id"] for one in document["items"]})
        return document["partial"], listed

    def connections(self) -> int:
        """How many connections PostgreSQL has from boxes now."""
        return self.hub.number(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'edgepaas%'"
        )

    def server_log(self) -> str:
        """All that PostgreSQL has logged."""
        return (self.hub.server.home / "server.log").read_text(errors="replace")

    def close(self) -> None:
        """End all of them: told first, all at once, so that none is waited for alone."""
        for box in self.boxes.values():
            if box.process is not None and box.process.running:
                box.process.signal(signal.SIGTERM)
        for box in self.boxes.values():
            box.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Twenty boxes that were started at the same moment at an empty PostgreSQL."""
    server = PostgresServer(temporary_home())
    try:
        server.create_cluster()
        _start(server)
        hub = HubDatabase(server, server.create_database())
        for statement in _WATCH_SCHEMA:
            hub.execute(statement)
        fleet = Fleet(tmp_path_factory.mktemp("fleet"), hub)
        fleet.make()
        try:
            fleet.began = time.monotonic()
            for box in fleet.boxes.values():
                box.start(wait=False)
            fleet.wait_ready()
            yield fleet
        finally:
            fleet.close()
    finally:
        server.stop()
        shutil.rmtree(server.home)


def _start(server: PostgresServer) -> None:
    server.start("max_connections=100")


def test_twenty_boxes_that_start_at_once_migrate_an_empty_hub_once(fleet: Fleet) -> None:
    """Both chains; all the others find it done."""
    fleet.wait_drained()
    first, last = min(fleet.ready_after.values()), max(fleet.ready_after.values())
    memory = [_memory(box) for box in fleet.boxes.values()]
    print(
        f"ready after {first:.1f} to {last:.1f} s; {fleet.connections()} connections; "
        f"{min(memory):.0f} to {max(memory):.0f} MiB a box"
    )
    for chain in (chain_of(telemetry), platform_chain()):
        found = fleet.hub.execute(f"SELECT version_num FROM {chain.version_table}")
        assert {row[0] for row in found} == set(chain.heads)
    commands = [tuple(row) for row in fleet.hub.execute("SELECT command, object FROM watch.ddl")]
    made = [str(thing) for command, thing in commands if command == "CREATE TABLE"]
    assert {"public.readings", "public.nodes", "public.alembic_version_telemetry"} <= set(made)
    assert len(made) == len(set(made)), sorted(made)
    tables = fleet.hub.number("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
    assert len(made) == tables
    told = "".join(box.output() for box in fleet.boxes.values())
    assert told.count("PostgreSQL: created from none") == 1
    assert told.count("EdgePaaS's own tables: created") == 1
    assert _trouble(fleet.server_log()) == []


def _trouble(log: str, *, besides: tuple[str, ...] = ()) -> list[list[str]]:
    """Return the lines that show trouble, each with the three after it, as its statement."""
    lines = log.splitlines()
    return [
        lines[at : at + 4]
        for at, line in enumerate(lines)
        if any(word in line for word in TROUBLE) and not any(word in line for word in besides)
    ]


def test_every_reading_that_a_box_took_while_the_hub_was_away_is_there_once(fleet: Fleet) -> None:
    history = History()
    fleet.hub.witness.install()
    fleet.wait_ready()
    writers = {
        name: Clients(box.port, history, count=2, seed=n, pause=2.0, name=name)
        for n, (name, box) in enumerate(fleet.boxes.items())
    }
    with _all_writing(writers):
        _wait_for_each(history, writers)
        fleet.hub.server.stop()
        _wait_for_each(history, writers)
        _start(fleet.hub.server)
        fleet.wait_ready()
        _wait_for_each(history, writers)
    fleet.wait_drained()
    found = fleet.hub.witness.look()
    print(f"{summary(history, found)}; {fleet.connections()} connections")
    assert _surprises(writers) == []
    # What PostgreSQL took a moment before it went away may not be in a box's file yet; who
    # writes to the file alone never has any.
    assert check(history, found, streams=BOXES, conflicts=None) == []
    assert fleet.hub.execute(_CONFLICTS_OF_LOCAL_FIRST) == []
    with ThreadPoolExecutor(2) as pool:
        audits = dict(zip(fleet.boxes, pool.map(_audit, fleet.boxes.values()), strict=True))
    assert {name: text for name, (status, text) in audits.items() if status != 0} == {}
    # Of an answer that was lost the client repeats the reading, and the journal sends it again:
    # where both come at once, the key refuses one of them.
    assert _trouble(fleet.server_log(), besides=('"pk_readings"', "Key (id)=")) == []


def test_every_box_lists_all_twenty_with_their_state(fleet: Fleet) -> None:
    """Those that SQLite serves, too: their drainers are told of the others."""
    fleet.wait_ready()

    def listing(box: LiveBox) -> dict[str, tuple[str, int, bool]]:
        _, found = fleet.listed(box)
        return {n: (one["state"], one["rows_waiting"], one["stale"]) for n, one in found.items()}

    meant = {name: (state, 0, False) for name, state in fleet.states.items()}
    for asked in fleet.boxes.values():
        what = f"{meant}, not {fleet.listed(asked)}"
        until(functools.partial(lambda box: listing(box) == meant, asked), what, LIMIT)
        assert not fleet.listed(asked)[0]
    for state in ("primary", "local-first"):
        box = fleet.named(state)[0]
        listed = fleet.nodes(box)
        assert [fleet.boxes[name] for name, one in listed.items() if one["this"]] == [box]
        assert {one["version"] for one in listed.values()} == {__version__}
        until(
            functools.partial(_all_were_heard_again, fleet, box, listed),
            "another heartbeat of every box",
            LIMIT,
        )


def test_a_box_that_was_switched_off_or_killed_is_listed_as_stale_until_it_is_back(
    fleet: Fleet,
) -> None:
    fleet.wait_ready()
    fleet.wait_drained()
    asked, stopped, *_ = fleet.named("primary")
    killed, *_ = fleet.named("local-first")
    gone = {name for name, box in fleet.boxes.items() if box in (stopped, killed)}

    def stale() -> set[str]:
        return {name for name, one in fleet.nodes(asked).items() if one["stale"]}

    until(lambda: not stale(), "a heartbeat of every box", LIMIT)
    threads = [threading.Thread(target=end) for end in (stopped.close, killed.kill_everything)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: stale() == gone, f"{sorted(gone)} to be stale", LIMIT)
    listed = fleet.nodes(asked)
    assert listed.keys() == fleet.boxes.keys()
    # What was killed could not say so; the last beat of the other is waited for by nobody.
    for name in gone:
        words = {fleet.states[name]} | ({"stopping"} if fleet.boxes[name] is stopped else set())
        assert listed[name]["state"] in words
    for box in (stopped, killed):
        box.start(wait=False)
    until(lambda: not stale(), "nobody to be stale", LIMIT)
    fleet.wait_ready(sorted(gone))


def _all_were_heard_again(fleet: Fleet, box: LiveBox, before: dict[str, dict[str, Any]]) -> bool:
    """Whether *box* lists every box with a later heartbeat than *before*."""
    listed = fleet.nodes(box)
    return all(listed[name]["last_seen"] > one["last_seen"] for name, one in before.items())


@contextlib.contextmanager
def _all_writing(writers: dict[str, Clients]) -> Iterator[None]:
    """Write on every box during the block."""
    with contextlib.ExitStack() as stack:
        for clients in writers.values():
            stack.enter_context(clients.writing())
        yield


def _wait_for_each(history: History, writers: dict[str, Clients]) -> None:
    """Wait until every box has acknowledged something that was begun from now on."""
    begun = len(history.writes())

    def without() -> set[str]:
        later = history.writes()[begun:]
        done = {one.key.rpartition("-")[0] for one in later if one.outcome == "acknowledged"}
        return writers.keys() - done

    until(lambda: not without(), f"a write on every box; surprises: {_surprises(writers)}", LIMIT)


def _surprises(writers: dict[str, Clients]) -> list[str]:
    return [line for clients in writers.values() for line in clients.surprises]


def _audit(box: LiveBox) -> tuple[int, str]:
    return box.run("audit")


def _memory(box: LiveBox) -> float:
    """What the box's processes take together, in MiB; what they share is divided among them."""
    assert box.process is not None
    total = 0
    for pid in (box.process.pid, *descendants(box.process.pid)):
        with contextlib.suppress(OSError):  # it has just ended
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024
