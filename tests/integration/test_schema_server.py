# SPDX-License-Identifier: Apache-2.0
"""Bringing a real PostgreSQL to head: one box or twenty, in one transaction, or not at all."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import CursorResult, text
from sqlalchemy.orm import Session

from edgepaas.app import Application
from edgepaas.database import open_database
from edgepaas.database.postgresql.connector import Connector
from edgepaas.database.postgresql.database import ServerDatabase
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.decision.hold import read_hold
from edgepaas.errors import DatabaseUnavailable, DecideAgain
from edgepaas.files.paths import Paths
from edgepaas.hosting.loading import metadata_of
from edgepaas.outbox.capture import is_installed
from edgepaas.schema.at_head import schema_at_head
from edgepaas.schema.chain import chain_of, platform_chain, show
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.migrations import differences, migration_engine
from edgepaas.schema.open_problems import open_refusal
from edgepaas.schema.postgresql import migrate as server
from edgepaas.schema.repair.server import repair_postgres
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.telemetry import application as telemetry
from tests.support.chains import (
    REPOSITORY,
    SHOP,
    connected,
    migrations_folder,
    postgres_contract,
    shop,
    shop_models,
    sqlite_contract,
    upgrade_body,
    write_revision,
)
from tests.support.databases import adding, reading, values_in

HEAD = show(chain_of(telemetry).heads)


def bring(
    paths: Paths, url: str, application: Application, *, fallback: bool = False
) -> SchemaReport:
    """Run the stage on the PostgreSQL at *url*."""
    contract = postgres_contract(paths, url, fallback=fallback)
    return prepare_database(contract, Settings.of(), paths, application)


def execute(url: str, *statements: str) -> list[Any]:
    """Run statements, each in a transaction of its own; return the last one's rows."""
    database = ServerDatabase(url, Settings.of())

    def run(statement: str) -> list[Any]:
        def work(session: Session) -> list[Any]:
            result = session.execute(text(statement))
            return list(result) if isinstance(result, CursorResult) and result.returns_rows else []

        return database.write(work)

    rows = [run(statement) for statement in statements]
    database.close()
    return rows[-1]


def test_the_migrated_schema_is_what_the_models_say_on_both_databases(
    paths: Paths, postgres_url: str
) -> None:
    """Alembic's autogenerate finds nothing to change, and a row goes in and out on both."""
    metadata = metadata_of(telemetry)
    assert metadata is not None
    chain = chain_of(telemetry)
    for contract in (sqlite_contract(paths), postgres_contract(paths, postgres_url, fallback=True)):
        prepare_database(contract, Settings.of(), paths, telemetry)
        database = open_database(contract, Settings.of(), paths)
        with database.read() as session:
            assert differences(session.connection(), chain, metadata) == []
        assert schema_at_head(database, telemetry).at_head
        database.write(adding(reading(4.5)))
        assert values_in(database) == [4.5]
        database.close()


def test_the_models_say_what_the_migrations_make(paths: Paths) -> None:
    """The migrations alone make a fresh file; the application works by its models."""
    metadata = metadata_of(telemetry)
    assert metadata is not None
    prepare_database(sqlite_contract(paths), Settings.of(), paths, telemetry)
    made = _schema_of(paths.sqlite)
    engine = migration_engine(
        lambda: open_sqlite(paths.state / "models.db", create=True), "sqlite://"
    )
    with engine.begin() as connection:
        metadata.create_all(connection)
    engine.dispose()
    of_models = _schema_of(paths.state / "models.db")
    assert {name: made.get(name) for name in of_models} == of_models


