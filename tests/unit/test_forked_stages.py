# SPDX-License-Identifier: Apache-2.0
"""Stages that are forked from 'edgepaas up': each is to be as if it had been started afresh."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tests.support.forking_launcher
from edgepaas.supervisor.free_memory import free_memory
from tests.support.weaken import weak_environ

#: The exit status of what the launcher starts as a program.
PROGRAM = 42

Case = Callable[..., Any]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Runs a case of ``tests.support.forking_launcher`` and returns what it found."""

    def find(name: str, *weaknesses: str) -> Any:
        driver = tests.support.forking_launcher.__file__
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(
            [sys.executable, driver, name, str(tmp_path)],
            capture_output=True, text=True, timeout=120, check=False,
            env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OF_THE": "parent alone"}
            | weak_environ(*weaknesses),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (tmp_path / "stderr").write_text(done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    return find


def test_each_way_to_end_has_its_own_status_and_none_ends_the_parent(
    case: Case, tmp_path: Path
) -> None:
    """A stage that crashes the interpreter is a stage that failed."""
    assert case("statuses") == {
        "none": 0, "again": 75, "exit": 3, "complain": 1, "raise": 1, "crash": -11, "abort": -6,
    }  # fmt: skip
    said = (tmp_path / "stderr").read_text()
    assert "what went wrong" in said
    assert "ValueError: not expected" in said


@pytest.mark.parametrize("how", ["isolation", "isolation_without_limit"])
def test_a_stage_sees_neither_its_parent_nor_the_stage_before_it(case: Case, how: str) -> None:
    """Environment, modules' state, descriptors, signals, process group, command line."""
    first, second, parent = case(how)
    for stage in (first, second):
        environ = stage["environ"]
        environ.pop("LC_CTYPE", None)  # set by Python itself, in whatever process
        assert sorted(environ) == ["GIVEN", "NOTIFY_SOCKET", "PATH"]
        assert stage["seen"] == []
        assert stage["descriptors"] == {}
        assert stage["term"]
        assert stage["blocked"] == []
        assert stage["group"]
        assert stage["argv"] == ["describe"]
        assert stage["command"] == ["edgepaas", "describe"]
    assert first["pid"] != second["pid"]
    assert parent == {"seen": [], "left": None}


def test_a_build_whose_forks_keep_their_parents_files_is_found_out(case: Case) -> None:
    """A lock would be held for as long as the longest of them lives."""
    first, *_ = case("isolation", "forks-keep-files")
    assert any(target.endswith("/lock") for target in first["descriptors"].values())


def test_signals_reach_a_stage_as_they_reach_a_program(case: Case) -> None:
    assert case("signals") == {"wait": -15, "interrupted": 130}


def test_threads_and_what_was_registered_for_the_end_have_their_turn(case: Case) -> None:
    assert case("leave") == [0, True, True]


def test_the_service_is_forked_early_and_gets_its_sockets_when_the_stages_are_done(
    case: Case,
) -> None:
    status, pid, served = case("service")
    assert status == 0
    assert served["imported"], "it has imported meanwhile"
    assert served["arguments"] == ["serve", "--lifeline", "4"]
    assert served["pid"] == pid
    assert served["environ"]["LISTEN_PID"] == str(pid)
    assert served["environ"]["LISTEN_FDS"] == "1"
    assert served["environ"]["NOTIFY_SOCKET"] == "@x"
    assert served["environ"]["GIVEN"] == "to the stages"
    assert "OF_THE" not in served["environ"]
    assert sorted(served["descriptors"]) == ["3", "4"]
    assert served["descriptors"]["3"].startswith("socket:")
    assert served["descriptors"]["4"].startswith("pipe:")


@pytest.mark.parametrize("how", ["service_killed", "service_killed_unseen"])
def test_a_program_is_started_where_the_waiting_service_is_gone(case: Case, how: str) -> None:
    status, _, served = case(how)
    assert (status, served) == (PROGRAM, None)


def test_a_chain_that_ends_early_leaves_no_waiting_service(case: Case) -> None:
    assert case("not_needed") == "gone"


def test_the_next_service_may_be_there_before_its_round(case: Case) -> None:
    """It connects to the PostgreSQL that is being handed back to."""
    status, same, served = case("prepared")
    assert (status, same) == (0, True)
    assert served["imported"]


def test_what_a_waiting_service_has_opened_stays_open(case: Case) -> None:
    """Its connections to PostgreSQL, beside the socket and the lifeline that come later."""
    status, _, served = case("connected")
    assert status == 0
    assert served["connected"] == ["word"] * 3
    given, lifeline, *others = (
        served["descriptors"][number] for number in sorted(served["descriptors"], key=int)
    )
    assert given.startswith("socket:")
    assert lifeline.startswith("pipe:")
    assert len(others) == 6
    assert all(other.startswith("socket:") for other in others)


def test_a_service_whose_round_does_not_come_ends_by_itself(case: Case) -> None:
    status, pid, served = case("prepared_in_vain")
    assert status == 0
    assert served["pid"] == pid


def test_a_service_that_is_gone_before_its_round_is_replaced(case: Case) -> None:
    """Reaped while the chain pauses: its number may be another process's by then."""
    status, pid, served = case("prepared_is_reaped_between_rounds")
    assert status == 0
    assert served["pid"] == pid


@pytest.mark.parametrize("why", ["changed_file", "second_thread"])
def test_where_forking_is_not_safe_stages_are_programs(case: Case, why: str) -> None:
    """Code of two versions in one process; locks of threads that are not there."""
    assert case(why) == PROGRAM


def test_with_little_memory_nothing_is_imported_beside_a_stage(case: Case) -> None:
    """A migration may need it."""
    stage, (service, _, served) = case("little_memory")
    assert stage == 75
    assert (service, served) == (PROGRAM, None)


def test_free_memory_is_the_least_of_machine_and_container(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:     600000 kB\n")
    assert free_memory(tmp_path) == 600_000 * 1024
    (group / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) == 600_000 * 1024
    (group / "memory.max").write_text("5000\n")
    assert free_memory(tmp_path) == 4000
    (tmp_path / "proc/meminfo").write_text("nothing to see\n")
    assert free_memory(tmp_path) == 4000
    assert free_memory(tmp_path / "none") > 1 << 50
