# SPDX-License-Identifier: Apache-2.0
"""The way home of the rows: the drainer, its wake-up, capture, ledger, budget, ballast, the hub."""

import sqlite3
import stat
from typing import Any

from edgepaas.decision.contract import DatabaseContract
from edgepaas.doctor.findings import Finding
from edgepaas.files.contract import ContractMissing
from edgepaas.files.paths import Paths
from edgepaas.outbox import capture
from edgepaas.outbox.layout import read_document
from edgepaas.outbox.space.budget import FROM, budget_of, usage
from edgepaas.settings import Settings
from edgepaas.sync import status as sync_status
from edgepaas.sync.audit.box import BoxUnreadable, opened_for_audit, read_box
from edgepaas.sync.errors import HubError, HubUnreachable

_RUN_THE_CHAIN = "run the chain: 'edgepaas up', or 'systemctl restart edgepaas'"
_MIB = 1024 * 1024


def drainer(paths: Paths) -> list[Finding]:
    """Whether rows are being sent, and whoever sends them can be woken."""
    contract = _contract(paths)
    if contract is None or not contract.hub_url:
        return [Finding("sync", "ok", "there is no PostgreSQL to send rows to")]
    status = sync_status.read(paths)
    if status is None or not status.fresh:
        advice = "'systemctl status edgepaas-sync'; 'edgepaas up' runs it by itself"
        return [Finding("sync", "fail", "edgepaas sync does not run; rows stay here", advice)]
    return [_state_of(status), _wake_up(paths)]


def captured(paths: Paths, settings: Settings) -> Finding:
    """Whether every change of the SQLite file would reach the hub, trigger by trigger."""
    contract = _contract(paths)
    if contract is None or not contract.hub_url or contract.final_db_mode == "postgres_only":
        return Finding("capture", "ok", "nothing is captured: no hub, or SQLite never serves")
    document = _tables(paths)
    if document is None:
        return Finding("capture", "warn", f"{paths.tables} is not there", _RUN_THE_CHAIN)
    try:
        with opened_for_audit(settings.sqlite_file(paths.state), paths.database_lock) as connection:
            if connection is None:
                return Finding("capture", "warn", "there is no SQLite file", _RUN_THE_CHAIN)
            found = capture.problems(connection, document)
    except (BoxUnreadable, sqlite3.Error) as error:
        return Finding("capture", "fail", str(error), "'edgepaas schema --repair'")
    if found:
        return Finding("capture", "fail", "; ".join(found), _RUN_THE_CHAIN)
    return Finding("capture", "ok", "every forwarded table has its triggers")


def ledger(paths: Paths, settings: Settings) -> Finding:
    """Whether the box's own side of the ledger adds up."""
    try:
        with opened_for_audit(settings.sqlite_file(paths.state), paths.database_lock) as connection:
            box = read_box(connection)
    except (BoxUnreadable, sqlite3.Error) as error:
        return Finding("ledger", "fail", str(error), "'edgepaas schema --repair'")
    if wrong := box.discrepancies():
        return Finding("ledger", "fail", "; ".join(wrong), "'edgepaas audit' says more")
    counters = box.counters
    said = f"{counters['accepted']:,} rows accepted, {counters['pending']:,} pending"
    return Finding("ledger", "ok", f"{said}; 'edgepaas audit' asks PostgreSQL, too")


def budget(paths: Paths, settings: Settings) -> Finding:
    """How much of DISK_BUDGET the SQLite file uses."""
    path = settings.sqlite_file(paths.state)
    with opened_for_audit(path, paths.database_lock) as connection:
        if connection is None:
            return Finding("disk budget", "ok", "there is no SQLite file yet")
        used = usage(connection, budget_of(path, settings.size("DISK_BUDGET")))
    if used.share < FROM["alert"]:
        return Finding("disk budget", "ok", used.text)
    advice = "have PostgreSQL take the rows that wait, raise DISK_BUDGET, or name LOW_VALUE rows"
    full = used.share >= FROM["full"]
    return Finding("disk budget", "fail" if full else "warn", used.text, advice)


def ballast(paths: Paths, settings: Settings) -> Finding:
    """Whether the space that a full disk needs is kept back."""
    wanted = settings.size("BALLAST")
    if not wanted:
        return Finding("ballast", "ok", "none is wanted (BALLAST=0)")
    try:
        size = paths.ballast.stat().st_size
    except FileNotFoundError:
        if _contract(paths) is None:
            return Finding("ballast", "ok", "the chain keeps it back when it runs")
        return Finding(
            "ballast",
            "warn",
            f"{paths.ballast} is not there: a full disk could not be cleared",
            "make room; the box takes it back by itself",
        )
    return Finding("ballast", "ok", f"{size // _MIB} MiB are kept back")


def hub_schema(paths: Paths, settings: Settings) -> Finding:
    """Whether PostgreSQL has the tables that forwarding needs."""
    contract = _contract(paths)
    if contract is None or not contract.hub_url:
        return Finding("hub schema", "ok", "there is no hub")
    from edgepaas.sync.hub.connection import open_hub

    try:
        with open_hub(settings, contract.hub_url, name="edgepaas-doctor") as hub:
            there = hub.tables
    except HubUnreachable as error:
        return Finding("hub schema", "ok", f"not looked at: {error}")
    except HubError as error:
        return Finding("hub schema", "fail", str(error), "mend it, as the message says")
    document = _tables(paths) or {"tables": {}}
    wanted = {name for name, table in document["tables"].items() if table["kind"] != "local"}
    missing = sorted((wanted | {"sync_streams", "nodes"}) - set(there))
    if missing:
        message = f"PostgreSQL lacks {', '.join(missing)}"
        return Finding("hub schema", "fail", message, "'edgepaas schema --hub' makes it")
    return Finding("hub schema", "ok", f"PostgreSQL has the {len(wanted)} forwarded tables")


def _state_of(status: sync_status.SyncStatus) -> Finding:
    said = f"{status.state}, PostgreSQL {status.hub}, {status.rows_waiting:,} rows waiting"
    if status.reason:
        said += f": {status.reason}"
    if status.state == "blocked" or status.hub in ("misconfigured", "schema"):
        return Finding("sync", "fail", said, "'edgepaas sync status' says more")
    open_letters = status.open_dead_letters or 0
    if open_letters:
        advice = "'edgepaas sync dead-letters'"
        return Finding("sync", "warn", f"{said}; {open_letters} dead letters", advice)
    return Finding("sync", "ok", said)


def _wake_up(paths: Paths) -> Finding:
    try:
        there = stat.S_ISSOCK(paths.sync_wake.stat().st_mode)
    except OSError:
        there = False
    if there:
        return Finding("wake-up", "ok", f"{paths.sync_wake} is there")
    message = f"{paths.sync_wake} is no socket: rows are sent a second later than they could be"
    return Finding("wake-up", "warn", message, "'systemctl restart edgepaas-sync'")


def _contract(paths: Paths) -> DatabaseContract | None:
    try:
        return DatabaseContract.read(paths.db_contract)
    except ContractMissing:
        return None


def _tables(paths: Paths) -> dict[str, Any] | None:
    try:
        return read_document(paths.tables)
    except (OSError, ValueError):
        return None
