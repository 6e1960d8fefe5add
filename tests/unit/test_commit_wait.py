# SPDX-License-Identifier: Apache-2.0
"""How long a COMMIT may wait, and what its answer is worth after it was cancelled."""

import socket
import threading
from collections import deque
from typing import Any

import pytest

from edgepaas.pgdriver.commit_wait import CommitWatch, cancel
from edgepaas.pgdriver.failures import CommitUnconfirmed
from edgepaas.pgdriver.pg8000_adapter import cancel_request, take_notices

#: What PostgreSQL says when a wait for a standby is cancelled; R names its function.
WARNING = {b"S": b"WARNING", b"C": b"01000", b"R": b"SyncRepWaitForLSN", b"M": b"canceling"}


class Connection:
    """A connection as far as the watch sees one."""

    def __init__(self) -> None:
        self.link, self.other = socket.socketpair()
        self.notices: deque[dict[bytes, bytes]] = deque()
        self._backend_key_data: bytes | None = b"\0\0\0\x07\0\0\0\x2a"

    def take_notices(self) -> list[dict[str, str]]:
        return take_notices(self)

    def cancel_request(self) -> bytes:
        return cancel_request(self)


class Clock:
    """A clock that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def connection() -> Any:
    made = Connection()
    yield made
    made.link.close()
    made.other.close()


def test_a_commit_that_is_answered_in_time_is_left_alone(connection: Connection) -> None:
    clock, cancelled = Clock(), list[Any]()
    watch = CommitWatch(5.0, cancel=cancelled.append, clock=clock)
    with watch.watching(connection):
        clock.now = 4.9
        watch.enforce()
    clock.now = 100.0
    watch.enforce()
    assert cancelled == []


def test_one_that_waits_is_cancelled_once_and_then_cut(connection: Connection) -> None:
    clock, cancelled = Clock(), list[Any]()
    watch = CommitWatch(5.0, cancel=cancelled.append, clock=clock)
    not_confirmed = pytest.raises(CommitUnconfirmed, match="not confirmed within 5 s")
    with not_confirmed, watch.watching(connection):
        for clock.now in (5.0, 7.0, 9.9):
            watch.enforce()
        assert cancelled == [connection]
        clock.now = 10.0
        watch.enforce()
        if connection.link.recv(1) == b"":
            raise ConnectionResetError("the answer never came")


def test_an_answer_after_a_cancelled_wait_for_a_standby_is_no_acknowledgement(
    connection: Connection,
) -> None:
    """Whoever cancelled it: the box, or an operator at the server."""
    watch = CommitWatch(5.0, cancel=lambda _: None, clock=Clock())
    with pytest.raises(CommitUnconfirmed), watch.watching(connection):
        connection.notices.append(WARNING)
    with watch.watching(connection):
        pass  # the warning was that commit's alone


def test_a_warning_from_before_is_not_this_commits(connection: Connection) -> None:
    connection.notices.append(WARNING)
    watch, committed = CommitWatch(5.0, cancel=lambda _: None, clock=Clock()), False
    with watch.watching(connection):
        committed = True
    assert committed


def test_a_commit_that_took_long_and_was_answered_in_full_is_acknowledged(
    connection: Connection,
) -> None:
    """Cancelling has no effect on a wait for the server's own disk."""
    clock, cancelled = Clock(), list[Any]()
    watch = CommitWatch(5.0, cancel=cancelled.append, clock=clock)
    with watch.watching(connection):
        clock.now = 8.0
        watch.enforce()
    assert cancelled == [connection]


def test_a_server_that_takes_no_cancel_request_is_cut_all_the_same(connection: Connection) -> None:
    def refuse(_connection: Any) -> None:
        raise ConnectionRefusedError("no further connection")

    clock = Clock()
    watch = CommitWatch(5.0, cancel=refuse, clock=clock)
    with pytest.raises(CommitUnconfirmed), watch.watching(connection):
        for clock.now in (5.0, 10.0):
            watch.enforce()
        raise ConnectionResetError("cut")


def test_what_was_answered_meanwhile_is_neither_cancelled_nor_cut(connection: Connection) -> None:
    """Else another statement would be, which the same connection runs by then."""
    clock, cancelled = Clock(), list[Any]()
    watch = CommitWatch(5.0, cancel=cancelled.append, clock=clock)
    for late in (5.0, 10.0):
        clock.now = 0.0
        with watch.watching(connection):
            (wait,) = watch._waits.values()
            clock.now = late
        watch._enforce(wait, clock.now)
    assert cancelled == []
    connection.other.setblocking(False)
    with pytest.raises(BlockingIOError):
        connection.other.recv(1)


def test_where_no_thread_can_watch_nothing_is_sent_and_nothing_is_left(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be cut later, whatever the connection does by then."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    watch, sent = CommitWatch(5.0, cancel=lambda _: None, clock=Clock()), list[str]()
    with pytest.raises(RuntimeError), watch.watching(connection):
        sent.append("COMMIT")
    assert (sent, watch._waits) == ([], {})


def test_another_error_of_the_commit_is_raised_as_it_is(connection: Connection) -> None:
    watch = CommitWatch(5.0, cancel=lambda _: None, clock=Clock())
    with pytest.raises(ValueError, match="deferred"), watch.watching(connection):
        raise ValueError("a deferred constraint")


def test_the_request_carries_the_key_of_the_login() -> None:
    """PostgreSQL manual, 55.7: length, code, process, key; the server answers nothing."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = Connection()
        made.link.close()
        made.link = socket.create_connection(server.getsockname())
        first, _ = server.accept()

        def take() -> None:
            taken, _ = server.accept()
            with taken:
                received.append(taken.recv(64))

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        cancel(made)
        thread.join(30)
        made.link.close()
        made.other.close()
        first.close()
    assert received == [b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\0\0\0\x2a"]


def test_without_a_key_there_is_nothing_to_cancel_with(connection: Connection) -> None:
    connection._backend_key_data = None
    with pytest.raises(OSError, match="no key"):
        cancel(connection)
