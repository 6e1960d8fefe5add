# SPDX-License-Identifier: Apache-2.0
"""Counters (``merge="add"``): increments made anywhere add up, and each of them counts once."""

import uuid
from decimal import Decimal
from typing import Any

import pytest

from edgepaas.outbox import stream
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.mirror.mirror import Mirror
from tests.support.forwarding import TestBox, TestHub, document, rows_of
from tests.support.weaken import weakened


def visits(hub: TestHub) -> Any:
    return hub.one("SELECT visits FROM places")


def count(box: TestBox, place: str, times: int = 1) -> None:
    """Count visits, one after the other, as requests do."""
    for _ in range(times):
        box.write(f"UPDATE places SET visits = coalesce(visits, 0) + 1 WHERE id = '{place}'")


def test_increments_on_both_sides_of_an_outage_add_up(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    """Five in ``primary``, which the file never heard of, and six in ``fallback``."""
    place = box.place("hall", visits=1)
    box.drain(link)
    hub.ask("UPDATE places SET visits = visits + 5 RETURNING 1")
    count(box, place, 6)
    done = box.drain_all(link)
    assert visits(hub) == 12
    assert [one.conflicts for one in done] == [0] * len(done)
    Mirror(document()).run(box.file, link)
    assert rows_of(box.file, "SELECT visits FROM places") == [(12,)]
    box.adds_up(hub)


def test_a_build_that_sends_values_is_found_out(box: TestBox, hub: TestHub, link: Hub) -> None:
    with weakened("counters-overwrite"):
        place = box.place("hall", visits=1)
        box.drain(link)
        hub.ask("UPDATE places SET visits = visits + 5 RETURNING 1")
        count(box, place, 6)
        box.drain_all(link)
    assert visits(hub) == 7


def test_boxes_that_met_the_same_row_add_up(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    for one, first in ((box, 3), (other, 4)):
        place = one.place("hall", visits=first, paid="0.10")
        count(one, place, 2)
    for one in (box, other):
        done = one.drain_all(link)
        assert [each.conflicts for each in done] == [0] * len(done)
    assert hub.ask("SELECT visits, paid FROM places") == [[11, Decimal("0.20")]]


def test_a_counter_that_was_not_given_changes_nothing(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    box.place("hall", visits=3)
    place = other.place("hall", note="met it too")
    box.drain(link)
    other.drain(link)
    assert visits(hub) == 3
    count(other, place)
    other.drain(link)
    assert visits(hub) == 4


def test_a_decimal_counter_adds_up_exactly(box: TestBox, hub: TestHub, link: Hub) -> None:
    box.place("hall", paid="0.00")
    box.drain(link)
    hub.ask("UPDATE places SET paid = paid + 0.10 RETURNING 1")
    for paid in ("0.10", "0.30", "1000000000.40"):
        box.write(f"UPDATE places SET paid = '{paid}'")
    box.drain_all(link)
    assert hub.one("SELECT paid FROM places") == Decimal("1000000000.50")


def test_a_batch_that_is_repeated_counts_once(box: TestBox, hub: TestHub, link: Hub) -> None:
    """The answer to COMMIT was lost; the hub's mark says that the batch is there."""
    place = box.place("hall", visits=0)
    count(box, place, 3)
    confirm = stream.confirm
    with pytest.MonkeyPatch.context() as patch:

        def lost(*_: object) -> None:
            raise ConnectionError

        patch.setattr("edgepaas.sync.delivery.reconcile.confirm", lost)
        with pytest.raises(ConnectionError):
            box.drain(link)
    assert stream.confirm is confirm
    count(box, place, 2)
    box.drain_all(link)
    assert visits(hub) == 5


def test_what_a_restored_hub_lost_is_added_again(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    """Its mark says that it lacks them, whatever others have counted there since."""
    place = box.place("hall", visits=1, note="first")
    box.drain(link)
    saved = hub.ask(f"SELECT mark, batch FROM sync_streams WHERE node_id = '{box.node}'")
    count(box, place, 4)
    box.write("UPDATE places SET visits = visits + 1, note = 'second'")
    box.drain_all(link)
    assert visits(hub) == 6
    mark, batch = saved[0]
    hub.ask(
        f"UPDATE sync_streams SET mark = {mark}, batch = '{batch}', rows = 1 "
        f"WHERE node_id = '{box.node}' RETURNING 1"
    )
    hub.ask("UPDATE places SET visits = 1, note = 'another box' RETURNING 1")
    other.place("hall", visits=10)
    other.drain(link)
    box.drain_all(link)
    assert visits(hub) == 16
    assert hub.one("SELECT note FROM places") == "another box", "which was changed since"
    assert [row[0] for row in hub.ask("SELECT box->>'note' FROM sync_conflicts")] == ["second"]


def test_a_row_that_was_lost_and_sent_by_another_box_is_counted_once(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    """The other box's copy holds the increments of all: those of this one are in doubt."""
    place = box.place("hall", visits=3)
    count(box, place, 2)
    box.drain_all(link)
    hub.ask(f"DELETE FROM sync_streams WHERE node_id = '{box.node}' RETURNING 1")
    hub.ask("DELETE FROM places RETURNING 1")
    other.place("hall", visits=5)
    other.drain(link)
    count(box, place)
    box.drain_all(link)
    assert visits(hub) == 6
    assert hub.one("SELECT count(*) FROM sync_conflicts") > 0, "the doubt is told"


def test_a_row_that_was_lost_with_its_increments_comes_back_with_them(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    place = box.place("hall", visits=3)
    count(box, place, 4)
    box.drain_all(link)
    hub.ask(f"DELETE FROM sync_streams WHERE node_id = '{box.node}' RETURNING 1")
    hub.ask("DELETE FROM places RETURNING 1")
    box.drain_all(link)
    assert visits(hub) == 7
    assert hub.one("SELECT count(*) FROM sync_conflicts") == 0


def test_what_a_cloned_file_sends_again_is_not_counted_twice(
    box: TestBox, hub: TestHub, link: Hub, tmp_path: Any
) -> None:
    """It is in doubt whether the hub has it: kept as a conflict where the value is another one."""
    place = box.place("hall", visits=1)
    box.drain(link)
    count(box, place, 2)
    clone = box.clone(tmp_path / "clone.db")
    try:
        box.drain_all(link)
        assert visits(hub) == 3
        count(clone, place)
        done = clone.drain_all(link)
    finally:
        clone.close()
    assert any(one.forked for one in done)
    assert visits(hub) == 4, "the third was new to the hub, and met the value that it expects"


def test_a_counter_beyond_its_type_is_one_dead_letter(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    place = box.place("hall", visits=1)
    box.drain(link)
    hub.ask(f"UPDATE places SET visits = {2**31 - 1} RETURNING 1")
    count(box, place)
    box.place(f"another {uuid.uuid4().hex[:8]}")
    done = box.drain_all(link)
    assert sum(one.dead for one in done) == 1
    assert hub.one("SELECT count(*) FROM places") == 2
