# SPDX-License-Identifier: Apache-2.0
"""Grouping changes into runs, each of which one statement can apply."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgepaas.outbox.layout import Layout
from edgepaas.outbox.reading import Change, Op
from edgepaas.sync.hub.catalog import HubTable

RowKey = tuple[Any, ...]


@dataclass
class Run:
    """Changes of one kind to one table, in order; at most one for each row."""

    layout: Layout
    op: Op
    resent: bool
    #: Sent again, and lacking on the hub for sure.
    missing: bool = False
    #: The positions that an update changes; empty for everything else.
    changed: tuple[int, ...] = ()
    changes: list[Change] = field(default_factory=list)
    keys: set[RowKey] = field(default_factory=set)

    def accepts(self, change: Change, changed: tuple[int, ...]) -> bool:
        """Whether *change* is of the kind of this run."""
        return (
            change.op == self.op
            and change.layout is self.layout
            and change.resent == self.resent
            and change.missing == self.missing
            and changed == self.changed
        )


def own_table(layout: Layout) -> str:
    """Return the name that the box had for the table of *layout*."""
    return layout.table


def runs_of(
    changes: Iterable[Change],
    tables: Mapping[str, HubTable],
    hub_table: Callable[[Layout], str] = own_table,
) -> list[Run]:
    """Return *changes* as runs that have the same effect when applied one after the other.

    *tables* are the hub's, and *hub_table* says what the table of a layout is called there.

    The changes of one row stay in order, and so do those of tables with a foreign key between
    them, with one exception: a parent may be inserted earlier, before other parents' children.
    """
    runs: list[Run] = []
    latest: dict[str, int] = {}
    positions: dict[int, tuple[int, ...]] = {}
    for change in changes:
        layout = change.layout
        found = positions.get(id(layout))
        if found is None:
            found = positions[id(layout)] = layout.key_positions
        row = change.old if change.new is None else change.new
        key = tuple([row[position] for position in found]) if row is not None else ()
        changed = change.changed if change.op == "update" else ()
        table = hub_table(layout)
        index = latest.get(table)
        if index is not None:
            run = runs[index]
            if (
                run.accepts(change, changed)
                and (key not in run.keys or change.op == "gap")
                and _may_precede(change, table, runs[index + 1 :], tables, hub_table)
            ):
                run.changes.append(change)
                run.keys.add(key)
                continue
        latest[table] = len(runs)
        runs.append(Run(layout, change.op, change.resent, change.missing, changed, [change], {key}))
    return runs


def _may_precede(
    change: Change,
    table: str,
    later: Sequence[Run],
    tables: Mapping[str, HubTable],
    hub_table: Callable[[Layout], str],
) -> bool:
    """Whether *change*, of *table*, may be applied before the runs *later*, of other tables."""
    for run in later:
        other = hub_table(run.layout)
        is_child = table in tables and other in tables[table].parents
        is_parent = other in tables and table in tables[other].parents
        inserts = change.op == run.op == "insert"
        if is_child or (is_parent and not inserts):
            return False
    return True
