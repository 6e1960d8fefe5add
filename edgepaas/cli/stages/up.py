# SPDX-License-Identifier: Apache-2.0
"""``edgepaas up``: the whole chain in the foreground."""

import argparse
import logging
import os
import resource
import sys
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from edgepaas.files.paths import Paths
    from edgepaas.supervisor.forked_stages import ForkingLauncher

DESCRIPTION = """\
Run the boot chain in the foreground: env, dbdecide, schema, serve; again whenever one
of them asks for it by exit status 75. One listening socket is handed down from service
to service, so that clients wait instead of failing. For developers and containers; an
installed box has systemd for it.

A stage that fails before the service was ready once ends this command with the stage's
exit status; later failures start the chain again after a pause. SIGTERM and Ctrl-C end
it in order, SIGHUP reopens the log. A second one on the same EDGEPAAS_HOME, or on the
same state folder, is refused.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--reload",
        action="store_true",
        help="start the chain again when a Python file of EdgePaaS or the application changes",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the chain; returns the exit status."""
    # LimitCORE=0 of the units: a core holds secrets, and would lie in the state folder of a
    # container, whose working folder that is.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from edgepaas.errors import ConfigurationError
    from edgepaas.files.paths import find_paths
    from edgepaas.httpd.listen import bind, inherited_sockets
    from edgepaas.logs import configure_logging
    from edgepaas.sd_notify import Notifier
    from edgepaas.service.instance_locks import claim_state, claim_up
    from edgepaas.settings import Settings
    from edgepaas.supervisor.source_watch import SourceWatch, sources_of
    from edgepaas.supervisor.supervisor import Supervisor

    configure_logging(level="WARNING")
    paths = find_paths()
    paths.create()
    claim_up(paths)  # both are held until this process is gone
    claim_state(paths)
    sockets = inherited_sockets(os.environ, pid=os.getpid())
    notifier = Notifier.of(os.environ, os.getpid())

    def settings() -> Settings:
        return Settings.read(paths.env_contract)

    def stop_timeout() -> float:
        try:
            return settings().number("STOP_TIMEOUT")
        except ConfigurationError:  # the stage that writes it did not come so far
            return Settings.of().number("STOP_TIMEOUT")

    supervisor = Supervisor(
        os.environ,
        # A developer's change is read by a program that starts, and by nothing else.
        launcher=None if arguments.reload else _forking_launcher(),
        listen=lambda: sockets or bind(settings().text("HOST"), settings().integer("PORT")),
        stop_timeout=stop_timeout,
        notifier=notifier,
        watch_sources=(lambda: SourceWatch(sources_of(settings().text("EDGEPAAS_APP"))))
        if arguments.reload
        else None,
        ignore_hangup=not sys.stdin.isatty(),
        before_pause=partial(_outlast, paths.postgres_hold),
        on_failure=partial(_note_stage, paths),
    )
    return supervisor.run()


def _outlast(hold: "Path", pause: float) -> None:
    """Have a hold on PostgreSQL last beyond a *pause* of the chain, in seconds."""
    from edgepaas.decision.hold import outlast_pause

    try:
        outlast_pause(hold, pause)
    except OSError as error:
        logging.getLogger("edgepaas.supervisor").error(
            "the hold on PostgreSQL cannot be extended: %s", error
        )


def _forking_launcher() -> "ForkingLauncher":
    from edgepaas.cli import main
    from edgepaas.supervisor.forked_stages import ForkingLauncher
    from edgepaas.supervisor.free_memory import free_memory
    from edgepaas.supervisor.stage_processes import PROGRAM, child_environment

    return ForkingLauncher(
        PROGRAM,
        child_environment(os.environ),
        run=main,
        preload=_import_service,
        memory=free_memory,
    )


def _import_service() -> None:
    from edgepaas.files.paths import find_paths
    from edgepaas.service.early_connections import begin_for_hand_back

    begin_for_hand_back(find_paths())
    import edgepaas.cli.stages.serve
    import edgepaas.service.run  # noqa: F401 - all of them are for the service
    from edgepaas.service.loader import preload

    preload()


def _note_stage(paths: "Paths", stage: str, status: int) -> None:
    """Leave that *stage* failed, for the answers, where it could not do so itself."""
    from edgepaas.service.stage_failure import failed_stage, note_failure

    if not failed_stage(paths):
        how = f"signal {-status}" if status < 0 else f"status {status}"
        note_failure(paths, stage, RuntimeError(f"it ended with {how}"))
