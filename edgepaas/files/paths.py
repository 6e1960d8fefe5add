# SPDX-License-Identifier: Apache-2.0
"""Where everything lies: one object, found once, handed down."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgepaas.errors import ConfigurationError

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
    #: What EDGEPAAS_HOME says, or would have to say, for these folders; empty on an installed box.
    home: str = ""

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
        """Held shared by each process that has the SQLite file open, exclusively to swap it."""
        return self.state / "db.lock"

    @property
    def address(self) -> Path:
        """``run/address``: where the service listens; every user of the box may read it."""
        return self.runtime / "address"

    @property
    def local_token(self) -> Path:
        """``run/local-token``: what commands of this box show the service (files.local_token)."""
        return self.runtime / "local-token"

    @property
    def up_lock(self) -> Path:
        """``run/up.lock``: held by the ``edgepaas up`` of this box, whose process id it holds."""
        return self.runtime / "up.lock"

    @property
    def state_lock(self) -> Path:
        """``up.lock`` in the state folder: held by the one ``edgepaas up`` that works there."""
        return self.state / "up.lock"

    @property
    def serving_lock(self) -> Path:
        """``run/serving.lock``: the same of the service."""
        return self.runtime / "serving.lock"

    @property
    def sync_lock(self) -> Path:
        """``run/sync.lock``: held by the one drainer of this box."""
        return self.runtime / "sync.lock"

    @property
    def sync_wake(self) -> Path:
        """``run/sync.wake``: the datagram socket on which the drainer is notified of new rows."""
        return self.runtime / "sync.wake"

    @property
    def sync_status(self) -> Path:
        """``run/sync.json``: what the drainer knows (edgepaas.sync.status)."""
        return self.runtime / "sync.json"

    @property
    def published_state(self) -> Path:
        """``run/state.json``: the state that the service published (files.published_state)."""
        return self.runtime / "state.json"

    @property
    def fleet(self) -> Path:
        """``run/nodes.json``: the boxes that PostgreSQL knew when the drainer asked last."""
        return self.runtime / "nodes.json"

    @property
    def hand_back(self) -> Path:
        """``run/hand-back``: PostgreSQL may serve again; the service ends for a new decision."""
        return self.runtime / "hand-back"

    @property
    def ballast(self) -> Path:
        """Space kept back, to be given up when the disk is full: deleting rows needs some."""
        return self.state / "ballast"

    @property
    def link(self) -> Path:
        """``run/link.json``: how long a round trip to PostgreSQL takes."""
        return self.runtime / "link.json"

    @property
    def rehearsal(self) -> Path:
        """``run/rehearsal``: what handing back found of PostgreSQL a moment ago."""
        return self.runtime / "rehearsal"

    @property
    def postgres_hold(self) -> Path:
        """Why PostgreSQL is not to be chosen, and until when."""
        return self.state / "postgres-hold"

    @property
    def refused_tables(self) -> Path:
        """The tables to which PostgreSQL refused writes, so that it is held."""
        return self.state / "refused-tables.json"

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
    def acknowledged(self) -> Path:
        """What an operator has taken note of, so that it no longer counts as trouble."""
        return self.state / "acknowledged.json"

    @property
    def audit(self) -> Path:
        """What the audit that runs by itself found (edgepaas.sync.audit.record)."""
        return self.state / "audit.json"

    @property
    def audit_acknowledged(self) -> Path:
        """The rows that an operator knows to be not in place (edgepaas.sync.losses.acknowledge)."""
        return self.state / "audit-acknowledged.json"

    @property
    def unsent_rows(self) -> Path:
        """How many rows waited when the package was removed; the purge reads it (postrm)."""
        return self.state / "unsent-rows"

    @property
    def marks(self) -> Path:
        """What PostgreSQL acknowledged while it served (edgepaas.marks.record)."""
        return self.state / "marks.json"

    @property
    def marks_lock(self) -> Path:
        """``state/marks.lock``: held by the process that changes ``marks.json``."""
        return self.state / "marks.lock"

    @property
    def marks_owners(self) -> Path:
        """Locks of the processes that keep marks, each held by one; a dead one's is removed."""
        return self.state / "marks-owners"

    @property
    def last_known(self) -> Path:
        """Which box and which file this was (edgepaas.sync.losses.lost_state).

        Kept beside the state folder: whoever deletes that leaves this.
        """
        return self.spool / "last-known.json"

    @property
    def alerts(self) -> Path:
        """The alert spool."""
        return self.spool / "alerts"

    @property
    def alerts_status(self) -> Path:
        """``run/alerts.json``: what the delivery of alerts last knew (edgepaas.alerts.status)."""
        return self.runtime / "alerts.json"

    @property
    def log_file(self) -> Path:
        """The rotating log, unless LOG_FILE says otherwise."""
        return self.logs / "edgepaas.log"

    def create(self) -> None:
        """Make the folders that are missing, readable by the owner alone.

        Raises ConfigurationError, which names EDGEPAAS_HOME where that is what they lie below.
        """
        for folder in (self.runtime, self.state, self.logs, self.spool):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                why = error.strerror or error
                raise self.unusable(folder, f"cannot be made ({why})") from error

    def unusable(self, folder: Path, why: str) -> ConfigurationError:
        """Return the error that *folder* is of no use, with the way out.

        *why* goes on after its name, as in "cannot be made (Permission denied)".
        """
        if self.home:
            return ConfigurationError(
                f"EDGEPAAS_HOME={self.home}: the folder {folder} {why}; "
                "set EDGEPAAS_HOME to a folder that this user may write"
            )
        return ConfigurationError(
            f"the folder {folder} {why}: 'systemd-tmpfiles --create' makes those of an installed "
            f"box; a container needs '--tmpfs /run' and a volume on {self.state}, both for its "
            f"user {os.geteuid()} to write"
        )


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
            # systemd hands no such folder over; an image keeps it in its one volume.
            spool=_systemd_folder(environ, "SPOOL_DIRECTORY", "/var/spool/edgepaas"),
            env_file=Path(
                environ.get("EDGEPAAS_ENV_FILE") or SYSTEM_CONFIGURATION / "edgepaas.env"
            ),
        )
    root = _home(home) if home else _xdg_home(environ)
    return Paths(
        home=home or str(root),
        runtime=root / "run",
        state=root / "state",
        logs=root / "logs",
        spool=root / "spool",
        env_file=Path(environ.get("EDGEPAAS_ENV_FILE") or root / "edgepaas.env").absolute(),
    )


def _home(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # ~unknown, or below a folder that is gone
        raise ConfigurationError(
            f"EDGEPAAS_HOME={text}: that is no folder ({error}); set EDGEPAAS_HOME to an "
            "absolute path"
        ) from error


def _xdg_home(environ: Mapping[str, str]) -> Path:
    xdg = environ.get("XDG_STATE_HOME", "")
    if xdg.startswith("/"):
        return Path(xdg) / "edgepaas"
    try:
        return Path("~/.local/state/edgepaas").expanduser()
    except RuntimeError as error:
        raise ConfigurationError(
            "this user has no home folder; set EDGEPAAS_HOME to a folder that it may write"
        ) from error


def _systemd_folder(environ: Mapping[str, str], name: str, default: str) -> Path:
    # systemd hands several folders over as one colon-separated list; ours comes first.
    return Path(environ.get(name, "").split(":")[0] or default)
