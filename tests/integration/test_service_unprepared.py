# SPDX-License-Identifier: Apache-2.0
"""Whatever is broken behind it, the port answers 503 with the reason, and never hangs."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.files.paths import Paths
from edgepaas.service.stage_failure import failed_stage
from tests.support.service_process import (
    Manager,
    Process,
    child_environ,
    edgepaas,
    free_port,
    get,
    ready_document,
    until,
    wait_until_ready,
)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """The socket that stays open, as systemd holds it."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """The service manager."""
    found = Manager(tmp_path)
    yield found
    found.close()


def _serve(tmp_path: Path, listener: socket.socket, manager: Manager, **environ: str) -> Process:
    variables = child_environ(tmp_path, NOTIFY_SOCKET=str(manager.path), **environ)
    return Process(edgepaas("serve", "--inherit"), tmp_path, variables, listener)


def _stage(name: str, tmp_path: Path, **environ: str) -> int:
    variables = child_environ(tmp_path, **environ)
    done = subprocess.run(edgepaas(name), env=variables, capture_output=True, check=False)
    return done.returncode


def _slow_crash_loop(paths: Paths) -> None:
    """Have the next failure be answered for a while, as after several."""
    from edgepaas.service.crash_loop import CrashLoop

    loop = CrashLoop(paths.crash_loop)
    for _ in range(12):
        loop.failed()


BROKEN = {
    "no such application": ({"EDGEPAAS_APP": "nonesuch"}, "", "EDGEPAAS_APP=nonesuch"),
    "a syntax error": ({"EDGEPAAS_APP": "broken:application"}, "def (", "broken"),
    "a package that is not there": (
        {"EDGEPAAS_APP": "broken:application"},
        "import nonesuch_package",
        "nonesuch_package",
    ),
    "an import that ends the interpreter": (
        {"EDGEPAAS_APP": "broken:application"},
        "raise SystemExit(3)",
        "broken",
    ),
    "a setting without a sane reading": (
        {"BOTH_DB": "false", "ENV": "production"},
        "",
        "BOTH_DB=false",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_port_answers_with_the_reason_of_the_stage_that_failed(
    paths: Paths, tmp_path: Path, listener: socket.socket, manager: Manager, what: str
) -> None:
    """It was silent: systemd holds the socket, and a client waits in its queue for ever."""
    environ, source, reason = BROKEN[what]
    (tmp_path / "broken.py").write_text(source)
    # All of them, as systemd runs them: those after the one that failed lack what it writes.
    ended = [_stage(name, tmp_path, **environ) for name in ("env", "dbdecide", "schema")]
    assert any(ended)
    _slow_crash_loop(paths)
    port = listener.getsockname()[1]
    service = _serve(tmp_path, listener, manager, **environ)
    try:
        until(lambda: get(port, "/health/live", timeout=5)[0] == 200, "liveness")
        assert reason in " ".join(ready_document(port)["reasons"])
        status, body = get(port, "/")
        assert status == 503
        assert "edgepaas doctor" in json.loads(body)["message"]
        assert reason not in body.decode()
        until(lambda: any(reason in line for line in manager.messages), "the status line")
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
    finally:
        service.close()


def test_contracts_that_are_not_there_are_named(
    paths: Paths, tmp_path: Path, listener: socket.socket, manager: Manager
) -> None:
    """A stage that was killed leaves no reason; a changed file of settings ends the wait."""
    _slow_crash_loop(paths)
    port = listener.getsockname()[1]
    service = _serve(tmp_path, listener, manager)
    try:
        until(lambda: get(port, "/health/live", timeout=5)[0] == 200, "liveness")
        assert "edgepaas env" in " ".join(ready_document(port)["reasons"])
        paths.env_file.parent.mkdir(parents=True, exist_ok=True)
        paths.env_file.write_text("# mended\n")
        assert service.wait() == 1
    finally:
        service.close()


def test_a_stage_that_succeeds_again_leaves_no_reason(
    paths: Paths, tmp_path: Path, listener: socket.socket, manager: Manager
) -> None:
    """The service serves as soon as the chain is well."""
    for name in ("env", "dbdecide", "schema"):
        _stage(name, tmp_path, EDGEPAAS_APP="nonesuch")
    assert "the stage 'schema' failed" in failed_stage(paths)
    for name in ("env", "dbdecide", "schema"):
        assert _stage(name, tmp_path, EDGEPAAS_APP="probe_application:application") == 0
    assert failed_stage(paths) == ""
    service = _serve(tmp_path, listener, manager)
    try:
        manager.wait_for("READY=1")
    finally:
        service.close()


def test_up_answers_for_a_stage_that_fails_after_it_was_ready(paths: Paths, tmp_path: Path) -> None:
    """Its port stays open through every round, and hung in those that failed."""
    port = free_port()
    environ = child_environ(
        tmp_path,
        EDGEPAAS_APP="probe_application:application",
        PORT=str(port),
        HOST="127.0.0.1",
        LOG_FILE="none",
    )
    process = Process(edgepaas("up"), tmp_path, environ)
    try:
        wait_until_ready(port)
        (tmp_path / "probe_application.py").write_text("import nonesuch_package\n")
        pid = int(get(port, "/")[1])
        _slow_crash_loop(paths)
        os.kill(pid, signal.SIGKILL)

        def said() -> bool:
            status, body = get(port, "/health/ready", timeout=5)
            return status == 503 and b"nonesuch_package" in body

        until(said, "the reason on the port")
        assert process.running
        process.signal(signal.SIGTERM)
        process.wait()
    finally:
        process.close()
