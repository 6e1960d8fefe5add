# SPDX-License-Identifier: Apache-2.0
"""A whole box under load while its processes are killed and its PostgreSQL comes and goes."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.checker import check, summary
from tests.support.history import History
from tests.support.hub_database import HubDatabase
from tests.support.live_box import Clients, LiveBox
from tests.support.relay import Relay

SOAK = bool(os.environ.get("EDGEPAAS_SOAK"))
SEED = int(os.environ.get("EDGEPAAS_SEED", "5"))
KILLS = 1000 if SOAK else 8


def test_kills_at_random_moments_lose_double_and_reorder_nothing(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """SIGKILL of the service and of sync, under writes that are forwarded as they come."""
    history, chance = History(), random.Random(SEED)
    killed = {"serve": 0, "sync": 0}
    with (
        LiveBox(tmp_path, DATABASE_URL=hub_database.url, USE_SQLITE="true") as box,
        Clients(box.port, history, seed=SEED).writing() as clients,
    ):
        assert box.state() == "local-first"
        while sum(killed.values()) < KILLS:
            name = chance.choice(["serve", "sync"])
            time.sleep(chance.random() * 1.5)
            killed[name] += box.kill(name)
        clients.wait_for(20)
        clients.stop()
        box.wait_state("local-first")
        box.wait_drained()
        found = hub_database.witness.look()
        print(f"killed {killed}: {summary(history, found)}")
        assert clients.surprises == []
        assert check(history, found) == []
        status, text = box.run("audit")
        assert status == 0, text
    assert history.count("acknowledged") > KILLS


def refuse(relay: Relay) -> None:
    """Every connection is reset, and new ones are refused."""
    relay.cut()


def fall_silent(relay: Relay) -> None:
    """Connections stay open and nothing comes through them any more."""
    relay.black_hole()


#: The hardest alone where time counts; losing it in other ways is tested elsewhere, too.
LOSSES: list[Callable[[Relay], None]] = (
    [refuse, fall_silent, Relay.pause] if SOAK else [fall_silent]
)


def test_every_kind_of_loss_leads_to_sqlite_and_back_and_loses_nothing(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """Lost while serving, SQLite, home again behind the fence; clients repeat with their ids."""
    history = History()
    settings: dict[str, Any] = {"POSTGRES_HOLD": "1", "HANDBACK_ROWS": "100000"}
    with (
        Relay(hub_database.server.port, seed=SEED) as relay,
        LiveBox(tmp_path, DATABASE_URL=relay.reroute(hub_database.url), **settings) as box,
        Clients(box.port, history, seed=SEED, pause=0.02).writing() as clients,
    ):
        assert box.state() == "primary"
        for lose in LOSSES:
            clients.wait_for(30)
            lost = time.monotonic()
            lose(relay)
            box.wait_state("fallback")
            taken = time.monotonic() - lost
            clients.wait_for(30)
            returned = time.monotonic()
            relay.heal()
            box.wait_state("primary")
            print(f"{lose.__name__}: SQLite after {taken:.1f} s, "
                  f"handed back after {time.monotonic() - returned:.1f} s")  # fmt: skip
        clients.wait_for(30)
        clients.stop()
        box.wait_drained()
        found = hub_database.witness.look()
        print(f"{summary(history, found)}; the longest gap {clients.longest_gap:.1f} s")
        assert clients.surprises == []
        assert check(history, found, conflicts=None) == []
        status, text = box.run("audit")
        assert status == 0, text


@pytest.mark.parametrize(("weak", "expected"), [("early-answer", {"lost"})])
def test_a_weakened_build_is_found_out(
    tmp_path: Path, hub_database: HubDatabase, weak: str, expected: set[str]
) -> None:
    """A service that acknowledges before it commits is killed a few times."""
    history = History()
    with (
        LiveBox(tmp_path, weak=(weak,), DATABASE_URL=hub_database.url, USE_SQLITE="true") as box,
        Clients(box.port, history, seed=SEED).writing() as clients,
    ):
        for _ in range(2):
            clients.wait_for(20)
            box.kill("serve")
        clients.stop()
        box.wait_state("local-first")
        box.wait_drained()
        complaints = check(history, hub_database.witness.look())
    assert {complaint.kind for complaint in complaints} & expected, complaints
