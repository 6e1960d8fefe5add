# SPDX-License-Identifier: Apache-2.0
"""Store and forward, measured: the drain beside psql, capture's cost, an outage, memory, audit.

python -m tests.bench.forwarding [--json FILE]
"""

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.sync.audit.comparison import compare_content
from edgepaas.sync.mirror.mirror import Mirror
from tests.bench.load import LoadResult, request_bytes, run_load
from tests.bench.servers import Server, listener_below
from tests.support.history import History
from tests.support.hub_database import HubDatabase, make_template
from tests.support.live_box import Clients, LiveBox
from tests.support.nodes import Node
from tests.support.postgres_server import PostgresServer, temporary_home
from tests.support.relay import Relay

READING = json.dumps({"device": "bench", "metric": "temperature", "value": 21.5}).encode()
COLUMNS = "id, device_id, device, metric, value, unit, recorded_at, received_at"


@contextlib.contextmanager
def hub_on(server: PostgresServer, template: str) -> Iterator[HubDatabase]:
    """A database without the tests' witness: its triggers would be what is measured."""
    with HubDatabase.copy_of(server, template) as hub:
        hub.execute("DROP SCHEMA witness CASCADE")
        yield hub


def fill(path: Path, count: int) -> None:
    """Put *count* readings into a file that captures, as fast as SQLite takes them."""
    device = str(uuid.uuid4())
    moment = "2026-01-01 00:00:00.000000"
    connection = open_sqlite(path)
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        f"INSERT INTO readings ({COLUMNS}) VALUES (?, ?, 'bench', 'temperature', ?, '°C', ?, ?)",
        ((str(uuid.uuid4()), device, n * 0.1, moment, moment) for n in range(count)),
    )
    connection.execute("COMMIT")
    connection.close()


def drain_beside_psql(server: PostgresServer, template: str, home: Path, rows: int) -> Any:
    """The drain of *rows* readings, and psql's \\copy of the same with a merge, in turns."""
    ours, theirs = [], []
    source = home / "copy.csv"
    for turn in range(3):
        with hub_on(server, template) as hub:
            node = Node(home / f"drain{turn}", hub.url, rows=5000)
            fill(node.path, rows)
            node.hub()  # connected, as a drainer is
            began = time.perf_counter()
            node.drain(600)
            ours.append(time.perf_counter() - began)
            assert hub.number("SELECT count(*) FROM readings") == rows
            node.close()
            with (
                contextlib.closing(sqlite3.connect(node.path)) as connection,
                source.open("w") as f,
            ):
                for row in connection.execute(f"SELECT {COLUMNS} FROM readings"):
                    f.write(",".join(map(str, row)) + "\n")
        with hub_on(server, template) as hub:
            began = time.perf_counter()
            psql(
                server, hub.name,
                f"CREATE TEMP TABLE incoming (LIKE readings); "
                f"\n\\copy incoming ({COLUMNS}) FROM '{source}' WITH (FORMAT csv)\n"
                f"INSERT INTO readings ({COLUMNS}) SELECT {COLUMNS} FROM incoming "
                "ON CONFLICT (id) DO NOTHING;",
            )  # fmt: skip
            theirs.append(time.perf_counter() - began)
            assert hub.number("SELECT count(*) FROM readings") == rows
    return {
        "rows": rows, "drain_s": min(ours), "drain_rows_per_s": round(rows / min(ours)),
        "psql_copy_and_merge_s": min(theirs), "ratio": min(ours) / min(theirs),
    }  # fmt: skip


def psql(server: PostgresServer, database: str, script: str) -> None:
    """Run *script* with psql, the server's own or the machine's."""
    own = server.binaries / "psql"
    program = str(own) if own.exists() else shutil.which("psql")
    if program is None:
        raise RuntimeError("there is no psql here: on Debian apt install postgresql-client")
    subprocess.run(
        [program, "-q", "-v", "ON_ERROR_STOP=1", "-d", server.url(database)],
        input=script, text=True, check=True, timeout=300,
    )  # fmt: skip


