# SPDX-License-Identifier: Apache-2.0
"""A role that may not change PostgreSQL's schema: an upgrade of the box stops nothing.

The role may write its tables, as an operator gives it who makes them by hand.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgepaas.alerts.conditions.listing import list_conditions
from edgepaas.app import Application
from edgepaas.database import open_database
from edgepaas.database.postgresql.connector import Connector
from edgepaas.decision.hold import read_hold
from edgepaas.errors import DecideAgain
from edgepaas.files.paths import Paths
from edgepaas.hosting.loading import metadata_of
from edgepaas.pgdriver.connection import close_quietly
from edgepaas.pgdriver.pg8000_adapter import simple_query
from edgepaas.schema.at_head import schema_at_head
from edgepaas.schema.chain import chain_of
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.hub_conditions import read_hub_conditions
from edgepaas.schema.postgresql import hub, lesser_rights, migrate
from edgepaas.schema.postgresql.script import upgrade_script
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.sync.hub.connection import open_hub
from edgepaas.telemetry import application as telemetry
from tests.support.chains import postgres_contract
from tests.support.live_box import LiveBox, request
from tests.support.older_hub import make_earlier, role_without_create
from tests.support.postgres_server import PostgresServer
from tests.support.service_process import until


@pytest.fixture
def earlier(postgres: PostgresServer) -> Iterator[str]:
    """The name of a database as the release before left it."""
    name = postgres.create_database()
    make_earlier(postgres, name)
    yield name
    postgres.drop_database(name)


def as_owner(server: PostgresServer, name: str, script: str) -> None:
    """Run *script* as psql does: as one string of statements."""
    connection = Connector(server.url(name), Settings.of())()
    try:
        connection.autocommit = True
        simple_query(connection, script)
    finally:
        close_quietly(connection)


def script_for(url: str, application: Application = telemetry) -> str:
    """Return what 'edgepaas schema --sql' prints on a box with this address."""
    parts = migrate.parts_of(chain_of(application), lambda: metadata_of(application))
    return upgrade_script(Connector(url, Settings.of()), parts)


def hub_report(paths: Paths, url: str) -> Any:
    """Run 'edgepaas schema --hub' as the drainer does."""
    contract = replace(
        postgres_contract(paths, url, fallback=True),
        database_url=f"sqlite:///{paths.sqlite}",
        run_migrations=False,
        final_db_mode="sqlite_only",
    )
    return hub.prepare_hub(contract, Settings.of(), telemetry)


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("temporary", [True, False])
def test_an_upgrade_goes_on_with_the_tables_as_they_are(
    paths: Paths, postgres: PostgresServer, earlier: str, fallback: bool, temporary: bool
) -> None:
    """It was held, and alone it answered 503: the functions of capture need CREATE."""
    with role_without_create(postgres, earlier, temporary=temporary) as url:
        contract = postgres_contract(paths, url, fallback=fallback)
        report = prepare_database(contract, Settings.of(), paths, telemetry)
        assert report.action == "nothing"
        assert read_hold(paths.postgres_hold) is None
        assert "cannot be sent again" in report.reservation
        assert "edgepaas schema --sql" in report.reservation
        assert read_hub_conditions(paths).rights == report.reservation
        database = open_database(contract, Settings.of(), paths)
        try:
            assert schema_at_head(database, telemetry).at_head
        finally:
            database.close()
        sent = hub_report(paths, url)
        assert sent.action == "nothing"
        assert sent.reservation == report.reservation


def test_what_the_owner_runs_adds_what_is_lacking(
    paths: Paths, postgres: PostgresServer, earlier: str
) -> None:
    """One script, one transaction; afterwards the box finds nothing to be done."""
    with role_without_create(postgres, earlier, temporary=True) as url:
        contract = postgres_contract(paths, url, fallback=True)
        prepare_database(contract, Settings.of(), paths, telemetry)
        script = script_for(url)
        as_owner(postgres, earlier, script)
        assert script_for(url) == ""
        report = prepare_database(contract, Settings.of(), paths, telemetry)
        assert (report.action, report.reservation) == ("nothing", "")
        assert not read_hub_conditions(paths)
        assert hub_report(paths, url).reservation == ""
        with pytest.raises(Exception, match="not at 0002 any more"):
            as_owner(postgres, earlier, script)


def alert_about(box: LiveBox, fingerprint: str) -> str:
    """Return what is said under *fingerprint*; empty: it does not hold."""
    found = [one for one in list_conditions(box.paths) if one["state"] == "raised"]
    return "".join(one["message"] for one in found if one["fingerprint"] == fingerprint)


def test_a_box_serves_sends_and_says_what_it_cannot_promise(
    tmp_path: Path, postgres: PostgresServer, earlier: str
) -> None:
    """In the place of PostgreSQL and in front of it; the owner's script ends both alerts."""
    with role_without_create(postgres, earlier, temporary=True) as url:
        with LiveBox(tmp_path, DATABASE_URL=url, USE_SQLITE="true") as sender:
            sender.wait_state("local-first", "degraded", "full")
            assert post(sender, "sent") == 201
            sender.wait_drained()
            assert "cannot be sent again" in alert_about(sender, "hub-rights")
        with LiveBox(tmp_path, DATABASE_URL=url) as box:
            box.wait_state("primary", "degraded")
            assert post(box, "direct") == 201
            until(lambda: alert_about(box, "hub-not-captured"), "the alert about capture", 90)
            assert "edgepaas schema --sql" in alert_about(box, "hub-rights")
            doctor = box.run("doctor")[1]
            assert "this box's role may not change the schema of PostgreSQL" in doctor
            status, script = box.run("schema", "--sql")
            assert status == 0, script
            as_owner(postgres, earlier, script)
            status, said = box.run("schema", "--hub")
            assert (status, "WARNING" in said) == (0, False), said
            until(lambda: not alert_about(box, "hub-rights"), "the end of the alert", 90)
            until(lambda: not alert_about(box, "hub-not-captured"), "capture", 90)
            assert post(box, "captured") == 201
    stored = postgres.execute("SELECT device FROM readings ORDER BY device", earlier)
    assert stored == [["captured"], ["direct"], ["sent"]]


