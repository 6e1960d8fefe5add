# SPDX-License-Identifier: Apache-2.0
"""Appended facts as the statements of one flight, whose COMMIT travels with them.

Nothing can be decided between statements that are sent together. So a job is stored where none
of its facts is there yet, which is nearly always so, and is left alone as a whole where one
is: the answer names such jobs, and they go the way of :func:`~edgepaas.database.append
.append_in_session`, which compares. What the server refuses undoes the flight.
"""

# ruff: noqa: S608 - names come from the application's models, quoted; every value is a parameter

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Dialect, Table
from sqlalchemy.dialects.postgresql.pg8000 import PGDialect_pg8000

from edgepaas.database.append import AppendJob
from edgepaas.database.bulk_insert import Row, key_of
from edgepaas.database.postgresql.json_values import is_sent_as_text, json_converters
from edgepaas.database.types import dump_json
from edgepaas.pgdriver.flights import Result, Statement

_DIALECT: Dialect = PGDialect_pg8000()
_QUOTE = _DIALECT.identifier_preparer

#: The column that says which job of the flight a row belongs to, and its place among them.
_JOB = "edgepaas_job"
_PLACE = "edgepaas_place"

#: Columns of rows: a table, and the names that each row has.
_Shape = tuple[Table, tuple[str, ...]]


class CannotTravel(Exception):
    """A job cannot be a part of a flight: its ordinary way says why, or stores it."""


@dataclass(frozen=True)
class PreparedJob:
    """A job whose rows are encoded: those of its table and those that follow, by their shape."""

    job: AppendJob
    facts: _Shape
    #: The rows as a JSON array, and the number of rows that follow.
    rows: str
    following: Mapping[_Shape, str]
    followed: int


def prepare(job: AppendJob) -> PreparedJob:
    """Return *job* with its rows as they travel; raises CannotTravel.

    ``following`` is asked for the rows that follow when all of the facts are new.
    """
    facts = _shape(job.table, job.distinct)
    by_shape: dict[_Shape, list[dict[str, Any]]] = {}
    try:
        rows = dump_json(_encoded(facts, job.distinct))
        if job.following is not None:
            for table, more in job.following(job.positions.keys()).items():
                for row in more:
                    shape = _shape(table, [row])
                    _check_complete(shape)
                    some = by_shape.setdefault(shape, [])
                    some += [{**one, _PLACE: len(some)} for one in _encoded(shape, [row])]
        following = {shape: dump_json(some) for shape, some in by_shape.items()}
    except Exception as error:
        raise CannotTravel(str(error)) from error  # the ordinary way meets it again
    return PreparedJob(job, facts, rows, following, sum(map(len, by_shape.values())))


class Flight:
    """The statements for some jobs, and what their results say of each job."""

    def __init__(self, jobs: Sequence[PreparedJob]) -> None:
        self._jobs = jobs
        by_kind: dict[tuple[_Shape, tuple[_Shape, ...]], list[int]] = {}
        for number, one in enumerate(jobs):
            by_kind.setdefault((one.facts, tuple(one.following)), []).append(number)
        self._kinds = list(by_kind.items())
        parents = [_parents(table, rows) for table, rows in _merged(jobs).items()]
        self._skipped = len(parents)
        self.statements: list[Statement] = [
            *parents,
            *(self._facts(kind, numbers) for kind, numbers in self._kinds),
        ]

    def left_out(self, results: Sequence[Result]) -> list[PreparedJob]:
        """Return the jobs of which nothing was stored, since some of their facts were there.

        Those are also returned whose rows were fewer in the end than were sent: something in
        the server took them away. *results* are those of :attr:`statements`.
        """
        found: list[PreparedJob] = []
        answers = results[self._skipped :]
        for (_, numbers), answer in zip(self._kinds, answers, strict=True):
            stored, followed, there = answer.rows[0]
            left = set(json.loads(there))
            kept = [self._jobs[number] for at, number in enumerate(numbers, 1) if at not in left]
            sent = sum(len(one.job.distinct) for one in kept)
            if int(stored) != sent or int(followed) != sum(one.followed for one in kept):
                left.update(range(1, len(numbers) + 1))
            found += [self._jobs[number] for at, number in enumerate(numbers, 1) if at in left]
        return found

    def _facts(self, kind: tuple[_Shape, tuple[_Shape, ...]], numbers: Sequence[int]) -> Statement:
        facts, following = kind
        jobs = [self._jobs[number] for number in numbers]
        keys = ",".join(str(key) for one in jobs for key in one.job.positions)
        more = [_array(one.following[shape] for one in jobs) for shape in following]
        return _facts_statement(facts, following), [
            _array(one.rows for one in jobs),
            f"{{{keys}}}",
            *more,
        ]


