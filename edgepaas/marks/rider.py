# SPDX-License-Identifier: Apache-2.0
"""Moving the marks: what rides with each transaction of the service, and what it proves."""

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from edgepaas.marks.comparison import NOTHING, Loss, Mark
from edgepaas.marks.hub import DURABLE_ONLY, MarkStatements, is_unusable, mark_statements
from edgepaas.pgdriver.failures import is_lost, sqlstate

if TYPE_CHECKING:
    from edgepaas.pgdriver.pipeline import Result, Statement

logger = logging.getLogger("edgepaas.marks")


@dataclass(eq=False)
class Stream:
    """The stream of one connection: what the hub has acknowledged of it."""

    stream_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    known: Mark = NOTHING
    ended: bool = False
    #: Whether its last COMMIT was not answered: the hub may have more than is known.
    unanswered: bool = False


class StreamPosition(NamedTuple):
    """Where a transaction stands: the hub has it when its stream's mark is at least so high."""

    stream_id: str
    #: The mark of the transaction, in transactions.
    transactions: int


#: Of a transaction on a hub that keeps no marks.
UNMARKED = StreamPosition("", 0)


class OwnStreams:
    """The streams of this process; for any thread. *suspect* is called for a mark that stays.

    A stream is never used by a second connection: the server may still be busy with the first
    one's last transaction.
    """

    def __init__(self, node_id: str, suspect: Callable[[], None]) -> None:
        self.node_id = node_id
        #: The name of this process.
        self.owner = str(uuid.uuid4())
        #: None where no marks are kept.
        self.statements: MarkStatements | None = None
        self.suspect = suspect
        self._tables: tuple[int, ...] | None = None
        self._lock = threading.Lock()
        self._streams: dict[str, Stream] = {}

    def use(self, tables: tuple[int, ...] | None) -> None:
        """Keep marks, counting the rows of *tables* (OIDs); None: keep none."""
        if tables is None:
            self.statements = None
        elif self.statements is None or tables != self._tables:
            self.statements = mark_statements(tables)
        self._tables = tables

    def open(self, stream: Stream) -> Stream:
        """Return *stream*, which a connection writes from now on."""
        with self._lock:
            self._streams[stream.stream_id] = stream
        return stream

    def end(self, stream: Stream) -> None:
        """Note that no connection writes *stream* any more."""
        with self._lock:
            stream.ended = True
            self._streams[stream.stream_id] = stream

    def open_ids(self) -> set[str]:
        """Return the streams that a connection of this process may move."""
        with self._lock:
            return {identity for identity, one in self._streams.items() if not one.ended}

    def marks(self) -> dict[str, Mark]:
        """Return what is known of each stream, open or not yet recorded as ended."""
        with self._lock:
            return {identity: stream.known for identity, stream in self._streams.items()}

    def recordable(self) -> dict[str, Mark]:
        """Return the marks of those streams that the hub has, or may have."""
        with self._lock:
            return {
                identity: stream.known
                for identity, stream in self._streams.items()
                if stream.known.transactions or stream.unanswered
            }

    def ended(self) -> dict[str, Mark]:
        """Return what is known of those that have ended."""
        with self._lock:
            return {
                identity: stream.known for identity, stream in self._streams.items() if stream.ended
            }

    def forget(self, recorded: Mapping[str, Mark]) -> None:
        """Forget ended streams, which are *recorded* with these marks."""
        with self._lock:
            for identity, mark in recorded.items():
                stream = self._streams.get(identity)
                if stream is not None and stream.ended and stream.known == mark:
                    del self._streams[identity]

    def settle(self, hub: Mapping[str, Mark]) -> None:
        """Take for acknowledged what *hub* committed without an answer that arrived."""
        with self._lock:
            for stream in self._streams.values():
                there = hub.get(stream.stream_id, NOTHING)
                if stream.unanswered and there > stream.known:
                    stream.known = there

    def set_lost(self, losses: Mapping[str, Loss]) -> None:
        """End the streams with a recorded loss; what the hub has of them is all there is."""
        with self._lock:
            for identity, loss in losses.items():
                stream = self._streams.get(identity)
                if stream is not None:
                    stream.ended, stream.known = True, loss.hub


