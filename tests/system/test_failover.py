# SPDX-License-Identifier: Apache-2.0
"""A lagging standby takes over behind the pooler of a whole box: all of it comes home.

The client's record is the judge; what the box says must agree with it.
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
    """All comes home: of PostgreSQL's time from the journal, of the fallback from the file."""
    with streaming.servers() as (primary, standby):
        name = prepare(tmp_path / "prepare", primary)
        with streaming.pooler(primary, name) as pooler:
            pooler.stop()
            with LiveBox(tmp_path / "box", DATABASE_URL=pooler.url) as box:
                box.wait_state("fallback")
                poster = Poster(box)
                poster.post(20)
                streaming.catch_up(primary, standby)
                streaming.stop_following(standby)
                pooler.start()
                box.wait_state("primary", limit=120)
                poster.post(40)
                assert poster.missing(primary, name) == []
                streaming.promote(standby)
                pooler.switch(standby)
                missed = len(poster.missing(standby, name))
                assert missed == 60, "the standby had neither"
                until(lambda: poster.missing(standby, name) == [], "the rows, sent again", 120)
                poster.post(10)
                check_what_is_shown(box)
                assert poster.missing(standby, name) == []
                stored = standby.execute("SELECT count(*) FROM readings", name)
                assert stored == [[len(poster.acknowledged)]], "each once"


def check_what_is_shown(box: LiveBox) -> None:
    """Nothing is lost any more, for anybody; that it was is an alert, which ends by itself."""
    box.wait_state("primary", limit=120)
    until(lambda: box.run("audit")[0] == 0, "an audit that adds up", 120)
    _, said = box.run("audit", "--json")
    found = json.loads(said)
    assert found["lost_while_serving"]["open_rows"] == found["box"]["hub_lost"] == 0
    _, metrics = get(box.port, "/metrics", timeout=30)
    assert "edgepaas_sync_hub_lost 0" in metrics.decode()
    status, body = get(box.port, "/health/ready", timeout=30)
    assert status == 200 and "lost" not in " ".join(json.loads(body)["reasons"])
    until(lambda: endings(box) == {"raised", "resolved"}, "a warning that ended", 120)
    assert "acknowledged-rows-lost" not in box.run("alerts", "list")[1]
    assert "lost" not in box.run("doctor")[1]
    assert "sent again from the journal" in box.output()


def endings(box: LiveBox) -> set[str]:
    """What the history has of the alert about rows that PostgreSQL lost, all of it a warning."""
    entries = [
        entry
        for entry in json.loads(box.run("alerts", "history", "--json")[1])
        if "acknowledged-rows-lost" in (entry.get("fingerprint"), entry.get("condition"))
    ]
    assert all(entry["severity"] == "warning" for entry in entries if entry["what"] == "raised")
    return {entry["what"] for entry in entries} & {"raised", "resolved"}
