# SPDX-License-Identifier: Apache-2.0
"""A box that is written to all the time, over a link that is not fast."""

from pathlib import Path

from edgepaas.sync import status as sync_status
from tests.support.checker import check
from tests.support.history import History
from tests.support.hub_database import HubDatabase
from tests.support.live_box import Clients, LiveBox
from tests.support.relay import Relay
from tests.support.service_process import until


def test_what_always_waits_a_little_keeps_nobody_from_mirroring_and_handing_back(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """While one batch travels the next rows come in: the queue is hardly ever seen empty."""
    history = History()
    with (
        Relay(hub_database.server.port, seed=1) as relay,
        LiveBox(tmp_path, DATABASE_URL=relay.reroute(hub_database.url), POSTGRES_HOLD="1") as box,
        Clients(box.port, history, seed=1, count=2, pause=0.1).writing() as clients,
    ):
        clients.wait_for(3)
        relay.cut()
        box.wait_state("fallback")
        clients.wait_for(5)
        relay.latency = 0.03
        relay.heal()

        def mirrored() -> bool:
            found = sync_status.read(box.paths)
            return found is not None and found.mirror is not None

        until(mirrored, "a pass of the mirror")
        box.wait_state("primary")
        clients.wait_for(3)
        clients.stop()
        relay.latency = 0.0
        box.wait_drained()
        assert clients.surprises == []
        assert check(history, hub_database.witness.look()) == []
