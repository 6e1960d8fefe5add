# SPDX-License-Identifier: Apache-2.0
"""The hub's own tables beside the application's, and the SQLite file that may have to take over."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import CursorResult, text
from sqlalchemy.orm import Session

from edgepaas.app import Application
from edgepaas.database.ids import uuid7
from edgepaas.database.postgresql.connector import Connector
from edgepaas.database.postgresql.database import ServerDatabase
from edgepaas.errors import DatabaseUnavailable
from edgepaas.files.paths import Paths
from edgepaas.hosting.loading import metadata_of
from edgepaas.outbox import capture
from edgepaas.schema.chain import chain_of, platform_chain, show
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.open_problems import open_problem
from edgepaas.schema.postgresql import hub
from edgepaas.schema.postgresql import migrate as server
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.telemetry import application as telemetry
from tests.support.chains import REPOSITORY, connected, postgres_contract, shop

PLATFORM_HEAD = show(platform_chain().heads)


def bring(paths: Paths, url: str, application: Application, **wanted: Any) -> SchemaReport:
    """Run the stage on the PostgreSQL at *url*, with SQLite as its fallback."""
    contract = replace(postgres_contract(paths, url, fallback=True), **wanted)
    return prepare_database(contract, Settings.of(), paths, application)


def prepare_hub(paths: Paths, url: str, application: Application, **settings: str) -> SchemaReport:
    """Run ``schema --hub``."""
    contract = replace(
        postgres_contract(paths, url, fallback=True),
        database_url=f"sqlite:///{paths.sqlite}",
        run_migrations=False,
        final_db_mode="sqlite_only",
    )
    return hub.prepare_hub(contract, Settings.of(**settings), application)


def execute(url: str, statement: str) -> list[Any]:
    """Run a statement and return its rows."""
    database = ServerDatabase(url, Settings.of())

    def work(session: Session) -> list[Any]:
        result = session.execute(text(statement))
        return list(result) if isinstance(result, CursorResult) and result.returns_rows else []

    try:
        return database.write(work)
    finally:
        database.close()


def test_postgresql_holds_both_chains_and_the_file_is_ready(
    paths: Paths, postgres_url: str, tmp_path: Path
) -> None:
    """Falling back is instant, and nothing would be lost from its first row on."""
    application = shop(tmp_path, "0002")
    first = bring(paths, postgres_url, application)
    assert first.action == "created"
    assert "EdgePaaS's own tables: created" in first.message
    assert execute(postgres_url, "SELECT count(*) FROM sync_streams") == [(0,)]
    assert execute(postgres_url, "SELECT version_num FROM edgepaas_version") == [(PLATFORM_HEAD,)]
    with connected(paths.sqlite) as connection:
        assert capture.is_installed(connection)
        assert connection.execute("SELECT version_num FROM alembic_version_shop").fetchone() == (
            "0002",
        )
    again = bring(paths, postgres_url, application)
    assert (again.action, again.message) == ("nothing", "at head (0002)")
    assert open_problem(paths) == ""


def test_a_fallback_that_cannot_be_prepared_keeps_nobody_from_serving(
    paths: Paths, postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and over as soon as it can be."""
    blocked = paths.state / "a-file"
    blocked.write_text("no folder")
    report = bring(paths, postgres_url, shop(tmp_path, "0001"), sqlite_path=blocked / "box.db")
    assert report.action == "created"
    assert "could not take over" in open_problem(paths)
    assert "ALERT" in caplog.text
    bring(paths, postgres_url, shop(tmp_path, "0001"))
    assert open_problem(paths) == ""


