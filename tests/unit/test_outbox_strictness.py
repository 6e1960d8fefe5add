# SPDX-License-Identifier: Apache-2.0
"""The rules that make SQLite as strict as PostgreSQL: made by the schema stage, and kept by it."""

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import CheckConstraint, Column, Integer, MetaData, String, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import SchemaItem

from edgepaas.app import Application
from edgepaas.database.model import check_metadata, new_metadata
from edgepaas.files.paths import Paths
from edgepaas.outbox import strictness
from edgepaas.outbox.strictness import PREFIX
from edgepaas.schema.sqlite.quarantine import list_quarantined
from edgepaas.schema.stage import prepare_database
from edgepaas.schema.table_contract import CACHE
from edgepaas.settings import Settings
from tests.support.chains import (
    bring,
    connected,
    hub_contract,
    migrations_folder,
    rows_in,
    sell,
    shop,
    upgrade_body,
    write_revision,
)


def bring_with_hub(paths: Paths, application: Application) -> None:
    prepare_database(hub_contract(paths), Settings.of(EDGEPAAS_APP="shop"), paths, application)


def made(path: Path) -> set[str]:
    """Return the names of the rules that the file has."""
    with connected(path) as connection:
        rows = connection.execute(
            "SELECT name FROM sqlite_schema WHERE name LIKE ?", (f"{PREFIX}%",)
        )
        return {str(name).removeprefix(PREFIX) for (name,) in rows}


def attempt(path: Path, statement: str) -> str:
    """Run *statement*; return why it was refused, empty where it was not."""
    with connected(path) as connection:
        try:
            connection.execute(statement)
        except sqlite3.IntegrityError as error:
            return str(error)
    return ""


@pytest.mark.parametrize("stage", [bring, bring_with_hub], ids=["standalone", "with a hub"])
def test_the_rules_follow_the_models_through_migrations(
    paths: Paths, tmp_path: Path, stage: Callable[[Paths, Application], object]
) -> None:
    """Batch mode copies a table that has rules, and a release that widens a column widens them."""
    stage(paths, shop(tmp_path, "0001"))
    assert made(paths.sqlite) == {
        f"{a}_{b}" for a in ("insert", "update") for b in ("items", "sales")
    }
    sell(paths)
    long = f"INSERT INTO items (id, name) VALUES ('long', '{'x' * 150}')"
    assert attempt(paths.sqlite, long) == "items.name takes at most 100 characters"
    stage(paths, shop(tmp_path, "0002"))
    assert len(rows_in(paths.sqlite, "items")) == 3
    assert attempt(paths.sqlite, long) == ""
    assert "at most 200" in attempt(paths.sqlite, f"UPDATE items SET name = '{'y' * 201}'")
    assert "whole numbers" in attempt(paths.sqlite, "UPDATE items SET price = 'cheap'")
    assert not list_quarantined(paths, paths.sqlite)


def test_a_box_that_gets_a_hub_and_loses_it_keeps_its_rules(paths: Paths, tmp_path: Path) -> None:
    bring(paths, shop(tmp_path, "0001"))
    bring_with_hub(paths, shop(tmp_path, "0001"))
    bring(paths, shop(tmp_path, "0001"))
    sell(paths)
    assert "at most 100" in attempt(paths.sqlite, f"UPDATE items SET name = '{'x' * 101}'")


def test_a_rule_that_was_taken_away_comes_back_at_the_next_boot(
    paths: Paths, tmp_path: Path
) -> None:
    bring_with_hub(paths, shop(tmp_path, "0001"))
    before = made(paths.sqlite)
    with connected(paths.sqlite) as connection:
        connection.execute(f'DROP TRIGGER "{PREFIX}insert_items"')
    bring_with_hub(paths, shop(tmp_path, "0001"))
    assert made(paths.sqlite) == before


