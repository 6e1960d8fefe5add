# SPDX-License-Identifier: Apache-2.0
"""The transactions of a connection: how they begin, end, and what of them travels together."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from edgepaas.pgdriver import pg8000_adapter
from edgepaas.pgdriver.failures import is_lost
from edgepaas.pgdriver.flights import messages
from edgepaas.pgdriver.flights.answers import Answer, Result, Statement
from edgepaas.pgdriver.flights.copying import Copying
from edgepaas.pgdriver.flights.driver_facade import DriverFacade
from edgepaas.pgdriver.flights.exchange import FAILED, IDLE
from edgepaas.pgdriver.flights.prepared import PreparedStatements
from edgepaas.pgdriver.flights.rider import CommitRider
from edgepaas.pgdriver.flights.statements import redefines


class TransactionFlights(DriverFacade):
    """Begins and ends transactions; its subclass runs the statements in between."""

    def __init__(self, driver: Any) -> None:
        super().__init__(driver)
        #: Has its statements sent with each transaction's first and last flight.
        self.rider: CommitRider | None = None
        #: Whether a statement that only reads needs no transaction, until another one begins one.
        self.plain_reads = False
        #: Seconds within which the next first flight has to get some answer; then None again.
        self.prove_within: float | None = None
        #: Opens another connection in the place of this one, which died of the error given.
        #: The first flight of a transaction, or a read, is then sent again.
        self.reopen: Callable[[BaseException], TransactionFlights] | None = None
        #: Which statements the server keeps prepared.
        self.prepared = PreparedStatements()
        #: The rows of what was sent along with the login, and what is known from it of the
        #: session; both are set by who logged in.
        self.first_rows: list[Any] = []
        self.session: Any = None
        #: The rider of the open transaction, and whether that has written.
        self._riding: CommitRider | None = None
        self._wrote = False
        #: Whether the session has settings or locks of its own, which another one would lack.
        self._is_special = False
        #: Whether the last error was of a statement kept prepared, which has not run.
        self._stale = False

    def commit(self) -> None:
        """Commit; raises what the server says, or that it has answered COMMIT with ROLLBACK."""
        if self._exchange.status == IDLE and not self._exchange.lost:
            return
        if self._exchange.status == FAILED:
            error = _not_committed("ROLLBACK")
            self._roll_back(error)
            raise error
        if not self._wrote:
            self._riding = None
        self._end(b"", [])

    def rollback(self) -> None:
        """Roll back; costs nothing outside of a transaction."""
        if self._exchange.status != IDLE or self._exchange.lost:
            self._roll_back(None)

    def expect(self, known: Any) -> None:
        """Tell the rider of the open transaction what is known of the rows that it writes."""
        if self._riding is not None:
            self._riding.expect(known)

    def run_transaction(self, statements: Sequence[Statement], known: Any = None) -> list[Result]:
        """See :func:`run_flight`."""
        if self._exchange.status != IDLE:
            raise pg8000_adapter.programming_error("a transaction is open")
        if self.prove_within is not None and not self._exchange.is_quiet():
            self._prove()
        within, self.prove_within = self.prove_within, None
        self._stale = False
        try:
            return self._run_transaction(statements, known, within)
        except Exception:
            if not self._stale or self._exchange.lost:
                raise
        return self._run_transaction(statements, known, None)

    def _run_transaction(
        self, statements: Sequence[Statement], known: Any, within: float | None
    ) -> list[Result]:
        opening, first = self._opening(rows_known=known is not None)
        try:
            if known is not None:
                self.expect(known)
            body, answers = self._encoded(statements)
        except BaseException as error:
            self._not_begun(error)
            raise
        flight = opening + body if within is None else messages.PROOF + opening + body
        return self._end(flight, [*first, *answers], within)[len(first) :]

    # -- the ends of a transaction --

    def _opening(self, *, rows_known: bool = False) -> tuple[bytes, list[Answer]]:
        """Return what begins a transaction, and its answers to be read."""
        if self._exchange.lost:
            raise pg8000_adapter.interface_error("connection is closed")
        self._wrote = False
        self._riding = self.rider
        riding = self._riding
        try:
            first = () if riding is None else riding.begin(rows_known=rows_known)
            body, answers = self._encoded(first)
        except BaseException as error:
            self._not_begun(error)
            raise
        return messages.BEGIN + body, [Answer(), *answers]

    def _not_begun(self, error: BaseException) -> None:
        """Forget the transaction whose first flight *error* keeps from being sent."""
        self.prepared.unsent()
        self._tell_failed(error)

    def _end(
        self, before: bytes, answers: list[Answer], within: float | None = None
    ) -> list[Result]:
        """Send *before*, what the rider has to send, and COMMIT; return *before*'s results.

        *within*: seconds in which some answer has to come. Whatever is raised, the transaction
        is over.
        """
        rider, count = self._riding, len(answers)
        try:
            ending, more = self._encoded(() if rider is None else rider.ending())
            if rider is not None:
                rider.sent()
            flight = before + ending + messages.COMMIT + messages.SYNC
            act = _Meanwhile(rider)
            results = results_of(self._ask(flight, [*answers, *more], within=within, act=act))
            if results[-1].tag != "COMMIT":
                raise _not_committed(results[-1].tag)
        except BaseException as error:
            self.prepared.unsent()  # what was sent is noted already
            self._give_up(error)
            raise
        self._riding = None
        if rider is not None:
            rider.committed(results[count:-1])
        if act.error is not None:
            raise act.error
        return results[:count]

    def _give_up(self, error: BaseException) -> None:
        """End the transaction after *error*, which the caller raises."""
        if self._exchange.status == IDLE or self._exchange.lost:
            self._tell_failed(error)
            return
        # The connection is lost where that fails, and the first error says more.
        with contextlib.suppress(Exception):
            self._roll_back(error)

    def _roll_back(self, error: BaseException | None) -> None:
        self._tell_failed(error)
        self._ask(messages.ROLLBACK + messages.SYNC)

    def _tell_failed(self, error: BaseException | None) -> None:
        rider, self._riding = self._riding, None
        if rider is not None:
            rider.failed(error)

    # -- flights --

    def _ask(
        self,
        flight: bytes,
        answers: Sequence[Answer] = (),
        *,
        copying: Copying | None = None,
        within: float | None = None,
        act: Callable[[], None] = lambda: None,
    ) -> list[Answer]:
        """Send *flight* and return its answers, the first of which are *answers*.

        *act* is called in between; it raises nothing.
        """
        exchange = self._exchange
        before = exchange.unanswered
        try:
            exchange.send(flight)
            act()
            found = exchange.receive(answers, copying=copying, first_within=within)
        except BaseException as error:
            if exchange.unanswered > before:
                exchange.lost = True  # the next flight would read the answer to this one
            self._stale = self.prepared.failed(error)
            if exchange.lost or exchange.status == IDLE:
                self._tell_failed(error)
            raise
        self.prepared.succeeded()
        if any(redefines(answer.tag) for answer in found):
            self.prepared.forget()
        return found

    # -- a connection that died --

    def _prove(self) -> None:
        """Ask for an answer, and have another connection where none comes; one round trip."""
        within, self.prove_within = self.prove_within, None
        try:
            self._ask(messages.PROOF + messages.SYNC, within=within)
        except Exception as error:
            if not self._may_reopen(error):
                raise
            self._reopen(error)

    def _may_reopen(self, error: BaseException) -> bool:
        """Whether the connection died of *error*, and is one that has worked before."""
        exchange = self._exchange
        known = self.reopen is not None and exchange.answered > 0 and not self._is_special
        return known and exchange.lost and is_lost(error)

    def _reopen(self, error: BaseException) -> None:
        """Go on with another connection; raises ConnectFailure where none comes about."""
        if self.reopen is None:
            raise error
        fresh = self.reopen(error)
        old, self._driver, self._exchange = self._driver, fresh._driver, fresh._exchange
        pg8000_adapter.copy_types(old, self._driver)
        self.link, self.endpoint = fresh.link, fresh.endpoint
        self.rider, self.prepared = fresh.rider, fresh.prepared
        with contextlib.suppress(Exception):  # it is lost
            old.close()

    # -- text --

    def _encoded(self, statements: Sequence[Statement]) -> tuple[bytes, list[Answer]]:
        parts, answers = [], []
        for sql, values in statements:
            parameters = self._parameters(values, raw_bytes=True)
            body, answer = self.prepared.messages(self._text(sql), parameters, ())
            parts.append(body)
            answers.append(answer)
        return b"".join(parts), answers

    def _parameters(self, args: Sequence[Any], *, raw_bytes: bool = False) -> list[bytes | None]:
        encoding = self._exchange.encoding
        return pg8000_adapter.encoded(self._driver, args, encoding, raw_bytes=raw_bytes)

    def _text(self, sql: str) -> bytes:
        return sql.encode(self._exchange.encoding)


class _Meanwhile:
    """What *rider* does while the server works on COMMIT, and the error of it."""

    def __init__(self, rider: CommitRider | None) -> None:
        self._rider = rider
        self.error: Exception | None = None

    def __call__(self) -> None:
        try:
            if self._rider is not None:
                self._rider.under_way()
        except Exception as error:  # noqa: BLE001 - raised once COMMIT was answered
            self.error = error


def results_of(answers: Sequence[Answer]) -> list[Result]:
    """Return *answers* as results."""
    return [Result(answer.tag, answer.rows) for answer in answers]


def _not_committed(tag: str) -> Exception:
    return pg8000_adapter.fields_error(
        {
            "S": "ERROR",
            "V": "ERROR",
            "C": "25P02",  # in_failed_sql_transaction
            "M": f"COMMIT was answered with {tag}: the transaction is rolled back",
        }
    )
