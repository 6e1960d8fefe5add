# SPDX-License-Identifier: Apache-2.0
"""Which thread works on a request: two pools, one of them shut until the service is ready."""

import threading
import time
from collections import deque
from typing import Any

from edgepaas.httpd.loop_appends import LoopAppends
from edgepaas.httpd.waitress_adapter import AdaptedDispatcher
from edgepaas.web.probe_paths import is_probe


class RequestDispatcher(AdaptedDispatcher):
    """Hands requests to worker threads; what needs the application waits until it is there.

    A task is one of Waitress' channels whose next request is complete. Probes, and
    requests that Waitress itself refuses, go to a thread of their own: a probe never
    waits behind the application's requests, nor runs its code. All others are parked
    while the gate is shut, at most *parking* of them: a client that comes during the
    start waits for its answer instead of being rejected. Requests beyond them go to the
    health pool, where the startup responder answers 503.
    """

    def __init__(self, threads: int, *, parking: int) -> None:
        super().__init__()
        self._parking = parking
        self._parked: deque[Any] = deque()
        self._open = False
        #: What takes appends that need no worker, once the application is there.
        self.appends: LoopAppends | None = None
        self._health = _HealthThreads()
        self._health.set_thread_count(1)
        self.set_thread_count(threads)

    def add_task(self, task: Any) -> None:
        """Queue *task* (called by the loop, and by workers for pipelined requests)."""
        if task.hold_back():
            return
        if _belongs_to_health(task.requests[0]):
            self._health.add_task(task)
            return
        if self.appends is not None and self._open and self.appends.take(task):
            return
        self.add_to_workers(task)

    def add_to_workers(self, task: Any) -> None:
        """Queue *task*, which needs the application, for a worker."""
        with self.lock:
            if not self._open:
                if len(self._parked) < self._parking:
                    self._parked.append(task)
                    return
                pool = self._health
            else:
                pool = None
        if pool is None:
            super().add_task(task)
        else:
            pool.add_task(task)

    def open(self) -> int:
        """Open the gate for good; returns how many parked requests are let through."""
        with self.lock:
            self._open = True
            waiting = len(self._parked)
            self.queue.extend(self._parked)
            self._parked.clear()
            self.queue_cv.notify_all()
        return waiting

    def refuse_parked(self) -> int:
        """Hand the parked requests to the startup responder: there will be no application."""
        with self.lock:
            parked = list(self._parked)
            self._parked.clear()
            self._parking = 0
        for task in parked:
            self._health.add_task(task)
        return len(parked)

    def busy(self) -> bool:
        """Whether a request that needs the application is being worked on, or waits for it."""
        if self.appends is not None and self.appends.busy():
            return True
        with self.lock:
            return bool(self.queue) or self.active_count > 0

    def probe(self, timeout: float) -> bool:
        """Whether, within *timeout* seconds, a worker of each pool was free to run a no-op.

        The no-op goes to the head of the queue: a long queue is load, not a hang.
        """
        deadline = time.monotonic() + timeout
        return all(noop.wait(max(0.0, deadline - time.monotonic())) for noop in self.queue_noops())

    def workers_answer(self, timeout: float) -> bool:
        """Whether a worker was free, within *timeout* seconds, to run a no-op."""
        return _queue_noop(self).wait(timeout)

    def queue_noops(self) -> "list[NoopTask]":
        """Put a no-op before everything else in the queue of each pool."""
        return [_queue_noop(self), _queue_noop(self._health)]

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """Stop the threads of both pools, waiting up to *timeout* seconds for each."""
        self._health.shutdown(cancel_pending, timeout)
        return bool(super().shutdown(cancel_pending, timeout))


class _HealthThreads(AdaptedDispatcher):
    def start_new_thread(self, target: Any, thread_no: int) -> None:
        threading.Thread(
            target=target, name=f"health-{thread_no}", args=(thread_no,), daemon=True
        ).start()


class NoopTask:
    """A task that does nothing; :meth:`wait` returns when a worker has run it."""

    def __init__(self) -> None:
        self._run = threading.Event()

    def service(self) -> None:
        """Be run by a worker."""
        self._run.set()

    def cancel(self) -> None:
        """Do nothing: there is no client that waits for an answer."""

    def wait(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds; whether it was run."""
        return self._run.wait(timeout)


def _queue_noop(pool: Any) -> NoopTask:
    noop = NoopTask()
    with pool.lock:
        # An earlier no-op that was never picked up is worth nothing any more.
        for stale in [task for task in pool.queue if isinstance(task, NoopTask)]:
            pool.queue.remove(stale)
        pool.queue.appendleft(noop)
        pool.queue_cv.notify()
    return noop


def _belongs_to_health(request: Any) -> bool:
    # A request that could not be parsed has no path; Waitress answers it by itself.
    return request.error is not None or is_probe(request.command, request.path)
