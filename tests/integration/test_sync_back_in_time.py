# SPDX-License-Identifier: Apache-2.0
"""A hub that went back in time: nothing is deleted on its word, and shared rows come home too."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.outbox import ledger
from edgepaas.outbox.ledger import pending
from edgepaas.outbox.resending.recovery_state import read_history
from edgepaas.outbox.space.retention import reclaim
from edgepaas.sync.audit.box import read_box
from edgepaas.sync.back_in_time import compare_file, compare_history
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.mirror.mirror import Mirror
from edgepaas.sync.mirror.ordered_rows import HistoryBroken, MirrorPostponed
from tests.support.backups import Backups
from tests.support.forwarding import TestBox, TestHub, document, rows_of
from tests.support.weaken import weakened


@pytest.fixture(autouse=True)
def alerts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    raised: list[str] = []
    monkeypatch.setattr(
        "edgepaas.alerts.catalogue_entry.raise_alert",
        lambda message, *, fingerprint, **_: raised.append(fingerprint),
    )
    return raised


@pytest.fixture
def backups(hub: TestHub) -> Iterator[Backups]:
    yield Backups(hub)
    hub.server.drop_database(f"{hub.name}_b")


def settle(box: TestBox, hub: TestHub, *, passes: int = 3) -> None:
    """Do what the drainer does over one connection, until a pass of the mirror is whole."""
    mirror = Mirror(document())
    with hub.link() as link:
        for _ in range(passes):
            compare_history(box.file, link)
            compare_file(box.file, link)
            box.drain_all(link)
            try:
                mirror.run(box.file, link)
            except MirrorPostponed:
                continue
            return
    raise AssertionError("the mirror made no pass")


def places(box: TestBox) -> list[tuple[str, str]]:
    """The places that the box has."""
    return rows_of(box.file, "SELECT name, note FROM places ORDER BY name")


def on_hub(hub: TestHub) -> list[tuple[str, str]]:
    """The places that the hub has."""
    return [tuple(row) for row in hub.ask("SELECT name, note FROM places ORDER BY name")]


def accepted(box: TestBox) -> int:
    """Return how many changes the box ever had for the hub, each of which is in one place."""
    found = ledger.read(box.file)
    side = read_box(box.file)
    assert side.discrepancies() == []
    assert found["accepted"] == (
        found["delivered"] + found["dead"] + found["shed"] + found["pending"]
    ), found
    return found["accepted"]


def another_box_makes(hub: TestHub, name: str, note: str = "n") -> str:
    """Write a place on the hub itself; returns its id."""
    identity = str(uuid.uuid4())
    hub.ask(f"INSERT INTO places (id, name, note) VALUES ('{identity}', '{name}', '{note}')")
    return identity


def lose_what_was_made_meanwhile(box: TestBox, hub: TestHub, backups: Backups) -> None:
    """Three places are made after the backup that is restored: one only mirrored, one reclaimed."""
    box.place("old", note="1")
    settle(box, hub)
    backups.take()
    another_box_makes(hub, "theirs")
    box.place("mine", note="2")
    settle(box, hub)
    assert reclaim(box.file, older_than=0).rows == 2
    box.place("recent", note="3")
    settle(box, hub)
    assert [name for name, _ in places(box)] == ["mine", "old", "recent", "theirs"]
    backups.restore()
    assert on_hub(hub) == [("old", "1")]


def test_shared_rows_come_home_to_a_restored_hub_and_none_is_deleted(
    box: TestBox, hub: TestHub, backups: Backups, alerts: list[str]
) -> None:
    lose_what_was_made_meanwhile(box, hub, backups)
    settle(box, hub)
    kept = [("mine", "2"), ("old", "1"), ("recent", "3"), ("theirs", "n")]
    assert places(box) == kept
    assert on_hub(hub) == kept
    assert hub.one("SELECT count(*) FROM sync_conflicts") == 0
    assert hub.one("SELECT count(*) FROM sync_dead_letters") == 0
    assert alerts == ["sync-hub-lost"]
    hub.ask("DELETE FROM places WHERE name = 'theirs'")
    settle(box, hub)
    assert places(box) == kept[:3], "from now on a deletion is one again"


def test_the_mirror_that_trusts_the_hub_is_found_out(
    box: TestBox, hub: TestHub, backups: Backups
) -> None:
    with weakened("trusting-mirror"):
        lose_what_was_made_meanwhile(box, hub, backups)
        with hub.link() as link:
            Mirror(document()).run(box.file, link)
    assert places(box) == [("old", "1")], "the last copies are gone"


def test_a_recovery_that_queues_nothing_is_found_out(
    box: TestBox, hub: TestHub, backups: Backups
) -> None:
    with weakened("lost-stays-lost"):
        lose_what_was_made_meanwhile(box, hub, backups)
        settle(box, hub)
    assert on_hub(hub) != [("mine", "2"), ("old", "1"), ("recent", "3"), ("theirs", "n")]


def test_a_box_that_never_sent_anything_notices_it_as_well(
    box: TestBox, hub: TestHub, backups: Backups
) -> None:
    """Its stream stands at its base: the mark of the history alone tells."""
    backups.take()
    another_box_makes(hub, "theirs")
    settle(box, hub)
    backups.restore()
    with hub.link() as link, pytest.raises(HistoryBroken):
        Mirror(document()).run(box.file, link)
    settle(box, hub)
    assert places(box) == on_hub(hub) == [("theirs", "n")]


def test_another_database_gets_every_shared_row_before_what_points_to_them(
    box: TestBox, hub: TestHub, backups: Backups
) -> None:
    """A child that waits would be refused, and wait as a dead letter for a person."""
    backups.take()
    parent = box.place("hall", note="1")
    settle(box, hub)
    assert reclaim(box.file, older_than=0).rows == 1
    box.write(f"UPDATE places SET note = '2' WHERE id = '{parent}'")
    box.write("INSERT INTO sensors VALUES (?, ?)", (str(uuid.uuid4()), parent))
    backups.restore()
    settle(box, hub)
    assert on_hub(hub) == [("hall", "2")]
    assert hub.one("SELECT count(*) FROM sensors") == 1
    assert hub.one("SELECT count(*) FROM sync_dead_letters") == 0
    assert hub.one("SELECT count(*) FROM sync_conflicts") == 0
    assert accepted(box) == 4, "three changes, and the row that was sent again before them"


def test_what_has_a_tombstone_stays_deleted(
    box: TestBox, other: TestBox, hub: TestHub, backups: Backups
) -> None:
    """Another box deletes it on the restored hub before this one sees anything of it."""
    for name in ("a", "b"):
        box.place(name, note="1")
    settle(box, hub)
    settle(other, hub)
    backups.take()
    another_box_makes(hub, "later")
    settle(other, hub)
    settle(box, hub)
    backups.restore()
    with hub.link() as link:
        compare_history(other.file, link)
        other.write("DELETE FROM places WHERE name = 'a'")
        other.drain_all(link)
    settle(box, hub)
    assert [name for name, _ in places(box)] == ["b", "later"]
    assert [name for name, _ in on_hub(hub)] == ["b", "later"]


def test_a_value_that_only_this_box_has_any_more_is_kept_as_a_conflict(
    box: TestBox, hub: TestHub, backups: Backups
) -> None:
    """The change left the outbox; the restored hub has the row as it was before."""
    identity = box.place("hall", note="before")
    settle(box, hub)
    backups.take()
    box.write(f"UPDATE places SET note = 'after' WHERE id = '{identity}'")
    settle(box, hub)
    assert reclaim(box.file, older_than=0).rows == 2
    backups.restore()
    settle(box, hub)
    assert on_hub(hub) == [("hall", "before")]
    assert hub.ask("SELECT box ->> 'note', hub ->> 'note' FROM sync_conflicts") == [
        ["after", "before"]
    ]


def test_a_crash_in_the_middle_queues_nothing_twice(
    box: TestBox, hub: TestHub, backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the hub committed, and after it did."""
    lose_what_was_made_meanwhile(box, hub, backups)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for step in (
        "edgepaas.sync.delivery.drain._send_next",
        "edgepaas.sync.resend.recovery.Recovery.committed",
    ):
        with monkeypatch.context() as patch, hub.link() as link:
            patch.setattr(step, die)
            compare_history(box.file, link)
            with pytest.raises(KeyboardInterrupt):
                box.drain(link, rows=1)
    settle(box, hub)
    assert len(on_hub(hub)) == 4
    assert hub.one("SELECT count(*) FROM sync_conflicts") == 0
    assert accepted(box) == 3 + 2, "three of its own, and two that came home"


