# SPDX-License-Identifier: Apache-2.0
"""The sub-commands that applications bring: found by the application's name, and parsed."""

import argparse
import os
from collections.abc import Collection, Iterator

from edgepaas.app import Application
from edgepaas.app.commands import Command
from edgepaas.errors import ConfigurationError
from edgepaas.files.contract import ContractMissing
from edgepaas.files.paths import Paths
from edgepaas.hosting.installed import find_installed, installed_applications
from edgepaas.hosting.loading import load_application
from edgepaas.settings import Settings
from edgepaas.settings.envfile import read_env_file
from edgepaas.terminal import CommandParser


def is_installed(name: str) -> bool:
    """Whether an application *name* is installed, so that its code is root's."""
    return bool(find_installed(name))


def configured_application(paths: Paths) -> str:
    """Return EDGEPAAS_APP where it names ``module:attribute``, as far as this user may read it."""
    name = os.environ.get("EDGEPAAS_APP", "")
    if not name:
        try:
            name = Settings.read(paths.env_contract).text("EDGEPAAS_APP")
        except (ContractMissing, OSError):
            entry = read_env_file(paths.env_file).entries.get("EDGEPAAS_APP")
            name = entry.text if entry is not None else ""
    return name.strip() if ":" in name else ""


def parser_of(application: Application) -> CommandParser:
    """Return the parser of all commands of *application*."""
    parser = CommandParser(
        prog=f"edgepaas {application.name}",
        description=f"Commands of the application {application.name}.",
        epilog="exit status: 0 done, 1 failed, 2 usage; a command's --help says more",
    )
    below = parser.add_subparsers(dest="application_command", required=True, metavar="COMMAND")
    for command in application.commands:
        one = below.add_parser(
            command.name,
            help=command.help,
            description=command.description or command.help,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(one)
    return parser


def parse(application: Application, arguments: list[str]) -> tuple[Command, argparse.Namespace]:
    """Return the command of *application* that *arguments* name, and what they say.

    Ends the process, as argparse does, for ``--help`` and for arguments that are wrong.
    """
    parsed = parser_of(application).parse_args(arguments)
    chosen = {command.name: command for command in application.commands}
    return chosen[parsed.application_command], parsed


def overview(
    paths: Paths, *, trusted_only: bool, taken: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Yield ("APPLICATION COMMAND", one line) of every command that applications bring.

    *trusted_only* leaves out what lies outside of the installed packages; *taken* are the
    platform's own commands. An application that cannot be loaded, or whose commands cannot
    be called, has a line with the reason.
    """
    names = sorted(installed_applications())
    if not trusted_only and (configured := configured_application(paths)):
        names.append(configured)
    for name in names:
        try:
            application = load_application(name)
        except ConfigurationError as error:
            yield name, str(error)
            continue
        if application.commands and application.name in taken:
            yield application.name, "is a command of the platform: rename the application"
            continue
        for command in application.commands:
            yield f"{application.name} {command.name}", command.help
