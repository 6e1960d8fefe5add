"""``edgepaas schema``: the boot chain's third stage, and what a developer does to migrations."""

import argparse
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.cli.output import print_json, say
from edgepaas.errors import EXIT_DONE, EXIT_FAILED
from edgepaas.files.paths import Paths, find_paths

if TYPE_CHECKING:
    from edgepaas.application import Application
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.schema.report import SchemaReport
    from edgepaas.settings import Settings

DESCRIPTION = """\
Bring the decided database to the newest revision and write run/tables.json.

A fresh SQLite file is created; an older one is migrated on a copy, checked and swapped
in. One that cannot be migrated is moved to quarantine and the box starts on a fresh one.
PostgreSQL is migrated in one transaction under an advisory lock; if it turns out to be
unusable and SQLite may take over, the chain is sent round again (exit status 75)."""

logger = logging.getLogger("edgepaas.schema")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    verbs = parser.add_mutually_exclusive_group()
    verbs.add_argument(
        "--check", action="store_true", help="only say whether it is at head (exit status 0 or 1)"
    )
    verbs.add_argument(
        "--repair",
        action="store_true",
        help="diagnose a schema that cannot be migrated, keep a backup, mend it, explain",
    )
    verbs.add_argument(
        "--revision",
        metavar="MSG",
        help="write a new migration from the difference between models and migrations",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the stage; 0 when the schema is at head, 1 when --check finds that it is not."""
    from edgepaas.application import load_application
    from edgepaas.settings import Settings
    from edgepaas.settings.logs import start_logging

    paths = find_paths()
    if arguments.revision is not None:
        return _write_revision(arguments.revision, _settings_if_any(paths))
    settings = Settings.read(paths.env_contract)
    start_logging(settings, paths)
    from edgepaas.decision.contract import DatabaseContract

    contract = DatabaseContract.read(paths.db_contract)
    application = load_application(settings.text("EDGEPAAS_APP"))
    if arguments.check:
        return _check(contract, settings, paths, application, as_json=arguments.json)
    if arguments.repair:
        report = _repair(contract, settings, paths, application)
    else:
        from edgepaas.schema.bring import bring_to_head

        report = bring_to_head(contract, settings, paths, application)
    _tell(report, as_json=arguments.json)
    return EXIT_DONE


def _tell(report: "SchemaReport", *, as_json: bool) -> None:
    if as_json:
        print_json(report.as_dict())
        return
    for step in report.steps:
        say("schema", step)
    say("schema", f"{_NAMES[report.database]}: {report.message}")


def _check(
    contract: "DatabaseContract",
    settings: "Settings",
    paths: Paths,
    application: "Application",
    *,
    as_json: bool,
) -> int:
    from edgepaas.database import open_database
    from edgepaas.schema.state import schema_at_head

    database = open_database(contract, settings, paths)
    try:
        state = schema_at_head(database, application)
    finally:
        database.close()
    if as_json:
        print_json({"at_head": state.at_head, "message": state.message})
    else:
        say("schema", f"{_NAMES[database.dialect]}: {state.message}")
    return EXIT_DONE if state.at_head else EXIT_FAILED


def _repair(
    contract: "DatabaseContract", settings: "Settings", paths: Paths, application: "Application"
) -> "SchemaReport":
    from edgepaas.schema.chain import chain_of
    from edgepaas.schema.repair import repair_postgres, repair_sqlite

    chain = chain_of(application)

    if contract.sqlite_active:
        return repair_sqlite(contract.sqlite_path, paths, chain, lambda: application.metadata)
    from edgepaas.database.connector import Connector

    connector = Connector(contract.database_url, settings, name="edgepaas-schema")
    return repair_postgres(connector, paths, chain, lambda: application.metadata)


def _write_revision(message: str, application_name: str) -> int:
    from edgepaas.application import load_application
    from edgepaas.errors import UsageError
    from edgepaas.schema.chain import chain_of
    from edgepaas.schema.migrations import write_revision

    application = load_application(application_name)
    chain, metadata = chain_of(application), application.metadata
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
