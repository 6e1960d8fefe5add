# SPDX-License-Identifier: Apache-2.0
"""The schema stage: bring the decided database to head, or send the chain round again."""

import contextlib
import errno
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from edgepaas.alerts.catalogue import (
    DATABASE_FOREIGN,
    FALLBACK_NOT_READY,
    NOT_CAPTURED,
    POSTGRES_UNUSABLE,
    SCHEMA_REFUSED,
)
from edgepaas.decision.contract import DatabaseContract
from edgepaas.decision.rehearsal_record import fresh_rehearsal
from edgepaas.errors import DatabaseUnavailable, DecideAgain, EdgePaaSError
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.files.sqlite_file import note_damage
from edgepaas.hosting.loading import metadata_of
from edgepaas.schema import table_contract as tables
from edgepaas.schema.capture_setup import capture, capture_nothing, show_own_history
from edgepaas.schema.chain import Chain, chain_of
from edgepaas.schema.errors import OfAnotherApplication, SchemaError, SchemaRefused, brief
from edgepaas.schema.hub_conditions import note_hub_conditions
from edgepaas.schema.open_problems import (
    clear_problem,
    clear_refusal,
    record_problem,
    record_refusal,
    refused_before,
)
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.resolve_alerts import resolve_alerts, resolve_file_alerts
from edgepaas.schema.sqlite.error_classes import Damaged, error_for
from edgepaas.schema.sqlite.file_stage import attempt_on_file, bring_file_to_head
from edgepaas.schema.sqlite.housekeeping import tidy
from edgepaas.schema.sqlite.quarantine import to_be_taken_back

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from edgepaas.app import Application
    from edgepaas.settings import Settings

logger = logging.getLogger("edgepaas.schema")

#: Seconds between two requests to systemd for more time, and how much each one asks for.
_EXTEND_EVERY = 10.0
_EXTEND_BY = 60.0

_OWNER = "look at the owner and the mode of the folder and of the file ('edgepaas doctor' does)"
#: What to do about a folder that cannot be written.
_ADVICE = {
    errno.EROFS: (
        "its file system is read-only, as the kernel leaves one with a failing disk: look at "
        "'dmesg' and 'findmnt', check the disk (fsck), then 'mount -o remount,rw' it"
    ),
    errno.EACCES: _OWNER,
    errno.EPERM: _OWNER,
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the quota is used up: make room",
    errno.EBUSY: "it is mounted or in use: unmount it, or name another file",
    errno.EISDIR: "a folder lies where a file belongs: move it away",
    errno.ENOTDIR: "a file lies where a folder belongs: move it away",
    errno.EEXIST: "a file lies where a folder belongs: move it away",
    errno.EIO: "the disk fails: look at 'dmesg' and replace it",
}


def prepare_database(
    contract: DatabaseContract,
    settings: "Settings",
    paths: Paths,
    application: "Application",
) -> SchemaReport:
    """Bring the database that *contract* names to the application's head revision.

    Writes ``run/tables.json``. With a hub the SQLite file captures every change when it
    serves, and is kept ready to where it may have to. The report's action is ``refused`` where
    this build cannot work on the database: nothing was changed, and the service answers 503.
    Raises DecideAgain when PostgreSQL turned out unusable and SQLite can take over
    (``state/postgres-hold`` then says why), SchemaError, LockHeld or a DatabaseError when no
    safe way round is left.
    """
    chain = chain_of(application)
    chain.check_folder()

    @cache
    def models() -> "MetaData | None":
        return metadata_of(application)

    with extended_start_timeout(), _explained_folder_errors(paths):
        stage = _Stage(contract, settings, paths, chain, models)
        clear_problem(paths)
        try:
            report = stage.on_sqlite() if contract.sqlite_active else stage.on_postgres()
        except SchemaRefused as error:
            return stage.refuse(error)
        clear_refusal(paths)
        resolve_alerts(contract, paths, report)
        return report


