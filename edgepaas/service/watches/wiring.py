# SPDX-License-Identifier: Apache-2.0
"""Which watches a service runs, and what each of them needs of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from edgepaas.service.watches.monitor import GenerationWatch, Monitor

if TYPE_CHECKING:
    from edgepaas.database import Database
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.health.forwarding import ForwardingWatch
    from edgepaas.health.state import StateBoard
    from edgepaas.httpd.server import HTTPServer
    from edgepaas.httpd.startup_responder import StartupResponder
    from edgepaas.sd_notify import Notifier
    from edgepaas.service.crash_loop import CrashLoop
    from edgepaas.service.loader import Loaded
    from edgepaas.service.publish_state import StatePublisher
    from edgepaas.service.shutdown import Control
    from edgepaas.service.watches.write_outcomes import OutcomeWatch
    from edgepaas.settings import Settings
    from edgepaas.timing.periodic_task import PeriodicTask
    from edgepaas.timing.task_registry import TaskRegistry


@dataclass(frozen=True)
class Watches:
    """Starts the service's watches, each as a periodic task that ends with the service."""

    settings: "Settings"
    contract: "DatabaseContract"
    paths: "Paths"
    state: "StateBoard"
    tasks: "TaskRegistry"
    control: "Control"

    def start_monitor(
        self,
        *,
        server: "HTTPServer",
        notifier: "Notifier",
        crash_loop: "CrashLoop",
        publisher: "StatePublisher",
    ) -> "PeriodicTask":
        """Watch over the service itself, from the first moment on; returns the task."""
        monitor = Monitor(
            state=self.state,
            control=self.control,
            notifier=notifier,
            probe=server.probe,
            generation=GenerationWatch(self.paths.db_contract, self.contract.generation),
            crash_loop=crash_loop,
            patience=self.settings.number("STOP_TIMEOUT"),
            publish_state=publisher.publish,
            check_tasks=self.tasks.check,
        )
        return self._start(monitor.task())

    def start_for_database(
        self,
        loaded: "Loaded",
        *,
        responder: "StartupResponder",
        back_off: Callable[[], float],
        busy: Callable[[], bool],
        announce: Callable[[], None],
    ) -> None:
        """Watch for the loss of the database, and for PostgreSQL taking over."""
        from edgepaas.service.watches.database_loss import LossHandlers, LossWatch
        from edgepaas.service.watches.handback import HandBackWatch

        handlers = LossHandlers(
            contract=self.contract,
            paths=self.paths,
            state=self.state,
            board=loaded.board,
            responder=responder,
            control=self.control,
            back_off=back_off,
            busy=busy,
        )
        outcomes = self._outcome_watch(loaded.database, responder)
        if outcomes is not None:
            handlers = replace(handlers, give_up=outcomes.give_up)
            self._start(outcomes.task)
            self._start_fit(loaded.database, outcomes)
        self._start(LossWatch(loaded.database, handlers).task)
        self._start_marks(loaded.database)
        if loaded.journal is not None:
            self._start(loaded.journal.task)
        patience = self.settings.number("STOP_TIMEOUT")
        watch = HandBackWatch(self.contract, self.paths, self.control, patience, announce=announce)
        hand_back = watch.task()
        if hand_back is not None:
            self._start(hand_back)

    def _outcome_watch(
        self, database: "Database", responder: "StartupResponder"
    ) -> "OutcomeWatch | None":
        """Return what watches how writes end on PostgreSQL; SQLite's file is the box's own."""
        if self.contract.sqlite_active:
            return None
        from edgepaas.database.postgresql.database import ServerDatabase
        from edgepaas.service.watches.write_outcomes import GivingUp, OutcomeWatch

        if not isinstance(database, ServerDatabase):
            return None
        handlers = GivingUp(
            contract=self.contract,
            paths=self.paths,
            state=self.state,
            responder=responder,
            control=self.control,
            hold=self.settings.number("POSTGRES_HOLD"),
        )
        return OutcomeWatch(database.outcomes, handlers)

    def _start_fit(self, database: "Database", outcomes: "OutcomeWatch") -> None:
        """Look whether the tables go on keeping what is written to them."""
        from edgepaas.database.postgresql.database import ServerDatabase
        from edgepaas.outbox.layout import TABLES_RECORD
        from edgepaas.service.watches.table_fit import FitWatch

        document = TABLES_RECORD.read_or_none(self.paths.tables)
        if isinstance(database, ServerDatabase) and document is not None and document["tables"]:
            watch = FitWatch(
                database,
                document["tables"],
                outcomes.report_unfit,
                rehearse=database.rehearse_write,
            )
            self._start(watch.task)

    def _start_marks(self, database: "Database") -> None:
        """Compare what PostgreSQL acknowledged with what it has."""
        if database.dialect != "postgresql":
            return
        from edgepaas.database.postgresql.database import ServerDatabase
        from edgepaas.service.watches.marks import MarkWatch

        if isinstance(database, ServerDatabase) and database.marks is not None:
            self._start(MarkWatch(database, database.marks, self.state).task)

    def start_for_machine(self, loaded: "Loaded", forwarding: "ForwardingWatch") -> None:
        """Watch the machine, what the checks find, and the disk budget."""
        from edgepaas.alerts.conditions.raised_fingerprints import raised_fingerprints
        from edgepaas.health.system import SystemMeter
        from edgepaas.service.watches.condition_checks import ServiceChecks
        from edgepaas.service.watches.conditions import ConditionWatch

        conditions = ConditionWatch(
            meter=SystemMeter(self.settings, self.paths.state),
            checks=loaded.board.latest,
            forwarding=forwarding,
            raised_fingerprints=partial(raised_fingerprints, self.paths),
            tasks=lambda: self.tasks.fingerprints,
            condition_checks=ServiceChecks(
                self.paths, self.settings, self.contract, forwarding, self.state
            ).by_name(),
        )
        self._start(conditions.task())
        self._start_budget(loaded.database)

    def _start_budget(self, database: "Database") -> None:
        """Watch what the SQLite file takes of the disk; on PostgreSQL it hardly grows."""
        from edgepaas.database.sqlite.database import EmbeddedDatabase
        from edgepaas.service.watches.disk_budget import BudgetWatch, Limits

        if not isinstance(database, EmbeddedDatabase):
            return
        watch = BudgetWatch(
            self.contract.sqlite_path,
            self.paths,
            Limits.of(self.settings),
            state=self.state,
            refuse=database.refuse_writes,
            size_limit=database.size_limit,
        )
        database.size_limit.on_crowded = watch.task.wake
        database.on_full = watch.disk_full
        self._start(watch.task)

    def _start(self, task: "PeriodicTask") -> "PeriodicTask":
        self.tasks.add(task)
        self.control.at_end(task.request_stop)
        task.start()
        return task
