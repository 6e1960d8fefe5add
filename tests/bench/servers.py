# SPDX-License-Identifier: Apache-2.0
"""The servers that are measured: boxes of EdgePaaS, and the plain application."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.postgres_server import free_port

START_LIMIT = 120.0
EDGEPAAS = (sys.executable, "-m", "edgepaas")
#: A hub that nobody listens on: the box captures, and forwards nothing.
AWAY = "postgresql://edgepaas@127.0.0.1:9/edgepaas"


@dataclass(frozen=True)
class Server:
    """One server under measurement; *pid* is the process that answers requests."""

    port: int
    pid: int
    #: The process that was started: ``edgepaas up`` above the service, else the same.
    parent: int
    #: Seconds from the start to the first 200 of /health/live and of /health/ready.
    live: float
    ready: float

    def processor_seconds(self) -> float:
        """Return the processor time that the answering process has used, in seconds."""
        # clock_getcpuclockid(3): the clock of a process is made of its id.
        return time.clock_gettime((~self.pid << 3) | 2)

    def cores(self) -> set[int]:
        """Return the cores that the answering process may run on."""
        return os.sched_getaffinity(self.pid)


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


def box_environment(home: Path, port: int, **settings: str) -> dict[str, str]:
    """Return a clean environment for a box of its own below *home*."""
    return {
        "PATH": os.environ["PATH"], "HOME": str(home), "EDGEPAAS_HOME": str(home / "box"),
        "EDGEPAAS_ENV_FILE": str(home / "none.env"), "PORT": str(port), "HOST": "127.0.0.1",
        **settings,
    }  # fmt: skip


@contextmanager
def running_box(home: Path, command: str = "up", **settings: str) -> Iterator[Server]:
    """Run ``edgepaas up``, or ``edgepaas serve`` on the contracts that are there already."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    environ = box_environment(home, port, **settings)
    with (home / "box.log").open("ab") as log:
        if command != "up":  # it reads its port from the contract
            subprocess.run([*EDGEPAAS, "env"], env=environ, stdout=log, stderr=log, check=True)
        started = time.perf_counter()
        process = subprocess.Popen([*EDGEPAAS, command], env=environ, stdout=log, stderr=log)
        try:
            live = wait_for(f"http://127.0.0.1:{port}/health/live", process) - started
            ready = wait_for(f"http://127.0.0.1:{port}/health/ready", process) - started
            pid = listener_below(process.pid, port)
            yield Server(port, pid, process.pid, live, ready)
        finally:
            stop(process)


@contextmanager
def running_plain(home: Path, *, cores: set[int] | None = None) -> Iterator[Server]:
    """Run the plain application, held to *cores* if any are given."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    started = time.perf_counter()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.plain_app", str(port), str(home / "plain.db")],
            env=box_environment(home, port),
        )
    finally:
        os.sched_setaffinity(0, before)
    try:
        live = wait_for(f"http://127.0.0.1:{port}/health/live", process) - started
        yield Server(port, process.pid, process.pid, live, live)
    finally:
        stop(process)


def family(pid: int) -> list[int]:
    """Return *pid* and every process below it."""
    found = [pid]
    for one in found:  # grows while it is walked
        for task in Path(f"/proc/{one}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def listener_below(parent: int, port: int) -> int:
    """Return the youngest process of *parent*'s family that listens on *port*.

    ``edgepaas up`` holds the socket, too, and hands it down: the service is the one below.
    """
    wanted = _listening_inode(port)
    holders = [pid for pid in family(parent) if wanted in _sockets_of(pid)]
    if not holders:
        raise RuntimeError(f"no process below {parent} listens on {port}")
    below = [pid for pid in holders if pid != parent]
    return below[-1] if below else parent


def _listening_inode(port: int) -> str:
    # proc_net_tcp(5): local address and state (0A: LISTEN) in columns 1 and 3, the inode in 9.
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
            return words[9]
    raise RuntimeError(f"nobody listens on {port}")


def _sockets_of(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = entry.readlink().name
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def tcp_ports(pid: int) -> set[int]:
    """Return the local ports of *pid*'s TCP connections over IPv4."""
    sockets = _sockets_of(pid)
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return {
        int(words[1].rpartition(":")[2], 16)
        for words in map(str.split, lines)
        if words[9] in sockets
    }
