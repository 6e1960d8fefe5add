# SPDX-License-Identifier: Apache-2.0
"""The marks of one service: its connections' riders, its comparisons, and the box's record."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgepaas.errors import DatabaseError
from edgepaas.files.locks import LockHeld
from edgepaas.marks.check import OwnMarks, compare, unknown_streams
from edgepaas.marks.comparison import NOTHING
from edgepaas.marks.hub import Ask, HubStreams, join_statement
from edgepaas.marks.journaling import JournalingRider
from edgepaas.marks.record import (
    MarksRecord,
    changing,
    claim_owner,
    has_claim,
    is_alive,
    remove_dead_owners,
)
from edgepaas.marks.rider import MarkRider, OwnStreams
from edgepaas.pgdriver.failures import sqlstate
from edgepaas.pgdriver.flights.riders import RiderChain

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths
    from edgepaas.marks.journaling import StreamJournal
    from edgepaas.pgdriver.flights import CommitRider

logger = logging.getLogger("edgepaas.marks")

#: Seconds between two comparisons while nothing else calls for one.
COMPARE_EVERY = 5.0
#: Seconds between two writes of the record while marks move: what a power cut may take of the
#: box's own knowledge.
PERSIST_EVERY = 15.0
#: Seconds between two times that ended streams are joined to the sum.
JOIN_EVERY = 60.0
#: lock_not_available: a half-open backend still holds a stream's row.
_LOCKED = "55P03"


class _Asked:
    """Queries of *ask*; remembers what the link raised, to tell it from what a disk raises."""

    def __init__(self, ask: Ask) -> None:
        self.error: Exception | None = None
        self._ask = ask

    def __call__(self, sql: str) -> Sequence[Sequence[Any]]:
        try:
            return self._ask(sql)
        except Exception as error:
            self.error = error
            raise


class Companion(Protocol):
    """What travels beside the marks of a process, and is asked for in the same round trips."""

    @property
    def why_not(self) -> str:
        """Why it does not do its work on the hub, empty where it does."""

    @property
    def question(self) -> str:
        """An SQL expression of type text: what the hub is asked at each comparison."""

    def compared(self, ask: Ask, hub: HubStreams) -> None:
        """Act on a comparison; ``hub.beside`` is the answer to :attr:`question`.

        Raises what *ask* raises where the link or the server is at fault.
        """

    def beside(self, marks: MarkRider) -> "CommitRider":
        """Return what rides with the transactions of a connection, beside *marks*."""


class MarkKeeper:
    """Keeps the marks of the connections of this process; for any thread.

    *tables*: the names of the forwarded tables. *suspect* is called, in the thread of a
    request, when a mark did not move: a comparison is due at once.
    """

    def __init__(
        self,
        paths: "Paths",
        node_id: str,
        tables: Sequence[str],
        *,
        suspect: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = paths
        self.tables = tuple(tables)
        self._clock = clock
        self.suspect = suspect
        #: What travels beside; set before the first connection is attached.
        self.companion: Companion | None = None
        #: Where the rows of its connections are written as well; None: nowhere.
        self.journal: StreamJournal | None = None
        self._streams = OwnStreams(node_id, self.notice)
        self._own = OwnMarks(self._streams.owner, self._streams.marks)
        self._lock = threading.Lock()
        self._claim = -1
        self._told = ""
        self._persisted_at = float("-inf")
        self._joined_at = clock()

    @property
    def owner(self) -> str:
        """The name of this process, by which others know whether it still runs."""
        return self._streams.owner

    def attach(self, connection: Any, ask: Ask) -> None:
        """Compare over a new *connection*, which *ask* queries, and let its transactions be marked.

        Raises what *ask* raises; that the record cannot be written is only logged.
        """
        self._compare(_Asked(ask))
        marks = MarkRider(self._streams)
        rider = JournalingRider(marks, lambda: self.journal)
        connection.rider = (
            rider if self.companion is None else RiderChain(self.companion.beside(marks), rider)
        )

    def keeps(self, connection: Any) -> bool:
        """Whether the marks of *connection* are kept by this keeper already."""
        rider = _rider_of(connection)
        return rider is not None and rider.marks.belongs_to(self._streams)

    def detach(self, connection: Any) -> None:
        """Note that *connection* is closed."""
        rider = _rider_of(connection)
        if rider is not None:
            rider.end()

    def look(self, ask: Ask) -> None:
        """Compare, and write what is due; raises what *ask* raises."""
        asked = _Asked(ask)
        hub = self._compare(asked)
        now = self._clock()
        try:
            if now - self._persisted_at >= PERSIST_EVERY:
                self._persist()
            if hub is not None and hub.readable and now - self._joined_at >= JOIN_EVERY:
                self._joined_at = now
                self._join(asked, hub)
        except (OSError, LockHeld) as error:
            if error is asked.error:
                raise
            logger.warning("%s cannot be written: %s", self._paths.marks, error)

    def notice(self) -> None:
        """Have a comparison made at once, by whoever makes them at the time."""
        self.suspect()

    def close(self) -> None:
        """Write what is known; the connections are closed."""
        try:
            self._persist(closing=True)
        except (OSError, LockHeld) as error:
            logger.warning("%s cannot be written: %s", self._paths.marks, error)
        with self._lock:
            claim, self._claim = self._claim, -1
        if claim >= 0:
            with contextlib.suppress(OSError):
                (self._paths.marks_owners / self._streams.owner).unlink()
            os.close(claim)

    def _compare(self, ask: "_Asked") -> HubStreams | None:
        # Before the hub is asked: what commits meanwhile, and ends at once, would seem to be lost.
        abandoned = self._abandoned_entries()
        try:
            with self._lock:
                if self._claim < 0:
                    self._claim = claim_owner(self._paths, self._streams.owner)
            found = compare(
                ask,
                self._paths,
                self._streams.node_id,
                tables=self.tables,
                own=self._own,
                beside="" if self.companion is None else self.companion.question,
                journaled=self.journal is not None,
            )
        except (OSError, LockHeld) as error:
            if error is ask.error:
                raise
            self._tell(f"{error}")
            return None
        self._streams.set_lost(found.losses)
        hub = found.hub
        if hub is not None:
            self._streams.settle(hub.marks)
            self._settle_journal(hub, abandoned)
            self._streams.use(None if hub.why_not else hub.tables)
            self._tell(hub.why_not)
            if self.companion is not None:
                self.companion.compared(ask, hub)
        return hub

    def _abandoned_entries(self) -> Collection[int]:
        """Return the entries of the journal that no connection can commit any more."""
        if self.journal is None:
            return ()
        own = self._streams.open_ids()

        def alive(stream_id: str, owner: str) -> bool:
            if owner == self._streams.owner:
                return stream_id in own
            return is_alive(self._paths, owner)

        try:
            return self.journal.abandoned(alive)
        except DatabaseError as error:
            logger.warning("the journal is not settled: %s", error)
            return ()

    def _settle_journal(self, hub: HubStreams, abandoned: Collection[int]) -> None:
        """Have the journal know what became of entries whose COMMIT was not answered."""
        if self.journal is None or not hub.readable:
            return
        try:
            self.journal.settle(_transactions(hub), abandoned)
        except DatabaseError as error:
            logger.warning("the journal is not settled: %s", error)

    def _tell(self, why_not: str) -> None:
        """Log once why no marks are kept, and once that they are again."""
        if why_not == self._told:
            return
        self._told = why_not
        if why_not:
            logger.warning(
                "PostgreSQL keeps no marks of what it acknowledges (%s): should it go back in "
                "time, that is not found; 'edgepaas schema' makes what is missing", why_not,
            )  # fmt: skip
        else:
            logger.info("PostgreSQL keeps marks of what it acknowledges")

    def _persist(self, *, closing: bool = False) -> None:
        """Write this process's marks."""
        ended = self._streams.marks() if closing else self._streams.ended()
        marks = self._streams.recordable()
        if not marks and not self._paths.marks.exists():
            self._streams.forget(ended)
            return
        with changing(self._paths, self._streams.node_id) as record:
            for identity in [i for i, o in record.owners.items() if o == self._streams.owner]:
                if identity not in marks:
                    record.drop_stream(identity)
            for identity, mark in marks.items():
                owner = "" if identity in ended else self._streams.owner
                record.set_stream(identity, mark, owner)
        self._streams.forget(ended)
        self._persisted_at = self._clock()

    def _join(self, ask: Ask, hub: HubStreams) -> None:
        """Join the streams that have ended to the box's sum, and delete them on the hub."""
        self._persist()
        with changing(self._paths, self._streams.node_id) as record:
            if record.known().is_joined(hub.marks):
                record.set_joined()
            self._adopt(record, hub)
            remove_dead_owners(self._paths, record)
            if hub.why_not:
                return
            if not record.joining:
                try:
                    self._choose(record, hub)
                except DatabaseError as error:
                    logger.warning("ended streams are not joined yet: %s", error)
                    return
        if not record.joining:
            return
        if not self._note_joining(record):
            return
        # Recorded as on their way before anything is sent: the answer may be lost.
        statement = join_statement(record.known(), record.node_id, self._streams.owner)
        with changing(self._paths, self._streams.node_id) as record:
            try:
                rows = ask(statement)
            except Exception as error:
                if sqlstate(error) != _LOCKED:
                    raise
                logger.debug("ended streams are not joined yet: %s", error)
                return
            if rows and rows[-1][0] == "joined":
                record.set_joined()

    def _note_joining(self, record: MarksRecord) -> bool:
        """Have the journal know which streams are to be joined; whether it does."""
        if self.journal is None:
            return True
        joined = record.known().joined_mark.transactions
        try:
            self.journal.note_joining(record.joining, record.sum_id, joined)
        except DatabaseError as error:
            logger.warning("ended streams are not joined yet: %s", error)
            return False
        return True

    def _choose(self, record: MarksRecord, hub: HubStreams) -> None:
        """Choose the streams to be joined to the sum; forget those that never came about."""
        ended = [i for i, owner in record.owners.items() if not owner and i not in record.losses]
        for identity in ended:
            if identity not in hub.marks and not record.streams[identity].transactions:
                record.drop_stream(identity)
        chosen = frozenset(identity for identity in ended if identity in hub.marks)
        if chosen and self.journal is not None:
            # What the hub lacks of a stream is told by its mark alone, which goes with it.
            chosen -= set(self.journal.streams_ahead(_transactions(hub)))
        if any(record.streams[identity].transactions for identity in chosen):
            record.joining = chosen

    def _adopt(self, record: MarksRecord, hub: HubStreams) -> None:
        """Take over what the hub has of streams that no process writes any more.

        A process that was killed had moved its marks further than it had written down. A
        COMMIT without an answer was committed all the same: whoever sends its rows again is
        answered that they are there, so they count as acknowledged.
        """
        for identity, owner in record.owners.items():
            if identity in record.losses or identity in record.joining:
                continue
            if owner == self._streams.owner or is_alive(self._paths, owner):
                continue
            there = hub.marks.get(identity, NOTHING)
            record.set_stream(identity, max(record.streams[identity], there), "")
        unknown = unknown_streams(record.known(), hub, self._own, self._paths)
        for identity, mark in unknown.items():
            # One of a box with a copy of this one's identity would be written by that box.
            if identity in hub.idle or has_claim(self._paths, hub.owners[identity]):
                record.set_stream(identity, mark, "")


def _transactions(hub: HubStreams) -> dict[str, int]:
    return {identity: mark.transactions for identity, mark in hub.marks.items()}


def _rider_of(connection: Any) -> JournalingRider | None:
    """Return what moves the marks of *connection*, alone or in a chain of riders."""
    rider = getattr(connection, "rider", None)
    riders = rider.riders if isinstance(rider, RiderChain) else (rider,)
    return next((one for one in riders if isinstance(one, JournalingRider)), None)
