# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL goes away while the service uses it: the whole chain decides again."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres_server import PostgresServer, temporary_home
from tests.support.service_process import (
    Process,
    child_environ,
    edgepaas,
    free_port,
    get,
    ready_document,
    until,
    wait_until_ready,
)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that this test may kill."""
    server = PostgresServer(temporary_home())
    try:
        server.create_cluster()
        server.start()
        yield server
    finally:
        send_to_all(server, signal.SIGCONT)
        server.stop()
        shutil.rmtree(server.home)


@pytest.fixture
def up(own_postgres: PostgresServer, tmp_path: Path) -> Iterator[tuple[Process, int]]:
    """The real chain on that PostgreSQL, ready as ``primary``, and its port."""
    port = free_port()
    environ = child_environ(
        tmp_path,
        DATABASE_URL=own_postgres.url(own_postgres.create_database()),
        PORT=str(port),
        RATE_LIMIT="0",
        LOG_FILE="none",
    )
    process = Process(edgepaas("up"), tmp_path, environ)
    try:
        wait_until_ready(port)
        assert ready_document(port)["state"] == "primary"
        yield process, port
    finally:
        if process.running:
            process.signal(signal.SIGTERM)
            process.wait()
        process.close()


class Asking:
    """A client that lists readings without pause and keeps every status it gets."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self.statuses: list[int] = []
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _ask(self) -> None:
        while not self._over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            try:
                connection.request("GET", "/api/v1/readings?limit=1")
                self.statuses.append(connection.getresponse().status)
            except (OSError, http.client.HTTPException):
                self.statuses.append(0)
            finally:
                connection.close()
            time.sleep(0.02)


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_lost_postgres_leads_to_the_fallback_and_every_client_is_answered(
    up: tuple[Process, int], own_postgres: PostgresServer, how: str
) -> None:
    """Refused or silent: 503 for a moment, then SQLite serves, on the same socket."""
    process, port = up
    with Asking(port) as asking:
        until(lambda: asking.statuses.count(200) > 5, "answers")
        lost = time.monotonic()
        if how == "killed":
            own_postgres.kill()
        else:
            send_to_all(own_postgres, signal.SIGSTOP)
        until(lambda: state(port) == "fallback", "the fallback")
        print(f"{how}: fallback serves after {time.monotonic() - lost:.1f} s")
        answered = len(asking.statuses)
        until(lambda: len(asking.statuses) > answered + 5, "answers from SQLite")
    assert set(asking.statuses) <= {200, 503}
    assert asking.statuses[-3:] == [200, 200, 200]
    assert process.running
    assert "PostgreSQL was lost" in process.output


def state(port: int) -> str:
    """Return the state's word, "" while nobody answers."""
    status, body = get(port, "/health/ready", timeout=5)
    if status != 200:
        return ""
    return str(json.loads(body)["state"])


def send_to_all(server: PostgresServer, number: int) -> None:
    """Send a signal to the server and each of its processes.

    All of them stopped, connections stay open and nothing answers: a black hole.
    """
    pid = server.pid()
    if pid is None:
        return
    os.kill(pid, number)
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) == pid:
                os.kill(int(folder.name), number)
