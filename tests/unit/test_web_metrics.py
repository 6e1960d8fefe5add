# SPDX-License-Identifier: Apache-2.0
"""``/metrics``: what Prometheus reads, and that nobody can blow it up."""

import shutil
import subprocess
from collections.abc import Iterator

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from edgepaas.alerts import Severity, raise_alert
from edgepaas.alerts.delivery.run import deliver_once
from edgepaas.app import Box, PeriodicTask
from edgepaas.files.paths import Paths
from edgepaas.health.state import STATES
from edgepaas.settings import Settings
from edgepaas.timing.backoff import Backoff
from edgepaas.web.request_meter import BUCKETS
from tests.support.receivers import receiving
from tests.support.service_process import until
from tests.support.telemetry_box import open_box


@pytest.fixture
def opened(paths: Paths) -> Iterator[tuple[Flask, Box]]:
    """A box on SQLite, in this process."""
    with open_box(paths, ENV="development") as opened:
        yield opened


def scrape(app: Flask, **headers: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by its name and labels."""
    answer = app.test_client().get("/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.get_data(as_text=True))
        for sample in family.samples
    }


def test_requests_are_counted_by_route_and_status_and_timed(opened: tuple[Flask, Box]) -> None:
    app, _ = opened
    client = app.test_client()
    for number in range(3):
        client.get(f"/api/v1/readings/00000000-0000-7000-8000-00000000000{number}")
    client.post("/api/v1/readings", json={"device": "a", "metric": "b", "value": 1.5})
    found = scrape(app)
    one = (("method", "GET"), ("route", "/api/v1/readings/<uuid:reading_id>"), ("status", "404"))
    route = next(
        dict(labels)["route"]
        for name, labels in found
        if name == "edgepaas_http_requests_total" and ("status", "404") in labels
    )
    one = (("method", "GET"), ("route", route), ("status", "404"))
    assert found["edgepaas_http_requests_total", one] == 3
    assert found["edgepaas_commit_group_writes_count", ()] >= 1
    assert found["edgepaas_commit_group_writes_sum", ()] >= 1
    posted = (("method", "POST"), ("route", "/api/v1/readings"), ("status", "201"))
    assert found["edgepaas_http_requests_total", posted] == 1
    total = (("le", "+Inf"), ("method", "POST"), ("route", "/api/v1/readings"), posted[2])
    assert found["edgepaas_http_request_duration_seconds_bucket", total] == 1
    assert found["edgepaas_http_request_duration_seconds_count", posted] == 1
    assert found["edgepaas_http_request_duration_seconds_sum", posted] > 0
    bounds = [
        dict(labels)["le"]
        for name, labels in found
        if name == "edgepaas_http_request_duration_seconds_bucket"
        and posted[0] in labels
        and posted[1] in labels
    ]
    assert sorted(map(float, bounds)) == [*BUCKETS, float("inf")]


def test_addresses_that_clients_make_up_are_one_series(opened: tuple[Flask, Box]) -> None:
    app, _ = opened
    client = app.test_client()
    for number in range(20):
        client.get(f"/nowhere/{number}")
        client.open(f"/nowhere/{number}", method=f"BREW{number}")
    labels = {labels for name, labels in scrape(app) if name == "edgepaas_http_requests_total"}
    assert {dict(pairs)["route"] for pairs in labels} == {"none"}
    assert {dict(pairs)["method"] for pairs in labels} <= {"GET", "other"}


def test_the_state_is_one_word_of_the_vocabulary(opened: tuple[Flask, Box]) -> None:
    app, box = opened
    found = scrape(app)
    words = {
        labels[0][1]: value for (name, labels), value in found.items() if name == "edgepaas_state"
    }
    assert set(words) == set(STATES)
    assert [word for word, value in words.items() if value] == [box.state().state]
    assert found["edgepaas_database_info", (
        ("cause", "settings"), ("database", "sqlite"), ("final_mode", "sqlite_only"),
        ("mode", "standalone"),
    )] == 1  # fmt: skip
    assert any(name == "edgepaas_check_passing" for name, _ in found)
    assert any(name == "process_resident_memory_bytes" for name, _ in found)


def test_a_scraper_that_asks_for_openmetrics_gets_it(opened: tuple[Flask, Box]) -> None:
    app, _ = opened
    answer = app.test_client().get(
        "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.get_data(as_text=True).endswith("# EOF\n")


def test_two_scrapes_have_the_same_series(opened: tuple[Flask, Box]) -> None:
    app, _ = opened
    scrape(app)  # the first one is itself a request that the second one shows
    assert set(scrape(app)) == set(scrape(app))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_own_linter_finds_nothing(opened: tuple[Flask, Box]) -> None:
    app, _ = opened
    page = app.test_client().get("/metrics").get_data()
    command = ["promtool", "check", "metrics"]
    linted = subprocess.run(command, input=page, capture_output=True, check=False)
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, b"")


def test_notices_are_counted_by_channel_and_severity_over_several_runs(
    opened: tuple[Flask, Box],
) -> None:
    app, box = opened
    severities: tuple[Severity, ...] = ("critical", "critical", "warning")
    with receiving((200, {}, "ok")) as receiver:
        Settings.of(ALERT_WEBHOOK_URL=receiver.url).write(box.paths.env_contract)
        for number, severity in enumerate(severities):
            raise_alert(f"number {number}", fingerprint=str(number), severity=severity)
            deliver_once(box.paths, linger=0)
    found = scrape(app)
    told = {
        labels: value
        for (name, labels), value in found.items()
        if name == "edgepaas_alert_notifications_delivered_total"
    }
    assert told == {
        (("channel", "webhook"), ("severity", "critical")): 2,
        (("channel", "webhook"), ("severity", "warning")): 1,
    }


def test_a_thread_that_fails_is_counted_and_seen_by_its_name(opened: tuple[Flask, Box]) -> None:
    app, box = opened

    def fail() -> None:
        raise OSError("the sensor is gone")

    task = PeriodicTask("sensor", fail, every=0.01, backoff=Backoff(first=0.01, longest=0.01))
    thread = (("thread", "sensor"),)
    box.add_task(task)
    assert scrape(app)["edgepaas_thread_failures_total", thread] == 0
    task.start()
    until(box.tasks.problems, "the problem")
    found = scrape(app)
    assert found["edgepaas_thread_failures_total", thread] >= 2
    assert found["edgepaas_thread_working", thread] == 0
    assert found["edgepaas_thread_working", (("thread", "rules"),)] == 1
    task.stop(5)


ODD_ACCEPTS = (
    *("text/plain;version=x", "application/openmetrics-text;version=x", "text/plain; version="),
    *("application/openmetrics-text;version=1.0.0;escaping=?", ";;;,=,", "*/*;q=x", "\xe9"),
    "application/openmetrics-text;version=" + "9" * 5000,
)


@pytest.mark.parametrize("accept", ODD_ACCEPTS)
def test_no_accept_header_is_an_error_of_the_box(opened: tuple[Flask, Box], accept: str) -> None:
    """The format is one that is known, whatever a client asks for."""
    app, _ = opened
    answer = app.test_client().get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200
    assert len(answer.headers["Content-Type"]) < 100
    assert b"edgepaas_build_info" in answer.data


def test_prometheus_gets_openmetrics_where_it_asks_for_it(opened: tuple[Flask, Box]) -> None:
    app, _ = opened
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    answer = app.test_client().get("/metrics", headers={"Accept": accept})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.data.endswith(b"# EOF\n")
