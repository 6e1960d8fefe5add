# SPDX-License-Identifier: Apache-2.0
"""The contract with pg8000: what edgepaas.pgdriver.pg8000_adapter uses, without a server."""

import inspect
import struct
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pg8000
import pytest
from pg8000.core import CoreConnection
from pg8000.exceptions import DatabaseError, InterfaceError

from edgepaas.pgdriver import pg8000_adapter as adapter
from edgepaas.pgdriver.failures import is_lost, server_message, sqlstate
from edgepaas.pgdriver.pipeline import Pipeline
from tests.support.protocol_server import (
    LOGGED_IN,
    READY,
    columns,
    connected,
    done,
    error,
    message,
    row,
)


def test_a_connection_takes_what_it_is_given() -> None:
    """By these names; a driver that drops one of them does not get far."""
    assert issubclass(pg8000.Connection, CoreConnection)
    parameters = inspect.signature(CoreConnection).parameters
    wanted = {"user", "database", "password", "application_name", "startup_params", "sock"}
    assert wanted | {"ssl_context"} <= set(parameters)


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("handle_NOTICE_RESPONSE", ["self", "data", "context"]),
        ("handle_NOTIFICATION_RESPONSE", ["self", "data", "context"]),
        ("handle_PARAMETER_STATUS", ["self", "data", "context"]),
        ("close", ["self"]),
    ],
)
def test_the_methods_take_what_they_took(method: str, names: list[str]) -> None:
    assert list(inspect.signature(getattr(CoreConnection, method)).parameters) == names


def test_a_login_goes_over_the_socket_that_is_given() -> None:
    """With the name, the database and the options, and no word about TLS."""
    with connected(LOGGED_IN) as (connection, server):
        assert connection.link is server.near
        startup = server.received[0][1]
        assert startup[:4] == struct.pack("!i", 196608)
        for part in (b"user\0edgepaas\0", b"database\0hub\0", b"application_name\0contract\0"):
            assert part in startup
        assert b"options\0-c x=1\0" in startup
        assert adapter.server_version(connection) == "16.4 (Debian)"
        assert connection.autocommit is False


def test_a_simple_query_is_one_round_trip() -> None:
    answer = columns("a", "b") + row("x", None) + done("SELECT 1") + message(*READY)
    with connected(LOGGED_IN, answer) as (connection, server):
        assert adapter.simple_query(connection, "SELECT 1") == [["x", None]]
        assert server.received[1:] == [(b"Q", b"SELECT 1\0")]


def test_a_simple_query_without_rows_gives_none() -> None:
    with connected(LOGGED_IN, done("SET") + message(*READY)) as (connection, _):
        assert adapter.simple_query(connection, "SET x = 1") == []


def test_a_pipeline_is_one_flight_with_a_result_for_each_statement() -> None:
    answer = (
        message(b"1")
        + message(b"2")
        + message(b"n")
        + done("INSERT 0 2")
        + message(b"1")
        + message(b"2")
        + columns("n")
        + row("7")
        + row("8")
        + done("SELECT 2")
        + message(*READY)
    )
    with connected(LOGGED_IN, answer) as (connection, server):
        pipeline = Pipeline(connection)
        pipeline.send([("INSERT INTO t VALUES ($1, $2)", ["ä", None]), ("SELECT n", [])])
        results = pipeline.receive()
        assert [(one.tag, one.count, one.rows) for one in results] == [
            ("INSERT 0 2", 2, []),
            ("SELECT 2", 2, [["7"], ["8"]]),
        ]
        codes = b"".join(code for code, _ in server.received[1:])
        assert codes == b"PBDEPBDES"
        assert server.received[2][1] == (
            b"\0\0\0\0" + struct.pack("!H", 2) + struct.pack("!i", 2) + "ä".encode()
            + struct.pack("!i", -1) + b"\0\0"
        )  # fmt: skip


def test_a_connection_is_as_ever_beside_a_pipeline() -> None:
    """Its own statements still get their row counts."""
    answer = done("DELETE 3") + message(*READY)
    with connected(LOGGED_IN, answer) as (connection, _):
        Pipeline(connection)
        assert connection.execute_simple("DELETE FROM t").row_count == 3


