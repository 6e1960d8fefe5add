# SPDX-License-Identifier: Apache-2.0
"""The journal rides along: no COMMIT of known rows is sent before they are in the box's own file.

They are written there, then all of the flight is sent, and while the server works on it the file
is synced; the client hears of it when both are done. So no kill of this process leaves a row on
the hub without an entry, and what cannot be written here is not sent. A power cut in these
milliseconds can: nobody was answered, and whoever repeats the call has its rows written again,
whether the hub has them or not.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from edgepaas.marks.rider import UNMARKED, MarkRider
from edgepaas.pgdriver.failures import is_lost, sqlstate

if TYPE_CHECKING:
    from edgepaas.marks.changes import Change
    from edgepaas.pgdriver.pipeline import Result, Statement

logger = logging.getLogger("edgepaas.marks")


class StreamJournal(Protocol):
    """What of edgepaas.outbox.journal.journal.Journal is used while PostgreSQL serves."""

    def write(self, stream_id: str, mark: int, changes: "Sequence[Change]") -> Any: ...

    def sync(self, entry: Any) -> None: ...

    def confirm(self, entry: Any, position: tuple[str, int] | None = None) -> None: ...

    def drop(self, entry: Any) -> None: ...

    def leave(self, entry: Any) -> None: ...

    def void(self, entry: Any, places: Collection[int]) -> None: ...

    def record(
        self, stream_id: str, mark: int, changes: "Sequence[Change]", *, order: int = 0
    ) -> Any: ...

    def next_order(self) -> int: ...

    def abandoned(self, alive: Callable[[str, str], bool]) -> Collection[int]: ...

    def settle(self, hub: Mapping[str, int], abandoned: Collection[int]) -> int: ...

    def streams_ahead(self, hub: Mapping[str, int]) -> Collection[str]: ...

    def note_joining(self, streams: Collection[str], joined_to: str, mark: int) -> None: ...

    @property
    def columns(self) -> "Mapping[str, tuple[str, ...]]": ...

    def close(self) -> None: ...


@dataclass(eq=False)
class Expected:
    """The changes that a transaction makes, known before it is over.

    ``entry`` is theirs in the journal once it is written.
    """

    changes: "Sequence[Change]"
    entry: Any = None


class JournalingRider:
    """Rides with the transactions of one connection, in place of *marks*, which rides in it.

    *journal* returns the journal of the box; None where there is none (yet).
    """

    def __init__(self, marks: MarkRider, journal: Callable[[], StreamJournal | None]) -> None:
        self.marks = marks
        self._journal = journal
        self._expected: list[Expected] = []
        self._written: list[tuple[StreamJournal, Any]] = []
        #: Whether COMMIT of what is written was sent.
        self._sent = False

    def expect(self, known: Expected) -> None:
        """Write these changes ahead of COMMIT, beside those of earlier calls."""
        if known.changes:
            self._expected.append(known)

    def begin(self, *, rows_known: bool = False) -> "Sequence[Statement]":
        """Return what the marks need."""
        self._expected = []
        self._sent = False
        return self.marks.begin(rows_known=rows_known)

    def ending(self) -> "Sequence[Statement]":
        """Move the mark."""
        return self.marks.ending()

    def sent(self) -> None:
        """Write what is known; raises DatabaseFull, DatabaseBusy, and COMMIT is not sent then."""
        expected, self._expected = self._expected, []
        journal = self._journal()
        if journal is not None:
            stream_id, mark = self.marks.position or UNMARKED
            for one in expected:
                try:
                    one.entry = journal.write(stream_id, mark, one.changes)
                except BaseException:
                    # A failing disk may have it all the same: no other transaction gets its mark.
                    self.marks.end()
                    raise
                self._written.append((journal, one.entry))
        self.marks.sent()
        self._sent = True

    def under_way(self) -> None:
        """Sync what was written; raises DatabaseFull, DatabaseBusy."""
        for journal, entry in self._written:
            journal.sync(entry)

    def committed(self, results: "Sequence[Result]") -> None:
        """Confirm what was written, by another mark where that did not move.

        Also where the answer does not tell what became of the mark.
        """
        before, moved = self.marks.position, None
        try:
            self.marks.committed(results)
            if self.marks.position != before:
                moved = self.marks.position
        except BaseException as error:
            self.marks.failed(error)
            raise
        finally:
            self._end(lambda journal, entry: journal.confirm(entry, moved))

    def failed(self, error: BaseException | None) -> None:
        """Drop what was written; leave it to the marks where the outcome is not known.

        In that case the stream ends, so that no later transaction has the same mark. Either is
        written before the caller hears of it: what is in flight after a kill is what somebody may
        have been told was stored.
        """
        self.marks.failed(error)
        self._expected = []
        unknown = error is None or is_lost(error) or sqlstate(error) is None
        if self._sent and unknown:
            self._end(lambda journal, entry: journal.leave(entry))
            return
        try:
            self._end(lambda journal, entry: journal.drop(entry))
        except Exception as failure:  # noqa: BLE001 - *error* says more to who waits
            logger.warning("an entry of the journal is left to its mark: %s", failure)

    def end(self) -> None:
        """End the stream: the connection is closed."""
        self.marks.end()

    def _end(self, act: Callable[[StreamJournal, Any], None]) -> None:
        """Do this with each entry; one with which it fails is left to its mark, which ends."""
        written, self._written = self._written, []
        raised: BaseException | None = None
        for journal, entry in written:
            try:
                act(journal, entry)
            except BaseException as error:  # noqa: BLE001 - raised once all are ended
                raised = raised or error
                self.marks.end()
                journal.leave(entry)
        if raised is not None:
            raise raised
