# SPDX-License-Identifier: Apache-2.0
"""'edgepaas up': rounds on one socket, signals, children, and what it does about failures."""

import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from edgepaas.files.paths import Paths
from edgepaas.supervisor.sidecars import SIDECARS
from edgepaas.supervisor.stage_processes import CHAIN
from tests.support import up_with_stages
from tests.support.live_box import descendants
from tests.support.service_process import (
    Load,
    Manager,
    Process,
    child_environ,
    edgepaas,
    free_port,
    get,
    until,
    wait_until_ready,
    write_contracts,
    write_db_contract,
)
from tests.support.weaken import weak_environ


class Chain:
    """An 'edgepaas up' with stages that follow this test's plan."""

    def __init__(self, folder: Path, paths: Paths, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.port = free_port()
        self._stack = stack
        write_contracts(paths, RATE_LIMIT="0", STOP_TIMEOUT="2")

    def plan(self, stage: str, *statuses: int | str) -> None:
        """Have *stage* end with *statuses*, one a run; ``go`` does its work."""
        (self.folder / f"status-{stage}").write_text("\n".join(map(str, statuses)))

    def start(self, **environ: str) -> Process:
        """Start the supervisor."""
        process = Process(
            [sys.executable, up_with_stages.__file__, str(self.folder), str(self.port)],
            self.folder,
            child_environ(self.folder, **environ),
        )
        self._stack.callback(process.close)
        return process

    def start_until_ready(self, **environ: str) -> Process:
        """Start the supervisor, and wait until it knows that the service is ready.

        HTTP answers a moment before READY=1 is sent, and before READY=1 a service that is
        killed has failed at its start, and one that hangs has no watchdog yet.
        """
        process = self.start(**environ)
        wait_until_ready(self.port)
        until(lambda: "ready after" in process.output, "READY=1")
        return process

    @property
    def ran(self) -> list[str]:
        """The stages in the order in which they ran."""
        lines = self._lines()
        return [line.split()[0] for line in lines]

    @property
    def service_pids(self) -> list[int]:
        """The process ids of every service so far."""
        return [int(line.split()[1]) for line in self._lines() if line.startswith("serve ")]

    @property
    def beside(self) -> list[tuple[str, int, list[str]]]:
        """What ran beside the service: name, process id and options, in order."""
        file = self.folder / "beside"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(name, int(pid), options) for name, pid, *options in map(str.split, lines)]

    def pids_of(self, name: str) -> list[int]:
        """The process ids of every *name* beside the service so far."""
        return [pid for who, pid, _ in self.beside if who == name]

    def _lines(self) -> list[str]:
        file = self.folder / "ran"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def chain(tmp_path: Path, paths: Paths) -> Iterator[Chain]:
    """A chain that is ended after the test."""
    with contextlib.ExitStack() as stack:
        yield Chain(tmp_path, paths, stack)


