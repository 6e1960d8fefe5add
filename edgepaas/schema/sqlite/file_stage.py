# SPDX-License-Identifier: Apache-2.0
"""The schema stage's two ways with the SQLite file: a look that it is at head, or all the rest.

Imports nothing heavy: at most boots the look is all.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgepaas.alerts.catalogue import DATABASE_FOREIGN
from edgepaas.build import build_version
from edgepaas.decision.contract import DatabaseContract
from edgepaas.errors import DatabaseUnavailable
from edgepaas.files.locks import LockHeld, held
from edgepaas.files.paths import Paths
from edgepaas.files.sqlite_file import damage_noted, open_refusal_reason, wal_of
from edgepaas.schema import table_contract as tables
from edgepaas.schema.chain import Chain, show
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.report import SchemaReport

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from edgepaas.settings import Settings

logger = logging.getLogger("edgepaas.schema")


def attempt_on_file(contract: DatabaseContract, settings: "Settings", chain: Chain) -> str:
    """Return what stands for the code as it is, and for the file that it is to work on."""
    path = contract.sqlite_path
    if not path.exists():
        return ""
    stamps: list[object] = [build_version(), chain.name]
    code = tables.application_files(settings.text("EDGEPAAS_APP"))
    for file in (*code, *chain.scripts(), path, wal_of(path)):
        with contextlib.suppress(OSError):
            status = file.stat()
            stamps.append((str(file), status.st_ino, status.st_mtime_ns, status.st_size))
    return hashlib.sha256(repr(stamps).encode()).hexdigest()[:32]


def _report_if_at_head(
    contract: DatabaseContract, paths: Paths, chain: Chain, *, check: bool
) -> SchemaReport | None:
    """Return a report when the SQLite file is sound and at head; None to take the long way.

    Without *check* it is not asked whether it is sound: it will be when it has to serve.

    Needs no exclusive lock, so that it can be asked beside a running service.
    """
    from edgepaas.schema.sqlite.inspection import inspect_file

    path = contract.sqlite_path
    try:
        # A check to the end of a file, or anything to be moved, is for the exclusive lock.
        if chain.unwritten or not path.is_file() or path.stat().st_size == 0:
            return None
        if open_refusal_reason(path) or damage_noted(path):
            return None
        with held(paths.database_lock, shared=True):
            found = inspect_file(path, chain, check=check, named=True)
    except (SchemaError, DatabaseUnavailable, LockHeld) as error:
        logger.info("the SQLite file has to be examined: %s", error)
        return None
    if found != chain.heads:
        return None
    revisions = tuple(sorted(found))
    return SchemaReport("sqlite", "nothing", revisions, revisions, f"at head ({show(revisions)})")


def bring_file_to_head(
    contract: DatabaseContract,
    paths: Paths,
    chain: Chain,
    models: "Callable[[], MetaData | None]",
    *,
    check: bool,
) -> SchemaReport:
    """Bring the contract's SQLite file to head, by the short way where there is nothing to do.

    Raises what edgepaas.schema.sqlite.migrate.prepare_sqlite does.
    """
    path = contract.sqlite_path
    report = _report_if_at_head(contract, paths, chain, check=check)
    if report is None:
        from edgepaas.schema.sqlite.migrate import prepare_sqlite

        report = prepare_sqlite(path, paths, chain, models)
    DATABASE_FOREIGN.resolve_alert(f"{path} is the application {chain.name}'s")
    return report
