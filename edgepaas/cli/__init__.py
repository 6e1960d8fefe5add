# SPDX-License-Identifier: Apache-2.0
"""The ``edgepaas`` command: one sub-command a file, imported only when it is called.

Every stage of the boot chain is a process start on a slow box, so this module imports
next to nothing before it knows which sub-command is wanted. A sub-command's module
holds ``DESCRIPTION``, ``add_arguments(parser)`` and ``run(arguments) -> exit status``.
"""

import importlib
import os
import signal
import sys
from collections.abc import Sequence

from edgepaas.errors import EXIT_DECIDE_AGAIN, EXIT_FAILED, EXIT_USAGE, EdgePaaSError

#: Sub-command: (module below ``edgepaas``, one line for --help).
COMMANDS: dict[str, tuple[str, str]] = {
    "env": ("cli.stages.env", "resolve the settings and write run/env (boot chain, stage 1)"),
    "dbdecide": (
        "cli.stages.dbdecide",
        "decide between PostgreSQL and SQLite (boot chain, stage 2)",
    ),
    "schema": ("cli.stages.schema", "bring the database's schema to head (boot chain, stage 3)"),
    "serve": ("cli.stages.serve", "run the service: gate, HTTP, sd_notify (boot chain, stage 4)"),
    "up": ("cli.stages.up", "run the whole chain in the foreground, again on exit status 75"),
    "verify": ("cli.stages.verify", "run the verification gate once and print what it found"),
    "sync": ("cli.operator.sync", "deliver rows to PostgreSQL; show what waits, and act on it"),
    "nodes": ("cli.operator.nodes", "list the boxes that PostgreSQL knows, and forget one"),
    "backup": ("cli.backups.backup", "write the whole box into one file, while it runs"),
    "restore": ("cli.backups.restore", "put a backup into place on a box that is stopped"),
    "export": ("cli.operator.export", "export readings or the history of alerts as CSV or NDJSON"),
    "audit": ("cli.operator.audit", "check that every accepted row is accounted for"),
    "drill": ("cli.operator.drill", "rehearse an outage of PostgreSQL on a scratch box"),
    "alert": ("cli.operator.alert", "raise or resolve an alert"),
    "alerts": ("cli.operator.alerts", "see, deliver, test and silence alerts"),
    "status": ("cli.operator.status", "show the state of the box and the reasons"),
    "doctor": ("cli.operator.doctor", "examine everything the box needs, and advise what to do"),
    "settings": ("cli.operator.settings", "list every setting, its value and where it came from"),
    "token": ("cli.operator.token", "create, list and revoke API tokens"),
    "completion": ("cli.operator.completion", "complete the command line in bash, zsh, fish"),
}