def cost_of_capture(home: Path, seconds: float) -> Any:
    """Durable POSTs into a box that captures, and into one that does not, in turns."""
    unreachable = "postgresql://edgepaas@127.0.0.1:9/edgepaas"
    results = {"captures": LoadResult(), "standalone": LoadResult()}
    with (
        LiveBox(home / "captures", DATABASE_URL=unreachable, USE_SQLITE="true") as captures,
        LiveBox(home / "standalone") as standalone,
    ):
        request = request_bytes("POST", "/api/v1/readings", READING)
        for _ in range(6):
            for name, box in (("captures", captures), ("standalone", standalone)):
                part = run_load(_server(box), request, connections=4, seconds=seconds / 6)
                results[name].seconds += part.seconds
                results[name].latencies += part.latencies
        assert captures.waiting() > 0
    ours, plain = results["captures"], results["standalone"]
    return {
        "captures_per_s": round(ours.rate), "standalone_per_s": round(plain.rate),
        "cost_percent": 100 * (1 - ours.rate / plain.rate),
        "captures_p99_ms": ours.percentile(99), "standalone_p99_ms": plain.percentile(99),
    }  # fmt: skip


def _server(box: LiveBox) -> Server:
    assert box.process is not None
    parent = box.process.pid
    return Server(box.port, listener_below(parent, box.port), parent, live=0.0, ready=0.0)


def outage(server: PostgresServer, template: str, home: Path) -> Any:
    """Seconds from each kind of loss to the first answer of SQLite, and from return to home."""
    found: dict[str, Any] = {}
    for how in ("refused", "black hole"):
        history = History()
        with (
            hub_on(server, template) as hub,
            Relay(server.port) as relay,
            LiveBox(
                home / how.replace(" ", "-"), DATABASE_URL=relay.reroute(hub.url),
                HANDBACK_AFTER="30", POSTGRES_HOLD="1", HANDBACK_ROWS="100000",
            ) as box,
            Clients(box.port, history, pause=0.05).writing() as clients,
        ):  # fmt: skip
            clients.wait_for(50)
            before = clients.refused
            lost = time.monotonic()
            relay.cut() if how == "refused" else relay.black_hole()
            box.wait_state("fallback")
            clients.wait_for(1)
            taken, refused = time.monotonic() - lost, clients.refused - before
            clients.wait_for(50)
            before = clients.refused
            relay.heal()
            returned = time.monotonic()
            box.wait_state("primary", limit=120)
            back = time.monotonic() - returned
            found[how] = {
                "loss_to_sqlite_s": taken, "failed_meanwhile": refused,
                "return_to_handed_back_s": back, "of_which_HANDBACK_AFTER_s": 30,
                "failed_while_handed_back": clients.refused - before,
            }  # fmt: skip
    return found


def memory(server: PostgresServer, template: str, home: Path, rows: int, seconds: float) -> Any:
    """What sync takes while *rows* wait and each round trip takes 200 ms."""
    with (
        hub_on(server, template) as hub,
        Relay(server.port) as relay,
        LiveBox(home, DATABASE_URL=relay.reroute(hub.url), USE_SQLITE="true") as box,
    ):
        idle = _wait_for_memory(box)
        relay.cut()
        fill(box.paths.sqlite, rows)
        relay.latency = 0.1
        relay.heal()
        most, until = 0.0, time.monotonic() + seconds
        while time.monotonic() < until and box.waiting():
            most = max(most, _wait_for_memory(box))
            time.sleep(0.2)
        sent = hub.number("SELECT count(*) FROM readings")
        took = seconds - max(0.0, until - time.monotonic())
    return {
        "rows_waiting": rows, "idle_mib": idle, "most_mib": most, "sent": sent,
        "rows_per_s_at_200_ms": round(sent / took),
    }  # fmt: skip


