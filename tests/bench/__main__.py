# SPDX-License-Identifier: Apache-2.0
"""``make bench``: start, memory and durable writes, side by side with a plain application.

Figures of a shared machine move by the hour, so every one stands beside the plain
application's of the same run; only the ratios are to be compared over time.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.load import LoadResult, request_bytes, run_load
from tests.support.postgres_server import free_port

START_LIMIT = 60.0
EDGEPAAS = (sys.executable, "-m", "edgepaas")
IMPORTS = "import flask, waitress, sqlalchemy"
READING = {"device": "bench", "metric": "temperature", "value": 21.5, "unit": "°C"}
ONE = json.dumps(READING).encode()
HUNDRED = json.dumps([READING] * 100).encode()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> float:
    """Return the perf_counter at which *url* first answered 200."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return time.perf_counter()
        except (urllib.error.URLError, OSError):
            time.sleep(0.002)
    raise TimeoutError(f"{url} did not answer within {START_LIMIT:g} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End *process* as an operator would, and wait for it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def edgepaas_environment(home: Path, port: int) -> dict[str, str]:
    """Return a clean environment for a box of its own below *home*."""
    return {
        "PATH": os.environ["PATH"], "HOME": str(home), "EDGEPAAS_HOME": str(home / "box"),
        "EDGEPAAS_ENV_FILE": str(home / "none.env"), "PORT": str(port), "HOST": "127.0.0.1",
    }  # fmt: skip


@contextmanager
def running_box(home: Path, *command: str) -> Iterator[tuple[int, float, float, int]]:
    """Run ``edgepaas COMMAND``; yields port, seconds to live and to ready, the service's pid."""
    port = free_port()
    environ = edgepaas_environment(home, port)
    log = (home / "box.log").open("ab")
    if command[0] != "up":  # the stage reads its port from the contract
        subprocess.run([*EDGEPAAS, "env"], env=environ, stdout=log, stderr=log, check=True)
    started = time.perf_counter()
    process = subprocess.Popen([*EDGEPAAS, *command], env=environ, stdout=log, stderr=log)
    try:
        live = wait_for(f"http://127.0.0.1:{port}/health/live", process) - started
        ready = wait_for(f"http://127.0.0.1:{port}/health/ready", process) - started
        yield port, live, ready, service_pid(process.pid)
    finally:
        stop(process)
        log.close()


@contextmanager
def running_plain(home: Path) -> Iterator[tuple[int, float, int]]:
    """Run the plain application; yields port, seconds to live, pid."""
    port = free_port()
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.plain_app", str(port), str(home / "plain.db")],
        env=edgepaas_environment(home, port),
    )
    try:
        live = wait_for(f"http://127.0.0.1:{port}/health/live", process) - started
        yield port, live, process.pid
    finally:
        stop(process)


def service_pid(parent: int) -> int:
    """Return the service below ``edgepaas up``, else *parent* itself."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(children[-1]) if children else parent


def resident_mib(pid: int) -> float:
    """Return a process's resident memory in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


