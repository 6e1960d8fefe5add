# SPDX-License-Identifier: Apache-2.0
"""Several riders on one connection: each sends its own statements, and gets its own results."""

from collections.abc import Sequence
from typing import Any

from edgepaas.pgdriver.flights.answers import Result, Statement
from edgepaas.pgdriver.flights.rider import CommitRider


class RiderChain:
    """Rides as *riders* do, one after the other in their order.

    What they have to do in order with each other, such as reading before a mark moves, is
    their order here. All of them hear of a commit, whatever one of them raises; what one of
    them raises before COMMIT is sent keeps it from being sent.
    """

    def __init__(self, *riders: CommitRider) -> None:
        self.riders = riders
        #: How many statements each has sent at the transaction's end.
        self._sent: list[int] = []

    def expect(self, known: Any) -> None:
        """Tell all of them."""
        for rider in self.riders:
            rider.expect(known)

    def begin(self, *, rows_known: bool = False) -> Sequence[Statement]:
        """Return what all of them send first."""
        return [one for rider in self.riders for one in rider.begin(rows_known=rows_known)]

    def ending(self) -> Sequence[Statement]:
        """Return what all of them send last."""
        parts = [list(rider.ending()) for rider in self.riders]
        self._sent = [len(part) for part in parts]
        return [one for part in parts for one in part]

    def sent(self) -> None:
        """Act just before COMMIT goes out."""
        for rider in self.riders:
            rider.sent()

    def under_way(self) -> None:
        """Act while the server works on COMMIT."""
        for rider in self.riders:
            rider.under_way()

    def committed(self, results: Sequence[Result]) -> None:
        """Give each the results of its own statements, the last rider first."""
        parts, start = [], 0
        for count in self._sent:
            parts.append(results[start : start + count])
            start += count
        raised: BaseException | None = None
        for rider, part in reversed(list(zip(self.riders, parts, strict=True))):
            try:
                rider.committed(part)
            except Exception as error:  # noqa: BLE001 - raised once all know of the commit
                raised = raised or error
        if raised is not None:
            raise raised

    def failed(self, error: BaseException | None) -> None:
        """Tell all of them, the last one first."""
        for rider in reversed(self.riders):
            rider.failed(error)
