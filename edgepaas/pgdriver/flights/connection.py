# SPDX-License-Identifier: Apache-2.0
"""A DB-API connection that sends what belongs together in one flight."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from edgepaas.pgdriver import pg8000_adapter
from edgepaas.pgdriver.flights import messages
from edgepaas.pgdriver.flights.answers import Answer, Result, Statement, count_of
from edgepaas.pgdriver.flights.copying import Copying
from edgepaas.pgdriver.flights.cursor import FlightCursor
from edgepaas.pgdriver.flights.exchange import FAILED, IDLE, Exchange
from edgepaas.pgdriver.flights.rider import CommitRider
from edgepaas.pgdriver.flights.statements import StatementText, examine, has_written

#: Statements of an executemany in one flight: their answers have to fit into the buffers
#: between the two ends, since they are not read before all is sent.
MANY_AT_ONCE = 200


class SimpleAnswer:
    """What a simple query gave: the rows of all its statements, and how many were handled."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.rows = [row for answer in answers for row in answer.rows]
        counts = [count for answer in answers if (count := count_of(answer.tag)) >= 0]
        self.row_count = sum(counts) if counts else -1


class FlightConnection:
    """What SQLAlchemy's pg8000 dialect works with, over a *driver* of pg8000 that logged in.

    Outside of ``autocommit`` the first statement begins a transaction, in the same flight;
    :meth:`commit` and :meth:`rollback` cost nothing where nothing was sent. One thread at a
    time may use it. Errors are pg8000's; after one of the server the connection is as it
    says, after any other it is lost.
    """

    def __init__(self, driver: Any) -> None:
        self.autocommit = False
        #: Has its statements sent with each transaction's first and last flight.
        self.rider: CommitRider | None = None
        self.link = driver.link
        #: The server's place, for messages.
        self.endpoint = ""
        self._driver = driver
        self._exchange = Exchange(driver)
        #: That of the open transaction.
        self._riding: CommitRider | None = None
        self._wrote = False

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
        rider = self._riding if self._wrote else None
        self._riding = rider
        self._end(b"", rider, 0)

    def rollback(self) -> None:
        """Roll back; costs nothing outside of a transaction."""
        if self._exchange.status != IDLE or self._exchange.lost:
            self._roll_back(None)

    def close(self) -> None:
        """Close the connection; raises InterfaceError where it is closed already, or lost."""
        self._exchange.lost = True
        self._driver.close()

    def register_in_adapter(self, oid: int, decode: Callable[[str], Any]) -> None:
        """Have values of the type *oid* decoded by *decode*, from their text."""
        self._driver.register_in_adapter(oid, decode)
        self._exchange.forget_formats()

    def register_out_adapter(self, kind: type, encode: Callable[[Any], Any]) -> None:
        """Have parameters of the Python type *kind* become text by *encode*."""
        self._driver.register_out_adapter(kind, encode)

    @property
    def py_types(self) -> dict[type, Callable[[Any], Any]]:
        """What makes text of a parameter, by its Python type; may be added to."""
        known: dict[type, Callable[[Any], Any]] = self._driver.py_types
        return known

    @property
    def parameter_statuses(self) -> dict[str, str]:
        """What the server reported of its settings, by name."""
        reported: dict[str, str] = self._driver.parameter_statuses
        return reported

    @property
    def notices(self) -> Sequence[dict[bytes, bytes]]:
        """The last notices and warnings, by the codes of their fields; the oldest first."""
        received: Sequence[dict[bytes, bytes]] = self._driver.notices
        return received

    @property
    def notifications(self) -> Sequence[tuple[int, str, str]]:
        """The last notifications: process, channel, payload."""
        received: Sequence[tuple[int, str, str]] = self._driver.notifications
        return received

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, perhaps a failed one."""
        return self._exchange.status != IDLE

    @property
    def lost(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._exchange.lost

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
        copying = None if stream is None else Copying(stream, self._exchange.encoding)
        numbered = sql if not args and stream is None else pg8000_adapter.numbered(sql)
        body = messages.statement(self._text(numbered), self._parameters(args), types)
        return self._run(body, text, copying=copying)

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
            answers += self._run(body, text)
        return answers

    def execute_simple(self, sql: str) -> SimpleAnswer:
        """Run *sql*, one or several statements, as a simple query; it begins no transaction."""
        return SimpleAnswer(self._ask(messages.query(self._text(sql))))

    def send_statements(self, statements: Sequence[Statement]) -> None:
        """Send *statements* in a flight, as they are, without waiting for its answers.

        What this raises, UnicodeEncodeError among it, it raises before anything is sent, but
        for the link's own errors.
        """
        self._exchange.send(self._encoded(statements) + messages.SYNC)

    def receive_results(self) -> list[Result]:
        """Return the results of the earliest flight of :meth:`send_statements` not read yet."""
        return _results(self._exchange.receive())

    def run_transaction(self, statements: Sequence[Statement]) -> list[Result]:
        """See :func:`run_flight`."""
        if self._exchange.status != IDLE:
            raise pg8000_adapter.programming_error("a transaction is open")
        opening, skipped = self._opening(self._encoded(statements))
        results = self._end(opening, self._riding, skipped + len(statements))
        return results[skipped:]

    # -- the ends of a transaction --

    def _opening(self, statement: bytes, *, begin: bool = True) -> tuple[bytes, int]:
        """Return *statement* after what begins its transaction, and how many answers that has."""
        if not begin:
            return statement, 0
        self._wrote = False
        self._riding = self.rider
        first = () if self._riding is None else self._riding.begin()
        return messages.BEGIN + self._encoded(first) + statement, 1 + len(first)

    def _end(self, before: bytes, rider: CommitRider | None, count: int) -> list[Result]:
        """Send *before*, what *rider* has to send, and COMMIT; *count*: answers to *before*.

        Returns the results of *before*. Whatever is raised, the transaction is over.
        """
        try:
            ending = () if rider is None else rider.ending()
            flight = before + self._encoded(ending) + messages.COMMIT + messages.SYNC
            if rider is not None:
                rider.sent()
            results = _results(self._ask(flight))
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
        self, body: bytes, text: StatementText, *, copying: Copying | None = None
    ) -> list[Answer]:
        """Run the statements *body*, in a transaction that is begun where none is open."""
        begin = self._exchange.status == IDLE and not self.autocommit
        flight, skipped = self._opening(body, begin=begin)
        return self._noted(self._ask(flight + messages.SYNC, copying=copying)[skipped:], text)

    def _run_simple(self, sql: str, text: StatementText) -> list[Answer]:
        """Run the statements *sql*; BEGIN is one of them, so that none runs if it fails."""
        skipped = 0
        if self._exchange.status == IDLE and not self.autocommit:
            opening, first = self._opening(b"")
            if first > 1:
                self._ask(opening + messages.SYNC)
            else:
                sql, skipped = f"BEGIN;{sql}", first
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

    def _ask(self, flight: bytes, *, copying: Copying | None = None) -> list[Answer]:
        """Send *flight* and return its answers."""
        exchange = self._exchange
        try:
            exchange.send(flight)
            return exchange.receive(copying=copying)
        except BaseException as error:
            if exchange.lost or exchange.status == IDLE:
                self._tell_failed(error)
            raise

    def _encoded(self, statements: Sequence[Statement]) -> bytes:
        parts = []
        for sql, values in statements:
            encoding = self._exchange.encoding
            parameters = pg8000_adapter.encoded(self._driver, values, encoding)
            parts.append(messages.statement(self._text(sql), parameters))
        return b"".join(parts)

    def _parameters(self, args: Sequence[Any]) -> list[bytes | None]:
        encoding = self._exchange.encoding
        return pg8000_adapter.encoded(self._driver, args, encoding, raw_bytes=False)

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
