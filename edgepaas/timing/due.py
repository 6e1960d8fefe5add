# SPDX-License-Identifier: Apache-2.0
"""When something is to be done again, on a monotonic clock."""

import time


class Interval:
    """Something that is due every so many seconds of a monotonic clock; at first at once."""

    def __init__(self, every: float) -> None:
        self.every = every
        self._at = float("-inf")

    @property
    def left(self) -> float:
        """Seconds until it is due; 0.0: it is."""
        return max(0.0, self._at - time.monotonic())

    def done(self, *, longer: float = 0.0) -> None:
        """Have it due again after its interval, or after *longer* seconds if that is more."""
        self._at = time.monotonic() + max(self.every, longer)
