# SPDX-License-Identifier: Apache-2.0
"""``edgepaas schema`` as an operator and a developer run it."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgepaas.files.paths import Paths
from edgepaas.schema.chain import chain_of, show
from edgepaas.telemetry import application as telemetry
from tests.support.chains import (
    REPOSITORY,
    SHOP,
    connected,
    migrations_folder,
    write_revision,
)
from tests.support.in_process import edgepaas_here
from tests.support.postgres_server import PostgresServer

_APPLICATION = """
from pathlib import Path

from edgepaas.app import Application
from tests.support.chains import shop_models

application = Application(
    name="shop",
    models=lambda: shop_models(Path(__file__).with_name("revision").read_text()),
    migrations=Path(__file__).with_name("migrations"),
    blueprints=lambda box: [],
)
"""

HEAD = show(chain_of(telemetry).heads)


def process(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command in the test's box, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "edgepaas", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def shop_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An application at 0001 that EDGEPAAS_APP names, as a developer has one; its folder."""
    folder = tmp_path / "source"
    migrations_folder(folder / "migrations", ["0001"])
    (folder / "shop_of_a_test.py").write_text(_APPLICATION)
    (folder / "revision").write_text("0001")
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{REPOSITORY}")
    monkeypatch.setenv("EDGEPAAS_APP", "shop_of_a_test:application")
    return folder


def test_the_stage_says_in_a_line_what_it_did(paths: Paths) -> None:
    """Created, then at head; --check agrees."""
    assert process("env").returncode == 0
    assert process("dbdecide").returncode == 0
    assert process("schema", "--check").returncode == 1
    first = process("schema")
    assert first.stdout.splitlines() == [f"schema       SQLite: fresh file at {HEAD}"]
    again = process("schema")
    assert again.stdout.splitlines() == [f"schema       SQLite: at head ({HEAD})"]
    check = edgepaas_here("schema", "--check", "--json")
    assert (check.returncode, json.loads(check.stdout)["at_head"]) == (0, True)
    report = json.loads(edgepaas_here("schema", "--json").stdout)
    assert (report["action"], report["after"]) == ("nothing", [HEAD])
    with connected(paths.sqlite) as connection:
        connection.execute("DROP TABLE alembic_version_telemetry")
    behind = edgepaas_here("schema", "--check")
    assert behind.returncode == 1
    assert "run 'edgepaas schema'" in behind.stdout
    repair = edgepaas_here("schema", "--repair")
    assert repair.returncode == 0
    assert "no version table" in repair.stdout
    assert edgepaas_here("schema", "--check").returncode == 0


def test_without_the_contracts_the_stage_to_run_is_named() -> None:
    """No traceback."""
    failed = edgepaas_here("schema")
    assert failed.returncode == 78
    assert "edgepaas env" in failed.stderr
    edgepaas_here("env")
    failed = edgepaas_here("schema")
    assert failed.returncode == 78
    assert "edgepaas dbdecide" in failed.stderr


def test_a_new_migration_is_written_and_applied(paths: Paths, shop_module: Path) -> None:
    """From the difference between the models and the scripts."""
    for stage in ("env", "dbdecide", "schema"):
        assert edgepaas_here(stage).returncode == 0
    none = edgepaas_here("schema", "--revision", "nothing")
    assert none.returncode == 1
    assert "nothing to write" in none.stderr
    (shop_module / "revision").write_text("0002")
    written = edgepaas_here("schema", "--revision", "add the price")
    assert written.returncode == 0, written.stderr
    script = shop_module / "migrations" / "versions" / "0002_add_the_price.py"
    assert str(script) in written.stdout
    ast.parse(script.read_text())
    assert "price" in script.read_text()
    migrated = edgepaas_here("schema")
    assert "migrated on a copy from 0001 to 0002" in migrated.stdout, migrated.stderr
    assert edgepaas_here("schema", "--check").returncode == 0
    assert "nothing to write" in edgepaas_here("schema", "--revision", "again").stderr


