# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL on another host: bound in the far namespace of a wire, with TLS."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pg8000.native
import trustme

from tests.support.postgres_server import USER, PostgresServer
from tests.system.bed import BOXES
from tests.system.network import EDGE, HUB, Wire

PORT = 5432
DATABASE = "edgepaas"


class Hub:
    """The server at 10.77.0.1; ``authority`` is the PEM of the authority that signed it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        # Among the boxes, where what a killed test run leaves behind is swept away.
        self.server = PostgresServer(BOXES / f"{os.getpid()}-hub", port=PORT)
        self.authority = b""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What a box is to have as DATABASE_URL."""
        return f"postgresql://{USER}:{self.server.password}@{HUB}:{PORT}/{DATABASE}"

    def create(self) -> None:
        """Make the cluster, its certificate, and let the box in."""
        self.server.create_cluster()
        authority = trustme.CA()
        self.authority = authority.cert_pem.bytes()
        certificate = authority.issue_cert(HUB, "hub.example")
        key, chain = self._file("server.key"), self._file("server.crt")
        certificate.private_key_pem.write_to_path(str(key))
        chain.write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
        owner = self.server.data.stat()
        for path in (key, chain):
            path.chmod(0o600)
            os.chown(path, owner.st_uid, owner.st_gid)
        with (self.server.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"hostssl all all {EDGE}/32 scram-sha-256\n")
        self.start()
        self.execute(f"CREATE DATABASE {DATABASE}", "postgres")

    def start(self) -> None:
        """Start the server in the far namespace and wait until it answers."""
        owner = self.server.data.stat()
        command = [
            "ip", "netns", "exec", self.wire.hub.name, "setpriv", "--pdeathsig", "KILL",
            f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups",
            str(self.server.binaries / "postgres"), "-D", str(self.server.data),
        ]  # fmt: skip
        for setting in (
            f"listen_addresses={HUB}", f"port={PORT}", "ssl=on", "fsync=off",
            f"ssl_key_file={self._file('server.key')}", f"ssl_cert_file={self._file('server.crt')}",
            f"unix_socket_directories={self.server.home}",
        ):  # fmt: skip
            command += ["-c", setting]
        with self._file("server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.execute("SELECT 1", "postgres")
                return
            except (OSError, pg8000.native.Error):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError(f"no server:\n{self.server.log_tail()}") from None
                time.sleep(0.1)

    def stop(self, *, crash: bool = False) -> None:
        """Stop the server; *crash*: all of its processes end at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
            self._process.wait(60)
            self._process = None

    def execute(self, sql: str, database: str = DATABASE) -> list[list[object]]:
        """Run one statement, over the server's Unix socket: cuts of the wire do not matter."""
        connection = pg8000.native.Connection(
            USER, database=database, password=self.server.password, timeout=20,
            unix_sock=str(self.server.home / f".s.PGSQL.{PORT}"),
        )  # fmt: skip
        try:
            return list(connection.run(sql) or [])
        finally:
            connection.close()

    def destroy(self) -> None:
        """Stop it and remove everything."""
        self.stop(crash=True)
        shutil.rmtree(self.server.home, ignore_errors=True)

    def _file(self, name: str) -> Path:
        return self.server.home / name
