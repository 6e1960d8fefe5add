# SPDX-License-Identifier: Apache-2.0
"""Changes that are put among the rows that wait: each at its place, and all numbers add up."""

import json
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepaas.outbox import ledger, sequence_gaps, stream, tables
from edgepaas.outbox.layout import stored_layouts
from edgepaas.outbox.resending.insertion import (
    Change,
    Shifts,
    Transaction,
    insert_among_waiting,
)
from edgepaas.outbox.space.retention import reclaim
from edgepaas.outbox.stream import Counts
from tests.support.outbox import captured_file, changes


def facts_layout(file: sqlite3.Connection) -> int:
    """Return the id of the layout of the facts."""
    return next(i for i, layout in stored_layouts(file).items() if layout.table == "facts")


def put(file: sqlite3.Connection, *transactions: tuple[int, Sequence[str]]) -> int:
    """Put facts of these names after these numbers."""
    layout = facts_layout(file)
    found = [
        Transaction(after, [Change(layout, "I", (name, None, None, None, "x")) for name in names])
        for after, names in transactions
    ]
    return insert_among_waiting(file, lambda: iter(found))


def write(file: sqlite3.Connection, *names: str) -> None:
    """Write facts of these names in one transaction, as the box's writer does."""
    file.execute("BEGIN IMMEDIATE")
    before = tables.last_seq(file)
    file.executemany("INSERT INTO facts (id, text) VALUES (?, 'x')", [(name,) for name in names])
    if len(names) > 1:
        file.execute(
            "INSERT INTO outbox_transactions VALUES (?, ?)", (before + 1, before + len(names))
        )
    file.execute("COMMIT")


def shed(file: sqlite3.Connection, first: int, last: int) -> None:
    """Give rows up as the budget does."""
    file.execute("BEGIN IMMEDIATE")
    file.execute("DELETE FROM outbox WHERE seq BETWEEN ? AND ?", (first, last))
    gap = {"table": "facts", "rows": last - first + 1, "ranges": [[first, last]]}
    file.execute("INSERT INTO outbox (layout, op, v0) VALUES (0, 'G', ?)", (json.dumps(gap),))
    ledger.add(file, "shed", last - first + 1)
    file.execute("COMMIT")


def adds_up(file: sqlite3.Connection) -> None:
    """Check that each accepted row is in one place, and that no number is unexplained."""
    found = ledger.read(file)
    assert found["accepted"] == (
        found["delivered"] + found["dead"] + found["shed"] + found["pending"]
    ), found
    confirmed = stream.read_stream(file)
    assert confirmed is not None
    last = tables.last_seq(file)
    assert list(sequence_gaps.unexplained(file, confirmed.confirmed_seq + 1, last)) == []


def waiting(file: sqlite3.Connection) -> list[tuple[int, str, int, bool]]:
    """Return number, name, source transaction and whether it is resent, of what waits."""
    found = stream.read_stream(file)
    assert found is not None
    return [
        (one.seq, one.key_text, one.transaction, one.resent)
        for one in changes(file, found.confirmed_seq)
        if one.op != "gap"
    ]


def test_what_is_put_among_the_waiting_comes_at_its_place(tmp_path: Path) -> None:
    with captured_file(tmp_path / "box.db") as file:
        write(file, "a", "b")
        stream.confirm(file, "b1", 2, Counts(2))
        write(file, "c", "d", "e")
        write(file, "f")
        assert put(file, (1, ["x"]), (4, ["y", "z"]), (6, ["w"])) == 4
        assert waiting(file) == [
            (3, "x", 3, True),
            (4, "c", 4, False),
            (5, "d", 4, False),
            (6, "e", 4, False),
            (7, "y", 7, True),
            (8, "z", 7, True),
            (9, "f", 9, False),
            (10, "w", 10, True),
        ]
        adds_up(file)
        write(file, "g")
        assert waiting(file)[-1] == (11, "g", 11, False)
        adds_up(file)


