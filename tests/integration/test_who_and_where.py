# SPDX-License-Identifier: Apache-2.0
"""Readings, changes and deletions say whose token it was and which box took them."""

import contextlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask

from edgepaas.app import Box
from edgepaas.cli import main
from edgepaas.database.postgresql.connector import Connector
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.files.paths import Paths
from edgepaas.outbox import capture
from edgepaas.schema import migrations
from edgepaas.schema.chain import chain_of
from edgepaas.schema.table_contract import describe
from edgepaas.settings import Settings
from edgepaas.sync.delivery.drain import drain_batch
from edgepaas.sync.hub.connection import open_hub
from edgepaas.telemetry import application as telemetry
from edgepaas.telemetry.models import Model
from edgepaas.telemetry.rules.follower import RuleFollower
from edgepaas.web.access.tokens import TokenStore
from tests.support.loop_box import post, serving_in_loop
from tests.support.telemetry_box import open_box, serving

READINGS = "/api/v1/readings"
CHANGES = "/api/v1/changes"


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, paths: Paths) -> Iterator[tuple[Flask, Box]]:
    """A box in production, on each database."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with open_box(paths, url, ENV="production") as found:
        yield found


@pytest.fixture
def node(opened: tuple[Flask, Box]) -> str:
    return opened[1].node_id


@pytest.fixture
def address(opened: tuple[Flask, Box]) -> Iterator[str]:
    with serving(opened[0]) as served:
        yield served


@pytest.fixture
def anna(paths: Paths) -> dict[str, str]:
    return header(TokenStore(paths.tokens).create("anna", read_only=False)[1])


@pytest.fixture
def bert(paths: Paths) -> dict[str, str]:
    return header(TokenStore(paths.tokens).create("bert's press", read_only=False)[1])


def header(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def items(address: str, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = requests.get(f"{address}{path}", timeout=60).json()["items"]
    return found


def who(address: str, path: str = READINGS) -> list[tuple[str | None, str | None]]:
    return [(one["written_by"], one["node"]) for one in items(address, path)]


def reading(**more: Any) -> dict[str, Any]:
    return {"device": "d", "metric": "m", "value": 1.5, **more}


def test_a_reading_keeps_the_first_who_wrote_it(
    address: str, node: str, anna: dict[str, str], bert: dict[str, str], paths: Paths
) -> None:
    mine, his = (reading(id=str(uuid.uuid4()), recorded_at="2026-11-01T12:00:00Z") for _ in "ab")
    said = [
        requests.post(f"{address}{READINGS}", json=body, headers=headers, timeout=60)
        for body, headers in ((mine, anna), (his, bert), (mine, bert), ([mine, his], anna))
    ]
    assert [one.status_code for one in said] == [201] * 4
    assert [one.json()["duplicates"] for one in said] == [0, 0, 1, 2]
    TokenStore(paths.tokens).revoke("anna")
    assert sorted(who(address)) == [("anna", node), ("bert's press", node)]
    one = requests.get(f"{address}{READINGS}/{mine['id']}", timeout=60).json()
    assert (one["written_by"], one["node"]) == ("anna", node)
    assert [one["id"] for one in items(address, f"{READINGS}?written_by=anna")] == [mine["id"]]
    assert len(items(address, f"{READINGS}?node={node}")) == 2
    assert items(address, f"{READINGS}?node={uuid.uuid4()}&written_by=anna") == []


@pytest.mark.parametrize("given", [{"written_by": "somebody"}, {"node": str(uuid.uuid4())}])
def test_a_client_cannot_say_who_it_is(
    address: str, anna: dict[str, str], given: dict[str, str]
) -> None:
    for body in (reading(**given), [reading(**given)], {"readings": [reading(**given)]}):
        answer = requests.post(f"{address}{READINGS}", json=body, headers=anna, timeout=60)
        assert answer.status_code == 422
    assert items(address, READINGS) == []


def test_the_lean_path_says_the_same(
    opened: tuple[Flask, Box], anna: dict[str, str], node: str
) -> None:
    app, box = opened
    with serving_in_loop(app) as loop:
        (follower,) = box.workers
        assert isinstance(follower, RuleFollower)
        follower.rules.watches()  # as their thread does, which is not there
        answer = loop.send(post(json.dumps(reading()).encode(), anna))
        assert answer.status == "201 CREATED"
        assert loop.taken == [READINGS], "answered without a worker"
    with serving(app) as address:
        assert who(address) == [("anna", node)]


def test_the_boxs_own_commands_are_local(
    address: str, node: str, paths: Paths, tmp_path: Path
) -> None:
    paths.address.write_text(f"{address}\n")
    file, out = tmp_path / "in.csv", tmp_path / "out.csv"
    file.write_text("timestamp,value\n2026-11-01T12:00:00Z,1\n")
    assert main(["telemetry", "import", str(file), "--device", "d", "--metric", "m"]) == 0
    assert who(address) == [("local", node)]
    assert main(["telemetry", "export", str(out), "--written-by", "local"]) == 0
    header_line, line = out.read_text().splitlines()
    assert header_line.endswith(",written_by,node")
    assert line.endswith(f",local,{node}")
    none = tmp_path / "none.csv"
    assert main(["telemetry", "export", str(none), "--node", str(uuid.uuid4())]) == 0
    assert none.read_text() == f"{header_line}\n"


def test_changes_of_devices_and_rules_are_recorded(
    address: str, node: str, anna: dict[str, str], bert: dict[str, str]
) -> None:
    def send(method: str, path: str, headers: dict[str, str], body: Any = None) -> Any:
        answer = requests.request(
            method, f"{address}/api/v1/{path}", json=body, headers=headers, timeout=60
        )
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    device = send("POST", "devices", anna, {"name": "press", "labels": {"room": "boiler"}})["id"]
    send("PATCH", f"devices/{device}", bert, {"description": "hot", "labels": {"room": "boiler"}})
    send("PATCH", f"devices/{device}", bert, {"description": "hot"})
    send("DELETE", f"devices/{device}", anna)
    rule = {"name": "hot", "metric": "t", "condition": "above", "threshold": 80.5}
    rule_id = send("POST", "rules", {**anna, "Idempotency-Key": "k"}, rule)["id"]
    send("POST", "rules", {**anna, "Idempotency-Key": "k"}, rule)
    send("PATCH", f"rules/{rule_id}", bert, {"threshold": 90})
    send("DELETE", f"rules/{rule_id}", bert)
    send("POST", "readings", anna, reading(device="registers-itself"))

    found = items(address, CHANGES)
    assert [(one["kind"], one["action"], one["changed_by"]) for one in found] == [
        ("device", "create", "anna"),
        ("device", "change", "bert's press"),
        ("device", "delete", "anna"),
        ("rule", "create", "anna"),
        ("rule", "change", "bert's press"),
        ("rule", "delete", "bert's press"),
    ]
    assert {(one["node"], len(one["token_id"])) for one in found} == {(node, 12)}
    created, changed, deleted = items(address, f"{CHANGES}?row_id={device}")
    labels = {"labels": {"room": "boiler"}}
    assert (created["old"], created["new"]) == (
        None,
        {"name": "press", "description": None, **labels},
    )
    assert (changed["old"], changed["new"]) == ({"description": None}, {"description": "hot"})
    assert deleted["old"] == {"name": "press", "description": "hot", **labels}
    assert deleted["new"] is None
    (threshold,) = [
        one for one in items(address, f"{CHANGES}?kind=rule") if one["old"] and one["new"]
    ]
    assert (threshold["old"], threshold["new"]) == ({"threshold": 80.5}, {"threshold": 90.0})
    assert len(items(address, f"{CHANGES}?changed_by=anna")) == 3


def test_what_is_deleted_keeps_who_wrote_it(
    address: str, node: str, anna: dict[str, str], bert: dict[str, str]
) -> None:
    one = str(uuid.uuid4())
    requests.post(f"{address}{READINGS}", json=reading(id=one), headers=anna, timeout=60)
    body = {"ids": [one], "reason": "spike"}
    path = f"{READINGS}/deletions"
    assert requests.post(f"{address}{path}", json=body, headers=bert, timeout=60).ok
    (kept,) = items(address, path)
    assert (kept["written_by"], kept["deleted_by"]) == ("anna", "bert's press")
    assert (kept["reading_node"], kept["node"]) == (node, node)


def test_what_an_outage_took_brings_who_and_where_along(
    paths: Paths, postgres_url: str, tmp_path: Path
) -> None:
    """A reading that PostgreSQL has from somebody else is no conflict, and keeps who was first."""
    with open_box(paths, postgres_url):
        pass  # the hub's schema
    document = {"revision": ["1"], "tables": describe(Model.metadata)}
    with (
        open_box(paths, ENV="production") as (app, box),
        serving(app) as address,
        contextlib.closing(open_sqlite(paths.sqlite)) as connection,
        open_hub(Settings.of(), postgres_url) as hub,
    ):
        capture.install(connection, document, node_id=box.node_id)
        headers = header(TokenStore(paths.tokens).create("anna", read_only=False)[1])
        both, mine = (
            reading(id=str(uuid.uuid4()), recorded_at="2026-11-01T12:00:00Z") for _ in "ab"
        )
        for path, body in ((READINGS, [both, mine]), ("/api/v1/devices", {"name": "press"})):
            answer = requests.post(f"{address}{path}", json=body, headers=headers, timeout=60)
            assert answer.status_code == 201
        other = str(uuid.uuid4())
        hub.query(
            "INSERT INTO readings (id, device_id, device, metric, value, recorded_at, received_at, "
            f"written_by, node) VALUES ('{both['id']}', '{_device_id(address)}', 'd', 'm', 1.5, "
            f"'{both['recorded_at']}', now(), 'bert', '{other}')"
        )
        while drain_batch(connection, hub, rows=100, log=lambda *_: None).remaining:
            continue
        found = hub.query("SELECT id::text, written_by, node::text FROM readings")
        assert sorted(map(tuple, found)) == sorted(
            [(both["id"], "bert", other), (mine["id"], "anna", box.node_id)]
        )
        assert hub.query("SELECT count(*) FROM sync_conflicts") == [[0]]
        changes = "SELECT action, name, changed_by, node::text, new->>'name' FROM changes"
        assert hub.query(changes) == [["create", "press", "anna", box.node_id, "press"]]


def _device_id(address: str) -> str:
    (found,) = [one["id"] for one in items(address, "/api/v1/devices") if one["name"] == "d"]
    return str(found)


@pytest.mark.parametrize("server", [False, True], ids=["sqlite", "postgresql"])
def test_the_migration_leads_there_and_back(
    paths: Paths, request: pytest.FixtureRequest, server: bool
) -> None:
    """Rows of the release before stay, with nobody's name; nothing is left of it afterwards."""
    from alembic import command

    url = request.getfixturevalue("postgres_url") if server else None
    chain = chain_of(telemetry)
    if url is None:
        engine = migrations.migration_engine(
            lambda: open_sqlite(paths.sqlite, create=True), "sqlite://"
        )
    else:
        engine = migrations.migration_engine(Connector(url, Settings.of()), "postgresql+pg8000://")
    row = (
        "INSERT INTO readings (id, device_id, device, metric, value, recorded_at, received_at) "
        "VALUES ('{0}', '{0}', 'd', 'm', 1, '2026-11-01T12:00:00.000000Z', "
        "'2026-11-01T12:00:00.000000Z')"
    )
    try:
        with engine.begin() as connection:
            migrations.upgrade(connection, chain, Model.metadata, "0003")
            before = migrations.columns_by_table(connection, chain)
            connection.exec_driver_sql(row.format(uuid.uuid4()))
            migrations.upgrade(connection, chain, Model.metadata)
            connection.exec_driver_sql(row.format(uuid.uuid4()))
            found = connection.exec_driver_sql("SELECT written_by, node FROM readings").all()
            assert [tuple(one) for one in found] == [(None, None)] * 2
            assert migrations.differences(connection, chain, Model.metadata) == []
            command.downgrade(migrations._config(connection, chain, Model.metadata), "0003")
            assert migrations.columns_by_table(connection, chain) == before
            count = connection.exec_driver_sql("SELECT count(*) FROM readings").scalar()
            assert count == 2
            migrations.upgrade(connection, chain, Model.metadata)
        with open_box(paths, url) as (app, _box), serving(app) as address:
            assert who(address) == [(None, None)] * 2
    finally:
        engine.dispose()
