# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/nodes``: every box of one PostgreSQL; on SQLite as the drainer was told."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest

from edgepaas.app import Box
from edgepaas.files.node_identity import node_identity
from edgepaas.files.paths import Paths
from edgepaas.settings import Settings
from edgepaas.sync.hub import fleet
from edgepaas.sync.hub.connection import Hub, open_hub
from tests.support.hub_database import HubDatabase
from tests.support.telemetry_box import open_box

_INSERT = """
INSERT INTO nodes
  (node_id, name, version, build, state, rows_waiting, boot_id, first_seen, last_seen)
VALUES ($1::text::uuid, $2, '0.1.0', 'b', 'primary', 0, 'x', now(), now() - $3::text::interval)
"""
OTHER = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
THIRD = "6fa459ea-ee8a-3ca4-894e-db77e160355e"


def nodes(app: Any) -> dict[str, Any]:
    answer = app.test_client().get("/api/v1/nodes")
    assert answer.status_code == 200, answer.get_json()
    document: dict[str, Any] = answer.get_json()
    return document


def test_postgres_lists_every_box_and_marks_the_silent_ones(
    paths: Paths, postgres_url: str
) -> None:
    """By PostgreSQL's own clock; the box that answers is marked, too."""
    with open_box(paths, postgres_url, HEARTBEAT_INTERVAL="15") as (app, _):
        assert nodes(app) == {"items": [], "partial": False}
        with open_hub(Settings.of(), postgres_url) as hub:
            own = node_identity(paths).node_id
            hub.query(_INSERT, own, "here", "1 second")
            hub.query(_INSERT, OTHER, "away", "2 minutes")
        found = nodes(app)
        assert not found["partial"]
        assert [(one["name"], one["stale"], one["this"]) for one in found["items"]] == [
            ("away", True, False),
            ("here", False, True),
        ]
        assert found["items"][1]["last_seen"].endswith("+00:00")


def test_on_sqlite_without_a_hub_the_box_knows_itself_alone(paths: Paths) -> None:
    """And says that this is not all."""
    with open_box(paths, NODE_NAME="press-hall") as (app, _):
        found = nodes(app)
    assert found["partial"]
    (only,) = found["items"]
    assert (only["name"], only["this"], only["stale"]) == ("press-hall", True, False)
    assert only["node_id"] == node_identity(paths).node_id


def test_a_postgres_without_the_platforms_tables_is_partial(
    paths: Paths, postgres_url: str
) -> None:
    """RUN_MIGRATIONS=false on a hub of somebody else's making."""
    with open_box(paths, postgres_url) as (app, _):
        with open_hub(Settings.of(), postgres_url) as hub:
            hub.query("DROP TABLE nodes")
        assert nodes(app)["partial"]


def local_first(paths: Paths, url: str) -> AbstractContextManager[tuple[Any, Box]]:
    """A box that SQLite serves, without a drainer of its own."""
    return open_box(
        paths,
        state="local-first",
        NODE_NAME="press-hall",
        HEARTBEAT_INTERVAL="15",
        DATABASE_URL=url,
    )


def told(box: Box, hub: Hub) -> None:
    """Do what the drainer does after a heartbeat."""
    fleet.write_fleet(hub, box.paths, box.contract.generation)


def older(box: Box, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what was noted with the list: its moment, its generation."""
    entry = json.loads(box.paths.fleet.read_text())
    change(entry["read"])
    box.paths.fleet.write_text(json.dumps(entry))


def test_on_sqlite_the_boxes_are_those_that_the_drainer_was_told_of(
    paths: Paths, hub_database: HubDatabase
) -> None:
    """Its own entry is as it is now, whatever the hub knows of it."""
    with (
        local_first(paths, hub_database.url) as (app, box),
        open_hub(Settings.of(), hub_database.url) as hub,
    ):
        box.contract = replace(box.contract, hub_url=hub_database.url)
        assert nodes(app)["partial"]
        told(box, hub)
        assert [one["name"] for one in nodes(app)["items"]] == ["press-hall"]
        own = node_identity(paths).node_id
        hub.query(_INSERT, own, "named otherwise before", "2 minutes")
        hub.query(_INSERT, OTHER, 'away "\n\\ ü', "2 minutes")
        hub.query(_INSERT, THIRD, "there", "40 seconds")
        told(box, hub)
        found = nodes(app)
        assert not found["partial"]
        assert [
            (one["name"], one["state"], one["stale"], one["this"]) for one in found["items"]
        ] == [
            ('away "\n\\ ü', "primary", True, False),
            ("press-hall", "local-first", False, True),
            ("there", "primary", False, False),
        ]
        mine = found["items"][1]
        assert mine["node_id"] == own
        assert mine["first_seen"] is not None
        assert found["items"][2]["last_seen"].endswith("+00:00")
        # They go on ageing while nothing newer is known: 40 s, and 90 s.
        older(box, lambda read: read["moment"].update(since_boot=read["moment"]["since_boot"] - 90))
        assert [one["stale"] for one in nodes(app)["items"]] == [True, False, True]


@pytest.mark.parametrize(
    "change",
    [
        lambda read: read["moment"].update(since_boot=read["moment"]["since_boot"] - 120),
        lambda read: read["moment"].update(boot_id="another"),
        lambda read: read.update(generation="0"),
        lambda read: read.pop("moment"),
    ],
    ids=["long ago", "before the box was switched off", "of another hub, maybe", "torn"],
)
def test_what_the_drainer_was_told_is_not_shown_for_ever(
    paths: Paths, hub_database: HubDatabase, change: Callable[[dict[str, Any]], None]
) -> None:
    with (
        local_first(paths, hub_database.url) as (app, box),
        open_hub(Settings.of(), hub_database.url) as hub,
    ):
        box.contract = replace(box.contract, hub_url=hub_database.url)
        hub.query(_INSERT, OTHER, "away", "1 second")
        told(box, hub)
        assert not nodes(app)["partial"]
        older(box, change)
        found = nodes(app)
    assert found["partial"]
    assert [one["this"] for one in found["items"]] == [True]


def test_a_fleet_that_is_larger_than_what_is_kept_is_partial(
    paths: Paths, hub_database: HubDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "LIMIT", 1)
    with (
        local_first(paths, hub_database.url) as (app, box),
        open_hub(Settings.of(), hub_database.url) as hub,
    ):
        box.contract = replace(box.contract, hub_url=hub_database.url)
        hub.query(_INSERT, OTHER, "one", "1 second")
        hub.query(_INSERT, THIRD, "two", "1 second")
        told(box, hub)
        found = nodes(app)
    assert found["partial"]
    assert [one["name"] for one in found["items"]] == ["one", "press-hall"]
