"""``/api/v1/nodes``: every box of one PostgreSQL, and this one alone while SQLite serves."""

from typing import Any

from edgepaas.files.node import node_identity
from edgepaas.files.paths import Paths
from edgepaas.settings import Settings
from edgepaas.sync.hub import open_hub
from tests.support.telemetry_box import open_box

_INSERT = """
INSERT INTO nodes
  (node_id, name, version, build, state, rows_waiting, boot_id, first_seen, last_seen)
VALUES ($1::text::uuid, $2, '0.1.0', 'b', 'primary', 0, 'x', now(), now() - $3::text::interval)
"""
OTHER = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"


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


def test_on_sqlite_the_box_knows_itself_alone(paths: Paths) -> None:
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
