# SPDX-License-Identifier: Apache-2.0
"""``edgepaas up``: the boot chain without systemd, in one process that may be PID 1.

Runs the stages in their order. Exit status 75 of any of them runs all of them again,
on the same listening socket, so that clients wait instead of failing. Beside the service
run the sidecars, which forward rows and deliver alerts.
"""

import logging
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.errors import EXIT_DECIDE_AGAIN, EXIT_DONE, EXIT_FAILED
from edgepaas.sd_notify import NEXT_ROUND, Notifier
from edgepaas.supervisor.child import Child, Events, ReceivedSignals, reap
from edgepaas.supervisor.launcher import Launcher
from edgepaas.supervisor.sidecars import SIDECARS, Sidecars
from edgepaas.supervisor.stage_processes import (
    ALONE,
    CHAIN,
    PROGRAM,
    SERVICE,
    START_LIMITS,
    child_environment,
)
from edgepaas.timing.backoff import pause_after

if TYPE_CHECKING:
    from edgepaas.supervisor.source_watch import SourceWatch

#: systemd's RestartSec=100ms in the unit.
PAUSE = 0.1
LONGEST_PAUSE = 60.0
#: A service that was ready for so long did not fail at its start; seconds.
STEADY = 60.0
#: A service that asks for a new decision after so many seconds has waited by itself.
WAITED = 30.0
#: Seconds beyond its own drain after which a stage is killed.
KILL_AFTER = 10.0
#: Seconds without a watchdog message after which a service that was ready counts as hung.
WATCHDOG = 30.0
_LOOK_AT_SOURCES = 0.7
_LONGEST_WAIT = 60.0

logger = logging.getLogger("edgepaas.up")


@dataclass(frozen=True)
class Round:
    """How one run of the chain ended: in which *stage*, with which *status*.

    A negative status is the signal that ended the stage.
    """

    stage: str
    status: int
    was_ready: bool
    #: For how many seconds the service was ready.
    steady: float = 0.0
    #: For how many seconds it ran.
    lasted: float = 0.0


