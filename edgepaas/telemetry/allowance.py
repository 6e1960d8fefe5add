# SPDX-License-Identifier: Apache-2.0
"""How much a token registers: devices that it names, rules that it makes."""

import threading
import time
from collections.abc import Callable, Collection

from edgepaas.app.api import Problem

#: Seconds after which the names of a token are forgotten.
_WINDOW = 3600.0


class Allowance:
    """How many *things*, by name, each caller has named of late; for any thread, never waits.

    A client that makes up a name for each request would otherwise leave a row for each, on
    this box and on every other.
    """

    def __init__(
        self,
        most: int,
        setting: str,
        things: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*most* within an hour, as *setting* says; *things* is the word for them."""
        self._most = most
        self._setting = setting
        self._things = things
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
                    f"This token would name more than {self._most:,} {self._things} within an "
                    f"hour; {self._setting} allows no more.",
                    retry_after=_WINDOW - (now - since),
                )
            known.update(names)
            self._named[caller] = since, known