def test_a_box_that_may_not_migrate_deletes_only_what_has_a_tombstone(
    box: TestBox, other: TestBox, hub: TestHub
) -> None:
    """The hub has no table for the marks of its history."""
    hub.ask("DROP TABLE sync_histories")
    for name in ("a", "b"):
        other.place(name, note="1")
    settle(other, hub)
    settle(box, hub)
    other.write("DELETE FROM places WHERE name = 'a'")
    settle(other, hub)
    hub.ask("DELETE FROM places WHERE name = 'b'")
    settle(box, hub)
    assert [name for name, _ in places(box)] == ["b"]


def test_the_mark_moves_only_where_something_was_mirrored(
    box: TestBox, hub: TestHub, link: Hub, tmp_path: Path
) -> None:
    mirror = Mirror(document())
    mirror.run(box.file, link)
    assert read_history(box.file).history_id == ""
    another_box_makes(hub, "a")
    for _ in range(3):
        mirror.run(box.file, link)
    first = read_history(box.file)
    assert (first.mark, hub.ask("SELECT mark FROM sync_histories")) == (1, [[1]])
    hub.ask("UPDATE places SET note = 'x'")
    mirror.run(box.file, link)
    assert read_history(box.file).mark == 2
    clone = box.clone(tmp_path / "clone.db")
    another_box_makes(hub, "b")
    for one in (box, clone):
        Mirror(document()).run(one.file, link)
        assert [name for name, _ in places(one)] == ["a", "b"]
    assert hub.ask("SELECT mark FROM sync_histories") == [[4]]
    assert pending(clone.file) == 0
    clone.close()


def test_marks_that_were_left_behind_long_ago_are_deleted(
    box: TestBox, hub: TestHub, backups: Backups
) -> None:
    backups.take()
    another_box_makes(hub, "theirs")
    settle(box, hub)
    hub.ask("UPDATE sync_histories SET mark = 0, updated_at = now() - interval '500 days'")
    settle(box, hub)
    assert hub.ask("SELECT mark FROM sync_histories") == [[1]]
