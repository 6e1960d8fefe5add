# SPDX-License-Identifier: Apache-2.0
"""The schema stage's part of the alert catalogue's checks: what a good run resolves."""

from edgepaas.alerts.catalogue import (
    FALLBACK_NOT_READY,
    NOT_CAPTURED,
    POSTGRES_UNUSABLE,
    SALVAGE_FAILED,
    SCHEMA_REFUSED,
    SQLITE_REPLACED,
    SQLITE_UNMIGRATED,
)
from edgepaas.decision.contract import DatabaseContract
from edgepaas.files.paths import Paths
from edgepaas.schema.open_problems import open_problem
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.sqlite.quarantine import list_quarantined

#: What :func:`edgepaas.schema.open_problems.record_problem` is called with.
PROBLEMS = (NOT_CAPTURED, FALLBACK_NOT_READY, SALVAGE_FAILED)


def resolve_alerts(contract: DatabaseContract, paths: Paths, report: SchemaReport) -> None:
    """Resolve what earlier runs raised and *report*, of a run that succeeded, is free of."""
    SCHEMA_REFUSED.resolve_alert(f"this release works on the database: {report.message}")
    if contract.sqlite_active:
        resolve_file_alerts(contract, report)
    else:
        POSTGRES_UNUSABLE.resolve_alert("PostgreSQL can be used again")
    if not open_problem(paths):
        for entry in PROBLEMS:
            entry.resolve_alert("the schema stage did all that it had to")
    if not list_quarantined(paths, contract.sqlite_path):
        SQLITE_REPLACED.resolve_alert("nothing is set aside any more")


def resolve_file_alerts(contract: DatabaseContract, report: SchemaReport) -> None:
    """Resolve what is over once the SQLite file was brought to head, as *report* says."""
    if report.action != "unmigrated":
        SQLITE_UNMIGRATED.resolve_alert(f"{contract.sqlite_path}: {report.message}")
