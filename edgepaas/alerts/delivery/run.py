# SPDX-License-Identifier: Apache-2.0
"""One run of ``edgepaas alerts deliver``, and the watch that starts one when there is work."""

import contextlib
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgepaas.alerts.channels.config import AlertConfig, load_config
from edgepaas.alerts.conditions.due_notifications import DueNotifications
from edgepaas.alerts.conditions.listing import summary
from edgepaas.alerts.delivery.deliver import LINGER, Deliverer
from edgepaas.alerts.delivery.heartbeat import beat, seconds_until_heartbeat
from edgepaas.alerts.delivery.take_over import take_over
from edgepaas.alerts.spool.folders import SpoolFolders
from edgepaas.alerts.spool.stand_in import is_usable, stand_in
from edgepaas.alerts.status import delivered_since_start, mark_waiting, read_status, write_status
from edgepaas.errors import EXIT_DONE, EXIT_FAILED, EdgePaaSError
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.timing.moment import current_moment

logger = logging.getLogger("edgepaas.alerts")

#: The watch looks for work so often, in seconds.
_LOOK_EVERY = 1.0
#: Seconds between a run that failed, and logged why, and the next one.
_AFTER_FAILURE = 10.0
#: A run that takes longer hangs where no deadline of its own holds.
_LONGEST_CHILD = 300.0


@dataclass(frozen=True)
class Report:
    """What one run did, and in how many seconds there is more to do, if any."""

    delivered: int
    waiting: int
    wait: float | None
    config: AlertConfig
    #: Notifications that were written to the log alone: no channel is set up.
    logged: int = 0


def deliver_once(paths: Paths, *, patience: float = 30.0, linger: float = LINGER) -> Report:
    """Send everything that is due; raises OSError, LockHeld when another run does not end.

    *patience*: how many seconds to wait for another run; *linger*: what is due within so
    many seconds is waited for.
    """
    where = paths if is_usable(paths) else stand_in(paths)
    SpoolFolders(where.alerts).prepare()
    with held(where.alerts / "deliver.lock", timeout=patience):
        config = load_config(paths)
        if where == paths:
            take_over(paths)
        else:
            logger.warning("the spool's disk cannot be written: alerts are sent from run/")
        deliverer = Deliverer(where, config, linger=linger)
        folders = deliverer.spool.folders
        folders.clean(time.time())
        folders.replenish()
        left = deliverer.run()
        folders.replenish()
        beat(paths, folders, config, current_moment())
        return _report(where, deliverer, left)


def _report(paths: Paths, deliverer: Deliverer, left: DueNotifications) -> Report:
    """Publish the state of alerting, and whether the timer has anything to start."""
    now, folders = current_moment(), deliverer.spool.folders
    waits = [left.wait, seconds_until_heartbeat(folders, deliverer.config, now)]
    known = [wait for wait in waits if wait is not None]
    wait = min(known, default=None)
    counts = summary(folders, deliverer.store.load_all(), now)
    states = deliverer.channels.states
    delivered = delivered_since_start(read_status(paths))
    for (channel, severity), taken in deliverer.taken.items():
        severities = delivered.setdefault(channel, {})
        severities[severity] = severities.get(severity, 0) + taken
    write_status(
        paths,
        {
            **counts,
            "channels": {
                channel.name: {
                    "said": states[channel.name].words,
                    "failing": states[channel.name].failing,
                }
                for channel in deliverer.config.channels
            },
            "told": delivered,
            "next_in_seconds": None if wait is None else round(wait, 1),
            "updated": now.as_dict(),
        },
    )
    mark_waiting(paths, waiting=wait is not None)
    taken, config = deliverer.taken.total(), deliverer.config
    return Report(taken, counts["waiting"], wait, config, deliverer.logged)


def watch(paths: Paths, *, lifeline: int = -1, run: Callable[[], int] | None = None) -> int:
    """Start a run whenever an alert has come or something is due, until SIGTERM or SIGINT.

    What is resident is this loop; each run is a process of its own, so that whatever it
    loads, leaks or hangs in ends with it. *lifeline*: a pipe's end that is closed at its
    other end when the parent dies, which ends this as well.
    """
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopping.append(received))
    work = run or (lambda: _run(paths))
    paused_until = 0.0
    next_run, settings = time.monotonic(), _settings_changed(paths)
    while not stopping and not _parent_died(lifeline):
        changed = _settings_changed(paths)
        now = time.monotonic()
        if now >= paused_until and (now >= next_run or changed != settings or _has_new(paths)):
            settings = changed
            if not _in_child(work, stopping):
                paused_until = next_run = time.monotonic() + _AFTER_FAILURE
                continue
            wait = read_status(paths).get("next_in_seconds")
            due = float(wait) if isinstance(wait, int | float) else float("inf")
            next_run = time.monotonic() + max(due, _LOOK_EVERY)
        time.sleep(_LOOK_EVERY)
    return EXIT_DONE


def _parent_died(lifeline: int) -> bool:
    return lifeline >= 0 and bool(select.select([lifeline], [], [], 0)[0])


def _run(paths: Paths) -> int:
    try:
        deliver_once(paths)
    except (EdgePaaSError, OSError) as error:
        logger.error("alerts cannot be delivered: %s", error)
        return EXIT_FAILED
    return EXIT_DONE


def _in_child(work: Callable[[], int], stopping: list[int]) -> bool:
    """Do *work* in a process of its own; whether it ended well."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()  # this process has one thread
    if child == 0:
        status = EXIT_FAILED
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            status = work()
        except BaseException:
            logger.exception("a run of 'edgepaas alerts deliver' failed")
        finally:
            logging.shutdown()
            os._exit(status)
    deadline = time.monotonic() + _LONGEST_CHILD
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        if stopping or time.monotonic() >= deadline:
            # What it is sending is sent again under its key.
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.05)


def _has_new(paths: Paths) -> bool:
    for one in (paths, stand_in(paths)):
        with contextlib.suppress(OSError), os.scandir(one.alerts / "new") as entries:
            if any(True for _ in entries):
                return True
    return False


def _settings_changed(paths: Paths) -> int:
    try:
        return paths.env_contract.stat().st_mtime_ns
    except OSError:
        return 0
