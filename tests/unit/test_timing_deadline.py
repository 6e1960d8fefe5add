# SPDX-License-Identifier: Apache-2.0
"""Work under a deadline: its result, its error, and what happens when the time is up."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from edgepaas.timing.deadline import OutOfTime, Scope, within
from tests.support.service_process import until


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_it_returns_what_the_work_returns_and_raises_what_it_raises() -> None:
    assert within(5.0, lambda _: threading.current_thread().name, name="a-name") == "a-name"

    def refused(_scope: Scope) -> None:
        raise ConnectionRefusedError("no")

    with pytest.raises(ConnectionRefusedError, match="no"):
        within(5.0, refused)


def test_when_the_time_is_up_the_caller_goes_on_and_a_late_result_is_discarded() -> None:
    go_on = threading.Event()
    discarded: list[str] = []
    aborted: list[bool] = []

    def work(scope: Scope) -> str:
        scope.enter("waiting for a test")
        go_on.wait(30)
        return "late"

    began = time.monotonic()
    with pytest.raises(OutOfTime, match=r"waiting for a test: not done within 0\.05 s") as caught:
        within(0.05, work, discard=discarded.append, abort=lambda: aborted.append(True))
    assert time.monotonic() - began < 5
    assert caught.value.stage == "waiting for a test"
    assert aborted == [True]
    go_on.set()
    until(lambda: discarded == ["late"], "the late result")


def test_a_call_that_is_in_time_is_not_aborted() -> None:
    aborted: list[bool] = []
    assert within(5.0, lambda _: 1, abort=lambda: aborted.append(True)) == 1
    assert aborted == []


def test_a_guarded_socket_is_shut_down_under_the_work(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, _ = pair
    ended = threading.Event()

    def work(scope: Scope) -> bytes:
        scope.guard(near)
        received = near.recv(1)
        ended.set()
        return received

    with pytest.raises(OutOfTime):
        within(0.05, work)
    assert ended.wait(5)


def test_where_no_thread_can_be_started_the_work_is_not_begun() -> None:
    begun: list[bool] = []
    before = threading.stack_size(1 << 47)  # no machine has room for such a stack
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            within(1.0, lambda _: begun.append(True))
    finally:
        threading.stack_size(before)
    assert begun == []
