# SPDX-License-Identifier: Apache-2.0
"""How long the rows that wait take to be delivered: learnt from the batches before."""

from edgepaas.timing.link import Link

#: Round trips of a batch: the stream is locked, the rows are sent, the mark is committed.
BATCH_TRIPS = 3
#: Share by which one batch moves what is known of a row's time.
_WEIGHT = 0.3


class DrainTime:
    """Takes note of batches; times are in seconds. *link*: to the hub."""

    def __init__(self, link: Link | None = None, *, batch: int = 5000) -> None:
        """*batch*: how many rows one batch takes at most (SYNC_BATCH)."""
        self.link = link or Link()
        self._batch = batch
        self._per_row: float | None = None

    def record(self, rows: int, seconds: float) -> None:
        """Take note that *rows* were delivered in a batch that took *seconds*."""
        if rows <= 0:
            return
        found = max(0.0, seconds - self.link.expected(BATCH_TRIPS)) / rows
        before = self._per_row
        self._per_row = found if before is None else before + _WEIGHT * (found - before)

    def expected(self, rows: int) -> float | None:
        """Return how long *rows* rows would take; None while no batch has been delivered."""
        if self._per_row is None:
            return None
        batches = -(-rows // self._batch)
        return self.link.expected(BATCH_TRIPS) * batches + self._per_row * rows