def test_an_outbox_without_a_row_takes_them_as_well(tmp_path: Path) -> None:
    with captured_file(tmp_path / "box.db") as file:
        assert put(file) == 0
        assert put(file, (0, ["a"]), (0, ["b"])) == 2
        assert [row[:2] for row in waiting(file)] == [(1, "a"), (2, "b")]
        adds_up(file)
        write(file, "c")
        assert waiting(file)[-1][:2] == (3, "c")


def test_what_retention_took_stays_below(tmp_path: Path) -> None:
    """After a rewind behind it: the numbers that nobody has keep their explanation."""
    with captured_file(tmp_path / "box.db") as file:
        write(file, "a", "b", "c")
        stream.confirm(file, "b1", 3, Counts(3))
        assert reclaim(file, older_than=-1).rows == 3
        write(file, "d")
        stream.confirm(file, "b2", 4, Counts(1))
        assert stream.rewind(file, 1, "b0") == 2
        assert put(file, (2, ["x"]), (9, ["y"])) == 2
        assert [row[:2] for row in waiting(file)] == [(4, "x"), (5, "d"), (6, "y")]
        adds_up(file)
        assert reclaim(file, older_than=-1).rows == 0


def test_a_text_that_is_no_utf_8_keeps_its_bytes(tmp_path: Path) -> None:
    with captured_file(tmp_path / "box.db") as file:
        put(file, (0, ["\udcff\u00e9"]))
        assert file.execute("SELECT hex(v0), typeof(v0) FROM outbox").fetchone() == (
            "FFC3A9",
            "text",
        )


@pytest.mark.parametrize(
    ("first", "last", "parts"),
    [
        (1, 5, [(1, 5)]),
        (6, 9, [(8, 11)]),
        (4, 7, [(4, 5), (8, 9)]),
        (5, 12, [(5, 5), (8, 12), (14, 15)]),
    ],
)
def test_ranges_of_numbers_are_cut_where_something_is_put(
    first: int, last: int, parts: list[tuple[int, int]]
) -> None:
    """Two changes after 5, one after 10."""
    assert list(Shifts.of({5: 2, 10: 1}).split(first, last)) == parts


@given(
    written=st.lists(st.integers(1, 4), max_size=8),
    confirmed=st.integers(0, 8),
    given_up=st.lists(st.integers(0, 30), max_size=2),
    inserted=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=6),
)
def test_any_mixture_keeps_its_order_and_its_transactions(
    written: list[int], confirmed: int, given_up: list[int], inserted: list[tuple[int, int]]
) -> None:
    """Against a model that is a plain list."""
    with (
        tempfile.TemporaryDirectory() as folder,
        captured_file(Path(folder) / "box.db") as file,
    ):
        ends = [0]
        for number, size in enumerate(written):
            write(file, *(f"w{number}.{n}" for n in range(size)))
            ends.append(ends[-1] + size)
        mark = ends[min(confirmed, len(written))]
        if mark:
            stream.confirm(file, "b", mark, Counts(mark))
        for number in given_up:
            there = file.execute("SELECT 1 FROM outbox WHERE seq = ? AND op = 'I'", (number,))
            if number > mark and there.fetchone():
                shed(file, number, number)
        last = tables.last_seq(file)
        model: list[tuple[float, int, str]] = [(seq, 0, name) for seq, name, _, _ in waiting(file)]
        place = mark
        for number, (after, size) in enumerate(inserted):
            place = max(place, after)
            ending = next((end for end in ends if end >= place), place)
            place = ending if place < ends[-1] else place
            model += [(place + 0.5, number + 1, f"i{number}.{n}") for n in range(size)]
        put(file, *(
            (after, [f"i{number}.{n}" for n in range(size)])
            for number, (after, size) in enumerate(inserted)
        ))  # fmt: skip
        found = waiting(file)
        assert [name for _, name, _, _ in found] == [
            name for _, _, name in sorted(model, key=lambda one: one[:2])
        ]
        assert tables.last_seq(file) == last + sum(size for _, size in inserted)
        groups: dict[str, set[int]] = {}
        for _, name, transaction, resent in found:
            assert resent == name.startswith("i")
            groups.setdefault(name.split(".")[0], set()).add(transaction)
        assert all(len(of_one) == 1 for of_one in groups.values())
        adds_up(file)
