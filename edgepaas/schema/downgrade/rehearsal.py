# SPDX-License-Identifier: Apache-2.0
"""A downgrade run where nothing stays: what it would lose, which rows that wait it would break.

A ``downgrade()`` may be empty, or wrong, and nothing else runs it: its result is compared with what
the scripts make up to that revision.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.schema import fingerprint, migrations
from edgepaas.schema.chain import Chain, Revisions, show
from edgepaas.schema.errors import SchemaError, brief
from edgepaas.schema.renames import record
from edgepaas.schema.renames.catalogs import read_catalog
from edgepaas.schema.renames.fitting import is_narrower
from edgepaas.schema.renames.observer import ObservedRevision, observed

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

    from edgepaas.schema.renames.upgrade import Guard

_WAY_OUT = (
    "let these rows reach PostgreSQL first ('edgepaas sync status' shows what waits), and have "
    "boxes that write them go back to a build that does not"
)


@dataclass(frozen=True)
class Downgrade:
    """What going back to *target* does to one database.

    *losses*: for a person; *tables*: those that lose something, by their present names; *broken*:
    the rows that wait and would have no place. *after*: the version at its end.
    """

    target: str
    losses: tuple[str, ...]
    tables: tuple[str, ...]
    broken: tuple[str, ...]
    after: Revisions

    @property
    def refusal(self) -> str:
        """Why it is not done, with the way out; empty where nothing is against it."""
        if not self.broken:
            return ""
        return f"going back to {self.target} waits: {'; '.join(self.broken)}. {_WAY_OUT}"

    @property
    def lost(self) -> str:
        """What would be lost, as the end of a sentence."""
        return "; ".join(self.losses) or "nothing that it holds"


def rehearse(
    connection: "Connection",
    chain: Chain,
    metadata: "MetaData | None",
    target: str,
    guard: "Guard",
) -> Downgrade:
    """Run it in a savepoint of *connection* that is taken back.

    Raises SchemaError where the scripts do not lead to what *target* is, naming how.
    """
    before = _row_counts(connection)
    savepoint = connection.begin_nested()
    try:
        found, reached = _run(connection, chain, metadata, target)
        after = _row_counts(connection)
    finally:
        savepoint.rollback()
    losses, tables = _losses(connection, found, before, after)
    return Downgrade(target, tuple(losses), tuple(tables), tuple(guard(found)), reached)


def carry_out(
    connection: "Connection", chain: Chain, metadata: "MetaData | None", target: str
) -> None:
    """Run it, in the transaction of *connection*; the record of revisions goes back with it."""
    _, reached = _run(connection, chain, metadata, target)
    if record.is_kept(connection):
        there = {*reached, *(one for each in reached for one in chain.ancestors(each))}
        record.forget(connection, chain, frozenset(chain.parents) - there)


def _run(
    connection: "Connection", chain: Chain, metadata: "MetaData | None", target: str
) -> tuple[ObservedRevision, Revisions]:
    observations: list[ObservedRevision] = []
    try:
        with observed(connection, observations.append) as observer:
            migrations.downgrade(connection, chain, metadata, target)
            observer.revision_applied(target)
    except SchemaError:
        raise
    except (NotImplementedError, AttributeError) as error:
        raise SchemaError(f"a revision says nothing of how it is taken back: {brief(error)}") from (
            error
        )
    reached = migrations.versions(connection, chain) or frozenset()
    _require_shape(connection, chain, metadata, reached)
    return observations[0], reached


def _require_shape(
    connection: "Connection", chain: Chain, metadata: "MetaData | None", reached: Revisions
) -> None:
    """Raise SchemaError unless tables and columns are those that the scripts make."""
    known = fingerprint.columns_by_revision(connection, chain, metadata)
    names = {table for _, shape in known for table in shape}
    shape = {
        table: columns
        for table, columns in migrations.columns_by_table(connection, chain).items()
        if table in names
    }
    for revisions, wanted in known:
        if revisions == reached:
            if different := fingerprint.difference(shape, wanted):
                raise SchemaError(
                    f"what its scripts take back is not what {show(reached)} is: {different}"
                )
            return
    raise SchemaError(f"what {show(reached)} is to look like is not known")


def _row_counts(connection: "Connection") -> dict[str, int]:
    quote = connection.dialect.identifier_preparer.quote
    names = sorted(table.name for table in read_catalog(connection).values())
    return {name: _count(connection, f"SELECT count(*) FROM {quote(name)}") for name in names}  # noqa: S608


def _count(connection: "Connection", statement: str) -> int:
    return int(connection.exec_driver_sql(statement.replace("%", "%%")).scalar_one())


def _losses(
    connection: "Connection",
    found: ObservedRevision,
    before: Mapping[str, int],
    after: Mapping[str, int],
) -> tuple[list[str], list[str]]:
    """Return what would be lost, for a person, and the tables that lose it; names before it."""
    losses: list[str] = []
    tables: list[str] = []
    quote = connection.dialect.identifier_preparer.quote
    for shape in sorted(found.before.values(), key=lambda one: one.name):
        table = shape.name
        said = []
        if table in found.changes.gone_tables:
            if before.get(table):
                said.append(f"the table {table} with {_counted(before[table], 'row')}")
        else:
            said += _values_lost(connection, found, table, shape.names, quote)
            now = after.get(found.changes.tables.get(table, table), 0)
            if now < before.get(table, 0):
                said.append(f"{_counted(before[table] - now, 'row')} of {table}")
        if said:
            losses += said
            tables.append(table)
    return losses, tables


def _values_lost(
    connection: "Connection",
    found: ObservedRevision,
    table: str,
    columns: Sequence[str],
    quote: "Callable[[str], str]",
) -> list[str]:
    said = []
    new_table = found.changes.tables.get(table, table)
    for column in columns:
        gone = column in found.changes.gone_columns.get(table, ())
        name = found.changes.columns.get(table, {}).get(column, column)
        types = None if gone else found.changed_type(table, column, new_table, name)
        if not gone and (types is None or not is_narrower(*map(str.lower, types))):
            continue
        statement = f"SELECT count({quote(column)}) FROM {quote(table)}"  # noqa: S608
        if values := _count(connection, statement):
            what = f"{_counted(values, 'value')} of {table}.{column}"
            said.append(what if types is None else f"of {what} what {types[1]} does not hold")
    return said


def _counted(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"
