# SPDX-License-Identifier: Apache-2.0
"""What is set in each session, and what is asked of it, in one query at the end of the login."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgepaas.pgdriver import pg8000_adapter, wire
from edgepaas.pgdriver.failures import ConnectFailure, Failure
from edgepaas.pgdriver.flights import FlightConnection
from edgepaas.pgdriver.hosts import endpoint_of
from edgepaas.settings.urls import Address

#: Whether the server takes writes: a standby does not, nor does one that is set so.
WRITABLE_QUESTION = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')"

_DEFAULTS_QUESTION = (
    "SELECT current_schema(), current_setting('transaction_isolation'), pg_backend_pid()"
)


@dataclass(frozen=True)
class SessionDefaults:
    """What a new session begins with; ``schema`` is None where none of its path exists."""

    schema: str | None
    isolation: str


def prepare_session(
    connection: FlightConnection,
    host: Address,
    bounds: Mapping[str, float | None],
    *,
    must_be_writable: bool,
) -> None:
    """Set what holds for the session, and ask what has to be known of it, in one round trip."""
    first = first_query(host, bounds, must_be_writable=must_be_writable)
    if first:
        connection.first_rows = pg8000_adapter.simple_query(connection, first)
        examine_session(connection, host, must_be_writable=must_be_writable)


def first_query(
    host: Address, bounds: Mapping[str, float | None], *, must_be_writable: bool
) -> str:
    """Return what sets what holds for the session, and asks what has to be known of it."""
    # Not startup parameters: PgBouncer refuses those that it does not know. Where it pools
    # transactions, the session's settings are those of a connection of its own, which is let
    # go of: those of TCP suit any session.
    settings = {} if host.unix_socket else dict(wire.SERVER_TCP_SETTINGS)
    settings |= {
        name: max(1, round(seconds * 1000))
        for name, seconds in bounds.items()
        if seconds is not None
    }
    statements = [f"SET {name} = {value}" for name, value in settings.items()]
    if must_be_writable:
        statements.append(WRITABLE_QUESTION)
    if not statements:
        return ""
    return "; ".join([*statements, _DEFAULTS_QUESTION])


def examine_session(connection: FlightConnection, host: Address, *, must_be_writable: bool) -> bool:
    """Take note of the answers to :func:`first_query`; whether no pooler is in between.

    Raises ConnectFailure (read_only).
    """
    *writable, (schema, isolation, process_id) = connection.first_rows
    connection.session = SessionDefaults(schema, isolation)
    if must_be_writable:
        check_writable(host, *writable[0])
    # A pooler gives a process id of its own with the login, since it may use any of its
    # connections for each transaction. (PgBouncer does so in every mode.)
    return bool(process_id == connection.backend_pid)


def check_writable(host: Address, in_recovery: bool, read_only: str) -> None:
    """Raise ConnectFailure (read_only) for the answer to WRITABLE_QUESTION of one that is not."""
    if in_recovery:
        raise ConnectFailure(
            Failure.READ_ONLY,
            f"{endpoint_of(host)} is a standby and takes no writes; "
            "name the primary in DATABASE_URL",
        )
    if read_only == "on":
        raise ConnectFailure(
            Failure.READ_ONLY,
            f"{endpoint_of(host)} opens {host.database!r} read-only; "
            "check default_transaction_read_only of server, database and user",
        )
