# SPDX-License-Identifier: Apache-2.0
"""CPU_PIN: which core the service's process is held to, and when it is left alone."""

import errno
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgepaas.service.core_pinning import CorePinning, Processor, core_times, least_busy
from edgepaas.settings import SETTINGS
from edgepaas.settings.kinds import Malformed


@dataclass
class Machine:
    """A machine whose cores the test keeps busy."""

    allowed: set[int] = field(default_factory=lambda: {0, 1, 2, 3})
    current: int = 2
    busy: dict[int, float] = field(default_factory=lambda: dict.fromkeys(range(4), 100.0))
    own: float = 1.0
    now: float = 50.0
    refusal: OSError | None = None
    held: list[int] = field(default_factory=list)
    freed: list[Collection[int]] = field(default_factory=list)

    def hold(self, core: int) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.held.append(core)

    def pinning(self, wanted: str) -> CorePinning:
        """What is under test, on this machine."""
        return CorePinning(
            wanted,
            Processor(
                allowed=lambda: set(self.allowed),
                current=lambda: self.current,
                hold=self.hold,
                free_children=self.freed.append,
                times=lambda: dict(self.busy),
                own=lambda: self.own,
                clock=lambda: self.now,
            ),
        )

    def work(self, seconds: float, used: Mapping[int, float], own: float = 0.0) -> None:
        """Let time pass: *used* seconds on each core, *own* of them by the process itself."""
        self.now += seconds
        self.own += own
        for core, busy in used.items():
            self.busy[core] += busy


def test_it_begins_where_the_kernel_put_it_and_moves_to_the_core_that_others_use_least() -> None:
    machine = Machine()
    pinning = machine.pinning("auto")
    pinning.begin()
    machine.work(2.0, {0: 1.9, 1: 0.1, 2: 1.5, 3: 1.0})
    pinning.settle()
    assert machine.held == [2, 1]
    assert pinning.core == 1
    assert machine.freed == [{0, 1, 2, 3}]


def test_its_own_time_does_not_drive_it_away() -> None:
    """The start is busy on the core that it runs on; that core is free of others."""
    machine = Machine()
    pinning = machine.pinning("auto")
    pinning.begin()
    machine.work(2.0, {0: 0.3, 1: 0.4, 2: 1.8, 3: 0.5}, own=1.8)
    pinning.settle()
    assert machine.held == [2]


def test_a_core_that_is_hardly_less_busy_is_not_worth_a_move() -> None:
    machine = Machine()
    pinning = machine.pinning("auto")
    pinning.begin()
    machine.work(2.0, {0: 1.0, 1: 0.05, 2: 0.2, 3: 1.0})
    pinning.settle()
    assert machine.held == [2]


def test_one_allowed_core_is_left_as_it_is() -> None:
    """A container's cpuset, or CPUAffinity= of a unit: there is nothing to choose."""
    machine = Machine(allowed={2})
    for wanted in ("auto", "2"):
        pinning = machine.pinning(wanted)
        pinning.begin()
        pinning.settle()
    assert machine.held == []


def test_cores_beyond_the_cpuset_are_never_chosen() -> None:
    machine = Machine(allowed={2, 3})
    pinning = machine.pinning("auto")
    pinning.begin()
    machine.work(2.0, {2: 2.0, 3: 1.0})  # 0 and 1 are idle
    pinning.settle()
    assert machine.held == [2, 3]


def test_off_holds_it_to_none() -> None:
    machine = Machine()
    pinning = machine.pinning("off")
    pinning.begin()
    pinning.settle()
    assert machine.held == []
    assert machine.freed == []
    assert pinning.core is None


def test_a_given_core_is_taken_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    machine = Machine()
    pinning = machine.pinning("3")
    pinning.begin()
    machine.work(2.0, {3: 2.0})
    pinning.settle()
    assert machine.held == [3]
    assert "held to core 3" in caplog.text


def test_a_core_that_is_not_allowed_is_reported_with_those_that_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = Machine(allowed={0, 2})
    pinning = machine.pinning("5")
    pinning.begin()
    pinning.settle()
    assert machine.held == []
    assert "core 5" in caplog.text
    assert "(0, 2)" in caplog.text


def test_a_refusal_is_reported_once_and_the_service_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A filter of system calls answers EPERM, as the units' did before they allowed it."""
    machine = Machine(refusal=PermissionError(errno.EPERM, "Operation not permitted"))
    pinning = machine.pinning("auto")
    pinning.begin()
    pinning.settle()
    assert pinning.core is None
    assert caplog.text.count("Operation not permitted") == 1


def test_where_cores_are_numbered_otherwise_it_stays() -> None:
    """LXC shows a container a /proc/stat of its own, with cores counted from 0."""
    shown = {0: 5.0, 1: 7.0}
    assert least_busy(shown, shown, {6, 7}, current=7, own=0.0, seconds=1.0) == 7


def test_the_times_of_the_cores_are_those_of_the_kernel(tmp_path: Path) -> None:
    """user, nice, system, irq, softirq and steal count; idle and iowait do not."""
    (tmp_path / "stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\n"
        "cpu0 100 10 20 5000 700 3 4 5 60 0\n"
        "cpu11 0 0 0 0 0 0 0 0 0 0\nintr 1 2\n"
    )
    assert core_times(tmp_path) == pytest.approx({0: 1.42, 11: 0.0})
    assert core_times(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("text", "value"), [("AUTO", "auto"), ("none", "off"), ("Off", "off"), ("0", "0"), ("+3", "3")]
)
def test_what_may_be_written(text: str, value: str) -> None:
    assert SETTINGS["CPU_PIN"].read(text) == value


@pytest.mark.parametrize("text", ["", "0-3", "-1", "all", "1,2", "1.5", "9999"])
def test_what_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        SETTINGS["CPU_PIN"].read(text)
