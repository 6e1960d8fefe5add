# SPDX-License-Identifier: Apache-2.0
"""The service's eye on itself."""

from pathlib import Path

import pytest

from edgepaas.decision.contract import DatabaseContract
from edgepaas.files.paths import Paths
from edgepaas.health.state import StateBoard
from edgepaas.sd_notify import Notifier
from edgepaas.service.crash_loop import CrashLoop
from edgepaas.service.shutdown import Control, Ending
from edgepaas.service.watches import monitor
from edgepaas.service.watches.monitor import GenerationWatch, Monitor, status_line
from tests.support.service_process import write_db_contract
from tests.unit.test_service_notify import Recorder


@pytest.fixture
def contract(paths: Paths) -> DatabaseContract:
    """The decision of this boot."""
    write_db_contract(paths, generation="1")
    return DatabaseContract.read(paths.db_contract)


def build(
    paths: Paths, contract: DatabaseContract, *, answers: bool = True
) -> tuple[Monitor, StateBoard, Control, Recorder]:
    """Return a monitor, the state it watches, and what it says."""
    recorder, state, control = Recorder(), StateBoard(contract), Control(lambda: None)
    made = Monitor(
        state=state,
        control=control,
        notifier=Notifier(recorder, watchdog=0.0001),
        probe=lambda _timeout: answers,
        generation=GenerationWatch(paths.db_contract, "1"),
        crash_loop=CrashLoop(paths.crash_loop),
        patience=20.0,
    )
    return made, state, control, recorder


def test_a_start_asks_for_time(paths: Paths, contract: DatabaseContract) -> None:
    """EXTEND_TIMEOUT_USEC, so that a slow card does not count as a hang."""
    watching, _, _, recorder = build(paths, contract)
    watching.look()
    assert "EXTEND_TIMEOUT_USEC=30000000" in recorder.sent


def test_a_start_that_never_ends_is_given_up(
    paths: Paths, contract: DatabaseContract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import that hangs must not leave the box waiting for ever."""
    monkeypatch.setattr(monitor, "START_LIMIT", -1.0)
    watching, _, control, _ = build(paths, contract)
    watching.look()
    assert control.ending is not None
    assert control.ending.status == 1


def test_a_running_service_says_its_state_in_a_line(
    paths: Paths, contract: DatabaseContract
) -> None:
    """State, since when, why, which build; again only when it changes."""
    watching, state, _, recorder = build(paths, contract)
    state.phase = "running"
    watching.look()
    watching.look()
    lines = [line for line in recorder.sent if line.startswith("STATUS=")]
    assert lines == [f"STATUS={status_line(state)}"]
    assert lines[0].startswith("STATUS=standalone since 20")
    assert "no DATABASE_URL (edgepaas 0." in lines[0]


def test_the_watchdog_is_fed_only_while_workers_answer(
    paths: Paths, contract: DatabaseContract, capfd: pytest.CaptureFixture[str]
) -> None:
    """A hang leaves every thread's stack in the journal, once."""
    watching, _, _, recorder = build(paths, contract)
    watching.look()
    assert "WATCHDOG=1" in recorder.sent
    watching, _, _, recorder = build(paths, contract, answers=False)
    watching.look()
    watching.look()
    assert "WATCHDOG=1" not in recorder.sent
    assert capfd.readouterr().err.count("most recent call first") >= 1


def status_asked_for(control: Control) -> int | None:
    """The exit status that the service was asked to end with, if it was."""
    return control.ending.status if control.ending else None


def test_another_generation_asks_for_75_and_a_missing_contract_does_not(
    paths: Paths, contract: DatabaseContract
) -> None:
    """A stage deletes its contract before it writes the new one."""
    watching, state, control, _ = build(paths, contract)
    state.phase = "running"
    watching.look()
    paths.db_contract.unlink()
    watching.look()
    paths.db_contract.write_text("garbage")
    watching.look()
    assert status_asked_for(control) is None
    write_db_contract(paths, generation="2")
    watching.look()
    assert status_asked_for(control) == 75


def test_the_same_decision_written_again_is_no_reason_to_end(
    paths: Paths, contract: DatabaseContract
) -> None:
    """The generation counts, not the file."""
    watch = GenerationWatch(Path(paths.db_contract), "1")
    write_db_contract(paths, generation="1")
    assert watch.changed() == ""


def test_the_first_to_end_the_service_decides_how() -> None:
    """A second request hurries a stop and changes nothing else."""
    control = Control(lambda: None)
    control.stop(Ending(0, "SIGTERM", 20.0))
    control.end(Ending(75, "late", 1.0))
    assert control.ending == Ending(0, "SIGTERM", 20.0)
    assert not control.hurry
    control.stop(Ending(0, "SIGTERM", 20.0))
    assert control.hurry


def test_hung_workers_of_a_service_that_ends_leave_no_stacks(
    paths: Paths, contract: DatabaseContract, capfd: pytest.CaptureFixture[str]
) -> None:
    """A drain is bounded by itself, and a lost database hangs them all."""
    watching, _, control, _ = build(paths, contract, answers=False)
    control.end(Ending(75, "PostgreSQL was lost", 1.0))
    watching.look()
    assert "most recent call first" not in capfd.readouterr().err
