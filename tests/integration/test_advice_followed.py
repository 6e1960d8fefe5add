# SPDX-License-Identifier: Apache-2.0
"""Advice is taken as it is printed, in the state that printed it, and the state is over then.

A case makes a state, has the product say what to do, takes the first command out of what it said,
runs that, and asks again. tests/unit/test_advice.py holds the register of all advice.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest

from edgepaas.alerts.catalogue import ROWS_LEFT_BEHIND, SQLITE_UNMIGRATED
from edgepaas.alerts.catalogue_entry import CatalogueEntry
from edgepaas.alerts.conditions.raised_fingerprints import raised_fingerprints
from edgepaas.cli.stages import schema as schema_stage
from edgepaas.database.ids import uuid7
from edgepaas.decision.waiting import rows_waiting
from edgepaas.doctor import Finding
from edgepaas.doctor.preflight import preflight
from edgepaas.files.paths import Paths
from tests.support.chains import connected
from tests.support.in_process import edgepaas_here
from tests.support.one_box import chain_runs, execute
from tests.support.service_process import until

_COMMAND = re.compile(r"'(?:sudo )?edgepaas ([^']+)'")
#: What stands in a command for what an operator chooses.
_CHOSEN = {"NAME": "advised", "MSG": "advised"}


def finding(paths: Paths, name: str) -> Finding:
    """Return what doctor finds under *name*."""
    (found,) = [one for one in preflight(paths) if one.name == name]
    return found


def follow(text: str) -> None:
    """Run the first command that *text* quotes; 'edgepaas up' is the chain that it runs."""
    match = _COMMAND.search(text)
    assert match, f"there is no command in: {text}"
    words = [_CHOSEN.get(word, word) for word in shlex.split(match[1])]
    if words == ["up"]:
        assert chain_runs() == 0
        return
    done = edgepaas_here(*words)
    assert done.returncode == 0, f"{match[0]}: {done.stdout}{done.stderr}"


def _no_index(paths: Paths) -> None:
    with connected(paths.sqlite) as connection:
        connection.execute("DROP INDEX ix_readings_recorded_at_id")


def _no_version(paths: Paths) -> None:
    with connected(paths.sqlite) as connection:
        connection.execute("DROP TABLE alembic_version_telemetry")


def _no_table(paths: Paths) -> None:
    with connected(paths.sqlite) as connection:
        connection.execute("DROP TABLE rule_feed")


def _damage(paths: Paths) -> None:
    with connected(paths.sqlite) as connection:
        connection.execute("CREATE TABLE junk AS SELECT hex(randomblob(9000)) AS a")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(paths.sqlite.read_bytes())
    content[8192:16384] = b"\xff" * 8192
    paths.sqlite.write_bytes(content)


#: By what is found: how the state is made, and how bad it is.
ON_SQLITE: dict[str, tuple[str, Callable[[Paths], None]]] = {
    "an index that is missing": ("schema", _no_index),
    "a version that is missing": ("schema", _no_version),
    "a table that is missing": ("schema", _no_table),
    "a damaged file": ("SQLite", _damage),
}


@pytest.mark.parametrize("state", ON_SQLITE)
def test_doctors_remedy_for_the_file_is_one(paths: Paths, state: str) -> None:
    """The file is as it should be when the command has run."""
    name, make = ON_SQLITE[state]
    assert chain_runs() == 0
    make(paths)
    found = finding(paths, name)
    assert found.level != "ok"
    follow(found.advice)
    assert finding(paths, name).level == "ok"


@pytest.mark.parametrize("triggers", ["one", "all"])
def test_doctors_remedy_for_capture_is_one(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, triggers: str
) -> None:
    """The chain puts the triggers back."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@127.0.0.1:1/hub")
    assert chain_runs() == 0
    with connected(paths.sqlite) as connection:
        names = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type='trigger'")
        ]
        for name in names[:1] if triggers == "one" else names:
            connection.execute(f'DROP TRIGGER "{name}"')
    found = finding(paths, "capture")
    assert found.level == "fail"
    follow(found.advice)
    assert finding(paths, "capture").level == "ok"