def _schema_of(path: Path) -> dict[str, set[str]]:
    connection = open_sqlite(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    # The order of columns and constraints in a statement is of no consequence.
    found = {
        name: {
            part.strip(" \t,()")
            # A column that was added stands in the last line.
            for part in re.split(r"\n|, (?=\w+ VARCHAR)", sql.replace("(\n", "\n"))
        }
        for name, sql in rows
    }
    connection.close()
    return found


def test_an_empty_database_is_filled_and_a_second_run_finds_it_done(
    paths: Paths, postgres_url: str
) -> None:
    """Idempotent, and tables.json is there."""
    assert bring(paths, postgres_url, telemetry).action == "created"
    again = bring(paths, postgres_url, telemetry)
    assert (again.action, again.after) == ("nothing", (HEAD,))
    assert paths.tables.is_file()
    assert not paths.sqlite.exists()


@pytest.mark.parametrize(("local_first", "name"), [("false", "PostgreSQL"), ("true", "SQLite")])
def test_at_head_it_needs_neither_sqlalchemy_nor_alembic(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch, local_first: str, name: str
) -> None:
    """A boot with nothing new to do asks one question, and has the file capture."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("USE_SQLITE", local_first)
    script = (
        "import sys; from edgepaas.cli import main; assert not main(sys.argv[1:])\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'sqlalchemy', 'alembic'}))"
    )
    for stage in ("env", "dbdecide", "schema", "schema"):
        run = subprocess.run(
            [sys.executable, "-c", script, stage],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        )
    assert f"{name}: at head ({HEAD})" in run.stdout
    with connected(paths.sqlite) as connection:
        assert is_installed(connection)
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_first_migration_takes_over_what_the_models_made(
    paths: Paths, postgres_url: str, tmp_path: Path
) -> None:
    """Before it there is no revision; the tables are there all the same, on both databases."""
    scripts = migrations_folder(tmp_path / "begun", [])
    begun = Application(name="shop", models=shop_models("0001"), migrations=scripts)
    for _ in range(2):
        assert bring(paths, postgres_url, begun).after == ()
    execute(postgres_url, "INSERT INTO items VALUES ('i', 'tea')")
    write_revision(scripts, "0001", *SHOP["0001"])
    begun = Application(name="shop", models=shop_models("0001"), migrations=scripts)
    report = bring(paths, postgres_url, begun)
    assert (report.action, report.after) == ("adopted", ("0001",))
    assert execute(postgres_url, "SELECT * FROM items") == [("i", "tea")]
    assert bring(paths, postgres_url, begun).action == "nothing"


def test_an_older_database_is_migrated(paths: Paths, postgres_url: str, tmp_path: Path) -> None:
    """With its rows."""
    bring(paths, postgres_url, shop(tmp_path, "0001"))
    execute(postgres_url, "INSERT INTO items VALUES ('i', 'tea')")
    report = bring(paths, postgres_url, shop(tmp_path, "0002"))
    assert (report.action, report.before, report.after) == ("migrated", ("0001",), ("0002",))
    assert execute(postgres_url, "SELECT * FROM items") == [("i", "tea", None)]


def test_twenty_boxes_start_at_once(postgres_url: str, tmp_path: Path) -> None:
    """Each a process of its own; one migrates, all end well."""
    processes = []
    for number in range(20):
        environ = {
            **os.environ,
            "EDGEPAAS_HOME": str(tmp_path / f"box{number}"),
            "DATABASE_URL": postgres_url,
            "BOTH_DB": "false",
        }
        home = Path(environ["EDGEPAAS_HOME"])
        script = (
            "import sys; from edgepaas.cli import main\n"
            "sys.exit(main(['env']) or main(['dbdecide']) or main(['schema']))"
        )
        home.mkdir()
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", script],
                cwd=REPOSITORY,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    outcomes = [(p.communicate(timeout=120), p.returncode) for p in processes]
    assert [code for _, code in outcomes] == [0] * 20, outcomes
    told = "".join(out for (out, _), _ in outcomes)
    assert told.count(f"PostgreSQL: created from none to {HEAD}") == 1
    assert told.count(f"at head ({HEAD})") == 19
    assert told.count("EdgePaaS's own tables: created") == 1
    for chain in (chain_of(telemetry), platform_chain()):
        versions = f"SELECT version_num FROM {chain.version_table}"
        assert execute(postgres_url, versions) == [(show(chain.heads),)]


def test_a_failing_migration_changes_nothing_and_holds_postgresql_back(
    paths: Paths, postgres_url: str, tmp_path: Path
) -> None:
    """One transaction: what it did before it failed is undone. The chain decides again."""
    bring(paths, postgres_url, shop(tmp_path, "0001"))
    application = shop(tmp_path, "0002")
    assert application.migrations is not None
    body = upgrade_body(
        'op.add_column("items", sa.Column("price", sa.Integer()))',
        'op.execute("SELECT 1/0")',
    )
    write_revision(application.migrations, "0002", "0001", body)
    with pytest.raises(DecideAgain, match="division by zero") as failure:
        bring(paths, postgres_url, application, fallback=True)
    assert failure.value.exit_code == 75
    hold = read_hold(paths.postgres_hold)
    assert hold is not None
    assert "division by zero" in hold.reason
    columns = "SELECT column_name FROM information_schema.columns WHERE table_name = 'items'"
    assert sorted(execute(postgres_url, columns)) == [("id",), ("name",)]
    report = bring(paths, postgres_url, application)
    assert report.action == "refused"
    assert "division by zero" in open_refusal(paths)


def test_a_table_in_use_does_not_block_the_boot(
    paths: Paths, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock timeout ends the wait; SQLite serves meanwhile."""
    monkeypatch.setattr(server, "TABLE_TIMEOUT", 0.2)
    bring(paths, postgres_url, shop(tmp_path, "0001"))
    other = ServerDatabase(postgres_url, Settings.of())
    with other.read() as session:
        session.execute(text("LOCK TABLE items IN ACCESS SHARE MODE"))
        with pytest.raises(DecideAgain, match="lock timeout"):
            bring(paths, postgres_url, shop(tmp_path, "0002"), fallback=True)
    assert bring(paths, postgres_url, shop(tmp_path, "0002")).action == "migrated"
    other.close()


def test_a_box_that_never_gets_its_turn_goes_round(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another box hangs in its migration."""
    monkeypatch.setattr(server, "TURN_TIMEOUT", 0.2)
    engine = migration_engine(Connector(postgres_url, Settings.of()), "postgresql+pg8000://")
    with engine.begin() as connection:
        server.take_turn(connection, chain_of(telemetry))
        with pytest.raises(DecideAgain, match="lock timeout"):
            bring(paths, postgres_url, telemetry, fallback=True)
    engine.dispose()
    assert bring(paths, postgres_url, telemetry).action == "created"


def test_a_read_only_database_is_unusable(paths: Paths, postgres_url: str) -> None:
    """As a standby or a full one is."""
    name = postgres_url.rpartition("/")[2]
    execute(postgres_url, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with pytest.raises(DecideAgain, match="read-only"):
        bring(paths, postgres_url, telemetry, fallback=True)
    assert read_hold(paths.postgres_hold) is not None


def test_a_user_without_rights_is_unusable(paths: Paths, postgres_url: str) -> None:
    """Named with its SQLSTATE."""
    execute(
        postgres_url,
        "DROP ROLE IF EXISTS guest_of_schema",
        "CREATE ROLE guest_of_schema LOGIN PASSWORD 'guest'",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    )
    server_part = postgres_url.rpartition("@")[2]
    guest = f"postgresql://guest_of_schema:guest@{server_part}"
    with pytest.raises(DecideAgain, match="42501"):
        bring(paths, guest, telemetry, fallback=True)
    execute(postgres_url, "DROP ROLE guest_of_schema")


def test_run_migrations_false_leaves_it_alone(paths: Paths, postgres_url: str) -> None:
    """And the gate then tells that it does not fit."""
    from dataclasses import replace

    contract = postgres_contract(paths, postgres_url, fallback=True)
    contract = replace(contract, run_migrations=False)
    assert prepare_database(contract, Settings.of(), paths, telemetry).action == "left"
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    assert execute(postgres_url, tables) == []
    database = open_database(contract, Settings.of(), paths)
    state = schema_at_head(database, telemetry)
    database.close()
    assert not state.at_head
    assert "edgepaas schema" in state.message


def test_a_newer_hub_is_used_as_it_is(paths: Paths, postgres_url: str, tmp_path: Path) -> None:
    """Other boxes are ahead in a roll-out."""
    bring(paths, postgres_url, shop(tmp_path, "0002"))
    assert bring(paths, postgres_url, shop(tmp_path, "0001")).action == "ahead"
    contract = postgres_contract(paths, postgres_url, fallback=True)
    database = open_database(contract, Settings.of(), paths)
    assert schema_at_head(database, shop(tmp_path, "0001")).at_head
    database.close()


def test_an_unknown_revision_that_does_not_fit_is_held_back(
    paths: Paths, postgres_url: str, tmp_path: Path
) -> None:
    """It lacks a column that this build needs."""
    bring(paths, postgres_url, shop(tmp_path, "0001"))
    execute(
        postgres_url,
        "UPDATE alembic_version_shop SET version_num = 'x'",
        "ALTER TABLE items RENAME name TO title",
    )
    with pytest.raises(DecideAgain, match=r"items\.name is missing"):
        bring(paths, postgres_url, shop(tmp_path, "0001"), fallback=True)


def test_nobody_there_goes_round(paths: Paths, postgres_url: str) -> None:
    """The server went away after the decision."""
    gone = postgres_url.rpartition("/")[0] + "/no_such_database"
    with pytest.raises(DecideAgain, match="no such database"):
        bring(paths, gone, telemetry, fallback=True)
    with pytest.raises(DatabaseUnavailable):
        bring(paths, gone, telemetry)


def _repair(paths: Paths, url: str, application: Application) -> SchemaReport:
    connector = Connector(url, Settings.of())
    return repair_postgres(
        connector, paths, chain_of(application), lambda: metadata_of(application)
    )


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DROP TABLE alembic_version_shop", "no version table"),
        ("UPDATE alembic_version_shop SET version_num = 'x'", "unknown"),
        ("INSERT INTO alembic_version_shop VALUES ('0002')", "comes before"),
    ],
)
def test_a_wrong_version_is_mended_and_no_row_is_touched(
    paths: Paths, postgres_url: str, tmp_path: Path, statement: str, told: str
) -> None:
    """The tables are taken for the revision that they look like, and migrated from there."""
    bring(paths, postgres_url, shop(tmp_path, "0001"))
    execute(postgres_url, "INSERT INTO items VALUES ('i', 'tea')", statement)
    report = _repair(paths, postgres_url, shop(tmp_path, "0002"))
    assert report.action == "repaired"
    assert told in " ".join(report.steps)
    assert report.kept is not None
    assert "items" in report.kept.read_text()
    assert execute(postgres_url, "SELECT * FROM items") == [("i", "tea", None)]
    assert bring(paths, postgres_url, shop(tmp_path, "0002")).action == "nothing"


def test_a_half_applied_migration_is_explained_and_nothing_is_dropped(
    paths: Paths, postgres_url: str, tmp_path: Path
) -> None:
    """Somebody altered the hub by hand: what is lacking is added, what is more stays."""
    bring(paths, postgres_url, shop(tmp_path, "0001"))
    execute(
        postgres_url,
        "ALTER TABLE items ADD price INTEGER",
        "ALTER TABLE items ADD colour TEXT",
        "DROP TABLE alembic_version_shop",
    )
    report = _repair(paths, postgres_url, shop(tmp_path, "0002"))
    assert "items.colour is too many" in " ".join(report.steps)
    columns = "SELECT column_name FROM information_schema.columns WHERE table_name = 'items'"
    assert len(execute(postgres_url, columns)) == 4


def test_a_hub_that_claims_the_newest_revision_and_lacks_a_column_is_mended(
    paths: Paths, postgres_url: str, tmp_path: Path
) -> None:
    """Somebody stamped it by hand; without an explanation nothing is changed."""
    bring(paths, postgres_url, shop(tmp_path, "0001"))
    execute(postgres_url, "UPDATE alembic_version_shop SET version_num = '0002'")
    assert _repair(paths, postgres_url, shop(tmp_path, "0002")).action == "repaired"
    assert _repair(paths, postgres_url, shop(tmp_path, "0002")).action == "nothing"
    execute(postgres_url, "ALTER TABLE items RENAME price TO cost")
    with pytest.raises(SchemaError, match=r"items\.price is missing; items\.cost is too many"):
        _repair(paths, postgres_url, shop(tmp_path, "0002"))


def test_a_box_waits_for_its_turn(postgres_url: str) -> None:
    """The advisory lock is the only thing between two first boots."""
    reports: list[object] = []

    def run() -> None:
        try:
            connector = Connector(postgres_url, Settings.of())
            reports.append(server.migrate(connector, chain_of(telemetry), metadata_of(telemetry)))
        except Exception as error:
            reports.append(error)

    # Alembic's context is one a process: two boxes are two processes, so this one waits in SQL.
    engine = migration_engine(Connector(postgres_url, Settings.of()), "postgresql+pg8000://")
    thread = threading.Thread(target=run)
    with engine.begin() as connection:
        server.take_turn(connection, chain_of(telemetry))
        thread.start()
        thread.join(0.5)
        assert reports == []
    engine.dispose()
    thread.join(60)
    (report,) = reports
    assert isinstance(report, SchemaReport)
    assert report.action == "created"
