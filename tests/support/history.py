# SPDX-License-Identifier: Apache-2.0
"""What clients did and were told: the other half of every proof that nothing was lost.

A write has a *key* (a device) and a *number* that only grows within its key, and becomes
the value that is stored. Whoever writes says before it sends, and says the outcome
afterwards; a write without an outcome is unknown.
"""

import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

#: A *fact* is inserted; *set* gives a shared row its number; *delete* removes the row.
Kind = Literal["fact", "set", "delete"]
#: Acknowledged: it must be there. Refused: it must not. Unknown: it may.
Outcome = Literal["acknowledged", "refused", "unknown"]


@dataclass
class Write:
    """One write, and what came of it."""

    kind: Kind
    key: str
    number: int
    id: str = ""
    #: Writes of one source transaction have one group; empty: the write is its own.
    group: str = ""
    outcome: Outcome = "unknown"


class History:
    """Every write of one test, from any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writes: list[Write] = []

    def begin(self, kind: Kind, key: str, number: int, id: str = "", group: str = "") -> Write:
        """Say that this write is about to be sent."""
        write = Write(kind, key, number, id, group)
        with self._lock:
            self._writes.append(write)
        return write

    def end(self, write: Write, outcome: Outcome) -> None:
        """Say what came of it."""
        with self._lock:
            write.outcome = outcome

    @contextmanager
    def writing(
        self, kind: Kind, key: str, *numbers: int, ids: Sequence[str] = ()
    ) -> Iterator[list[Write]]:
        """Record writes of one transaction: acknowledged unless the block raises, then unknown."""
        group = str(uuid.uuid4()) if len(numbers) > 1 else ""
        pairs = zip_longest(numbers, ids, fillvalue="")
        writes = [self.begin(kind, key, int(n), str(i), group) for n, i in pairs]
        yield writes
        for write in writes:
            self.end(write, "acknowledged")

    def writes(self) -> list[Write]:
        """Return all of them in the order in which they began."""
        with self._lock:
            return list(self._writes)

    def count(self, outcome: Outcome) -> int:
        """Return how many had that outcome so far."""
        with self._lock:
            return sum(write.outcome == outcome for write in self._writes)
