# SPDX-License-Identifier: Apache-2.0
"""Threads of a real service that fail: it serves, is degraded by their names, and recovers."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.alerts.catalogue import SERVICE_START
from edgepaas.alerts.conditions.raised_fingerprints import raised_fingerprints
from edgepaas.files.paths import Paths
from tests.support.service_process import (
    Process,
    child_environ,
    edgepaas,
    free_port,
    get,
    ready_document,
    until,
    wait_until_ready,
    write_contracts,
)

APPLICATION = """
import os, sys, threading
from pathlib import Path

from edgepaas.app import Application, PeriodicTask

WORKS = Path(os.environ["WORKS"])


class Recorder:
    # Each new thread wants a stack for which no machine has room, until WORKS is there.
    def start(self):
        before = threading.stack_size(0 if WORKS.exists() else 1 << 47)
        try:
            threading.Thread(target=print, name="recorder", daemon=True).start()
        finally:
            threading.stack_size(before)

    def stop(self, seconds):
        pass


def wsgi(box):
    def read_sensor():
        if not WORKS.exists():
            sys.exit("the sensor is gone")

    box.add_task(PeriodicTask("sensor", read_sensor, every=0.05))
    box.workers.append(Recorder())

    def answer(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"served"]

    return answer


application = Application(name="probe", wsgi=wsgi, guarded=False)
"""

#: 'edgepaas serve' on a box that has no thread left once the service runs.
NO_THREADS = """
import sys, threading

from edgepaas.cli import main
from edgepaas.service.run import Service

run = Service.run


def run_without_threads(self):
    threading.stack_size(1 << 47)
    return run(self)


Service.run = run_without_threads
sys.exit(main(["serve"]))
"""


@pytest.fixture
def service(paths: Paths, tmp_path: Path) -> Iterator[tuple[Process, int, Path]]:
    """A service whose application's threads fail until a file is there."""
    port, works = free_port(), tmp_path / "works"
    write_contracts(paths, PORT=str(port), EDGEPAAS_APP="failing_application:application")
    (tmp_path / "failing_application.py").write_text(APPLICATION, encoding="utf-8")
    process = Process(edgepaas("serve"), tmp_path, child_environ(tmp_path, WORKS=str(works)))
    yield process, port, works
    process.close()


def test_failing_threads_leave_the_box_ready_and_degraded_by_their_names(
    service: tuple[Process, int, Path], paths: Paths
) -> None:
    process, port, works = service
    wait_until_ready(port)
    assert get(port, "/")[1] == b"served"

    def reasons() -> str:
        return "\n".join(ready_document(port)["reasons"])

    until(lambda: "start-Recorder" in reasons() and "sensor" in reasons(), "both reasons")
    document = ready_document(port)
    assert document["state"] == "degraded"
    assert "the thread sensor fails again and again: SystemExit: the sensor is gone" in reasons()
    assert "RuntimeError: can't start new thread" in reasons()
    assert get(port, "/health/ready")[0] == 200
    open_alerts = ["task:sensor", "task:start-Recorder"]
    until(lambda: sorted(raised_fingerprints(paths, "task:")) == open_alerts, "the alerts")
    assert process.running
    works.touch()
    until(lambda: ready_document(port)["state"] == "standalone", "both threads to work")
    until(lambda: not raised_fingerprints(paths, "task:"), "the end of the alerts")
    assert process.running


def test_a_service_that_cannot_start_a_thread_ends_with_1_and_an_alert(
    paths: Paths, tmp_path: Path
) -> None:
    write_contracts(paths, PORT=str(free_port()))
    process = Process([sys.executable, "-c", NO_THREADS], tmp_path, child_environ(tmp_path))
    try:
        assert process.wait() == 1
    finally:
        process.close()
    assert "the application cannot be loaded: can't start new thread" in process.output
    assert "Traceback" not in process.output
    assert raised_fingerprints(paths, SERVICE_START.pattern) == [SERVICE_START.pattern]
