# SPDX-License-Identifier: Apache-2.0
"""The one arithmetic of pauses between attempts, and that there is no other."""

import re
from pathlib import Path

import pytest

from edgepaas.timing.backoff import Backoff, jitter, pause_after

PACKAGE = Path(__file__).resolve().parents[2] / "edgepaas"


def test_each_failure_waits_twice_as_long_up_to_the_longest() -> None:
    pauses = [pause_after(failures, first=0.1, longest=1.0) for failures in range(1, 7)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@pytest.mark.parametrize("failures", [10_000, 2**63])
def test_a_week_of_failures_is_no_error(failures: int) -> None:
    assert pause_after(failures, first=0.1, longest=60.0) == 60.0


def test_the_jitter_lies_within_its_bounds() -> None:
    factors = [jitter(0.8, 1.2) for _ in range(200)]
    assert all(0.8 <= factor <= 1.2 for factor in factors)
    assert max(factors) - min(factors) > 0.1


def test_a_back_off_follows_it_and_begins_anew_after_a_success() -> None:
    now = 5.0
    backoff = Backoff(first=1.0, longest=3.0, clock=lambda: now, jitter=lambda: 0.5)
    assert [backoff.failed() for _ in range(3)] == [0.5, 1.0, 1.5]
    assert backoff.remaining == 1.5
    now += 1.0
    assert backoff.remaining == 0.5
    assert backoff.failures == 3
    backoff.succeeded()
    assert backoff.remaining == 0.0
    assert backoff.failed() == 0.5


def test_no_other_module_computes_pauses() -> None:
    """A copy would have bounds, jitter and clock of its own."""
    copies = re.compile(
        r"\brandom\.(uniform|random)\b|\b2(\.0)? ?\*\* ?min\(|pause \* 2|pause \*= 2"
    )
    found = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "backoff.py" and copies.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []
