# SPDX-License-Identifier: Apache-2.0
"""The processor time of one request, by layer: what each further layer adds.

Asked of a running box and of the plain application, from outside: each request goes one
layer further in than the one before it. Below them stands what the database alone takes.
"""

import contextlib
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgepaas.database.sqlite.connection import open_sqlite
from tests.bench.load import Request, request_bytes, run_load
from tests.bench.loads import PATH, READING, post
from tests.bench.servers import Server, running_box, running_plain

CONNECTIONS = 4
_BODY = json.dumps(READING).encode()
_numbers = itertools.count()


def _keyed() -> bytes:
    return request_bytes("POST", PATH, _BODY, Idempotency_Key=f"bench-{next(_numbers)}")


def _wrong() -> bytes:
    return request_bytes("POST", PATH, json.dumps({**READING, "value": "high"}).encode())


#: What is asked, and how far in the request goes. Only those that the plain application
#: has as well are asked of it.
LAYERS: tuple[tuple[str, Request, int], ...] = (
    ("GET /health/live: loop and HTTP alone", request_bytes("GET", "/health/live"), 1),
    ("GET an unknown path: and Flask, hooks, an error", request_bytes("GET", "/api/v1/none"), 1),
    ("POST a wrong reading: and body, validation", _wrong(), 1),
    ("POST a reading with a key: ordinary route, durable", _keyed, 1),
    ("POST a reading: as devices send it, durable", post(1), 1),
    ("POST 100 readings", post(100), 100),
    ("POST 500 readings", post(500), 500),
    ("GET 1 reading", request_bytes("GET", f"{PATH}?limit=1"), 1),
    ("GET 100 readings", request_bytes("GET", f"{PATH}?limit=100"), 100),
)
_OURS_ALONE = ("wrong", "key")


def measure_layers(home: Path, *, core: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Return microseconds of processor time a request, and the part of the loop's thread."""
    found: dict[str, Any] = {}
    with running_box(home / "ours") as ours, running_plain(home / "plain", cores={core}) as plain:
        for server in (ours, plain):
            run_load(server, post(100), connections=1, seconds=0.2)
        print(f"  {'request':<52}{'µs':>7}  {'loop':>5}{'a row':>8}{'plain µs':>10}")
        for name, request, rows in LAYERS:
            both = not any(word in name for word in _OURS_ALONE)
            figures = _figures(request, (ours, plain) if both else (ours,), seconds, rounds)
            found[name] = figures
            row = f"{figures['us'] / rows:.1f}" if rows > 1 else ""
            other = f"{figures['plain_us']:.0f}" if both else ""
            print(
                f"  {name:<52}{figures['us']:>7.0f}  {figures['loop']:>5.0%}{row:>8}{other:>10}",
                flush=True,
            )
    for name, work in _alone(home).items():
        found[name] = {"us": _cost(work)}
        print(f"  {name:<52}{found[name]['us']:>7.0f}", flush=True)
    return found


def _figures(
    request: Request, servers: tuple[Server, ...], seconds: float, rounds: int
) -> dict[str, float]:
    costs: dict[Server, list[float]] = {server: [] for server in servers}
    loop = []
    for _ in range(rounds):
        for server in servers:
            before = _ticks(server.pid)
            result = run_load(server, request, connections=CONNECTIONS, seconds=seconds)
            costs[server].append(result.processor_us)
            if server is servers[0]:
                own, all_threads = (b - a for a, b in zip(before, _ticks(server.pid), strict=True))
                loop.append(own / max(1, all_threads))
    names = ("us", "plain_us")
    found = {name: statistics.median(costs[s]) for name, s in zip(names, servers, strict=False)}
    return {**found, "loop": statistics.median(loop)}


def _ticks(pid: int) -> tuple[int, int]:
    """Processor ticks of the main thread, which runs the loop, and of all threads."""
    return _ticks_in(Path(f"/proc/{pid}/task/{pid}/stat")), _ticks_in(Path(f"/proc/{pid}/stat"))


def _ticks_in(stat: Path) -> int:
    # proc_pid_stat(5): utime and stime are the 12th and 13th after the name in parentheses.
    words = stat.read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def _alone(home: Path) -> dict[str, Callable[[], object]]:
    """What a commit takes without anything around it, on the very disk of the boxes."""
    home.mkdir(parents=True, exist_ok=True)
    connection = open_sqlite(home / "alone.db", create=True)
    connection.execute("CREATE TABLE one (id TEXT PRIMARY KEY, value REAL) WITHOUT ROWID")
    keys = itertools.count()

    def commit(rows: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO one VALUES (?, ?)", [(f"{next(keys):032}", 21.5) for _ in range(rows)]
        )
        connection.execute("COMMIT")

    return {
        "sqlite3 alone: one row, one durable commit": lambda: commit(1),
        "sqlite3 alone: 16 rows, one durable commit": lambda: commit(16),
        "os.fsync of nothing new": _syncing(home / "synced"),
        "json.loads and json.dumps of a reading": lambda: json.dumps(json.loads(_BODY)),
    }


def _syncing(path: Path) -> Callable[[], object]:
    file = path.open("wb", buffering=0)

    def sync() -> None:
        file.write(b"x")
        os.fsync(file.fileno())

    return sync


def _cost(work: Callable[[], object]) -> float:
    """Processor microseconds of one call, the median of several batches."""
    batches = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(100):
            work()
        batches.append((time.process_time() - began) * 1e4)
    with contextlib.suppress(IndexError):
        return statistics.median(batches)
    return 0.0