def audit_of_all(server: PostgresServer, template: str, home: Path, rows: int) -> Any:
    """Comparing the content of *rows* delivered readings, all in place and one changed."""
    with hub_on(server, template) as hub:
        node = Node(home / "audit", hub.url, rows=5000)
        fill(node.path, rows)
        node.drain(600)
        hub.execute("VACUUM ANALYZE readings")
        found: dict[str, Any] = {"rows": rows}
        ((backend,),) = node.hub().query("SELECT pg_backend_pid()")
        for name, changed in (("in_place_s", 0), ("one_changed_s", 1)):
            if changed:
                hub.execute("UPDATE readings SET value = -1 WHERE value = 0.1")
            began, used, served = time.perf_counter(), time.process_time(), _processor(backend)
            tally = compare_content(
                node.connection, node.hub(), node.document["tables"], {}, most=None
            ).tally
            found[name] = time.perf_counter() - began
            found["box_processor_s"] = time.process_time() - used
            found["server_processor_s"] = _processor(backend) - served
            assert (tally.checked, tally.differing) == (rows, changed)
            assert tally.in_place == rows - changed
        node.close()
    return found


def audit_of_shared(server: PostgresServer, template: str, home: Path, rows: int) -> Any:
    """*rows* shared rows: mirrored, compared by the mirror once more, and by the audit."""
    with hub_on(server, template) as hub:
        node = Node(home / "shared", hub.url, rows=5000)
        fill(node.path, 1)
        node.drain(60)
        hub.execute(
            "INSERT INTO devices (id, name, labels, created_at, updated_at) SELECT "
            "gen_random_uuid(), 'device ' || n, '{}', now(), now() FROM generate_series(1, "
            f"{rows}) n"
        )
        hub.execute("VACUUM ANALYZE devices")
        mirror = Mirror(node.document)
        found: dict[str, Any] = {"rows": rows}
        for name in ("mirrored_s", "mirror_compares_s"):
            mirror.compare_everything()
            began = time.perf_counter()
            mirror.run(node.connection, node.hub())
            found[name] = time.perf_counter() - began
        began = time.perf_counter()
        shared = compare_content(
            node.connection, node.hub(), node.document["tables"], {}, most=None
        ).shared
        found["audit_s"] = time.perf_counter() - began
        assert shared.same == shared.checked >= rows, shared
        node.close()
    return found


def _processor(pid: int) -> float:
    """The seconds of processor time that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait_for_memory(box: LiveBox) -> float:
    while True:
        with contextlib.suppress(OSError, ValueError):
            status = Path(f"/proc/{box.pid_of('sync')}/status").read_text()
            for line in status.splitlines():
                if line.startswith("VmRSS"):
                    return int(line.split()[1]) / 1024
        time.sleep(0.05)


def main() -> int:
    """Measure and print; ``--json FILE`` keeps the figures."""
    parser = argparse.ArgumentParser(prog="tests.bench.forwarding", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="readings to drain")
    parser.add_argument("--waiting", type=int, default=1_000_000, help="rows that wait")
    parser.add_argument("--audited", type=int, default=600_000, help="rows that are compared")
    parser.add_argument("--shared", type=int, default=100_000, help="shared rows to compare")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of a load")
    parser.add_argument("--only", help="drain, capture, outage, memory, audit or shared")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    home = Path(
        tempfile.mkdtemp(prefix="edgepaas-bench-", dir=os.environ.get("TMPDIR", "/var/tmp"))
    )
    server = PostgresServer(temporary_home())
    found: dict[str, Any] = {}
    try:
        server.create_cluster()
        server.start()
        template = make_template(server, home / "template")
        parts: dict[str, Callable[[], Any]] = {
            "drain": lambda: drain_beside_psql(server, template, home, arguments.rows),
            "capture": lambda: cost_of_capture(home, arguments.seconds),
            "outage": lambda: outage(server, template, home),
            "memory": lambda: memory(server, template, home / "m", arguments.waiting, 60.0),
            "audit": lambda: audit_of_all(server, template, home, arguments.audited),
            "shared": lambda: audit_of_shared(server, template, home, arguments.shared),
        }
        for name, work in parts.items():
            if arguments.only not in (None, name):
                continue
            found[name] = work()
            print(f"{name}: {json.dumps(found[name], indent=1, default=float)}", flush=True)
    finally:
        server.stop()
        shutil.rmtree(server.home)
        shutil.rmtree(home)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