def post(box: LiveBox, device: str) -> int:
    """Post one reading; returns the answer's status."""
    content = {"device": device, "metric": "m", "value": 1, "recorded_at": "2026-01-01T00:00:00Z"}
    return request(box.port, "POST", "/api/v1/readings", content)[0]


def test_tables_that_another_box_made_and_gave_no_right_to_hold_nobody_up(
    paths: Paths, postgres: PostgresServer, earlier: str
) -> None:
    """A box with the owner's role is upgraded first: what it adds is closed to the others."""
    with role_without_create(postgres, earlier, temporary=True) as url:
        owners = postgres_contract(paths, postgres.url(earlier), fallback=True)
        prepare_database(owners, Settings.of(), paths, telemetry)
        contract = postgres_contract(paths, url, fallback=True)
        report = prepare_database(contract, Settings.of(), paths, telemetry)
        assert read_hold(paths.postgres_hold) is None
        database = open_database(contract, Settings.of(), paths)
        try:
            assert schema_at_head(database, telemetry).at_head
        finally:
            database.close()
        assert hub_report(paths, url).action == "nothing"
        assert "edgepaas schema --sql" in report.reservation
        with open_hub(Settings.of(), url) as link:
            assert not {"sync_layouts", "sync_histories", "edgepaas_revisions"} & set(link.tables)
            assert "readings" in link.tables
            assert link.revisions is None
        as_owner(postgres, earlier, script_for(url))
        assert script_for(url) == ""
        assert hub_report(paths, url).reservation == ""
        with open_hub(Settings.of(), url) as link:
            assert link.revisions is not None


def test_a_role_that_may_not_reach_head_by_far_is_refused_with_the_way_out(
    paths: Paths, postgres: PostgresServer, postgres_url: str
) -> None:
    """Where there is no table yet, nothing worked before; the script makes everything."""
    name = postgres_url.rpartition("/")[2]
    with role_without_create(postgres, name, temporary=True) as url:
        with pytest.raises(SchemaError, match=r"42501.*edgepaas schema --sql"):
            hub_report(paths, url)
        as_owner(postgres, name, script_for(url))
        assert hub_report(paths, url).reservation == ""


def test_a_build_that_takes_a_lacking_right_for_a_defect_is_found_out(
    paths: Paths, postgres: PostgresServer, earlier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: object, **__: object) -> None:
        raise SchemaError("PostgreSQL: migrating it failed (SQLSTATE 42501)")

    monkeypatch.setattr(lesser_rights, "works_as_before", raises)
    with role_without_create(postgres, earlier, temporary=True) as url:
        contract = postgres_contract(paths, url, fallback=True)
        with pytest.raises(DecideAgain):
            prepare_database(contract, Settings.of(), paths, telemetry)
