# SPDX-License-Identifier: Apache-2.0
"""A crash loop waits longer each time, and is forgotten after health."""

import json
from pathlib import Path

import pytest

from edgepaas.service.crash_loop import HEALTHY_AFTER, LONGEST_DELAY, CrashLoop


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Seconds since the boot."""
    return Clock()


def test_each_failure_waits_twice_as_long_up_to_the_cap(tmp_path: Path, clock: Clock) -> None:
    """0.1 s to 60 s, counted across processes."""
    delays = []
    for _ in range(12):
        delays.append(CrashLoop(tmp_path / "loop", clock=clock).failed())
        clock.now += delays[-1] + 1
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == LONGEST_DELAY


def test_health_forgets_earlier_failures(tmp_path: Path, clock: Clock) -> None:
    """So does a failure that is long ago."""
    backoff = CrashLoop(tmp_path / "loop", clock=clock)
    backoff.failed()
    backoff.failed()
    backoff.healthy()
    assert backoff.failed() == 0.1
    clock.now += HEALTHY_AFTER + 1
    assert backoff.failed() == 0.1


def test_another_boot_begins_anew(tmp_path: Path, clock: Clock) -> None:
    """Without systemd the file outlives a reboot."""
    path = tmp_path / "loop"
    backoff = CrashLoop(path, clock=clock)
    backoff.failed()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": "another"}))
    assert backoff.failed() == 0.1


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"failures": "x"}', "\x00"])
def test_a_damaged_file_begins_anew(tmp_path: Path, clock: Clock, content: str) -> None:
    """Whatever a power cut left there."""
    path = tmp_path / "loop"
    path.write_text(content)
    assert CrashLoop(path, clock=clock).failed() == 0.1


def test_a_file_that_cannot_be_written_waits_the_longest(tmp_path: Path, clock: Clock) -> None:
    """Otherwise a full disk would make a busy loop."""
    (tmp_path / "file").touch()
    assert CrashLoop(tmp_path / "file" / "loop", clock=clock).failed() == LONGEST_DELAY
