# SPDX-License-Identifier: Apache-2.0
"""A revision of PostgreSQL that waits: when it is tried again, and when somebody is told."""

import math
from typing import Any, cast

import pytest

from edgepaas.alerts.conditions.listing import list_conditions
from edgepaas.files.paths import Paths
from edgepaas.schema import hub_conditions
from edgepaas.schema.hub_conditions import PATIENCE, note_hub_conditions, read_hub_conditions
from edgepaas.schema.report import SchemaReport
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.hub.schema_upgrade import HubSchemaUpgrade, SchemaBlocked
from edgepaas.sync.turns.schema import REVISION_RETRY, RIGHTS_RETRY, SchemaTurn
from edgepaas.timing.moment import Moment
from tests.support.weaken import weakened

WAITS = "revision 0003 waits: 7 rows wait here with a value of the column goods.a, which it drops"
NOTHING = SchemaReport("postgresql", "migrated", (), (), "migrated")
WAITING = SchemaReport("postgresql", "unmigrated", (), (), WAITS, waiting=WAITS)
UNRIGHTED = SchemaReport("postgresql", "nothing", (), (), "at 0002", reservation="no right to it")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def moment(self) -> Moment:
        return Moment(self.now, self.now, "one")


class Upgrade:
    """Stands for ``schema --hub``: leaves what it is told to leave."""

    def __init__(self, paths: Paths) -> None:
        self._paths, self.leaves, self.runs = paths, NOTHING, 0
        self.fails = False

    def run(self) -> None:
        self.runs += 1
        if self.fails:
            raise SchemaBlocked("a table is in use")
        note_hub_conditions(self._paths, self.leaves)


class KnownHub:
    def __init__(self) -> None:
        self.forgotten = 0

    def forget_tables(self) -> None:
        self.forgotten += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(hub_conditions, "current_moment", found.moment)
    return found


def made(paths: Paths, clock: Clock) -> tuple[SchemaTurn, Upgrade]:
    upgrade = Upgrade(paths)
    return SchemaTurn(paths, cast("HubSchemaUpgrade", upgrade), clock), upgrade


def said(paths: Paths) -> dict[str, str]:
    """Return what holds, by fingerprint."""
    holds = [one for one in list_conditions(paths) if one["state"] == "raised"]
    return {one["fingerprint"]: one["message"] for one in holds}


def hub() -> Any:
    return cast("Hub", KnownHub())


def test_where_nothing_waits_nothing_is_tried(paths: Paths, clock: Clock) -> None:
    turn, upgrade = made(paths, clock)
    assert turn.left(0) == turn.left(5) == math.inf
    assert upgrade.runs == 0


def test_a_revision_that_waits_goes_on_when_the_rows_are_gone(paths: Paths, clock: Clock) -> None:
    """It waited until the drainer was started anew."""
    note_hub_conditions(paths, WAITING)
    turn, upgrade = made(paths, clock)
    assert turn.left(7) == REVISION_RETRY
    clock.now += 5
    assert turn.left(7) == REVISION_RETRY - 5
    assert turn.left(0) == 0, "the last one is home"
    turn.take(hub(), 0)
    assert upgrade.runs == 1
    assert turn.left(0) == math.inf
    assert not read_hub_conditions(paths)


def test_a_revision_that_waits_for_other_boxes_is_tried_again(paths: Paths, clock: Clock) -> None:
    note_hub_conditions(paths, WAITING)
    turn, upgrade = made(paths, clock)
    upgrade.leaves = WAITING
    turn.left(1)
    turn.take(hub(), 0)
    for runs in range(2, 5):
        assert turn.left(0) == REVISION_RETRY
        clock.now += REVISION_RETRY
        assert turn.left(0) == 0
        turn.take(hub(), 0)
        assert upgrade.runs == runs


def test_rows_that_went_home_before_the_first_look_hold_nothing_up(
    paths: Paths, clock: Clock
) -> None:
    """The run for a connection found them waiting; the same turn sent them."""
    note_hub_conditions(paths, WAITING)
    turn, upgrade = made(paths, clock)
    assert turn.left(0) == 0
    upgrade.leaves = WAITING
    turn.take(hub(), 0)
    assert turn.left(0) == REVISION_RETRY, "it waits for others"
    turn.forget()
    assert turn.left(0) == 0, "once for each connection"


def test_an_attempt_that_fails_stops_no_row(paths: Paths, clock: Clock) -> None:
    note_hub_conditions(paths, WAITING)
    turn, upgrade = made(paths, clock)
    upgrade.fails = True
    turn.left(1)
    turn.take(hub(), 0)
    assert turn.left(0) == REVISION_RETRY


def test_a_right_that_lacks_is_looked_for_less_often(paths: Paths, clock: Clock) -> None:
    note_hub_conditions(paths, UNRIGHTED)
    turn, _ = made(paths, clock)
    assert turn.left(0) == turn.left(9) == RIGHTS_RETRY
    assert "no right to it" in said(paths)["hub-rights"]
    note_hub_conditions(paths, NOTHING)
    assert said(paths) == {}


def test_what_waits_for_long_is_told_with_its_rows_and_ends_by_itself(
    paths: Paths, clock: Clock
) -> None:
    """Not within the hour in which a fleet is upgraded; across starts, by one beginning."""
    note_hub_conditions(paths, WAITING)
    assert said(paths) == {}
    clock.now += PATIENCE / 2
    note_hub_conditions(paths, WAITING)
    assert said(paths) == {}
    clock.now += PATIENCE / 2
    note_hub_conditions(paths, WAITING)
    told = said(paths)["hub-revision-waits"]
    assert "7 rows wait here" in told
    assert "edgepaas nodes forget" in told
    note_hub_conditions(paths, NOTHING)
    assert said(paths) == {}


def test_a_build_that_never_tries_again_is_found_out(paths: Paths, clock: Clock) -> None:
    with weakened("revision-waits-for-ever"), pytest.raises(AssertionError):
        test_a_revision_that_waits_goes_on_when_the_rows_are_gone(paths, clock)
