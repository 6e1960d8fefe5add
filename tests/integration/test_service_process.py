# SPDX-License-Identifier: Apache-2.0
"""'edgepaas serve' as a process of its own: its start, its watchdog, its end."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgepaas.files.paths import Paths
from tests.support.service_process import (
    Load,
    Manager,
    Process,
    child_environ,
    edgepaas,
    free_port,
    get,
    ready_document,
    until,
    wait_until_ready,
    write_contracts,
    write_db_contract,
)

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts processes and ends them after the test."""
    with contextlib.ExitStack() as started:

        def begin(
            *arguments: str, listener: socket.socket | None = None, **environ: str
        ) -> Process:
            process = Process(
                edgepaas(*arguments), tmp_path, child_environ(tmp_path, **environ), listener
            )
            started.callback(process.close)
            return process

        yield begin


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A service manager that listens."""
    manager = Manager(tmp_path)
    yield manager
    manager.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listening socket that a parent keeps open."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(256)
        yield sock


def test_it_lives_before_the_application_is_imported_and_answers_who_waited(
    start: Start, paths: Paths, tmp_path: Path
) -> None:
    """Live at once, ready later, and a request that came in between gets its answer."""
    port, release = free_port(), tmp_path / "release"
    write_contracts(paths, PORT=str(port))
    process = start("serve", PROBE_RELEASE=str(release))
    until(lambda: get(port, "/health/live")[0] == 200, "liveness")
    assert ready_document(port)["state"] == "starting"
    waiting = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    waiting.request("GET", "/anything")
    assert get(port, "/health/ready")[0] == 503
    release.touch()
    answer = waiting.getresponse()
    assert (answer.status, answer.read()) == (200, f"{process.pid}\n".encode())
    assert ready_document(port)["state"] == "standalone"


def test_ready_is_said_once_the_gate_has_passed_and_stopping_at_the_end(
    start: Start, paths: Paths, manager: Manager
) -> None:
    """READY=1 with a status line; SIGTERM leads to STOPPING=1 and exit status 0."""
    port = free_port()
    write_contracts(paths, PORT=str(port))
    process = start("serve", NOTIFY_SOCKET=str(manager.path))
    manager.wait_for("READY=1")
    assert get(port, "/health/ready")[0] == 200
    assert "standalone since" in manager.wait_for("STATUS=standalone")
    assert "verify       4 of 4 checks passed" in process.output
    assert f"listening on http://127.0.0.1:{port}" in process.output
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    manager.wait_for("STOPPING=1")


def test_no_request_fails_when_a_service_ends_under_load_and_the_next_takes_the_socket(
    start: Start, paths: Paths, manager: Manager, listener: socket.socket
) -> None:
    """The parent keeps the socket: SIGTERM, then a new process on the same socket."""
    port = int(listener.getsockname()[1])
    write_contracts(paths, RATE_LIMIT="0")
    first = start("serve", listener=listener, NOTIFY_SOCKET=str(manager.path))
    manager.wait_for("READY=1")
    with Load(port).running() as load:
        before = load.answered
        until(lambda: load.answered > before + 100, "some load")
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
        second = start("serve", listener=listener)
        before = load.answered
        until(lambda: load.answered > before + 100, "the second service to answer")
    assert load.failures == []
    assert {f"{p.pid}\n".encode() for p in (first, second)} == load.answers


def test_a_request_in_work_is_finished_before_the_end(start: Start, paths: Paths) -> None:
    """SIGTERM arrives while a slow request is worked on; its answer closes the connection."""
    port = free_port()
    write_contracts(paths, PORT=str(port))
    process = start("serve")
    wait_until_ready(port)
    slow = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    slow.request("GET", "/slow?1")
    time.sleep(0.2)
    process.signal(signal.SIGTERM)
    answer = slow.getresponse()
    assert answer.status == 200
    assert answer.headers["Connection"] == "close"
    assert process.wait() == 0


def test_a_request_that_does_not_end_is_given_up_with_503_after_the_bound(
    start: Start, paths: Paths
) -> None:
    """STOP_TIMEOUT over, the client is told, and the hung thread does not keep the process."""
    port = free_port()
    write_contracts(paths, PORT=str(port), STOP_TIMEOUT="1")
    process = start("serve")
    wait_until_ready(port)
    hung = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    hung.request("GET", "/hang")
    time.sleep(0.2)
    process.signal(signal.SIGTERM)
    answer = hung.getresponse()
    assert answer.status == 503
    assert answer.headers["Retry-After"]
    assert json.loads(answer.read())["error"] == "unavailable"
    assert process.wait() == 0


def test_hung_workers_silence_the_watchdog(start: Start, paths: Paths, manager: Manager) -> None:
    """WATCHDOG=1 comes while workers answer, and stops when none does; threads are dumped."""
    port = free_port()
    write_contracts(paths, PORT=str(port), THREADS="2", STOP_TIMEOUT="1")
    process = start("serve", NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="400000")
    manager.wait_for("READY=1")
    seen = manager.count("WATCHDOG=1")
    until(lambda: manager.count("WATCHDOG=1") > seen + 3, "the watchdog to be fed")
    hung = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
    for sock in hung:
        sock.sendall(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
    until(lambda: "no worker answers" in process.output, "the hang to be noticed")
    fed = manager.count("WATCHDOG=1")
    time.sleep(1.2)
    assert manager.count("WATCHDOG=1") == fed
    assert "probe_application.py" in process.output
    assert get(port, "/health/live")[0] == 200


def test_a_stopped_process_feeds_no_watchdog(start: Start, paths: Paths, manager: Manager) -> None:
    """SIGSTOP: silence; SIGCONT: the watchdog is fed again."""
    write_contracts(paths, PORT=str(free_port()))
    process = start("serve", NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="400000")
    manager.wait_for("READY=1")
    manager.wait_for("WATCHDOG=1")
    process.signal(signal.SIGSTOP)
    time.sleep(0.3)
    fed = manager.count("WATCHDOG=1")
    time.sleep(1.0)
    assert manager.count("WATCHDOG=1") == fed
    process.signal(signal.SIGCONT)
    until(lambda: manager.count("WATCHDOG=1") > fed, "the watchdog to be fed again")


def test_another_decision_ends_it_with_75(start: Start, paths: Paths) -> None:
    """A new DB_GENERATION in run/db.env: the chain is to run again."""
    port = free_port()
    write_contracts(paths, PORT=str(port))
    process = start("serve")
    wait_until_ready(port)
    paths.db_contract.unlink()
    time.sleep(1.5)
    assert process.running, "a decision in progress is not yet a new one"
    write_db_contract(paths, generation="2")
    assert process.wait() == 75


def test_a_port_that_is_taken_gives_one_line_that_names_it(
    start: Start, paths: Paths, listener: socket.socket
) -> None:
    """HOST, PORT, who has it and what to do; no traceback."""
    port = int(listener.getsockname()[1])
    write_contracts(paths, PORT=str(port))
    process = start("serve")
    assert process.wait() == 1
    line = process.output.strip()
    assert "\n" not in line
    assert f"HOST=127.0.0.1 PORT={port}: the port is taken" in line
    assert f"(process {os.getpid()})" in line


def test_sockets_that_were_handed_down_but_cannot_be_used_are_an_error(
    start: Start, paths: Paths
) -> None:
    """A socket that does not listen is refused; nothing else is bound in its place."""
    with socket.socket() as silent:
        write_contracts(paths, PORT=str(free_port()))
        process = start("serve", listener=silent)
        assert process.wait() == 1
    assert "does not listen" in process.output


def test_a_failing_gate_ends_it_with_1_after_backing_off(
    start: Start, paths: Paths, manager: Manager
) -> None:
    """The reason is shown while it waits; each failure waits longer."""
    port = free_port()
    write_contracts(paths, PORT=str(port), DISK_MIN_FREE="100", EDGEPAAS_APP="no_such:thing")
    for failures in (1, 2):
        process = start("serve", NOTIFY_SOCKET=str(manager.path))
        assert process.wait() == 78
        assert "EDGEPAAS_APP=no_such:thing" in process.output
        assert json.loads(paths.crash_loop.read_text())["failures"] == failures
    assert "failed to start: EDGEPAAS_APP" in manager.wait_for("STATUS=failed")


def test_an_application_that_exits_while_it_is_imported_ends_it_with_78(
    start: Start, paths: Paths, tmp_path: Path
) -> None:
    """sys.exit() in somebody's module names the setting that chose it; it is no hang."""
    (tmp_path / "exiting.py").write_text("import sys\nsys.exit(0)\n")
    write_contracts(paths, PORT=str(free_port()), EDGEPAAS_APP="exiting:application")
    process = start("serve")
    assert process.wait() == 78
    assert "EDGEPAAS_APP=exiting:application" in process.output


