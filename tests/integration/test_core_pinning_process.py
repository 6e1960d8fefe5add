# SPDX-License-Identifier: Apache-2.0
"""CPU_PIN in real processes: every thread of the service on one core, and nothing else."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgepaas.files.paths import Paths
from tests.support.service_process import (
    Process,
    child_environ,
    edgepaas,
    free_port,
    get,
    until,
    wait_until_ready,
    write_contracts,
)
from tests.support.weaken import weak_environ

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="this machine has one core for us"
)

#: An application with threads from before and after the start, and one that forks.
APPLICATION = """
import json, os, threading, time

from edgepaas.app import Application


def sleep():
    time.sleep(3600)


threading.Thread(target=sleep, daemon=True).start()


def forked():
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, json.dumps(sorted(os.sched_getaffinity(0))).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return json.loads(os.read(read, 100000))


def wsgi(box):
    def answer(environ, start_response):
        threading.Thread(target=sleep, daemon=True).start()
        body = json.dumps({"pid": os.getpid(), "forked": forked()}).encode()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [body]

    return answer


application = Application(name="probe", wsgi=wsgi, guarded=False)
"""

Start = Callable[..., tuple[Process, int]]


@pytest.fixture
def start(tmp_path: Path, paths: Paths) -> Iterator[Start]:
    """Starts 'edgepaas serve' with settings, waits until it is ready, ends it after the test."""
    with contextlib.ExitStack() as started:

        def begin(**settings: str) -> tuple[Process, int]:
            port = free_port()
            write_contracts(paths, PORT=str(port), EDGEPAAS_APP="forking:application", **settings)
            (tmp_path / "forking.py").write_text(APPLICATION, encoding="utf-8")
            process = Process(edgepaas("serve"), tmp_path, child_environ(tmp_path))
            started.callback(process.close)
            wait_until_ready(port)
            return process, port

        yield begin


def cores_of_threads(pid: int) -> set[frozenset[int]]:
    """Every set of cores that a thread of *pid* may use; none where it has ended."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                found.add(frozenset(os.sched_getaffinity(int(task.name))))
    return found


def test_every_thread_is_on_one_core_and_a_forked_child_on_all(start: Start) -> None:
    process, port = start()
    every = sorted(os.sched_getaffinity(0))
    until(lambda: "held to core" in process.output, "its report")
    answer = json.loads(get(port, "/")[1])
    assert answer["forked"] == every
    until(lambda: len(cores_of_threads(process.pid)) == 1, "threads on one core")
    (cores,) = cores_of_threads(process.pid)
    assert len(cores) == 1
    assert f"held to core {min(cores)}" in process.output


def test_a_thread_that_was_there_before_is_moved_as_well(tmp_path: Path) -> None:
    """And a build that moves the caller alone is found out."""
    script = (
        "import os, threading, time\n"
        "from edgepaas.service.core_pinning import hold_threads\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "hold_threads(max(os.sched_getaffinity(0)))\n"
        "tasks = os.listdir('/proc/self/task')\n"
        "print(len(tasks), {frozenset(os.sched_getaffinity(int(task))) for task in tasks})\n"
    )
    last = max(os.sched_getaffinity(0))
    everywhere = frozenset(os.sched_getaffinity(0))
    expected = {False: {frozenset({last})}, True: {frozenset({last}), everywhere}}
    for weak, cores in expected.items():
        environ = child_environ(tmp_path)
        if weak:
            environ |= weak_environ("pin-caller-alone")
        said = subprocess.run(
            [sys.executable, "-c", script], env=environ, capture_output=True, text=True,
            check=True, timeout=60,
        ).stdout  # fmt: skip
        count, _, sets = said.partition(" ")
        assert int(count) == 2
        found = {
            frozenset(map(int, re.findall(r"\d+", one))) for one in sets.split("frozenset")[1:]
        }
        assert found == cores


def test_a_given_core_is_the_one(start: Start) -> None:
    last = max(os.sched_getaffinity(0))
    process, _ = start(CPU_PIN=str(last))
    wanted = {frozenset({last})}
    assert until(lambda: cores_of_threads(process.pid) == wanted, "threads on that core")


def test_off_leaves_every_core(start: Start) -> None:
    process, port = start(CPU_PIN="off")
    assert get(port, "/")[0] == 200
    assert cores_of_threads(process.pid) == {frozenset(os.sched_getaffinity(0))}


def test_what_runs_beside_the_service_in_edgepaas_up_may_use_every_core(
    tmp_path: Path, paths: Paths
) -> None:
    """The supervisor, and what delivers alerts, are held to none."""
    port = free_port()
    environ = child_environ(tmp_path, PORT=str(port), LOG_FILE="none")
    process = Process(edgepaas("up"), tmp_path, environ)
    every = frozenset(os.sched_getaffinity(0))

    def children() -> list[int]:
        return [
            int(word)
            for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ]

    try:
        wait_until_ready(port)
        until(lambda: "held to core" in process.output, "the service's report")
        held = until(
            lambda: [
                pid for pid in children() if {len(cores) for cores in cores_of_threads(pid)} == {1}
            ],
            "the service on one core",
        )
        assert len(held) == 1
        beside = [cores_of_threads(pid) for pid in set(children()) - set(held)]
        assert [cores for cores in beside if cores] != []  # of those that have ended there are none
        assert all(cores == {every} for cores in beside if cores)
        assert cores_of_threads(process.pid) == {every}
    finally:
        process.signal(15)
        process.wait()
        process.close()
