# SPDX-License-Identifier: Apache-2.0
"""Pauses between attempts: longer each time, with jitter, on a clock that nobody sets."""

import random
import time
from collections.abc import Callable

#: Seconds before the second attempt, and between attempts once it has been away for long.
#: The longest is what a return to PostgreSQL may be noticed late by.
FIRST = 0.2
LONGEST = 5.0
#: The same where a person has to change something first.
FIRST_OF_TROUBLE = 1.0
LONGEST_OF_TROUBLE = 30.0


def _chance() -> float:
    # Boxes that lost one server must not all come back at once.
    return random.uniform(0.6, 1.0)  # noqa: S311 - no secret


class Backoff:
    """When the next attempt is due; all times are seconds of a monotonic *clock*."""

    def __init__(
        self,
        *,
        first: float = FIRST,
        longest: float = LONGEST,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = _chance,
    ) -> None:
        """*jitter* gives a factor of at most 1 for each pause."""
        self._first = first
        self._longest = longest
        self._clock = clock
        self._jitter = jitter
        self._failures = 0
        self._due = float("-inf")

    def failed(self) -> float:
        """Count a failure; returns the pause until the next attempt, in seconds."""
        # Capped: 2 to the power of a week's failures is no float any more.
        doubled: float = self._first * 2.0 ** min(self._failures, 32)
        pause = min(self._longest, doubled) * self._jitter()
        self._failures += 1
        self._due = self._clock() + pause
        return pause

    def succeeded(self) -> None:
        """Forget the failures."""
        self._failures = 0
        self._due = float("-inf")

    @property
    def remaining(self) -> float:
        """Seconds until the next attempt; 0.0 when it is due."""
        return max(0.0, self._due - self._clock())
