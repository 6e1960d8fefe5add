# SPDX-License-Identifier: Apache-2.0
"""``edgepaas schema --repair`` in the states that recommend it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.app import Application
from edgepaas.database.postgresql.connector import Connector
from edgepaas.decision.hold import read_hold, write_hold
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.hosting.loading import metadata_of
from edgepaas.schema.chain import chain_of
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.repair.server import repair_postgres
from edgepaas.schema.report import SchemaReport
from edgepaas.settings import Settings
from tests.integration.test_schema_server import bring
from tests.support.chains import connected, shop
from tests.support.in_process import edgepaas_here
from tests.support.one_box import chain_runs, decided_state, execute

_VERSION = "alembic_version_shop"

#: What happened to PostgreSQL by hand, by what the box then says of it.
BROKEN = {
    "no version": ["DROP TABLE alembic_version_telemetry"],
    "a column gone as well": [
        "DROP TABLE alembic_version_telemetry",
        "ALTER TABLE devices DROP COLUMN description",
    ],
    "half-applied": [
        "UPDATE alembic_version_telemetry SET version_num = '0001'",
        "ALTER TABLE devices DROP COLUMN description",
    ],
    "a table gone": ["DROP TABLE rules"],
}


@pytest.fixture
def on_postgres(paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A box with a PostgreSQL that it has brought to head; the URL."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("POSTGRES_HOLD", "600")
    assert chain_runs() == 0
    assert decided_state(paths) == "primary"
    yield postgres_url


@pytest.mark.parametrize("damage", BROKEN)
def test_the_postgresql_that_is_broken_is_mended_while_sqlite_serves(
    paths: Paths, on_postgres: str, damage: str
) -> None:
    """The advice is followed in the state that gave it, with the file in use; then it serves."""
    execute(on_postgres, *BROKEN[damage])
    if damage == "a table gone":  # found at the gate, which holds PostgreSQL
        write_hold(paths.postgres_hold, "a table is missing", 600)
        assert chain_runs() == 0
    else:
        assert edgepaas_here("schema").returncode == 75
        assert chain_runs() == 0
    assert decided_state(paths) == "fallback"
    assert read_hold(paths.postgres_hold) is not None
    with held(paths.database_lock, shared=True):  # as the service does
        repair = edgepaas_here("schema", "--repair")
    assert repair.returncode == 0, repair.stdout + repair.stderr
    assert "already exists" not in repair.stderr
    assert read_hold(paths.postgres_hold) is None
    assert chain_runs() == 0
    assert decided_state(paths) == "primary"
    assert edgepaas_here("schema", "--check").returncode == 0
    again = edgepaas_here("schema", "--repair")
    assert again.returncode == 0, again.stdout


def test_an_index_that_somebody_dropped_is_said_and_made(on_postgres: str) -> None:
    """The revision alone was 'at head', while each page of readings read the whole table."""
    execute(on_postgres, "DROP INDEX ix_readings_recorded_at_id")
    check = edgepaas_here("schema", "--check")
    assert check.returncode == 1
    assert "ix_readings_recorded_at_id" in check.stdout
    assert "--repair" in check.stdout
    doctor = edgepaas_here("doctor")
    assert "ix_readings_recorded_at_id" in doctor.stdout
    repair = edgepaas_here("schema", "--repair")
    assert repair.returncode == 0, repair.stdout
    assert "ix_readings_recorded_at_id" in repair.stdout
    assert edgepaas_here("schema", "--check").returncode == 0


def test_a_postgresql_that_cannot_be_reached_is_no_success(
    paths: Paths, on_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has looked at it: 'nothing to repair' would be believed."""
    gone = on_postgres.rpartition("/")[0] + "/no_such_database"
    monkeypatch.setenv("DATABASE_URL", gone)
    assert chain_runs() == 0
    repair = edgepaas_here("schema", "--repair")
    assert repair.returncode == 1
    assert "no such database" in repair.stdout


def test_a_file_in_use_that_is_to_be_mended_says_what_to_stop(paths: Paths) -> None:
    """Not for how many seconds it has waited for whose lock."""
    assert chain_runs() == 0
    with connected(paths.sqlite) as connection:
        connection.execute("DROP INDEX ix_readings_recorded_at_id")
    with held(paths.database_lock, shared=True):
        refused = edgepaas_here("schema", "--repair")
    assert refused.returncode == 1
    assert "systemctl stop edgepaas.socket edgepaas edgepaas-sync" in refused.stdout
    mended = edgepaas_here("schema", "--repair")
    assert mended.returncode == 0
    assert "ix_readings_recorded_at_id" in mended.stdout
    assert "nothing to repair" in edgepaas_here("schema", "--repair").stdout


def _repair(paths: Paths, url: str, application: Application) -> SchemaReport:
    chain = chain_of(application)
    return repair_postgres(
        Connector(url, Settings.of()), paths, chain, lambda: metadata_of(application)
    )


def test_what_a_half_applied_migration_lacks_is_added_and_nothing_dropped(
    paths: Paths, postgres_url: str, tmp_path: Path
) -> None:
    """A column is wider, an index there, a stranger's column as it was, and every row too."""
    bring(paths, postgres_url, shop(tmp_path, "0001"))
    execute(
        postgres_url,
        "INSERT INTO items VALUES ('i', 'tea')",
        "ALTER TABLE items ADD colour TEXT",
        "ALTER TABLE items ADD price INTEGER",
        f"DROP TABLE {_VERSION}",
    )
    report = _repair(paths, postgres_url, shop(tmp_path, "0002"))
    assert report.action == "repaired"
    said = " ".join(report.steps)
    assert "ix_items_price" in said
    assert "widened items.name" in said
    assert "was not run" in said
    assert execute(postgres_url, "SELECT id, colour, price FROM items") == [("i", None, None)]
    assert _repair(paths, postgres_url, shop(tmp_path, "0002")).action == "nothing"


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["ALTER TABLE items RENAME name TO title"], r"RENAME title TO name"),
        (
            ["INSERT INTO items VALUES ('i', 'tea')", "ALTER TABLE items DROP COLUMN name"],
            r"items\.name is missing and demands a value",
        ),
    ],
)
def test_what_would_be_a_guess_is_left_with_the_statement_that_decides_it(
    paths: Paths, postgres_url: str, tmp_path: Path, statements: list[str], said: str
) -> None:
    """And nothing was changed."""
    bring(paths, postgres_url, shop(tmp_path, "0002"))
    execute(postgres_url, *statements)
    before = execute(postgres_url, "SELECT count(*) FROM information_schema.columns")
    with pytest.raises(SchemaError, match=said):
        _repair(paths, postgres_url, shop(tmp_path, "0002"))
    assert execute(postgres_url, "SELECT count(*) FROM information_schema.columns") == before
