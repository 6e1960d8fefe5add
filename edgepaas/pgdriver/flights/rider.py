# SPDX-License-Identifier: Apache-2.0
"""What travels along with each transaction of a connection, without a round trip of its own."""

from collections.abc import Sequence
from typing import Any, Protocol

from edgepaas.pgdriver.flights.answers import Result, Statement


class CommitRider(Protocol):
    """Has its own statements sent in the first and in the last flight of each transaction.

    It is set as ``connection.rider``. Of a transaction that wrote nothing only :meth:`begin`
    is called. A statement has written, for this purpose, when its command tag or its text is
    that of a change (INSERT, UPDATE, DELETE, MERGE, COPY, a definition), or where it calls a
    function that is not known to change nothing. What a view or an operator calls is not seen.

    No method may use the connection. What :meth:`failed` raises would hide what became of the
    transaction, so it raises nothing.
    """

    def expect(self, known: Any) -> None:
        """Take what is known of the rows that the transaction writes, while it is open."""

    def begin(self, *, rows_known: bool = False) -> Sequence[Statement]:
        """Return what is sent right after BEGIN, in the same flight; its results are dropped.

        *rows_known*: all rows that the transaction writes are going to be told (:meth:`expect`).
        """

    def ending(self) -> Sequence[Statement]:
        """Return what is sent before COMMIT, in the same flight."""

    def sent(self) -> None:
        """Act just before COMMIT goes out; from here on its outcome may stay unknown.

        What it raises ends the transaction with a rollback, and nothing of it was sent.
        """

    def under_way(self) -> None:
        """Act while the server works on COMMIT.

        What it raises is raised to whoever commits when COMMIT was answered: the transaction is
        stored then, and is not acknowledged.
        """

    def committed(self, results: Sequence[Result]) -> None:
        """Act on the answer to COMMIT; *results* are those of :meth:`ending`.

        What it raises is raised by the commit: the transaction is stored all the same.
        """

    def failed(self, error: BaseException | None) -> None:
        """Act on a transaction that was not committed: rolled back, refused, or lost.

        *error* is None where it was rolled back on purpose. After :meth:`sent`, an error for
        which :func:`~edgepaas.pgdriver.failures.is_lost` is true leaves the outcome unknown.
        """