def test_an_error_holds_the_fields_of_the_server_and_leaves_the_connection_ready() -> None:
    answers = (
        message(b"1") + error("23505", "duplicate key") + message(*READY),
        done("SET") + message(*READY),
        error("42P01", "no table") + message(*READY),
    )
    with connected(LOGGED_IN, *answers) as (connection, _):
        pipeline = Pipeline(connection)
        pipeline.send([("INSERT", [])])
        with pytest.raises(DatabaseError) as caught:
            pipeline.receive()
        assert (sqlstate(caught.value), server_message(caught.value)) == ("23505", "duplicate key")
        assert adapter.server_fields(caught.value) == {
            "S": "ERROR", "V": "ERROR", "C": "23505", "M": "duplicate key",
        }  # fmt: skip
        assert not is_lost(caught.value)
        assert adapter.simple_query(connection, "SET x = 1") == []
        with pytest.raises(DatabaseError) as caught:
            adapter.simple_query(connection, "SELECT")
        assert sqlstate(caught.value) == "42P01"


@pytest.mark.parametrize("pipelined", [False, True])
def test_a_link_that_ends_is_known_by_the_error(pipelined: bool) -> None:
    with connected(LOGGED_IN) as (connection, _):
        with pytest.raises(InterfaceError) as caught:
            if pipelined:
                pipeline = Pipeline(connection)
                pipeline.send([("SELECT 1", [])])
                pipeline.receive()
            else:
                adapter.simple_query(connection, "SELECT 1")
        assert adapter.is_driver_error(caught.value)
        assert adapter.is_lost_link(caught.value)
        assert is_lost(caught.value)


def test_a_connection_that_is_closed_is_known_by_the_error() -> None:
    with connected(LOGGED_IN) as (connection, _):
        connection.close()
        with pytest.raises(InterfaceError) as caught:
            connection.close()
        assert is_lost(caught.value)
        with pytest.raises(InterfaceError) as caught:
            adapter.simple_query(connection, "SELECT 1")
        assert is_lost(caught.value)


def test_a_callers_mistake_is_no_lost_link() -> None:
    assert not is_lost(InterfaceError("The paramstyle is unknown"))


@pytest.mark.parametrize(
    ("request_body", "password"),
    [
        (struct.pack("!i", 3), None),
        (struct.pack("!i", 5) + b"salt", None),
        (struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0", None),
    ],
)
def test_a_password_that_is_missing_is_known_by_the_error(
    request_body: bytes, password: str | None
) -> None:
    """Where SCRAM asks, the driver stumbles over None."""
    with (
        pytest.raises((InterfaceError, AttributeError)) as caught,
        connected(message(b"R", request_body), password=password),
    ):
        pass
    assert adapter.wants_password(caught.value, given=False)


@pytest.mark.parametrize("code", [2, 7, 9])
def test_a_way_of_login_that_is_not_spoken_is_known_by_the_error(code: int) -> None:
    with (
        pytest.raises(InterfaceError) as caught,
        connected(message(b"R", struct.pack("!i", code)), password="x"),
    ):
        pass
    assert adapter.cannot_authenticate(caught.value)
    assert not adapter.wants_password(caught.value, given=True)


def test_a_mechanism_that_is_not_spoken_is_known_by_the_error() -> None:
    with (
        pytest.raises(Exception, match=r".*") as caught,
        connected(message(b"R", struct.pack("!i", 10) + b"OAUTHBEARER\0\0"), password="x"),
    ):
        pass
    assert adapter.cannot_authenticate(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("ä", "ä".encode()),
        (b"as it is\xff", b"as it is\xff"),
        (1, b"1"),
        (-0.0, b"-0.0"),
        (5e-324, b"5e-324"),
        (True, b"true"),
        (Decimal("1.50"), b"1.50"),
        (UUID(int=1), b"00000000-0000-0000-0000-000000000001"),
        (["a", None], b"{a,NULL}"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), b"2026-01-02T03:04:05.000006+00:00"),
    ],
)
def test_a_value_becomes_the_text_that_postgresql_reads(value: object, text: bytes | None) -> None:
    with connected(LOGGED_IN) as (connection, _):
        assert adapter.encoded(connection, [value]) == [text]


def test_a_lone_surrogate_is_refused_before_anything_is_sent() -> None:
    with connected(LOGGED_IN) as (connection, server):
        with pytest.raises(UnicodeEncodeError):
            Pipeline(connection).send([("SELECT $1", ["\udc80"])])
        assert len(server.received) == 1
