# SPDX-License-Identifier: Apache-2.0
"""``edgepaas serve``: live at once, the application loaded in a thread, READY when it is true."""

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from edgepaas.alerts import raise_alert, resolve_alert
from edgepaas.errors import EXIT_DECIDE_AGAIN, EXIT_DONE, EXIT_FAILED, EdgePaaSError
from edgepaas.health.alerting import AlertWatch
from edgepaas.health.forwarding import ForwardingWatch
from edgepaas.health.state import StateBoard
from edgepaas.httpd.listen import Listening
from edgepaas.httpd.server import HTTPServer
from edgepaas.httpd.startup_responder import Front, Phase
from edgepaas.logs import SAID
from edgepaas.sd_notify import Notifier
from edgepaas.service.crash_backoff import Backoff
from edgepaas.service.loader import Loaded, load, settle_memory
from edgepaas.service.parent_watch import Lifeline
from edgepaas.service.publish_state import StateFile
from edgepaas.service.shutdown import Control, Ending
from edgepaas.service.watches.monitor import GenerationWatch, Monitor, status_line
from edgepaas.settings import Settings
from edgepaas.settings.logs import start_logging

if TYPE_CHECKING:
    from edgepaas.database import Database
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.service.watches.database_loss import Surroundings

#: Seconds after which a busy thread hands the interpreter over. At Python's 5 ms a request
#: that passes through loop, worker, writer and loop again waits for most of its time.
SWITCH_INTERVAL = 0.001
#: The fingerprint of a start that failed, until one succeeds.
START = "service-start"
#: Seconds in which a worker of the application brings its work to an end; fewer after a loss.
WORKER_PATIENCE = 2.0

logger = logging.getLogger("edgepaas.service")


