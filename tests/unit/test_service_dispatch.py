# SPDX-License-Identifier: Apache-2.0
"""Two lanes, one behind a gate."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from edgepaas.httpd.dispatch import RequestDispatcher
from tests.support.service_process import until


class Request:
    """A channel with one complete request, as Waitress hands it over."""

    def __init__(
        self, path: str, *, method: str = "GET", error: object = None, block: bool = False
    ) -> None:
        self.requests = [SimpleNamespace(command=method, path=path, error=error)]
        self.served_by = ""
        self._release = threading.Event()
        self._block = block

    def service(self) -> None:
        """Be worked on."""
        self.served_by = threading.current_thread().name
        if self._block:
            self._release.wait(30)

    def cancel(self) -> None:
        """Be given up."""

    def hold_back(self) -> bool:
        """Whether answers wait to be read: never."""
        return False

    def release(self) -> None:
        """Let the worker go."""
        self._release.set()


@pytest.fixture
def dispatcher() -> Iterator[RequestDispatcher]:
    """Two workers, room for two parked requests."""
    made = RequestDispatcher(2, parking=2)
    yield made
    made.shutdown(timeout=1)


def served(request: Any) -> str:
    """Wait until the request was worked on; returns the thread's name."""
    return str(until(lambda: request.served_by, "a worker"))


@pytest.mark.parametrize(
    ("method", "path", "lane"),
    [
        ("GET", "/health", "health"),
        ("HEAD", "/health/live", "health"),
        ("GET", "/ready", "health"),
        ("GET", "/health/admin", "waitress"),
        ("GET", "/health/../admin", "waitress"),
        ("GET", "/healthy", "waitress"),
        ("GET", "/metrics", "health"),
        ("POST", "/health/live", "waitress"),
        ("GET", "/", "waitress"),
    ],
)
def test_only_probes_have_the_health_lane(
    dispatcher: RequestDispatcher, method: str, path: str, lane: str
) -> None:
    """What an application may answer itself cannot keep a probe waiting."""
    dispatcher.open()
    request = Request(path, method=method)
    dispatcher.add_task(request)
    assert served(request).startswith(lane)


def test_requests_for_the_application_wait_for_the_gate(dispatcher: RequestDispatcher) -> None:
    """Health is answered meanwhile; the parked ones follow in their order."""
    parked, health = Request("/api"), Request("/health/ready")
    dispatcher.add_task(parked)
    dispatcher.add_task(health)
    assert served(health).startswith("health")
    assert parked.served_by == ""
    assert dispatcher.open() == 1
    assert served(parked).startswith("waitress")


def test_what_finds_the_park_full_is_answered_at_once(dispatcher: RequestDispatcher) -> None:
    """By the health pool, where the startup responder answers 503."""
    requests = [Request("/api") for _ in range(3)]
    for request in requests:
        dispatcher.add_task(request)
    assert served(requests[2]).startswith("health")
    assert dispatcher.open() == 2


def test_a_request_without_a_path_needs_no_application(dispatcher: RequestDispatcher) -> None:
    """Waitress itself refuses what it could not parse."""
    broken = Request("", error=object())
    del broken.requests[0].path
    dispatcher.add_task(broken)
    assert served(broken).startswith("health")


def test_refused_requests_are_answered_and_later_ones_are_not_parked(
    dispatcher: RequestDispatcher,
) -> None:
    """There will be no application: nobody waits for it."""
    early, late = Request("/api"), Request("/api")
    dispatcher.add_task(early)
    assert dispatcher.refuse_parked() == 1
    dispatcher.add_task(late)
    assert served(early).startswith("health")
    assert served(late).startswith("health")


def test_the_probe_passes_while_a_worker_is_free(dispatcher: RequestDispatcher) -> None:
    """One busy worker of two is no hang, whatever waits in the queue."""
    dispatcher.open()
    busy = Request("/api", block=True)
    dispatcher.add_task(busy)
    served(busy)
    assert dispatcher.probe(10)
    busy.release()


def test_the_probe_fails_while_every_worker_hangs_and_passes_after(
    dispatcher: RequestDispatcher,
) -> None:
    """A stale no-op is dropped, a new one overtakes the queue."""
    dispatcher.open()
    hung = [Request("/api", block=True) for _ in range(2)]
    for request in hung:
        dispatcher.add_task(request)
        served(request)
    waiting = [Request("/api", block=True) for _ in range(5)]
    for request in waiting:
        dispatcher.add_task(request)
    assert not dispatcher.probe(0.1)
    hung[0].release()
    assert dispatcher.probe(10)
    for request in [*hung, *waiting]:
        request.release()
