# SPDX-License-Identifier: Apache-2.0
"""Whose PostgreSQL it is stands in it; that of another application is refused by its name."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, String, Table, text
from sqlalchemy.orm import Session

from edgepaas.app import Application
from edgepaas.database.model import new_metadata
from edgepaas.database.postgresql.connector import Connector
from edgepaas.database.postgresql.database import ServerDatabase
from edgepaas.errors import DecideAgain
from edgepaas.files.paths import Paths
from edgepaas.hosting.loading import metadata_of
from edgepaas.schema.at_head import schema_at_head
from edgepaas.schema.chain import chain_of
from edgepaas.schema.errors import OfAnotherApplication
from edgepaas.schema.open_problems import open_refusal
from edgepaas.schema.postgresql import migrate as server
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from tests.support.chains import (
    migrations_folder,
    postgres_contract,
    shop,
    upgrade_body,
    write_revision,
)
from tests.support.weaken import weakened

_COLUMNS = (
    "SELECT table_name, column_name FROM information_schema.columns "
    "WHERE table_schema = 'public' ORDER BY 1, 2"
)


def bring(
    paths: Paths, url: str, application: Application, *, fallback: bool = False
) -> SchemaReport:
    """Run the stage on the PostgreSQL at *url*."""
    contract = postgres_contract(paths, url, fallback=fallback)
    return prepare_database(contract, Settings.of(), paths, application)


def execute(url: str, *statements: str) -> list[Any]:
    """Run statements; return the last one's rows."""
    database = ServerDatabase(url, Settings.of())

    def work(session: Session) -> list[Any]:
        results = [session.execute(text(statement)) for statement in statements]
        return list(results[-1]) if results[-1].returns_rows else []  # type: ignore[attr-defined]

    try:
        return database.write(work)
    finally:
        database.close()


def notes(folder: Path) -> Application:
    """Return another application, whose first revision bears the same name as the shop's."""
    models = new_metadata()
    Table("notes", models, Column("id", String(36), primary_key=True), info={"kind": "facts"})
    scripts = folder / "notes"
    if not scripts.exists():
        migrations_folder(scripts, [])
        body = 'op.create_table("notes", sa.Column("id", sa.String(36), primary_key=True))'
        write_revision(scripts, "0001", None, upgrade_body(body))
    return Application(name="notes", models=models, migrations=scripts)


def of_an_earlier_release(url: str) -> None:
    """Make the PostgreSQL one of the time when every application had the same version table."""
    execute(
        url,
        "ALTER TABLE alembic_version_shop RENAME TO alembic_version",
        "ALTER INDEX alembic_version_shop_pkc RENAME TO alembic_version_pkc",
        "DROP TABLE edgepaas_applications",
    )


@pytest.mark.parametrize("named", [True, False])
def test_the_postgresql_of_another_application_is_refused(
    paths: Paths, postgres_url: str, tmp_path: Path, named: bool
) -> None:
    """By its name, or by its tables in one of an earlier release. It was taken for at head."""
    bring(paths, postgres_url, shop(tmp_path, "0001"))
    execute(postgres_url, "INSERT INTO items VALUES ('i', 'tea')")
    if not named:
        of_an_earlier_release(postgres_url)
    before = execute(postgres_url, _COLUMNS)
    of = "of the application shop" if named else "whose tables are not notes"
    with pytest.raises(DecideAgain, match=of):
        bring(paths, postgres_url, notes(tmp_path), fallback=True)
    paths.postgres_hold.unlink()
    report = bring(paths, postgres_url, notes(tmp_path))
    assert report.action == "refused"
    assert "this box is to run notes" in open_refusal(paths)
    chain, models = chain_of(notes(tmp_path)), metadata_of(notes(tmp_path))
    with pytest.raises(OfAnotherApplication, match=of):
        server.check_postgres(
            Connector(postgres_url, Settings.of()), server.parts_of(chain, lambda: models)
        )
    assert execute(postgres_url, _COLUMNS) == before
    assert bring(paths, postgres_url, shop(tmp_path, "0001")).action == "nothing"
    assert open_refusal(paths) == ""


def test_a_build_that_does_not_ask_for_the_name_is_found_out(
    paths: Paths, postgres_url: str, tmp_path: Path
) -> None:
    """The second application would put its tables beside the first one's."""
    with weakened("any-owner"), pytest.raises(pytest.fail.Exception):
        test_the_postgresql_of_another_application_is_refused(
            paths, postgres_url, tmp_path, named=True
        )


def test_a_postgresql_of_an_earlier_release_gets_a_name_and_serves_boxes_of_that_release(
    paths: Paths, postgres_url: str, tmp_path: Path
) -> None:
    """Boxes are upgraded one by one: the version table that they read is kept in step."""
    bring(paths, postgres_url, shop(tmp_path, "0001"))
    of_an_earlier_release(postgres_url)
    chain, models = chain_of(shop(tmp_path, "0001")), metadata_of(shop(tmp_path, "0001"))
    connector = Connector(postgres_url, Settings.of())
    left = server.check_postgres(connector, server.parts_of(chain, lambda: models))
    assert left.message.startswith("at 0001"), "a box that may not migrate reads the older table"
    database = ServerDatabase(postgres_url, Settings.of())
    assert schema_at_head(database, shop(tmp_path, "0001")).at_head
    database.close()
    bring(paths, postgres_url, shop(tmp_path, "0001"))
    assert execute(postgres_url, "SELECT name FROM edgepaas_applications") == [("shop",)]
    report = bring(paths, postgres_url, shop(tmp_path, "0002"))
    assert (report.action, report.before) == ("migrated", ("0001",))
    for table in ("alembic_version", "alembic_version_shop"):
        assert execute(postgres_url, f"SELECT version_num FROM {table}") == [("0002",)]