_EPILOG = """\
exit status: 0 done, 1 failed, 2 usage, 75 decide again, 78 configuration.
'edgepaas help COMMAND' explains a command. Without systemd everything lies under
$EDGEPAAS_HOME; an installed box keeps it in /run, /var/lib, /var/log and /var/spool.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; an expected failure has no traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Before anything else is imported. The kernel drops a signal that PID 1 has no handler for,
    # unless it is blocked: 'up' has its stop kept until the supervisor takes it. The image blocks
    # them even before Python starts, which no other command is to inherit.
    how = signal.SIG_BLOCK if arguments[:1] == ["up"] else signal.SIG_UNBLOCK
    signal.pthread_sigmask(how, (signal.SIGTERM, signal.SIGINT))
    try:
        status = _run_noted(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # A reader that goes away (| head) ends us quietly, like any other Unix tool. SIGPIPE
        # itself stays ignored: it would also end us when a database server hangs up.
        from edgepaas.terminal import discard_output

        discard_output()
        return 128 + signal.SIGPIPE
    except EdgePaaSError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        print("edgepaas: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except OSError as error:
        if os.environ.get("EDGEPAAS_TRACEBACK"):
            raise
        _complain(str(error))
        return EXIT_FAILED


def _run_noted(arguments: list[str]) -> int:
    """Run the command; where a stage of the boot chain fails, leave why for who answers then.

    The chain's own stages alone, as the units call them: an operator's 'schema --check' is none.
    """
    if len(arguments) != 1 or arguments[0] not in ("env", "dbdecide", "schema"):
        return _dispatch(arguments)
    try:
        return _dispatch(arguments)
    except Exception as error:
        if getattr(error, "exit_code", EXIT_FAILED) != EXIT_DECIDE_AGAIN:
            from edgepaas.files.paths import find_paths
            from edgepaas.service.stage_failure import note_failure

            note_failure(find_paths(), arguments[0], error)
        raise


def _complain(message: str) -> None:
    try:
        sys.stdout.flush()
    except OSError:
        from edgepaas.terminal import discard_output

        discard_output()  # or the interpreter would fail once more at its end
    priority = ""
    if "JOURNAL_STREAM" in os.environ:
        from edgepaas.logs.setup import is_journal

        # sd-daemon(3): else the one line that matters would be of priority 'info'.
        priority = "<3>" if is_journal(sys.stderr) else ""
    print(f"{priority}edgepaas: {message}", file=sys.stderr)


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview(), end="")
        return 0 if arguments else EXIT_USAGE
    if arguments[0] in ("-V", "--version"):
        from edgepaas.build import build_version

        print(f"edgepaas {build_version()}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        status = _run_of_application(name, arguments[1:])
        return _no_command(name) if status is None else status
    import argparse

    from edgepaas.terminal import CommandParser

    module = importlib.import_module(f"edgepaas.{COMMANDS[name][0]}")
    parser = CommandParser(
        prog=f"edgepaas {name}",
        description=module.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parsed = parser.parse_args(arguments[1:])
    if getattr(module, "NEEDS_SERVICE_USER", True):
        from edgepaas.cli.privileges import become_service_user

        become_service_user(name)
    return int(module.run(parsed))


def _run_of_application(name: str, arguments: list[str]) -> int | None:
    """Run a command of the application *name*; None where there is no such application.

    Root runs no code that its own packages did not install: where EDGEPAAS_APP names
    ``module:attribute``, it becomes the service's user before that is imported.
    """
    from edgepaas.cli.privileges import NotAllowed, become_service_user
    from edgepaas.files.paths import find_paths
    from edgepaas.hosting.commands import configured_application, is_installed, parse
    from edgepaas.hosting.loading import load_application

    target = name if is_installed(name) else configured_application(find_paths())
    if not target:
        return None
    if target != name:
        try:
            become_service_user(name)
        except NotAllowed:
            return None
    application = load_application(target)
    if name not in (application.name, target):
        return None
    command, parsed = parse(application, arguments)
    if command.needs_service_user:
        become_service_user(f"{name} {command.name}")
    # A command that returns nothing has done its work.
    return command.run(parsed) or 0


def _no_command(name: str) -> int:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    print(f"edgepaas: there is no command '{name}'{hint}", file=sys.stderr)
    print("'edgepaas --help' lists them", file=sys.stderr)
    return EXIT_USAGE


def _overview() -> str:
    from edgepaas.files.paths import find_paths
    from edgepaas.hosting.commands import overview

    lines = [
        "usage: edgepaas COMMAND [OPTION...]\n",
        "       edgepaas --version\n\n",
        "An edge-device appliance: your application always starts, always answers,\n",
        "and keeps every write that it has acknowledged.\n\ncommands:\n",
    ]
    lines += [f"  {name:<10} {help_text}\n" for name, (_, help_text) in COMMANDS.items()]
    brought = list(overview(find_paths(), trusted_only=os.geteuid() == 0, taken=COMMANDS))
    if brought:
        lines.append("\ncommands of applications:\n")
    lines += [f"  {name:<20} {help_text}\n" for name, help_text in brought]
    return "".join(lines) + "\n" + _EPILOG
