"""The schema stage: bring the decided database to head, or send the chain round again."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from edgepaas.alerts import raise_alert
from edgepaas.decision.contract import DatabaseContract
from edgepaas.errors import DatabaseUnavailable, DecideAgain
from edgepaas.files.locks import LockHeld, held
from edgepaas.files.paths import Paths
from edgepaas.schema import tables
from edgepaas.schema.chain import Chain, chain_of, show
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.report import SchemaReport

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from edgepaas.application import Application
    from edgepaas.settings import Settings

logger = logging.getLogger("edgepaas.schema")

#: Seconds between two requests to systemd for more time, and how much each one asks for.
_EXTEND_EVERY = 10.0
_EXTEND_BY = 60.0


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
    models = _checked_models(application)
    with _asking_for_time():
        if contract.sqlite_active:
            report = _fast(contract, paths, chain) or _bring_sqlite(contract, paths, chain, models)
        else:
            report = _bring_postgres(contract, settings, paths, chain, models)
        name = settings.text("EDGEPAAS_APP")
        document = tables.remembered(paths, name, chain)
        if document is None:
            document = tables.make(paths, name, chain, models())
        tables.publish(paths, document)
    return report


def _fast(contract: DatabaseContract, paths: Paths, chain: Chain) -> SchemaReport | None:
    """Return a report when the SQLite file is sound and at head; None to take the long way.

    Needs no exclusive lock, so that it can be asked beside a running service.
    """
    from edgepaas.schema.embedded import look

    path = contract.sqlite_path
    if chain.folder is None or not path.is_file():
        return None
    try:
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
    from edgepaas.schema.embedded import bring_sqlite

    return bring_sqlite(contract.sqlite_path, paths, chain, models)


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
