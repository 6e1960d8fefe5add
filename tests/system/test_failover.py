# SPDX-License-Identifier: Apache-2.0
"""A lagging standby takes over behind the pooler of a whole box: everybody says what is missing.

What had gone through the box's file is sent again; what PostgreSQL alone had is named.
"""

import json
import threading
import time
import uuid
from pathlib import Path

from edgepaas.files.paths import find_paths
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.telemetry import application as telemetry
from tests.support import standby as streaming
from tests.support.live_box import LiveBox, request
from tests.support.postgres_server import PostgresServer
from tests.support.service_process import get, until
from tests.support.telemetry_box import contract_for


class Poster:
    """Posts readings of one device, and keeps the ids that were answered with 201."""

    def __init__(self, box: LiveBox) -> None:
        self._box = box
        self._lock = threading.Lock()
        self.acknowledged: list[str] = []

    def post(self, count: int) -> list[str]:
        """Post until *count* more are acknowledged; return their ids."""
        new: list[str] = []
        deadline = time.monotonic() + 120
        while len(new) < count:
            assert time.monotonic() < deadline
            identity = str(uuid.uuid4())
            body = {"id": identity, "device": "press", "metric": "m", "value": len(new)}
            status, _ = request(self._box.port, "POST", "/api/v1/readings", body)
            if status == 201:
                new.append(identity)
            else:
                assert status in (0, 503), status
        with self._lock:
            self.acknowledged += new
        return new

    def missing(self, server: PostgresServer, name: str) -> list[str]:
        """Return the acknowledged ids that *server* does not have."""
        there = {str(row[0]) for row in server.execute("SELECT id::text FROM readings", name)}
        return [one for one in self.acknowledged if one not in there]


def prepare(folder: Path, server: PostgresServer) -> str:
    """Make a database at head; return its name."""
    name = server.create_database()
    paths = find_paths({"EDGEPAAS_HOME": str(folder)})
    paths.create()
    prepare_database(contract_for(paths, server.url(name)), Settings.of(), paths, telemetry)
    return name


def test_a_failover_behind_a_pooler_shows_everywhere(tmp_path: Path) -> None:
    with streaming.servers() as (primary, standby):
        name = prepare(tmp_path / "prepare", primary)
        with streaming.pooler(primary, name) as pooler:
            pooler.stop()
            with LiveBox(tmp_path / "box", DATABASE_URL=pooler.url) as box:
                box.wait_state("fallback")
                poster = Poster(box)
                through_the_file = poster.post(20)
                streaming.catch_up(primary, standby)
                streaming.stop_following(standby)
                pooler.start()
                box.wait_state("primary", limit=120)
                while_it_served = set(poster.post(40))
                assert poster.missing(primary, name) == []
                streaming.promote(standby)
                pooler.switch(standby)
                began = time.monotonic()
                box.wait_state("degraded", limit=120)
                print(f"found after {time.monotonic() - began:.1f} s")
                until(
                    lambda: not set(through_the_file) & set(poster.missing(standby, name)),
                    "the rows of the file, sent again", 120,
                )  # fmt: skip
                poster.post(10)
                missing = set(poster.missing(standby, name))
                assert missing <= while_it_served and len(missing) >= 39
                lost = len(missing)
                check_what_is_shown(box, lost)
                assert box.run("sync", "acknowledge")[0] == 0
                box.wait_state("primary", limit=60)
                assert box.run("audit")[0] == 0
                poster.post(5)
                assert set(poster.missing(standby, name)) == missing


def check_what_is_shown(box: LiveBox, lost: int) -> None:
    """Readiness, status, metrics, audit and the alert have the number *lost*."""
    status, body = get(box.port, "/health/ready", timeout=30)
    assert status == 200
    assert f"lost {lost:,} rows" in " ".join(json.loads(body)["reasons"])
    _, metrics = get(box.port, "/metrics", timeout=30)
    assert f"edgepaas_sync_hub_lost {lost}" in metrics.decode().replace(".0", "")
    assert f"{lost:,}" in box.run("status")[1]
    code, said = box.run("audit")
    assert code == 1 and f"lacks {lost:,} rows" in said
    code, said = box.run("audit", "--json")
    assert code == 1 and json.loads(said)["lost_while_serving"]["open_rows"] == lost
    assert "acknowledged-rows-lost" in box.run("alerts", "list")[1]
