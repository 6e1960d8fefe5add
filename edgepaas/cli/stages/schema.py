# SPDX-License-Identifier: Apache-2.0
"""``edgepaas schema``: the boot chain's third stage, and what a developer does to migrations."""

import argparse
import contextlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.errors import EXIT_DONE, EXIT_FAILED, UsageError
from edgepaas.files.paths import Paths, find_paths
from edgepaas.terminal import announce, print_json, say

if TYPE_CHECKING:
    from edgepaas.app import Application
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.schema.report import SchemaReport
    from edgepaas.settings import Settings

DESCRIPTION = """\
Bring the decided database to the newest revision and write run/tables.json.

A fresh SQLite file is made by the application's migrations; an older one is migrated on a
copy, checked and swapped in. One on which this release cannot work is left as it is: the
box then answers 503 with the reason (exit status 0; --check tells). PostgreSQL is migrated
in one transaction under an advisory lock; if it turns out to be unusable and SQLite may
take over, the chain is sent round again (exit status 75)."""

logger = logging.getLogger("edgepaas.schema")

#: Seconds that PostgreSQL alone waits for the rows that SQLite holds.
DRAIN_SECONDS = 60.0
#: Seconds that a drainer has to end.
_PATIENCE = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    verbs = parser.add_mutually_exclusive_group()
    verbs.add_argument(
        "--check",
        action="store_true",
        help="only check whether it is at head and takes every row as it is, and, while SQLite "
        "serves, whether PostgreSQL does (exit status 0 or 1)",
    )
    verbs.add_argument(
        "--hub",
        action="store_true",
        help="bring the PostgreSQL that rows are forwarded to up to date, whatever serves "
        "(exit status 1: it cannot be; 75: the decision is being made anew)",
    )
    verbs.add_argument(
        "--repair",
        action="store_true",
        help="diagnose a schema that cannot be migrated, keep a backup, mend it, explain: of "
        "PostgreSQL, whatever serves, and of the SQLite file where that serves (exit status 1: "
        "one of them could not be examined or mended)",
    )
    verbs.add_argument(
        "--sql",
        action="store_true",
        help="print what PostgreSQL lacks as a script for the owner of its tables, where this "
        "box's role may not change them; nothing is changed",
    )
    verbs.add_argument(
        "--revision",
        metavar="MSG",
        help="write a new migration from the difference between models and migrations",
    )
    verbs.add_argument(
        "--downgrade",
        nargs="?",
        const="",
        metavar="REVISION",
        help="take every database of this box back to REVISION (without one: by one revision), "
        "keeping what it loses; the box is stopped for it (exit status 1: refused or not wanted)",
    )
    parser.add_argument(
        "--only", choices=("sqlite", "postgresql"), help="with --downgrade: this database alone"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="with --downgrade: say what would be lost, and whether it would be refused",
    )
    parser.add_argument(
        "--yes", action="store_true", help="with --downgrade: do not ask for confirmation"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the stage; 0 when the schema is at head, 1 when --check finds that it is not."""
    from edgepaas.hosting.loading import load_application
    from edgepaas.settings import Settings
    from edgepaas.settings.logs import start_logging

    paths = find_paths()
    if arguments.downgrade is None and (arguments.only or arguments.dry_run or arguments.yes):
        raise UsageError("--only, --dry-run and --yes belong to --downgrade")
    if arguments.revision is not None:
        return _write_revision(arguments.revision, _settings_if_any(paths))
    if arguments.hub:
        return _bring_hub(paths, as_json=arguments.json)
    if arguments.sql:
        return _write_script(paths, as_json=arguments.json)
    settings = Settings.read(paths.env_contract)
    start_logging(settings, paths)
    from edgepaas.decision.contract import DatabaseContract

    contract = DatabaseContract.read(paths.db_contract)
    application = load_application(settings.text("EDGEPAAS_APP"))
    with _identified(contract, paths):
        return _run(arguments, contract, settings, paths, application)


def _identified(
    contract: "DatabaseContract", paths: Paths
) -> contextlib.AbstractContextManager[None]:
    if not contract.hub_url:
        return contextlib.nullcontext()
    from edgepaas.pgdriver.sessions import identified

    return identified(paths, "schema")


def _run(
    arguments: argparse.Namespace,
    contract: "DatabaseContract",
    settings: "Settings",
    paths: Paths,
    application: "Application",
) -> int:
    from edgepaas.schema.stage import prepare_database

    if arguments.check:
        return _check(contract, settings, paths, application, as_json=arguments.json)
    if arguments.repair:
        return _repair(contract, settings, paths, application, as_json=arguments.json)
    if arguments.downgrade is not None:
        from edgepaas.cli.stages.schema_downgrade import downgrade

        return downgrade(arguments, contract, settings, paths, application)
    report = prepare_database(contract, settings, paths, application)
    if contract.final_db_mode == "postgres_only":
        _send_what_waits(contract, paths)
    _tell(report, as_json=arguments.json)
    return EXIT_DONE


def _send_what_waits(contract: "DatabaseContract", paths: Paths) -> None:
    """Send the rows that SQLite took to PostgreSQL, before PostgreSQL alone serves."""
    from edgepaas.alerts.catalogue import ROWS_LEFT_BEHIND
    from edgepaas.decision.waiting import rows_waiting
    from edgepaas.schema.stage import extended_start_timeout

    found = rows_waiting(contract.sqlite_path, paths.database_lock)
    if not found.may_hold_unsent_rows:
        return
    reason = found.problem
    if found.readable:
        with extended_start_timeout():
            reason = _drain_once()
        found = rows_waiting(contract.sqlite_path, paths.database_lock)
    if not found.may_hold_unsent_rows:
        say("schema", f"{contract.sqlite_path}: every row that waited is in PostgreSQL")
        return
    rows = f"{found.rows:,} rows" if found.readable else "rows that cannot be counted"
    ROWS_LEFT_BEHIND.raise_alert(
        f"PostgreSQL serves without {rows} of {contract.sqlite_path}: {reason}"
    )


def _drain_once() -> str:
    """Run ``edgepaas sync --once`` for up to DRAIN_SECONDS; return the last line it printed."""
    import os
    import subprocess

    from edgepaas.supervisor.stage_processes import PROGRAM, child_environment

    child = subprocess.Popen(
        [*PROGRAM, "sync", "--once"],
        env=child_environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        said, _ = child.communicate(timeout=DRAIN_SECONDS)
    except subprocess.TimeoutExpired:
        child.terminate()  # a batch is delivered as a whole or not at all
        try:
            child.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
        return f"it was not done within {DRAIN_SECONDS:g} s"
    lines = [line for line in said.splitlines() if line.strip()]
    return " ".join(lines[-1].removeprefix("sync").split()) if lines else "it printed nothing"


def _tell(report: "SchemaReport", *, as_json: bool) -> None:
    if as_json:
        print_json(report.as_dict())
        return
    for step in report.steps:
        announce("schema", step)
    announce("schema", f"{_NAMES[report.database]}: {report.message}")
    if report.reservation:
        announce("schema", f"WARNING: {report.reservation}")


def _bring_hub(paths: Paths, *, as_json: bool) -> int:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.errors import DecideAgain
    from edgepaas.files.contract import ContractMissing
    from edgepaas.files.node_identity import node_identity
    from edgepaas.hosting.loading import load_application
    from edgepaas.settings import Settings
    from edgepaas.settings.logs import start_logging

    try:
        settings = Settings.read(paths.env_contract)
        contract = DatabaseContract.read(paths.db_contract)
    except ContractMissing as error:
        raise DecideAgain(str(error)) from error
    start_logging(settings, paths)
    from edgepaas.schema.hub_conditions import note_hub_conditions
    from edgepaas.schema.postgresql.hub import prepare_hub

    with _identified(contract, paths):
        application = load_application(settings.text("EDGEPAAS_APP"))
        node = node_identity(paths).node_id
        report = prepare_hub(contract, settings, application, node_id=node)
    note_hub_conditions(paths, report)
    _tell(report, as_json=as_json)
    return EXIT_DONE


def _write_script(paths: Paths, *, as_json: bool) -> int:
    from edgepaas.database.postgresql.connector import Connector
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.hosting.loading import load_application, metadata_of
    from edgepaas.schema.chain import chain_of
    from edgepaas.schema.postgresql.migrate import parts_of
    from edgepaas.schema.postgresql.script import upgrade_script
    from edgepaas.settings import Settings

    settings = Settings.read(paths.env_contract)
    contract = DatabaseContract.read(paths.db_contract)
    if not contract.hub_url:
        raise UsageError("there is no PostgreSQL: DATABASE_URL names none")
    with _identified(contract, paths):
        application = load_application(settings.text("EDGEPAAS_APP"))
        chain = chain_of(application)
        connector = Connector(contract.hub_url, settings, name="edgepaas-schema")
        script = upgrade_script(connector, parts_of(chain, lambda: metadata_of(application)))
    if as_json:
        print_json({"lacking": bool(script), "sql": script})
    else:
        print(script or "-- nothing is lacking", end="" if script else "\n")
    return EXIT_DONE


def _check(
    contract: "DatabaseContract",
    settings: "Settings",
    paths: Paths,
    application: "Application",
    *,
    as_json: bool,
) -> int:
    from edgepaas.database import open_database
    from edgepaas.schema.at_head import missing_indexes_reason, schema_at_head

    database = open_database(contract, settings, paths)
    try:
        state = schema_at_head(database, application)
        no_index = missing_indexes_reason(database, application) if state.at_head else ""
        not_captured = ""
        if database.dialect == "postgresql" and settings.flag("JOURNAL"):
            from edgepaas.hosting.loading import metadata_of
            from edgepaas.schema.postgresql.capture_triggers import not_captured_reason

            not_captured = not_captured_reason(database, metadata_of(application))
    finally:
        database.close()
    message = "; but ".join(filter(None, (state.text, not_captured, no_index)))
    takes_everything = state.at_head and not (state.reservation or not_captured or no_index)
    hub_fits, hub_message = _check_hub(contract, settings, application)
    if as_json:
        document = {"at_head": state.at_head, "fits": takes_everything, "message": message}
        if hub_message:
            document["postgresql"] = {"fits": hub_fits, "message": hub_message}
        print_json(document)
    else:
        say("schema", f"{_NAMES[database.dialect]}: {message}")
        if hub_message:
            say("schema", f"PostgreSQL: {hub_message}")
    return EXIT_DONE if takes_everything and hub_fits is not False else EXIT_FAILED


def _check_hub(
    contract: "DatabaseContract", settings: "Settings", application: "Application"
) -> tuple[bool | None, str]:
    """Look at the PostgreSQL that rows go to while SQLite serves: whether it fits, and a line.

    None where it cannot be asked, which in a fallback is no news; empty where there is none.
    """
    if not contract.hub_url or not contract.sqlite_active:
        return None, ""
    from edgepaas.errors import DatabaseUnavailable
    from edgepaas.schema.hub_check import hub_problem

    try:
        problem = hub_problem(contract.hub_url, settings, application, name="edgepaas-schema")
    except DatabaseUnavailable as error:
        return None, f"not examined: {error}"
    return not problem, problem or "it holds all that this build sends there"


def _repair(
    contract: "DatabaseContract",
    settings: "Settings",
    paths: Paths,
    application: "Application",
    *,
    as_json: bool,
) -> int:
    """Mend every database that this box has: the PostgreSQL, whatever serves, and the file."""
    from edgepaas.errors import EdgePaaSError
    from edgepaas.hosting.loading import metadata_of
    from edgepaas.schema.chain import chain_of
    from edgepaas.schema.repair.sqlite_file import repair_sqlite
    from edgepaas.schema.stage import prepare_database

    chain = chain_of(application)
    reports, failures = [], []
    if contract.hub_url:
        try:
            reports.append(_repair_postgres(contract, settings, paths, application))
        except EdgePaaSError as error:
            failures.append(str(error))
    if contract.sqlite_active:
        try:
            report = repair_sqlite(
                contract.sqlite_path, paths, chain, lambda: metadata_of(application)
            )
            reports.append(report)
            if report.action != "nothing":  # capture goes by the tables, which may be others now
                prepare_database(contract, settings, paths, application)
        except EdgePaaSError as error:
            failures.append(str(error))
    if as_json:
        found = [report.as_dict() for report in reports]
        print_json({"ok": not failures, "repaired": found, "failed": failures})
    else:
        for report in reports:
            _tell(report, as_json=False)
        for failure in failures:
            announce("schema", f"FAILED: {failure}")
    return EXIT_FAILED if failures else EXIT_DONE


def _repair_postgres(
    contract: "DatabaseContract", settings: "Settings", paths: Paths, application: "Application"
) -> "SchemaReport":
    """Mend PostgreSQL; where it was held for what is mended now, it may be chosen again."""
    from dataclasses import replace

    from edgepaas.database.postgresql.connector import Connector
    from edgepaas.decision.hold import clear_hold, read_hold
    from edgepaas.files.node_identity import node_identity
    from edgepaas.hosting.loading import metadata_of
    from edgepaas.schema.chain import chain_of
    from edgepaas.schema.postgresql.migrate import parts_of
    from edgepaas.schema.renames.boxes import OwnBox
    from edgepaas.schema.repair.server import repair_hub

    connector = Connector(contract.hub_url, settings, name="edgepaas-schema")
    parts = parts_of(chain_of(application), lambda: metadata_of(application))
    own = OwnBox(node_identity(paths).node_id, contract.sqlite_path)
    report = repair_hub(connector, paths, parts, own=own)
    if report.action == "repaired" and read_hold(paths.postgres_hold) is not None:
        clear_hold(paths.postgres_hold)
        said = "PostgreSQL is no longer held back: it serves again by itself"
        report = replace(report, steps=(*report.steps, said))
    return report


def _write_revision(message: str, application_name: str) -> int:
    from edgepaas.hosting.loading import load_application, metadata_of
    from edgepaas.schema.chain import chain_of
    from edgepaas.schema.migrations import write_revision

    application = load_application(application_name)
    chain, metadata = chain_of(application), metadata_of(application)
    if chain.folder is None or metadata is None:
        raise UsageError(f"the application {application.name} has no migrations or no models")
    with tempfile.TemporaryDirectory() as folder:
        script = write_revision(chain, metadata, message, Path(folder))
    say("schema", f"wrote {script}: read it before you commit it")
    return EXIT_DONE


def _settings_if_any(paths: Paths) -> str:
    """The application's name: a developer may write a migration before any stage has run."""
    from edgepaas.files.contract import ContractMissing
    from edgepaas.settings import Settings

    try:
        return Settings.read(paths.env_contract).text("EDGEPAAS_APP")
    except ContractMissing:
        return Settings.of().text("EDGEPAAS_APP")


_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
