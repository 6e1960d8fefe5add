# SPDX-License-Identifier: Apache-2.0
"""What is missing on a hub that went back in time, and what only looks as if it were."""

import random

from hypothesis import given
from hypothesis import strategies as st

from edgepaas.marks.comparison import NOTHING, Known, Loss, Mark, find_losses


def known(sum_mark: Mark = NOTHING, joining: str = "", **streams: Mark) -> Known:
    return Known(streams, "sum" if sum_mark else "", sum_mark, frozenset(joining.split()))


def test_a_hub_that_has_all_or_more_has_lost_nothing() -> None:
    """More: a transaction whose COMMIT was not answered, or one since the box was read."""
    box = known(Mark(7, 70), a=Mark(3, 5), b=NOTHING)
    assert find_losses(box, {"sum": Mark(7, 70), "a": Mark(3, 5)}, {}) == {}
    assert find_losses(box, {"sum": Mark(7, 70), "a": Mark(4, 9), "b": Mark(1, 1)}, {}) == {}


def test_what_the_hub_lacks_is_counted_stream_by_stream() -> None:
    found = find_losses(
        known(Mark(7, 70), a=Mark(3, 5), b=Mark(2, 2), c=Mark(9, 9)),
        {"sum": Mark(5, 50), "a": Mark(1, 2), "c": Mark(10, 11)},
        {},
    )
    assert {name: loss.lost for name, loss in found.items()} == {
        "sum": Mark(2, 20), "a": Mark(2, 3), "b": Mark(2, 2),
    }  # fmt: skip


def test_what_is_being_joined_is_in_one_place_or_in_the_other() -> None:
    """The answer to the statement that joins them may be lost, too."""
    box = known(Mark(7, 70), joining="a b", a=Mark(3, 5), b=Mark(2, 2), c=Mark(1, 1))
    before = {"sum": Mark(7, 70), "a": Mark(3, 5), "b": Mark(2, 2), "c": Mark(1, 1)}
    after = {"sum": Mark(12, 77), "c": Mark(1, 1)}
    assert find_losses(box, before, {}) == find_losses(box, after, {}) == {}
    assert find_losses(box, {"sum": Mark(7, 70), "c": Mark(1, 1)}, {}).keys() == {"a", "b"}


def test_streams_that_a_backup_brings_back_are_not_missing() -> None:
    """They were joined to the sum, which lacks them in the backup."""
    found = find_losses(known(Mark(9, 90)), {"sum": Mark(4, 40)}, {"old": Mark(3, 30)})
    assert found["sum"].lost == Mark(2, 20)


def test_the_same_loss_found_twice_counts_once_and_a_further_one_is_added() -> None:
    found = Loss(Mark(9, 90), Mark(5, 50))
    assert found.joined(Loss(Mark(8, 80), Mark(5, 50))).lost == Mark(4, 40)
    assert found.joined(Loss(Mark(5, 50), Mark(2, 20))).lost == Mark(7, 70)


@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_the_number_is_that_of_a_record_kept_beside(chance: random.Random, steps: int) -> None:
    """Any history of streams that write, end and are joined, set back to any moment of it."""
    rows: list[tuple[int, str]] = []  # (moment, stream) of each acknowledged row
    streams: dict[str, Mark] = {"s0": NOTHING}
    total = NOTHING
    histories: list[dict[str, Mark]] = [{}]
    for moment in range(1, steps + 1):
        name = chance.choice(sorted(streams))
        action = chance.random()
        if action < 0.7 or not streams[name].transactions:
            count = chance.randint(1, 4)
            streams[name] = streams[name].plus(Mark(1, count))
            rows += [(moment, name)] * count
        elif action < 0.85:
            total = total.plus(streams.pop(name))
            streams.setdefault(f"s{moment}", NOTHING)
        else:
            streams[f"s{moment}"] = NOTHING
        there = {one: mark for one, mark in streams.items() if mark.transactions}
        histories.append(there | ({"sum": total} if total.transactions else {}))
    kept = chance.randrange(steps + 1)
    hub = histories[kept]
    box = Known(dict(streams), "sum", total)
    unknown = {one: mark for one, mark in hub.items() if one not in streams and one != "sum"}
    lost = sum(loss.lost.rows for loss in find_losses(box, hub, unknown).values())
    assert lost == sum(moment > kept for moment, _ in rows)
