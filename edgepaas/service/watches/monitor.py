# SPDX-License-Identifier: Apache-2.0
"""The service watches itself: watchdog, the contract's generation, the one-line state."""

import faulthandler
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.errors import EXIT_DECIDE_AGAIN, EXIT_FAILED, EdgePaaSError
from edgepaas.sd_notify import Notifier
from edgepaas.service.crash_loop import HEALTHY_AFTER, CrashLoop
from edgepaas.service.shutdown import Control, Ending
from edgepaas.timing.backoff import Backoff, no_jitter
from edgepaas.timing.periodic_task import PeriodicTask, TaskAlert

if TYPE_CHECKING:
    from edgepaas.health.state import StateBoard

#: Seconds after which a start that is not done counts as failed.
START_LIMIT = 300.0
#: While it starts, the service asks for so many more seconds at a time.
_EXTENSION = 30.0
_EXTEND_EVERY = 5.0
_TICK = 1.0

logger = logging.getLogger("edgepaas.service")


class Monitor:
    """Watches from the first moment to the end."""

    def __init__(
        self,
        *,
        state: "StateBoard",
        control: Control,
        notifier: Notifier,
        probe: Callable[[float], bool],
        generation: "GenerationWatch",
        crash_loop: CrashLoop,
        patience: float,
        publish_state: Callable[[], None] = lambda: None,
        check_tasks: Callable[[], None] = lambda: None,
    ) -> None:
        """*publish_state* is for the processes beside this one (:class:`StatePublisher`).

        *check_tasks* looks after the process's periodic tasks (:meth:`TaskRegistry.check`).
        """
        self._check_tasks = check_tasks
        self._state = state
        self._publish_state = publish_state
        self._control = control
        self._notifier = notifier
        self._probe = probe
        self._generation = generation
        self._crash_loop = crash_loop
        self._patience = patience
        self._began = time.monotonic()
        self._running_since: float | None = None
        self._extended = 0.0
        self._alive = 0.0
        self._hung = False
        self._forgiven = False

    def task(self) -> PeriodicTask:
        """Return the task that looks every second, or more often for a short watchdog."""
        tick = min(_TICK, self._notifier.watchdog / 4) if self._notifier.watchdog else _TICK
        return PeriodicTask(
            "monitor",
            self.look,
            every=tick,
            first_after=tick,
            # The watchdog vouches for the workers; a fault in here must not silence it.
            backoff=Backoff(first=tick, longest=tick, jitter=no_jitter),
            alert=TaskAlert("The watchdog and the state's line may be late meanwhile."),
        )

    def look(self) -> None:
        """Look once at everything."""
        now = time.monotonic()
        if self._notifier.watchdog and now - self._alive >= self._notifier.watchdog / 4:
            self._watch_workers()
        self._check_tasks()
        self._publish_state()
        if self._state.phase == "starting":
            self._watch_start(now)
            return
        if self._running_since is None:
            self._running_since = now
        if not self._forgiven and now - self._running_since >= HEALTHY_AFTER:
            self._forgiven = True
            self._crash_loop.healthy()
        self._notifier.status(status_line(self._state))
        if other := self._generation.changed():
            reason = f"a new decision was made ({other}); starting again on it"
            self._control.end(Ending(EXIT_DECIDE_AGAIN, reason, self._patience))

    def _watch_workers(self) -> None:
        if self._probe(self._notifier.watchdog / 4):
            self._alive = time.monotonic()
            self._hung = False
            self._notifier.alive()
        elif not self._hung and not self._control.wait(0):
            # While it drains, hung workers are expected: the drain is bounded for them.
            self._hung = True
            logger.error("no worker answers; what each thread does follows")
            faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)

    def _watch_start(self, now: float) -> None:
        if now - self._began > START_LIMIT:
            reason = f"the start was not done after {START_LIMIT:g} s"
            self._control.end(Ending(EXIT_FAILED, reason, 0.0))
        elif now - self._extended >= _EXTEND_EVERY:
            self._extended = now
            self._notifier.extend(_EXTENSION)


class GenerationWatch:
    """Notices that the decision in *path* is another one than *generation*."""

    def __init__(self, path: Path, generation: str) -> None:
        self._path = path
        self._generation = generation
        self._seen: tuple[int, int] | None = None

    def changed(self) -> str:
        """Return the other generation; "" while it is the same, or being decided right now."""
        from edgepaas.decision.contract import DatabaseContract

        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns)
            if seen == self._seen:
                return ""
            found = DatabaseContract.read(self._path).generation
        except (OSError, EdgePaaSError):
            return ""  # a stage deletes its contract before it writes the new one
        self._seen = seen
        return found if found != self._generation else ""


def status_line(state: "StateBoard") -> str:
    """Return one line for an operator: state, since when, why, alerts, build."""
    from edgepaas.build import build_version

    current = state.state()
    since = current.since.strftime("%Y-%m-%d %H:%M:%S UTC") if current.since else "the start"
    why = f": {'; '.join(current.reasons)}" if current.reasons else ""
    alerts = f"; {line}" if (line := state.alerts()) else ""
    return f"{current.state} since {since}{why}{alerts} (edgepaas {build_version()})"
