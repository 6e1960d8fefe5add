# SPDX-License-Identifier: Apache-2.0
"""What an error means, whoever raised it and however it is wrapped."""

import socket
import ssl

import pg8000
import pg8000.dbapi
import pytest
import sqlalchemy.exc

from edgepaas.pgdriver.failures import (
    ConnectFailure,
    ErrorClass,
    Failure,
    classify,
    error_class,
    is_lost,
    server_message,
    sqlstate,
)


def server_error(state: str) -> Exception:
    """What pg8000 raises for an answer of the server."""
    error: Exception = pg8000.ProgrammingError({"S": "ERROR", "C": state, "M": "it\nsaid"})
    return error


def lost(cause: BaseException | None = None) -> Exception:
    """What pg8000 raises when the connection is gone."""
    error: Exception = pg8000.InterfaceError("network error")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("state", "kind", "todo", "gone"),
    [
        ("28P01", Failure.AUTHENTICATION, ErrorClass.LINK, False),
        ("28000", Failure.AUTHENTICATION, ErrorClass.LINK, False),
        ("3D000", Failure.NO_DATABASE, ErrorClass.CONFIGURATION, False),
        ("3F000", Failure.OTHER, ErrorClass.CONFIGURATION, False),
        ("42501", Failure.PERMISSION, ErrorClass.CONFIGURATION, False),
        ("42P01", Failure.OTHER, ErrorClass.SCHEMA, False),
        ("42703", Failure.OTHER, ErrorClass.SCHEMA, False),
        ("25006", Failure.READ_ONLY, ErrorClass.LINK, True),
        ("53300", Failure.BUSY, ErrorClass.LINK, False),
        ("53100", Failure.OTHER, ErrorClass.LINK, False),
        ("57P01", Failure.BUSY, ErrorClass.LINK, True),
        ("57P03", Failure.BUSY, ErrorClass.LINK, True),
        ("57P05", Failure.OTHER, ErrorClass.LINK, True),
        ("57014", Failure.OTHER, ErrorClass.LINK, False),
        ("25P03", Failure.OTHER, ErrorClass.LINK, True),
        ("08006", Failure.OTHER, ErrorClass.LINK, True),
        ("40001", Failure.OTHER, ErrorClass.LINK, False),
        ("40P01", Failure.OTHER, ErrorClass.LINK, False),
        ("40002", Failure.OTHER, ErrorClass.OTHER, False),
        ("55P03", Failure.OTHER, ErrorClass.LINK, False),
        ("58030", Failure.OTHER, ErrorClass.LINK, False),
        ("XX001", Failure.OTHER, ErrorClass.LINK, False),
        ("22003", Failure.OTHER, ErrorClass.ROW, False),
        ("22021", Failure.OTHER, ErrorClass.ROW, False),
        ("23505", Failure.OTHER, ErrorClass.ROW, False),
        ("54000", Failure.OTHER, ErrorClass.ROW, False),
        ("P0001", Failure.OTHER, ErrorClass.ROW, False),
        ("0A000", Failure.OTHER, ErrorClass.OTHER, False),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "sqlalchemy"])
def test_the_server_s_code_decides(
    state: str, kind: Failure, todo: ErrorClass, gone: bool, wrapped: bool
) -> None:
    """Also where SQLAlchemy has wrapped it."""
    error = server_error(state)
    if wrapped:
        error = sqlalchemy.exc.ProgrammingError("SELECT 1", {}, error)
    assert (sqlstate(error), classify(error)) == (state, kind)
    assert (error_class(error), is_lost(error)) == (todo, gone)
    assert server_message(error) == "it said"


@pytest.mark.parametrize(
    ("error", "kind", "gone"),
    [
        (TimeoutError("timed out"), Failure.SILENT, True),
        (ConnectionRefusedError(111, "refused"), Failure.REFUSED, True),
        (ConnectionResetError(104, "reset"), Failure.OTHER, True),
        (BrokenPipeError(32, "pipe"), Failure.OTHER, True),
        (OSError(113, "no route"), Failure.UNREACHABLE, True),
        (socket.gaierror(-2, "unknown"), Failure.DNS, True),
        (ssl.SSLError(1, "wrong"), Failure.TLS, True),
        (ssl.SSLCertVerificationError(1, "expired"), Failure.TLS, True),
        (lost(), Failure.OTHER, True),
        (lost(TimeoutError()), Failure.SILENT, True),
        (pg8000.dbapi.InterfaceError("connection is closed"), Failure.OTHER, True),
        (sqlalchemy.exc.InterfaceError("x", {}, lost()), Failure.OTHER, True),
        (ValueError("write to closed file"), Failure.OTHER, True),
        (ValueError("malformed"), Failure.OTHER, False),
        (pg8000.InterfaceError("in failed transaction block"), Failure.OTHER, False),
        (pg8000.ProgrammingError("no result set"), Failure.OTHER, False),
        (KeyError("network error"), Failure.OTHER, False),
        (ConnectFailure(Failure.TOO_OLD, "9.6"), Failure.TOO_OLD, True),
    ],
    ids=repr,
)
def test_an_error_of_the_link_is_known_without_a_code(
    error: Exception, kind: Failure, gone: bool
) -> None:
    """OSError in any driver version; the driver's own word; not its caller's mistakes."""
    assert (classify(error), is_lost(error), sqlstate(error)) == (kind, gone, None)
    assert error_class(error) is (ErrorClass.LINK if gone else ErrorClass.OTHER)


def test_an_error_that_is_its_own_cause_ends() -> None:
    """Chains of exceptions may be circular."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_lost(first)


@pytest.mark.parametrize("content", [{}, {"C": 5}, {"C": "no"}, {"M": None}])
def test_fields_that_no_server_sends_are_survived(content: dict[str, object]) -> None:
    """The driver passes on whatever it was sent."""
    error = pg8000.ProgrammingError(content)
    assert sqlstate(error) is None
    assert classify(error) is Failure.OTHER
    assert isinstance(server_message(error), str)
