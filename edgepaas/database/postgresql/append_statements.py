# SPDX-License-Identifier: Apache-2.0
"""Appended facts as the statements of one flight, whose COMMIT travels with them.

Nothing can be decided between statements that are sent together. So a job is stored where none
of its facts is there yet, which is nearly always so, and is left alone as a whole where one
is: the answer names such jobs, and they go the way of :func:`~edgepaas.database.append
.append_in_session`, which compares. What the server refuses undoes the flight.
"""

# ruff: noqa: S608 - names come from the application's models, quoted; every value is a parameter

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from json.encoder import encode_basestring
from typing import Any

from sqlalchemy import Dialect, Table
from sqlalchemy.dialects.postgresql.pg8000 import PGDialect_pg8000
from sqlalchemy.types import TypeEngine

from edgepaas.database.append import AppendJob
from edgepaas.database.bulk_insert import Row, key_of
from edgepaas.database.postgresql.json_values import Converter, is_sent_as_text, json_converters
from edgepaas.database.types import Number, Text, UtcDateTime, Uuid, dump_json
from edgepaas.pgdriver.flights import Result, Statement

_DIALECT: Dialect = PGDialect_pg8000()  # type: ignore[no-untyped-call]
_QUOTE = _DIALECT.identifier_preparer

#: The column that says which job of the flight a row belongs to, and its place among them.
_JOB = "edgepaas_job"
_PLACE = "edgepaas_place"

#: Columns of rows: a table, and the names that each row has.
_Shape = tuple[Table, tuple[str, ...]]


class CannotTravel(Exception):
    """A job cannot be a part of a flight: its ordinary way says why, or stores it."""


@dataclass(frozen=True)
class _Kind:
    """What jobs have in common that one statement stores: the shapes of their rows."""

    facts: _Shape
    before: tuple[_Shape, ...]
    following: tuple[_Shape, ...]


@dataclass(frozen=True)
class PreparedJob:
    """A job whose rows are encoded, as a JSON array for each shape of its kind."""

    job: AppendJob
    kind: _Kind
    facts: str
    before: Sequence[str]
    following: Sequence[str]
    #: How many rows follow, and which they are.
    followed: int
    following_rows: Mapping[Table, Sequence[Row]]


def prepare(job: AppendJob) -> PreparedJob:
    """Return *job* with its rows as they travel; raises CannotTravel.

    ``following`` is asked for the rows that follow when all of the facts are new.
    """
    following: dict[_Shape, list[str]] = {}
    following_rows: Mapping[Table, Sequence[Row]] = {}
    try:
        facts = _shape(job.table, job.distinct)
        before = {_shape(table, rows): rows for table, rows in job.before.items() if rows}
        if job.following is not None:
            following_rows = job.following(job.positions.keys())
            for table, rows in following_rows.items():
                for row in rows:
                    shape = _shape(table, [row])
                    _check_complete(shape)
                    some = following.setdefault(shape, [])
                    some.append(f'{{"{_PLACE}":{len(some)},{_written(shape, [row])[1:]}')
        return PreparedJob(
            job,
            _Kind(facts, tuple(before), tuple(following)),
            _array([_written(facts, job.distinct)]),
            [_array([_written(shape, rows)]) for shape, rows in before.items()],
            [_array(rows) for rows in following.values()],
            sum(map(len, following.values())),
            following_rows,
        )
    except Exception as error:
        raise CannotTravel(str(error)) from error  # the ordinary way meets it again


