# SPDX-License-Identifier: Apache-2.0
"""Twenty boxes drain at once through PgBouncer, which hands each transaction to any server."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_faults_streams import drain_at_once
from tests.support.hub_database import HubDatabase
from tests.support.nodes import Node
from tests.support.postgres_server import USER, free_port, temporary_home
from tests.support.service_process import until
from tests.system.conftest import REQUIRED

BOXES = 20


@pytest.fixture
def pooler(hub_database: HubDatabase) -> Iterator[str]:
    """The hub's address through a PgBouncer with fewer servers than there are boxes."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not Path(program).exists():
        if REQUIRED:
            pytest.fail("pgbouncer is not installed")
        pytest.skip("pgbouncer is not installed (Debian: pgbouncer)")
    server, port, home = hub_database.server, free_port(), temporary_home()
    users, configuration = home / "users.txt", home / "pgbouncer.ini"
    users.write_text(f'"{USER}" "{server.password}"\n')
    configuration.write_text(
        f"[databases]\n{hub_database.name} = host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\n"
        "default_pool_size = 6\nmax_client_conn = 200\n"
    )
    account = pwd.getpwnam("nobody")
    options: dict[str, Any] = (
        {"user": account.pw_uid, "group": account.pw_gid} if os.geteuid() == 0 else {}
    )
    for path in (home, users, configuration):
        if options:
            os.chown(path, account.pw_uid, account.pw_gid)
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, str(configuration)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            **options,
        )  # fmt: skip
    try:
        until(lambda: "process up" in (home / "log").read_text(), "PgBouncer", 20)
        yield f"postgresql://{USER}:{server.password}@127.0.0.1:{port}/{hub_database.name}"
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(home)


@pytest.mark.parametrize("way", ["pooled", "direct"])
def test_twenty_boxes_drain_at_once(
    tmp_path: Path, hub_database: HubDatabase, pooler: str, way: str
) -> None:
    url = pooler if way == "pooled" else hub_database.url
    boxes = [Node(tmp_path / f"{n}", url, rows=50) for n in range(BOXES)]
    assert drain_at_once(boxes, hub_database) >= 40 * BOXES
