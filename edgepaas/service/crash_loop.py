# SPDX-License-Identifier: Apache-2.0
"""How long a failing service waits before it ends, so that a crash loop is not a busy loop.

systemd's RestartSec= would delay the exit that asks for a new decision as well, and
252 has no RestartSteps=, so the failing process sleeps itself. The count lies in run/:
a reboot starts afresh.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from edgepaas.files import shapes
from edgepaas.files.records import RecordType, same_fields
from edgepaas.timing.backoff import pause_after
from edgepaas.timing.moment import current_moment

FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
#: Seconds of health after which earlier failures are forgotten.
HEALTHY_AFTER = 600.0

RECORD = RecordType(
    "crash-loop",
    2,
    {"failures": shapes.whole, "at": shapes.number, "boot": shapes.text},
    {1: same_fields},
)

logger = logging.getLogger("edgepaas.service")


class CrashLoop:
    """The failures of earlier processes, in the file *path*; delays are in seconds.

    *clock* is monotonic since the boot, which is what the file's times refer to.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock

    def failed(self) -> float:
        """Count a failure; returns how long to wait before ending."""
        failures = min(self._failures() + 1, 64)
        delay = pause_after(failures, first=FIRST_DELAY, longest=LONGEST_DELAY)
        boot_id = current_moment().boot_id
        state = {"failures": failures, "at": self._clock() + delay, "boot": boot_id}
        try:
            RECORD.write(self._path, state)
        except OSError as error:
            # Not counted, so the next failure would not wait longer: wait the longest now.
            logger.error("%s cannot be written: %s", self._path, error)
            return LONGEST_DELAY
        return delay

    def healthy(self) -> None:
        """Forget earlier failures; called after HEALTHY_AFTER seconds of health."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.error("%s cannot be removed: %s", self._path, error)

    def _failures(self) -> int:
        found = RECORD.read_or_none(self._path)
        if found is None:
            return 0  # no failure yet, or a file that is not understood: begin anew
        counts = 0 <= self._clock() - found["at"] + LONGEST_DELAY <= HEALTHY_AFTER
        same_boot = found["boot"] == current_moment().boot_id
        return max(0, found["failures"]) if counts and same_boot else 0
