# SPDX-License-Identifier: Apache-2.0
"""``edgepaas dbdecide``: decide between PostgreSQL and SQLite; stage 2 of the boot chain."""

import argparse
import contextlib
from typing import TYPE_CHECKING

from edgepaas.decision.decide import Decision, decide, store_decision
from edgepaas.decision.losses import loss_reason
from edgepaas.errors import EXIT_DONE
from edgepaas.files.contract import withdraw_contract
from edgepaas.files.paths import find_paths
from edgepaas.logs import configure_logging, register_secret
from edgepaas.settings import Settings
from edgepaas.terminal import announce, print_json

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths

DESCRIPTION = """\
Decide which database serves, and write run/db.env.

PostgreSQL is probed with a login and a write, within DECISION_DEADLINE over all
attempts. If it cannot be used SQLite takes over, unless BOTH_DB=false. Nothing is
created or migrated. On a running box every decision makes the service start again
on it, within a second; --dry-run only says what it would be.

exit status: 0 decided; 1 PostgreSQL alone was asked for and cannot be used;
78 'edgepaas env' has not run, or the settings contradict each other."""

_NAMES = {
    "standalone": "SQLite",
    "local-first": "SQLite",
    "fallback": "SQLite",
    "draining": "SQLite",
    "primary": "PostgreSQL",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--after-loss",
        action="store_true",
        help="the service lost PostgreSQL: one attempt of at most 1 s (run/db-lost says the same)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be decided, write nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the contract, passwords masked")


def run(arguments: argparse.Namespace) -> int:
    """Decide, write the contract, and print the result in a line."""
    paths = find_paths()
    if not arguments.dry_run:
        withdraw_contract(paths.db_contract)
    settings = Settings.read(paths.env_contract)
    configure_logging(
        level=settings.text("LOG_LEVEL"),
        style=settings.text("LOG_FORMAT"),
        file=None if arguments.dry_run else settings.log_file(paths.log_file),
    )
    for secret in settings.secrets():
        register_secret(secret)
    lost = loss_reason(paths)
    with _identified(settings, paths, dry_run=arguments.dry_run):
        decision = decide(settings, paths, after_loss=arguments.after_loss or lost is not None)
    if not arguments.dry_run:
        store_decision(decision, paths)
    if arguments.json:
        values = decision.contract.values()
        print_json({name: decision.masked(value) for name, value in values.items()})
    else:
        announce("decision", _line(decision))
    return EXIT_DONE


def _identified(
    settings: Settings, paths: "Paths", *, dry_run: bool
) -> contextlib.AbstractContextManager[None]:
    if dry_run or not settings.text("DATABASE_URL").startswith("postgresql:"):
        return contextlib.nullcontext()
    from edgepaas.pgdriver.sessions import identified

    return identified(paths, "dbdecide")


def _line(decision: Decision) -> str:
    contract = decision.contract
    armed = ", fallback armed" if contract.fallback_armed else ""
    return f"{_NAMES[contract.db_state]}, {contract.db_state}{armed}: {contract.reason}"
