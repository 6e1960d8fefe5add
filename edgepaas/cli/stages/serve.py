# SPDX-License-Identifier: Apache-2.0
"""``edgepaas serve``: stage 4 of the boot chain."""

import argparse
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgepaas.files.paths import Paths
    from edgepaas.service.unprepared import UnpreparedService

DESCRIPTION = """\
Serve the application: binds or inherits the socket (LISTEN_FDS), answers /health/live
at once, loads the application, passes the verification gate, then sends READY=1.
Reads run/env and run/db.env. SIGTERM drains, SIGHUP reopens the log.

exit status: 0 asked to stop, 1 the gate failed, 75 a new decision is needed,
78 configuration.
"""

#: Seconds that are left to threads that hang before the process ends without them.
_FAREWELL = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    # The read end of a pipe; its write end is closed when 'edgepaas up' dies.
    parser.add_argument("--lifeline", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument(
        "--inherit",
        action="store_true",
        help="only take sockets that are handed down (LISTEN_FDS), never bind one",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the service; returns its exit status."""
    began = time.monotonic()
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.contract import read_contract
    from edgepaas.files.paths import find_paths
    from edgepaas.httpd.large_blocks import return_large_blocks
    from edgepaas.httpd.listen import address_mismatch, listening_sockets
    from edgepaas.sd_notify import Notifier
    from edgepaas.service.instance_locks import claim_serving
    from edgepaas.service.run import Service, ServiceEnvironment
    from edgepaas.settings import Settings
    from edgepaas.settings.logs import start_logging

    paths = find_paths()
    paths.create()
    if (unprepared := _unprepared(paths)) is not None:
        return unprepared.run()
    settings = Settings.read(paths.env_contract)
    start_logging(settings, paths)
    return_large_blocks()
    contract = DatabaseContract.read(paths.db_contract)
    # The application's own code may look for its variables there. No unit does this for us: PID 1
    # would read, as root, whatever lies at these paths.
    os.environ.update(read_contract(paths.env_contract, written_by="env"))
    os.environ.update(read_contract(paths.db_contract, written_by="dbdecide"))
    if contract.hub_url:
        from edgepaas.pgdriver.sessions import identify, own_sessions

        if own_sessions() is None:  # else it has connected already, to be handed back to
            identify(paths, "serve")
    notifier = Notifier.of(os.environ, os.getpid())
    listening = listening_sockets(
        os.environ,
        settings.text("HOST"),
        settings.integer("PORT"),
        pid=os.getpid(),
        may_bind=not arguments.inherit,
    )
    elsewhere = listening.inherited and address_mismatch(
        listening, settings.text("HOST"), settings.integer("PORT")
    )
    if elsewhere:
        logging.getLogger("edgepaas.service").warning("%s; %s", elsewhere, _way_out(arguments))
    _claim(paths, claim_serving)
    _publish_address(paths, listening.publication)
    environment = ServiceEnvironment(
        listening=listening,
        notifier=notifier,
        print_line=_print_line,
        lifeline=arguments.lifeline,
        supervised="NOTIFY_SOCKET" in os.environ,
    )
    status = Service(settings, contract, paths, environment, began=began).run()
    _end_without_hung_threads(status)
    return status


def _unprepared(paths: "Paths") -> "UnpreparedService | None":
    """Return what answers in the service's place where a stage before it failed.

    Only on sockets that were handed down, under a manager that starts it again: at a terminal the
    error itself is wanted.
    """
    from edgepaas.files.contract import ContractMissing, read_contract
    from edgepaas.service.stage_failure import failed_stage

    if "NOTIFY_SOCKET" not in os.environ or os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    reason = failed_stage(paths)
    if not reason:
        try:
            read_contract(paths.env_contract, written_by="env")
            read_contract(paths.db_contract, written_by="dbdecide")
        except ContractMissing as error:
            reason = str(error)
        else:
            return None
    from edgepaas.httpd.listen import Listening, inherited_sockets
    from edgepaas.sd_notify import Notifier
    from edgepaas.service.unprepared import UnpreparedService

    notifier = Notifier.of(os.environ, os.getpid())
    sockets = tuple(inherited_sockets(os.environ, pid=os.getpid()))
    return UnpreparedService(paths, Listening(sockets, inherited=True), notifier, reason)


def _way_out(arguments: argparse.Namespace) -> str:
    if arguments.lifeline >= 0:
        return "end 'edgepaas up' and start it again to listen there"
    return "to listen there: systemctl daemon-reload && systemctl restart edgepaas.socket edgepaas"


def _claim(paths: "Paths", claim: "Callable[[Paths], int | None]") -> None:
    """Show other commands that a service runs here: the lock is held until the process ends."""
    try:
        claim(paths)
    except OSError as error:
        logging.getLogger("edgepaas.service").warning("%s: %s", paths.serving_lock, error)


def _publish_address(paths: "Paths", publication: str) -> None:
    """Leave the address for ``edgepaas status`` of users who may not read the contracts."""
    from edgepaas.files.atomic import write_atomic

    try:
        write_atomic(paths.address, publication, mode=0o644)
    except OSError as error:  # a full /run is no reason not to serve
        logging.getLogger("edgepaas.service").warning("%s is not written: %s", paths.address, error)


def _print_line(stage: str, text: str) -> None:
    from edgepaas.terminal import announce

    try:
        announce(stage, text)
    except BrokenPipeError:
        # What is still buffered must not turn our exit status into that of a broken pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _end_without_hung_threads(status: int) -> None:
    def end() -> None:
        time.sleep(_FAREWELL)
        os._exit(status)

    try:
        threading.Thread(target=end, name="farewell", daemon=True).start()
    except RuntimeError:  # the box has no thread left: the exit status matters more than they do
        logging.shutdown()
        os._exit(status)
