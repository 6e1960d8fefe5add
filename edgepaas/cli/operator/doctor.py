# SPDX-License-Identifier: Apache-2.0
"""``edgepaas doctor``: examine the box and advise what to do."""

import argparse

DESCRIPTION = """\
Examine everything that the box needs: settings, folders, clock, memory, disk, DNS, TLS,
PostgreSQL, the SQLite file, schema, capture, ledger, disk budget, the hub, sync, alerts, tokens,
services, port. Each finding that is not ok comes with advice. Changes nothing.

exit status: 0 nothing failed (there may be warnings), 1 something failed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; returns the exit status."""
    from edgepaas.doctor.preflight import preflight
    from edgepaas.errors import EXIT_DONE, EXIT_FAILED
    from edgepaas.files.paths import find_paths
    from edgepaas.logs import configure_logging
    from edgepaas.terminal import print_json, print_table

    configure_logging(level="ERROR")
    findings = list(preflight(find_paths()))
    failed = any(finding.level == "fail" for finding in findings)
    if arguments.json:
        print_json({"ok": not failed, "findings": [finding.as_dict() for finding in findings]})
    else:
        rows: list[tuple[str, str, str]] = []
        for finding in findings:
            rows.append(
                (
                    finding.level if finding.level != "fail" else "FAIL",
                    finding.name,
                    finding.message,
                )
            )
            if finding.level != "ok" and finding.advice:
                rows.append(("", "", f"-> {finding.advice}"))
        print_table(("", "WHAT", "FOUND"), rows)
    return EXIT_FAILED if failed else EXIT_DONE
