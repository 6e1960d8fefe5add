# SPDX-License-Identifier: Apache-2.0
"""What an application runs beside the requests: started with the service, stopped after it."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgepaas.timing.periodic_task import PeriodicTask

if TYPE_CHECKING:
    from edgepaas.app.box import Worker
    from edgepaas.timing.task_registry import TaskRegistry

#: Seconds between two attempts to start a worker that could not be started.
_RETRY_EVERY = 1.0

logger = logging.getLogger("edgepaas.service")


def start_workers(workers: "Iterable[Worker]", tasks: "TaskRegistry") -> list[PeriodicTask]:
    """Start every worker; returns the tasks that go on trying to start those that failed.

    One that cannot be started keeps neither the service nor the other workers from running:
    the box is ``degraded`` until it runs.
    """
    retries = []
    for worker in workers:
        try:
            worker.start()
        except Exception:
            name = f"start-{type(worker).__name__}"
            logger.exception("a worker of the application cannot be started; %s retries", name)
            retries.append(tasks.add(_retry(name, worker)))
    for task in retries:
        task.start()
    return retries


def stop_workers(workers: "Iterable[Worker]", seconds: float) -> None:
    """Stop every worker; *seconds* is what each of them may take to bring its work to an end."""
    for worker in workers:
        try:
            worker.stop(seconds)
        except Exception:
            logger.exception("a worker of the application could not be stopped in order")


def _retry(name: str, worker: "Worker") -> PeriodicTask:
    def start() -> None:
        worker.start()
        task.request_stop()

    task = PeriodicTask(name, start, every=_RETRY_EVERY, first_after=_RETRY_EVERY)
    return task
