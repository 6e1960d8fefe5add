# SPDX-License-Identifier: Apache-2.0
"""Periodic tasks: no error ends one, and what is wrong with one is reported by its name."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from edgepaas.timing.backoff import Backoff
from edgepaas.timing.periodic_task import PeriodicTask, TaskAlert
from edgepaas.timing.task_registry import TaskRegistry
from tests.support.service_process import until

SOON = 0.01


@dataclass
class Recorder:
    """A registry, and the alerts that it raised and resolved."""

    now: float = 100.0
    said: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = TaskRegistry(self._raise, self._resolve, clock=lambda: self.now)

    def _raise(self, message: str, *, fingerprint: str, **_: Any) -> None:
        self.said.append(("raised", fingerprint, message))

    def _resolve(self, message: str, *, fingerprint: str, **_: Any) -> None:
        self.said.append(("resolved", fingerprint, message))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.said]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def run() -> Iterator[Callable[..., PeriodicTask]]:
    """Make tasks, start them, and end them after the test."""
    tasks: list[PeriodicTask] = []

    def start(
        work: Callable[[], float | None],
        *,
        every: float = SOON,
        backoff: Backoff | None = None,
        registry: TaskRegistry | None = None,
    ) -> PeriodicTask:
        backoff = backoff or Backoff(first=SOON, longest=SOON)
        task = PeriodicTask("a-task", work, every=every, backoff=backoff)
        tasks.append(task)
        if registry is not None:
            registry.add(task)
        task.start()
        return task

    yield start
    for task in tasks:
        task.stop(5)
        assert not task.alive


class Unsteady:
    """Work that raises what it is told to."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.runs = 0

    def __call__(self) -> None:
        self.runs += 1
        if self.error is not None:
            raise self.error

    def runs_on(self) -> None:
        """Return when it was run twice more."""
        before = self.runs
        until(lambda: self.runs >= before + 2, "two more runs")


@pytest.mark.parametrize(
    "error",
    [ValueError("nine values"), SystemExit(3), MemoryError(), KeyboardInterrupt(), GeneratorExit()],
    ids=lambda error: type(error).__name__,
)
def test_no_error_ends_the_thread(
    run: Callable[..., PeriodicTask], recorder: Recorder, error: BaseException
) -> None:
    work = Unsteady()
    task = run(work, registry=recorder.registry)
    work.runs_on()
    work.error = error
    work.runs_on()
    until(recorder.registry.problems, "the problem")
    work.runs_on()
    assert task.alive
    assert type(error).__name__ in recorder.registry.problems()[0]
    assert recorder.kinds == ["resolved", "raised"]  # once, however often it fails
    work.error = None
    until(lambda: recorder.kinds == ["resolved", "raised", "resolved"], "the end of the alert")
    assert not recorder.registry.problems()
    assert task.failures >= 2
    assert {name for _, name, _ in recorder.said} == {"task:a-task"}


def test_an_alert_that_could_not_be_raised_is_raised_later(
    run: Callable[..., PeriodicTask], recorder: Recorder
) -> None:
    raised: list[str] = []

    def refuse_once(message: str, **_: Any) -> None:
        raised.append(message)
        if len(raised) == 1:
            raise RuntimeError("can't start new thread")

    registry = TaskRegistry(refuse_once, lambda message, **_: None, clock=lambda: 100.0)
    work = Unsteady()
    work.error = ValueError("nine values")
    task = registry.add(run(work))
    until(task.problem, "the problem")
    for _ in range(4):  # as the monitor does; the first attempt may be the task's own
        with contextlib.suppress(RuntimeError):
            registry.check()
    assert task.alive
    assert len(raised) == 2


def test_a_single_failure_is_counted_and_no_alert(
    run: Callable[..., PeriodicTask], recorder: Recorder
) -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        if len(runs) == 2:
            raise OSError("once")

    task = run(work, registry=recorder.registry)
    until(lambda: len(runs) > 3, "more runs")
    assert task.failures == 1
    assert "raised" not in recorder.kinds


def test_failures_are_retried_after_a_back_off_that_a_wake_up_does_not_cut_short(
    run: Callable[..., PeriodicTask],
) -> None:
    work = Unsteady()
    work.error = OSError("no")
    task = run(work, backoff=Backoff(first=30, longest=30))
    until(lambda: task.failures, "the failure")
    for _ in range(5):
        task.wake()
    assert not threading.Event().wait(0.1)
    assert work.runs == 1


def test_a_wake_up_has_it_run_at_once(run: Callable[..., PeriodicTask]) -> None:
    work = Unsteady()
    task = run(work, every=3600.0)
    until(lambda: work.runs == 1, "the first run")
    task.wake()
    until(lambda: work.runs == 2, "the second run")
    assert task.problem() == ""


def test_the_work_may_say_when_it_is_due_again(run: Callable[..., PeriodicTask]) -> None:
    runs: list[int] = []

    def work() -> float:
        runs.append(1)
        return 3600.0 if len(runs) == 3 else 0.0

    run(work, every=3600.0)
    until(lambda: len(runs) == 3, "three runs")
    assert not threading.Event().wait(0.1)
    assert len(runs) == 3


