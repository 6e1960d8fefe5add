# SPDX-License-Identifier: Apache-2.0
"""A DB-API connection that sends what belongs together in one flight."""

from collections.abc import Callable, Sequence
from typing import Any

from edgepaas.pgdriver import pg8000_adapter
from edgepaas.pgdriver.flights import messages
from edgepaas.pgdriver.flights.answers import Answer, Result, Statement, count_of
from edgepaas.pgdriver.flights.copying import Copying
from edgepaas.pgdriver.flights.cursor import FlightCursor
from edgepaas.pgdriver.flights.exchange import IDLE
from edgepaas.pgdriver.flights.statements import StatementText, examine, has_written
from edgepaas.pgdriver.flights.transactions import TransactionFlights, results_of

#: Statements of an executemany in one flight: their answers have to fit into the buffers
#: between the two ends, since they are not read before all is sent.
MANY_AT_ONCE = 200

#: Returns the messages of statements, and their answers to be read; called when they are sent.
_Make = Callable[[], tuple[bytes, list[Answer]]]


class SimpleAnswer:
    """What a simple query gave: the rows of all its statements, and how many were handled."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.rows = [row for answer in answers for row in answer.rows]
        counts = [count for answer in answers if (count := count_of(answer.tag)) >= 0]
        self.row_count = sum(counts) if counts else -1


class FlightConnection(TransactionFlights):
    """What SQLAlchemy's pg8000 dialect works with, over a *driver* of pg8000 that logged in.

    Outside of ``autocommit`` the first statement begins a transaction, in the same flight;
    :meth:`commit` and :meth:`rollback` cost nothing where nothing was sent. One thread at a
    time may use it. Errors are pg8000's; after one of the server the connection is as it
    says, after any other it is lost.
    """

    # -- what SQLAlchemy's dialect asks for --

    def cursor(self) -> FlightCursor:
        """Return a new cursor."""
        return FlightCursor(self)

    # -- statements --

    def run_statement(
        self, sql: str, args: Sequence[Any] = (), *, types: Sequence[int] = (), stream: Any = None
    ) -> list[Answer]:
        """Run *sql* with *args* for each ``%s``, in one flight.

        Without *args* it may be several statements. *types*: OIDs of the parameters; the
        server infers those that are 0 or not given. *stream* is for COPY.
        """
        text = examine(sql)
        if text.commits or text.rolls_back:
            return [self._run_end(text)]
        if not args and stream is None and not text.single:
            return self._run_simple(sql, text)
        numbered = sql if not args and stream is None else pg8000_adapter.numbered(sql)
        encoded = self._text(numbered)
        if stream is not None:
            copying = Copying(stream, self._exchange.encoding)
            body = messages.statement(encoded, self._parameters(args), types)
            return self._run(lambda: (body, [Answer()]), text, copying=copying)
        parameters = self._parameters(args)

        def make() -> tuple[bytes, list[Answer]]:
            body, answer = self.prepared.messages(encoded, parameters, types)
            return body, [answer]

        return self._run(make, text)

    def run_many(
        self, sql: str, rows: Sequence[Sequence[Any]], *, types: Sequence[int] = ()
    ) -> list[Answer]:
        """Run *sql* with each of *rows*: in a transaction many of them in one flight.

        In ``autocommit`` each is a transaction of its own, and the first error ends it.
        """
        text = examine(sql)
        alone = self.autocommit and self._exchange.status == IDLE
        if alone or not all(rows) or text.commits or text.rolls_back:
            return [
                answer for args in rows for answer in self.run_statement(sql, args, types=types)
            ]
        answers: list[Answer] = []
        parse = messages.parse(self._text(pg8000_adapter.numbered(sql)), types=types)
        for start in range(0, len(rows), MANY_AT_ONCE):
            body = parse + b"".join(
                messages.bind(self._parameters(args)) + messages.DESCRIBE + messages.EXECUTE
                for args in rows[start : start + MANY_AT_ONCE]
            )
            answers += self._run(lambda body=body: (body, []), text)  # type: ignore[misc]
        return answers

    def execute_simple(self, sql: str) -> SimpleAnswer:
        """Run *sql*, one or several statements, as a simple query; it begins no transaction."""
        return SimpleAnswer(self._ask(messages.query(self._text(sql))))

    def answer_to_sent(self) -> SimpleAnswer:
        """Return the answer to a simple query that was sent along with the login."""
        self._exchange.unanswered += 1
        return SimpleAnswer(self._exchange.receive())

    def send_statements(self, statements: Sequence[Statement]) -> None:
        """Send *statements* in a flight, as they are, without waiting for its answers.

        What this raises, UnicodeEncodeError among it, it raises before anything is sent, but
        for the link's own errors.
        """
        body = b"".join(
            messages.statement(self._text(sql), self._parameters(values, raw_bytes=True))
            for sql, values in statements
        )
        self._exchange.send(body + messages.SYNC)

    def receive_results(self) -> list[Result]:
        """Return the results of the earliest flight of :meth:`send_statements` not read yet."""
        return results_of(self._exchange.receive())

    # -- flights --

    def _run(
        self, make: _Make, text: StatementText, *, copying: Copying | None = None
    ) -> list[Answer]:
        """Run statements, in a transaction that is begun where none is open."""
        if self._exchange.status == IDLE:
            return self._run_first(make, text, copying)
        body, answers = make()
        return self._noted(self._ask(body + messages.SYNC, answers, copying=copying), text)

    def _run_first(self, make: _Make, text: StatementText, copying: Copying | None) -> list[Answer]:
        """Run the first statements of a transaction, or those that are one by themselves.

        They are sent again, once, on a connection in the place of one that died: nothing of
        them is committed, or they only read.
        """
        begin = not self.autocommit and not (self.plain_reads and text.reading)
        if self._exchange.lost:
            raise pg8000_adapter.interface_error("connection is closed")
        self.plain_reads = self.plain_reads and not begin
        repeatable = (begin or text.reading) and copying is None
        within = self.prove_within if repeatable else None
        self.prove_within = None
        again = True
        while True:
            opening, first = self._opening() if begin else (b"", [])
            try:
                body, answers = make()
            except BaseException as error:
                self._not_begun(error)
                raise
            flight = opening + body + messages.SYNC
            if within is not None:
                flight = messages.PROOF + flight
            try:
                found = self._ask(flight, [*first, *answers], copying=copying, within=within)
            except Exception as error:
                if not again:
                    raise
                if self._stale and not self._exchange.lost:
                    self._give_up(error)
                elif repeatable and self._may_reopen(error):
                    self._reopen(error)
                else:
                    raise
                again, within = False, None
            else:
                return self._noted(found[len(first) :], text)

    def _run_simple(self, sql: str, text: StatementText) -> list[Answer]:
        """Run the statements *sql*; BEGIN is one of them, so that none runs if it fails."""
        skipped = 0
        if self.prove_within is not None:
            self._prove()
        if self._exchange.status == IDLE and not self.autocommit:
            self.plain_reads = False
            opening, first = self._opening()
            if len(first) > 1:
                self._ask(opening + messages.SYNC, first)
            else:
                sql, skipped = f"BEGIN;{sql}", 1
        return self._noted(self._ask(messages.query(self._text(sql)))[skipped:], text)

    def _run_end(self, text: StatementText) -> Answer:
        answer = Answer()
        answer.tag = "COMMIT" if text.commits else "ROLLBACK"
        if text.commits:
            self.commit()
        else:
            self.rollback()
        return answer

    def _noted(self, answers: list[Answer], text: StatementText) -> list[Answer]:
        self._wrote = self._wrote or any(has_written(answer.tag, text) for answer in answers)
        self._is_special = self._is_special or text.for_session
        return answers


def run_flight(
    connection: FlightConnection, statements: Sequence[Statement], known: Any = None
) -> list[Result]:
    """Run *statements* as one transaction in one round trip; return their results.

    BEGIN, what the connection's rider sends first, *statements*, what it sends at the end and
    COMMIT stand before one Sync. So nothing can be decided between them, and a lost answer
    leaves everything open: for inserts of facts, whose repetition changes nothing. *known*: what
    the rider is told of them (CommitRider.expect). Raises the first error that the server
    reports; the transaction is then rolled back.
    """
    return connection.run_transaction(statements, known)
