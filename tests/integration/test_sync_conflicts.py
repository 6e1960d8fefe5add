# SPDX-License-Identifier: Apache-2.0
"""What becomes of rows that meet others on the hub: facts, merges, updates, deletes."""

from typing import Any

import pytest

from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.inspect import list_entries, settle_conflicts
from tests.support.forwarding import TestBox, TestHub

Rows = list[list[Any]]


def place(hub: TestHub, columns: str = "note, labels, first, last, origin") -> list[Any]:
    (row,) = hub.ask(f"SELECT {columns} FROM places")
    return row


def recorded(hub: TestHub) -> Rows:
    return hub.ask("SELECT reason, hub, box FROM sync_conflicts ORDER BY seq")


def test_a_fact_that_is_there_already_is_the_same_row(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    (one,) = box.samples(1.5, text="a")
    other.write(f"INSERT INTO samples (id, value, text, got) VALUES ('{one}', 1.5, 'a', 'later')")
    assert box.drain(link).conflicts == 0
    done = other.drain(link)
    assert (done.rows, done.conflicts) == (1, 0), "a column with a merge rule is no content"
    assert hub.ask("SELECT value, got FROM samples") == [[1.5, None]]
    other.adds_up(hub)


def test_a_fact_with_other_content_stays_as_it_was_and_is_recorded(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    (one,) = box.samples(1.5, text="a")
    other.samples(9)
    other.write(f"INSERT INTO samples (id, value, text) VALUES ('{one}', 2.5, 'a')")
    other.samples(10)
    box.drain(link)
    done = other.drain(link)
    assert (done.rows, done.conflicts) == (3, 1)
    assert hub.one(f"SELECT value FROM samples WHERE id = '{one}'") == 1.5
    ((reason, theirs, ours),) = recorded(hub)
    assert "other content" in reason
    assert (theirs["value"], ours["value"], ours["at"]) == ("1.5", "2.5", None)
    assert other.adds_up(hub)["conflicts"] == 1


def test_facts_that_are_there_already_do_not_wait_for_each_other(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when clients repeat what PostgreSQL took and did not answer, among other changes."""

    def savepoint(_hub: Hub, _statements: object) -> object:
        raise AssertionError("a round trip for each part of the batch")

    monkeypatch.setattr(Hub, "savepoint", savepoint)
    ids = box.samples(*map(float, range(10)))
    place = other.place("p")
    for number, one in enumerate(ids):
        value = number if number else 100
        other.write(f"INSERT INTO samples (id, value) VALUES ('{one}', {value})")
        other.write(f"UPDATE places SET note = '{number}' WHERE id = '{place}'")
    box.drain(link)
    done = other.drain(link)
    assert (done.rows, done.conflicts, done.remaining) == (21, 1, 0)
    assert hub.one("SELECT sum(value) FROM samples") == sum(range(10))
    assert other.adds_up(hub)["conflicts"] == 1


def test_a_moment_that_a_box_filled_in_is_no_content(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    cases = [
        (("t1", "t1"), ("t2", "t2")),
        (("t0", "t1"), ("t2", "t2")),
        (("t1", "t1"), ("t0", "t2")),
        (("t0", "t1"), ("t5", "t2")),
        ((None, "t1"), ("t5", "t2")),
    ]
    for which, side in ((box, 0), (other, 1)):
        rows = [(f"0199e0a0-0000-7000-8000-{n:012}", *case[side]) for n, case in enumerate(cases)]
        which.write("INSERT INTO samples (id, at, got) VALUES (?, ?, ?)", *rows)
        which.drain(link)
    assert [row[1]["at"] for row in recorded(hub)] == ["t0", None], "both given, and different"


def test_a_shared_row_that_is_there_is_merged_column_by_column(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    box.place("hall", note="old", labels='{"a":1}', first=5, last=5, origin="box")
    other.place("hall", note="new", first=3, last=9, origin="other")
    box.drain(link)
    done = other.drain(link)
    assert (done.rows, done.conflicts) == (1, 1)
    assert place(hub) == ["new", {"a": 1}, 3, 9, "box"]
    ((reason, theirs, ours),) = recorded(hub)
    assert "overwritten" in reason
    assert (theirs["note"], ours["note"]) == ("old", "new")


def test_merging_what_says_the_same_or_nothing_records_nothing(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    box.place("hall", labels='{"a": 1, "b": [1.0]}', first=1)
    other.place("hall", note="first to say so", labels='{"b":[1.0],"a":1}', first=7)
    box.drain(link)
    assert other.drain(link).conflicts == 0, "jsonb is compared by what it says"
    assert place(hub, "note, first") == ["first to say so", 1]


def test_an_empty_document_overwrites_nothing_whoever_comes_first(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    """A device's labels, say: one box was told them, another only heard of the device."""
    box.place("hall", labels='{"room": "boiler"}')
    other.place("hall", labels="{}")
    box.place("yard", labels="{}")
    other.place("yard", labels='{"room": "none"}')
    box.place("shed")
    other.place("shed", labels="{}")
    for one in (box, other):
        assert one.drain(link).conflicts == 0
    assert hub.ask("SELECT name, labels FROM places ORDER BY name") == [
        *(["hall", {"room": "boiler"}], ["shed", {}], ["yard", {"room": "none"}])
    ]
    other.write("UPDATE places SET labels = '{}' WHERE name = 'yard'")
    assert other.drain(link).conflicts == 0
    assert hub.ask("SELECT labels FROM places WHERE name = 'yard'") == [[{}]], "said on purpose"


def test_updates_of_different_columns_by_two_boxes_both_stay(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    for one in (box, other):
        one.place("hall", note="n")
        one.drain(link)
    box.write("UPDATE places SET note = 'mine'")
    other.write("UPDATE places SET labels = '[1]', last = 4")
    assert box.drain(link).conflicts == other.drain(link).conflicts == 0
    assert place(hub, "note, labels, last") == ["mine", [1], 4]


def test_of_two_updates_of_one_column_the_last_to_arrive_stays_and_the_other_is_recorded(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    for one in (box, other):
        one.place("hall", note="n", last=1)
        one.drain(link)
    box.write("UPDATE places SET note = 'mine', last = 9, first = 9")
    other.write("UPDATE places SET note = 'theirs', last = 5, first = 5")
    box.drain(link)
    done = other.drain(link)
    assert (done.rows, done.conflicts) == (1, 1)
    assert place(hub, "note, last, first") == ["theirs", 9, 5]
    ((_, theirs, ours),) = recorded(hub)
    assert (theirs["note"], ours["note"]) == ("mine", "theirs")
    box.adds_up(hub)
    other.adds_up(hub)


def test_the_same_update_by_two_boxes_is_no_conflict(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    for one in (box, other):
        one.place("hall", note="n")
        one.drain(link)
        one.write("UPDATE places SET note = NULL")
    assert box.drain(link).conflicts == other.drain(link).conflicts == 0
    assert place(hub, "note") == [None]


def test_updates_of_one_row_stay_in_order(box: TestBox, hub: TestHub, link: Hub) -> None:
    box.place("hall")
    for number in range(30):
        column = ("note", "labels")[number % 2]
        box.write(f"UPDATE places SET {column} = '{number}'")
    done = box.drain(link)
    assert (done.rows, done.conflicts) == (31, 0)
    assert place(hub, "note, labels") == ["28", 29]


def test_a_delete_wins_leaves_a_tombstone_and_records_the_change_it_took_along(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    for one in (box, other):
        key = one.place("hall", note="n")
        one.drain(link)
    other.write("UPDATE places SET note = 'precious'")
    other.drain(link)
    box.write("DELETE FROM places")
    assert box.drain(link).conflicts == 1
    assert hub.one("SELECT count(*) FROM places") == 0
    assert hub.ask("SELECT tbl, row_key FROM sync_tombstones") == [["places", key]]
    ((reason, theirs, _),) = recorded(hub)
    assert "deleted" in reason
    assert theirs["note"] == "precious"
    other.write("UPDATE places SET note = 'later'")
    done = other.drain(link)
    assert (done.rows, done.conflicts) == (1, 1), "the row stays deleted"
    assert hub.one("SELECT count(*) FROM places") == 0


def test_deleting_what_is_gone_is_no_conflict(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    for one in (box, other):
        one.place("hall")
        one.drain(link)
    for one in (box, other):
        one.write("DELETE FROM places")
        assert one.drain(link).conflicts == 0


def test_a_row_that_is_made_again_forgets_its_tombstone(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    box.place("hall", note="1")
    box.write("DELETE FROM places")
    box.drain(link)
    box.place("hall", note="2")
    box.drain(link)
    assert place(hub, "note") == ["2"]
    assert hub.one("SELECT count(*) FROM sync_tombstones") == 0
    box.write("DELETE FROM places")
    box.place("hall", note="3")
    done = box.drain(link)
    assert (done.rows, done.conflicts) == (2, 0)
    assert hub.one("SELECT count(*) FROM sync_tombstones") == 0, "within a batch as well"


def test_a_key_that_changes_is_another_row(box: TestBox, hub: TestHub, link: Hub) -> None:
    box.place("hall", note="n")
    box.write("UPDATE places SET id = '0199e0a0-0000-7000-8000-000000000009'")
    assert box.drain(link).dead == 0
    assert str(hub.one("SELECT id FROM places")) == "0199e0a0-0000-7000-8000-000000000009"


def test_an_open_conflict_is_listed_until_it_is_settled(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    for one in (box, other):
        one.place("hall", note=one.node)
        one.drain(link)
    (found,) = list_entries(link, "conflicts")
    assert (found.table, found.state, found.node_id) == ("places", "open", other.node)
    assert list_entries(link, "conflicts", node_id=box.node) == []
    assert settle_conflicts(link, [found.id]) == 1
    assert list_entries(link, "conflicts") == []
    assert settle_conflicts(link, [found.id]) == 0, "nobody closes one twice"
