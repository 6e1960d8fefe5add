# SPDX-License-Identifier: Apache-2.0
"""Examinations of forwarding: drainer, wake-up, capture, ledger, disk budget, ballast, hub."""

import sqlite3
import stat
from typing import Any

from edgepaas.alerts.catalogue import HUB_REVISION_WAITS, HUB_RIGHTS
from edgepaas.decision.contract import DatabaseContract
from edgepaas.doctor.findings import Finding
from edgepaas.errors import DatabaseUnavailable
from edgepaas.files.contract import ContractMissing
from edgepaas.files.paths import Paths
from edgepaas.outbox import capture
from edgepaas.outbox.journal.space import usage_of_both
from edgepaas.outbox.layout import read_document
from edgepaas.outbox.space.budget import LEVEL_STARTS, budget_of
from edgepaas.schema.hub_conditions import read_hub_conditions
from edgepaas.settings import Settings
from edgepaas.sync import status as sync_status
from edgepaas.sync.audit.box import BoxUnreadable, opened_for_audit, read_box
from edgepaas.sync.errors import HubError, HubUnreachable

_RUN_THE_CHAIN = "run the boot chain: 'edgepaas up', or 'systemctl restart edgepaas'"
#: Where it was never there it makes it as well, and where it was dropped nothing else does.
_MISSING = "'edgepaas schema --repair' makes what is missing"
_MIB = 1024 * 1024


def drainer(paths: Paths) -> list[Finding]:
    """Whether a drainer runs, whether it can deliver rows, and whether it can be woken."""
    contract = _contract(paths)
    if contract is None or not contract.hub_url:
        return [Finding("sync", "ok", "there is no PostgreSQL to send rows to")]
    status = sync_status.read(paths)
    if status is None or not status.fresh:
        advice = "see 'systemctl status edgepaas-sync'; 'edgepaas up' starts it by itself"
        return [
            Finding("sync", "fail", "edgepaas sync does not run; rows are not delivered", advice)
        ]
    return [_state_of(status), _wake_up(paths)]


def captured(paths: Paths, settings: Settings) -> Finding:
    """Whether the capture triggers of every forwarded table are installed."""
    contract = _contract(paths)
    if contract is None or not contract.hub_url or contract.final_db_mode == "postgres_only":
        return Finding("capture", "ok", "not needed: there is no hub, or SQLite never serves")
    document = _tables(paths)
    if document is None:
        return Finding("capture", "warn", f"{paths.tables} does not exist", _RUN_THE_CHAIN)
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
    """Whether the ledger of the box adds up."""
    try:
        with opened_for_audit(settings.sqlite_file(paths.state), paths.database_lock) as connection:
            box = read_box(connection)
    except (BoxUnreadable, sqlite3.Error) as error:
        return Finding("ledger", "fail", str(error), "'edgepaas schema --repair'")
    if wrong := box.discrepancies():
        return Finding("ledger", "fail", "; ".join(wrong), "see 'edgepaas audit'")
    counters = box.counters
    message = f"{counters['accepted']:,} rows accepted, {counters['pending']:,} pending"
    return Finding("ledger", "ok", f"{message}; 'edgepaas audit' also checks PostgreSQL")


def budget(paths: Paths, settings: Settings) -> Finding:
    """How much of DISK_BUDGET the SQLite file uses."""
    path = settings.sqlite_file(paths.state)
    with opened_for_audit(path, paths.database_lock) as connection:
        if connection is None:
            return Finding("disk budget", "ok", "there is no SQLite file yet")
        used = usage_of_both(connection, path, budget_of(path, settings.size("DISK_BUDGET")))
    if used.share < LEVEL_STARTS["alert"]:
        return Finding("disk budget", "ok", used.text)
    advice = "make PostgreSQL reachable so that rows leave, raise DISK_BUDGET, or set LOW_VALUE"
    full = used.share >= LEVEL_STARTS["full"]
    return Finding("disk budget", "fail" if full else "warn", used.text, advice)