@dataclass(frozen=True)
class _Stage:
    """One run of the stage."""

    contract: DatabaseContract
    settings: "Settings"
    paths: Paths
    chain: Chain
    models: "Callable[[], MetaData | None]"

    def on_sqlite(self) -> SchemaReport:
        """Bring the file to head; it serves even where capture cannot be put in place.

        Raises SchemaRefused at once where nothing has changed since it was refused last.
        """
        if refused := refused_before(self.paths, self._attempt):
            raise SchemaRefused(refused)
        report = self._prepare_file()
        document = self._publish()
        try:
            return self._with_rows_taken_back(self._with_capture(report, document), document)
        except sqlite3.DatabaseError as error:
            damaged = error_for(self.contract.sqlite_path, error)
            if not isinstance(damaged, Damaged):
                return self._uncaptured(report, error)
        except (EdgePaaSError, OSError) as error:
            return self._uncaptured(report, error)
        # The quick check did not see it: once more, to the end of the file.
        note_damage(self.contract.sqlite_path, damaged)
        report = self._prepare_file()
        try:
            return self._with_capture(report, document)
        except (sqlite3.Error, EdgePaaSError, OSError) as error:
            return self._uncaptured(report, error)

    def on_postgres(self) -> SchemaReport:
        """Bring PostgreSQL to head, then the file that would take over; never fails for that."""
        report = _prepare_postgres(
            self.contract, self.settings, self.paths, self.chain, self.models
        )
        note_hub_conditions(self.paths, report)
        document = self._publish()
        if self.contract.fallback_armed:
            self._prepare_fallback(document)
        return report

    def refuse(self, error: SchemaRefused) -> SchemaReport:
        """Have the service answer 503 with the reason; what is captured already is still sent."""
        another = isinstance(error, OfAnotherApplication)
        reason = str(error)
        (DATABASE_FOREIGN if another else SCHEMA_REFUSED).raise_alert(reason)
        on_sqlite = self.contract.sqlite_active
        # That it is another application's is found again at no cost.
        record_refusal(self.paths, reason, "" if another or not on_sqlite else self._attempt())
        self._publish()
        database: Literal["sqlite", "postgresql"] = "sqlite" if on_sqlite else "postgresql"
        return SchemaReport(database, "refused", (), (), f"REFUSED, the box answers 503: {reason}")

    def _attempt(self) -> str:
        return attempt_on_file(self.contract, self.settings, self.chain)

    def _prepare_file(self, *, serving: bool = True) -> SchemaReport:
        path = self.contract.sqlite_path
        tidy(self.paths, path, least_free=self.settings.size("DISK_MIN_FREE"))
        report = bring_file_to_head(
            self.contract, self.paths, self.chain, self.models, check=serving
        )
        tables.note_user(self.paths, path, self.chain.name)
        return report

    def _publish(self) -> dict[str, Any]:
        name = self.settings.text("EDGEPAAS_APP")
        document = tables.remembered(self.paths, name, self.chain)
        if document is None:
            document = tables.make(self.paths, name, self.chain, self.models())
        tables.publish(self.paths, document)
        return document

    def _with_capture(self, report: SchemaReport, document: dict[str, Any]) -> SchemaReport:
        path = self.contract.sqlite_path
        if not self.contract.hub_url:
            capture_nothing(path, self.paths, document)
            return report
        steps = [capture(path, self.paths, document), show_own_history(path, self.paths)]
        done = "; ".join(filter(None, steps))
        return replace(report, message=f"{report.message}; {done}") if done else report

    def _with_rows_taken_back(self, report: SchemaReport, document: dict[str, Any]) -> SchemaReport:
        """Bring back what is set aside and can be used again; what was not captured is queued."""
        path = self.contract.sqlite_path
        if not to_be_taken_back(self.paths, path, ""):
            return report
        from edgepaas.schema.sqlite.taking_back import take_back

        with held(self.paths.database_lock, shared=True):
            found = take_back(path, self.paths, self.chain, self.models)
        if found.done:
            report = self._with_capture(report, document)
        return replace(report, message="; ".join((report.message, *found.done, *found.failed)))

    def _uncaptured(self, report: SchemaReport, error: Exception) -> SchemaReport:
        if not self.contract.hub_url:
            logger.warning("capture cannot be removed from the SQLite file: %s", brief(error))
            return report
        message = f"what is written now may not reach PostgreSQL: {brief(error)}"
        record_problem(self.paths, message, NOT_CAPTURED)
        return replace(
            report, message=f"{report.message}; WARNING: {NOT_CAPTURED.message(message)}"
        )

    def _prepare_fallback(self, document: dict[str, Any]) -> None:
        try:
            report = self._prepare_file(serving=False)
            done = capture(self.contract.sqlite_path, self.paths, document)
            report = self._with_rows_taken_back(report, document)
        except Exception as error:
            # Whatever it is: PostgreSQL serves, and a broken spare must not stop it.
            logger.debug("the fallback cannot be prepared", exc_info=error)
            record_problem(
                self.paths,
                f"PostgreSQL serves, but SQLite could not take over as it is: {brief(error)}",
                FALLBACK_NOT_READY,
            )
            return
        resolve_file_alerts(self.contract, report)
        if done or report.action != "nothing":
            logger.info("the SQLite file is ready to take over: %s", report.message)


