# SPDX-License-Identifier: Apache-2.0
"""Pauses between attempts: longer each time, with jitter, on a monotonic clock.

One arithmetic for all of them: :func:`pause_after` for a count that is kept elsewhere, in a
file or by another process, and :class:`Backoff` for a count in memory.
"""

import time
from collections.abc import Callable

#: Seconds before the second attempt, and the longest pause. The longest is also how late a
#: return of PostgreSQL may be noticed.
FIRST = 0.2
LONGEST = 5.0
#: The same where an operator has to change something first.
FIRST_OF_TROUBLE = 1.0
LONGEST_OF_TROUBLE = 30.0

#: The pause doubles at most so often: 2 to the power of a week's failures is no float.
_MOST_DOUBLINGS = 32


def pause_after(failures: int, *, first: float, longest: float) -> float:
    """Return the seconds to wait after *failures* in a row, without jitter.

    *first* after the first failure, then twice as long after each one, at most *longest*.
    """
    doubled: float = first * 2.0 ** min(max(failures - 1, 0), _MOST_DOUBLINGS)
    return min(longest, doubled)


def jitter(least: float = 0.6, most: float = 1.0) -> float:
    """Return a random factor for a pause, so that boxes that lost one server spread out."""
    from random import uniform  # it loads OpenSSL, which a start has no time for

    return uniform(least, most)  # noqa: S311 - no secret


def no_jitter() -> float:
    """Return 1.0: for pauses of one process, with which nobody else can fall into step."""
    return 1.0


class Backoff:
    """When the next attempt is due; all times are seconds of a monotonic *clock*."""

    def __init__(
        self,
        *,
        first: float = FIRST,
        longest: float = LONGEST,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = jitter,
    ) -> None:
        """*jitter* gives the factor for each pause."""
        self._first = first
        self._longest = longest
        self._clock = clock
        self._jitter = jitter
        self._failures = 0
        self._due = float("-inf")

    @property
    def failures(self) -> int:
        """How many attempts failed in a row."""
        return self._failures

    def failed(self) -> float:
        """Count a failure; returns the pause until the next attempt, in seconds."""
        self._failures += 1
        pause = pause_after(self._failures, first=self._first, longest=self._longest)
        pause *= self._jitter()
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
