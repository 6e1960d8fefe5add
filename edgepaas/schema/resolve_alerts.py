# SPDX-License-Identifier: Apache-2.0
"""What a run of the schema stage ends: alerts whose cause it did not find any more."""

from edgepaas.alerts import resolve_alert
from edgepaas.decision.contract import DatabaseContract
from edgepaas.files.paths import Paths
from edgepaas.schema.open_problems import trouble
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.sqlite.quarantine import set_aside

_ORIGIN = "schema"
#: What :func:`edgepaas.schema.open_problems.note_trouble` is called with.
_TROUBLES = ("not-captured", "fallback-not-ready", "salvage-failed")


def end_alerts(contract: DatabaseContract, paths: Paths, report: SchemaReport) -> None:
    """Resolve what the stage raised before and *report*, of a run that succeeded, is free of."""
    over = []
    if not contract.sqlite_active:
        over.append(("postgres-unusable", "PostgreSQL can be used again"))
    elif report.action != "unmigrated":
        over.append(("sqlite-unmigrated", f"{contract.sqlite_path}: {report.message}"))
    if not trouble(paths):
        over += [(one, "the schema stage did all that it had to") for one in _TROUBLES]
    if not set_aside(paths, contract.sqlite_path):
        over.append(("sqlite-replaced", "nothing is set aside any more"))
    for fingerprint, said in over:
        resolve_alert(said, fingerprint=fingerprint, origin=_ORIGIN)
