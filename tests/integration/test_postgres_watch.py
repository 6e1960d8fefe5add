# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL of the tests ends with the process that started it, however that one ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.postgres_server import PostgresServer, temporary_home
from tests.support.service_process import LIMIT, until

ROOT = Path(__file__).resolve().parents[2]

#: As a worker of the tests does it: make a cluster, start it, and stay.
STARTER = """
import sys, time
from pathlib import Path

from tests.support.postgres_server import PostgresServer

server = PostgresServer(Path(sys.argv[1]))
server.create_cluster()
server.start()
print(server.process.pid, flush=True)
time.sleep(600)
"""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_starter_leaves_no_server_behind() -> None:
    home = temporary_home()
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(home)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert starter.stdout is not None
    postmaster = int(starter.stdout.readline())
    assert _alive(postmaster)
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait(LIMIT)
    starter.stdout.close()
    until(lambda: not _alive(postmaster), "the server to end with its starter")
    until(lambda: not home.exists(), "the server's folder to go")


def test_a_server_that_is_stopped_keeps_its_folder_and_starts_again() -> None:
    server = PostgresServer(temporary_home())
    try:
        server.create_cluster()
        server.start()
        name = server.create_database()
        server.stop()
        server.start()
        assert server.execute("SELECT 1", name) == [[1]]
    finally:
        server.remove()
    assert not server.home.exists()
