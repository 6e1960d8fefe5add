# SPDX-License-Identifier: Apache-2.0
"""A hold keeps time whatever the clocks of a box without a battery do."""

import json
from pathlib import Path

import pytest

from edgepaas.decision.hold import (
    UNTIL_DECIDED,
    clear_hold,
    hold_after_failed_start,
    outlast_pause,
    read_hold,
    write_hold,
)
from edgepaas.timing.moment import Moment, current_moment

WRITTEN = Moment(wall=1_800_000_000, since_boot=500, boot_id="first")


def at(wall: float, since_boot: float, boot_id: str = "first") -> Moment:
    """A moment, *wall* and *since_boot* seconds after the hold was written."""
    return Moment(WRITTEN.wall + wall, WRITTEN.since_boot + since_boot, boot_id)


@pytest.mark.parametrize(
    ("now", "remaining"),
    [
        (at(0, 0), 60),
        (at(45, 45), 15),
        (at(61, 61), None),
        (at(60, 60), None),
        # The wall clock leaps while the box runs: it does not count.
        (at(1e9, 10), 50),
        (at(-1e9, 10), 50),
        # Across a reboot it is all there is.
        (at(20, -490, "second"), 40),
        (at(61, -490, "second"), None),
        # It was set back: no hold may last longer than it was written for.
        (at(-1e9, -490, "second"), None),
        # The clock since boot cannot run backwards in one boot: the file is not to be trusted.
        (at(0, -10), None),
        # No boot id to be had: the wall clock decides.
        (at(20, 9999, ""), 40),
    ],
)
def test_a_hold_ends_when_its_time_is_over(
    tmp_path: Path, now: Moment, remaining: float | None
) -> None:
    """The clock since boot counts within a boot, the wall clock across one."""
    path = tmp_path / "postgres-hold"
    write_hold(path, "its schema is\nunknown", 60, WRITTEN)
    hold = read_hold(path, now)
    if remaining is None:
        assert hold is None
    else:
        assert hold is not None
        assert hold.remaining == pytest.approx(remaining)
        assert hold.reason == "its schema is unknown"


def test_a_longer_hold_is_not_cut_short_by_a_shorter_one(tmp_path: Path) -> None:
    """Two findings hold for as long as the longer one."""
    path = tmp_path / "postgres-hold"
    write_hold(path, "long", 600, WRITTEN)
    write_hold(path, "short", 30, at(10, 10))
    hold = read_hold(path, at(50, 50))
    assert hold is not None and hold.reason == "long"
    write_hold(path, "longer", 900, at(60, 60))
    hold = read_hold(path, at(61, 61))
    assert hold is not None and hold.reason == "longer"


@pytest.mark.parametrize(
    "content",
    [
        "", "{}", "[]", "null", "\x00\xff", "[" * 100_000, '{"reason": "x"}',
        '{"reason": "x", "seconds": "soon", "wall": 1, "boot_id": "", "since_boot": 1}',
        '{"reason": "x", "seconds": Infinity, "wall": 1800000000, "boot_id": "b", "since_boot": 1}',
        '{"reason": "x", "seconds": NaN, "wall": 1800000000, "boot_id": "b", "since_boot": 1}',
        '{"reason": "x", "seconds": 60, "wall": NaN, "boot_id": "b", "since_boot": 1}',
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_understood_holds_nothing(tmp_path: Path, content: str) -> None:
    """It would otherwise keep PostgreSQL away for ever."""
    path = tmp_path / "postgres-hold"
    path.write_text(content, encoding="latin-1")
    assert read_hold(path, WRITTEN) is None


def test_no_file_is_no_hold_and_a_cleared_one_is_gone(tmp_path: Path) -> None:
    """Clearing twice is harmless."""
    path = tmp_path / "postgres-hold"
    assert read_hold(path) is None
    write_hold(path, "x", 60)
    assert read_hold(path) is not None
    clear_hold(path)
    clear_hold(path)
    assert read_hold(path) is None


def test_the_file_tells_a_person_until_when(tmp_path: Path) -> None:
    """An operator looks into it."""
    path = tmp_path / "postgres-hold"
    write_hold(path, "x", 60, WRITTEN)
    assert json.loads(path.read_text())["until"] == "2027-01-15T08:01:00Z"
    assert current_moment().since_boot > 0


def test_after_a_failed_start_a_hold_is_in_force_at_the_next_decision(tmp_path: Path) -> None:
    """POSTGRES_HOLD=1 would be over before a slow box has come to it."""
    path = tmp_path / "postgres-hold"
    hold_after_failed_start(path, "the gate failed", 1.0)
    hold = read_hold(path)
    assert hold is not None
    assert UNTIL_DECIDED - 10 < hold.remaining <= UNTIL_DECIDED
    hold_after_failed_start(path, "the gate failed", 600.0)
    longer = read_hold(path)
    assert longer is not None
    assert longer.remaining > 500


@pytest.mark.parametrize("boot", ["first", "second"])
def test_a_hold_outlasts_a_pause_of_the_chain(tmp_path: Path, boot: str) -> None:
    """10 s of hold and 20 s of back-off: PostgreSQL would be tried again, and fail again."""
    path = tmp_path / "postgres-hold"
    write_hold(path, "the gate failed", 10, WRITTEN)
    outlast_pause(path, 20.0, at(5, 5))
    hold = read_hold(path, at(25, 25 if boot == "first" else 3, boot))
    assert hold is not None
    assert hold.remaining == pytest.approx(UNTIL_DECIDED)
    assert hold.reason == "the gate failed"
    assert read_hold(path, at(25 + UNTIL_DECIDED, 25 + UNTIL_DECIDED)) is None


def test_a_pause_makes_no_hold_and_shortens_none(tmp_path: Path) -> None:
    path = tmp_path / "postgres-hold"
    outlast_pause(path, 20.0, WRITTEN)
    assert read_hold(path, WRITTEN) is None
    write_hold(path, "long", 600, WRITTEN)
    outlast_pause(path, 20.0, at(10, 10))
    hold = read_hold(path, at(10, 10))
    assert hold is not None
    assert hold.remaining == pytest.approx(590)
