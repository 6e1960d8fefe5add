# SPDX-License-Identifier: Apache-2.0
"""``edgepaas sync``: deliver captured rows to PostgreSQL, continuously or once."""

import argparse
import logging
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

from edgepaas.errors import EXIT_DECIDE_AGAIN, EXIT_DONE, EXIT_FAILED, EdgePaaSError
from edgepaas.terminal import announce, say

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings
    from edgepaas.sync.context import SyncContext
    from edgepaas.sync.shutdown import StopRequest

DESCRIPTION = """\
Deliver to PostgreSQL the rows that were written while SQLite served: in order, each once. Runs
beside the service ('edgepaas up' and edgepaas-sync.service start it), keeps the shared tables
current in the SQLite file, and hands back to PostgreSQL once it has worked for a while. Without
a PostgreSQL it has nothing to do and exits with 0.

exit status: 0 stopped by a signal, nothing to do, or (--once) no row waits; 1 failed, or (--once)
rows wait; 75 there is a new decision.
"""

#: Seconds to wait for an earlier drainer of this box to exit.
_LOCK_TIMEOUT = 10.0
#: Seconds between two checks for a decision that is being made.
_POLL_INTERVAL = 0.5


class AlreadyRunning(EdgePaaSError):
    """Another drainer runs on this box; two would send the same rows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and sub-commands."""
    from edgepaas.cli.operator import sync_inspect

    parser.add_argument(
        "--once", action="store_true", help="send what waits now, report the result, and exit"
    )
    # The descriptor of a pipe that closes when 'edgepaas up' is gone.
    parser.add_argument("--lifeline", type=int, default=-1, help=argparse.SUPPRESS)
    sync_inspect.add_subcommands(parser.add_subparsers(dest="subcommand", metavar="COMMAND"))


def run(arguments: argparse.Namespace) -> int:
    """Drain; returns the exit status."""
    if arguments.subcommand:
        from edgepaas.cli.operator import sync_inspect

        return sync_inspect.run(arguments)
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.contract import ContractMissing
    from edgepaas.files.paths import find_paths
    from edgepaas.settings import Settings

    paths = find_paths()
    paths.create()
    try:
        settings = Settings.read(paths.env_contract)
        contract = DatabaseContract.read(paths.db_contract)
    except ContractMissing as error:
        if arguments.once:
            raise
        return _await_decision(paths, str(error), arguments.lifeline)
    _start_logging(settings, paths)
    if not contract.hub_url:
        return _nothing_to_do(paths, contract)
    from edgepaas.pgdriver.sessions import identify

    identify(paths, "sync")
    if arguments.once:
        return _once(settings, contract, paths)
    return _drain(settings, contract, paths, arguments.lifeline)


def _drain(
    settings: "Settings", contract: "DatabaseContract", paths: "Paths", lifeline: int
) -> int:
    from edgepaas.files.locks import LockHeld, acquire
    from edgepaas.sync import status
    from edgepaas.sync.shutdown import StopRequest, StopWatcher
    from edgepaas.sync.wakeups import WakeupSocket
    from edgepaas.sync.worker import SyncWorker

    try:
        acquire(paths.sync_lock, timeout=_LOCK_TIMEOUT)  # held until this process is gone
    except LockHeld:
        running = status.read(paths)
        process = f" (process {running.pid})" if running is not None and running.fresh else ""
        raise AlreadyRunning(
            f"another 'edgepaas sync'{process} runs on this box; 'edgepaas sync status' shows what "
            "it does, 'edgepaas sync --once' makes it send what waits"
        ) from None
    stop = StopRequest()
    wake = WakeupSocket(paths.sync_wake)
    _install_signals(stop, wake.interrupt)
    watch = StopWatcher(
        stop, paths.db_contract, contract.generation, lifeline=lifeline, wake=wake.interrupt
    )
    watch.start()
    try:
        result = SyncWorker(_context(settings, contract, paths, stop), wake).run()
    except (
        Exception
    ) as error:  # a bug: besides the traceback in the log, an alert reaches an operator
        logging.getLogger("edgepaas.sync").exception("the drainer failed")
        _alert_about_bug(error)
        return EXIT_FAILED
    finally:
        watch.stop()
    if result == EXIT_DECIDE_AGAIN:
        announce("sync", f"{stop.reason}; starting again on it")
    return result


def _alert_about_bug(error: Exception) -> None:
    """Raise an alert about an unexpected error; the supervisor starts us again after a pause."""
    from edgepaas.alerts.catalogue import SYNC_FAILED

    SYNC_FAILED.raise_alert(f"the drainer failed and is started again: {error!r}")


def _once(settings: "Settings", contract: "DatabaseContract", paths: "Paths") -> int:
    from edgepaas.sync.once import drain_once
    from edgepaas.sync.shutdown import Stopped, StopRequest, StopWatcher

    stop = StopRequest()
    _install_signals(stop, lambda: None)
    watch = StopWatcher(stop, paths.db_contract, contract.generation)
    watch.start()
    try:
        context = _context(settings, contract, paths, stop)
        outcome = drain_once(context, lambda text: say("sync", text))
    except Stopped:
        say("sync", f"{stop.reason}: nothing is lost, rows that were not sent wait")
        return stop.status or EXIT_FAILED
    finally:
        watch.stop()
    say("sync", outcome.text)
    return EXIT_FAILED if outcome.remaining else EXIT_DONE


def _context(
    settings: "Settings", contract: "DatabaseContract", paths: "Paths", stop: "StopRequest"
) -> "SyncContext":
    from edgepaas.supervisor.stage_processes import PROGRAM, child_environment
    from edgepaas.sync.context import SyncContext

    return SyncContext(settings, contract, paths, stop, PROGRAM, child_environment(os.environ))


def _install_signals(stop: "StopRequest", wake: "Callable[[], None]") -> None:
    def on_signal(number: int, _frame: object) -> None:
        stop.request(EXIT_DONE, f"{signal.Signals(number).name} was received")
        wake()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def _start_logging(settings: "Settings", paths: "Paths") -> None:
    """Log as set, into a file of its own: two processes cannot rotate the same one."""
    from edgepaas.logs import configure_logging, register_secret

    for secret in settings.secrets():
        register_secret(secret)
    file = settings.log_file(paths.log_file)
    configure_logging(
        level=settings.text("LOG_LEVEL"),
        style=settings.text("LOG_FORMAT"),
        file=None if file is None else _own_log_file(file),
    )


def _own_log_file(file: "Path") -> "Path":
    return file.with_name(f"{file.stem}-sync{file.suffix}")


def _nothing_to_do(paths: "Paths", contract: "DatabaseContract") -> int:
    from edgepaas.sync import status

    reason = "there is no PostgreSQL to forward rows to (DATABASE_URL names none)"
    values = {"state": "no-hub", "reason": reason, "generation": contract.generation}
    status.write(paths, status.stamped(values, time.time()))
    announce("sync", reason)
    return EXIT_DONE


def _await_decision(paths: "Paths", why: str, lifeline: int) -> int:
    """Wait for the stages, then exit with 75, so that this process is started after them."""
    announce("sync", f"waiting for the decision: {why}")
    while not (paths.env_contract.exists() and paths.db_contract.exists()):
        if lifeline >= 0 and select.select([lifeline], [], [], 0)[0]:
            return EXIT_DONE
        time.sleep(_POLL_INTERVAL)
    sys.stdout.flush()
    return EXIT_DECIDE_AGAIN
