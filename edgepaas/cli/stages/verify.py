# SPDX-License-Identifier: Apache-2.0
"""``edgepaas verify``: run the verification gate once, as the service does before it is ready."""

import argparse
import logging
from typing import TYPE_CHECKING

from edgepaas.errors import EXIT_DONE, EXIT_FAILED
from edgepaas.files.paths import find_paths
from edgepaas.terminal import print_json, print_table, say

if TYPE_CHECKING:
    from edgepaas.alerts.catalogue_entry import CatalogueEntry
    from edgepaas.health.checks import CheckResult
    from edgepaas.health.gate import GateReport

DESCRIPTION = """\
Run the verification gate from the contracts in run/: the database answers, its schema
is at head, disk and spool can be written, required services are there. Exits with 0
when the service could say that it is ready, with 1 when not: that is logged, too, and an
alert tells of each check that fails.
"""

logger = logging.getLogger("edgepaas.verify")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Run the gate and print each check; raises ContractMissing, DatabaseError."""
    from edgepaas.database import open_database
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.health.gate import build_board, build_checks, verify
    from edgepaas.hosting.loading import load_application
    from edgepaas.settings import Settings
    from edgepaas.settings.logs import start_logging

    paths = find_paths()
    settings = Settings.read(paths.env_contract)
    start_logging(settings, paths)
    contract = DatabaseContract.read(paths.db_contract)
    application = load_application(settings.text("EDGEPAAS_APP"))
    database = open_database(contract, settings, paths)
    try:
        board = build_board(
            build_checks(database, contract, settings, paths, application), settings
        )
        report = verify(board, production=settings.text("ENV") == "production")
    finally:
        database.close()
    _tell(report)
    if arguments.json:
        print_json({"ok": report.ok, "checks": [result.as_dict() for result in report.results]})
    else:
        warned = {result.name for result in report.warnings}
        print_table(
            ("CHECK", "RESULT", "SECONDS", "MESSAGE"),
            [
                (
                    result.name,
                    "ok" if result.ok else "warning" if result.name in warned else "FAILED",
                    f"{result.seconds:.3f}",
                    result.message,
                )
                for result in report.results
            ],
        )
        say("verification", report.summary())
    return EXIT_DONE if report.ok else EXIT_FAILED


def _tell(report: "GateReport") -> None:
    """Log and alert what fails, for whoever runs this from a script; resolve what passes.

    What is raised where it is found first is alerted there.
    """
    if not report.ok:
        logger.error("verification failed: %s", report.summary())
    for result in report.results:
        if result.raised_elsewhere or not result.required:
            continue
        entry, subject = _entry_of(result)
        if result in report.failures:
            entry.raise_alert(f"verification failed: {result.message}", subject=subject)
        elif result.ok:
            entry.resolve_alert(f"verification passed: {result.message}", subject=subject)


def _entry_of(result: "CheckResult") -> "tuple[CatalogueEntry, str]":
    from edgepaas.alerts.catalogue import HEALTH_CHECK, REQUIRED_SERVICE
    from edgepaas.health.gate import SERVICE_PREFIX

    if result.name.startswith(SERVICE_PREFIX):
        return REQUIRED_SERVICE, result.name.removeprefix(SERVICE_PREFIX)
    return HEALTH_CHECK, result.name
