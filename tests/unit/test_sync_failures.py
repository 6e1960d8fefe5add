# SPDX-License-Identifier: Apache-2.0
"""What an error means for forwarding, and when an operator is alerted."""

import sqlite3

import pytest

from edgepaas.sync.errors import HubMisconfigured, HubUnreachable, SchemaDrift, UnclassifiedHubError
from edgepaas.sync.failures import AWAY_ALERT_AFTER, FailureTracker, classify
from edgepaas.sync.hub.schema_upgrade import SchemaBlocked
from edgepaas.sync.report import LiveStatus


@pytest.mark.parametrize(
    ("error", "state", "hub", "alert"),
    [
        (HubUnreachable("x"), "held", "away", False),
        (HubMisconfigured("x"), "blocked", "misconfigured", True),
        (UnclassifiedHubError("x"), "blocked", "error", True),
        (SchemaDrift("x"), "held", "schema", False),
        (SchemaBlocked("x"), "blocked", "schema", True),
        (sqlite3.OperationalError("database is locked"), "held", None, False),
    ],
)
def test_each_kind_of_failure_is_classified(
    error: Exception, state: str, hub: str | None, alert: bool
) -> None:
    found = classify(error, drifts=0)
    assert (found.state, found.hub, bool(found.alert)) == (state, hub, alert)


def test_a_schema_that_does_not_fit_after_its_upgrade_needs_an_operator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[str] = []
    monkeypatch.setattr(
        "edgepaas.alerts.catalogue_entry.raise_alert",
        lambda _, fingerprint, **__: raised.append(fingerprint),
    )
    trouble = FailureTracker(LiveStatus())
    assert trouble.record_failure(SchemaDrift("no such column")).state == "held"
    for _ in range(3):
        assert trouble.record_failure(SchemaDrift("no such column")).state == "blocked"
    assert raised == ["hub-schema"]
    trouble.record_success()
    assert trouble.remaining == 0
    assert trouble.report.hub == "ok"
    assert trouble.record_failure(SchemaDrift("no such column")).state == "held"


def test_a_postgresql_that_stays_unreachable_is_alerted_where_no_other_part_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where SQLite serves by choice nothing falls back: a changed password looks like this."""
    raised: list[str] = []
    monkeypatch.setattr(
        "edgepaas.alerts.catalogue_entry.raise_alert",
        lambda _, fingerprint, **__: raised.append(fingerprint),
    )
    now = 0.0
    report = LiveStatus()
    report.set_waiting(3, 0.0)
    trouble = FailureTracker(report, alerts_when_away=True, clock=lambda: now)
    other = FailureTracker(report, clock=lambda: now)
    for now in (0.0, AWAY_ALERT_AFTER - 1, AWAY_ALERT_AFTER, AWAY_ALERT_AFTER + 1):
        trouble.record_failure(HubUnreachable("refuses the login"))
        other.record_failure(HubUnreachable("refuses the login"))
        assert raised == (["hub-away"] if now >= AWAY_ALERT_AFTER else [])
    trouble.record_success()
    trouble.record_failure(HubUnreachable("refuses the login"))
    assert raised == ["hub-away"], "its time begins anew"
