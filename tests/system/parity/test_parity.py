# SPDX-License-Identifier: Apache-2.0
"""What a box does, over HTTP and its commands: the same in every home it may live in."""

import json
import time
import uuid
from collections import Counter

import pytest

from tests.system.client import Writers, reading_of
from tests.system.parity.conftest import LIMIT, Box
from tests.system.parity.homes import Package

#: What each row of the decision's table comes to: settings, state, FINAL_DB_MODE, database.
MATRIX = {
    "no PostgreSQL": ({}, False, "standalone", "sqlite_only", "sqlite"),
    "a file of one's own": (
        {"DATABASE_URL": "sqlite:///own.db"}, False, "standalone", "sqlite_only", "sqlite",
    ),
    "SQLite first": ({"USE_SQLITE": "true"}, True, "local-first", "sqlite_only", "sqlite"),
    "PostgreSQL or nothing": (
        {"BOTH_DB": "false"}, True, "primary", "postgres_only", "postgresql",
    ),
    "PostgreSQL, else SQLite": ({}, True, "primary", "try_postgres", "postgresql"),
}  # fmt: skip


class TestHealth:
    """Health and metrics"""

    def test_live_and_ready_and_the_word_is_the_same_everywhere(self, box: Box) -> None:
        ready = box.be("standalone")
        assert box.client.get("/health/live").status == 200
        assert box.client.get("/health").body == {"status": "ok"}
        database = box.client.get("/health/db").body
        assert (database["status"], database["database"]) == ("ok", "connected")
        assert box.client.get("/health/system").status in (200, 503)
        checks = {check["name"] for check in ready["checks"]}
        assert checks - {"units"} == {
            "database", "schema", "disk", "spool", "alerts", "workers",
        }  # fmt: skip
        assert "units" in checks or not isinstance(box.home, Package), "systemd runs there"
        status = box.json("status")
        assert status["state"] == ready["state"] == "standalone"
        assert status["build_version"] == box.client.get("/").body["build_version"]

    def test_metrics_say_it_too(self, box: Box) -> None:
        box.be("standalone")
        page = box.client.get("/metrics").body.decode()
        assert 'edgepaas_state{state="standalone"} 1.0' in page
        for name in (
            "edgepaas_build_info", "edgepaas_database_info", "edgepaas_check_passing",
            "edgepaas_http_requests_total", "edgepaas_http_request_duration_seconds_bucket",
            "edgepaas_disk_used_ratio", "process_resident_memory_bytes",
        ):  # fmt: skip
            assert f"\n{name}" in page

    def test_production_asks_for_a_token(self, box: Box) -> None:
        box.be("standalone")
        refused = box.client.request("POST", "/api/v1/readings", reading_of("press", 1.0))
        assert refused.status == 401
        assert set(refused.body) == {"error", "message", "request_id", "details"}


class TestTelemetry:
    """Telemetry"""

    def test_what_is_accepted_is_there_once(self, box: Box) -> None:
        box.be("standalone")
        reading = reading_of("once", 1.5)
        for accepted in (1, 0):
            answer = box.writer.request("POST", "/api/v1/readings", reading)
            assert (answer.status, answer.body["accepted"]) == (201, accepted)
        assert box.writer.stored("once") == [reading["id"]]
        found = box.writer.get(f"/api/v1/readings/{reading['id']}").body
        assert (found["device"], found["value"]) == ("once", 1.5)

    def test_a_request_is_stored_whole_or_not_at_all(self, box: Box) -> None:
        box.be("standalone")
        readings = [reading_of("whole", float(n)) for n in range(3)]
        readings[1]["value"] = "not a number"
        answer = box.writer.request("POST", "/api/v1/readings", readings)
        assert answer.status == 422
        assert "[1].value" in json.dumps(answer.body["details"])
        assert box.writer.stored("whole") == []

    def test_a_body_that_does_not_fit_into_memory_at_once_is_taken(self, box: Box) -> None:
        """More than half a megabyte goes through a temporary file, wherever that may lie."""
        box.be("standalone")
        readings = [reading_of("bulk", float(n)) for n in range(8000)]
        answer = box.writer.request("POST", "/api/v1/readings", readings, timeout=60)
        assert (answer.status, answer.body["accepted"]) == (201, 8000)
        assert len(box.writer.stored("bulk")) == 8000


class TestRestart:
    """Restart, power cut"""

    def test_a_restart_under_load_loses_and_doubles_nothing(self, box: Box) -> None:
        box.be("standalone")
        device = f"load-{uuid.uuid4()}"
        with Writers(box.writer, device=device, patient=True, pause=0.01) as writers:
            writers.wait_for(30)
            box.restart()
            writers.wait_for(30)
        stored = Counter(box.writer.stored(device))
        assert set(writers.acknowledged) <= set(stored)
        assert max(stored.values()) == 1

    def test_a_power_cut_under_load_loses_nothing(self, box: Box) -> None:
        box.be("standalone")
        device = f"cut-{uuid.uuid4()}"
        with Writers(box.writer, device=device, patient=True, pause=0.01) as writers:
            writers.wait_for(30)
            box.power_cut()
            writers.wait_for(30)
        assert set(writers.acknowledged) <= set(box.writer.stored(device))


