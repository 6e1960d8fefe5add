# SPDX-License-Identifier: Apache-2.0
"""The periodic tasks of a process: what is wrong with them, alerted once, and mended."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from edgepaas.timing.periodic_task import PeriodicTask, Severity

#: Fingerprints of the alerts begin so, unless a task names another.
FINGERPRINT_PREFIX = "task:"


class RaiseTaskAlert(Protocol):
    """Raises an alert (:func:`edgepaas.alerts.raise_alert`, which lies above this room)."""

    def __call__(
        self, message: str, *, severity: Severity, fingerprint: str, origin: str
    ) -> None: ...


class ResolveTaskAlert(Protocol):
    """Ends an alert (:func:`edgepaas.alerts.resolve_alert`)."""

    def __call__(self, message: str, *, fingerprint: str, origin: str) -> None: ...


@dataclass
class _Entry:
    """A task, and whether its alert is open."""

    task: PeriodicTask
    since: float | None = None
    #: None: a process before this one may have raised it.
    raised: bool | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class TaskRegistry:
    """All periodic tasks of a process; thread-safe.

    *alert* and *resolve* raise and end an alert; *origin* is the part of the box that the
    alerts name. *clock* is monotonic, in seconds.
    """

    def __init__(
        self,
        alert: RaiseTaskAlert,
        resolve: ResolveTaskAlert,
        *,
        origin: str = "service",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._alert = alert
        self._resolve = resolve
        self._origin = origin
        self._clock = clock
        self._entries: list[_Entry] = []

    def add(self, task: PeriodicTask) -> PeriodicTask:
        """Look after *task* from now on; returns it."""
        entry = _Entry(task)
        task.on_change = lambda: self._review(entry)
        self._entries = [*self._entries, entry]
        return task

    @property
    def tasks(self) -> tuple[PeriodicTask, ...]:
        """The tasks, in the order in which they were added."""
        return tuple(entry.task for entry in self._entries)

    @property
    def fingerprints(self) -> frozenset[str]:
        """What the alerts of these tasks are raised under."""
        return frozenset(_fingerprint(task) for task in self.tasks)

    def problems(self) -> tuple[str, ...]:
        """Return one line for each task that has a problem, with its name."""
        found = ((entry.task, entry.task.problem()) for entry in self._entries)
        return tuple(_line(task, problem) for task, problem in found if problem)

    def check(self) -> None:
        """Start what has died or could not be started; raise and end the alerts.

        To be called every second or so: a thread that is dead or late cannot report itself.
        """
        for entry in self._entries:
            if entry.task.due_to_start:
                entry.task.start()
            self._review(entry)

    def _review(self, entry: _Entry) -> None:
        with entry.lock:
            problem, now = entry.task.problem(), self._clock()
            if not problem:
                entry.since = None
                if entry.raised is not False and entry.task.works:
                    entry.raised = False
                    self._resolve(
                        f"the thread {entry.task.name} works again",
                        fingerprint=_fingerprint(entry.task),
                        origin=self._origin,
                    )
                return
            entry.since = now if entry.since is None else entry.since
            if entry.raised is True or now - entry.since < entry.task.alert.after:
                return
            self._alert(
                f"{_line(entry.task, problem)}. {entry.task.alert.consequence}",
                severity=entry.task.alert.severity,
                fingerprint=_fingerprint(entry.task),
                origin=self._origin,
            )
            entry.raised = True  # not before: an alert that could not be raised is tried again


def _fingerprint(task: PeriodicTask) -> str:
    return task.alert.fingerprint or f"{FINGERPRINT_PREFIX}{task.name}"


def _line(task: PeriodicTask, problem: str) -> str:
    return f"the thread {task.name} {problem}"