class Flight:
    """The statements for some jobs, and what their results say of each job.

    *stored*: about how many facts the calling process has stored. The server keeps the plan of a
    text that a session repeats, also one that it made while the table was small, where reading
    it whole was the cheapest; it makes another when the statistics are renewed, a minute later
    at best. So the text is another whenever four times as many are stored.
    """

    def __init__(self, jobs: Sequence[PreparedJob], *, stored: int = 0) -> None:
        by_kind: dict[_Kind, list[PreparedJob]] = {}
        for one in jobs:
            by_kind.setdefault(one.kind, []).append(one)
        self._parts = list(by_kind.values())
        #: Those of the statements, in their order.
        self.kinds = list(by_kind)
        #: How many facts travel.
        self.rows = sum(len(one.job.distinct) for one in jobs)
        self.statements: list[Statement] = [
            (_statement(kind, stored.bit_length() // 2), _parameters(some))
            for kind, some in by_kind.items()
        ]

    def left_out(self, results: Sequence[Result]) -> list[PreparedJob]:
        """Return the jobs of which nothing was stored, since some of their facts were there.

        Those are also returned whose rows were fewer in the end than were sent: something in
        the server took them away. *results* are those of :attr:`statements`.
        """
        found: list[PreparedJob] = []
        for part, answer in zip(self._parts, results, strict=True):
            stored, followed, there = answer.rows[0][:3]
            left = set(json.loads(there))
            kept = [one for number, one in enumerate(part, 1) if number not in left]
            if int(stored) != sum(len(one.job.distinct) for one in kept) or int(followed) != sum(
                one.followed for one in kept
            ):
                left.update(range(1, len(part) + 1))
            found += [one for number, one in enumerate(part, 1) if number in left]
        return found


def inserted_before(flight: Flight, results: Sequence[Result]) -> set[tuple[str, str]]:
    """Return the rows that went before the facts and were inserted: table, and key as text."""
    return {
        (shape[0].name, key)
        for kind, answer in zip(flight.kinds, results, strict=True)
        for shape, keys in zip(kind.before, answer.rows[0][3:], strict=True)
        if keys is not None
        for key in json.loads(keys)
    }


def tables_of(jobs: Iterable[PreparedJob]) -> list[str]:
    """Return the names of the tables that *jobs* write to, the facts' last."""
    kinds = list(dict.fromkeys(one.kind for one in jobs))
    names = [
        *(table.name for kind in kinds for table, _ in (*kind.before, *kind.following)),
        *(kind.facts[0].name for kind in kinds),
    ]
    return list(dict.fromkeys(reversed(names)))[::-1]


def _parameters(jobs: Sequence[PreparedJob]) -> list[str]:
    """Return the parameters of :func:`_statement` for *jobs* of one kind."""
    keys = ",".join(str(key) for one in jobs for key in one.job.positions)
    kind = jobs[0].kind
    return [
        _array(one.facts for one in jobs),
        f"{{{keys}}}",
        *(_array(one.before[at] for one in jobs) for at in range(len(kind.before))),
        *(_array(one.following[at] for one in jobs) for at in range(len(kind.following))),
    ]


def _shape(table: Table, rows: Sequence[Row]) -> _Shape:
    return table, tuple(rows[0])


def _array(texts: Iterable[str]) -> str:
    return f"[{','.join(texts)}]"


def _written(shape: _Shape, rows: Sequence[Row]) -> str:
    """Return *rows* as JSON objects in a row; raises what their columns refuse them with.

    Also raises ValueError for text that PostgreSQL does not store: the server would refuse the
    whole flight for it.
    """
    writers = _writers(shape)
    text = ",".join(
        [
            f"{{{','.join([f'{start}{write(row[name])}' for name, start, write in writers])}}}"
            for row in rows
        ]
    )
    if "\\u0000" in text:
        raise ValueError("text with a NUL character, perhaps")
    text.encode("utf-8")  # UnicodeEncodeError for a lone surrogate
    return text


@cache
def _writers(shape: _Shape) -> list[tuple[str, str, Callable[[Any], str]]]:
    """Return each column's name, the JSON before its value, and what writes the value."""
    table, names = shape
    return [
        (name, f"{encode_basestring(name)}:", _writer(table.c[name].type, convert))
        for name, convert in json_converters(table, names, _DIALECT)
    ]


def _writer(kind: TypeEngine[Any], convert: Converter | None) -> Callable[[Any], str]:
    """Return what writes a value of *kind*; *convert* is its converter."""
    if convert is None and isinstance(kind, Text):

        def write_text(value: Any) -> str:
            return "null" if value is None else encode_basestring(value)

        return write_text
    if convert is None:
        return dump_json
    if isinstance(kind, Uuid):

        def write_uuid(value: Any) -> str:
            return "null" if value is None else f'"{value}"'

        return write_uuid
    if isinstance(kind, Number | UtcDateTime):  # whose text needs no escape

        def write_plainly(value: Any) -> str:
            return "null" if value is None else f'"{convert(value)}"'

        return write_plainly
    return lambda value: dump_json(convert(value))


def _check_complete(shape: _Shape) -> None:
    """Raise CannotTravel where SQLAlchemy would fill a column in."""
    table, names = shape
    for one in table.columns:
        if one.default is not None and one.name not in names:
            raise CannotTravel(f"{table.name}.{one.name} is filled in")


# -- the statements' texts --


@cache
def _statement(kind: _Kind, growth: int) -> str:
    """Return what stores the facts of $1, whose keys are $2, and the rows of $3 and on.

    A text of its own for each *growth*.

    Each but $2 is an array with an array of rows for each job: those that have to be there
    before, then those that follow. The keys are looked up as an array of their own: only so
    does the planner know how many they are. The one row of the answer says how many facts and
    how many rows that follow were stored, which jobs, from 1, were left out since a fact of
    theirs is there, and for each of ``before`` the keys of the rows that were inserted.
    """
    table, names = kind.facts
    name, key = _QUOTE.format_table(table), _QUOTE.quote(key_of(table).name)
    new = f"given.{_JOB} NOT IN (SELECT job FROM there)"
    parts = [
        f"given AS ({_rows_of(1, _typed(kind.facts))})",
        f"there AS (SELECT DISTINCT given.{_JOB} AS job FROM given WHERE given.{key} IN "
        f"(SELECT known.{key} FROM {name} AS known WHERE known.{key} = ANY ($2::uuid[])))",
        f"stored AS (INSERT INTO {name} ({_listed(names)}) "
        f"SELECT {_selected(kind.facts)} FROM given WHERE {new} RETURNING 1)",
    ]
    inserted = []
    for number, shape in enumerate(kind.before):
        one = _QUOTE.quote(key_of(shape[0]).name)
        parts.append(
            f"before{number} AS (INSERT INTO {_QUOTE.format_table(shape[0])} "
            f"({_listed(shape[1])}) SELECT DISTINCT ON (given.{one}) {_selected(shape)} "
            f"FROM ({_rows_of(number + 3, _typed(shape))}) AS given WHERE {new} "
            # In one order everywhere, so that two flights do not wait for each other.
            f"ORDER BY given.{one} ON CONFLICT DO NOTHING RETURNING {one} AS key)"
        )
        inserted.append(f"(SELECT json_agg(key)::text FROM before{number})")
    counts = []
    for number, shape in enumerate(kind.following):
        rows = _rows_of(number + 3 + len(kind.before), f"{_typed(shape)}, {_PLACE} integer")
        parts.append(
            f"followed{number} AS (INSERT INTO {_QUOTE.format_table(shape[0])} "
            f"({_listed(shape[1])}) SELECT {_selected(shape)} FROM ({rows}) AS given "
            f"WHERE {new} ORDER BY given.{_JOB}, given.{_PLACE} RETURNING 1)"
        )
        counts.append(f"(SELECT count(*) FROM followed{number})")
    return (
        f"/* {growth} */ WITH {', '.join(parts)} SELECT (SELECT count(*) FROM stored), "
        f"{' + '.join(counts) or '0'}, "
        "(SELECT coalesce(json_agg(job), '[]'::json)::text FROM there)"
        f"{''.join(f', {one}' for one in inserted)}"
    )


def _rows_of(parameter: int, columns: str) -> str:
    """Return the query for the rows of a parameter, with the number of the job of each."""
    return (
        f"SELECT jobs.number AS {_JOB}, one.* "
        f"FROM jsonb_array_elements(${parameter}::jsonb) WITH ORDINALITY AS jobs(rows, number), "
        f"jsonb_to_recordset(jobs.rows) AS one({columns})"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_QUOTE.quote(name) for name in names)


def _typed(shape: _Shape) -> str:
    """Return the columns with the types as which they travel."""
    table, names = shape
    return ", ".join(
        f"{_QUOTE.quote(name)} "
        + ("text" if is_sent_as_text(kind, _DIALECT) else kind.compile(_DIALECT))
        for name in names
        for kind in (table.c[name].type,)
    )


def _selected(shape: _Shape) -> str:
    table, names = shape
    return ", ".join(
        f"CAST(given.{_QUOTE.quote(name)} AS {kind.compile(_DIALECT)})"
        if is_sent_as_text(kind, _DIALECT)
        else f"given.{_QUOTE.quote(name)}"
        for name in names
        for kind in (table.c[name].type,)
    )
