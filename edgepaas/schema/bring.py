"""The schema stage: bring the decided database to head, or send the chain round again."""

import contextlib
import errno
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from edgepaas.alerts import raise_alert
from edgepaas.decision.contract import DatabaseContract
from edgepaas.errors import DatabaseUnavailable, DecideAgain
from edgepaas.files.locks import LockHeld, held
from edgepaas.files.paths import Paths
from edgepaas.files.sqlitefile import damage_noted, not_to_be_opened
from edgepaas.schema import tables
from edgepaas.schema.chain import Chain, chain_of, show
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.housekeeping import put_in_order
from edgepaas.schema.report import SchemaReport

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from edgepaas.application import Application
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


def bring_to_head(
    contract: DatabaseContract,
    settings: "Settings",
    paths: Paths,
    application: "Application",
) -> SchemaReport:
    """Bring the database that *contract* names to the application's head revision.

    Writes ``run/tables.json``. Raises DecideAgain when PostgreSQL turned out unusable and
    SQLite can take over (``state/postgres-hold`` then says why), SchemaError, LockHeld or a
    DatabaseError when no safe way round is left.
    """
    chain = chain_of(application)
    chain.check_folder()
    models = _checked_models(application)
    with _asking_for_time(), _telling_of_folders(paths):
        if contract.sqlite_active:
            least_free = settings.size("DISK_MIN_FREE")
            put_in_order(paths, contract.sqlite_path, least_free=least_free)
            report = _bring_sqlite(contract, paths, chain, models)
        else:
            report = _bring_postgres(contract, settings, paths, chain, models)
        name = settings.text("EDGEPAAS_APP")
        document = tables.remembered(paths, name, chain)
        if document is None:
            document = tables.make(paths, name, chain, models())
        if contract.sqlite_active:
            tables.note_user(paths, contract.sqlite_path, chain.name)
        tables.publish(paths, document)
    return report


def _fast(contract: DatabaseContract, paths: Paths, chain: Chain) -> SchemaReport | None:
    """Return a report when the SQLite file is sound and at head; None to take the long way.

    Needs no exclusive lock, so that it can be asked beside a running service.
    """
    from edgepaas.schema.embedded import look

    path = contract.sqlite_path
    try:
        # A check to the end of a file, or anything to be moved, is for the exclusive lock.
        if chain.unwritten or not path.is_file() or path.stat().st_size == 0:
            return None
        if not_to_be_opened(path) or damage_noted(path):
            return None
        with held(paths.database_lock, shared=True):
            found = look(path, chain)
    except (SchemaError, DatabaseUnavailable, LockHeld) as error:
        logger.info("the SQLite file needs a closer look: %s", error)
        return None
    if found != chain.heads:
        return None
    revisions = tuple(sorted(found))
    return SchemaReport("sqlite", "nothing", revisions, revisions, f"at head ({show(revisions)})")


def _bring_sqlite(
    contract: DatabaseContract, paths: Paths, chain: Chain, models: "Callable[[], MetaData | None]"
) -> SchemaReport:
    path = contract.sqlite_path
    before = tables.last_user(paths, path)
    if before in ("", chain.name):
        report = _fast(contract, paths, chain)
        if report is not None:
            return report
    from edgepaas.schema.embedded import bring_sqlite

    foreign = before not in ("", chain.name) and path.exists()
    report = bring_sqlite(path, paths, chain, models, foreign=foreign)
    if not foreign or report.action in ("created", "replaced"):
        return report
    warning = (
        f"{path} was the application {before}'s until now, and {chain.name} goes on with it: "
        f"give each a file of its own with DATABASE_URL_SQLITE"
    )
    raise_alert(warning, severity="warning", fingerprint="sqlite-foreign", origin="schema")
    return replace(report, message=f"{report.message}; WARNING: {warning}")


def _bring_postgres(
    contract: DatabaseContract,
    settings: "Settings",
    paths: Paths,
    chain: Chain,
    models: "Callable[[], MetaData | None]",
) -> SchemaReport:
    from edgepaas.database.connector import Connector
    from edgepaas.schema.server import bring_postgres

    connector = Connector(contract.database_url, settings, name="edgepaas-schema")
    try:
        return bring_postgres(connector, chain, models, run_migrations=contract.run_migrations)
    except (SchemaError, DatabaseUnavailable) as error:
        if not contract.fallback_armed:
            raise
        hold_postgres(paths, settings, str(error))
        raise DecideAgain(
            f"{error}; PostgreSQL is held back for {settings.number('POSTGRES_HOLD'):g} s "
            f"and the chain decides again"
        ) from error


def hold_postgres(paths: Paths, settings: "Settings", reason: str) -> None:
    """Keep PostgreSQL from being chosen for POSTGRES_HOLD seconds, and tell a human why."""
    from edgepaas.decision.hold import write_hold

    write_hold(paths.postgres_hold, reason, settings.number("POSTGRES_HOLD"))
    raise_alert(
        f"PostgreSQL was reachable but cannot be used: {reason}; SQLite serves meanwhile and "
        f"PostgreSQL is tried again by itself",
        severity="critical",
        fingerprint="postgres-unusable",
        origin="schema",
    )


def _checked_models(application: "Application") -> "Callable[[], MetaData | None]":
    @cache
    def models() -> "MetaData | None":
        metadata = application.metadata
        if metadata is not None:
            from edgepaas.database.model import check_metadata

            try:
                check_metadata(metadata)
            except TypeError as error:
                raise SchemaError(f"the application {application.name}: {error}") from error
        return metadata

    return models


@contextlib.contextmanager
def _telling_of_folders(paths: Paths) -> Iterator[None]:
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
def _asking_for_time() -> Iterator[None]:
    """Tell systemd, while the block runs, that a long check or migration is no hang.

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
