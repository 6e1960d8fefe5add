# SPDX-License-Identifier: Apache-2.0
"""What an error means for forwarding, and when an operator is alerted."""

import sqlite3

import pytest

from edgepaas.outcomes.causes import Cause, Refusal
from edgepaas.outcomes.refused_tables import RefusedTable
from edgepaas.sync.errors import (
    HubMisconfigured,
    HubUnreachable,
    SchemaDrift,
    TableRefused,
    UnclassifiedHubError,
)
from edgepaas.sync.failures import AWAY_ALERT_AFTER, FailureTracker, classify
from edgepaas.sync.hub.schema_upgrade import SchemaBlocked
from edgepaas.sync.report import LiveStatus


@pytest.mark.parametrize(
    ("error", "state", "hub", "alert"),
    [
        (HubUnreachable("x"), "held", "away", False),
        (HubMisconfigured("x"), "blocked", "misconfigured", True),
        (UnclassifiedHubError("x"), "blocked", "error", True),
        (TableRefused(Refusal("t", Cause.FULL, "x", "53100")), "blocked", "error", True),
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


RIGHTS = Refusal("readings", Cause.RIGHTS, "permission denied for table readings", "42501")
LOCKED = Refusal("readings", Cause.LOCKED, "canceling statement due to lock timeout", "55P03")


@pytest.fixture
def raised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(
        "edgepaas.alerts.catalogue_entry.raise_alert",
        lambda _, fingerprint, **__: found.append(fingerprint),
    )
    return found


def test_a_table_that_refuses_rows_blocks_with_the_words_of_the_refusal(raised: list[str]) -> None:
    trouble = FailureTracker(LiveStatus())
    for _ in range(2):
        assert trouble.record_failure(TableRefused(RIGHTS)).state == "blocked"
    assert trouble.report.reason == RIGHTS.text
    assert trouble.report.hub == "misconfigured"
    assert raised == ["writes-refused:readings"]


def test_a_cause_that_may_pass_blocks_once_it_has_lasted(raised: list[str]) -> None:
    now = 0.0
    trouble = FailureTracker(LiveStatus(), patience=10.0, clock=lambda: now)
    assert trouble.record_failure(TableRefused(LOCKED)).state == "held"
    now = 9.0
    assert trouble.record_failure(TableRefused(LOCKED)).state == "held"
    assert raised == []
    now = 10.0
    assert trouble.record_failure(TableRefused(LOCKED)).state == "blocked"
    assert raised == ["writes-refused:readings"]
    trouble.record_success()
    now = 11.0
    assert trouble.record_failure(TableRefused(LOCKED)).state == "held", "its time begins anew"


@pytest.mark.parametrize(
    ("error", "listed"),
    [
        (TableRefused(LOCKED), RefusedTable("readings", "locked", "as the service said it")),
        (TableRefused(LOCKED), RefusedTable("devices", "locked", "as the service said it")),
        (SchemaDrift("x"), RefusedTable("readings", "required-column", "as the service said it")),
        (SchemaBlocked("x"), RefusedTable("readings", "missing", "as the service said it")),
    ],
)
def test_what_the_service_met_before_blocks_at_once_with_its_words_and_no_second_alert(
    error: Exception, listed: RefusedTable, raised: list[str]
) -> None:
    trouble = FailureTracker(LiveStatus(), patience=10.0, refused=lambda: [listed])
    assert trouble.record_failure(error).state == "blocked"
    assert trouble.report.reason == "as the service said it"
    assert raised == []


def test_another_trouble_keeps_its_own_words(raised: list[str]) -> None:
    listed = RefusedTable("readings", "locked", "as the service said it")
    trouble = FailureTracker(LiveStatus(), refused=lambda: [listed])
    trouble.record_failure(HubMisconfigured("no such database"))
    assert trouble.report.reason == "no such database"
    assert raised == ["hub-misconfigured"]