def test_two_heads_are_joined_by_the_command_that_the_repair_names(
    paths: Paths, shop_module: Path
) -> None:
    """A bare 'alembic merge' finds no configuration on a box."""
    for stage in ("env", "dbdecide", "schema"):
        assert edgepaas_here(stage).returncode == 0
    (shop_module / "revision").write_text("0002")
    folder = shop_module / "migrations"
    write_revision(folder, "0002", *SHOP["0002"])
    write_revision(folder, "0002b", "0001", "    pass")
    repair = edgepaas_here("schema", "--repair")
    assert "'edgepaas schema --revision MSG'" in repair.stdout, repair.stdout
    written = edgepaas_here("schema", "--revision", "join them")
    assert written.returncode == 0, written.stderr
    (script,) = (folder / "versions").glob("*_join_them.py")
    assert "'0002'" in script.read_text()
    assert edgepaas_here("schema").returncode == 0
    assert edgepaas_here("schema", "--check").returncode == 0
    assert "two heads" not in edgepaas_here("schema", "--repair").stdout


def test_a_migration_with_a_typing_error_is_named(paths: Paths, shop_module: Path) -> None:
    """By its file."""
    for stage in ("env", "dbdecide"):
        edgepaas_here(stage)
    (shop_module / "migrations" / "versions" / "0002_bad.py").write_text("revision = ")
    failed = edgepaas_here("schema")
    assert failed.returncode == 1
    assert "0002_bad.py" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_the_first_migration_needs_neither_a_template_nor_a_versions_folder(
    paths: Paths, shop_module: Path
) -> None:
    """A developer has written the models and three lines of env.py; the rows so far stay."""
    folder = shop_module / "migrations"
    (folder / "script.py.mako").unlink()
    (folder / "versions" / "0001_test.py").unlink()
    shutil.rmtree(folder / "versions")
    for stage in ("env", "dbdecide", "schema"):
        assert edgepaas_here(stage).returncode == 0
    with connected(paths.sqlite) as connection:
        connection.execute("INSERT INTO items VALUES ('i', 'tea')")
    link = shop_module.parent / "link"
    link.symlink_to(folder)
    (shop_module / "shop_of_a_test.py").write_text(
        _APPLICATION.replace('Path(__file__).with_name("migrations")', f"Path({str(link)!r})")
    )
    written = edgepaas_here("schema", "--revision", "first")
    assert written.returncode == 0, written.stderr
    assert str(folder / "versions" / "0001_first.py") in written.stdout
    assert not (folder / "script.py.mako").exists()
    report = json.loads(edgepaas_here("schema", "--json").stdout)
    assert (report["action"], report["after"]) == ("adopted", ["0001"])
    with connected(paths.sqlite) as connection:
        assert connection.execute("SELECT count(*) FROM items").fetchone() == (1,)
    (folder / "env.py").unlink()
    failed = edgepaas_here("schema", "--revision", "second")
    assert failed.returncode == 1
    assert "env.py" in failed.stderr
    assert "'run(context)'" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_no_greenlet_is_needed(paths: Paths) -> None:
    """It has a compiled core, which the package must do without."""
    script = (
        "import sys; sys.modules['greenlet'] = None\n"
        "from tests.support.databases import *\n"
        "from pathlib import Path\n"
        "database = open_embedded(Path(sys.argv[1]))\n"
        "database.write(adding(reading(1.0))); print(values_in(database)); database.close()"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(paths.state / "x.db")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == "[1.0]\n", run.stderr


def test_a_trigger_of_capture_that_is_missing_on_postgresql_is_named_and_made(
    paths: Paths, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By --check, and by --hub."""
    name = postgres.create_database()
    monkeypatch.setenv("DATABASE_URL", postgres.url(name))
    for stage in ("env", "dbdecide", "schema"):
        assert edgepaas_here(stage).returncode == 0
    assert edgepaas_here("schema", "--check").returncode == 0
    postgres.execute("DROP TRIGGER edgepaas_capture_delete ON devices", name)
    lacking = edgepaas_here("schema", "--check")
    assert lacking.returncode == 1
    assert "triggers of capture are missing on devices" in lacking.stdout
    made = edgepaas_here("schema", "--hub")
    assert made.returncode == 0 and "changes are captured" in made.stdout
    assert edgepaas_here("schema", "--check").returncode == 0
    assert paths.db_contract.exists()
