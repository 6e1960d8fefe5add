# SPDX-License-Identifier: Apache-2.0
"""Handing back, with the drainer killed or PostgreSQL lost at each of its steps."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.checker import check, summary
from tests.support.hand_back_steps import STEPS, Steps
from tests.support.history import History
from tests.support.hub_database import HubDatabase
from tests.support.live_box import Clients, LiveBox
from tests.support.relay import Relay
from tests.support.service_process import until


@pytest.fixture
def scene(
    tmp_path: Path, hub_database: HubDatabase
) -> Iterator[tuple[LiveBox, Relay, Clients, Steps, History]]:
    """A box in ``fallback`` behind a relay, with clients that write all the time."""
    history, steps = History(), Steps(tmp_path / "steps")
    with (
        Relay(hub_database.server.port, seed=1) as relay,
        LiveBox(
            tmp_path,
            weak=("hand-back-steps",),
            environ=steps.environ,
            DATABASE_URL=relay.reroute(hub_database.url),
            HANDBACK_AFTER="0.5",
            HANDBACK_ROWS="100000",
            POSTGRES_HOLD="1",
        ) as box,
        Clients(box.port, history, count=2, pause=0.05).writing() as clients,
    ):
        clients.wait_for(5)
        relay.cut()
        until(lambda: box.state() == "fallback", "the fallback", 180)
        clients.wait_for(5)
        yield box, relay, clients, steps, history
        clients.stop()
        until(lambda: box.state() == "primary", "PostgreSQL to serve in the end", 180)
        box.wait_drained(180)
        found = hub_database.witness.look()
        print(summary(history, found), f"longest gap {clients.longest_gap:.1f} s")
        assert clients.surprises == []
        assert check(history, found, conflicts=None) == []
        status, text = box.run("audit")
        assert status == 0, text


def test_lost_or_killed_at_any_step_it_serves_on_and_is_handed_back_to_in_the_end(
    scene: tuple[LiveBox, Relay, Clients, Steps, History],
) -> None:
    """PostgreSQL gone, then kill -9 of the drainer, after each step; every row once.

    What was decided on the way does not stand against what came of it: the box is on SQLite
    again, or PostgreSQL takes over, and takes writes within seconds.
    """
    box, relay, clients, steps, _ = scene
    for step in STEPS:
        steps.stop_at(step)
        relay.heal()
        steps.wait_for(step)
        relay.cut()
        lost = time.monotonic()
        steps.let_go(step)
        clients.wait_for(3, limit=180)
        print(f"lost when {step}: writes again after {time.monotonic() - lost:.1f} s")
        until(lambda: box.state() == "fallback", "the fallback", 180)
    for step in STEPS:
        steps.kill_at(step)
    relay.heal()
    for step in STEPS:
        until(partial(steps.killed_at, step), f"the kill at {step}", 180)
        killed = time.monotonic()
        clients.wait_for(3, limit=180)
        print(f"killed when {step}: writes again after {time.monotonic() - killed:.1f} s")
    assert until(lambda: box.state() == "primary", "the hand-back", 180)
