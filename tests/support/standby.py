# SPDX-License-Identifier: Apache-2.0
"""A streaming standby of a test's server, and a PgBouncer before whichever of them serves."""

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres_server import (
    USER,
    PostgresServer,
    as_unprivileged,
    free_port,
    temporary_home,
)
from tests.support.service_process import until


@contextlib.contextmanager
def servers(*options: str) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Give a primary, started with *options*, and a standby that follows it asynchronously."""
    primary, standby = PostgresServer(temporary_home()), PostgresServer(temporary_home())
    try:
        primary.create_cluster()
        primary.start(*options)
        _copy(primary, standby)
        standby.start(*options)
        yield primary, standby
    finally:
        standby.remove()
        primary.remove()


def _copy(primary: PostgresServer, standby: PostgresServer) -> None:
    for name, text in (("password", primary.password), ("port", str(standby.port))):
        (standby.home / name).write_text(text, encoding="ascii")
    options = as_unprivileged()
    if "user" in options:
        os.chown(standby.home, options["user"], options["group"])
    subprocess.run(
        [
            str(primary.binaries / "pg_basebackup"), "-D", str(standby.data), "-R", "-w",
            "-h", "127.0.0.1", "-p", str(primary.port), "-U", USER, "-X", "stream",
            "--checkpoint=fast", "--no-sync",
        ],
        env={**os.environ, "PGPASSWORD": primary.password}, check=True, timeout=120,
        capture_output=True, **options,
    )  # fmt: skip


def catch_up(primary: PostgresServer, standby: PostgresServer) -> None:
    """Wait until the standby has all that the primary has committed so far."""
    ((written,),) = primary.execute("SELECT pg_current_wal_lsn()::text")
    question = f"SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"
    until(lambda: standby.execute(question) == [[True]], "the standby", 60)


def stop_following(standby: PostgresServer) -> None:
    """Have the standby receive nothing more; it lags from now on."""
    standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
    standby.execute("SELECT pg_reload_conf()")
    until(
        lambda: standby.execute("SELECT count(*) FROM pg_stat_wal_receiver") == [[0]],
        "the standby to stop receiving", 60,
    )  # fmt: skip


def promote(standby: PostgresServer) -> None:
    """Make the standby the primary."""
    standby.execute("SELECT pg_promote(true, 60)")
    until(lambda: standby.execute("SELECT pg_is_in_recovery()") == [[False]], "the promotion", 60)


class Pooler:
    """A PgBouncer in transaction mode; its server is changed behind open sessions."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        if not Path(program).exists():
            pytest.skip("pgbouncer is not installed (Debian: pgbouncer)")
        self._program = program
        self._home, self.port = temporary_home(), free_port()
        self._database, self._password = database, server.password
        self._process: subprocess.Popen[bytes] | None = None
        self._users, self._configuration = self._home / "users.txt", self._home / "pgbouncer.ini"
        self._users.write_text(f'"{USER}" "{server.password}"\n')
        self.url = f"postgresql://{USER}:{server.password}@127.0.0.1:{self.port}/{database}"
        self._configure(server)

    def _configure(self, server: PostgresServer) -> None:
        self._configuration.write_text(
            f"[databases]\n{self._database} = host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {self._users}\npool_mode = transaction\n"
            f"admin_users = {USER}\ndefault_pool_size = 6\nmax_client_conn = 200\n"
            "server_login_retry = 1\n"
        )

    def start(self) -> None:
        """Start it, and wait until it is up."""
        account = pwd.getpwnam("nobody")
        options: dict[str, Any] = (
            {"user": account.pw_uid, "group": account.pw_gid} if os.geteuid() == 0 else {}
        )
        for path in (self._home, self._users, self._configuration):
            if options:
                os.chown(path, account.pw_uid, account.pw_gid)
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, str(self._configuration)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options,
            )  # fmt: skip
        until(lambda: "process up" in (self._home / "log").read_text(), "PgBouncer", 60)

    def switch(self, server: PostgresServer) -> None:
        """Let the next transactions of every open session run on *server*."""
        self._configure(server)
        self._command("RELOAD")
        self._command("RECONNECT")

    def restart(self) -> None:
        """End it as a crash would, and start it again."""
        self.stop()
        self.start()

    def _command(self, command: str) -> None:
        import pg8000.native

        connection = pg8000.native.Connection(
            USER, host="127.0.0.1", port=self.port, database="pgbouncer",
            password=self._password, timeout=60,
        )  # fmt: skip
        try:
            connection.execute_simple(command)
        finally:
            connection.close()

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        """End it, and delete its files."""
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)


@contextlib.contextmanager
def pooler(server: PostgresServer, database: str) -> Iterator[Pooler]:
    """Give a running PgBouncer before *server*."""
    found = Pooler(server, database)
    try:
        found.start()
        yield found
    finally:
        found.remove()