def test_what_it_holds_is_given_back_in_its_thread_after_a_failure_and_at_the_end() -> None:
    released: list[str] = []
    work = Unsteady()
    task = PeriodicTask(
        "a-task",
        work,
        every=SOON,
        backoff=Backoff(first=SOON, longest=SOON),
        release=lambda: released.append(threading.current_thread().name),
    )
    task.start()
    work.runs_on()
    assert released == []
    work.error = OSError("no")
    until(lambda: released, "the release after a failure")
    work.error = None
    work.runs_on()
    before = len(released)
    task.stop(5)
    assert len(released) == before + 1
    assert set(released) == {"a-task"}


def test_the_final_run_comes_after_the_end_was_asked_for() -> None:
    begun, go_on, seen = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go_on.wait(10)
        seen.append(stored[-1])

    stored = ["before"]
    task = PeriodicTask("a-task", work, every=3600.0, final_run=True)
    task.start()
    assert begun.wait(5)
    go_on.set()
    until(lambda: seen == ["before"], "the first run")
    stored.append("in the last moment")
    task.stop(5)
    assert seen == ["before", "in the last moment"]


def test_the_stop_is_bounded(recorder: Recorder) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(30)

    task = recorder.registry.add(PeriodicTask("a-task", work, every=SOON))
    task.start()
    assert begun.wait(5)
    task.stop(0.05)
    assert task.alive
    assert not recorder.registry.problems()  # it was asked to end, and nothing is expected of it
    go_on.set()
    until(lambda: not task.alive, "its end")


def test_a_thread_that_hangs_is_late_and_no_longer_when_it_comes_back(recorder: Recorder) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(30)

    task = recorder.registry.add(
        PeriodicTask("a-task", work, every=3600.0, late_after=60.0, clock=lambda: recorder.now)
    )
    task.start()
    assert begun.wait(5)
    recorder.now += 59
    recorder.registry.check()
    assert recorder.said == []
    recorder.now += 2
    recorder.registry.check()
    recorder.registry.check()
    (said,) = recorder.said
    assert said[:2] == ("raised", "task:a-task")
    assert "the thread a-task has been at work for more than 60 s" in said[2]
    go_on.set()
    until(lambda: task.works, "its run")
    recorder.registry.check()
    assert recorder.kinds == ["raised", "resolved"]
    task.stop(5)


def test_a_thread_that_died_is_reported_and_started_again(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when there is no memory even for catching that there is none."""
    work = Unsteady()
    task = recorder.registry.add(
        PeriodicTask("a-task", work, every=SOON, backoff=Backoff(first=SOON, longest=SOON))
    )
    with monkeypatch.context() as broken:
        broken.setattr(PeriodicTask, "_run", lambda *_: None)
        task.start()
        until(lambda: not task.alive, "its death")
    assert "the thread a-task has ended" in recorder.registry.problems()[0]
    recorder.registry.check()

    def works() -> bool:
        recorder.registry.check()
        return task.works

    until(works, "its work")
    assert not recorder.registry.problems()
    assert task.failures == 1
    task.stop(5)


def test_an_alert_may_wait_and_has_the_words_of_its_task(recorder: Recorder) -> None:
    work = Unsteady()
    work.error = OSError("the disk is gone")
    task = recorder.registry.add(
        PeriodicTask(
            "rules",
            work,
            every=SOON,
            backoff=Backoff(first=SOON, longest=SOON),
            alert=TaskAlert("Nothing is judged.", fingerprint="rules-stuck", after=60.0),
        )
    )
    task.start()
    until(recorder.registry.problems, "the problem")
    recorder.registry.check()
    assert recorder.said == []
    recorder.now += 61
    recorder.registry.check()
    ((kind, fingerprint, message),) = recorder.said
    assert (kind, fingerprint) == ("raised", "rules-stuck")
    assert message == (
        "the thread rules fails again and again: OSError: the disk is gone. Nothing is judged."
    )
    task.stop(5)


def test_a_release_that_asks_for_the_end_ends_no_thread() -> None:
    """The back-off goes on, and the end is an end in order."""

    def fail() -> None:
        raise OSError("no")

    def release() -> None:
        raise SystemExit(3)

    quick = Backoff(first=SOON, longest=SOON)
    task = PeriodicTask("a-task", fail, every=SOON, backoff=quick, release=release)
    task.start()
    until(lambda: task.failures > 5, "more failures")
    assert task.problem() == "fails again and again: OSError: no"
    task.stop(5)
    assert not task.alive


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_error_without_a_text_is_named_by_its_type(run: Callable[..., PeriodicTask]) -> None:
    """It is tried again after the back-off, as any other."""

    def fail() -> None:
        raise NoText

    task = run(fail)
    until(lambda: task.failures > 5, "more failures")
    assert task.problem() == "fails again and again: NoText"
