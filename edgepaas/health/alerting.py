# SPDX-License-Identifier: Apache-2.0
"""How many alerts there are; cheap enough to be asked with every request."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgepaas import alerts

if TYPE_CHECKING:
    from edgepaas.alerts.status import AlertCounts
    from edgepaas.files.paths import Paths

#: Seconds for which what was counted is not counted again: a full spool is ten thousand names.
_KEPT = 2.0


class AlertWatch:
    """Counts the alerts of the box when asked, at most every other second."""

    def __init__(self, paths: "Paths", clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = paths
        self._clock = clock
        self._lock = threading.Lock()
        self._counted_at = float("-inf")
        self._counts: AlertCounts | None = None

    def __call__(self) -> "AlertCounts":
        """Return the counts, as of a moment ago."""
        with self._lock:
            if self._counts is None or self._clock() - self._counted_at >= _KEPT:
                self._counts = alerts.counts(self._paths)
                self._counted_at = self._clock()
            return self._counts

    def line(self) -> str:
        """Return e.g. ``alerts: 2 open, 1 critical``; empty when there is nothing to say."""
        said = self().line()
        return f"alerts: {said}" if said else ""
