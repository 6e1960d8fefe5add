# SPDX-License-Identifier: Apache-2.0
"""Capture on the hub: what rides with each transaction, beside the one that moves its mark.

A transaction asks the hub's triggers to capture, and reads in COMMIT's flight what they saw,
after all constraints were checked and deferred triggers had run. Where a trigger is missing the
hub refuses that very COMMIT: no change is acknowledged that was not captured. A table cannot
lose its triggers between the change and that look, since the change's lock stands against it.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edgepaas.database.reserved_names import CAPTURE, CAPTURED
from edgepaas.marks.rider import UNMARKED
from edgepaas.outbox.hub_capture.decoding import decode
from edgepaas.outbox.hub_capture.triggers import ASKED, NOT_CAPTURED, NOT_CAPTURED_TEXT
from edgepaas.outbox.journal.entries import Change
from edgepaas.outbox.layout import Layout
from edgepaas.pgdriver.failures import server_message, sqlstate

if TYPE_CHECKING:
    from edgepaas.marks.journaling import Expected
    from edgepaas.marks.rider import MarkRider, StreamPosition
    from edgepaas.pgdriver.flights import Result, Statement

logger = logging.getLogger("edgepaas.capture")

_ASK = f"SELECT set_config('{ASKED}', '1', true)"
#: What is deferred to COMMIT, a trigger of the application among it, runs before the look.
_NOW = "SET CONSTRAINTS ALL IMMEDIATE"
_UNDEFINED_FUNCTION = "42883"


@dataclass(frozen=True)
class WrittenTransaction:
    """What one transaction changed in forwarded tables, and where it stands in its stream.

    *order* was taken just before COMMIT was sent, when the locks of its rows were held.
    """

    position: "StreamPosition"
    order: int
    changes: Sequence[Change]


class ChangeKeeper(Protocol):
    """What keeps the changes that PostgreSQL acknowledges: the journal."""

    @property
    def works(self) -> bool:
        """Whether anything is kept at all; else nothing is captured either."""

    def next_order(self) -> int:
        """Return the next number of the box; raises DatabaseError where nothing can be kept.

        It is called just before COMMIT is sent, which what it raises prevents.
        """

    def keep(self, written: WrittenTransaction) -> None:
        """Keep what PostgreSQL has committed; durable when it returns.

        What it raises is raised to whoever has committed: the transaction is stored, and is
        not acknowledged.
        """


class HubCapture:
    """What is known of capture on the hub by one process; for any thread.

    ``active``: whether transactions are captured. ``tables`` are the OIDs of the forwarded
    tables there. *suspect* is called when a COMMIT was refused since its changes were not
    captured: a look at the triggers is due at once.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        keeper: ChangeKeeper,
        *,
        suspect: Callable[[], None] = lambda: None,
    ) -> None:
        self.layouts = layouts
        self.keeper = keeper
        self.suspect = suspect
        self.active = False
        self._read = ""

    def use(self, tables: Sequence[int] | None) -> None:
        """Capture what is written to *tables* (OIDs); None: capture nothing."""
        if tables is not None:
            oids = ",".join(str(int(oid)) for oid in tables)
            self._read = f"SELECT {CAPTURED}('{{{oids}}}'::oid[])"
        self.active = tables is not None

    @property
    def reading(self) -> "Sequence[Statement]":
        """What reads the changes, in COMMIT's flight."""
        return [(_NOW, ()), (self._read, ())]


class CaptureRider:
    """Rides with the transactions of one connection, whose mark *marks* moves."""

    def __init__(self, capture: HubCapture, marks: "MarkRider") -> None:
        self._capture = capture
        self._marks = marks
        #: Whether the open transaction is captured.
        self._asked = False
        self._order = 0
        #: Changes that are kept already, each as often as it was told.
        self._known: Counter[Change] = Counter()

    def expect(self, known: "Expected") -> None:
        """Leave out these changes, which are kept ahead of COMMIT."""
        if self._asked:
            self._known.update(known.changes)

    def begin(self, *, rows_known: bool = False) -> "Sequence[Statement]":
        """Ask the triggers to capture, but for rows that are known."""
        capture = self._capture
        self._known.clear()
        self._asked = capture.active and capture.keeper.works and not rows_known
        return [(_ASK, ())] if self._asked else []

    def ending(self) -> "Sequence[Statement]":
        """Read what was captured."""
        return self._capture.reading if self._asked else []

    def sent(self) -> None:
        """Take the number by which the box orders its changes."""
        if self._asked:
            self._order = self._capture.keeper.next_order()

    def under_way(self) -> None:
        """Do nothing meanwhile."""

    def committed(self, results: "Sequence[Result]") -> None:
        """Have the changes kept; the mark has moved. Raises what keeping them raises.

        A transaction without a mark is kept as well: the audit finds what the hub lost of it, and
        the box's own file has it.
        """
        asked, self._asked = self._asked, False
        if not asked:
            return
        changes = self._unknown(decode(results[-1].rows[0][0], self._capture.layouts))
        if changes:
            position = self._marks.position or UNMARKED
            self._capture.keeper.keep(WrittenTransaction(position, self._order, changes))

    def _unknown(self, changes: list[Change]) -> list[Change]:
        if not self._known:
            return changes
        found = []
        for change in changes:
            if self._known[change] > 0:
                self._known[change] -= 1
            else:
                found.append(change)
        return found

    def failed(self, error: BaseException | None) -> None:
        """Have the triggers looked at where the hub refused COMMIT for their sake."""
        asked, self._asked = self._asked, False
        if asked and error is not None and is_not_captured(error):
            logger.warning("PostgreSQL refused a COMMIT: %s", server_message(error))
            self._capture.suspect()


def is_not_captured(error: BaseException) -> bool:
    """Whether *error* says that changes were not captured, or that what captures them is gone."""
    state, said = sqlstate(error), server_message(error)
    if state == _UNDEFINED_FUNCTION:
        return f"{CAPTURED}(" in said or f"{CAPTURE}(" in said
    return state == NOT_CAPTURED and said.startswith(NOT_CAPTURED_TEXT)
