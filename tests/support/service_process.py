# SPDX-License-Identifier: Apache-2.0
"""Real 'edgepaas serve' and 'edgepaas up' processes, a manager to notify, and clients."""

import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgepaas.decision.contract import DatabaseContract
from edgepaas.files.paths import Paths
from edgepaas.settings import Settings

LIMIT = 90.0

#: An application that needs a moment to be imported, and has slow and hanging requests.
PROBE_APPLICATION = """
import os, time
from pathlib import Path

from edgepaas.app import Application

RELEASE = os.environ.get("PROBE_RELEASE")
while RELEASE and not Path(RELEASE).exists():
    time.sleep(0.01)


def wsgi(box):
    def answer(environ, start_response):
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        if path == "/slow":
            time.sleep(float(query))
        if path == "/hang":
            time.sleep(3600)
        body = f"{os.getpid()}\\n".encode()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]

    return answer


application = Application(name="probe", wsgi=wsgi, guarded=False)
"""


def until(condition: Callable[[], Any], what: str, limit: float = LIMIT) -> Any:
    """Wait for *condition* to be true and return its value."""
    deadline = time.monotonic() + limit
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"waited {limit:g} s in vain for {what}"
        time.sleep(0.02)


def free_port() -> int:
    """Return a port that nobody listens on right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def write_contracts(paths: Paths, *, generation: str = "1", **settings: str) -> None:
    """Write both contracts as the stages would, and an empty SQLite file."""
    write_env_contract(paths, **settings)
    write_db_contract(paths, generation=generation)
    with contextlib.closing(sqlite3.connect(paths.sqlite)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS t (a)")


def write_env_contract(paths: Paths, **settings: str) -> None:
    """Write run/env for the probe application."""
    defaults = {"EDGEPAAS_APP": "probe_application:application", "LOG_FILE": "none"}
    Settings.of(**(defaults | settings)).write(paths.env_contract)


def write_db_contract(paths: Paths, *, generation: str) -> None:
    """Write run/db.env: SQLite, standalone."""
    DatabaseContract(
        database_url=f"sqlite:///{paths.sqlite}",
        run_migrations=False,
        final_db_mode="sqlite_only",
        db_state="standalone",
        db_fallback=False,
        hub_url="",
        sqlite_path=paths.sqlite,
        reason="no DATABASE_URL",
        generation=generation,
        decided_at="2026-01-01T00:00:00Z",
    ).write(paths.db_contract)


class Manager:
    """The service manager's end of sd_notify(3)."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self.messages: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.messages += self._socket.recv(65536).decode("utf-8").split("\n")

    def wait_for(self, start: str, *, after: int = 0) -> str:
        """Wait for a line that begins with *start*; only lines from index *after* count."""
        return str(
            until(
                lambda: next((m for m in self.messages[after:] if m.startswith(start)), None),
                f"a message {start}; there were {self.messages}",
            )
        )

    def count(self, line: str) -> int:
        """Return how often exactly *line* was sent."""
        return self.messages.count(line)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


class Process:
    """A process of ours, with its output in a file, ended at the latest by ``close``."""

    def __init__(
        self,
        command: list[str],
        folder: Path,
        environ: dict[str, str],
        listener: socket.socket | None = None,
    ) -> None:
        self.output_file = folder / f"output-{time.monotonic_ns()}"
        with self.output_file.open("wb") as output:
            if listener is None:
                self._popen = subprocess.Popen(
                    command, env=environ, stdout=output, stderr=subprocess.STDOUT
                )
            else:
                # sd_listen_fds(3): descriptor 3, and a LISTEN_PID known only in the child.
                shell = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&"$FD"'
                script = ["/bin/bash", "-c", shell, "sh", *command]
                self._popen = subprocess.Popen(
                    script,
                    env=environ | {"FD": str(listener.fileno())},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[listener.fileno()],
                )
        self.pid = self._popen.pid

    @property
    def output(self) -> str:
        """What the process printed so far."""
        return self.output_file.read_text(encoding="utf-8", errors="replace")

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._popen.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._popen.send_signal(number)

    def wait(self, limit: float = LIMIT) -> int:
        """Wait for the end and return the exit status."""
        try:
            return self._popen.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the process does not end; it printed:\n{self.output}") from None

    def close(self) -> None:
        """End the process, whatever it does."""
        if self.running:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self._popen.wait(LIMIT)


def edgepaas(*arguments: str) -> list[str]:
    """Return the command line of a sub-command."""
    return [sys.executable, "-m", "edgepaas", *arguments]


def child_environ(folder: Path, **more: str) -> dict[str, str]:
    """Return this test's environment, with the probe application to be found in *folder*."""
    (folder / "probe_application.py").write_text(PROBE_APPLICATION, encoding="utf-8")
    root = str(Path(__file__).resolve().parent.parent.parent)
    return dict(os.environ) | {"PYTHONPATH": f"{folder}{os.pathsep}{root}"} | more


def get(port: int, path: str, timeout: float = LIMIT) -> tuple[int, bytes]:
    """Return status and body; 0 and nothing when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def ready_document(port: int) -> dict[str, Any]:
    """Return what /health/ready says."""
    document: dict[str, Any] = json.loads(get(port, "/health/ready")[1])
    return document


def wait_until_ready(port: int) -> None:
    """Wait for /health/ready to say 200."""
    until(lambda: get(port, "/health/ready", timeout=2)[0] == 200, "readiness")


class Load:
    """Clients that ask without pause, each on one kept-alive connection while that lasts."""

    def __init__(self, port: int, path: str = "/", clients: int = 4) -> None:
        self._port = port
        self._path = path
        self._over = threading.Event()
        self.answered = 0
        self.failures: list[str] = []
        self.answers: set[bytes] = set()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    @contextlib.contextmanager
    def running(self) -> Iterator["Load"]:
        """Ask during the block."""
        for thread in self._threads:
            thread.start()
        try:
            until(lambda: self.answered > 20 or self.failures, "the load to begin")
            yield self
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join(LIMIT)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LIMIT)
        while not self._over.is_set():
            try:
                connection.request("GET", self._path)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
                time.sleep(0.01)
                continue
            self.answered += 1
            self.answers.add(body)
            if answer.status != 200:
                self.failures.append(f"{answer.status} {body!r}")
        connection.close()


def reset_on_close(sock: socket.socket) -> None:
    """Have closing *sock* reset the connection, as a client does that dies."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