def _prepare_postgres(
    contract: DatabaseContract,
    settings: "Settings",
    paths: Paths,
    chain: Chain,
    models: "Callable[[], MetaData | None]",
) -> SchemaReport:
    from edgepaas.database.postgresql.connector import Connector
    from edgepaas.files.node_identity import node_identity
    from edgepaas.schema.postgresql.migrate import parts_of, prepare_postgres
    from edgepaas.schema.renames.boxes import OwnBox

    connector = Connector(contract.database_url, settings, name="edgepaas-schema")
    try:
        parts = parts_of(chain, models)
        return prepare_postgres(
            connector,
            parts,
            run_migrations=contract.run_migrations,
            revisions=fresh_rehearsal(paths, contract.database_url),
            own=OwnBox(node_identity(paths).node_id, contract.sqlite_path),
        )
    except (SchemaError, DatabaseUnavailable) as error:
        if not contract.fallback_armed:
            if isinstance(error, SchemaError) and not isinstance(error, SchemaRefused):
                raise SchemaRefused(str(error)) from error
            raise
        hold_postgres(paths, settings, str(error))
        raise DecideAgain(
            f"{error}; PostgreSQL is held back and the chain decides again"
        ) from error


def hold_postgres(paths: Paths, settings: "Settings", reason: str) -> None:
    """Keep PostgreSQL from being chosen for POSTGRES_HOLD seconds, and raise an alert."""
    from edgepaas.decision.hold import hold_after_failed_start

    hold_after_failed_start(paths.postgres_hold, reason, settings.number("POSTGRES_HOLD"))
    POSTGRES_UNUSABLE.raise_alert(f"PostgreSQL was reachable but cannot be used: {reason}")


@contextlib.contextmanager
def _explained_folder_errors(paths: Paths) -> Iterator[None]:
    """Say what to do where the box's own folders cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        place = error.filename or paths.state
        raise SchemaError(
            f"{place} cannot be written ({error.strerror}): {_ADVICE[error.errno]}"
        ) from error


@contextlib.contextmanager
def extended_start_timeout() -> Iterator[None]:
    """Report to systemd, while the block runs, that a long check or migration is no hang.

    EXTEND_TIMEOUT_USEC of sd_notify(3); does nothing outside of systemd.
    """
    done = threading.Event()

    def ask() -> None:
        from sdnotify import SystemdNotifier

        notifier = SystemdNotifier()
        while not done.wait(_EXTEND_EVERY):
            notifier.notify(f"EXTEND_TIMEOUT_USEC={int(_EXTEND_BY * 1_000_000)}")

    # A short run ends before the thread has imported anything.
    thread = threading.Timer(_EXTEND_EVERY, ask)
    thread.daemon = True
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.cancel()
