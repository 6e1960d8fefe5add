# SPDX-License-Identifier: Apache-2.0
"""Whose a database is: its name stands in it, beside the version table that is its own.

Two applications call their first revision 0001, so a version alone says nothing about whose
tables there are. In the releases before an application had a version table of its own all had
one of the same name. Where that is there it is read, and kept in step for boxes of those releases.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgepaas.database.reserved_names import APPLICATIONS
from edgepaas.schema.chain import SHARED_VERSION_TABLE, Chain, Revisions, version_table_of
from edgepaas.schema.errors import OfAnotherApplication

if TYPE_CHECKING:
    import sqlite3

    from sqlalchemy import Connection, MetaData

_WAY_OUT = (
    "give each application a database of its own (an application that was renamed says so with "
    "'formerly')"
)
#: Runs a statement without parameters; returns its rows, none where it has no result.
Run = Callable[[str], Sequence[Any]]

_REGISTRY = (
    f"CREATE TABLE IF NOT EXISTS {APPLICATIONS} (name VARCHAR(200) NOT NULL PRIMARY KEY, "
    "version_table VARCHAR(63) NOT NULL, keeps_shared INTEGER NOT NULL)"
)
_PRESENT = {
    "sqlite": "SELECT name FROM sqlite_schema WHERE type = 'table' AND name IN ({names})",
    "postgresql": (
        "SELECT name FROM unnest(ARRAY[{names}]) AS wanted(name) "
        "WHERE has_table_privilege(to_regclass(quote_ident(name)), 'SELECT')"
    ),
}


@dataclass(frozen=True)
class Ownership:
    """What a database says of itself, for one chain.

    *table* holds the chain's *revisions*; empty and None where nothing does. *owners* are the
    applications that the database names; *shared*: the older version table is there.
    """

    table: str
    revisions: Revisions | None
    owners: tuple[str, ...]
    shared: bool = False

    def other(self, chain: Chain) -> str:
        """Return the application whose database this is, if it is not *chain*'s; else empty."""
        if not self.owners or set(self.owners) & set(chain.names):
            return ""
        return " and ".join(self.owners)


def ownership_of(connection: "Connection", chain: Chain) -> Ownership:
    """Return what the database on *connection* says of itself."""
    return _read(_runner(connection), connection.dialect.name, chain)


def ownership_of_file(connection: "sqlite3.Connection", chain: Chain) -> Ownership:
    """Return what an SQLite file says of itself; raises sqlite3.Error."""
    return _read(lambda sql: connection.execute(sql).fetchall(), "sqlite", chain)


def require_own(
    connection: "Connection", chain: Chain, where: str, metadata: "MetaData | None"
) -> None:
    """Raise OfAnotherApplication unless the database *where* may be *chain*'s.

    In one of the releases before there was a name in it, another application's is known by its
    tables: none of those that the models name is there, though it has a version.
    """
    if chain.only_postgres:
        return
    run, dialect = _runner(connection), connection.dialect.name
    found = _read(run, dialect, chain)
    other = found.other(chain)
    if not other and not found.owners and found.revisions and metadata is not None:
        names = sorted(table.name for table in metadata.sorted_tables)
        if names and not _present(run, dialect, names):
            other = f"whose tables are not {names[0]} and its like"
    if other:
        raise another_application(other, chain, where, _WAY_OUT)


def claim(connection: "Connection", chain: Chain) -> None:
    """Write the chain's name into the database, and its revisions into its own version table.

    In the caller's transaction. Nothing happens where both are there, nor for the platform's
    chain. Raises OfAnotherApplication where the database is another application's.
    """
    _claim(_runner(connection), connection.dialect.name, chain)


def claim_file(connection: "sqlite3.Connection", chain: Chain) -> None:
    """Do so with an SQLite file, in the caller's transaction; raises sqlite3.Error."""
    _claim(lambda sql: connection.execute(sql).fetchall(), "sqlite", chain)


def claim_statements(connection: "Connection", chain: Chain) -> Sequence[str]:
    """Return what :func:`claim` would write, as SQL for somebody else to run."""
    read = _runner(connection)
    written: list[str] = []

    def run(sql: str) -> Sequence[Any]:
        if sql.startswith("SELECT"):
            return read(sql)
        written.append(sql)
        return ()

    _claim(run, connection.dialect.name, chain)
    return written


def in_step_statements(connection: "Connection", chain: Chain) -> Sequence[str]:
    """Return what :func:`keep_in_step` would write after *chain* was claimed, as SQL."""
    found = ownership_of(connection, chain)
    if chain.only_postgres or not found.shared:
        return ()
    keeps = (
        f"EXISTS (SELECT 1 FROM {APPLICATIONS} "  # noqa: S608
        f"WHERE name = {_text(chain.name)} AND keeps_shared = 1)"
    )
    return (
        f"DELETE FROM {SHARED_VERSION_TABLE} WHERE {keeps}",  # noqa: S608
        f"INSERT INTO {SHARED_VERSION_TABLE} (version_num) "  # noqa: S608
        f"SELECT version_num FROM {chain.version_table} WHERE {keeps}",
    )