@dataclass(frozen=True)
class Surface:
    """How the service meets the world around it; all of it is made by the command line."""

    listening: Listening
    notifier: Notifier
    #: Prints a stage's one line for a person.
    say: Callable[[str, str], None]
    #: A pipe's end that closes when the parent dies; -1 without one.
    lifeline: int = -1
    #: Whether somebody starts the service again when it fails, so that it has to back off.
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
        surface: Surface,
        *,
        began: float,
    ) -> None:
        self._began = began
        self._settings = settings
        self._contract = contract
        self._paths = paths
        self._surface = surface
        self._notifier = surface.notifier
        self._patience = settings.number("STOP_TIMEOUT")
        self._backoff = Backoff(paths.crash_loop)
        self._forwarding = ForwardingWatch(paths, contract)
        self._state = StateBoard(contract, forwarding=self._forwarding)
        self._state.alerts = AlertWatch(paths).line
        self._state_file = StateFile(paths, self._state)
        self._front = Front(Phase("starting", "the application is being loaded"))
        self._server = HTTPServer(
            self._front,
            surface.listening.sockets,
            threads=settings.integer("THREADS"),
            connection_limit=settings.integer("CONNECTION_LIMIT"),
            request_max_bytes=settings.size("REQUEST_MAX_BYTES"),
        )
        self._control = Control(self._server.wake)
        self._loaded: Loaded | None = None

    def run(self) -> int:
        """Serve until told to end; returns the exit status. To be called in the main thread."""
        # Until the start is done, collections find nothing but modules that stay.
        gc.disable()
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._install_signals()
        self._state_file.leave()
        if self._surface.lifeline >= 0:
            Lifeline(self._surface.lifeline, self._server, self._parent_died)
        self._monitor().start()
        threading.Thread(target=self._start, name="loader", daemon=True).start()
        self._server.run(self._ended)
        return self._finish()

    # -- start (the loader's thread) --

    def _start(self) -> None:
        try:
            loaded = load(self._settings, self._contract, self._paths, self._state)
            self._loaded = loaded
            if loaded.report.ok:
                self._open(loaded)
            else:
                self._gate_failed(loaded)
        except EdgePaaSError as error:
            self._fail(error.exit_code, str(error))
        except BaseException as error:
            # An application may even call sys.exit(); whatever it is, nobody waits for ever.
            logger.critical("the application cannot be started", exc_info=error)
            self._fail(EXIT_FAILED, f"the application cannot be started: {error!r}")

    def _open(self, loaded: Loaded) -> None:
        from edgepaas.service.watches.database_loss import LossWatch
        from edgepaas.service.watches.handback import HandBackWatch

        summary = loaded.report.summary()
        if loaded.report.warnings:
            logger.warning("verification: %s", summary)
        self._tell("verify", summary)
        LossWatch(loaded.database, self._surroundings(loaded)).start()
        HandBackWatch(self._contract, self._paths, self._control, self._patience).start()
        self._front.open(loaded.wsgi)
        self._state.phase = "running"
        self._state_file.leave()
        for worker in loaded.workers:
            worker.start()
        waited = self._server.dispatcher.open()
        self._notifier.ready(status_line(self._state))
        took = time.monotonic() - self._began
        where = ", ".join(self._surface.listening.addresses)
        word = self._state.state().state
        self._tell("service", f"{word}, ready after {took:.2f} s; listening on {where}")
        logger.info(
            "ready after %.2f s as %s on %s; %d waited", took, word, where, waited, extra=SAID
        )
        settle_memory()
        self._look_after(loaded)

    def _look_after(self, loaded: Loaded) -> None:
        """Tell what this start ends, and watch the machine from now on."""
        from edgepaas.alerts.conditions.raised_fingerprints import raised_fingerprints
        from edgepaas.health.system import SystemMeter
        from edgepaas.service.watches.conditions import ConditionWatch
        from edgepaas.service.watches.database_loss import LOST

        resolve_alert("the service started", fingerprint=START, origin="service")
        # Raised by systemd/ended when the service ended otherwise than it should.
        resolve_alert("the service runs again", fingerprint="unit serve", origin="service")
        if not self._contract.db_fallback:
            said = f"the database answers ({self._contract.db_state})"
            resolve_alert(said, fingerprint=LOST, origin="service")
        ConditionWatch(
            meter=SystemMeter(self._settings, self._paths.state),
            checks=loaded.board.latest,
            forwarding=self._forwarding,
            raised_fingerprints=partial(raised_fingerprints, self._paths),
        ).start(self._control.wait)
        self._keep_the_budget(loaded.database)

    def _keep_the_budget(self, database: "Database") -> None:
        """Watch what the SQLite file takes of the disk; on PostgreSQL it hardly grows."""
        from edgepaas.database.sqlite.database import EmbeddedDatabase
        from edgepaas.service.watches.disk_budget import BudgetWatch, Limits

        if not isinstance(database, EmbeddedDatabase):
            return
        watch = BudgetWatch(
            self._contract.sqlite_path,
            self._paths,
            Limits.of(self._settings),
            state=self._state,
            refuse=database.refuse_writes,
        )
        database.on_full = watch.disk_full
        watch.start(self._control.wait)

    def _gate_failed(self, loaded: Loaded) -> None:
        failed = {result.name for result in loaded.report.failures}
        summary = loaded.report.summary()
        if self._contract.fallback_armed and failed & {"database", "schema"}:
            # The decision liked this PostgreSQL, but it does not do: SQLite serves.
            from edgepaas.decision.hold import write_hold

            seconds = self._settings.number("POSTGRES_HOLD")
            write_hold(self._paths.postgres_hold, f"verification: {summary}", seconds)
            self._tell("verify", f"PostgreSQL does not do ({summary}); deciding again")
            self._control.end(Ending(EXIT_DECIDE_AGAIN, summary, self._patience))
            return
        self._fail(EXIT_FAILED, f"verification failed: {summary}")

    def _fail(self, status: int, reason: str) -> None:
        if status == EXIT_DECIDE_AGAIN:
            self._control.end(Ending(status, reason, self._patience))
            return
        raise_alert(
            f"the service cannot start: {reason}. It is tried again; 'edgepaas doctor' looks for "
            "causes",
            severity="critical",
            fingerprint=START,
            origin="service",
        )
        self._tell("verify", f"failed: {reason}")
        # While it waits, the process goes on saying why it is not ready.
        self._front.close(Phase("starting", reason))
        self._server.dispatcher.refuse_parked()
        self._notifier.status(f"failed to start: {reason}")
        self._control.wait(self._back_off())
        self._control.end(Ending(status, reason, self._patience))

    def _back_off(self) -> float:
        """Count a failure; returns how long to wait before ending with it, in seconds."""
        delay = self._backoff.failed()
        if not self._surface.supervised:
            return 0.0  # somebody at a terminal wants the answer, and nothing restarts us
        logger.error("ending in %.1f s, to be started again", delay)
        return delay

    def _tell(self, stage: str, text: str) -> None:
        try:
            self._surface.say(stage, text)
        except OSError as error:
            logger.warning("nobody reads what is printed (%s): %s: %s", error, stage, text)

    # -- the end (the main thread) --

    def _ended(self) -> bool:
        if self._control.take_reload():
            self._reload()
        return self._control.ending is not None

    def _finish(self) -> int:
        ending = self._control.ending
        assert ending is not None  # noqa: S101 - the loop ends on nothing else
        logger.info("ending with status %d: %s", ending.status, ending.reason)
        self._state.phase = "stopping"
        self._state_file.leave()
        self._notifier.stopping(f"stopping: {ending.reason}")
        if self._loaded is None:
            self._front.close(Phase("stopping", ending.reason))
        self._server.dispatcher.refuse_parked()
        deadline = time.monotonic() + ending.patience
        given_up = self._server.drain(
            lambda: self._control.hurry or time.monotonic() >= deadline,
            accept_waiting=ending.accept_waiting,
        )
        if given_up:
            logger.warning("%d requests were given up with 503", given_up)
        self._server.close(hung=given_up > 0)
        if self._loaded is not None:
            for worker in self._loaded.workers:
                worker.stop(min(WORKER_PATIENCE, ending.patience / 2))
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

    # -- parts --

    def _monitor(self) -> Monitor:
        return Monitor(
            state=self._state,
            control=self._control,
            notifier=self._notifier,
            probe=self._server.probe,
            generation=GenerationWatch(self._paths.db_contract, self._contract.generation),
            backoff=self._backoff,
            patience=self._patience,
            leave_word=self._state_file.leave,
        )

    def _surroundings(self, loaded: Loaded) -> "Surroundings":
        from edgepaas.service.watches.database_loss import Surroundings

        return Surroundings(
            contract=self._contract,
            paths=self._paths,
            state=self._state,
            board=loaded.board,
            front=self._front,
            control=self._control,
            back_off=self._back_off,
            busy=self._server.dispatcher.busy,
        )