def gone(pid: int) -> bool:
    """Whether there is no such process (not even a dead one that nobody has reaped)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_stages_run_in_their_order_and_a_signal_ends_all(chain: Chain) -> None:
    """env, dbdecide, schema, serve; SIGTERM reaches the service, exit status 0."""
    up = chain.start()
    wait_until_ready(chain.port)
    assert chain.ran == list(CHAIN)
    up.signal(signal.SIGTERM)
    assert up.wait() == 0
    assert gone(chain.service_pids[0])


def test_what_runs_beside_the_service_begins_after_the_stages_and_ends_with_it(
    chain: Chain, paths: Paths
) -> None:
    """In each round anew: the stages have the SQLite file for themselves in between."""
    up = chain.start()
    wait_until_ready(chain.port)
    until(lambda: len(chain.beside) == len(SIDECARS), "the sidecars")
    # They are started in this order, and write in any.
    assert {name for name, _, _ in chain.beside} == {name for name, *_ in SIDECARS}
    first = [pid for _, pid, _ in chain.beside]
    write_db_contract(paths, generation="2")
    until(lambda: len(chain.beside) == 2 * len(SIDECARS), "those of the next round")
    assert all(gone(pid) for pid in first)
    up.signal(signal.SIGTERM)
    assert up.wait() == 0
    assert all(gone(pid) for _, pid, _ in chain.beside)


def test_a_sidecar_that_fails_is_started_again_and_disturbs_nobody(chain: Chain) -> None:
    """Killed: again. Ended with 0: it has nothing to do, and is left alone."""
    chain.plan("alerts", 0)
    chain.plan("sync", 1, 75)
    chain.start()
    wait_until_ready(chain.port)
    until(lambda: len(chain.pids_of("sync")) == 3, "the third drainer")
    os.kill(chain.pids_of("sync")[-1], signal.SIGKILL)
    until(lambda: len(chain.pids_of("sync")) == 4, "the fourth drainer")
    assert len(chain.pids_of("alerts")) == 1
    assert len(chain.service_pids) == 1
    assert chain.ran == list(CHAIN)


def test_an_interrupt_is_passed_on(chain: Chain) -> None:
    """Ctrl-C ends the service in order."""
    # Before READY=1 nothing but SIGTERM ends every stage.
    up = chain.start_until_ready()
    up.signal(signal.SIGINT)
    assert up.wait() == 0
    assert "SIGINT was received" in up.output


def _has_gone_round(chain: Chain, rounds: int) -> bool:
    """Whether another service than the first *rounds* ones has been started."""
    return len(chain.service_pids) > rounds


def test_75_goes_round_again_on_the_same_socket_without_a_failed_request(
    chain: Chain, paths: Paths
) -> None:
    """Three new decisions under load: another process each time, every request answered."""
    chain.start()
    wait_until_ready(chain.port)
    with Load(chain.port).running() as load:
        for generation in ("2", "3", "4"):
            write_db_contract(paths, generation=generation)
            rounds = len(chain.service_pids)
            until(partial(_has_gone_round, chain, rounds), "the next round")
            until(
                lambda: f"{chain.service_pids[-1]}\n".encode() in load.answers,
                "an answer of the new service",
            )
    assert load.failures == []
    assert len(load.answers) == 4
    assert chain.ran == list(CHAIN) * 4


def test_75_of_a_stage_before_the_service_goes_round_again(chain: Chain) -> None:
    """The schema stage asks for a new decision; the chain is ready all the same."""
    chain.plan("schema", 75)
    chain.start()
    wait_until_ready(chain.port)
    assert chain.ran == ["env", "dbdecide", "schema", *CHAIN]


def test_a_pause_is_announced_before_it_begins(chain: Chain, tmp_path: Path) -> None:
    """So that a hold on PostgreSQL outlasts it."""
    chain.plan("schema", 75, 75, 75)
    chain.start()
    wait_until_ready(chain.port)
    assert (tmp_path / "pauses").read_text().split() == ["0.2", "0.4"]


@pytest.mark.parametrize(("stage", "status"), [("env", 78), ("dbdecide", 1), ("serve", 1)])
def test_a_failure_before_the_first_readiness_ends_it_with_that_status(
    chain: Chain, stage: str, status: int
) -> None:
    """Nothing is tried again in silence."""
    chain.plan(stage, status)
    up = chain.start()
    assert up.wait() == status
    assert f"'edgepaas {stage}' ended with status {status}" in up.output
    assert chain.ran == list(CHAIN[: CHAIN.index(stage) + 1])


def test_a_service_that_is_killed_is_started_again(chain: Chain) -> None:
    """kill -9 of the service, and a stage that fails once on the way back: 503 meanwhile."""
    up = chain.start_until_ready()
    chain.plan("schema", 1)
    os.kill(chain.service_pids[0], signal.SIGKILL)
    until(lambda: chain.ran == [*CHAIN, *CHAIN, *CHAIN], "the third service")
    wait_until_ready(chain.port)
    assert up.running


def test_a_service_that_hangs_is_ended_and_started_again(chain: Chain) -> None:
    """SIGSTOP: the watchdog of 'up' notices the silence."""
    chain.start_until_ready(TEST_WATCHDOG="5")
    os.kill(chain.service_pids[0], signal.SIGSTOP)
    until(lambda: len(chain.service_pids) == 2, "the second service")
    wait_until_ready(chain.port)
    assert gone(chain.service_pids[0])


@pytest.mark.parametrize("stage", CHAIN)
def test_a_start_that_hangs_is_killed_at_its_limit_with_a_reason_and_a_status(
    chain: Chain, stage: str
) -> None:
    """SIGSTOP before READY=1, or before a stage has ended."""
    chain.plan(stage, "hang")
    up = chain.start(TEST_START_LIMIT=f"{stage} 5")
    assert up.wait() == 128 + signal.SIGKILL
    assert chain.ran[-1] == stage
    what = "ready" if stage == "serve" else "done"
    assert re.search(f"'edgepaas {stage}' is not {what} after [0-9]+ s; it is ended", up.output)
    assert f"'edgepaas {stage}' ended with status -9" in up.output


def test_a_start_that_hangs_after_the_first_readiness_is_tried_again(chain: Chain) -> None:
    up = chain.start_until_ready(TEST_START_LIMIT="schema 15")
    chain.plan("schema", "hang")
    os.kill(chain.service_pids[0], signal.SIGKILL)
    until(lambda: chain.ran == [*CHAIN, *CHAIN, *CHAIN], "the third service")
    wait_until_ready(chain.port)
    assert "'edgepaas schema' ended with status -9" in up.output


def test_a_start_that_asks_for_more_time_has_it(chain: Chain) -> None:
    """EXTEND_TIMEOUT_USEC, as a long migration sends it."""
    chain.plan("schema", "long")
    up = chain.start_until_ready(TEST_START_LIMIT="schema 15")
    assert chain.ran == list(CHAIN)
    assert "it is ended" not in up.output


def test_a_build_that_gives_no_more_time_is_found_out(chain: Chain) -> None:
    chain.plan("schema", "long")
    up = chain.start(TEST_START_LIMIT="schema 5", **weak_environ("start-not-extended"))
    assert up.wait() == 128 + signal.SIGTERM


def test_the_service_ends_when_its_parent_is_killed(chain: Chain) -> None:
    """No orphan keeps the port; the next 'up' has it at once."""
    up = chain.start()
    wait_until_ready(chain.port)
    up.close()
    orphan = chain.service_pids[0]
    until(lambda: gone(orphan) or _is_zombie(orphan), "the orphan to end")
    chain.start()
    wait_until_ready(chain.port)
    assert orphan not in chain.service_pids[1:]
    assert len(chain.service_pids) == 2


def _is_zombie(pid: int) -> bool:
    # Without an init process nobody reaps orphans here.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def test_a_port_that_is_taken_ends_it_with_one_line(chain: Chain) -> None:
    """The chain stops before the decision, with HOST and PORT in the message."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", chain.port))
        other.listen()
        up = chain.start()
        assert up.wait() == 1
    assert f"HOST=127.0.0.1 PORT={chain.port}: the port is taken" in up.output
    assert chain.ran == ["env"]


