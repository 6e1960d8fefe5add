# SPDX-License-Identifier: Apache-2.0
"""The drainer beside a real service: rows home as they come, and what can be in its way."""

import contextlib
import json
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path

from edgepaas.files.paths import Paths
from edgepaas.outbox import tables
from edgepaas.sync import status as sync_status
from tests.support.hub_database import HubDatabase
from tests.support.live_box import LiveBox, request
from tests.support.relay import Relay
from tests.support.service_process import Process, edgepaas, get, until, write_contracts

#: What a drainer may have resident, in KiB: 38 MiB at rest, and room for a batch.
MOST_RESIDENT = 44 * 1024


def post(box: LiveBox, count: int, device: str = "d") -> None:
    """Write *count* readings in one request."""
    content = [{"device": device, "metric": "m", "value": n} for n in range(count)]
    status, body = request(box.port, "POST", "/api/v1/readings", content)
    assert status == 201, body


def resident(pid: int) -> int:
    """What the process has resident, in KiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def state_of(paths: Paths) -> sync_status.SyncStatus:
    """The status that a drainer wrote, or soon will have written."""
    found: sync_status.SyncStatus = until(lambda: sync_status.read(paths), "the drainer's status")
    return found


def test_rows_go_home_as_they_come_whoever_writes_them_and_whatever_happens_meanwhile(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """One box in local-first: told, untold, cut off, read-only, killed, asked by hand."""

    def at_home(count: int) -> bool:
        return hub_database.number("SELECT count(*) FROM readings") == count

    with (
        Relay(hub_database.server.port, seed=1) as relay,
        LiveBox(tmp_path, DATABASE_URL=relay.reroute(hub_database.url), USE_SQLITE="true") as box,
    ):
        post(box, 1)
        until(lambda: at_home(1), "the first row")
        until(lambda: state_of(box.paths).mirror is not None, "a pass of the mirror")

        # Somebody who tells nobody.
        with contextlib.closing(sqlite3.connect(box.paths.sqlite, timeout=10)) as shell:
            shell.execute(
                "INSERT INTO readings (id, device_id, device, metric, value, recorded_at, "
                "received_at) SELECT ?, device_id, device, metric, 2, recorded_at, received_at "
                "FROM readings",
                (str(uuid.uuid4()),),
            )
            shell.commit()
        until(lambda: at_home(2), "a row that nobody told of")

        # Many at once, in memory that does not grow with them.
        post(box, 10_000)
        until(lambda: at_home(10_002), "many rows")
        assert resident(box.pid_of("sync")) < MOST_RESIDENT

        # Asked by hand, beside the one that runs; a second one is refused.
        code, text = box.run("sync", "--once")
        assert code == 0, text
        assert "another drainer (process" in text
        assert "nothing waits" in text

        # Cut off: it waits, says so, and goes on.
        relay.cut()
        post(box, 3)
        until(lambda: state_of(box.paths).rows_waiting == 3, "rows to wait")
        until(lambda: state_of(box.paths).hub == "away", "the loss to be noticed")
        assert state_of(box.paths).state == "held"
        assert state_of(box.paths).waiting_since is not None
        relay.heal()
        until(lambda: at_home(10_005), "the rows after the cut")

        # A hub that takes no writes is waited for like one that is away.
        hub_database.server.execute(
            f'ALTER DATABASE "{hub_database.name}" SET default_transaction_read_only = on'
        )
        relay.break_connections()
        post(box, 1)
        until(lambda: "read-only" in state_of(box.paths).reason, "the refusal")
        hub_database.server.execute(
            f'ALTER DATABASE "{hub_database.name}" RESET default_transaction_read_only'
        )
        relay.break_connections()
        until(lambda: at_home(10_006), "the row after that")

        # Killed: started again, and the queue goes on.
        assert box.kill("sync")
        post(box, 1)
        until(lambda: at_home(10_007), "the row after the kill")
        until(lambda: state_of(box.paths).state == "idle", "rest")
        node = hub_database.execute("SELECT node_id::text, state, rows_waiting FROM nodes")
        assert [list(row) for row in node] == [[state_of(box.paths).node_id, "local-first", 0]]
        code, text = box.run("audit")
        assert code == 0, text


def test_once_says_how_many_rows_are_left_and_why(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """Without a drainer beside it: nothing waits is 0, else 1."""
    with Relay(hub_database.server.port, seed=1) as relay:
        box = LiveBox(tmp_path, DATABASE_URL=relay.reroute(hub_database.url), USE_SQLITE="true")
        with box:
            until(lambda: box.pid_of("sync"), "the drainer")
            relay.cut()
            post(box, 5)
        relay.heal()
        relay.cut()
        code, text = box.run("sync", "--once")
        assert code == 1
        assert "0 rows sent; 6 rows wait:" in text
        relay.heal()
        code, text = box.run("sync", "--once")
        assert (code, "6 rows sent; nothing waits" in text) == (0, True), text
        lean = (
            "import sys; from edgepaas.cli import main; code = main(['sync', '--once']); "
            "sys.exit(code or ('sqlalchemy' in sys.modules) or ('alembic' in sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", lean], env=box._environ, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_rows_of_a_newer_release_wait_for_it_while_the_box_serves(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """After a downgrade: degraded, reported by name, nothing sent and nothing lost."""

    def set_version(version: int) -> None:
        with contextlib.closing(sqlite3.connect(box.paths.sqlite)) as connection, connection:
            connection.execute("UPDATE outbox_state SET version = ?", (version,))

    named = f"is of version {tables.VERSION + 1}, and this build knows {tables.VERSION}"
    with Relay(hub_database.server.port, seed=1) as relay:
        box = LiveBox(tmp_path, DATABASE_URL=relay.reroute(hub_database.url), USE_SQLITE="true")
        with box:
            post(box, 1)
            until(lambda: state_of(box.paths).state == "idle" and not box.waiting(), "rest")
            relay.cut()
            post(box, 2)
        kept = box.waiting()
        set_version(tables.VERSION + 1)
        relay.heal()
        with box:
            assert box.state() == "degraded"
            post(box, 3)
            until(lambda: named in state_of(box.paths).reason, "the drainer's report")
            assert state_of(box.paths).state == "blocked"
            assert state_of(box.paths).rows_waiting >= kept
            until(
                lambda: hub_database.number("SELECT max(rows_waiting) FROM nodes") >= kept,
                "the heartbeat",
            )
            assert hub_database.number("SELECT count(*) FROM readings") == 1
            _, ready = get(box.port, "/health/ready")
            assert named in ready.decode()
            code, text = box.run("audit")
            assert (code != 0, named in text) == (True, True), text
            code, text = box.run("alerts", "list")
            assert "sync-file" in text
            assert "not-captured" in text
        assert box.waiting() == kept + 3
        code, text = box.run("sync", "--once")
        assert (code != 0, named in text) == (True, True), text
        set_version(tables.VERSION)
        with box:
            box.wait_drained()
            until(
                lambda: hub_database.number("SELECT count(*) FROM readings") == 6,
                "every row at the hub",
            )


def test_without_a_hub_it_says_so_and_ends(paths: Paths, tmp_path: Path) -> None:
    """Exit status 0, so that nobody starts it again."""
    write_contracts(paths)
    process = Process(edgepaas("sync"), tmp_path, {"EDGEPAAS_HOME": paths.home, "PATH": "/bin"})
    assert process.wait() == 0
    assert "there is no PostgreSQL to forward rows to" in process.output
    assert json.loads(paths.sync_status.read_text())["state"] == "no-hub"


def test_without_a_decision_it_waits_and_then_asks_to_be_ordered_behind_the_stages(
    paths: Paths, tmp_path: Path
) -> None:
    """75 as soon as there is one: the schema stage may not be done with the file yet."""
    process = Process(edgepaas("sync"), tmp_path, {"EDGEPAAS_HOME": paths.home, "PATH": "/bin"})
    try:
        until(lambda: "waiting for the decision" in process.output, "the message")
        assert process.running
        write_contracts(paths)
        assert process.wait() == 75
    finally:
        process.close()
