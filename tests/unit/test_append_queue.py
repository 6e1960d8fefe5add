# SPDX-License-Identifier: Apache-2.0
"""What waits for PostgreSQL goes together, and over a slow link in several flights at once."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from edgepaas.database.append import Appended, AppendJob
from edgepaas.database.ids import uuid7
from edgepaas.database.postgresql import append_queue
from edgepaas.database.postgresql.append_queue import AppendQueue, Waiting
from edgepaas.errors import DatabaseBusy, DatabaseUnavailable
from edgepaas.telemetry.models import READINGS

#: Far longer than anything here takes.
LIMIT = 60.0


class Link:
    """Stands for the way to the server: groups are on it until they are let go."""

    def __init__(self) -> None:
        self.groups: list[list[AppendJob]] = []
        self._changed = threading.Condition()
        self._free = threading.Event()

    def send(self, group: Sequence[Waiting]) -> None:
        with self._changed:
            self.groups.append([one.job for one in group])
            self._changed.notify_all()
        assert self._free.wait(LIMIT)
        for one in group:
            one.job.done(one.job.appended(len(one.job.rows)))

    def open(self) -> None:
        self._free.set()

    def wait_for(self, groups: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.groups) >= groups, LIMIT)


class Ends:
    """The outcomes of jobs, in the order in which they came."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, outcome: Any) -> None:
        with self._changed:
            self.all.append(outcome)
            self._changed.notify_all()

    def wait_for(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.all) >= number, LIMIT)


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link()
    yield made
    made.open()


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def job(ends: Ends) -> Callable[..., AppendJob]:
    def make(*keys: uuid.UUID) -> AppendJob:
        return AppendJob(READINGS, [{"id": key} for key in keys or (uuid7(),)], ends)

    return make


def test_what_comes_meanwhile_goes_together_in_order(
    link: Link, ends: Ends, job: Callable[..., AppendJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_queue, "HELP_AFTER", LIMIT)
    queue = AppendQueue(link.send)
    jobs = [job() for _ in range(20)]
    queue.put(jobs[0])
    link.wait_for(1)
    for one in jobs[1:]:
        queue.put(one)
    link.open()
    ends.wait_for(20)
    assert link.groups == [jobs[:1], jobs[1:]]
    assert ends.all == [Appended(1, 0)] * 20
    queue.close(LIMIT)


def test_over_a_slow_link_another_thread_takes_what_waits(
    link: Link, ends: Ends, job: Callable[..., AppendJob]
) -> None:
    """Though no flight has come back; but no more of them at once than there are threads."""
    queue = AppendQueue(link.send)
    for number in range(append_queue.SENDERS):
        queue.put(job())
        link.wait_for(number + 1)
    queue.put(job())
    queue.put(job())
    time.sleep(10 * append_queue.HELP_AFTER)
    assert [len(group) for group in link.groups] == [1] * append_queue.SENDERS
    link.open()
    ends.wait_for(append_queue.SENDERS + 2)
    assert len(link.groups) <= append_queue.SENDERS + 2
    queue.close(LIMIT)


def test_a_fact_goes_once_in_a_flight_and_a_flight_has_a_limit(
    link: Link, ends: Ends, job: Callable[..., AppendJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_queue, "HELP_AFTER", LIMIT)
    monkeypatch.setattr(append_queue, "MOST_ROWS", 4)
    queue = AppendQueue(link.send)
    first, same, many, large = job(), uuid7(), uuid7(), [uuid7() for _ in range(9)]
    queue.put(first)
    link.wait_for(1)
    rest = [job(same), job(same), job(*large), job(many), job(), job(), job(), job()]
    for one in rest:
        queue.put(one)
    link.open()
    ends.wait_for(9)
    sent = [[rest.index(one) for one in group] for group in link.groups[1:]]
    assert sent == [[0], [1], [2], [3, 4, 5, 6], [7]]
    queue.close(LIMIT)


def test_a_job_whose_caller_has_gone_is_not_sent(
    link: Link, ends: Ends, job: Callable[..., AppendJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_queue, "HELP_AFTER", LIMIT)
    queue = AppendQueue(link.send)
    first, gone, last = job(), job(), job()
    queue.put(first)
    link.wait_for(1)
    queue.put(gone)
    queue.put(last)
    assert gone.claim()
    link.open()
    ends.wait_for(2)
    queue.close(LIMIT)
    assert link.groups == [[first], [last]]
    assert len(ends.all) == 2


def test_a_full_queue_refuses_at_once(
    link: Link, ends: Ends, job: Callable[..., AppendJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_queue, "HELP_AFTER", LIMIT)
    monkeypatch.setattr(append_queue, "MOST_WAITING", 3)
    queue = AppendQueue(link.send)
    queue.put(job())
    link.wait_for(1)
    for _ in range(4):
        queue.put(job())
    assert [type(one) for one in ends.all] == [DatabaseBusy]
    link.open()
    ends.wait_for(5)
    assert ends.all.count(Appended(1, 0)) == 4
    queue.close(LIMIT)


def test_closing_stores_what_waits_and_refuses_what_comes(
    link: Link, ends: Ends, job: Callable[..., AppendJob]
) -> None:
    queue = AppendQueue(link.send)
    for _ in range(50):
        queue.put(job())
    link.open()
    queue.close(LIMIT)
    assert ends.all == [Appended(1, 0)] * 50
    queue.put(job())
    assert isinstance(ends.all[-1], DatabaseUnavailable)


def test_closing_waits_no_longer_than_it_may_and_ends_what_is_left(
    link: Link, ends: Ends, job: Callable[..., AppendJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_queue, "SENDERS", 1)
    queue = AppendQueue(link.send)
    queue.put(job())
    link.wait_for(1)
    queue.put(job())
    queue.close(0.05)
    assert [type(one) for one in ends.all] == [DatabaseUnavailable]
    link.open()
    ends.wait_for(2)
    assert ends.all[-1] == Appended(1, 0)


def test_a_store_that_fails_leaves_no_caller_waiting_and_no_thread_missing(
    ends: Ends, job: Callable[..., AppendJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where no thread can be started for a deadline: what was ended is not ended again."""
    monkeypatch.setattr(append_queue, "SENDERS", 1)
    working = threading.Event()

    def store(group: Sequence[Waiting]) -> None:
        assert working.wait(LIMIT)
        group[0].job.done(Appended(1, 0))
        if len(ends.all) < 5:
            raise RuntimeError("can't start new thread")

    queue = AppendQueue(store)
    for _ in range(4):
        queue.put(job())
    working.set()
    ends.wait_for(4)
    queue.put(job())
    ends.wait_for(5)
    queue.close(LIMIT)
    kinds = [type(one) for one in ends.all]
    assert kinds.count(Appended) + kinds.count(DatabaseUnavailable) == 5
    assert kinds[-1] is Appended


def test_where_no_thread_can_be_started_a_job_ends_and_the_next_one_is_stored(
    link: Link, ends: Ends, job: Callable[..., AppendJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    queue = AppendQueue(link.send)
    link.open()
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", refuse)
        queue.put(job())
        assert [type(one) for one in ends.all] == [DatabaseBusy]
    queue.put(job())
    ends.wait_for(2)
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", refuse)
        queue.put(job())
        ends.wait_for(3)
    queue.close(LIMIT)
    assert ends.all[1:] == [Appended(1, 0)] * 2