def test_it_speaks_for_the_service_to_its_own_manager(chain: Chain, tmp_path: Path) -> None:
    """READY and STATUS are passed on; a round in between is no stopping."""
    manager = Manager(tmp_path)
    up = chain.start(NOTIFY_SOCKET=str(manager.path), TEST_WATCHDOG="2")
    manager.wait_for("READY=1")
    manager.wait_for("STATUS=standalone since")
    os.kill(chain.service_pids[0], signal.SIGKILL)
    until(lambda: len(chain.service_pids) == 2, "the second service")
    manager.wait_for("READY=1", after=len(manager.messages))
    assert manager.count("STOPPING=1") == 0
    up.signal(signal.SIGTERM)
    assert up.wait() == 0
    manager.wait_for("STOPPING=1")
    manager.close()


def test_a_stop_during_a_pause_is_heard(chain: Chain) -> None:
    """The back-off is slept with open ears."""
    up = chain.start_until_ready()
    chain.plan("env", *[1] * 20)
    os.kill(chain.service_pids[0], signal.SIGKILL)
    until(lambda: chain.ran.count("env") >= 5, "a few failures")
    asked = time.monotonic()
    up.signal(signal.SIGTERM)
    assert up.wait() == 0
    assert time.monotonic() - asked < 10


def test_the_hang_up_signal_reloads_the_service(chain: Chain) -> None:
    """SIGHUP without a terminal is for the service."""
    up = chain.start()
    wait_until_ready(chain.port)
    up.signal(signal.SIGHUP)
    until(lambda: "reloaded" in up.output, "the reload")
    assert get(chain.port, "/health/live")[0] == 200
    assert len(chain.service_pids) == 1


