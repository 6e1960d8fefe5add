# SPDX-License-Identifier: Apache-2.0
"""A DB-API connection that sends what belongs together in one flight."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from edgepaas.pgdriver import pg8000_adapter
from edgepaas.pgdriver.failures import is_lost
from edgepaas.pgdriver.flights import messages
from edgepaas.pgdriver.flights.answers import Answer, Result, Statement, count_of
from edgepaas.pgdriver.flights.copying import Copying
from edgepaas.pgdriver.flights.cursor import FlightCursor
from edgepaas.pgdriver.flights.driver_facade import DriverFacade
from edgepaas.pgdriver.flights.exchange import FAILED, IDLE
from edgepaas.pgdriver.flights.prepared import PreparedStatements
from edgepaas.pgdriver.flights.rider import CommitRider
from edgepaas.pgdriver.flights.statements import StatementText, examine, has_written, redefines

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


class FlightConnection(DriverFacade):
    """What SQLAlchemy's pg8000 dialect works with, over a *driver* of pg8000 that logged in.

    Outside of ``autocommit`` the first statement begins a transaction, in the same flight;
    :meth:`commit` and :meth:`rollback` cost nothing where nothing was sent. One thread at a
    time may use it. Errors are pg8000's; after one of the server the connection is as it
    says, after any other it is lost.
    """

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
        self.reopen: Callable[[BaseException], FlightConnection] | None = None
        #: Which statements the server keeps prepared.
        self.prepared = PreparedStatements()
        #: The rows of what was sent along with the login, and what is known from it of the
        #: session; both are set by who logged in.
        self.first_rows: list[Any] = []
        self.session: Any = None
        #: The rider of the open transaction, and whether that has written.
        self._riding: CommitRider | None = None
        self._wrote = False
        #: Whether the last error was of a statement kept prepared, which has not run.
        self._stale = False

    # -- what SQLAlchemy's dialect asks for --

    def cursor(self) -> FlightCursor:
        """Return a new cursor."""
        return FlightCursor(self)

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
        return _results(self._exchange.receive())

    def run_transaction(self, statements: Sequence[Statement]) -> list[Result]:
        """See :func:`run_flight`."""
        if self._exchange.status != IDLE:
            raise pg8000_adapter.programming_error("a transaction is open")
        if self.prove_within is not None and not self._exchange.is_quiet():
            self._prove()
        within, self.prove_within = self.prove_within, None
        self._stale = False
        try:
            return self._run_transaction(statements, within)
        except Exception:
            if not self._stale or self._exchange.lost:
                raise
        return self._run_transaction(statements, None)

    def _run_transaction(
        self, statements: Sequence[Statement], within: float | None
    ) -> list[Result]:
        opening, first = self._opening()
        body, answers = self._encoded(statements)
        flight = opening + body if within is None else messages.PROOF + opening + body
        return self._end(flight, [*first, *answers], within)[len(first) :]

    # -- the ends of a transaction --

    def _opening(self) -> tuple[bytes, list[Answer]]:
        """Return what begins a transaction, and its answers to be read."""
        if self._exchange.lost:
            raise pg8000_adapter.interface_error("connection is closed")
        self._wrote = False
        self._riding = self.rider
        body, answers = self._encoded(() if self._riding is None else self._riding.begin())
        return messages.BEGIN + body, [Answer(), *answers]

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
            results = _results(self._ask(flight, [*answers, *more], within=within))
            if results[-1].tag != "COMMIT":
                raise _not_committed(results[-1].tag)
        except BaseException as error:
            self._give_up(error)
            raise
        self._riding = None
        if rider is not None:
            rider.committed(results[count:-1])
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
            body, answers = make()
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
        return answers

    def _ask(
        self,
        flight: bytes,
        answers: Sequence[Answer] = (),
        *,
        copying: Copying | None = None,
        within: float | None = None,
    ) -> list[Answer]:
        """Send *flight* and return its answers, the first of which are *answers*."""
        exchange = self._exchange
        try:
            exchange.send(flight)
            found = exchange.receive(answers, copying=copying, first_within=within)
        except BaseException as error:
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
        known = self.reopen is not None and exchange.answered > 0
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


def run_flight(connection: FlightConnection, statements: Sequence[Statement]) -> list[Result]:
    """Run *statements* as one transaction in one round trip; return their results.

    BEGIN, what the connection's rider sends first, *statements*, what it sends at the end and
    COMMIT stand before one Sync. So nothing can be decided between them, and a lost answer
    leaves everything open: for inserts of facts, whose repetition changes nothing. Raises
    the first error that the server reports; the transaction is then rolled back.
    """
    return connection.run_transaction(statements)


def _results(answers: Sequence[Answer]) -> list[Result]:
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
