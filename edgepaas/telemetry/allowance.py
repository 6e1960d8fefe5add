# SPDX-License-Identifier: Apache-2.0
"""For how many devices a token speaks."""

import threading
import time
from collections.abc import Callable, Collection

from edgepaas.app.api import Problem
from edgepaas.telemetry.limits import DEVICES_PER_TOKEN

#: Seconds after which the names of a token are forgotten.
_WINDOW = 3600.0


class DeviceAllowance:
    """How many devices each caller has named of late; for any thread, waits for nothing.

    A client that makes up a name for each reading would otherwise leave a device for each, on
    this box and on every other.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._named: dict[str, tuple[float, set[str]]] = {}

    def take(self, caller: str, names: Collection[str]) -> None:
        """Count *names*; raises Problem 429 where they are too many, and counts none of them."""
        now = self._clock()
        with self._lock:
            since, known = self._named.get(caller, (now, set()))
            if now - since >= _WINDOW:
                since, known = now, set()
            if len(known) + sum(name not in known for name in names) > self._most:
                raise Problem(
                    429,
                    f"This token would name more than {self._most:,} devices within an hour; "
                    f"{DEVICES_PER_TOKEN.name} allows no more.",
                    retry_after=_WINDOW - (now - since),
                )
            known.update(names)
            self._named[caller] = since, known
