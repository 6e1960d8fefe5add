# SPDX-License-Identifier: Apache-2.0
"""Files and hubs that are not what they were: cloned, rewound, restored, many, and late.

Boxes in pieces, as in test_faults_link.py.
"""

import contextlib
import random
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.outbox.space.retention import reclaim
from tests.integration.test_faults_link import SEED, SOAK, write_some
from tests.support.checker import Complaint, check
from tests.support.history import History
from tests.support.hub_database import HubDatabase
from tests.support.nodes import Node, nodes
from tests.support.weaken import weakened


def copy_file(node: Node, there: Path) -> Path:
    """Copy the file of a box that does not run, as a card is cloned or backed up."""
    node.close()
    with contextlib.closing(sqlite3.connect(node.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    there.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(node.path, there / node.path.name))


def complaints(history: History, hub: HubDatabase, **expected: int | None) -> list[Complaint]:
    """What the checker says."""
    return check(history, hub.witness.look(), **expected)  # type: ignore[arg-type]


def test_a_cloned_card_forks_and_both_boxes_lose_nothing(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """Both go on under one name; the second one finds a batch that it never sent."""
    first = Node(tmp_path / "a", hub_database.url)
    write_some(first, 30, name="before-")
    first.drain()
    write_some(first, 10, name="waiting-")
    copy_file(first, tmp_path / "b")
    second = Node(tmp_path / "b", hub_database.url, history=first.history, node_id=first.node_id)
    with nodes(first, second):
        for part in range(3):
            write_some(first, 10, name=f"a{part}-")
            write_some(second, 10, name=f"b{part}-")
            first.drain()
            second.drain()
        # Shared rows that waited in both: the second one's meet values that are newer.
        assert complaints(first.history, hub_database, streams=2, conflicts=None) == []
        assert second.ledger()["forks"] + first.ledger()["forks"] == 1
        assert hub_database.number("SELECT count(*) FROM sync_streams") == 2


def test_a_rewound_file_forks_and_what_it_forgot_is_on_the_hub(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """A restored backup of the card: what was sent since then meets itself on the hub."""
    node = Node(tmp_path / "box", hub_database.url)
    write_some(node, 20, name="a")
    node.drain()
    for number in range(1, 6):  # waits in the backup, and is sent before it is restored
        node.facts("waiting", number)
    backup = copy_file(node, tmp_path / "backup")
    write_some(node, 20, name="b")
    node.drain()
    node.close()
    for suffix in ("-wal", "-shm"):
        node.path.with_name(node.path.name + suffix).unlink(missing_ok=True)
    shutil.copy(backup, node.path)
    with nodes(node):
        write_some(node, 20, name="c")
        node.drain()
        assert complaints(node.history, hub_database, streams=2) == []
        assert node.ledger()["forks"] == 1


@contextlib.contextmanager
def backup_of(hub: HubDatabase) -> Iterator[str]:
    """A copy of the hub as it is now; nobody may be connected."""
    name = f"{hub.name}_backup"
    hub.server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{hub.name}"')
    try:
        yield name
    finally:
        hub.server.drop_database(name)


def restore(hub: HubDatabase, backup: str) -> None:
    """Put the copy in the hub's place."""
    hub.server.drop_database(hub.name)
    hub.server.execute(f'CREATE DATABASE "{hub.name}" TEMPLATE "{backup}"')


@pytest.mark.parametrize("drained_before", [True, False])
def test_a_hub_restored_from_an_older_backup_is_sent_again_what_it_lost(
    tmp_path: Path, hub_database: HubDatabase, drained_before: bool
) -> None:
    with nodes(Node(tmp_path, hub_database.url)) as node:
        if drained_before:
            write_some(node, 20, name="a")
            node.drain()
            node.hang_up()
        with backup_of(hub_database) as backup:
            write_some(node, 30, name="b")
            node.drain()
            node.hang_up()
            restore(hub_database, backup)
        write_some(node, 10, name="c")
        node.drain()
        assert complaints(node.history, hub_database) == []
        counts = node.ledger()
        assert counts["hub_lost"] == 0
        assert counts["accepted"] == counts["delivered"]


def test_what_retention_took_before_the_hub_was_restored_is_counted_as_lost(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """Exactly what is missing: a count that says less, or more, is a lie."""
    with nodes(Node(tmp_path, hub_database.url)) as node:
        for number in range(1, 6):
            node.facts("a", number)
        node.drain()
        node.hang_up()
        with backup_of(hub_database) as backup:
            for number in range(6, 16):
                node.facts("a", number)
            node.drain()
            node.hang_up()
            reclaim(node.connection, older_than=-1.0)
            for number in range(16, 21):
                node.facts("a", number)
            node.drain()
            node.hang_up()
            restore(hub_database, backup)
        node.facts("a", 21)
        node.drain()
        found = complaints(node.history, hub_database)
        assert [c.kind for c in found] == ["lost"] * 10
        counts = node.ledger()
        assert counts["hub_lost"] == 10
        parts = sum(counts[name] for name in ("delivered", "dead", "shed", "pending"))
        assert counts["accepted"] == parts


def test_a_first_hub_after_a_week_alone_gets_everything_once(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    with nodes(Node(tmp_path, hub_database.url, hub=False)) as node:
        chance = random.Random(SEED)
        for number in range(1, 300):
            node.facts(f"d{chance.randrange(5)}", number)
        for number in range(1, 20):
            node.set(f"d{number % 3}", number)
        node.delete("d2")
        assert node.ledger()["accepted"] == 0
        installed = node.install()
        assert installed.baseline_rows == 299 + 2
        assert node.install().baseline_rows == 0
        node.facts("d0", 300)
        node.drain()
        assert complaints(node.history, hub_database) == []


def test_five_boxes_that_met_one_device_offline_agree_on_it(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """One row, no conflict, and every box's readings; in whatever order they come home."""
    history = History()
    boxes = [Node(tmp_path / f"{n}", hub_database.url, history=history) for n in range(5)]
    with nodes(*boxes):
        for n, box in enumerate(boxes):
            box.register("x")
            for number in range(1, 21):
                box.facts("x", 100 * n + number)
        for box in boxes:
            box.drain()
        found = hub_database.witness.look()
        assert {fact.number for fact in found.facts} == {
            100 * n + number for n in range(5) for number in range(1, 21)
        }
        assert (len(found.facts), found.conflicts, found.streams) == (100, 0, 5)
        assert hub_database.number("SELECT count(*) FROM devices WHERE name = 'x'") == 1


def test_two_boxes_that_edit_one_row_lose_no_value_unrecorded(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """The last to arrive stands; every value that it took the place of is on record."""
    history = History()
    boxes = [Node(tmp_path / name, hub_database.url, history=history) for name in "ab"]
    with nodes(*boxes):
        for n in range(1, 11):
            for position, box in enumerate(boxes):
                box.set("x", 2 * n + position)
            for box in random.Random(n).sample(boxes, 2):
                box.drain()
        found = hub_database.witness.look()
        arrived = [a.number for a in found.arrivals if a.kind == "set"]
        assert found.shared["x"] == arrived[-1]
        assert found.shared["x"] in (20, 21)
        recorded = {
            int(str(value))
            for row in hub_database.execute(
                "SELECT hub ->> 'description', box ->> 'description' FROM sync_conflicts"
            )
            for value in row
            if value is not None
        }
        assert set(range(2, 22)) <= set(arrived) | recorded
        assert found.conflicts >= 10
        assert found.dead_letters == 0


@pytest.mark.parametrize("count", [20 if SOAK else 8])
def test_boxes_that_drain_at_once_do_not_get_into_each_others_way(
    tmp_path: Path, hub_database: HubDatabase, count: int
) -> None:
    boxes = [Node(tmp_path / f"{n}", hub_database.url, rows=50) for n in range(count)]
    assert drain_at_once(boxes, hub_database) >= 40 * count


def drain_at_once(boxes: list[Node], hub: HubDatabase, *, writes: int = 40) -> int:
    """Let each box write, then all of them drain from threads of their own.

    Checks what came of it, and returns how many rows are on the hub.
    """
    with nodes(*boxes):
        failures: list[BaseException] = []

        def drain(box: Node) -> None:
            try:
                box.drain(120)
            except BaseException as error:
                failures.append(error)

        for n, box in enumerate(boxes):
            box.history = boxes[0].history
            write_some(box, writes, name=f"box{n}-")
            box.facts("everybody's", 1000 + n)
        threads = [threading.Thread(target=drain, args=(box,)) for box in boxes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        history = boxes[0].history
        found = hub.witness.look()
        kinds = {c.kind for c in check(history, found, streams=len(boxes))}
        assert kinds <= {"reordered"}, kinds  # everybody's: of twenty boxes, in no order
        assert all(box.ledger()["conflicts"] == 0 for box in boxes)
        return len(found.arrivals)


FOUND_OUT = [("no-rewind", {"lost"}), ("no-fork", {"lost"})]


@pytest.mark.parametrize(("weak", "expected"), FOUND_OUT, ids=[name for name, _ in FOUND_OUT])
def test_a_build_that_does_not_compare_marks_is_found_out(
    tmp_path: Path, hub_database: HubDatabase, weak: str, expected: set[str]
) -> None:
    with weakened(weak), nodes(Node(tmp_path / "box", hub_database.url)) as node:
        write_some(node, 20, name="a")
        node.drain()
        backup_file = copy_file(node, tmp_path / "backup")
        with backup_of(hub_database) as backup:
            write_some(node, 20, name="b")
            node.drain()
            node.close()
            if weak == "no-rewind":
                restore(hub_database, backup)
            else:
                for suffix in ("-wal", "-shm"):
                    node.path.with_name(node.path.name + suffix).unlink(missing_ok=True)
                shutil.copy(backup_file, node.path)
        write_some(node, 40, name="c")
        node.drain()
        found = complaints(node.history, hub_database, streams=2)
    assert {complaint.kind for complaint in found} & expected, found
