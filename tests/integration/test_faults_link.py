# SPDX-License-Identifier: Apache-2.0
"""The link to PostgreSQL fails in every way while rows go home: none lost, none twice, in order.

A box in pieces (the real writer, outbox and drain) behind a relay, so that hundreds of
faults fit into seconds. Each check has been seen to complain of a build that is weakened.
"""

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checker import check, summary
from tests.support.hub_database import HubDatabase
from tests.support.nodes import Node, nodes
from tests.support.relay import Relay
from tests.support.weaken import weakened

SOAK = bool(os.environ.get("EDGEPAAS_SOAK"))
SEED = int(os.environ.get("EDGEPAAS_SEED", "4"))
#: Source transactions of one test.
WRITES = 3000 if SOAK else 100


def write_some(node: Node, count: int, *, name: str = "d", seed: int = SEED) -> None:
    """Facts one by one and in transactions, a shared row that changes, goes and comes back."""
    chance = random.Random(seed)
    numbers = {f"{name}{n}": 0 for n in range(4)}
    present: set[str] = set()
    for _ in range(count):
        key = chance.choice(sorted(numbers))
        kind = chance.random()
        size = chance.randint(2, 12) if kind < 0.3 else 1
        first = numbers[key] + 1
        numbers[key] += size
        if kind < 0.6:
            node.facts(key, *range(first, first + size))
        elif kind < 0.93 or key not in present:
            node.set(key, first)
            present.add(key)
        else:
            node.delete(key)
            present.discard(key)


def cut_half(relay: Relay) -> None:
    """Every second answer to COMMIT never arrives."""
    relay.commit_cut, relay.ends = 0.5, ("reset", "close")


def cut_requests(relay: Relay) -> None:
    """Every third COMMIT never arrives."""
    relay.request_cut = 0.33


def cut_anywhere(relay: Relay) -> None:
    """Connections end in the middle of anything."""
    relay.byte_cut, relay.ends = 25000.0, ("reset", "close")


def flap(relay: Relay) -> None:
    """There and gone, ten times a second."""
    relay.flap(0.05)


LINKS: list[Callable[[Relay], None]] = [cut_half, cut_requests, cut_anywhere, flap]


@pytest.mark.parametrize("spoil", LINKS, ids=lambda f: f.__name__)
def test_every_row_arrives_once_and_in_order_over_a_link_that(
    tmp_path: Path, hub_database: HubDatabase, spoil: Callable[[Relay], None]
) -> None:
    with (
        Relay(hub_database.server.port, seed=SEED) as relay,
        nodes(Node(tmp_path, relay.reroute(hub_database.url))) as node,
    ):

        def write() -> None:
            # Until the link was seen to break a few times, however fast all gets through.
            for part in range(50):
                write_some(node, WRITES, name=f"d{part}-", seed=SEED + part)
                if relay.connections > 5:
                    return

        spoil(relay)
        writer = threading.Thread(target=write)
        writer.start()
        node.drain(
            1800 if SOAK else 240, until=lambda: not writer.is_alive() and not node.waiting()
        )
        writer.join()
        relay.calm()
        found = hub_database.witness.look()
        print(f"{spoil.__name__}: {relay.cuts} of {relay.commits} commits cut, "
              f"{relay.connections} connections; {summary(node.history, found)}")  # fmt: skip
        assert check(node.history, found) == []
        counts = node.ledger()
        assert counts["accepted"] == counts["delivered"]
        assert (counts["pending"], counts["conflicts"], counts["forks"]) == (0, 0, 0)
        assert relay.connections > 5


#: Which weakened build each kind of complaint was seen on.
FOUND_OUT = [
    ("confirm-first", {"lost"}),
    ("forget-mark", {"doubled"}),
    ("no-inflight", {"forked"}),
    ("no-markers", {"torn"}),
    ("forgetful", {"lost"}),
    ("backwards", {"stale", "undead", "invented"}),
]


@pytest.mark.parametrize(("weak", "expected"), FOUND_OUT, ids=[name for name, _ in FOUND_OUT])
def test_a_weakened_build_is_found_out(
    tmp_path: Path, hub_database: HubDatabase, weak: str, expected: set[str]
) -> None:
    """The same writes, the same cuts, the same check: and it complains."""
    with (
        weakened(weak),
        Relay(hub_database.server.port, seed=SEED) as relay,
        nodes(Node(tmp_path, relay.reroute(hub_database.url))) as node,
    ):
        cut_half(relay)
        cut_requests(relay)
        for part in range(2):
            write_some(node, 15, name=f"p{part}-", seed=part)
            node.drain()
        relay.calm()
        complaints = check(node.history, hub_database.witness.look())
    assert {complaint.kind for complaint in complaints} & expected, complaints


def test_a_link_that_falls_silent_is_given_up_and_the_rows_arrive(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """The answer to COMMIT is swallowed and the connection stays open: another one is used."""
    with (
        Relay(hub_database.server.port, seed=SEED) as relay,
        nodes(Node(tmp_path, relay.reroute(hub_database.url))) as node,
    ):
        write_some(node, 10)
        relay.commit_cut, relay.ends = 1.0, ("silence",)
        silent = threading.Timer(1.0, lambda: node.hub().abort())
        silent.start()
        node.drain(30, until=lambda: relay.cuts > 0 and node.broken_links > 0)
        relay.calm()
        node.drain()
        assert check(node.history, hub_database.witness.look()) == []


def test_a_half_open_predecessor_does_not_hold_the_stream(
    tmp_path: Path, hub_database: HubDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server waits in mid-batch for a box that has long given that connection up."""
    monkeypatch.setattr(
        "edgepaas.sync.hub.connection.IDLE_TIMEOUT", 1.0
    )  # 30 s, for the sake of time
    with (
        Relay(hub_database.server.port, seed=SEED) as relay,
        nodes(Node(tmp_path, relay.reroute(hub_database.url))) as node,
    ):
        write_some(node, 5)
        node.drain()
        write_some(node, 5, name="e")
        hub = node.hub()
        hub.begin()
        hub.query("SELECT * FROM sync_streams FOR UPDATE")
        relay.black_hole()
        relay.heal()
        hub.abort()
        node.hang_up()
        node.drain(30)
        assert check(node.history, hub_database.witness.look()) == []
