# SPDX-License-Identifier: Apache-2.0
"""``edgepaas serve``: live at once, the application loaded in a thread, READY after the gate."""

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.alerts import raise_alert, resolve_alert
from edgepaas.alerts.catalogue import DATABASE_LOST, SERVICE_START, UNIT
from edgepaas.decision.hold import hold_after_failed_start, outlast_pause
from edgepaas.errors import (
    EXIT_DECIDE_AGAIN,
    EXIT_DONE,
    EXIT_FAILED,
    DatabaseError,
    EdgePaaSError,
)
from edgepaas.health.alerting import AlertWatch
from edgepaas.health.forwarding import ForwardingWatch
from edgepaas.health.state import StateBoard
from edgepaas.httpd.listen import Listening
from edgepaas.httpd.server import HTTPServer
from edgepaas.httpd.startup_responder import NotReady, StartupResponder
from edgepaas.logs import PRINTED
from edgepaas.pgdriver.failures import server_message, sqlstate
from edgepaas.schema.open_problems import open_refusal
from edgepaas.sd_notify import Notifier
from edgepaas.service.core_pinning import CorePinning
from edgepaas.service.crash_loop import CrashLoop
from edgepaas.service.loader import Loaded, freeze_startup_objects, load
from edgepaas.service.parent_watch import Lifeline
from edgepaas.service.publish_state import StatePublisher
from edgepaas.service.shutdown import Control, Ending
from edgepaas.service.watches.monitor import status_line
from edgepaas.service.watches.wiring import Watches
from edgepaas.service.workers import start_workers, stop_workers
from edgepaas.settings import Settings
from edgepaas.settings.logs import start_logging
from edgepaas.timing.periodic_task import PeriodicTask
from edgepaas.timing.task_registry import TaskRegistry

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths

#: Seconds after which a busy thread hands the interpreter over. At Python's 5 ms a request
#: that passes through loop, worker, writer and loop again waits for most of its time.
SWITCH_INTERVAL = 0.001
#: Seconds in which a worker of the application brings its work to an end; fewer after a loss.
WORKER_PATIENCE = 2.0
#: Seconds for which a refused database is answered with 503 before the chain runs again; well
#: below TimeoutStartSec= of the unit, since the service is not ready meanwhile.
REFUSED_PATIENCE = 60.0

logger = logging.getLogger("edgepaas.service")


@dataclass(frozen=True)
class ServiceEnvironment:
    """What the service runs on; all of it is made by the command line."""

    listening: Listening
    notifier: Notifier
    #: Prints a stage's one line for an operator.
    print_line: Callable[[str, str], None]
    #: A pipe's end that closes when the parent dies; -1 without one.
    lifeline: int = -1
    #: Whether a supervisor starts the service again when it fails, so that it has to back off.
    supervised: bool = False