def tables_of(jobs: Iterable[PreparedJob]) -> list[str]:
    """Return the names of the tables that *jobs* write to, the facts' last."""
    facts = {one.facts[0].name: None for one in jobs}
    others = {
        table.name: None
        for one in jobs
        for table in (*one.job.before, *(shape[0] for shape in one.following))
    }
    return [*(name for name in others if name not in facts), *facts]


def _shape(table: Table, rows: Sequence[Row]) -> _Shape:
    return table, tuple(rows[0])


def _array(texts: Iterable[str]) -> str:
    return f"[{','.join(texts)}]"


def _encoded(shape: _Shape, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return *rows* as JSON holds them; raises what their columns refuse them with."""
    table, names = shape
    converters = json_converters(table, names, _DIALECT)
    return [
        {name: row[name] if convert is None else convert(row[name]) for name, convert in converters}
        for row in rows
    ]


def _check_complete(shape: _Shape) -> None:
    """Raise CannotTravel where SQLAlchemy would fill a column in."""
    table, names = shape
    for one in table.columns:
        if one.default is not None and one.name not in names:
            raise CannotTravel(f"{table.name}.{one.name} is filled in")


def _merged(jobs: Sequence[PreparedJob]) -> dict[Table, list[Row]]:
    """Return the rows that have to be there before, each once, in the order of their keys."""
    merged: dict[Table, dict[uuid.UUID, Row]] = {}
    for one in jobs:
        for table, rows in one.job.before.items():
            known = merged.setdefault(table, {})
            key = key_of(table).name
            for row in rows:
                known.setdefault(row[key], row)
    # In one order everywhere, so that two flights do not wait for each other.
    return {table: [rows[key] for key in sorted(rows)] for table, rows in merged.items() if rows}


def _parents(table: Table, rows: Sequence[Row]) -> Statement:
    shape = _shape(table, rows)
    return _parents_statement(shape), [dump_json(_encoded(shape, rows))]


# -- the statements' texts --


@cache
def _parents_statement(shape: _Shape) -> str:
    """Return what inserts the rows of $1 that are missing."""
    table, names = shape
    return (
        f"INSERT INTO {_QUOTE.format_table(table)} ({_listed(names)}) "
        f"SELECT {_selected(shape)} FROM jsonb_to_recordset($1::jsonb) AS given({_typed(shape)}) "
        "ON CONFLICT DO NOTHING"
    )


@cache
def _facts_statement(facts: _Shape, following: tuple[_Shape, ...]) -> str:
    """Return what stores the facts of $1, whose keys are $2, and what follows, of $3 and on.

    Each but $2 is an array with an array of rows for each job. The keys are looked up as an
    array of their own: only so does the planner know how many they are. The one row of the
    answer says how many facts and how many rows that follow were stored, and which jobs, from 1,
    were left out since a fact of theirs is there.
    """
    table, names = facts
    name, key = _QUOTE.format_table(table), _QUOTE.quote(key_of(table).name)
    new = f"given.{_JOB} NOT IN (SELECT job FROM there)"
    parts = [
        f"given AS ({_rows_of(1, _typed(facts))})",
        f"there AS (SELECT DISTINCT given.{_JOB} AS job FROM given WHERE given.{key} IN "
        f"(SELECT known.{key} FROM {name} AS known WHERE known.{key} = ANY ($2::uuid[])))",
        f"stored AS (INSERT INTO {name} ({_listed(names)}) "
        f"SELECT {_selected(facts)} FROM given WHERE {new} RETURNING 1)",
    ]
    counts = []
    for number, shape in enumerate(following):
        target, columns = shape
        rows = _rows_of(number + 3, f"{_typed(shape)}, {_PLACE} integer")
        parts.append(
            f"followed{number} AS (INSERT INTO {_QUOTE.format_table(target)} "
            f"({_listed(columns)}) SELECT {_selected(shape)} FROM ({rows}) AS given "
            f"WHERE {new} ORDER BY given.{_JOB}, given.{_PLACE} RETURNING 1)"
        )
        counts.append(f"(SELECT count(*) FROM followed{number})")
    return (
        f"WITH {', '.join(parts)} SELECT (SELECT count(*) FROM stored), "
        f"{' + '.join(counts) or '0'}, "
        "(SELECT coalesce(json_agg(job), '[]'::json)::text FROM there)"
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
