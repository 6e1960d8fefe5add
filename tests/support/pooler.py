# SPDX-License-Identifier: Apache-2.0
"""PgBouncer in front of a PostgreSQL of the tests, pooling transactions."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.postgres_server import USER, PostgresServer, free_port, temporary_home
from tests.support.service_process import until


def find_pgbouncer() -> str | None:
    """Return the program, None where it is not installed (Debian: pgbouncer)."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    return program if Path(program).exists() else None


@contextmanager
def pooled(server: PostgresServer, name: str, *, size: int = 6) -> Iterator[str]:
    """Give the address of the database *name* of *server* through *size* connections at most."""
    program = find_pgbouncer()
    if program is None:
        raise FileNotFoundError("pgbouncer")
    port, home = free_port(), temporary_home()
    users, configuration = home / "users.txt", home / "pgbouncer.ini"
    users.write_text(f'"{USER}" "{server.password}"\n')
    configuration.write_text(
        f"[databases]\n{name} = host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\n"
        f"default_pool_size = {size}\nmax_client_conn = 200\n"
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
        until(lambda: "process up" in (home / "log").read_text(), "PgBouncer", 60)
        yield f"postgresql://{USER}:{server.password}@127.0.0.1:{port}/{name}"
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(home)