def test_reload_starts_the_chain_again_when_a_source_is_saved(chain: Chain, tmp_path: Path) -> None:
    """The application's new code answers, and no 'up' ends over a syntax error."""
    up = chain.start(TEST_RELOAD=str(tmp_path / "probe_application.py"))
    wait_until_ready(chain.port)
    source = tmp_path / "probe_application.py"
    sound = source.read_text()
    time.sleep(1)
    source.write_text(sound.replace('f"{os.getpid()}', 'f"changed'))
    until(lambda: get(chain.port, "/")[1] == b"changed\n", "the new code")
    source.write_text("this is no Python")
    until(lambda: "cannot be loaded" in up.output, "the failure")
    assert up.running
    source.write_text(sound)
    until(lambda: get(chain.port, "/", timeout=5)[1].strip().isdigit(), "the mended code")


def test_a_second_up_on_the_same_home_is_refused_and_touches_nothing(
    paths: Paths, tmp_path: Path
) -> None:
    """Two would start each other again for ever: each decision is another one to the other."""
    port = free_port()
    environ = child_environ(tmp_path, PORT=str(port), LOG_FILE="none", RATE_LIMIT="0")
    first = Process(edgepaas("up"), tmp_path, environ)
    try:
        wait_until_ready(port)
        before = paths.env_contract.stat().st_mtime_ns, paths.db_contract.stat().st_mtime_ns
        second = Process(edgepaas("up"), tmp_path, environ | {"PORT": str(free_port())})
        assert second.wait() == 1
        assert second.output == (
            f"edgepaas: EDGEPAAS_HOME={paths.home}: another 'edgepaas up' (process {first.pid}) "
            "runs there; end it, or give this one an EDGEPAAS_HOME of its own\n"
        )
        after = paths.env_contract.stat().st_mtime_ns, paths.db_contract.stat().st_mtime_ns
        assert after == before
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
    finally:
        first.close()


def test_a_setting_that_the_socket_does_not_follow_is_warned_about(
    paths: Paths, tmp_path: Path
) -> None:
    """The socket stays what it is through every round of the chain."""
    port, other = free_port(), free_port()
    environ = child_environ(tmp_path, LOG_FILE="none", RATE_LIMIT="0")
    paths.env_file.write_text(f"PORT={port}\n")
    up = Process(edgepaas("up"), tmp_path, environ)
    try:
        wait_until_ready(port)
        assert "is set, but the socket" not in up.output
        paths.env_file.write_text(f"PORT={other}\n")
        contract = paths.db_contract.read_text()
        paths.db_contract.write_text(contract.replace('DB_GENERATION="', 'DB_GENERATION="x'))
        until(lambda: "is set, but the socket" in up.output, "the warning")
        assert f"PORT={other} is set" in up.output
        assert "end 'edgepaas up' and start it again" in up.output
    finally:
        up.signal(signal.SIGTERM)
        up.wait()
        up.close()


def test_nothing_outlives_an_up_that_is_killed(paths: Paths, tmp_path: Path) -> None:
    """kill -9 of 'up': the service, the drainer and the alerts' watch end by themselves."""
    port = free_port()
    environ = child_environ(
        tmp_path, PORT=str(port), LOG_FILE="none", DATABASE_URL="postgresql://x@127.0.0.1:1/x"
    )
    up = Process(edgepaas("up"), tmp_path, environ)
    try:
        wait_until_ready(port)
        until(lambda: len(descendants(up.pid)) >= 1 + len(SIDECARS), "all of them")
        family = descendants(up.pid)
    finally:
        up.close()
    assert until(lambda: all(gone(pid) or _is_zombie(pid) for pid in family), "their end")
    assert len(family) >= 1 + len(SIDECARS)


def test_a_stop_before_the_first_contract_ends_it_with_0(tmp_path: Path) -> None:
    """How long a stop may take is a setting, and the stage that reads it still runs."""
    home = tmp_path / "box"
    environ = child_environ(tmp_path, EDGEPAAS_HOME=str(home), PORT=str(free_port()))
    process = Process(edgepaas("up"), tmp_path, environ)
    try:
        until((home / "state/up.lock").exists, "it begins")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.output
        assert not (home / "run/db.env").exists()
    finally:
        process.close()
