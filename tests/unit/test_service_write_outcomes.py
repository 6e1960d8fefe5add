# SPDX-License-Identifier: Apache-2.0
"""What the service does about a table that PostgreSQL refuses."""

import pytest

from edgepaas.alerts.conditions.listing import list_conditions
from edgepaas.decision.contract import FinalMode
from edgepaas.decision.hold import read_hold
from edgepaas.errors import EXIT_DECIDE_AGAIN
from edgepaas.files.paths import Paths
from edgepaas.health.state import StateBoard
from edgepaas.httpd.startup_responder import NotReady, StartupResponder
from edgepaas.outcomes.outcomes import Outcomes
from edgepaas.outcomes.refused_tables import read_refused
from edgepaas.service.shutdown import Control
from edgepaas.service.watches.write_outcomes import GivingUp, OutcomeWatch
from tests.support.boxes import contract


class ServerError(Exception):
    """An error as the driver raises it."""


RIGHTS = ServerError({"C": "42501", "M": "permission denied for table readings"})
LOCKED = ServerError({"C": "55P03", "M": "canceling statement due to lock timeout"})
TEXT = (
    "PostgreSQL refuses writes to readings: permission denied for table readings (SQLSTATE 42501)"
)


class Service:
    """A watch on outcomes that a test records, and what it has done."""

    def __init__(self, paths: Paths, mode: FinalMode = "try_postgres") -> None:
        self.now = 1000.0
        self.paths = paths
        self.outcomes = Outcomes(patience=10.0, clock=lambda: self.now)
        made = contract(paths, db_state="primary", final_db_mode=mode, hub_url="postgresql://h/d")
        self.state = StateBoard(made)
        self.state.phase = "running"
        self.control = Control(lambda: None)
        self.watch = OutcomeWatch(
            self.outcomes,
            GivingUp(
                contract=made,
                paths=paths,
                state=self.state,
                responder=StartupResponder(NotReady("starting", "")),
                control=self.control,
                hold=60.0,
            ),
        )

    def fail(self, error: BaseException = RIGHTS, *, seconds: float = 12.0) -> None:
        """Have a write fail each second, with a look after each."""
        for _ in range(int(seconds)):
            self.outcomes.record(["readings"], error)
            self.now += 1.0
            self.watch.look()

    def ended(self) -> tuple[int, str] | None:
        """The status and the reason with which the service is to end."""
        ending = self.control.ending
        return None if ending is None else (ending.status, ending.reason)

    def alerts(self) -> list[tuple[str, str]]:
        return [
            (one["fingerprint"], one["state"])
            for one in list_conditions(self.paths, everything=True)
        ]


def test_the_cause_shows_at_once_and_postgresql_is_given_up_once_it_has_lasted(
    paths: Paths,
) -> None:
    service = Service(paths)
    service.fail(seconds=2)
    assert (service.state.state().state, service.state.state().reasons[0]) == ("degraded", TEXT)
    assert (service.ended(), service.alerts()) == (None, [])
    service.fail()
    assert service.ended() == (EXIT_DECIDE_AGAIN, TEXT)
    hold = read_hold(paths.postgres_hold)
    assert hold is not None
    assert hold.reason == TEXT
    assert [(one.table, one.cause, one.text) for one in read_refused(paths.refused_tables)] == [
        ("readings", "rights", TEXT)
    ]
    assert service.alerts() == [("writes-refused:readings", "raised")]


def test_a_cause_that_is_gone_in_time_leaves_no_trace(paths: Paths) -> None:
    service = Service(paths)
    service.fail(LOCKED, seconds=8)
    assert service.state.state().state == "degraded"
    service.outcomes.record(["readings"], None)
    service.watch.look()
    assert service.state.state().state == "primary"
    assert (service.ended(), service.alerts()) == (None, [])


def test_without_a_fallback_it_is_told_once_and_resolved_by_a_write_that_passes(
    paths: Paths,
) -> None:
    service = Service(paths, "postgres_only")
    service.fail(seconds=30)
    assert service.ended() is None
    assert service.alerts() == [("writes-refused:readings", "raised")]
    assert list_conditions(paths)[0]["count"] == 1
    service.outcomes.record(["readings"], None)
    service.watch.look()
    assert service.alerts() == [("writes-refused:readings", "resolved")]
    assert service.state.state().state == "primary"


def test_several_tables_of_one_cause_are_one_alert(paths: Paths) -> None:
    service = Service(paths)
    for _ in range(12):
        for table in ("devices", "readings"):
            service.outcomes.record([table], ServerError({"C": "53100", "M": "no space left"}))
        service.now += 1.0
    service.watch.look()
    assert service.alerts() == [("writes-refused:devices", "raised")]
    assert {one.table for one in read_refused(paths.refused_tables)} == {"devices", "readings"}


def test_a_box_that_can_write_no_hold_stays_where_it_is(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would choose PostgreSQL again at once, and end each ten seconds."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgepaas.service.watches.write_outcomes.add_refused", full)
    service = Service(paths)
    service.fail(seconds=30)
    assert service.ended() is None
    assert service.state.state().state == "degraded"
    assert service.alerts() == [("writes-refused:readings", "raised")]