def test_sighup_reloads_and_says_so(start: Start, paths: Paths, manager: Manager) -> None:
    """RELOADING=1, the log's new level is in force, READY=1 again."""
    write_contracts(paths, PORT=str(free_port()))
    process = start("serve", NOTIFY_SOCKET=str(manager.path))
    manager.wait_for("READY=1")
    seen = len(manager.messages)
    process.signal(signal.SIGHUP)
    manager.wait_for("RELOADING=1", after=seen)
    manager.wait_for("MONOTONIC_USEC=", after=seen)
    manager.wait_for("READY=1", after=seen)
    assert "reloaded" in process.output
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def test_a_client_that_goes_away_ends_nobody_but_itself(start: Start, paths: Paths) -> None:
    """SIGPIPE is not for a server."""
    port = free_port()
    write_contracts(paths, PORT=str(port))
    process = start("serve")
    wait_until_ready(port)
    for _ in range(20):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(b"GET /slow?0.01 HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        sock.close()
    time.sleep(0.3)
    assert get(port, "/")[0] == 200
    assert process.running


def test_a_body_beyond_the_limit_gets_413_as_the_one_error_body(start: Start, paths: Paths) -> None:
    """The client reads its answer although it was still sending."""
    port = free_port()
    write_contracts(paths, PORT=str(port), REQUEST_MAX_BYTES="100k")
    start("serve")
    wait_until_ready(port)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.suppress(OSError):
        connection.request("POST", "/", body=b"x" * 5_000_000)
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["error"] == "too_large"


def test_nobody_has_to_read_what_it_prints(paths: Paths, tmp_path: Path) -> None:
    """'edgepaas serve | head -1': it serves on, and ends with its own status."""
    port = free_port()
    write_contracts(paths, PORT=str(port))
    process = subprocess.Popen(
        edgepaas("serve"),
        env=child_environ(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        process.stdout.close()
        wait_until_ready(port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(30)


def test_it_is_not_ready_while_no_worker_is_free(start: Start, paths: Paths) -> None:
    """Probes have a thread of their own, which would be answered for ever."""
    port = free_port()
    write_contracts(paths, PORT=str(port), THREADS="2")
    start("serve")
    wait_until_ready(port)
    hanging = [http.client.HTTPConnection("127.0.0.1", port, timeout=90) for _ in range(2)]
    for each in hanging:
        each.request("GET", "/slow?8")
    until(lambda: get(port, "/health/ready", timeout=30)[0] == 503, "it not to be ready")
    failed = {c["name"]: c["message"] for c in ready_document(port)["checks"] if not c["ok"]}
    assert failed.keys() == {"workers"}, failed
    assert [each.getresponse().status for each in hanging] == [200, 200]
    until(lambda: get(port, "/health/ready", timeout=30)[0] == 200, "it to be ready again")