def ballast(paths: Paths, settings: Settings) -> Finding:
    """Whether the ballast file exists, which reserves space for the case of a full disk."""
    wanted = settings.size("BALLAST")
    if not wanted:
        return Finding("ballast", "ok", "none is configured (BALLAST=0)")
    try:
        size = paths.ballast.stat().st_size
    except FileNotFoundError:
        if _contract(paths) is None:
            return Finding("ballast", "ok", "the boot chain creates it")
        return Finding(
            "ballast",
            "warn",
            f"{paths.ballast} does not exist: on a full disk no rows could be deleted",
            "free some disk space; the box then creates it by itself",
        )
    return Finding("ballast", "ok", f"{size // _MIB} MiB are reserved")


def hub_schema(paths: Paths, settings: Settings) -> Finding:
    """Whether PostgreSQL has the tables that forwarding needs."""
    contract = _contract(paths)
    if contract is None or not contract.hub_url:
        return Finding("hub schema", "ok", "there is no hub")
    from edgepaas.sync.hub.connection import open_hub

    try:
        with open_hub(settings, contract.hub_url, name="edgepaas-doctor") as hub:
            existing = hub.tables
    except HubUnreachable as error:
        return Finding("hub schema", "ok", f"not examined: {error}")
    except HubError as error:
        return Finding("hub schema", "fail", str(error), "correct what the message names")
    return _of_tables(set(existing), contract.hub_url, paths, settings)


def _of_tables(existing: set[str], hub_url: str, paths: Paths, settings: Settings) -> Finding:
    """Judge the tables of a hub that answers."""
    document = _tables(paths) or {"tables": {}}
    wanted = {name for name, table in document["tables"].items() if table["kind"] != "local"}
    missing = sorted((wanted | {"sync_streams", "nodes"}) - existing)
    if missing:
        message = f"PostgreSQL lacks {', '.join(missing)}"
        return Finding("hub schema", "fail", message, _MISSING)
    if unfit := _unfit(settings, hub_url):
        advice = (
            _MISSING
            if "edgepaas schema --repair" in unfit
            else "have the owner of the table run what the message names; the rows wait until then"
        )
        return Finding("hub schema", "fail", unfit, advice)
    if held_up := read_hub_conditions(paths):
        message = "; ".join(filter(None, (held_up.rights, held_up.waiting)))
        entry = HUB_RIGHTS if held_up.rights else HUB_REVISION_WAITS
        return Finding("hub schema", "warn", message, entry.what_to_do)
    return Finding("hub schema", "ok", f"PostgreSQL has the {len(wanted)} forwarded tables")


def _unfit(settings: Settings, hub_url: str) -> str:
    """Return what is wrong with PostgreSQL's schema; empty: nothing."""
    from edgepaas.hosting.loading import load_application
    from edgepaas.schema.hub_check import hub_problem

    application = load_application(settings.text("EDGEPAAS_APP"))
    try:
        return hub_problem(hub_url, settings, application, name="edgepaas-doctor")
    except DatabaseUnavailable:
        return ""  # it went away since it was asked for its tables


def _state_of(status: sync_status.SyncStatus) -> Finding:
    message = f"{status.state}, PostgreSQL {status.hub}, {status.rows_waiting:,} rows waiting"
    if status.reason:
        message += f": {status.reason}"
    if status.state == "blocked" or status.hub in ("misconfigured", "schema", "error"):
        return Finding("sync", "fail", message, "see 'edgepaas sync status'")
    open_letters = status.open_dead_letters or 0
    if open_letters:
        advice = "see 'edgepaas sync dead-letters'"
        return Finding("sync", "warn", f"{message}; {open_letters} dead letters", advice)
    return Finding("sync", "ok", message)


def _wake_up(paths: Paths) -> Finding:
    try:
        exists = stat.S_ISSOCK(paths.sync_wake.stat().st_mode)
    except OSError:
        exists = False
    if exists:
        return Finding("wake-up", "ok", f"{paths.sync_wake} exists")
    message = f"{paths.sync_wake} is not a socket: rows are sent up to a second late"
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