def models(*extra: SchemaItem) -> MetaData:
    metadata = new_metadata()
    Table(
        "items",
        metadata,
        Column("id", String(36), primary_key=True),
        Column("name", String(100)),
        Column("count", Integer),
        *extra,
        info={"kind": "shared"},
    )
    check_metadata(metadata)
    return metadata


def build(folder: Path, metadata: MetaData) -> Application:
    """A build whose migration makes none of the models' constraints."""
    scripts = folder / "loose"
    if not scripts.exists():
        migrations_folder(scripts, [])
        write_revision(
            scripts,
            "0001",
            None,
            upgrade_body(
                'op.create_table("items", sa.Column("id", sa.String(36), primary_key=True), '
                'sa.Column("name", sa.String(100)), sa.Column("count", sa.Integer))'
            ),
        )
    return Application(
        name="shop", models=lambda: metadata, migrations=scripts, blueprints=lambda _box: []
    )


def release(paths: Paths, metadata: MetaData) -> None:
    """Run the stage of a build with other models, whose files differ in reality."""
    (paths.state / CACHE).unlink(missing_ok=True)
    bring(paths, build(paths.state, metadata))


def test_what_a_migration_left_out_is_checked_all_the_same(paths: Paths) -> None:
    strict = models(CheckConstraint("count > 0", name="some"), UniqueConstraint("name"))
    release(paths, models())
    release(paths, strict)
    insert = "INSERT INTO items VALUES ('{}', {}, {})"
    assert attempt(paths.sqlite, insert.format("a", "'tea'", 1)) == ""
    assert "ck_items_some" in attempt(paths.sqlite, insert.format("b", "'milk'", 0))
    assert "UNIQUE" in attempt(paths.sqlite, insert.format("c", "'tea'", 1))
    assert attempt(paths.sqlite, insert.format("d", "NULL", "NULL")) == ""
    assert "ck_items_some" in attempt(paths.sqlite, "UPDATE items SET count = -1")
    assert attempt(paths.sqlite, "UPDATE items SET count = 7") == ""


def test_what_cannot_be_checked_is_said_and_stops_nothing(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    release(paths, models())
    for name in ("a", "b"):
        assert attempt(paths.sqlite, f"INSERT INTO items VALUES ('{name}', 'tea', 1)") == ""
    strict = models(
        CheckConstraint("name ~ '^[a-z]+$'", name="words"),
        CheckConstraint(postgresql.array([1, 2]).contains([1]), name="array"),
        UniqueConstraint("name", name="uq_n"),
    )
    with caplog.at_level(logging.WARNING):
        release(paths, strict)
    warnings = [record.getMessage() for record in caplog.records]
    assert any("SQLite cannot check 'ck_items_words'" in one for one in warnings), warnings
    assert any("SQLite cannot check 'ck_items_array'" in one for one in warnings), warnings
    assert any("uq_n" in one and "there already" in one for one in warnings), warnings
    assert attempt(paths.sqlite, "INSERT INTO items VALUES ('c', 'tea', 1)") == ""
    assert "at most 100" in attempt(paths.sqlite, f"UPDATE items SET name = '{'x' * 101}'")
    with connected(paths.sqlite) as connection:
        connection.execute("DELETE FROM items")
    release(paths, strict)
    assert "uq_n" in made(paths.sqlite), "tried again at each boot"


def test_a_value_from_before_a_rule_keeps_no_other_column_from_changing(paths: Paths) -> None:
    release(paths, models())
    with connected(paths.sqlite) as connection:
        strictness.drop(connection)
        connection.execute(f"INSERT INTO items VALUES ('a', '{'x' * 101}', 1)")
    release(paths, models())
    assert attempt(paths.sqlite, "UPDATE items SET count = 2") == ""
    assert attempt(paths.sqlite, "UPDATE items SET count = 3, name = name") == ""
    assert "at most 100" in attempt(paths.sqlite, "UPDATE items SET name = name || 'x'")
