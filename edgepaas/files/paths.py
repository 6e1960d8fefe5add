"""Where everything lies: one object, found once, handed down."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: An installed package is recognised by its configuration folder.
SYSTEM_CONFIGURATION = Path("/etc/edgepaas")


@dataclass(frozen=True)
class Paths:
    """The folders of one box and every file in them that another stage or a person looks for."""

    runtime: Path
    state: Path
    logs: Path
    spool: Path
    env_file: Path

    @property
    def env_contract(self) -> Path:
        """``run/env``: what the environment stage resolved."""
        return self.runtime / "env"

    @property
    def db_contract(self) -> Path:
        """``run/db.env``: what the decision stage decided."""
        return self.runtime / "db.env"

    @property
    def tables(self) -> Path:
        """``run/tables.json``: what lean processes need to know of the tables."""
        return self.runtime / "tables.json"

    @property
    def sqlite(self) -> Path:
        """The embedded database, unless DATABASE_URL_SQLITE names another."""
        return self.state / "edgepaas.db"

    @property
    def database_lock(self) -> Path:
        """Held shared by whoever has the SQLite file open, exclusively to swap it."""
        return self.state / "db.lock"

    @property
    def address(self) -> Path:
        """``run/address``: where the service listens; no secret, anybody on the box may read it."""
        return self.runtime / "address"

    @property
    def postgres_hold(self) -> Path:
        """Why PostgreSQL is not to be chosen, and until when."""
        return self.state / "postgres-hold"

    @property
    def quarantine(self) -> Path:
        """Where unusable SQLite files are moved, with their -wal and -shm."""
        return self.state / "quarantine"

    @property
    def backups(self) -> Path:
        """Copies of the SQLite file taken before a migration or a repair."""
        return self.state / "backups"

    @property
    def tokens(self) -> Path:
        """Hashes of the API tokens; box-local, so they hold on either database."""
        return self.state / "tokens.json"

    @property
    def node(self) -> Path:
        """The box's identity."""
        return self.state / "node.json"

    @property
    def crash_loop(self) -> Path:
        """How often the service failed lately; in run/, so a reboot starts afresh."""
        return self.runtime / "crash-loop.json"

    @property
    def alerts(self) -> Path:
        """The alert spool."""
        return self.spool / "alerts"

    @property
    def log_file(self) -> Path:
        """The rotating log, unless LOG_FILE says otherwise."""
        return self.logs / "edgepaas.log"

    def create(self) -> None:
        """Make the folders that are missing, readable by the owner alone."""
        for folder in (self.runtime, self.state, self.logs, self.spool):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def find_paths(environ: Mapping[str, str] | None = None) -> Paths:
    """Return the box's folders.

    ``EDGEPAAS_HOME`` wins and holds everything below one folder; else what systemd
    hands over (RUNTIME_DIRECTORY= and its like); else the installed package's
    folders where there is an ``/etc/edgepaas``; else the XDG state folder, so that a
    developer needs no root. ``EDGEPAAS_ENV_FILE`` names another file of settings.
    """
    environ = os.environ if environ is None else environ
    home = environ.get("EDGEPAAS_HOME", "")
    if not home and ("RUNTIME_DIRECTORY" in environ or SYSTEM_CONFIGURATION.is_dir()):
        return Paths(
            runtime=_systemd_folder(environ, "RUNTIME_DIRECTORY", "/run/edgepaas"),
            state=_systemd_folder(environ, "STATE_DIRECTORY", "/var/lib/edgepaas"),
            logs=_systemd_folder(environ, "LOGS_DIRECTORY", "/var/log/edgepaas"),
            spool=Path("/var/spool/edgepaas"),
            env_file=Path(
                environ.get("EDGEPAAS_ENV_FILE") or SYSTEM_CONFIGURATION / "edgepaas.env"
            ),
        )
    if home:
        root = Path(home).expanduser().absolute()
    else:
        xdg = environ.get("XDG_STATE_HOME", "")
        base = Path(xdg) if xdg.startswith("/") else Path("~/.local/state").expanduser()
        root = base / "edgepaas"
    return Paths(
        runtime=root / "run",
        state=root / "state",
        logs=root / "logs",
        spool=root / "spool",
        env_file=Path(environ.get("EDGEPAAS_ENV_FILE") or root / "edgepaas.env").absolute(),
    )


def _systemd_folder(environ: Mapping[str, str], name: str, default: str) -> Path:
    # systemd hands several folders over as one colon-separated list; ours comes first.
    return Path(environ.get(name, "").split(":")[0] or default)
