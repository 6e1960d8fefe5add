# SPDX-License-Identifier: Apache-2.0
"""Renames of a migration on SQLite, whichever way it does them, are seen and recorded."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.outbox.revisions.changes import RevisionChanges
from edgepaas.schema import migrations
from edgepaas.schema.chain import Chain
from edgepaas.schema.renames import record
from edgepaas.schema.renames.upgrade import upgrade
from tests.support.chains import migrations_folder, upgrade_body, write_revision

FIRST = upgrade_body(
    'op.execute("CREATE TABLE goods (id INTEGER PRIMARY KEY, a TEXT, c TEXT)")',
    'op.execute("CREATE TABLE other (id INTEGER PRIMARY KEY, b TEXT)")',
)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """A file that gives its free pages back, as a box's does."""

    def connect() -> object:
        driver = open_sqlite(tmp_path / "box.db", create=True)
        driver.execute("PRAGMA auto_vacuum=INCREMENTAL")
        return driver

    engine = migrations.migration_engine(connect, "sqlite://")
    with engine.begin() as found:
        yield found
    engine.dispose()


def changes_of(connection: Connection, folder: Path, *lines: str) -> RevisionChanges:
    """Return what a revision made of *lines* changed, after a first one."""
    scripts = migrations_folder(folder / "chain", ())
    write_revision(scripts, "0001", None, FIRST)
    write_revision(scripts, "0002", "0001", upgrade_body(*lines))
    assert upgrade(connection, Chain("shop", scripts), None) is None
    found = record.read(connection)
    assert [one.revision for one in found.entries] == ["0001", "0002"]
    assert found.entries[0].is_empty
    return found.entries[1]


BATCH = 'with op.batch_alter_table("goods") as batch: '
SWAPPED = {"goods": {"a": "c", "c": "a"}}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['op.alter_column("goods", "a", new_column_name="b")'], {"goods": {"a": "b"}}),
        ([BATCH + 'batch.alter_column("a", new_column_name="b")'], {"goods": {"a": "b"}}),
        (
            [
                'with op.batch_alter_table("goods", recreate="always") as batch:',
                '    batch.alter_column("a", new_column_name="b", type_=sa.String(9))',
                '    batch.add_column(sa.Column("d", sa.Integer()))',
            ],
            {"goods": {"a": "b"}},
        ),
        (['op.execute("ALTER TABLE goods RENAME COLUMN a TO b")'], {"goods": {"a": "b"}}),
        (
            ['op.get_bind().exec_driver_sql("alter  table goods rename a to b")'],
            {"goods": {"a": "b"}},
        ),
        (
            [
                'op.execute("ALTER TABLE goods RENAME COLUMN a TO tmp")',
                'op.execute("ALTER TABLE goods RENAME COLUMN c TO a")',
                'op.execute("ALTER TABLE goods RENAME COLUMN tmp TO c")',
            ],
            SWAPPED,
        ),
        (
            [
                BATCH + 'batch.alter_column("a", new_column_name="tmp")',
                BATCH + 'batch.alter_column("c", new_column_name="a")',
                BATCH + 'batch.alter_column("tmp", new_column_name="c")',
            ],
            SWAPPED,
        ),
        (
            [
                'op.execute("ALTER TABLE goods ADD COLUMN d TEXT")',
                'op.execute("ALTER TABLE goods RENAME COLUMN c TO e")',
                'op.execute("ALTER TABLE goods DROP COLUMN d")',
                'op.execute("DROP TABLE other")',
                'op.execute("ALTER TABLE goods RENAME COLUMN a TO f")',
            ],
            {"goods": {"a": "f", "c": "e"}},
        ),
        (
            [
                'op.execute("ALTER TABLE goods ADD COLUMN b TEXT")',
                'op.execute("UPDATE goods SET b = a")',
                'op.execute("ALTER TABLE goods DROP COLUMN a")',
                "from edgepaas.app import renamed",
                'renamed("goods", "a", "b")',
            ],
            {"goods": {"a": "b"}},
        ),
    ],
)
def test_a_renamed_column_is_recorded(
    connection: Connection, tmp_path: Path, lines: list[str], expected: dict[str, dict[str, str]]
) -> None:
    found = changes_of(connection, tmp_path, *lines)
    assert found.columns == expected
    assert not found.gone_columns
    assert not found.tables


def test_a_renamed_table_and_its_column_are_recorded(
    connection: Connection, tmp_path: Path
) -> None:
    found = changes_of(
        connection,
        tmp_path,
        'op.rename_table("goods", "items")',
        'op.execute("ALTER TABLE items RENAME COLUMN a TO b")',
        'op.execute("CREATE TABLE goods (id INTEGER PRIMARY KEY, a TEXT)")',
    )
    assert found.tables == {"goods": "items"}
    assert found.columns == {"goods": {"a": "b"}}
    assert not found.gone_tables


@pytest.mark.parametrize(
    ("lines", "tables", "columns"),
    [
        (['op.execute("ALTER TABLE goods DROP COLUMN a")'], set(), {"goods": {"a"}}),
        (
            [BATCH + 'batch.drop_column("a"); batch.add_column(sa.Column("a", sa.Integer()))'],
            set(),
            {"goods": {"a"}},
        ),
        (['op.drop_table("other")'], {"other"}, {}),
        (
            [
                'op.execute("ALTER TABLE goods ADD COLUMN b TEXT")',
                'op.execute("UPDATE goods SET b = a")',
                'op.execute("ALTER TABLE goods DROP COLUMN a")',
            ],
            set(),
            {"goods": {"a"}},
        ),
    ],
)
def test_what_is_dropped_is_recorded_as_gone(
    connection: Connection,
    tmp_path: Path,
    lines: list[str],
    tables: set[str],
    columns: dict[str, set[str]],
) -> None:
    found = changes_of(connection, tmp_path, *lines)
    assert found.gone_tables == tables
    assert found.gone_columns == columns
    assert not found.columns


def test_a_declaration_of_a_column_that_is_not_there_is_an_error(
    connection: Connection, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no column nowhere"):
        changes_of(
            connection,
            tmp_path,
            "from edgepaas.app import renamed",
            'renamed("goods", "a", "nowhere")',
        )


def test_renames_that_nobody_observes_are_none(tmp_path: Path) -> None:
    """As where the scripts only show what they make: a declaration has nobody to hear it."""
    scripts = migrations_folder(tmp_path / "chain", ())
    body = upgrade_body("from edgepaas.app import renamed", 'renamed("goods", "a", "b")')
    write_revision(scripts, "0001", None, body)
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        migrations.upgrade(connection, Chain("shop", scripts), None)
        assert migrations.versions(connection, Chain("shop", scripts)) == frozenset({"0001"})
    engine.dispose()