class Service:
    """One run of the service, from its contracts to its exit status.

    *began* is the moment (time.monotonic()) from which the start is counted.
    """

    def __init__(
        self,
        settings: Settings,
        contract: "DatabaseContract",
        paths: "Paths",
        environment: ServiceEnvironment,
        *,
        began: float,
    ) -> None:
        self._began = began
        self._settings = settings
        self._contract = contract
        self._paths = paths
        self._environment = environment
        self._notifier = environment.notifier
        self._patience = settings.number("STOP_TIMEOUT")
        self._pinning = CorePinning(settings.text("CPU_PIN"))
        self._crash_loop = CrashLoop(paths.crash_loop)
        self._tasks = TaskRegistry(raise_alert, resolve_alert)
        self._forwarding = ForwardingWatch(paths, contract)
        self._state = StateBoard(contract, forwarding=self._forwarding, tasks=self._tasks.problems)
        self._state.alerts = AlertWatch(paths).line
        self._publisher = StatePublisher(paths, self._state)
        self._responder = StartupResponder(NotReady("starting", "the application is being loaded"))
        self._server = HTTPServer(
            self._responder,
            environment.listening.sockets,
            threads=settings.integer("THREADS"),
            connection_limit=settings.integer("CONNECTION_LIMIT"),
            connections_per_client=settings.integer("CONNECTIONS_PER_CLIENT"),
            request_max_bytes=settings.size("REQUEST_MAX_BYTES"),
        )
        self._server.hold_bodies()
        self._control = Control(self._server.wake)
        self._watches = Watches(settings, contract, paths, self._state, self._tasks, self._control)
        self._monitor: PeriodicTask | None = None
        self._loaded: Loaded | None = None

    def run(self) -> int:
        """Serve until the end is asked for; returns the exit status. For the main thread."""
        # Until the start is done, collections find nothing but modules that stay.
        gc.disable()
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._pinning.begin()
        self._install_signals()
        self._publisher.publish()
        if self._environment.lifeline >= 0:
            Lifeline(self._environment.lifeline, self._server, self._parent_died)
        self._monitor = self._watches.start_monitor(
            server=self._server,
            notifier=self._notifier,
            crash_loop=self._crash_loop,
            publisher=self._publisher,
        )
        try:
            threading.Thread(target=self._start, name="loader", daemon=True).start()
        except RuntimeError as error:
            self._fail(EXIT_FAILED, f"the application cannot be loaded: {error}")
        self._server.run(self._ended)
        return self._finish()

    # -- start (the loader's thread) --

    def _start(self) -> None:
        refused = open_refusal(self._paths)
        if refused:
            self._refuse(refused)
            return
        try:
            loaded = load(
                self._settings,
                self._contract,
                self._paths,
                self._state,
                self._tasks,
                workers_answer=self._server.dispatcher.workers_answer,
            )
            self._loaded = loaded
            if loaded.report.ok:
                self._open(loaded)
            else:
                self._gate_failed(loaded)
        except EdgePaaSError as error:
            if not (is_of_postgres(error) and self._give_up_postgres(str(error))):
                self._fail(error.exit_code, str(error))
        except BaseException as error:
            if is_of_postgres(error) and self._give_up_postgres(server_message(error)):
                return
            # An application may even call sys.exit(); the service ends whatever it is.
            logger.critical("the application cannot be started", exc_info=error)
            self._fail(EXIT_FAILED, f"the application cannot be started: {error!r}")

    def _open(self, loaded: Loaded) -> None:
        summary = loaded.report.summary()
        if loaded.report.warnings:
            logger.warning("verification: %s", summary)
        self._print("verify", summary)
        self._watches.start_for_database(
            loaded,
            responder=self._responder,
            back_off=self._back_off,
            busy=self._server.dispatcher.busy,
            announce=self._notifier.next_round,
        )
        self._responder.open(loaded.wsgi)
        self._server.use_entrance(loaded.entrance)
        self._server.take_appends(loaded.appends, lambda: self._responder.is_open)
        self._state.phase = "running"
        self._publisher.publish()
        for task in start_workers(loaded.workers, self._tasks):
            self._control.at_end(task.request_stop)
        waited = self._server.dispatcher.open()
        self._notifier.ready(status_line(self._state))
        took = time.monotonic() - self._began
        addresses = ", ".join(self._environment.listening.addresses)
        state = self._state.state().state
        self._print("service", f"{state}, ready after {took:.2f} s; listening on {addresses}")
        logger.info(
            "ready after %.2f s as %s on %s; %d requests waited",
            took,
            state,
            addresses,
            waited,
            extra=PRINTED,
        )
        freeze_startup_objects()
        self._pinning.settle()
        self._resolve_alerts_of_the_start()
        self._watches.start_for_machine(loaded, self._forwarding)

    def _resolve_alerts_of_the_start(self) -> None:
        """End the alerts that this start shows to be over."""
        SERVICE_START.resolve_alert("the service started")
        # Raised by systemd/ended when the service ended otherwise than it should.
        UNIT.resolve_alert("the service runs again", subject="serve")
        # What a rehearsal found may be over: it was lost again before this was reached.
        if not self._contract.db_fallback and self._control.ending is None:
            DATABASE_LOST.resolve_alert(f"the database answers ({self._contract.db_state})")

    def _refuse(self, reason: str) -> None:
        """Answer 503 with *reason*, for a while: the schema stage found the database unfit.

        Then the chain runs again, which finds out whether that was mended.
        """
        if not self._environment.supervised:
            self._fail(EXIT_FAILED, f"the database's schema is refused: {reason}")
            return
        self._print("verify", f"answering 503: {reason}")
        self._responder.close(NotReady("starting", reason, "Its database's schema is refused."))
        self._server.refuse_waiting()
        self._notifier.status(f"answering 503: {reason}")
        self._control.wait(REFUSED_PATIENCE)
        self._control.end(Ending(EXIT_DECIDE_AGAIN, reason, self._patience))

    def _gate_failed(self, loaded: Loaded) -> None:
        failed = {result.name for result in loaded.report.failures}
        summary = loaded.report.summary()
        if failed & {"database", "schema"} and self._give_up_postgres(f"verification: {summary}"):
            return
        self._fail(EXIT_FAILED, f"verification failed: {summary}")

    def _give_up_postgres(self, reason: str) -> bool:
        """Have SQLite serve at once, without backing off; False where that is not armed.

        The decision chose this PostgreSQL, and the start on it failed.
        """
        if not self._contract.fallback_armed:
            return False
        seconds = self._settings.number("POSTGRES_HOLD")
        try:
            hold_after_failed_start(self._paths.postgres_hold, reason, seconds)
        except OSError as error:
            # Without a hold the next decision would choose PostgreSQL again: back off.
            logger.error("the hold on PostgreSQL cannot be written: %s", error)
            return False
        self._print("verify", f"PostgreSQL cannot be used ({reason}); deciding again")
        self._control.end(Ending(EXIT_DECIDE_AGAIN, reason, self._patience))
        return True

    def _fail(self, status: int, reason: str) -> None:
        if status == EXIT_DECIDE_AGAIN:
            self._control.end(Ending(status, reason, self._patience))
            return
        SERVICE_START.raise_alert(f"the service cannot start: {reason}")
        self._print("verify", f"failed: {reason}")
        # While it waits, the process still reports why it is not ready.
        self._responder.close(NotReady("starting", reason))
        self._server.refuse_waiting()
        self._notifier.status(f"failed to start: {reason}")
        self._control.wait(self._back_off())
        self._control.end(Ending(status, reason, self._patience))

    def _back_off(self) -> float:
        """Count a failure; returns how long to wait before ending with it, in seconds."""
        delay = self._crash_loop.failed()
        if not self._environment.supervised:
            return 0.0  # run at a terminal: the answer is wanted now, and nothing restarts us
        try:
            outlast_pause(self._paths.postgres_hold, delay)
        except OSError as error:
            logger.error("the hold on PostgreSQL cannot be extended: %s", error)
        logger.error("ending in %.1f s, to be started again", delay)
        return delay

    def _print(self, stage: str, text: str) -> None:
        try:
            self._environment.print_line(stage, text)
        except OSError as error:
            logger.warning("the terminal takes no output (%s): %s: %s", error, stage, text)

    # -- the end (the main thread) --

    def _ended(self) -> bool:
        if self._control.take_reload():
            self._reload()
        if self._monitor is not None and self._monitor.due_to_start:
            self._monitor.start()  # it starts all other threads again; only this one starts it
        return self._control.ending is not None

    def _finish(self) -> int:
        ending = self._control.ending
        assert ending is not None  # noqa: S101 - the loop ends on nothing else
        logger.info("ending with status %d: %s", ending.status, ending.reason)
        self._state.phase = "stopping"
        self._publisher.publish()
        if ending.status == EXIT_DECIDE_AGAIN:
            self._notifier.next_round()  # it imports while this one answers its last requests
        self._notifier.stopping(f"stopping: {ending.reason}")
        if self._loaded is None:
            self._responder.close(NotReady("stopping", ending.reason))
        self._server.refuse_waiting()
        deadline = time.monotonic() + ending.patience
        given_up = self._server.drain(
            lambda: self._control.hurry or time.monotonic() >= deadline,
            accept_waiting=ending.accept_waiting,
        )
        if given_up:
            logger.warning("%d requests were given up with 503", given_up)
        self._server.close(hung=given_up > 0)
        if self._loaded is not None:
            stop_workers(self._loaded.workers, min(WORKER_PATIENCE, ending.patience / 2))
            self._loaded.database.close()
        return ending.status

    # -- signals and reload (the main thread) --

    def _install_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, lambda *_: self._control.ask_reload())

    def _on_stop(self, number: int, _frame: object) -> None:
        reason = f"{signal.Signals(number).name} was received"
        self._control.stop(Ending(EXIT_DONE, reason, self._patience, accept_waiting=True))

    def _parent_died(self) -> None:
        reason = "the process that ran the chain is gone"
        self._control.stop(Ending(EXIT_DONE, reason, self._patience, accept_waiting=True))

    def _reload(self) -> None:
        """Read again what can be: the log's level, format and file; tokens are read when used."""
        self._notifier.reloading()
        try:
            start_logging(Settings.read(self._paths.env_contract), self._paths)
        except EdgePaaSError as error:
            logger.error("nothing was reloaded: %s", error)
        else:
            logger.info("reloaded: log level, format and file; other settings need a restart")
        if self._state.phase == "running":
            self._notifier.ready(status_line(self._state))


def is_of_postgres(error: BaseException) -> bool:
    """Whether *error* is the database's: its layer raised it, or PostgreSQL itself said so."""
    return isinstance(error, DatabaseError) or sqlstate(error) is not None
