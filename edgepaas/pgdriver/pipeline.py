# SPDX-License-Identifier: Apache-2.0
"""Several statements in one round trip, whose answers may be read later.

PgBouncer, where it pools transactions, may hand each part of a statement to another server
(https://www.pgbouncer.org/features.html). Here Parse, Bind, Describe and Execute of every
statement go out together, unnamed, under one Sync. After an error the server skips the rest
of them.

When more is sent before the answers are read, they together must be small, or each side waits
for the other to read.
"""

from collections.abc import Sequence

from edgepaas.pgdriver.flights import FlightConnection, Result, Statement

__all__ = ["Pipeline", "Result", "Statement"]


class Pipeline:
    """Sends statements over *connection*, one of :func:`edgepaas.pgdriver.connection.connect`."""

    def __init__(self, connection: FlightConnection) -> None:
        self._connection = connection

    def send(self, statements: Sequence[Statement]) -> None:
        """Send *statements*, to be run in order; outside a transaction all of them are one.

        What this raises, UnicodeEncodeError among it, it raises before anything is sent,
        but for the link's own errors.
        """
        self._connection.send_statements(statements)

    def receive(self) -> list[Result]:
        """Return the results of the earliest statements sent whose answer was not read yet.

        Raises what the driver raises; the connection is then ready for the next answer.
        """
        return self._connection.receive_results()
