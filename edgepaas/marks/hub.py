# SPDX-License-Identifier: Apache-2.0
"""The hub's side of the marks: SQL, and what its answers mean.

The texts hold ids and numbers of our own making alone, so that each is one simple query: one
round trip, through a pooler, too.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgepaas.marks.comparison import Known, Mark
from edgepaas.pgdriver.failures import sqlstate

#: Runs one query outside of a transaction, and returns its rows.
Ask = Callable[[str], Sequence[Sequence[Any]]]

TABLE = "sync_connections"
#: undefined_table, invalid_schema_name; insufficient_privilege.
_MISSING = ("42P01", "3F000")
_FORBIDDEN = ("42501",)

#: Synchronous commit at the least; a stronger setting of the server's stays.
_DURABLE = (
    "set_config('synchronous_commit', CASE current_setting('synchronous_commit') "
    "WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true)"
)
#: Where the transaction's own count of rows begins.
_BEFORE = "edgepaas.rows_before"


@dataclass(frozen=True)
class HubStreams:
    """This box's streams on the hub: their marks, the process of each, and which are *idle*.

    *tables* are the OIDs of the forwarded tables there. *why_not* says what keeps marks from
    being kept there, empty where nothing does; *readable* is false where nothing is known.
    *beside* is what was asked for beside them, empty where nothing was.
    """

    marks: dict[str, Mark]
    owners: dict[str, str]
    idle: frozenset[str] = frozenset()
    tables: tuple[int, ...] = ()
    readable: bool = True
    why_not: str = ""
    beside: str = ""


def read_streams(
    ask: Ask, node_id: str, tables: Iterable[str], *, beside: str = ""
) -> HubStreams | None:
    """Return the streams of the box *node_id*; None where *ask* reaches a standby.

    *tables*: the names of the forwarded tables. *beside*: an SQL expression of type text. A hub
    without the table of streams has none of them. Raises what *ask* raises.
    """
    try:
        ((standby, streams, oids, found_beside),) = ask(_question(node_id, tables, beside))
    except Exception as error:
        state = sqlstate(error)
        if state not in (*_MISSING, *_FORBIDDEN):
            raise
        if state in _FORBIDDEN:
            return HubStreams({}, {}, readable=False, why_not=f"this user may not read {TABLE}")
        if ask("SELECT pg_is_in_recovery()")[0][0]:
            return None
        return HubStreams({}, {}, why_not=f"it has no table {TABLE}")
    if standby:
        return None
    found = json.loads(streams) if streams else []
    return HubStreams(
        {one[0]: Mark(one[1], one[2]) for one in found},
        {one[0]: one[3] for one in found},
        frozenset(one[0] for one in found if one[4]),
        tuple(oid for oid in (json.loads(oids) if oids else []) if oid),
        beside=found_beside or "",
    )


def is_unusable(error: BaseException) -> bool:
    """Whether *error* says that the hub's table of streams is gone, or closed to this user."""
    return sqlstate(error) in (*_MISSING, *_FORBIDDEN) and TABLE in str(error)


def _question(node_id: str, tables: Iterable[str], beside: str) -> str:
    names = ", ".join(
        "(to_regclass('" + '"{}"'.format(name.replace('"', '""')).replace("'", "''") + "'))"
        for name in tables
    )
    oids = f"(SELECT json_agg(t::oid::bigint) FROM (VALUES {names}) AS v(t))" if names else "NULL"  # noqa: S608
    return (
        "SELECT pg_is_in_recovery(), (SELECT json_agg(json_build_array(stream_id, mark, rows, "  # noqa: S608
        "owner_id, updated_at < now() - interval '1 hour')) "
        f"FROM {TABLE} WHERE node_id = '{uuid.UUID(node_id)}')::text, {oids}::text, "
        f"{beside or 'NULL'}"
    )