class MarkRider:
    """Rides with the transactions of one connection (edgepaas.pgdriver.flights.CommitRider)."""

    def __init__(self, streams: OwnStreams) -> None:
        self._streams = streams
        self._stream: Stream | None = None
        #: The one that a transaction begins whose mark does not move.
        self._next = Stream()
        self._advances = False
        #: Those of the open transaction: the rows are counted as they were when it began.
        self._statements: MarkStatements | None = None
        self._sent = False
        #: Where the transaction stands that ends, from :meth:`ending` on; None: it has no mark.
        self.position: StreamPosition | None = None

    def belongs_to(self, streams: OwnStreams) -> bool:
        """Whether it moves the marks of *streams*."""
        return self._streams is streams

    def expect(self, known: object) -> None:
        """Take nothing: the server counts the rows."""

    def begin(self, *, rows_known: bool = False) -> "Sequence[Statement]":
        """Ask for durability, and note where the count of rows begins."""
        self._sent = False
        self.position = None
        self._statements = self._streams.statements
        return [(DURABLE_ONLY if self._statements is None else self._statements.begin, ())]

    def ending(self) -> "Sequence[Statement]":
        """Move the mark."""
        statements, self._statements = self._statements, None
        if statements is None:
            self._end_stream()
            return []
        if self._stream is None or self._stream.ended:
            self._stream = self._streams.open(Stream())
        stream_id, known = self._stream.stream_id, self._stream.known.transactions
        self.position = StreamPosition(stream_id, known + 1)
        whose = (self._streams.node_id, self._streams.owner)
        self._advances = known > 0
        if known:
            moved = (stream_id, known + 1, known, self._next.stream_id, *whose)
            return [(statements.advance, moved)]
        return [(statements.create, (stream_id, *whose))]

    def sent(self) -> None:
        """From here on the outcome of the transaction may stay unknown."""
        self._sent = True

    def under_way(self) -> None:
        """Do nothing meanwhile."""

    def committed(self, results: "Sequence[Result]") -> None:
        """Note the new mark; one that did not move is evidence, and its stream ends.

        The transaction has begun another one then, whose mark tells of it. Where this raises, what
        became of the mark is not known, as :meth:`failed` is to be told.
        """
        stream = self._stream
        if not results or stream is None:
            self._sent = False
            return
        written, moved = results[-1].rows[0]
        this = Mark(1, int(written))
        self._sent = False
        if moved is not None:
            stream.known = stream.known.plus(this)
            if stream.ended:  # by a comparison, while this transaction was open
                self._streams.end(stream)
            return
        logger.warning(
            "the mark of stream %s did not move from %d: PostgreSQL went back in time",
            stream.stream_id, stream.known.transactions,
        )  # fmt: skip
        self._end_stream()
        if self._advances:
            self._stream, self._next = self._streams.open(self._next), Stream()
            self._stream.known = this
            self.position = StreamPosition(self._stream.stream_id, 1)
        self._streams.suspect()

    def failed(self, error: BaseException | None) -> None:
        """Leave the stream behind where it is not known what became of its mark."""
        sent, self._sent = self._sent, False
        self._statements = None
        if sent and (error is None or is_lost(error) or sqlstate(error) is None):
            if self._stream is not None:
                self._stream.unanswered = True
            self._end_stream()
            self._next = Stream()  # perhaps it was begun
        if error is not None and is_unusable(error):
            self._streams.use(None)
            self._streams.suspect()

    def end(self) -> None:
        """End the stream: the connection is closed."""
        self._end_stream()

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._streams.end(stream)