def import_seconds(rounds: int) -> float:
    """Median time of one process that imports flask, waitress and sqlalchemy."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def alert_seconds(home: Path, rounds: int) -> float:
    """Median time of one ``edgepaas alert``: from the start of the process to its end."""
    times = []
    for number in range(rounds):
        command = [*EDGEPAAS, "alert", "a bench", "--quiet", "--fingerprint", f"bench-{number}"]
        started = time.perf_counter()
        subprocess.run(command, env=edgepaas_environment(home, 0), check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure_start(home: Path, rounds: int) -> dict[str, float]:
    """First boot, later boots, serve alone and the plain application, against the imports."""
    imports = import_seconds(rounds)
    with running_box(home, "up") as (_, _, first_ready, _):
        pass
    lives, readies, serve_lives, serve_readies, plain_lives = [], [], [], [], []
    memory = plain_memory = 0.0
    for _ in range(rounds):
        with running_box(home, "up") as (_, live, ready, pid):
            lives.append(live)
            readies.append(ready)
            time.sleep(1)
            memory = resident_mib(pid)
        with running_box(home, "serve") as (_, live, ready, _):
            serve_lives.append(live)
            serve_readies.append(ready)
        with running_plain(home) as (_, live, pid):
            plain_lives.append(live)
            time.sleep(0.2)
            plain_memory = resident_mib(pid)
    ready = statistics.median(readies)
    return {
        "import_flask_waitress_sqlalchemy_ms": imports * 1000,
        "first_boot_to_ready_ms": first_ready * 1000,
        "chain_to_live_ms": statistics.median(lives) * 1000,
        "chain_to_ready_ms": ready * 1000,
        "chain_to_ready_over_import": ready / imports,
        "serve_to_live_ms": statistics.median(serve_lives) * 1000,
        "serve_to_ready_ms": statistics.median(serve_readies) * 1000,
        "plain_to_live_ms": statistics.median(plain_lives) * 1000,
        "idle_service_mib": memory,
        "plain_mib": plain_memory,
        "alert_ms": alert_seconds(home, rounds) * 1000,
    }


LOADS: list[tuple[str, Callable[[], bytes], int]] = [
    (f"{name}, {connections} connections", make, connections)
    for name, make in (
        ("POST 1 reading", lambda: request_bytes("POST", "/api/v1/readings", ONE)),
        ("POST 100 readings", lambda: request_bytes("POST", "/api/v1/readings", HUNDRED)),
        ("GET 100 readings", lambda: request_bytes("GET", "/api/v1/readings?limit=100")),
    )
    for connections in (4, 32)
]


def measure_loads(home: Path, seconds: float) -> list[dict[str, object]]:
    """The same load on both servers, turn by turn, so that noise falls on both alike."""
    rows: list[dict[str, object]] = []
    with running_box(home, "up") as (port, _, _, pid), running_plain(home) as (plain, _, _):
        for name, make, connections in LOADS:
            ours, theirs = LoadResult(), LoadResult()
            for _ in range(3):
                for target, result in ((port, ours), (plain, theirs)):
                    part = run_load(target, make, connections=connections, seconds=seconds / 3)
                    result.seconds += part.seconds
                    result.latencies += part.latencies
                    for status, count in part.statuses.items():
                        result.statuses[status] = result.statuses.get(status, 0) + count
            rows.append(row_of(name, ours, theirs))
            print_row(rows[-1])
        print(f"\nservice resident after the load: {resident_mib(pid):.1f} MiB")
    return rows


def row_of(name: str, ours: LoadResult, theirs: LoadResult) -> dict[str, object]:
    """One line of the table: both servers' figures and their ratios."""
    return {
        "load": name,
        "rate": round(ours.rate), "plain_rate": round(theirs.rate),
        "rate_ratio": round(ours.rate / theirs.rate, 2),
        "p50_ms": round(ours.percentile(50), 2), "p99_ms": round(ours.percentile(99), 2),
        "plain_p50_ms": round(theirs.percentile(50), 2),
        "plain_p99_ms": round(theirs.percentile(99), 2),
        "p99_ratio": round(ours.percentile(99) / theirs.percentile(99), 3),
        "statuses": ours.statuses, "plain_statuses": theirs.statuses,
    }  # fmt: skip


def print_row(row: dict[str, object]) -> None:
    """Print one line of the table as it comes."""
    print(
        f"{row['load']:<34} {row['rate']:>6}/s ({row['plain_rate']:>5}/s, x{row['rate_ratio']:<5}) "
        f"p50 {row['p50_ms']:>7} ({row['plain_p50_ms']:>7})  "
        f"p99 {row['p99_ms']:>7} ({row['plain_p99_ms']:>8}, x{row['p99_ratio']:<6}) "
        f"{row['statuses']}",
        flush=True,
    )


def main() -> int:
    """Measure and print; ``--json FILE`` keeps the figures."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="starts to take the median of")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each load")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="edgepaas-bench-"))
    try:
        print("start and memory (medians; milliseconds, MiB)")
        start = measure_start(home, arguments.rounds)
        for name, value in start.items():
            print(f"  {name:<40} {value:10.2f}", flush=True)
        print("\nload: EdgePaaS (plain application, ratio); latencies in milliseconds")
        loads = measure_loads(home, arguments.seconds)
    finally:
        shutil.rmtree(home)
    if arguments.json:
        arguments.json.write_text(json.dumps({"start": start, "loads": loads}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
