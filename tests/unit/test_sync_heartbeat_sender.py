# SPDX-License-Identifier: Apache-2.0
"""Which state of its box the drainer sends to the hub, and when."""

import json
from dataclasses import replace
from typing import cast

import pytest

from edgepaas.files.paths import Paths
from edgepaas.files.published_state import publish_state
from edgepaas.sync.errors import HubUnreachable
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.hub.heartbeat import LocalNode
from edgepaas.sync.hub.heartbeat_sender import MIN_INTERVAL, HeartbeatSender
from edgepaas.sync.report import LiveStatus
from edgepaas.timing.link import Link
from tests.support.telemetry_box import contract_for

ME = LocalNode("1b4e28ba-2fa1-41d2-883f-0016d3cca427", "here", "1", "1", "boot")


class RecordingHub:
    """Answers like an empty hub, and records statements and parameters."""

    def __init__(self, *, away: bool = False) -> None:
        self.link = Link()
        self.statements: list[str] = []
        self.parameters: list[tuple[object, ...]] = []
        self.tried = 0
        self._away = away

    def query(self, sql: str, *parameters: object) -> list[list[object]]:
        self.tried += 1
        if self._away:
            raise HubUnreachable("it is away")
        self.statements.append(sql)
        self.parameters.append(parameters)
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
            publish_state(self._paths, "stopping")
        return 0.0


def end_the_service(paths: Paths) -> None:
    """Have the word left by a process that is not there any more."""
    entry = json.loads(paths.published_state.read_text())
    paths.published_state.write_text(json.dumps(entry | {"pid": 2**31 - 1}))


def test_the_state_is_the_one_that_the_service_published(paths: Paths) -> None:
    publish_state(paths, "degraded")
    assert heartbeat_sender(paths, "local-first").node_state() == "degraded"


@pytest.mark.parametrize(
    ("state", "word"), [("local-first", "local-first"), ("fallback", "draining")]
)
def test_without_a_service_it_is_what_was_decided(paths: Paths, state: str, word: str) -> None:
    assert heartbeat_sender(paths, state).node_state() == word
    publish_state(paths, "degraded")
    end_the_service(paths)
    assert heartbeat_sender(paths, state).node_state() == word


def test_a_service_that_was_stopped_in_order_is_believed(paths: Paths) -> None:
    publish_state(paths, "stopping")
    end_the_service(paths)
    assert heartbeat_sender(paths, "local-first").node_state() == "stopping"


def test_a_hub_that_accepts_the_state_is_back_whatever_the_service_knows(paths: Paths) -> None:
    publish_state(paths, "fallback")
    assert heartbeat_sender(paths, "fallback").node_state() == "draining"


def test_another_state_is_sent_early_after_a_while(paths: Paths) -> None:
    clock = [100.0]
    found = heartbeat_sender(paths, "local-first", clock)
    publish_state(paths, "starting")
    assert found.state_changed()
    found.send(cast(Hub, RecordingHub()))
    assert not found.state_changed()
    publish_state(paths, "local-first")
    assert not found.state_changed()
    clock[0] += MIN_INTERVAL
    assert found.state_changed()
    found.send(cast(Hub, RecordingHub()))
    clock[0] += MIN_INTERVAL
    assert not found.state_changed()


def test_the_last_state_is_that_of_a_service_that_stops_at_the_same_moment(paths: Paths) -> None:
    clock = Clock(paths)
    publish_state(paths, "primary")
    hub = RecordingHub()
    contract = contract_for(paths, "postgresql://hub/x")
    HeartbeatSender(ME, paths, contract, LiveStatus(), 15.0, clock=clock).send_final(cast(Hub, hub))
    assert "stopping" in hub.parameters[-1]


def test_a_service_that_goes_on_is_not_waited_for_at_the_end(paths: Paths) -> None:
    """'systemctl restart edgepaas-sync': the box is as it was."""
    publish_state(paths, "local-first")
    hub = RecordingHub()
    contract = contract_for(paths, None, "local-first")
    HeartbeatSender(ME, paths, contract, LiveStatus(), 15.0).send_final(cast(Hub, hub))
    assert "local-first" in hub.parameters[-1]
    assert not paths.fleet.exists()


def test_an_unreachable_hub_keeps_no_drainer_from_stopping(paths: Paths) -> None:
    publish_state(paths, "stopping")
    hub = RecordingHub(away=True)
    heartbeat_sender(paths, "local-first").send_final(cast(Hub, hub))
    assert hub.tried == 1


def test_the_list_of_boxes_is_read_only_where_sqlite_serves(paths: Paths) -> None:
    """And not while a fence keeps writers waiting."""

    def asks(found: HeartbeatSender, *, alone: bool) -> int:
        hub = RecordingHub()
        found.send(cast(Hub, hub), alone=alone)
        return len(hub.statements)

    assert asks(heartbeat_sender(paths, "local-first"), alone=True) == 2
    assert not paths.fleet.exists()
    assert asks(heartbeat_sender(paths, "local-first"), alone=False) == 3
    assert paths.fleet.exists()
    contract = contract_for(paths, "postgresql://hub/x")
    assert asks(HeartbeatSender(ME, paths, contract, LiveStatus(), 15.0), alone=False) == 2
