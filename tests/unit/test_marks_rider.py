# SPDX-License-Identifier: Apache-2.0
"""What rides with each transaction, and what its outcome tells of the stream."""

from typing import Any

import pytest

from edgepaas.marks.comparison import Loss, Mark
from edgepaas.marks.rider import MarkRider, OwnStreams
from edgepaas.pgdriver.pipeline import Result

NODE = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"


class Refused(Exception):
    """What the server answers, as pg8000 raises it."""


class Riding:
    """A rider, and a server that has its stream's mark."""

    def __init__(self) -> None:
        self.suspected = 0
        self.streams = OwnStreams(NODE, self._suspect)
        self.streams.use((16400,))
        self.rider = MarkRider(self.streams)
        self.marks: dict[str, int] = {}

    def _suspect(self) -> None:
        self.suspected += 1

    def transaction(self, rows: int = 1, error: BaseException | None = None) -> Any:
        """Write *rows* and commit, or fail with *error*; return what was sent before COMMIT."""
        self.rider.begin()
        ending = self.rider.ending()
        self.rider.sent()
        if error is not None:
            self.rider.failed(error)
            return ending
        results = []
        for sql, parameters in ending:
            stream, moved = str(parameters[0]), None
            if "UPDATE" not in sql:
                if stream not in self.marks:
                    moved = self.marks[stream] = 1
            else:
                if self.marks.get(stream) == parameters[2]:
                    moved = self.marks[stream] = int(parameters[1])
                if moved is None:
                    self.marks[str(parameters[3])] = 1
            results.append(Result("SELECT 1", [[rows, moved]]))
        self.rider.committed(results)
        return ending

    @property
    def known(self) -> list[Mark]:
        """The marks of all streams, the oldest first."""
        return list(self.streams.marks().values())


@pytest.fixture
def riding() -> Riding:
    return Riding()


def test_each_transaction_moves_the_mark_of_one_stream(riding: Riding) -> None:
    for rows in (1, 5, 2):
        riding.transaction(rows)
    assert riding.known == [Mark(3, 8)]
    assert list(riding.marks.values()) == [3]


def test_a_transaction_that_only_reads_makes_no_stream(riding: Riding) -> None:
    riding.rider.begin()
    assert riding.known == []


def test_without_marks_only_durability_is_asked_for(riding: Riding) -> None:
    riding.streams.use(None)
    ((sql, _),) = riding.rider.begin()
    assert "synchronous_commit" in sql and "rows_before" not in sql
    assert riding.rider.ending() == []
    riding.rider.sent()
    riding.rider.committed([])
    assert riding.known == [] and riding.suspected == 0


def test_a_mark_that_does_not_move_is_evidence_and_the_writes_go_on(riding: Riding) -> None:
    """The old stream stays as it was known; the transaction has a mark of another one."""
    riding.transaction(4)
    riding.transaction(4)
    (stream,) = riding.marks
    riding.marks[stream] = 1
    riding.transaction(3)
    assert riding.suspected == 1
    assert riding.known == [Mark(2, 8), Mark(1, 3)] and riding.marks[stream] == 1
    assert riding.rider.position == (list(riding.marks)[1], 1)
    riding.transaction(5)
    assert riding.known == [Mark(2, 8), Mark(2, 8)]
    assert sorted(riding.marks.values()) == [1, 2]


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), TimeoutError("late")])
def test_a_stream_is_left_after_a_commit_without_an_answer(
    riding: Riding, error: BaseException
) -> None:
    """The half-open backend may still hold its row, or have moved its mark."""
    riding.transaction(1)
    riding.transaction(1, error=error)
    assert riding.streams.ended() == {next(iter(riding.marks)): Mark(1, 1)}
    riding.transaction(1)
    assert riding.known == [Mark(1, 1), Mark(1, 1)] and riding.suspected == 0


def test_a_stream_stays_after_a_transaction_that_the_server_refused(riding: Riding) -> None:
    riding.transaction(1)
    riding.transaction(1, error=Refused({"C": "23505", "M": "duplicate key"}))
    riding.transaction(1)
    assert riding.known == [Mark(2, 2)]


def test_marks_stop_where_the_table_was_dropped(riding: Riding) -> None:
    """The next write does without; a comparison finds out what that means."""
    gone = Refused({"C": "42P01", "M": 'relation "sync_connections" does not exist'})
    riding.transaction(1)
    riding.transaction(1, error=gone)
    assert riding.suspected == 1
    assert riding.rider.ending() == []


def test_a_lost_stream_is_not_written_any_more(riding: Riding) -> None:
    riding.transaction(6)
    (stream,) = riding.marks
    riding.streams.set_lost({stream: Loss(Mark(1, 6), Mark(0, 0))})
    riding.transaction(2)
    assert riding.streams.marks()[stream] == Mark(0, 0)
    assert len(riding.marks) == 2


def test_a_closed_connection_s_stream_is_forgotten_once_it_is_recorded(riding: Riding) -> None:
    riding.transaction(6)
    riding.rider.end()
    ended = riding.streams.ended()
    assert ended == riding.streams.marks()
    riding.streams.forget(ended)
    assert riding.known == []
