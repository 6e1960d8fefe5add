# SPDX-License-Identifier: Apache-2.0
"""What runs beside the service in ``edgepaas up``, as units of their own do on an installed box."""

import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgepaas.errors import EXIT_DECIDE_AGAIN, EXIT_DONE
from edgepaas.httpd.listen import FIRST_DESCRIPTOR
from edgepaas.supervisor.stage_processes import spawn
from edgepaas.timing.backoff import pause_after

#: Each is a sub-command with its options, and a unit on an installed box.
SIDECARS = (("sync",), ("alerts", "deliver", "--watch"))

#: systemd's RestartSec= in their units, and the longest pause; seconds.
PAUSE = 0.5
LONGEST_PAUSE = 30.0
#: A sidecar that ran for so many seconds did not fail at its start.
STEADY = 30.0
#: Seconds that a sidecar has to end by itself before it is killed.
KILL_AFTER = 5.0

logger = logging.getLogger("edgepaas.up")


@dataclass
class _Sidecar:
    command: tuple[str, ...]
    pid: int = 0
    lifeline: int = -1
    started: float = 0.0
    #: When to start it (again); None: not until the next round.
    due: float | None = 0.0
    failures: int = 0
    kill_at: float | None = None

    @property
    def name(self) -> str:
        return self.command[0]


class Sidecars:
    """Started beside the service, started again when they fail, ended with it.

    One that ends with 0 has nothing to do (``sync`` without a PostgreSQL) and is left alone
    until the next round. None of them can keep the service from running.
    """

    def __init__(
        self,
        program: Sequence[str],
        environ: Mapping[str, str],
        commands: Sequence[Sequence[str]] = SIDECARS,
    ) -> None:
        self._program = tuple(program)
        self._environ = environ
        self._all = [_Sidecar(tuple(command)) for command in commands]
        self._wanted = False

    def begin(self) -> None:
        """Have them run from now on; what still ends from the last round is waited for first."""
        self._wanted = True
        for sidecar in self._all:
            sidecar.due, sidecar.failures = 0.0, 0
        self.enforce_deadlines(time.monotonic())

    def end(self, *, besides: str = "") -> None:
        """Ask all but *besides* to end; :meth:`enforce_deadlines` kills those that do not."""
        self._wanted = False
        now = time.monotonic()
        for sidecar in self._all:
            if sidecar.pid and sidecar.kill_at is None and sidecar.name != besides:
                sidecar.kill_at = now + KILL_AFTER
                os.kill(sidecar.pid, signal.SIGTERM)

    @property
    def gone(self) -> bool:
        """Whether none of them runs."""
        return not any(sidecar.pid for sidecar in self._all)

    def record_exit(self, pid: int, status: int) -> bool:
        """Take note that the process *pid* ended; whether it was one of them."""
        for sidecar in self._all:
            if pid and sidecar.pid == pid:
                self._ended(sidecar, status)
                return True
        return False

    def enforce_deadlines(self, now: float) -> None:
        """Start what is due, kill what does not end."""
        for sidecar in self._all:
            if sidecar.pid:
                if sidecar.kill_at is not None and now >= sidecar.kill_at:
                    logger.error("'edgepaas %s' does not end; it is killed", sidecar.name)
                    os.kill(sidecar.pid, signal.SIGKILL)
                    sidecar.kill_at = now + KILL_AFTER
            elif self._wanted and sidecar.due is not None and now >= sidecar.due:
                self._start(sidecar, now)

    def next_deadline(self, now: float) -> float:
        """Return the seconds until :meth:`enforce_deadlines` has something to do, or infinity."""
        times = [s.kill_at for s in self._all if s.pid and s.kill_at is not None]
        if self._wanted:
            times += [s.due for s in self._all if not s.pid and s.due is not None]
        return max(0.0, min(times) - now) if times else float("inf")

    def _start(self, sidecar: _Sidecar, now: float) -> None:
        command = [*self._program, *sidecar.command]
        # It closes with this process, however that ends: no sidecar outlives 'edgepaas up'.
        theirs, sidecar.lifeline = os.pipe2(os.O_CLOEXEC)
        try:
            lifeline = ["--lifeline", str(FIRST_DESCRIPTOR)]
            sidecar.pid = spawn([*command, *lifeline], self._environ, others=[theirs])
        except OSError as error:  # no more processes, or no memory for one
            logger.error("'edgepaas %s' cannot be started: %s", sidecar.name, error)
            self._again(sidecar, now)
        finally:
            os.close(theirs)
        sidecar.started, sidecar.kill_at = now, None
        if not sidecar.pid:
            self._drop_lifeline(sidecar)

    def _ended(self, sidecar: _Sidecar, status: int) -> None:
        now = time.monotonic()
        asked = sidecar.kill_at is not None
        sidecar.pid, sidecar.kill_at = 0, None
        self._drop_lifeline(sidecar)
        if asked:
            return  # by the end of a round; the next one sets the time
        if status == EXIT_DONE:
            sidecar.due = None
            return
        if now - sidecar.started >= STEADY:
            sidecar.failures = 0
        pause = self._again(sidecar, now)
        if status != EXIT_DECIDE_AGAIN and self._wanted:
            logger.error(
                "'edgepaas %s' ended with status %d; again in %.1f s", sidecar.name, status, pause
            )

    @staticmethod
    def _again(sidecar: _Sidecar, now: float) -> float:
        sidecar.failures += 1
        pause = pause_after(sidecar.failures, first=PAUSE, longest=LONGEST_PAUSE)
        sidecar.due = now + pause
        return pause

    @staticmethod
    def _drop_lifeline(sidecar: _Sidecar) -> None:
        if sidecar.lifeline >= 0:
            os.close(sidecar.lifeline)
            sidecar.lifeline = -1
