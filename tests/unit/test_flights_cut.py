# SPDX-License-Identifier: Apache-2.0
"""A connection that is cut, or lied to, at any byte of an answer ends in a known state."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from edgepaas.pgdriver.failures import is_lost
from edgepaas.pgdriver.flights import FlightConnection, Result, Statement, run_flight
from tests.support.protocol_server import (
    BEGUN,
    COMMITTED,
    LOGGED_IN,
    connected,
    error,
    ready,
    row,
    statement,
)


class Rider:
    """Counts how each transaction ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def expect(self, known: Any) -> None:
        self.ends.append(f"expects {known}")

    def begin(self, *, rows_known: bool = False) -> Sequence[Statement]:
        return [("SET LOCAL synchronous_commit = on", ())]

    def ending(self) -> Sequence[Statement]:
        return [("UPDATE marks SET mark = $1", [7])]

    def sent(self) -> None:
        self.ends.append("sent")

    def under_way(self) -> None:
        """Acts on nothing."""

    def committed(self, results: Sequence[Result]) -> None:
        assert len(results) == 1
        self.ends.append("committed")

    def failed(self, error: BaseException | None) -> None:
        self.ends.append("failed")


def write(connection: FlightConnection) -> None:
    connection.cursor().execute("INSERT INTO t VALUES (%s) RETURNING n", (1,))


def write_and_commit(connection: FlightConnection) -> None:
    write(connection)
    connection.commit()


def whole(connection: FlightConnection) -> None:
    run_flight(connection, [("INSERT INTO t VALUES ($1)", [1])])


OPENED = BEGUN + statement("SET") + statement("INSERT 0 1", row("1"), names=["n"]) + ready(b"T")
CLOSED = statement("UPDATE 1") + COMMITTED + ready()
WHOLE = BEGUN + statement("SET") + statement("INSERT 0 1") + statement("UPDATE 1") + COMMITTED
#: What is asked, the answers before, the answer that is cut, and how the rider's work ends.
CASES: dict[str, tuple[Callable[[FlightConnection], None], list[bytes], bytes, list[str]]] = {
    "first flight": (write, [], OPENED, ["failed"]),
    "last flight": (write_and_commit, [OPENED], CLOSED, ["sent", "failed"]),
    "whole transaction": (whole, [], WHOLE + ready(), ["sent", "failed"]),
    "error": (write, [], BEGUN + error("23514", "refused") + ready(b"E"), ["failed"]),
}


@pytest.mark.parametrize("case", CASES)
def test_cut_at_any_byte_it_is_lost_and_its_rider_knows(case: str) -> None:
    act, before, answer, ends = CASES[case]
    for length in range(len(answer)):
        with connected(LOGGED_IN, *before, answer[:length]) as (connection, server):
            server.ends_after_last = True
            rider = connection.rider = Rider()
            with pytest.raises(Exception, match=r".*") as caught:
                act(connection)
            assert is_lost(caught.value), length
            assert connection.lost
            assert rider.ends == ends, length
            with pytest.raises(Exception, match=r".*") as again:
                write(connection)
            assert is_lost(again.value)
            assert rider.ends == ends


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("value", [0x00, 0x45, 0xFF])
def test_with_any_byte_wrong_nothing_hangs_and_nothing_is_half_known(case: str, value: int) -> None:
    """Lost, or in a state that the server has reported; never committed without its word."""
    act, before, answer, _ = CASES[case]
    for place in range(len(answer)):
        wrong = answer[:place] + bytes([value]) + answer[place + 1 :]
        with connected(LOGGED_IN, *before, wrong) as (connection, server):
            server.ends_after_last = True
            rider = connection.rider = Rider()
            raised: Any = None
            try:
                act(connection)
            except Exception as error:
                raised = error
            if act is write:
                assert set(rider.ends) <= {"failed"}
                assert "failed" in rider.ends or not connection.lost
            else:
                assert (rider.ends[-1] == "committed") == (raised is None), place
            assert rider.ends.count("failed") + rider.ends.count("committed") <= 1