@dataclass(frozen=True)
class MarkStatements:
    """The statements that ride with a transaction, for forwarded tables of certain OIDs.

    Rows are counted by the server, from its statistics of the open transaction: these see
    raw SQL, cascades, and which rows of an INSERT … ON CONFLICT were new, in the very flight
    of the statement. They go on from one transaction to the next, so that the difference
    counts; rows that a savepoint took back are counted with the others.
    """

    begin: str
    create: str
    #: Begins another stream where the mark does not move: the transaction has a mark all the same.
    advance: str


def mark_statements(tables: Sequence[int]) -> MarkStatements:
    """Return the statements; without *tables* each transaction counts as one row."""
    counted = "+".join(
        f"coalesce(pg_stat_get_xact_tuples_{change}({int(oid)}),0)"
        for oid in tables
        for change in ("inserted", "updated", "deleted")
    )
    written = (
        f"({counted}-coalesce(nullif(current_setting('{_BEFORE}',true),''),'0')::bigint)"
        if counted
        else "1::bigint"
    )
    before = f", set_config('{_BEFORE}', ({counted})::text, true)" if counted else ""
    return MarkStatements(
        begin=f"SELECT {_DURABLE}{before}",
        create=(
            f"WITH written AS MATERIALIZED (SELECT {written} AS n), moved AS ("  # noqa: S608
            f"INSERT INTO {TABLE} (stream_id, node_id, owner_id, mark, rows) "
            "SELECT $1::uuid, $2::uuid, $3::uuid, 1, n FROM written "
            "ON CONFLICT (stream_id) DO NOTHING RETURNING mark) "
            "SELECT n, (SELECT mark FROM moved) FROM written"
        ),
        advance=(
            f"WITH written AS MATERIALIZED (SELECT {written} AS n), moved AS ("  # noqa: S608
            f"UPDATE {TABLE} SET mark = $2::bigint, rows = rows + (SELECT n FROM written), "
            "updated_at = now() WHERE stream_id = $1::uuid AND mark = $3::bigint RETURNING mark), "
            f"begun AS (INSERT INTO {TABLE} (stream_id, node_id, owner_id, mark, rows) "
            "SELECT $4::uuid, $5::uuid, $6::uuid, 1, n FROM written "
            "WHERE NOT EXISTS (SELECT FROM moved)) "
            "SELECT n, (SELECT mark FROM moved) FROM written"
        ),
    )


#: What a transaction asks for where no marks can be kept.
DURABLE_ONLY = f"SELECT {_DURABLE}"


def join_statement(known: Known, node_id: str, owner_id: str) -> str:
    """Return the statement that takes the streams that are joining into the sum, and deletes them.

    Its last row is ``joined`` where the sum was moved. A stream whose row a half-open backend
    has locked makes it fail at once (55P03): nothing waits for that backend.
    """
    identity, before, after = uuid.UUID(known.sum_id), known.sum_mark, known.joined_mark
    if before.transactions:
        move = (
            f"UPDATE {TABLE} SET mark = {after.transactions}, rows = {after.rows}, "  # noqa: S608
            f"updated_at = now() WHERE stream_id = '{identity}' "
            f"AND mark = {before.transactions} RETURNING mark"
        )
    else:
        move = (
            f"INSERT INTO {TABLE} (stream_id, node_id, owner_id, mark, rows) VALUES "  # noqa: S608
            f"('{identity}', '{uuid.UUID(node_id)}', '{uuid.UUID(owner_id)}', "
            f"{after.transactions}, {after.rows}) ON CONFLICT (stream_id) DO NOTHING "
            "RETURNING mark"
        )
    ids = ", ".join(f"'{uuid.UUID(one)}'::uuid" for one in sorted(known.joining))
    return (
        f"SELECT {_DURABLE}; WITH moved AS ({move}), gone AS (DELETE FROM {TABLE} WHERE stream_id "  # noqa: S608
        f"IN (SELECT stream_id FROM {TABLE} WHERE stream_id IN ({ids}) FOR UPDATE NOWAIT) "
        "AND EXISTS (SELECT FROM moved)) SELECT 'joined' FROM moved"
    )