class TestDecision:
    """The decision's table"""

    @pytest.mark.parametrize("row", MATRIX)
    def test_decision(self, box: Box, row: str) -> None:
        settings, hub, word, mode, database = MATRIX[row]
        ready = box.be(word, **({**box.hub_settings, **settings} if hub else settings))
        assert ready["mode"] == word
        page = box.client.get("/metrics").body.decode()
        (line,) = [one for one in page.splitlines() if one.startswith("edgepaas_database_info")]
        assert f'final_mode="{mode}"' in line
        assert f'database="{database}"' in line
        identity = box.writer.write("matrix", 1.0)
        assert identity in box.writer.stored("matrix")


class TestSync:
    """Fallback, forwarding, handing back"""

    def test_rows_of_an_outage_come_home_and_the_ledger_adds_up(self, box: Box) -> None:
        box.be("primary", **box.hub_settings)
        device = f"outage-{uuid.uuid4()}"
        with Writers(box.writer, device=device, patient=True, pause=0.02) as writers:
            writers.wait_for(10)
            box.hub.wire.cut("drop")
            box.client.wait_ready(LIMIT, word="fallback")
            writers.wait_for(20)
            box.hub.wire.heal()
            box.client.wait_ready(1.5 * LIMIT, word="primary")
            writers.wait_for(10)
        rows = box.hub.execute(
            f"SELECT r.id::text FROM readings r JOIN devices d ON d.id = r.device_id "
            f"WHERE d.name = '{device}'"
        )
        assert set(writers.acknowledged) <= {str(row[0]) for row in rows}
        assert box.json("audit")

    def test_a_box_that_starts_in_an_outage_serves_and_catches_up(self, box: Box) -> None:
        box.be("primary", **box.hub_settings)
        box.hub.wire.cut("reset")
        try:
            box.power_cut()
            assert box.client.wait_ready(LIMIT)["state"] in ("fallback", "draining")
            identity = box.writer.write("late", 1.0)
        finally:
            box.hub.wire.heal()
        box.client.wait_ready(1.5 * LIMIT, word="primary")
        assert box.hub.execute(f"SELECT count(*) FROM readings WHERE id = '{identity}'") == [[1]]

    def test_local_first_forwards_while_it_serves(self, box: Box) -> None:
        box.be("local-first", USE_SQLITE="true", **box.hub_settings)
        identity = box.writer.write("first", 1.0)
        deadline = time.monotonic() + LIMIT
        # The hub has its tables from whoever comes first, and that may be this box.
        while box.hub.execute("SELECT to_regclass('readings') IS NULL") == [[True]] or (
            box.hub.execute(f"SELECT count(*) FROM readings WHERE id = '{identity}'") != [[1]]
        ):
            assert time.monotonic() < deadline, "the reading does not reach the hub"
            time.sleep(0.1)
        assert box.client.wait_ready(LIMIT, word="local-first")

    def test_the_hub_knows_the_box(self, box: Box) -> None:
        box.be("primary", **box.hub_settings)
        deadline = time.monotonic() + LIMIT
        while True:
            nodes = box.writer.get("/api/v1/nodes").body["items"]
            if any(node["state"] == "primary" for node in nodes):
                return
            assert time.monotonic() < deadline, nodes
            time.sleep(0.2)


class TestAlerts:
    """Alerts"""

    def test_an_alert_by_hand_is_told(self, box: Box) -> None:
        box.be("primary", **box.hub_settings)
        text = f"by hand {uuid.uuid4()}"
        status, _ = box.home.command("alert", text, "--severity", "critical")
        assert status == 0
        box.webhook.wait_for(text)

    def test_a_broken_rule_is_told(self, box: Box) -> None:
        box.be("primary", **box.hub_settings)
        device = f"hot-{uuid.uuid4()}"
        rule = {
            "name": f"rule {device}", "device": device, "metric": "load", "condition": "above",
            "threshold": 80.0, "severity": "critical",
        }  # fmt: skip
        assert box.writer.request("POST", "/api/v1/rules", rule).status == 201
        box.writer.write(device, 99.0)
        box.webhook.wait_for(device)


class TestCommands:
    """Commands"""

    @pytest.mark.parametrize(
        "command",
        ["status", "settings", "token list", "alerts list", "sync status", "doctor"],
    )
    def test_command(self, box: Box, command: str) -> None:
        """Each ends with 0 and prints JSON of the same shape as in the other homes."""
        box.be("primary", **box.hub_settings)
        found = box.json(*command.split())
        if command == "doctor":
            assert {finding["level"] for finding in found["findings"]} <= {"ok", "warn"}
            return
        shape = sorted(found) if isinstance(found, dict) else type(found).__name__
        assert SHAPES.setdefault(command, shape) == shape

    def test_what_is_wrong_ends_with_2_and_what_is_not_there_with_1(self, box: Box) -> None:
        box.be("primary", **box.hub_settings)
        assert box.home.command("no-such-command")[0] == 2
        assert box.home.command("token", "revoke", "nobody")[0] == 1
        status, said = box.home.command("--version")
        assert (status, said.split()[0]) == (0, "edgepaas")


#: What the first home printed.
SHAPES: dict[str, object] = {}
