# SPDX-License-Identifier: Apache-2.0
"""``edgepaas export``: one door to everything that can be exported.

What is exported is each exporter's own business: the history of alerts, and what the commands
of installed applications say that they export (``Command.exports``).
"""

import argparse
from collections.abc import Iterator

from edgepaas.app.commands import Command
from edgepaas.cli.operator import alerts_export
from edgepaas.cli.privileges import become_service_user
from edgepaas.errors import ConfigurationError
from edgepaas.files.paths import find_paths

DESCRIPTION = """\
Export what the box has, as CSV or NDJSON: the history of alerts, and what applications hold.

--help after WHAT lists the options of each.
"""

#: Only some exporters read the box's files; each says so itself.
NEEDS_SERVICE_USER = False

_ALERTS = "print the history of alerts, the oldest first"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be exported."""
    below = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    alerts_export.add_arguments(below.add_parser("alerts", help=_ALERTS, description=_ALERTS))
    for command in _commands_that_export():
        if command.exports in below.choices:
            continue  # of two applications: the first, and the other by 'edgepaas APPLICATION'
        one = below.add_parser(
            command.exports,
            help=command.help,
            description=command.description or command.help,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(one)
        one.set_defaults(command=command)


def run(arguments: argparse.Namespace) -> int:
    """Export, and return the exit status."""
    command: Command | None = getattr(arguments, "command", None)
    if command is None or command.needs_service_user:
        become_service_user(f"export {arguments.what}")
    if command is None:
        return alerts_export.run(find_paths(), arguments)
    return command.run(arguments) or 0


def _commands_that_export() -> Iterator[Command]:
    from edgepaas.hosting.installed import installed_applications
    from edgepaas.hosting.loading import load_application

    for name in sorted(installed_applications()):
        try:
            application = load_application(name)
        except ConfigurationError:
            continue  # 'edgepaas --help' says why
        yield from (command for command in application.commands if command.exports)
