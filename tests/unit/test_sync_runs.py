# SPDX-License-Identifier: Apache-2.0
"""Which changes are applied together, and what two marks say of each other."""

from dataclasses import replace
from typing import Any

import pytest

from edgepaas.outbox.layout import Column, Layout
from edgepaas.outbox.reading import Change
from edgepaas.outbox.stream import Stream
from edgepaas.sync.delivery.marks import StreamComparison, compare_marks
from edgepaas.sync.delivery.runs import runs_of
from edgepaas.sync.hub.catalog import HubTable


def layout(number: int, table: str) -> Layout:
    columns = tuple(Column(name, "text", "TEXT", True) for name in ("id", "a", "b"))
    return Layout(number, table, "shared", columns, ("id",), "1")


PARENT, CHILD, FACT = layout(1, "parent"), layout(2, "child"), layout(3, "fact")
TABLES = {
    "parent": HubTable("parent", {}),
    "child": HubTable("child", {}, parents=frozenset({"parent"})),
    "fact": HubTable("fact", {}),
}


def changes(*words: str) -> list[Change]:
    """Make changes of words like ``insert parent 1``."""
    made = []
    tables = {"parent": PARENT, "child": CHILD, "fact": FACT}
    for seq, word in enumerate(words, 1):
        op, table, key = word.split()
        row: tuple[Any, ...] = (key, "x", "y")
        new = None if op == "delete" else ((key, "z", "y") if op == "update" else row)
        old = None if op == "insert" else row
        made.append(Change(seq, seq, tables[table], op, new, old, False))  # type: ignore[arg-type]
    return made


def runs(*words: str) -> list[tuple[str, str, list[int]]]:
    return [
        (run.op, run.layout.table, [change.seq for change in run.changes])
        for run in runs_of(changes(*words), TABLES)
    ]


def test_unrelated_tables_each_make_one_run() -> None:
    words = ["insert parent 1", "insert fact 1", "insert parent 2", "insert fact 2"]
    assert runs(*words) == [("insert", "parent", [1, 3]), ("insert", "fact", [2, 4])]


def test_parents_and_children_by_turns_make_two_runs() -> None:
    words = ["insert parent 1", "insert child 1", "insert parent 2", "insert child 2"]
    assert runs(*words) == [("insert", "parent", [1, 3]), ("insert", "child", [2, 4])]


def test_a_child_is_never_inserted_before_its_parent() -> None:
    words = ["insert child 1", "insert parent 2", "insert child 2"]
    assert [run[2] for run in runs(*words)] == [[1], [2], [3]]


def test_a_parent_is_never_deleted_before_its_child() -> None:
    words = ["delete parent 1", "delete child 2", "delete parent 2"]
    assert [run[2] for run in runs(*words)] == [[1], [2], [3]]


def test_the_changes_of_one_row_stay_in_order() -> None:
    words = ["insert fact 1", "update fact 1", "insert fact 2", "delete fact 1", "insert fact 1"]
    assert [run[2] for run in runs(*words)] == [[1], [2], [3], [4], [5]]
    assert [run[2] for run in runs("update fact 1", "update fact 1")] == [[1], [2]]


IN_STEP = Stream("n", "s", "", 0, 10, "b1", "", 0, 20)
SENDING = replace(IN_STEP, inflight_batch="b2", inflight_seq=15)


@pytest.mark.parametrize(
    ("stream", "mark", "batch", "verdict"),
    [
        (IN_STEP, 10, "b1", StreamComparison.IN_STEP),
        (replace(IN_STEP, confirmed_seq=0, confirmed_batch=""), 0, "", StreamComparison.IN_STEP),
        (SENDING, 10, "b1", StreamComparison.IN_STEP),
        (SENDING, 15, "b2", StreamComparison.COMMITTED),
        (SENDING, 15, "b3", StreamComparison.FORKED),
        (SENDING, 30, "b9", StreamComparison.FORKED),
        (IN_STEP, 12, "b2", StreamComparison.FORKED),
        (IN_STEP, 10, "b9", StreamComparison.FORKED),
        (IN_STEP, 4, "b0", StreamComparison.HUB_BEHIND),
        (IN_STEP, 0, "", StreamComparison.HUB_BEHIND),
        (SENDING, 0, "", StreamComparison.HUB_BEHIND),
    ],
)
def test_the_marks_tell_what_happened(
    stream: Stream, mark: int, batch: str, verdict: StreamComparison
) -> None:
    assert compare_marks(stream, mark, batch) is verdict
