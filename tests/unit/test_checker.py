# SPDX-License-Identifier: Apache-2.0
"""The checker complains of every kind of broken promise, and of none where all is well."""

import pytest

from tests.support.checker import Arrival, Fact, Found, check
from tests.support.history import History, Kind, Outcome


def history(*outcomes: Outcome) -> History:
    """One fact after another for the key a, numbered from 1, with these outcomes."""
    past = History()
    for number, outcome in enumerate(outcomes, 1):
        past.end(past.begin("fact", "a", number, f"id-{number}"), outcome)
    return past


def facts(*numbers: int) -> list[Fact]:
    """Facts of the key a as they were sent."""
    return [Fact(f"id-{number}", "a", number) for number in numbers]


def arrivals(*groups: list[int], kind: str = "fact") -> list[Arrival]:
    """Arrivals of the key a, one transaction a list."""
    return [Arrival(tx, kind, "a", n) for tx, group in enumerate(groups) for n in group]


def kinds(past: History, found: Found, **expected: int) -> list[str]:
    """The kinds of complaints."""
    return sorted({complaint.kind for complaint in check(past, found, **expected)})


def test_a_good_history_is_not_complained_of() -> None:
    found = Found(facts(1, 2, 3), arrivals=arrivals([1], [3, 2]))
    assert check(history("acknowledged", "acknowledged", "acknowledged"), found) == []


@pytest.mark.parametrize("there", [(1,), (1, 2)])
def test_a_write_whose_outcome_is_unknown_may_be_there_or_not(there: tuple[int, ...]) -> None:
    assert check(history("acknowledged", "unknown"), Found(facts(*there))) == []


@pytest.mark.parametrize(
    ("outcomes", "found", "complaint"),
    [
        (("acknowledged",), Found(), "lost"),
        (("refused",), Found(facts(1)), "foreign"),
        (("acknowledged",), Found(facts(1, 7)), "foreign"),
        (("acknowledged",), Found([Fact("id-9", "a", 1)]), "foreign"),
        (("acknowledged",), Found(facts(1, 1)), "doubled"),
        (("acknowledged",), Found(facts(1), arrivals=arrivals([1], [1])), "doubled"),
        (
            ("acknowledged", "acknowledged"),
            Found(facts(1, 2), arrivals=arrivals([2], [1])),
            "reordered",
        ),
        (("acknowledged",), Found(facts(1), conflicts=1), "invented"),
        (("acknowledged",), Found(facts(1), dead_letters=2), "invented"),
        (("acknowledged",), Found(facts(1), streams=2), "forked"),
    ],
)
def test_each_broken_promise_about_facts_is_named(
    outcomes: tuple[Outcome, ...], found: Found, complaint: str
) -> None:
    assert kinds(history(*outcomes), found) == [complaint]


def test_conflicts_that_are_right_are_no_complaint() -> None:
    assert check(history("acknowledged"), Found(facts(1), conflicts=2), conflicts=2) == []
    assert check(history("acknowledged"), Found(facts(1), conflicts=2), conflicts=None) == []


def test_the_order_of_keys_that_are_not_the_same_is_free() -> None:
    past = history("acknowledged")
    past.end(past.begin("fact", "b", 2, "id-b"), "acknowledged")
    seen = [Arrival(1, "fact", "b", 2), Arrival(2, "fact", "a", 1)]
    assert check(past, Found([*facts(1), Fact("id-b", "b", 2)], arrivals=seen)) == []


def test_a_transaction_that_arrives_in_pieces_is_torn() -> None:
    past = History()
    with past.writing("fact", "a", 1, 2, ids=["id-1", "id-2"]):
        pass
    assert kinds(past, Found(facts(1, 2), arrivals=arrivals([1, 2]))) == []
    assert kinds(past, Found(facts(1, 2), arrivals=arrivals([1], [2]))) == ["torn"]


def shared(*steps: tuple[int | None, Outcome]) -> History:
    """One shared row a, set to numbers or deleted (None)."""
    past = History()
    for number, outcome in steps:
        kind: Kind = "delete" if number is None else "set"
        past.end(past.begin(kind, "a", number or 0), outcome)
    return past


@pytest.mark.parametrize(
    ("steps", "final", "complaints"),
    [
        ([(1, "acknowledged"), (2, "acknowledged")], 2, []),
        ([(1, "acknowledged"), (2, "acknowledged")], 1, ["stale"]),
        ([(1, "acknowledged"), (2, "unknown")], 1, []),
        ([(1, "acknowledged"), (2, "unknown")], 2, []),
        ([(1, "acknowledged"), (2, "refused")], 2, ["stale"]),
        ([(1, "unknown"), (2, "acknowledged")], 1, ["stale"]),
        ([(1, "acknowledged")], None, ["lost"]),
        ([(1, "acknowledged"), (None, "acknowledged")], 1, ["undead"]),
        ([(1, "acknowledged"), (None, "acknowledged")], None, []),
        ([(None, "acknowledged"), (3, "acknowledged")], 3, []),
    ],
)
def test_a_shared_row_ends_as_its_last_acknowledged_write_left_it(
    steps: list[tuple[int | None, Outcome]], final: int | None, complaints: list[str]
) -> None:
    found = Found(shared={} if final is None else {"a": final})
    assert kinds(shared(*steps), found) == complaints


def test_a_shared_row_that_goes_back_and_forth_is_complained_of() -> None:
    """The mark forgotten: 1, 2, and both once more. The final value hides it."""
    past = shared((1, "acknowledged"), (2, "acknowledged"))
    found = Found(shared={"a": 2}, arrivals=arrivals([1], [2], [1], [2], kind="set"))
    assert kinds(past, found) == ["doubled"]


def test_a_shared_row_that_nobody_wrote_is_foreign() -> None:
    assert kinds(History(), Found(shared={"b": 1})) == ["foreign"]


def test_a_write_in_a_block_that_raises_is_unknown() -> None:
    past = History()
    with pytest.raises(OSError, match="cut"), past.writing("fact", "a", 1):
        raise OSError("cut")
    with past.writing("fact", "a", 2):
        pass
    assert [write.outcome for write in past.writes()] == ["unknown", "acknowledged"]
    assert past.count("unknown") == 1
