# SPDX-License-Identifier: Apache-2.0
"""Which word for its box the drainer sends to the hub, and when."""

import json
from dataclasses import replace
from typing import cast

import pytest

from edgepaas.files.paths import Paths
from edgepaas.files.published_state import leave_word
from edgepaas.sync.errors import HubUnreachable
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.hub.heartbeat import LocalNode
from edgepaas.sync.hub.heartbeat_sender import MIN_INTERVAL, HeartbeatSender
from edgepaas.sync.report import LiveStatus
from tests.support.telemetry_box import contract_for

ME = LocalNode("1b4e28ba-2fa1-41d2-883f-0016d3cca427", "here", "1", "1", "boot")


class HubThatListens:
    """Answers as an empty hub does, and keeps what it was asked and told."""

    def __init__(self, *, away: bool = False) -> None:
        self.asked: list[str] = []
        self.told: list[tuple[object, ...]] = []
        self.tried = 0
        self._away = away

    def query(self, sql: str, *parameters: object) -> list[list[object]]:
        self.tried += 1
        if self._away:
            raise HubUnreachable("it is away")
        self.asked.append(sql)
        self.told.append(parameters)
        if "clock_timestamp" in sql:
            return [[0.0, None, 0, 0]]
        return [['{"all": 0, "nodes": []}']]


def heartbeat_sender(paths: Paths, state: str, clock: list[float] | None = None) -> HeartbeatSender:
    contract = replace(contract_for(paths, None, state), hub_url="postgresql://hub/x")
    now = [0.0] if clock is None else clock
    return HeartbeatSender(ME, paths, contract, LiveStatus(), 15.0, clock=lambda: now[0])


class Clock:
    """A clock on which the service says that it stops after two looks."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._looks = 0

    def __call__(self) -> float:
        self._looks += 1
        if self._looks == 3:
            leave_word(self._paths, "stopping")
        return 0.0


def end_the_service(paths: Paths) -> None:
    """Have the word left by a process that is not there any more."""
    entry = json.loads(paths.state_word.read_text())
    paths.state_word.write_text(json.dumps(entry | {"pid": 2**31 - 1}))


def test_it_is_the_services_own(paths: Paths) -> None:
    leave_word(paths, "degraded")
    assert heartbeat_sender(paths, "local-first").node_state() == "degraded"


@pytest.mark.parametrize(
    ("state", "word"), [("local-first", "local-first"), ("fallback", "draining")]
)
def test_without_a_service_it_is_what_was_decided(paths: Paths, state: str, word: str) -> None:
    assert heartbeat_sender(paths, state).node_state() == word
    leave_word(paths, "degraded")
    end_the_service(paths)
    assert heartbeat_sender(paths, state).node_state() == word


def test_a_service_that_was_stopped_in_order_is_believed(paths: Paths) -> None:
    leave_word(paths, "stopping")
    end_the_service(paths)
    assert heartbeat_sender(paths, "local-first").node_state() == "stopping"


def test_a_hub_that_takes_the_word_is_back_whatever_the_service_knows(paths: Paths) -> None:
    leave_word(paths, "fallback")
    assert heartbeat_sender(paths, "fallback").node_state() == "draining"


def test_another_word_is_news_after_a_while(paths: Paths) -> None:
    clock = [100.0]
    found = heartbeat_sender(paths, "local-first", clock)
    leave_word(paths, "starting")
    assert found.state_changed()
    found.send(cast(Hub, HubThatListens()))
    assert not found.state_changed()
    leave_word(paths, "local-first")
    assert not found.state_changed()
    clock[0] += MIN_INTERVAL
    assert found.state_changed()
    found.send(cast(Hub, HubThatListens()))
    clock[0] += MIN_INTERVAL
    assert not found.state_changed()


def test_the_last_word_is_that_of_a_service_that_stops_at_the_same_moment(paths: Paths) -> None:
    clock = Clock(paths)
    leave_word(paths, "primary")
    hub = HubThatListens()
    contract = contract_for(paths, "postgresql://hub/x")
    HeartbeatSender(ME, paths, contract, LiveStatus(), 15.0, clock=clock).send_final(cast(Hub, hub))
    assert "stopping" in hub.told[-1]


def test_a_service_that_goes_on_is_not_waited_for_at_the_end(paths: Paths) -> None:
    """'systemctl restart edgepaas-sync': the box is as it was."""
    leave_word(paths, "local-first")
    hub = HubThatListens()
    contract = contract_for(paths, None, "local-first")
    HeartbeatSender(ME, paths, contract, LiveStatus(), 15.0).send_final(cast(Hub, hub))
    assert "local-first" in hub.told[-1]
    assert not paths.fleet.exists()


def test_a_hub_that_is_away_keeps_no_drainer_from_ending(paths: Paths) -> None:
    leave_word(paths, "stopping")
    hub = HubThatListens(away=True)
    heartbeat_sender(paths, "local-first").send_final(cast(Hub, hub))
    assert hub.tried == 1


def test_the_other_boxes_are_asked_for_only_where_sqlite_serves(paths: Paths) -> None:
    """And not while a fence keeps writers waiting."""

    def asks(found: HeartbeatSender, *, alone: bool) -> int:
        hub = HubThatListens()
        found.send(cast(Hub, hub), alone=alone)
        return len(hub.asked)

    assert asks(heartbeat_sender(paths, "local-first"), alone=True) == 2
    assert not paths.fleet.exists()
    assert asks(heartbeat_sender(paths, "local-first"), alone=False) == 3
    assert paths.fleet.exists()
    contract = contract_for(paths, "postgresql://hub/x")
    assert asks(HeartbeatSender(ME, paths, contract, LiveStatus(), 15.0), alone=False) == 2
