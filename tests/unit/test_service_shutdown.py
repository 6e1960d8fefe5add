# SPDX-License-Identifier: Apache-2.0
"""Asking a service to end, and what an application's workers can do to its start and its end."""

import pytest

from edgepaas.service import workers as module
from edgepaas.service.shutdown import Control, Ending
from edgepaas.service.workers import start_workers, stop_workers
from edgepaas.timing.task_registry import TaskRegistry
from tests.support.service_process import until

ENDING = Ending(75, "a test", 1.0)


@pytest.fixture
def tasks() -> TaskRegistry:
    """A registry whose alerts nothing takes."""
    return TaskRegistry(lambda message, **_: None, lambda message, **_: None)


class Worker:
    """A worker that notes what is asked of it, and may fail."""

    def __init__(self, *, fails: int = 0, stops: bool = True) -> None:
        self.starts, self.stopped = 0, 0.0
        self._fails, self._stops = fails, stops

    def start(self) -> None:
        self.starts += 1
        if self.starts <= self._fails:
            raise RuntimeError("can't start new thread")

    def stop(self, seconds: float) -> None:
        self.stopped = seconds
        if not self._stops:
            raise OSError("it does not stop")


def test_what_is_to_be_called_at_the_end_is_called_once() -> None:
    called: list[str] = []
    control = Control(lambda: None)
    control.at_end(lambda: called.append("before"))
    assert control.end(ENDING)
    assert not control.end(Ending(1, "another", 0.0))
    assert called == ["before"]
    assert control.ending == ENDING
    control.at_end(lambda: called.append("after"))
    assert called == ["before", "after"]


def test_a_request_to_end_during_the_end_of_the_first_changes_nothing() -> None:
    """A signal handler may interrupt the callbacks of the first request, in their thread."""
    called: list[bool] = []
    control = Control(lambda: None)
    control.at_end(lambda: called.append(control.end(Ending(1, "a signal", 0.0))))
    control.end(ENDING)
    assert called == [False]
    assert control.ending == ENDING


def test_a_worker_that_cannot_be_started_is_started_later_and_keeps_no_other_from_it(
    tasks: TaskRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_EVERY", 0.01)
    late, other = Worker(fails=1), Worker()
    retries = start_workers([late, other], tasks)
    assert other.starts == 1
    assert [task.name for task in retries] == ["start-Worker"]
    until(lambda: late.starts == 2, "its start")
    until(lambda: not retries[0].alive, "the end of the retries")
    assert late.starts == 2
    assert tasks.problems() == ()


def test_a_worker_that_cannot_be_stopped_keeps_no_other_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stubborn, other = Worker(stops=False), Worker()
    stop_workers([stubborn, other], 2.0)
    assert (stubborn.stopped, other.stopped) == (2.0, 2.0)
    assert "it does not stop" in caplog.text


def test_a_retry_ends_with_the_service(tasks: TaskRegistry) -> None:
    control = Control(lambda: None)
    never = Worker(fails=1_000)
    (retry,) = start_workers([never], tasks)
    control.at_end(retry.request_stop)
    control.end(ENDING)
    until(lambda: not retry.alive, "the end of the retries")
    assert never.starts == 1