def keep_in_step(connection: "Connection", chain: Chain) -> None:
    """Write the chain's revisions into the older version table too, where that is its."""
    run = _runner(connection)
    names = _present(run, connection.dialect.name, (APPLICATIONS, SHARED_VERSION_TABLE))
    if chain.only_postgres or len(names) < 2:
        return
    keeps = f"SELECT 1 FROM {APPLICATIONS} WHERE name = {_text(chain.name)} AND keeps_shared = 1"  # noqa: S608
    if run(keeps):
        run(f"DELETE FROM {SHARED_VERSION_TABLE}")  # noqa: S608
        run(
            f"INSERT INTO {SHARED_VERSION_TABLE} (version_num) "  # noqa: S608
            f"SELECT version_num FROM {chain.version_table}"
        )


def another_application(other: str, chain: Chain, where: str, way_out: str) -> OfAnotherApplication:
    """Return the refusal of a database that is *other*'s; *where*: which database that is."""
    return OfAnotherApplication(
        f"{where} is the database of the application {other}, and this box is to run {chain.name}: "
        f"{way_out}"
    )


def version_table_statement(name: str) -> str:
    """Return the statement that makes a version table as Alembic does.

    After alembic.ddl.impl.version_table_impl.
    """
    return (
        f"CREATE TABLE IF NOT EXISTS {name} (version_num VARCHAR(32) NOT NULL, "
        f"CONSTRAINT {name}_pkc PRIMARY KEY (version_num))"
    )


def _claim(run: Run, dialect: str, chain: Chain) -> None:
    if chain.only_postgres:
        return
    found = _read(run, dialect, chain)
    if other := found.other(chain):
        raise another_application(other, chain, "this", _WAY_OUT)
    if found.table and found.table != chain.version_table:
        run(version_table_statement(chain.version_table))
        for revision in sorted(found.revisions or ()):
            run(
                f"INSERT INTO {chain.version_table} (version_num) VALUES ({_text(revision)})"  # noqa: S608
            )
    if chain.name in found.owners:
        return
    run(_REGISTRY)
    names = ", ".join(map(_text, chain.names))
    query = f"SELECT max(keeps_shared) FROM {APPLICATIONS} WHERE name IN ({names})"  # noqa: S608
    before = run(query) if found.owners else ()
    keeps = int(found.table == SHARED_VERSION_TABLE or bool(before and before[0][0]))
    run(
        f"INSERT INTO {APPLICATIONS} (name, version_table, keeps_shared) "  # noqa: S608
        f"VALUES ({_text(chain.name)}, {_text(chain.version_table)}, {keeps})"
    )


def _read(run: Run, dialect: str, chain: Chain) -> Ownership:
    if chain.only_postgres:
        present = _present(run, dialect, (chain.version_table,))
        found = _revisions(run, chain.version_table) if present else None
        return Ownership(chain.version_table if present else "", found, ())
    own = [version_table_of(name) for name in chain.formerly]
    wanted = (chain.version_table, *own, SHARED_VERSION_TABLE, APPLICATIONS)
    present = _present(run, dialect, wanted)
    registry: dict[str, bool] = {}
    if APPLICATIONS in present:
        rows = run(f"SELECT name, keeps_shared FROM {APPLICATIONS} ORDER BY name")  # noqa: S608
        registry = {str(name): bool(keeps) for name, keeps in rows}
    shared = SHARED_VERSION_TABLE in present
    candidates = [name for name in (chain.version_table, *own) if name in present]
    if shared and (not registry or any(registry.get(name) for name in chain.names)):
        candidates.append(SHARED_VERSION_TABLE)
    table = candidates[0] if candidates else ""
    revisions = _revisions(run, table) if table else None
    return Ownership(table, revisions, tuple(registry), shared)


def _revisions(run: Run, table: str) -> Revisions:
    return frozenset(str(row[0]) for row in run(f"SELECT version_num FROM {table}"))  # noqa: S608


def _present(run: Run, dialect: str, names: Sequence[str]) -> set[str]:
    listed = ", ".join(map(_text, names))
    return {str(row[0]) for row in run(_PRESENT[_known(dialect)].format(names=listed))}


def _known(dialect: str) -> Literal["sqlite", "postgresql"]:
    return "postgresql" if dialect == "postgresql" else "sqlite"


def _text(value: str) -> str:
    """Return *value* as an SQL string."""
    return "'" + value.replace("'", "''") + "'"


def _runner(connection: "Connection") -> Run:
    # pg8000 looks for its placeholders.
    escaped = connection.dialect.name == "postgresql"

    def run(sql: str) -> Sequence[Any]:
        result = connection.exec_driver_sql(sql.replace("%", "%%") if escaped else sql)
        return result.fetchall() if result.returns_rows else ()

    return run
