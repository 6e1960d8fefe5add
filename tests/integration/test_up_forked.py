# SPDX-License-Identifier: Apache-2.0
"""'edgepaas up' as it is shipped, with forked stages: stops at every stage, rounds, a lost fork."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from edgepaas.files.paths import Paths
from edgepaas.supervisor.sidecars import SIDECARS
from tests.support.live_box import descendants
from tests.support.service_process import (
    Load,
    Process,
    child_environ,
    edgepaas,
    free_port,
    get,
    until,
    wait_until_ready,
)

LIMIT = 90.0

Start = Callable[[], Process]


@pytest.fixture
def port() -> int:
    """The box's port."""
    return free_port()


@pytest.fixture
def start(tmp_path: Path, paths: Paths, port: int) -> Iterator[Start]:
    """Starts 'edgepaas up' with the probe application and ends it after the test."""
    del paths  # sets the home of what is started
    with contextlib.ExitStack() as started:

        def begin() -> Process:
            environ = child_environ(
                tmp_path, PORT=str(port), LOG_FILE="none", RATE_LIMIT="0", STOP_TIMEOUT="5",
                EDGEPAAS_APP="probe_application:application",
            )  # fmt: skip
            process = Process(edgepaas("up"), tmp_path, environ)
            started.callback(process.close)
            return process

        yield begin


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _pid_of_service(up: Process) -> int:
    """The process that is called 'edgepaas serve', from when it was forked; 0: none."""
    for pid in descendants(up.pid):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[:2] == [b"edgepaas", b"serve"]:
                return pid
    return 0


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name
)
def test_a_stop_at_any_stage_ends_all_of_it(start: Start, paths: Paths, number: int) -> None:
    """At the lock, after each stage, when the service begins: 0, and no process is left."""
    state = paths.state
    marks = (state / "up.lock", paths.env_contract, paths.db_contract, paths.address)
    for mark in marks:
        for earlier in marks:
            earlier.unlink(missing_ok=True)
        up = start()
        until(mark.exists, f"{mark}; it printed:\n{up.output}", LIMIT)
        family = descendants(up.pid)
        up.signal(number)
        status = up.wait(LIMIT)
        assert status == (-number if number == signal.SIGKILL else 0), f"{mark}: {up.output}"
        for pid in family:
            until(partial(_is_gone, pid), f"the end of process {pid} after {mark}", LIMIT)
        assert "Traceback" not in up.output


def test_75_goes_round_on_forked_processes_and_nobody_waits_in_vain(
    start: Start, paths: Paths, port: int
) -> None:
    """Two decisions: each brings another service, no failed request, no more open files."""
    up = start()
    wait_until_ready(port)
    services, files = [_pid_of_service(up)], [_open_files(up.pid)]
    load = Load(port, clients=2)
    with load.running():
        for turn in range(2):
            contract = paths.db_contract.read_text()
            paths.db_contract.write_text(
                contract.replace('DB_GENERATION="', f'DB_GENERATION="{turn}')
            )
            until(lambda: _pid_of_service(up) not in (0, *services), "another service", LIMIT)
            services.append(_pid_of_service(up))
            until(partial(_is_gone, services[-2]), "the end of the one before", LIMIT)
            until(lambda: get(port, "/", timeout=5)[1].strip() == b"%d" % services[-1],
                  "its answer", LIMIT)  # fmt: skip
            files.append(_open_files(up.pid))
    assert not load.failures
    assert len(set(services)) == 3
    # One more or less for each sidecar: the drainer ends by itself without a hub.
    assert max(files) - min(files) <= len(SIDECARS), files


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_a_service_that_is_killed_while_it_imports_is_replaced(start: Start, port: int) -> None:
    """As by the kernel, when memory is short: the box is ready all the same."""
    up = start()
    pid = until(lambda: _pid_of_service(up), "the service's process", LIMIT)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until_ready(port)
    assert up.running
    assert get(port, "/")[1].strip() != b"%d" % pid
