# SPDX-License-Identifier: Apache-2.0
"""Holding the service's process to one processor core.

Python's threads cannot run at once, but the kernel spreads them over the cores, and on
most machines each hand-over of the interpreter then costs a wake-up across cores:
several times the work itself. On one core nothing is lost and that cost is gone.
"""

import logging
import os
import sysconfig
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger("edgepaas.service")

#: What another core must have been idle for beyond ours to be worth a move, as a part of the
#: time that was watched.
_MARGIN = 0.1
#: How often the threads are looked through again for one that was made meanwhile.
_ROUNDS = 10


def core_times(proc: Path = Path("/proc")) -> dict[int, float]:
    """Return the seconds for which each core was busy since the boot (proc_stat(5)).

    Empty where they cannot be read.
    """
    found: dict[int, float] = {}
    try:
        lines = (proc / "stat").read_text(encoding="ascii").splitlines()
        for line in lines:
            name, *ticks = line.split()
            if name.startswith("cpu") and name != "cpu":
                user, nice, system, _idle, _iowait, *others = map(int, ticks)
                busy = user + nice + system + sum(others[:3])  # irq, softirq, steal
                found[int(name[3:])] = busy / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return {}
    return found


def least_busy(
    before: Mapping[int, float],
    after: Mapping[int, float],
    allowed: Collection[int],
    *,
    current: int,
    own: float,
    seconds: float,
) -> int:
    """Return the core of *allowed* that others used least between two :func:`core_times`.

    *own* seconds on the *current* core were this process's. It stays there unless another
    core was clearly less busy during the *seconds* in between.
    """
    used = {
        core: after[core] - before[core] - (own if core == current else 0.0)
        for core in allowed
        if core in before and core in after
    }
    if current not in used:
        return current  # numbered otherwise than here, as in some containers
    best = min(used, key=lambda core: (used[core], core))
    return best if used[current] - used[best] > _MARGIN * seconds else current


def hold_threads(core: int) -> None:
    """Move every thread of this process to *core*; those that they make begin there.

    Raises OSError where the system refuses it.
    """
    for _ in range(_ROUNDS):
        if not (others := _threads_beyond(core)):
            return
        for thread in others:
            try:
                os.sched_setaffinity(thread, {core})
            except ProcessLookupError:  # it has ended
                continue
    logger.warning("some threads are not held to core %d: they come and go too fast", core)


def _threads_beyond(core: int) -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        thread = int(task.name)
        try:
            if os.sched_getaffinity(thread) != {core}:
                found.append(thread)
        except ProcessLookupError:
            continue
    return found


def free_forked_children(allowed: Collection[int]) -> None:
    """Let every child that this process forks from now on use all of the *allowed* cores.

    A program that is executed without Python's fork hooks (``subprocess``) inherits the core
    of the thread that starts it.
    """

    def free() -> None:
        try:
            os.sched_setaffinity(0, allowed)
        except OSError as error:
            logger.warning("a child process stays on the service's core: %s", error)

    os.register_at_fork(after_in_child=free)


def _allowed_cores() -> set[int]:
    return os.sched_getaffinity(0)


def _current_core() -> int:
    # proc_pid_stat(5): the 39th field, the 37th after the name in parentheses.
    return int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[36])


def _shares_interpreter() -> bool:
    """Whether only one thread runs Python at a time; a free-threaded build uses every core."""
    return not sysconfig.get_config_var("Py_GIL_DISABLED")


@dataclass(frozen=True)
class Processor:
    """What the operating system knows of cores, and does about them; tests have their own."""

    allowed: Callable[[], set[int]] = _allowed_cores
    current: Callable[[], int] = _current_core
    hold: Callable[[int], None] = hold_threads
    free_children: Callable[[Collection[int]], None] = free_forked_children
    times: Callable[[], Mapping[int, float]] = core_times
    own: Callable[[], float] = time.process_time
    clock: Callable[[], float] = time.monotonic


class CorePinning:
    """CPU_PIN for one run of the service: ``begin`` before its threads, ``settle`` when ready.

    *wanted* is ``auto``, ``off`` or a core's number. ``auto`` stays on the core that the
    kernel chose, until it is known which one others use least, and moves once.
    """

    def __init__(self, wanted: str, processor: Processor | None = None) -> None:
        self._wanted = wanted
        self._processor = processor or Processor()
        self._allowed: set[int] = set()
        self._core: int | None = None
        self._before: Mapping[int, float] = {}
        self._own = self._began = 0.0

    @property
    def core(self) -> int | None:
        """The core that the process is held to; None where it is not."""
        return self._core

    def begin(self) -> None:
        """Hold the process to a core, where that is wanted and there is more than one."""
        self._allowed = self._processor.allowed()
        if self._wanted == "off" or (self._wanted == "auto" and not _shares_interpreter()):
            return
        if self._wanted != "auto" and int(self._wanted) not in self._allowed:
            allowed = ", ".join(map(str, sorted(self._allowed)))
            logger.warning(
                "CPU_PIN: core %s is not one of those that this process may use (%s); "
                "it is held to none",
                self._wanted,
                allowed,
            )
            return
        if len(self._allowed) == 1:
            return  # it is held already
        if self._wanted != "auto":
            self._hold(int(self._wanted))
            return
        current = self._processor.current()
        self._hold(current if current in self._allowed else min(self._allowed))
        self._before = self._processor.times()
        self._own, self._began = self._processor.own(), self._processor.clock()

    def settle(self) -> None:
        """Move to the least busy core, if one was chosen by itself; all threads that there are."""
        if self._core is None:
            return
        if self._wanted == "auto":
            best = least_busy(
                self._before,
                self._processor.times(),
                self._allowed,
                current=self._core,
                own=self._processor.own() - self._own,
                seconds=self._processor.clock() - self._began,
            )
            if best != self._core:
                self._hold(best)
        if self._core is not None:
            logger.info("held to core %d (CPU_PIN=%s)", self._core, self._wanted)

    def _hold(self, core: int) -> None:
        try:
            self._processor.hold(core)
        except OSError as error:  # a filter of system calls, or a cpuset that just changed
            logger.warning("the process cannot be held to core %d (CPU_PIN): %s", core, error)
            self._core = None
        else:
            if self._core is None:
                self._processor.free_children(self._allowed)
            self._core = core