def test_at_head_one_round_trip_tells_of_both_chains(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box far from its PostgreSQL pays for each."""
    bring(paths, postgres_url, telemetry)
    connection = Connector(postgres_url, Settings.of())()
    asked = []
    original = connection.execute_simple

    def counted(statement: str) -> Any:
        asked.append(statement)
        return original(statement)

    monkeypatch.setattr(connection, "execute_simple", counted)
    chains = [chain_of(telemetry), platform_chain()]
    assert server.versions_at(connection, chains) == [chain.heads for chain in chains]
    assert len(asked) == 1
    connection.close()


def test_a_hub_that_a_newer_build_migrated_will_do(
    paths: Paths, postgres_url: str, tmp_path: Path
) -> None:
    """When all that this build needs is there; seen by trying out its own scripts."""
    application = shop(tmp_path, "0001")
    bring(paths, postgres_url, application)
    execute(postgres_url, "UPDATE edgepaas_version SET version_num = '9999'")
    execute(postgres_url, "ALTER TABLE nodes ADD COLUMN newer text")
    report = prepare_hub(paths, postgres_url, application)
    assert "9999" in report.message
    assert "holds all" in report.message
    assert prepare_hub(paths, postgres_url, application, RUN_MIGRATIONS="false").message
    # Nothing is left of the trial.
    assert execute(postgres_url, "SELECT to_regclass('pg_temp.nodes')") == [(None,)]
    execute(postgres_url, "ALTER TABLE sync_streams DROP COLUMN mark")
    for settings in ({}, {"RUN_MIGRATIONS": "false"}):
        with pytest.raises(SchemaError, match=r"sync_streams\.mark is missing"):
            prepare_hub(paths, postgres_url, application, **settings)


def test_a_lost_version_of_the_platform_is_mended(
    paths: Paths, postgres_url: str, tmp_path: Path
) -> None:
    """As that of the application."""
    from edgepaas.schema.postgresql.migrate import parts_of
    from edgepaas.schema.repair.server import repair_hub

    application = shop(tmp_path, "0001")
    bring(paths, postgres_url, application)
    execute(postgres_url, "DROP TABLE edgepaas_version")
    with pytest.raises(SchemaError, match="--repair"):
        prepare_hub(paths, postgres_url, application)
    connector = Connector(postgres_url, Settings.of())
    parts = parts_of(chain_of(application), lambda: metadata_of(application))
    assert repair_hub(connector, paths, parts).action == "repaired"
    assert repair_hub(connector, paths, parts).action == "nothing"
    assert prepare_hub(paths, postgres_url, application).message == "at head (0001)"


def test_without_the_right_to_migrate_it_is_only_looked_at(
    paths: Paths, postgres_url: str, tmp_path: Path
) -> None:
    """Somebody else's task; the reason names what is lacking."""
    older, newer = shop(tmp_path, "0001"), shop(tmp_path, "0002")
    with pytest.raises(SchemaError, match=r"items is missing.*RUN_MIGRATIONS=false"):
        prepare_hub(paths, postgres_url, older, RUN_MIGRATIONS="false")
    assert execute(postgres_url, "SELECT to_regclass('items')") == [(None,)]
    prepare_hub(paths, postgres_url, older)
    assert prepare_hub(paths, postgres_url, older, RUN_MIGRATIONS="false").action == "nothing"
    with pytest.raises(SchemaError, match=r"items\.price is missing"):
        prepare_hub(paths, postgres_url, newer, RUN_MIGRATIONS="false")
    prepare_hub(paths, postgres_url, newer)
    assert prepare_hub(paths, postgres_url, older, RUN_MIGRATIONS="false").action == "ahead"
    assert not paths.sqlite.exists()


def edgepaas(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command in the test's box."""
    return subprocess.run(
        [sys.executable, "-m", "edgepaas", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_exit_status_tells_the_drainer_what_to_do(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0: go on; 1: it cannot be, and why; 75: there is no decision any more."""
    none = edgepaas("schema", "--hub")
    assert none.returncode == 75, none.stderr
    for stage in ("env", "dbdecide"):
        assert edgepaas(stage).returncode == 0
    assert edgepaas("schema", "--hub").returncode == 0  # no hub: nothing to do
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("USE_SQLITE", "true")
    for stage in ("env", "dbdecide"):
        assert edgepaas(stage).returncode == 0
    done = edgepaas("schema", "--hub")
    assert done.returncode == 0, done.stderr
    assert "created" in done.stdout
    assert not paths.sqlite.exists()
    execute(postgres_url, "UPDATE edgepaas_version SET version_num = '9999'")
    execute(postgres_url, "ALTER TABLE nodes DROP COLUMN build")
    failed = edgepaas("schema", "--hub")
    assert failed.returncode == 1
    assert "nodes.build is missing" in failed.stderr
    paths.db_contract.unlink()
    assert edgepaas("schema", "--hub").returncode == 75


def test_a_hub_that_is_away_is_no_reason_to_decide_again(paths: Paths, tmp_path: Path) -> None:
    """The drainer waits and tries again."""
    with pytest.raises(DatabaseUnavailable):
        prepare_hub(paths, "postgresql://u:p@127.0.0.1:1/x", shop(tmp_path, "0001"))


_READING = (
    "INSERT INTO readings (id, device_id, device, metric, value, recorded_at, received_at) "
    "VALUES (?, ?, 'press', 'temperature', 1.5, '2026-01-01 00:00:00.000000', "
    "'2026-01-01 00:00:00.000000')"
)


def test_postgresql_alone_serves_after_what_waits_is_home(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator goes from local-first to PostgreSQL only."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    for stage in ("env", "dbdecide", "schema"):
        assert edgepaas(stage, USE_SQLITE="true").returncode == 0
    with connected(paths.sqlite) as connection:
        for _ in range(3):
            connection.execute(_READING, (str(uuid7()), str(uuid7())))
    for stage in ("env", "dbdecide"):
        assert edgepaas(stage, BOTH_DB="false").returncode == 0
    done = edgepaas("schema")
    assert done.returncode == 0, done.stderr
    assert "every row that waited is in PostgreSQL" in done.stdout, done.stdout + done.stderr
    assert execute(postgres_url, "SELECT count(*) FROM readings") == [(3,)]
    assert "waited" not in edgepaas("schema").stdout


def test_what_cannot_be_sent_is_counted_and_postgresql_serves(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """A person is told; the rows wait on."""
    from edgepaas.cli.stages import schema as command

    monkeypatch.setenv("DATABASE_URL", postgres_url)
    for stage in ("env", "dbdecide", "schema"):
        assert edgepaas(stage, USE_SQLITE="true").returncode == 0
    with connected(paths.sqlite) as connection:
        connection.execute(_READING, (str(uuid7()), str(uuid7())))
    contract = postgres_contract(paths, postgres_url, fallback=False)
    monkeypatch.setattr(command, "_drain_once", lambda: "it was too slow")
    with caplog.at_level(logging.WARNING):
        command._send_what_waits(contract, paths)
    assert "without 1 rows" in caplog.text
    assert "it was too slow" in caplog.text


def test_what_a_damaged_file_held_reaches_postgresql_once(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is not known any more what was delivered before."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("USE_SQLITE", "true")
    for stage in ("env", "dbdecide", "schema"):
        assert edgepaas(stage).returncode == 0

    def write(count: int) -> None:
        with connected(paths.sqlite) as connection:
            for _ in range(count):
                connection.execute(_READING, (str(uuid7()), str(uuid7())))

    write(40)
    assert edgepaas("sync", "--once").returncode == 0
    write(60)
    with connected(paths.sqlite) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'outbox_state'"
        ).fetchone()
    with paths.sqlite.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    replaced = edgepaas("schema")
    assert "100 rows that wait for the hub were saved" in replaced.stdout, replaced.stdout
    sent = edgepaas("sync", "--once")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert execute(postgres_url, "SELECT count(*) FROM readings") == [(100,)]
    assert execute(postgres_url, "SELECT count(*) FROM sync_conflicts") == [(0,)]
    assert execute(postgres_url, "SELECT count(*) FROM sync_dead_letters") == [(0,)]
