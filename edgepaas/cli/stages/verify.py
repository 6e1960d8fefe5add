# SPDX-License-Identifier: Apache-2.0
"""``edgepaas verify``: run the verification gate once, as the service does before it is ready."""

import argparse

from edgepaas.errors import EXIT_DONE, EXIT_FAILED
from edgepaas.files.paths import find_paths
from edgepaas.terminal import print_json, print_table, say

DESCRIPTION = """\
Run the verification gate from the contracts in run/: the database answers, its schema
is at head, disk and spool can be written, required services are there. Exits with 0
when the service could say that it is ready, with 1 when not.
"""


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

    paths = find_paths()
    settings = Settings.read(paths.env_contract)
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
