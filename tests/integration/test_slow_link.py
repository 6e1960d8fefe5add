# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL that is a slow link away: chosen, kept, lost once, and handed back to.

The relay delays every byte by half of the round trip in each direction, and a new connection
by the handshake's. What counts is the clients' own record and what the box printed.
"""

import os
import re
import time
from pathlib import Path

import pytest

from tests.support.checker import check, summary
from tests.support.history import History
from tests.support.hub_database import HubDatabase
from tests.support.live_box import Clients, LiveBox
from tests.support.relay import Relay

SOAK = bool(os.environ.get("EDGEPAAS_SOAK"))
#: Seconds of writes in a soak, and of the one cut in it.
LONG, CUT = 300.0, 4.0
#: The longest time without an accepted write in a soak, in seconds.
LONGEST_GAP = 5.0


def decisions(box: LiveBox) -> list[str]:
    """Return the state of each decision that the box made, in their order."""
    return re.findall(r"^decision +\w+, ([a-z-]+)", box.output(), re.MULTILINE)


#: A round trip of which a login's four take longer than DB_CONNECT_TIMEOUT, in seconds.
TOO_SLOW = 0.8


def test_a_server_that_is_300_ms_away_is_chosen_at_boot_and_kept(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """Login, examination, schema and gate take longer than their seconds on a fast link."""
    history = History()
    with Relay(hub_database.server.port) as relay:
        relay.latency = 0.15
        box = LiveBox(tmp_path, DATABASE_URL=relay.reroute(hub_database.url))
        with box, Clients(box.port, history, count=1).writing() as clients:
            assert box.state() == "primary"
            clients.wait_for(3, limit=120)
            clients.stop()
            assert decisions(box) == ["primary"]
    assert clients.surprises == []
    assert check(history, hub_database.witness.look()) == []


def test_a_build_that_waits_the_same_over_every_link_is_found_out(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """It gives up a PostgreSQL that is slow and good."""
    with Relay(hub_database.server.port) as relay:
        relay.latency = TOO_SLOW / 2
        url = relay.reroute(hub_database.url)
        with LiveBox(tmp_path, weak=("fixed-waits",), DATABASE_URL=url) as box:
            assert decisions(box) == ["fallback"]


def test_it_is_handed_back_to_over_a_link_of_300_ms_and_kept(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """One cut is one fallback: what is handed back to is not given up again for its slowness."""
    history = History()
    with (
        Relay(hub_database.server.port) as relay,
        LiveBox(
            tmp_path,
            DATABASE_URL=relay.reroute(hub_database.url),
            HANDBACK_AFTER="0.5",
            POSTGRES_HOLD="1",
        ) as box,
        Clients(box.port, history, count=2, pause=0.05).writing() as clients,
    ):
        assert box.state() == "primary"
        clients.wait_for(5)
        relay.cut()
        box.wait_state("fallback", limit=120)
        clients.wait_for(5)
        relay.latency = 0.15
        relay.heal()
        box.wait_state("primary", limit=120)
        clients.wait_for(5, limit=120)
        clients.stop()
        found = decisions(box)
        relay.latency = 0.0
        box.wait_drained(120)
        result = hub_database.witness.look()
    print(summary(history, result), f"longest gap {clients.longest_gap:.1f} s")
    assert found == ["primary", "fallback", "primary"]
    assert clients.surprises == []
    assert check(history, result, conflicts=None) == []


@pytest.mark.skipif(not SOAK, reason="five minutes each: in a soak")
@pytest.mark.timeout(3 * LONG)
@pytest.mark.parametrize("how", ["reset", "silence"])
@pytest.mark.parametrize("round_trip", [0.3, 0.6])
def test_five_minutes_of_writes_over_a_slow_link(
    tmp_path: Path, hub_database: HubDatabase, round_trip: float, how: str
) -> None:
    """PostgreSQL from the start, one cut, one fallback, and no long time without a write."""
    history = History()
    with Relay(hub_database.server.port) as relay:
        relay.latency = round_trip / 2
        box = LiveBox(tmp_path, DATABASE_URL=relay.reroute(hub_database.url), HANDBACK_AFTER="5")
        with box, Clients(box.port, history, count=3, pause=0.2).writing() as clients:
            assert box.state() == "primary"
            time.sleep(LONG / 5)
            if how == "reset":
                relay.cut()
            else:
                relay.black_hole()
            time.sleep(CUT)
            relay.heal()
            time.sleep(LONG * 4 / 5)
            clients.stop()
            found = decisions(box)
            assert box.state() == "primary"
            relay.latency = 0.0
            box.wait_drained(120)
            result = hub_database.witness.look()
    print(summary(history, result), f"longest gap {clients.longest_gap:.1f} s")
    assert found == ["primary", "fallback", "primary"]
    assert clients.surprises == []
    assert check(history, result, conflicts=None) == []
    assert clients.longest_gap <= LONGEST_GAP
