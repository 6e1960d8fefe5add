# SPDX-License-Identifier: Apache-2.0
"""What a connection sends in which flight, against a server that answers from a script."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError, InterfaceError

from edgepaas.pgdriver.failures import is_lost, sqlstate
from edgepaas.pgdriver.flights import Result, Statement, run_flight
from edgepaas.pgdriver.flights.prepared import PreparedStatements
from edgepaas.pgdriver.flights.statements import examine, has_written
from tests.support.protocol_server import (
    BEGUN,
    COMMITTED,
    LOGGED_IN,
    ROLLED_BACK,
    connected,
    done,
    error,
    ready,
    row,
    statement,
)
from tests.support.weaken import weakened


class Rider:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.refuse: Exception | None = None
        #: Called while the server works on COMMIT.
        self.act: Callable[[], None] = lambda: None

    def expect(self, known: Any) -> None:
        self.told.append(known)

    def begin(self, *, rows_known: bool = False) -> Sequence[Statement]:
        self.told.append("begin")
        return [("SET LOCAL synchronous_commit = on", ())]

    def ending(self) -> Sequence[Statement]:
        self.told.append("ending")
        return [("UPDATE marks SET mark = $1", [7])]

    def sent(self) -> None:
        self.told.append("sent")
        if self.refuse is not None:
            raise self.refuse

    def under_way(self) -> None:
        self.act()

    def committed(self, results: Sequence[Result]) -> None:
        self.told.append([result.tag for result in results])

    def failed(self, error: BaseException | None) -> None:
        self.told.append(error if error is None else type(error))


def wait_until(reached: Callable[[], bool]) -> bool:
    """Whether *reached* came true within a minute."""
    until = time.monotonic() + 60
    while not reached():
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


def test_begin_travels_with_the_first_statement_and_commit_alone() -> None:
    answers = (
        BEGUN + statement("SELECT 1", row("x"), names=["a"]) + ready(b"T"),
        statement("INSERT 0 1") + ready(b"T"),
        COMMITTED + ready(),
    )
    with connected(LOGGED_IN, *answers) as (connection, server):
        cursor = connection.cursor()
        assert cursor.execute("SELECT a FROM t WHERE b = %s", (1,)).fetchall() == (["x"],)
        cursor.execute("INSERT INTO t VALUES (%s)", ("ä",))
        assert cursor.rowcount == 1
        connection.commit()
        assert server.codes == "PBE" + "PBDES" + "PBDES" + "PBES"


def test_a_transaction_in_which_nothing_was_sent_costs_nothing() -> None:
    with connected(LOGGED_IN) as (connection, server):
        connection.rollback()
        connection.commit()
        connection.cursor().execute("COMMIT")
        assert server.codes == ""


def test_in_autocommit_a_statement_is_one_flight_alone() -> None:
    with connected(LOGGED_IN, statement("INSERT 0 1") + ready()) as (connection, server):
        connection.autocommit = True
        connection.cursor().execute("INSERT INTO t VALUES (%s)", (1,))
        connection.commit()
        assert server.codes == "PBDES"


def test_several_statements_in_one_text_begin_their_transaction_themselves() -> None:
    answer = done("BEGIN") + done("SET") + done("INSERT 0 2") + ready(b"T")
    with connected(LOGGED_IN, answer) as (connection, server):
        cursor = connection.cursor()
        cursor.execute("SET x = 1; INSERT INTO t SELECT 1")
        assert cursor.rowcount == 2
        assert server.received[1:] == [(b"Q", b"BEGIN;SET x = 1; INSERT INTO t SELECT 1\0")]


def test_many_rows_are_one_flight() -> None:
    rows = statement("INSERT 0 1") + statement("INSERT 0 1")[5:] * 2
    with connected(LOGGED_IN, BEGUN + rows + ready(b"T")) as (connection, server):
        cursor = connection.cursor()
        cursor.executemany("INSERT INTO t VALUES (%s)", [(1,), (2,), (3,)])
        assert cursor.rowcount == 3
        assert server.codes == "PBE" + "P" + "BDE" * 3 + "S"


def test_a_rider_travels_in_the_first_and_the_last_flight() -> None:
    answers = (
        BEGUN + statement("SET") + statement("INSERT 0 1") + ready(b"T"),
        statement("UPDATE 1") + COMMITTED + ready(),
    )
    with connected(LOGGED_IN, *answers) as (connection, server):
        rider = connection.rider = Rider()
        connection.cursor().execute("INSERT INTO t VALUES (%s)", (1,))
        connection.commit()
        assert rider.told == ["begin", "ending", "sent", ["UPDATE 1"]]
        assert server.codes == "PBE" + "PBDE" + "PBDES" + "PBDE" + "PBES"


def test_a_transaction_that_wrote_nothing_ends_without_its_rider() -> None:
    answers = (
        BEGUN + statement("SET") + statement("SELECT 1", row("1"), names=["a"]) + ready(b"T"),
        COMMITTED + ready(),
    )
    with connected(LOGGED_IN, *answers) as (connection, _):
        rider = connection.rider = Rider()
        connection.cursor().execute("SELECT %s", (1,))
        connection.commit()
        assert rider.told == ["begin"]


def test_a_rider_that_refuses_has_the_transaction_rolled_back() -> None:
    answers = (
        BEGUN + statement("SET") + statement("INSERT 0 1") + ready(b"T"),
        ROLLED_BACK + ready(),
    )
    with connected(LOGGED_IN, *answers) as (connection, server):
        rider = connection.rider = Rider()
        rider.refuse = OSError(28, "No space left on device")
        connection.cursor().execute("INSERT INTO t VALUES (%s)", (1,))
        with pytest.raises(OSError, match="No space"):
            connection.commit()
        assert rider.told == ["begin", "ending", "sent", OSError]
        assert b"ROLLBACK" in server.received[-4][1]
        assert not connection.in_transaction


def test_what_a_flight_would_have_prepared_that_is_not_sent_is_not_prepared() -> None:
    """Its name would be unknown to the server, which then keeps nothing prepared for us."""
    answer = (
        BEGUN + statement("SET") + statement("INSERT 0 1") + statement("UPDATE 1")
        + COMMITTED + ready()
    )  # fmt: skip
    with connected(LOGGED_IN, *([answer] * 4)) as (connection, server):
        rider = connection.rider = Rider()
        connection.prepared.allowed = True

        def run() -> str:
            before = len(server.codes)
            run_flight(connection, [("INSERT INTO t SELECT $1", ["x"])])
            return server.codes[before:]

        first = run()
        rider.refuse = OSError(28, "No space left on device")
        with pytest.raises(OSError, match="No space"):
            run()
        rider.refuse = None
        assert run() == first  # nothing is known of the statements any more
        assert run() == first  # prepared now
        assert b"edgepaas_" in b"".join(body for _, body in server.received)


def test_what_was_to_be_closed_with_a_flight_that_is_not_sent_is_closed_later() -> None:
    prepared = PreparedStatements()
    prepared.allowed = True
    for _ in range(2):
        prepared.messages(b"SELECT 1", (), ())
    prepared.succeeded()
    prepared.forget()
    prepared.messages(b"SELECT 2", (), ())
    closing = b"C\x00\x00\x00\x10Sedgepaas_1\x00"
    assert closing in prepared.messages(b"SELECT 2", (), ())[0]
    prepared.unsent()
    prepared.messages(b"SELECT 3", (), ())
    assert closing in prepared.messages(b"SELECT 3", (), ())[0]


def test_a_connection_whose_answer_was_not_read_is_lost() -> None:
    """The next flight would read that answer for its own."""
    answer = BEGUN + statement("SET") + statement("INSERT 0 1") + statement("UPDATE 1")
    with connected(LOGGED_IN, answer + COMMITTED + ready()) as (connection, _):
        rider = connection.rider = Rider()

        def interrupt() -> None:
            raise KeyboardInterrupt

        rider.act = interrupt
        with pytest.raises(KeyboardInterrupt):
            run_flight(connection, [("INSERT INTO t SELECT $1", ["x"])])
        assert connection.lost and rider.told[-1] is KeyboardInterrupt


@pytest.mark.parametrize(
    "last",
    [
        error("23514", "refused") + ready(b"E"),
        statement("UPDATE 1") + error("23503", "deferred") + ready(),
        statement("UPDATE 1") + ROLLED_BACK + ready(),
        b"",
    ],
    ids=["the rider's statement", "COMMIT", "COMMIT answered with ROLLBACK", "link"],
)
def test_a_last_flight_that_fails_is_an_error_and_a_rollback(last: bytes) -> None:
    answers = [
        BEGUN + statement("SET") + statement("INSERT 0 1") + ready(b"T"),
        *([last] if last else []),
        *([ROLLED_BACK + ready()] if last.endswith(ready(b"E")) else []),
    ]
    with connected(LOGGED_IN, *answers) as (connection, _):
        rider = connection.rider = Rider()
        connection.cursor().execute("INSERT INTO t VALUES (%s)", (1,))
        with pytest.raises((DatabaseError, InterfaceError)):
            connection.commit()
        assert rider.told[:3] == ["begin", "ending", "sent"]
        assert len(rider.told) == 4
        assert issubclass(rider.told[3], (DatabaseError, InterfaceError))
        assert connection.lost or not connection.in_transaction


def test_a_build_that_does_not_look_at_the_answer_to_commit_is_found_out() -> None:
    """It reports as stored what was rolled back."""
    answers = (BEGUN + statement("INSERT 0 1") + ready(b"T"), ROLLED_BACK + ready())
    with connected(LOGGED_IN, *answers) as (connection, _), weakened("commit-unchecked"):
        connection.cursor().execute("INSERT INTO t VALUES (%s)", (1,))
        connection.commit()
    with connected(LOGGED_IN, *answers) as (connection, _):
        connection.cursor().execute("INSERT INTO t VALUES (%s)", (1,))
        with pytest.raises(DatabaseError):
            connection.commit()


def test_a_commit_after_an_error_is_an_error() -> None:
    answers = (BEGUN + error("42P01", "no table") + ready(b"E"), ROLLED_BACK + ready())
    with connected(LOGGED_IN, *answers) as (connection, _):
        with pytest.raises(DatabaseError):
            connection.cursor().execute("SELECT %s", (1,))
        with pytest.raises(DatabaseError) as caught:
            connection.commit()
        assert sqlstate(caught.value) == "25P02"
        assert not connection.in_transaction


def test_a_whole_transaction_is_one_flight() -> None:
    answer = (
        BEGUN
        + statement("SET")
        + statement("INSERT 0 5")
        + statement("UPDATE 1")
        + COMMITTED
        + ready()
    )
    with connected(LOGGED_IN, answer) as (connection, server):
        rider = connection.rider = Rider()
        results = run_flight(connection, [("INSERT INTO t SELECT $1", ["x"])])
        assert [result.count for result in results] == [5]
        assert rider.told == ["begin", "ending", "sent", ["UPDATE 1"]]
        assert server.codes.count("S") == 1


def test_a_rider_acts_while_the_server_works() -> None:
    """All has arrived there when it acts, and no answer has been read."""
    answer = (
        BEGUN + statement("SET") + statement("INSERT 0 5") + statement("UPDATE 1")
        + COMMITTED + ready()
    )  # fmt: skip
    with connected(LOGGED_IN, answer) as (connection, server):
        rider = connection.rider = Rider()
        there: list[bool] = []
        rider.act = lambda: there.append(wait_until(lambda: server.codes.count("S") == 1))
        results = run_flight(connection, [("INSERT INTO t SELECT $1", ["x"])], known="rows")
        assert there == [True]
        assert [result.count for result in results] == [5]
        assert rider.told == ["begin", "rows", "ending", "sent", ["UPDATE 1"]]


@pytest.mark.parametrize("refused", [False, True])
def test_what_a_rider_raises_meanwhile_is_raised_once_commit_was_answered(refused: bool) -> None:
    """The rider knows of the commit; what the server says against it comes first."""
    worked = BEGUN + statement("SET")
    answers = [
        worked + statement("INSERT 0 5") + statement("UPDATE 1") + COMMITTED + ready(),
        BEGUN + statement("SET") + statement("SELECT 1") + ready(b"T"),
    ]
    if refused:
        answers[0] = worked + error("23514", "refused") + ready(b"E")
        answers.insert(1, ROLLED_BACK + ready())

    def fail() -> None:
        raise OSError("the disk is full")

    with connected(LOGGED_IN, *answers) as (connection, _):
        rider = connection.rider = Rider()
        rider.act = fail
        with pytest.raises(DatabaseError if refused else OSError):
            run_flight(connection, [("INSERT INTO t SELECT $1", ["x"])])
        (end,) = rider.told[3:]
        assert issubclass(end, DatabaseError) if refused else end == ["UPDATE 1"]
        assert not connection.lost and not connection.in_transaction
        connection.cursor().execute("SELECT 1")


def test_a_whole_transaction_that_is_refused_is_rolled_back() -> None:
    answers = (
        BEGUN + statement("SET") + error("23514", "refused") + ready(b"E"),
        ROLLED_BACK + ready(),
    )
    with connected(LOGGED_IN, *answers) as (connection, _):
        rider = connection.rider = Rider()
        with pytest.raises(DatabaseError) as caught:
            run_flight(connection, [("INSERT INTO t SELECT $1", ["x"])])
        assert sqlstate(caught.value) == "23514"
        assert rider.told[:3] == ["begin", "ending", "sent"]
        assert not connection.in_transaction


def test_a_connection_that_ends_in_mid_answer_is_lost() -> None:
    with connected(LOGGED_IN, BEGUN + error("57P01", "shutting down")) as (connection, server):
        rider = connection.rider = Rider()
        server.ends_after_last = True
        with pytest.raises(DatabaseError) as caught:
            connection.cursor().execute("SELECT %s", (1,))
        assert is_lost(caught.value)
        assert connection.lost
        assert rider.told == ["begin", type(caught.value)]
        for call in (connection.rollback, connection.commit):
            with pytest.raises(InterfaceError) as lost:
                call()
            assert is_lost(lost.value)


@pytest.mark.parametrize(
    ("sql", "tag", "written"),
    [
        ("SELECT 1", "SELECT 1", False),
        ("SELECT count(*), lower(a) FROM t WHERE a IN ('x') AND (b OR c)", "SELECT 1", False),
        ("SELECT a FROM (VALUES (1)) AS v(a) JOIN t USING (a)", "SELECT 1", False),
        ("SELECT nextval('s')", "SELECT 1", True),
        ('SELECT a FROM "my""s"."Put" (1)', "SELECT 1", True),
        ("WITH x AS (INSERT INTO t VALUES (1) RETURNING a) SELECT * FROM x", "SELECT 1", True),
        ("INSERT INTO t VALUES (1)", "INSERT 0 1", True),
        ("DELETE FROM t", "DELETE 0", True),
        ("CREATE TABLE t AS SELECT 1", "SELECT 1", True),
        ("CREATE TABLE t (a int)", "CREATE TABLE", True),
        ("SET x = 1", "SET", False),
        ("SAVEPOINT a", "SAVEPOINT", False),
        ("EXPLAIN ANALYZE DELETE FROM t", "EXPLAIN", True),
        ("EXPLAIN SELECT 1", "EXPLAIN", False),
        ("", "", False),
    ],
)
def test_what_has_written_is_known_by_tag_and_text(sql: str, tag: str, written: bool) -> None:
    assert has_written(tag, examine(sql)) is written


@pytest.mark.parametrize(
    ("sql", "commits", "rolls_back"),
    [
        ("COMMIT", True, False),
        (" end work ;", True, False),
        ("ROLLBACK", False, True),
        ("abort transaction;", False, True),
        ("ROLLBACK TO SAVEPOINT a", False, False),
        ("COMMIT PREPARED 'x'", False, False),
        ("COMMIT; SELECT 1", False, False),
    ],
)
def test_the_end_of_a_transaction_is_known_by_its_text(
    sql: str, commits: bool, rolls_back: bool
) -> None:
    assert (examine(sql).commits, examine(sql).rolls_back) == (commits, rolls_back)
