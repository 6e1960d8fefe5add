# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL lost, and sync killed, exactly at each step of handing back; no booted box."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.checker import check, summary
from tests.support.history import History
from tests.support.hub_database import HubDatabase
from tests.support.live_box import Clients, LiveBox
from tests.support.relay import Relay
from tests.support.service_process import until
from tests.support.weaken import STEPS, STEPS_VARIABLE

SOAK = bool(os.environ.get("EDGEPAAS_SOAK"))
SEED = int(os.environ.get("EDGEPAAS_SEED", "8"))
SETTINGS: dict[str, Any] = {"POSTGRES_HOLD": "1", "HANDBACK_ROWS": "100000", "FENCE_DEADLINE": "2"}


def test_a_fault_at_any_step_of_handing_back_loses_nothing(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """The box serves on from SQLite or from PostgreSQL, comes home in the end, and has it all."""
    history = History()
    steps = tmp_path / "steps"
    steps.mkdir()
    with (
        Relay(hub_database.server.port, seed=SEED) as relay,
        LiveBox(
            tmp_path / "box", weak=("steps",), environ={STEPS_VARIABLE: str(steps)},
            DATABASE_URL=relay.reroute(hub_database.url), **SETTINGS,
        ) as box,
        Clients(box.port, history, seed=SEED, pause=0.05).writing() as clients,
    ):  # fmt: skip
        for number, step in enumerate(STEPS):
            for fault in ("lost", "killed") if SOAK else (("lost", "killed")[number % 2],):
                relay.cut()
                box.wait_state("fallback")
                (steps / "reached").unlink(missing_ok=True)
                (steps / "stop-at").write_text(step)
                clients.wait_for(10)
                relay.heal()
                try:
                    until((steps / "reached").exists, f"the step '{step}'", 60)
                except AssertionError:
                    print(box.output()[-6000:])
                    raise
                if fault == "lost":
                    relay.cut()
                else:
                    box.kill("sync")
                (steps / "stop-at").unlink()
                clients.wait_for(10)
                relay.heal()
                box.wait_state("primary", limit=90)
        clients.stop()
        box.wait_drained()
        found = hub_database.witness.look()
        print(f"a fault at each of {len(STEPS)} steps: {summary(history, found)}; "
              f"the longest gap {clients.longest_gap:.1f} s")  # fmt: skip
        assert clients.surprises == []
        assert check(history, found, conflicts=None) == []
        status, text = box.run("audit")
        assert status == 0, text


@pytest.mark.parametrize(("weak", "expected"), [("no-fence", {"lost", "reordered", "stale"})])
def test_a_build_without_the_fence_is_found_out(
    tmp_path: Path, hub_database: HubDatabase, weak: str, expected: set[str]
) -> None:
    """Writes that pass while PostgreSQL takes over stay behind."""
    history = History()
    with (
        Relay(hub_database.server.port, seed=SEED) as relay,
        LiveBox(
            tmp_path, weak=(weak,), DATABASE_URL=relay.reroute(hub_database.url), **SETTINGS
        ) as box,
        # Without the fence they could outrun the drainer for ever.
        Clients(box.port, history, seed=SEED, count=4, pause=0.02).writing() as clients,
    ):
        complaints: set[str] = set()
        for _ in range(3):
            relay.cut()
            box.wait_state("fallback")
            clients.wait_for(30)
            relay.heal()
            box.wait_state("primary")
            found = check(history, hub_database.witness.look(), conflicts=None)
            complaints = {c.kind for c in found if c.kind in expected}
            if complaints:
                break
    assert complaints
