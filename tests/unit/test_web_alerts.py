# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/alerts``, and the numbers of alerts on every other surface."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from edgepaas.alerts.conditions.condition_store import ConditionStore
from edgepaas.alerts.conditions.intake import fold_waiting
from edgepaas.alerts.conditions.raised_fingerprints import raised_fingerprints
from edgepaas.alerts.spool.accept import Spool
from edgepaas.cli import main
from edgepaas.files.paths import Paths
from edgepaas.health.alerting import AlertWatch
from edgepaas.service.watches.monitor import status_line
from edgepaas.timing.moment import current_moment
from tests.support.answers import json_of
from tests.support.boxes import make_box

ALERTS = "/api/v1/alerts"


@pytest.fixture
def spool(paths: Paths) -> Spool:
    """Two causes that hold, one that is over, one event; some of it was taken in, some waits."""
    spool = Spool(paths)
    spool.accept("the disk is full", severity="critical", fingerprint="disk", origin="service")
    spool.accept("it is hot", severity="warning", fingerprint="heat", origin="service")
    spool.accept("it is hot", severity="warning", fingerprint="heat", origin="service")
    spool.accept("settings", severity="warning", fingerprint="settings:PORT", origin="env")
    fold_waiting(ConditionStore(spool), current_moment, 1000)
    spool.accept("in order again", fingerprint="settings:PORT", origin="env", resolved=True)
    spool.accept("somebody logged in", severity="info", origin="sshd")
    return spool


@pytest.fixture
def client(paths: Paths, spool: Spool) -> FlaskClient:
    return make_box(paths).app.test_client()


def listed(client: FlaskClient, **query: Any) -> list[dict[str, Any]]:
    answer = client.get(ALERTS, query_string=query)
    assert answer.status_code == 200, answer.text
    return list(json_of(answer)["items"])


def messages(client: FlaskClient, **query: Any) -> list[str]:
    return [item["message"] for item in listed(client, **query)]


def test_what_holds_is_listed_the_worst_first(client: FlaskClient) -> None:
    first, second = listed(client)
    assert (first["message"], first["severity"], first["state"]) == (
        "the disk is full",
        "critical",
        "raised",
    )
    assert (second["fingerprint"], second["count"], second["undelivered"]) == ("heat", 2, 2)
    assert second["since"].endswith("Z")
    assert second["ended"] is None


def test_alerts_are_found_by_state_severity_and_fingerprint(client: FlaskClient) -> None:
    assert messages(client, state="event") == ["somebody logged in"]
    (over,) = listed(client, state="resolved")
    assert over["fingerprint"] == "settings:PORT"
    assert over["ended"] is not None
    assert messages(client, severity="warning") == ["it is hot"]
    assert messages(client, fingerprint="disk") == ["the disk is full"]
    assert len(listed(client, state="all")) == 4


def test_pages_of_alerts_join_without_a_gap(client: FlaskClient) -> None:
    everything = messages(client, state="all")
    found, cursor = [], None
    while True:
        query = {"state": "all", "limit": 1, **({"cursor": cursor} if cursor else {})}
        page = json_of(client.get(ALERTS, query_string=query))
        found += [item["message"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == everything


@pytest.mark.parametrize(
    "query", [{"state": "odd"}, {"severity": "bad"}, {"cursor": "x"}, {"limit": 0}, {"other": 1}]
)
def test_a_question_that_makes_no_sense_is_answered_422(client: FlaskClient, query: Any) -> None:
    assert client.get(ALERTS, query_string=query).status_code == 422


def test_the_history_is_told_the_newest_first_and_in_pages(
    client: FlaskClient, spool: Spool
) -> None:
    fold_waiting(ConditionStore(spool), current_moment, 1000)
    whole = json_of(client.get(f"{ALERTS}/history"))["items"]
    said = [(entry["what"], entry["fingerprint"]) for entry in whole]
    assert set(said[:2]) == {("resolved", "settings:PORT"), ("raised", "")}
    assert sorted(said[2:]) == [
        ("raised", "disk"),
        ("raised", "heat"),
        ("raised", "settings:PORT"),
    ]
    found: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = json_of(client.get(f"{ALERTS}/history", query_string=query))
        found += page["items"]
        cursor = page["next_cursor"]
    assert found == whole


def test_the_history_of_one_cause_or_kind_is_found(client: FlaskClient, spool: Spool) -> None:
    fold_waiting(ConditionStore(spool), current_moment, 1000)

    def told(**query: str) -> list[str]:
        items = json_of(client.get(f"{ALERTS}/history", query_string=query))["items"]
        return [f"{entry['what']} {entry['fingerprint']}" for entry in items]

    assert told(fingerprint="settings:PORT") == ["resolved settings:PORT", "raised settings:PORT"]
    assert told(what="resolved") == ["resolved settings:PORT"]
    assert told(severity="critical") == ["raised disk"]


def test_alerts_are_for_those_who_may_read(paths: Paths, spool: Spool) -> None:
    client = make_box(paths, ENV="production").app.test_client()
    beyond = {"REMOTE_ADDR": "192.0.2.7"}
    assert client.get(ALERTS, environ_overrides=beyond).status_code == 401
    assert client.get(f"{ALERTS}/history", environ_overrides=beyond).status_code == 401


def test_every_surface_shows_how_many_there_are(
    client: FlaskClient, paths: Paths, spool: Spool, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = json_of(client.get(ALERTS))["counts"]
    assert counts["waiting"] >= 2
    assert json_of(client.get("/health/ready"))["alerts"] == counts
    states = make_box(paths).states
    states.alerts = AlertWatch(paths).line
    assert f"; alerts: {counts['waiting']} wait for delivery (edgepaas" in status_line(states)
    main(["status", "--url", "http://127.0.0.1:1"])
    listed = capsys.readouterr().out
    assert f"{counts['waiting']} wait for delivery; 'edgepaas alerts list'" in listed
    main(["status", "--url", "http://127.0.0.1:1", "--json"])
    assert json.loads(capsys.readouterr().out)["alerts"]["waiting"] == counts["waiting"]


def test_what_is_raised_under_a_kind_is_found_wherever_it_lies(paths: Paths, spool: Spool) -> None:
    assert raised_fingerprints(paths, "settings:") == []
    assert raised_fingerprints(paths, "") == ["disk", "heat"]
    spool.accept("again", fingerprint="settings:PORT", origin="env")
    spool.accept("new", fingerprint="settings:HOST", origin="env")
    assert raised_fingerprints(paths, "settings:") == ["settings:HOST", "settings:PORT"]
    fold_waiting(ConditionStore(spool), current_moment, 1000)
    assert raised_fingerprints(paths, "settings:") == ["settings:HOST", "settings:PORT"]