class Supervisor:
    """Runs the chain until a signal stops it.

    *listen* is called once, after the first environment stage, for the sockets that
    every service inherits. *stop_timeout* is asked for each time, in seconds. *before_pause*
    is called with the seconds of each pause that is longer than PAUSE, *on_failure* with stage and
    status before the service answers for a stage that failed. *launcher* starts the
    processes of the chain; without one each is a start of *program*.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        listen: Callable[[], Sequence[socket.socket]],
        stop_timeout: Callable[[], float],
        notifier: Notifier,
        watch_sources: "Callable[[], SourceWatch] | None" = None,
        watchdog: float = WATCHDOG,
        start_limits: Mapping[str, float] = START_LIMITS,
        ignore_hangup: bool = True,
        before_pause: Callable[[float], None] = lambda _seconds: None,
        on_failure: Callable[[str, int], None] = lambda _stage, _status: None,
        program: Sequence[str] = PROGRAM,
        sidecars: Sequence[Sequence[str]] = SIDECARS,
        launcher: Launcher | None = None,
    ) -> None:
        own = child_environment(environ)
        self._launcher = launcher or Launcher(program, own)
        self._sidecars = Sidecars(program, own, sidecars)
        self._listen = listen
        self._stop_timeout = stop_timeout
        self._notifier = notifier
        self._watch_sources = watch_sources
        self._sources: SourceWatch | None = None
        self._watchdog = watchdog
        self._start_limits = start_limits
        self._ignore_hangup = ignore_hangup
        self._before_pause = before_pause
        self._on_failure = on_failure
        self._sockets: Sequence[socket.socket] = ()
        self._stopping = False
        self._again = False
        self._was_ever_ready = False
        self._failures = 0

    def run(self) -> int:
        """Run the chain, again and again; returns the exit status. The main thread's."""
        with Events() as events:
            while True:
                ended = self._round(events)
                if self._stopping:
                    self._wait_for_sidecars(events)
                    return _status_of_stop(ended.status)
                if not self._runs_again(ended):
                    self._wait_for_sidecars(events)
                    return ended.status if ended.status >= 0 else 128 - ended.status
                delay = self._delay(ended)
                if delay > PAUSE:
                    self._before_pause(delay)
                if self._stop_requested_within(events, delay):
                    self._wait_for_sidecars(events)
                    return EXIT_DONE

    # -- one round --

    def _round(self, events: Events) -> Round:
        self._again = False
        self._launcher.begin_round()
        try:
            return self._run_chain(events)
        finally:
            self._launcher.end_round()

    def _run_chain(self, events: Events) -> Round:
        for stage in CHAIN:
            if stage == SERVICE:
                return self._serve(events)
            if stage == ALONE:
                self._wait_for_sidecars(events)
                if self._stopping:
                    return Round(stage, EXIT_DONE, was_ready=False)
            child = Child.start_stage(self._launcher, stage, limit=self._start_limits[stage])
            try:
                self._await(child, events)
            finally:
                child.close()
            if child.status != EXIT_DONE or self._stopping or self._again:
                return self._failed(Round(stage, child.status or 0, was_ready=False), events)
            if not self._sockets:
                self._sockets = self._listen()
        raise AssertionError("the chain ends with the service")

    def _failed(self, ended: Round, events: Events) -> Round:
        """Have the service answer 503 for a stage that failed, once the port is open.

        It knows by what the stage left, backs off, and ends.
        """
        if ended.status in (EXIT_DONE, EXIT_DECIDE_AGAIN) or self._stopping or self._again:
            return ended
        if not self._sockets or not self._was_ever_ready:
            return ended
        logger.error("'edgepaas %s' ended with status %d", ended.stage, ended.status)
        self._on_failure(ended.stage, ended.status)
        return self._serve(events, alone=True)

    def _serve(self, events: Events, *, alone: bool = False) -> Round:
        """Run the service; *alone*: without what runs beside it, which has no contracts."""
        began = time.monotonic()
        child = Child.start_service(
            self._launcher,
            sockets=[sock.fileno() for sock in self._sockets],
            watchdog=self._watchdog,
            limit=self._start_limits[SERVICE],
        )
        if not alone:
            self._sidecars.begin()
        try:
            self._await(child, events)
        finally:
            child.close()
            if not alone:
                self._sidecars.end()
        steady = time.monotonic() - child.ready_at if child.ready_at is not None else 0.0
        lasted = time.monotonic() - began
        return Round(SERVICE, child.status or 0, child.ready_at is not None, steady, lasted)

    def _await(self, child: Child, events: Events) -> None:
        """Wait for the end of *child*, passing on what arrives meanwhile."""
        while not child.ended:
            received = events.wait(child, timeout=self._patience(child))
            self._on_messages(child)
            if received.stop:
                self._stop(child, interrupt=received.interrupt)
            if received.hangup:
                self._hang_up(child)
            reap(child.record_exit, self._sidecars.record_exit, self._launcher.record_exit)
            child.enforce_deadlines(time.monotonic())
            self._sidecars.enforce_deadlines(time.monotonic())
            if self._sources is not None and (changed := self._sources.changed()):
                logger.info("%s changed; starting again", ", ".join(p.name for p in changed[:3]))
                self._again = True
                child.stop(self._stop_timeout() + KILL_AFTER)

    def _patience(self, child: Child) -> float:
        now = time.monotonic()
        longest = min(child.next_deadline(now), self._sidecars.next_deadline(now))
        return min(longest, _LOOK_AT_SOURCES) if self._sources is not None else longest

    def _on_messages(self, child: Child) -> None:
        for line in child.messages():
            name, _, value = line.partition("=")
            if name == "READY":
                self._on_ready()
            elif name == "STATUS":
                self._notifier.status(value)
            elif name == "EXTEND_TIMEOUT_USEC" and value.isdecimal():
                child.extend(int(value) / 1_000_000)
                self._notifier.extend(int(value) / 1_000_000)
            elif name == "WATCHDOG":
                self._notifier.alive()
            elif name == NEXT_ROUND:
                self._launcher.prepare_round()

    def _on_ready(self) -> None:
        self._was_ever_ready = True
        self._notifier.ready("serving")
        if self._watch_sources is not None and self._sources is None:
            self._sources = self._watch_sources()

    def _stop(self, child: Child, *, interrupt: bool = False) -> None:
        self._stopping = True
        self._notifier.stopping("stopping")
        # The service's copy is the last one then, and it serves the clients in the queue.
        for sock in self._sockets:
            sock.close()
        self._sockets = ()
        # At once: what stops a container waits for all of them, and not for long. The
        # drainer sends what the service still takes.
        self._sidecars.end(besides="sync")
        child.stop(self._stop_timeout() + KILL_AFTER, interrupt=interrupt)

    def _hang_up(self, child: Child) -> None:
        if not self._ignore_hangup:
            self._stop(child)  # the terminal that we were started from is gone
        elif child.is_service:
            child.signal(signal.SIGHUP)

    def _wait_for_sidecars(self, events: Events) -> None:
        """Wait until those of the last round have ended, which they were asked to before."""
        while not self._sidecars.gone:
            left = self._sidecars.next_deadline(time.monotonic())
            received = events.wait(None, timeout=min(left, _LONGEST_WAIT))
            self._stopping = self._stopping or self._asks_to_stop(received)
            reap(self._sidecars.record_exit, self._launcher.record_exit)
            self._sidecars.enforce_deadlines(time.monotonic())

    def _asks_to_stop(self, received: ReceivedSignals) -> bool:
        # A hang-up: the terminal that this was started from is gone.
        return received.stop or (received.hangup and not self._ignore_hangup)

    # -- between rounds --

    def _runs_again(self, ended: Round) -> bool:
        if ended.status == EXIT_DECIDE_AGAIN or self._again or self._was_ever_ready:
            return True
        logger.error("'edgepaas %s' ended with status %d", ended.stage, ended.status)
        return False

    def _delay(self, ended: Round) -> float:
        if self._again:
            self._failures = 0
            return 0.0
        logger.log(
            logging.INFO if ended.status == EXIT_DECIDE_AGAIN else logging.ERROR,
            "'edgepaas %s' ended with status %d; the chain starts again",
            ended.stage,
            ended.status,
        )
        if ended.was_ready and (ended.steady >= STEADY or ended.status == EXIT_DECIDE_AGAIN):
            self._failures = 0
            return PAUSE
        self._failures += 1
        if ended.status == EXIT_DECIDE_AGAIN and ended.lasted >= WAITED:
            return PAUSE  # it answered 503 for a while, so that the chain is not a busy loop
        if ended.stage == SERVICE and ended.status > 0 and ended.status != EXIT_DECIDE_AGAIN:
            return PAUSE  # it has backed off by itself before it ended
        return pause_after(self._failures, first=PAUSE, longest=LONGEST_PAUSE)

    def _stop_requested_within(self, events: Events, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            patience = min(left, self._sidecars.next_deadline(time.monotonic()))
            received = events.wait(None, timeout=patience)
            if self._asks_to_stop(received):
                return True
            reap(self._sidecars.record_exit, self._launcher.record_exit)
            self._sidecars.enforce_deadlines(time.monotonic())
        return False


def _status_of_stop(status: int) -> int:
    # How a stage ended no longer matters, unless it had to be killed.
    return EXIT_FAILED if status == -signal.SIGKILL else EXIT_DONE
