# SPDX-License-Identifier: Apache-2.0
"""``edgepaas schema --repair``: says what is wrong, mends it, drops nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgepaas.app import Application
from edgepaas.files.paths import Paths
from edgepaas.hosting.loading import metadata_of
from edgepaas.schema.chain import chain_of
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.repair.sqlite_file import repair_sqlite
from edgepaas.schema.report import SchemaReport
from tests.support.chains import (
    bring,
    connected,
    rows_in,
    sell,
    shop,
    upgrade_body,
    version_of,
    write_revision,
)


def repair(paths: Paths, application: Application) -> SchemaReport:
    """Run the repair on the box's file."""
    return repair_sqlite(
        paths.sqlite, paths, chain_of(application), lambda: metadata_of(application)
    )


@pytest.fixture
def old(paths: Paths, tmp_path: Path) -> Paths:
    """A box with three sales, made by the older build."""
    bring(paths, shop(tmp_path, "0001"))
    sell(paths)
    return paths


def _execute(paths: Paths, *statements: str) -> None:
    with connected(paths.sqlite) as connection:
        for statement in statements:
            connection.execute(statement)


def test_nothing_is_done_to_a_sound_file(old: Paths, tmp_path: Path) -> None:
    """And it is said."""
    inode = old.sqlite.stat().st_ino
    report = repair(old, shop(tmp_path, "0001"))
    assert report.action == "nothing"
    assert "nothing to repair" in report.message
    assert old.sqlite.stat().st_ino == inode
    assert not old.backups.exists()
    assert list(old.state.glob(".edgepaas.db.*")) == []


DAMAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "no version table": (("DROP TABLE alembic_version_shop",), "no version table"),
    "an empty version table": (("DELETE FROM alembic_version_shop",), "looks like 0001"),
    "an unknown revision": (
        ("UPDATE alembic_version_shop SET version_num = 'abc'",),
        "revision abc is unknown",
    ),
    "two revisions, one before the other": (
        ("INSERT INTO alembic_version_shop VALUES ('0002')",),
        "0001 comes before one of the others",
    ),
    "half of the next revision": (
        ("CREATE INDEX ix_items_price ON items (name)",),
        "does not work",
    ),
    "the next revision without its stamp": (
        (
            "ALTER TABLE items ADD COLUMN price INTEGER",
            "CREATE INDEX ix_items_price ON items (price)",
        ),
        "looks like 0002",
    ),
    "a killed batch migration": (
        ("CREATE TABLE _alembic_tmp_items (id TEXT, name TEXT)",),
        "_alembic_tmp_items",
    ),
    "a batch migration killed before its rename": (
        ("PRAGMA legacy_alter_table=ON", "ALTER TABLE items RENAME TO _alembic_tmp_items"),
        "gave items its name back",
    ),
    "a column that nobody knows": (
        (
            "ALTER TABLE items ADD COLUMN colour TEXT",
            "UPDATE alembic_version_shop SET version_num='x'",
        ),
        "colour",
    ),
    "a lost table": (
        ("DROP TABLE sales", "DELETE FROM alembic_version_shop"),
        "created the table sales",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_schema_is_mended_and_every_row_is_kept(
    old: Paths, tmp_path: Path, damage: str
) -> None:
    """The cause is named, the file as it was is kept, and a boot finds nothing more to do."""
    statements, told = DAMAGES[damage]
    _execute(old, *statements)
    report = repair(old, shop(tmp_path, "0002"))
    assert report.action == "repaired"
    assert told in " ".join(report.steps)
    assert version_of(old.sqlite) == "0002"
    assert [row[:2] for row in rows_in(old.sqlite, "items")] == [(f"i{n}", "tea") for n in range(3)]
    if damage != "a lost table":
        assert len(rows_in(old.sqlite, "sales")) == 3
    assert report.kept is not None
    assert report.kept.parent == old.backups
    assert bring(old, shop(tmp_path, "0002")).action == "nothing"
    assert repair(old, shop(tmp_path, "0002")).action == "nothing"


def test_what_does_not_fit_is_left_as_it_was(old: Paths, tmp_path: Path) -> None:
    """A row that the table as it should be refuses stops the repair."""
    _execute(
        old,
        "ALTER TABLE items RENAME COLUMN name TO title",
        "UPDATE alembic_version_shop SET version_num = 'x'",
    )
    with pytest.raises(SchemaError, match="left as it was"):
        repair(old, shop(tmp_path, "0002"))
    assert rows_in(old.sqlite, "items") == [(f"i{n}", "tea") for n in range(3)]
    assert list(old.state.glob(".edgepaas.db.*")) == []


def test_scripts_with_two_heads_are_both_applied(old: Paths, tmp_path: Path) -> None:
    """Two developers' branches; the repair says how to join them."""
    application = shop(tmp_path, "0002")
    assert application.migrations is not None
    body = upgrade_body('op.execute("CREATE TABLE notes (id TEXT PRIMARY KEY)")')
    write_revision(application.migrations, "0002b", "0001", body)
    report = bring(old, application)
    assert report.after == ("0002", "0002b")
    assert rows_in(old.sqlite, "notes") == []
    assert bring(old, application).action == "nothing"
    _execute(old, "DROP TABLE alembic_version_shop")
    repaired = repair(old, application)
    assert "two heads (0002 and 0002b)" in " ".join(repaired.steps)
    assert bring(old, application).action == "nothing"


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.unlink(), lambda path: path.write_bytes(b"rubbish" * 500)],
    ids=["missing", "damaged"],
)
def test_without_a_sound_file_the_repair_does_what_a_boot_does(
    old: Paths, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    """A fresh file; the damaged one goes to quarantine."""
    spoil(old.sqlite)
    assert repair(old, shop(tmp_path, "0002")).action in ("created", "replaced")
    assert version_of(old.sqlite) == "0002"