@pytest.mark.parametrize("lost", ["nodes", "readings"])
def test_doctors_remedy_for_the_hub_is_one(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """What PostgreSQL lacks is there when the command has run."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    assert chain_runs() == 0
    execute(postgres_url, f'DROP TABLE "{lost}" CASCADE')
    found = finding(paths, "hub schema")
    assert found.level == "fail"
    follow(found.advice)
    assert finding(paths, "hub schema").level == "ok"


def test_doctors_remedy_for_no_token_is_one(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The box can be written to then."""
    monkeypatch.setenv("ENV", "production")
    assert chain_runs() == 0
    found = finding(paths, "tokens")
    assert found.level == "warn"
    follow(found.advice)
    assert finding(paths, "tokens").level == "ok"


@pytest.mark.parametrize("command", ["verify", "schema", "audit"])
def test_what_a_command_without_contracts_asks_for_leads_to_its_answer(
    paths: Paths, command: str
) -> None:
    """Each stage that it names is run as named, until the command works."""
    for _ in range(5):
        done = edgepaas_here(command)
        if done.returncode == 0:
            break
        follow(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr


def test_doctor_names_a_table_that_does_not_fit_and_the_statement_that_mends_it(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said that the hub's schema was ok; what the message names is run, and it is."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    assert chain_runs() == 0
    execute(postgres_url, "ALTER TABLE readings ALTER COLUMN value TYPE integer")
    found = finding(paths, "hub schema")
    assert found.level == "fail"
    statements = re.findall(r"`([^`]+)`", found.message)
    assert statements, found.message
    execute(postgres_url, *statements)
    assert finding(paths, "hub schema").level == "ok"


def _advised(paths: Paths, entry: CatalogueEntry) -> str:
    """Return what the alert *entry*, which is raised, says is to be done."""
    assert raised_fingerprints(paths, entry.pattern)
    return entry.what_to_do


def test_a_file_that_serves_unmigrated_is_mended_as_its_alert_says(paths: Paths) -> None:
    """A version that was set back by hand: the migration fails, and the tables fit."""
    assert chain_runs() == 0
    with connected(paths.sqlite) as connection:
        connection.execute("UPDATE alembic_version_telemetry SET version_num = '0001'")
    assert chain_runs() == 0
    assert finding(paths, "schema").level != "ok"
    follow(_advised(paths, SQLITE_UNMIGRATED))
    assert finding(paths, "schema").level == "ok"
    assert chain_runs() == 0
    assert not raised_fingerprints(paths, SQLITE_UNMIGRATED.pattern)


@pytest.mark.parametrize("back", ["0001", "0002"])
def test_a_file_behind_this_build_is_brought_to_it_as_the_check_says(
    paths: Paths, back: str
) -> None:
    """As after a downgrade whose build was not changed."""
    assert chain_runs() == 0
    assert edgepaas_here("schema", "--downgrade", back, "--yes").returncode == 0
    checked = edgepaas_here("schema", "--check")
    assert checked.returncode == 1
    follow(checked.stdout)
    assert edgepaas_here("schema", "--check").returncode == 0


def test_a_token_whose_name_is_taken_can_be_made_as_the_refusal_says(paths: Paths) -> None:
    """The one before is taken back first."""
    assert chain_runs() == 0
    assert edgepaas_here("token", "create", "press").returncode == 0
    refused = edgepaas_here("token", "create", "press")
    assert refused.returncode == 1
    follow(refused.stderr)
    assert edgepaas_here("token", "create", "press").returncode == 0


def test_rows_left_behind_go_home_as_the_alert_says(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL alone serves, and what waited was not sent in time: the drainer goes on."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    with monkeypatch.context() as local:
        local.setenv("USE_SQLITE", "true")
        assert chain_runs() == 0
    with connected(paths.sqlite) as connection:
        connection.execute(
            "INSERT INTO readings (id, device_id, device, metric, value, recorded_at, received_at) "
            "VALUES (?1, ?2, 'press', 'heat', 1.5, ?3, ?3)",
            (str(uuid7()), str(uuid7()), "2026-01-31T12:00:00.000000Z"),
        )
    monkeypatch.setenv("BOTH_DB", "false")
    monkeypatch.setattr(schema_stage, "_drain_once", lambda: "it was not done in time")
    assert chain_runs() == 0
    text = _advised(paths, ROWS_LEFT_BEHIND)
    match = _COMMAND.search(text)
    assert match, text
    child = subprocess.Popen(
        [sys.executable, "-m", "edgepaas", *match[1].split()], stdin=subprocess.DEVNULL
    )
    try:
        until(
            lambda: list(execute(postgres_url, "SELECT count(*) FROM readings")[0]) == [1],
            "the row at home",
            120,
        )
    finally:
        child.terminate()
        child.wait(60)
    assert rows_waiting(paths.sqlite, paths.database_lock).rows == 0


#: What happens to the PostgreSQL of a box whose SQLite serves, by what the two say of it.
BESIDE = {
    "no version": ("DROP TABLE alembic_version_telemetry", "no version"),
    "no index": ("DROP INDEX ix_readings_recorded_at_id", "makes the index"),
    "a table gone": ("DROP TABLE rules CASCADE", "rules"),
    "narrower": ("ALTER TABLE readings ALTER COLUMN value TYPE integer", "readings"),
    "no key": ("ALTER TABLE readings DROP CONSTRAINT pk_readings CASCADE", "readings"),
}


@pytest.mark.parametrize("damage", BESIDE)
def test_the_schema_of_postgresql_is_looked_at_while_sqlite_serves(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """``--check`` looked at SQLite alone, and doctor said that the hub's schema was ok."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("USE_SQLITE", "true")
    assert chain_runs() == 0
    assert edgepaas_here("schema", "--hub").returncode == 0
    assert edgepaas_here("schema", "--check").returncode == 0
    assert finding(paths, "hub schema").level == "ok"
    statement, said = BESIDE[damage]
    execute(postgres_url, statement)
    checked = edgepaas_here("schema", "--check")
    assert checked.returncode == 1
    assert "SQLite: at head" in checked.stdout
    assert said in checked.stdout.replace("\n", " ")
    found = finding(paths, "hub schema")
    assert (found.level, said in found.message or said in found.advice) == ("fail", True)
    if statements := re.findall(r"`([^`]+)`", checked.stdout):
        execute(postgres_url, *statements)
    else:
        follow(found.advice)
    assert edgepaas_here("schema", "--check").returncode == 0
    assert finding(paths, "hub schema").level == "ok"


def test_a_postgresql_that_is_away_is_said_and_no_failure_of_the_check(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box in fallback is as it should be."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@127.0.0.1:1/hub")
    assert chain_runs() == 0
    checked = edgepaas_here("schema", "--check")
    assert checked.returncode == 0
    assert "PostgreSQL: not examined" in checked.stdout
