# SPDX-License-Identifier: Apache-2.0
"""Comparing the shared rows of the box with the hub's, as far as a difference says anything.

Other boxes change them, too: a row that differs may just have been changed. What the box and the
hub both had at the last pass of the mirror is on record
(edgepaas.outbox.resending.agreed_rows), and so is each change that was captured since. A row that
the hub has as it was agreed, and the box does not, and of which no change was captured, was
changed here past capture: PostgreSQL lacks it. Every other difference is the mirror's or the
outbox's work that is not done yet, and is only counted.

Each row is looked at in one snapshot of the file, and then of the hub; what does not add up is
looked at twice.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from edgepaas.outbox.layout import Layout
from edgepaas.outbox.reading import CHUNK_BYTES, exact_rows, key_text
from edgepaas.outbox.resending.agreed_rows import (
    Agreement,
    agreed_table,
    agreement,
    captured_since,
    same_key,
)
from edgepaas.outbox.tables import last_seq, quoted
from edgepaas.sync.audit.own_rows import CHUNK
from edgepaas.sync.audit.shared_tally import WRONG, SharedTally, Verdict
from edgepaas.sync.content.content import HubContent, NotComparable
from edgepaas.sync.content.shape import digest_and_shape
from edgepaas.sync.errors import HubError, HubUnreachable
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.hub.tombstones import deleted_keys

Key = tuple[Any, ...]
Row = tuple[Any, ...]


class Look(NamedTuple):
    """A row as the file has it; *row*: None where the file had it once, and has not.

    *agreed*: whether both sides had it, *known* its digest then; *captured*: whether the outbox
    has a change of it since.
    """

    key: Key
    row: Row | None
    known: int | None
    agreed: bool
    captured: bool


@dataclass(frozen=True)
class Wrong:
    """A row that does not add up."""

    layout: Layout
    key: Key
    row: Row | None
    verdict: Verdict


def verdict(look: Look, own: int | None, there: int | None, *, deleted: bool) -> Verdict:
    """Return what a row's digests on the box, *own*, and on the hub, *there*, mean.

    None: that side does not have it. *deleted*: the hub has a tombstone of it.
    """
    if own == there or look.captured:
        return "same" if own == there else "waiting"
    if there is None and not look.agreed and not deleted:
        return "unsent"
    if deleted or (look.known is not None and own == look.known):
        return "deleted_there" if there is None else "changed_there"
    if look.known is not None and there == look.known:
        return "undeleted" if own is None else "altered"
    return "undecided"


class SharedRows:
    """The shared rows of one file beside the hub's; changes nothing on either side."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        hub: Hub,
        content: HubContent,
        acknowledged: Mapping[str, frozenset[str]],
    ) -> None:
        """*content* compares whole rows; *acknowledged*: as read_acknowledged returns it."""
        self._connection = connection
        self._hub = hub
        self._content = content
        self._acknowledged = acknowledged
        #: By agreement the keys that were captured since, and up to which number they were read.
        self._captured: dict[Agreement, tuple[set[Key], int]] = {}

    def compare(self, layout: Layout, tally: SharedTally) -> Iterator[list[Wrong]]:
        """Compare the rows of *layout*'s table, a chunk at a time, and count them in *tally*.

        Gives for each chunk what does not add up, uncounted. Raises HubUnreachable,
        sqlite3.Error.
        """
        for here in (True, False):
            last: Key = ()
            while True:
                try:
                    shape = self._shape(layout)
                    looks = self._page(layout, shape, last, here=here)
                    if not looks:
                        break
                    last = looks[-1].key
                    yield self._judge(layout, shape, looks, tally)
                except HubUnreachable:
                    raise
                except (NotComparable, HubError) as error:
                    # What PostgreSQL answers to a comparison must not stop anything else.
                    tally.add_problem(f"the rows of {layout.table} cannot be compared: {error}")
                    return

    def _shape(self, layout: Layout) -> str:
        known = digest_and_shape(self._content, layout)
        if known is None:
            problems = self._content.table(layout).problems
            raise NotComparable("; ".join(problems) or "PostgreSQL has other columns")
        return known[1]

    def _judge(
        self, layout: Layout, shape: str, looks: Sequence[Look], tally: SharedTally
    ) -> list[Wrong]:
        found = self._verdicts(layout, looks)
        wrong = {look.key: one for look, one in zip(looks, found, strict=True) if one in WRONG}
        if wrong:
            # Rows may have been written, sent or mirrored meanwhile.
            again = self._of_keys(layout, shape, list(wrong))
            wrong = {
                look.key: one
                for look, one in zip(again, self._verdicts(layout, again), strict=True)
                if wrong.get(look.key) == one
            }
        unjudged = self._agreement(layout, shape) is None
        known = self._acknowledged.get(layout.table, frozenset())
        left = []
        for look, one in zip(looks, found, strict=True):
            if look.row is None and one == "same":
                continue  # deleted on both sides
            tally.checked += 1
            if one not in WRONG:
                tally.count(one)
                if one == "undecided" and unjudged:
                    tally.add_unjudged(layout.table)
            elif look.key not in wrong:
                tally.count("waiting")
            elif key_text(look.key) in known:
                tally.acknowledged += 1
            else:
                left.append(Wrong(layout, look.key, look.row, one))
        return left

    def _verdicts(self, layout: Layout, looks: Sequence[Look]) -> list[Verdict]:
        rows = [_whole(layout, look) for look in looks]
        if not rows:
            return []
        own, there = self._content.digests(layout, rows)
        if there is None:
            return ["same"] * len(looks)
        missing = [look.key for number, look in enumerate(looks) if not there.get(number)]
        deleted = deleted_keys(self._hub, layout.table, missing) if missing else set()
        found: list[Verdict] = []
        for number, look in enumerate(looks):
            digests: Sequence[int | None] = there.get(number) or (None,)
            if len(digests) > 1:
                found.append("doubled")
                continue
            mine = None if look.row is None else own[number]
            if look.row is not None and mine is None:
                found.append("undecided")  # a value that no hub can have
                continue
            found.append(verdict(look, mine, digests[0], deleted=look.key in deleted))
        return found

    def _captured_since(self, known: Agreement) -> set[Key]:
        keys, after = self._captured.get(known, (set(), 0))
        last = last_seq(self._connection)
        keys |= captured_since(self._connection, known, after=after)
        self._captured[known] = keys, last
        return keys

    def _agreement(self, layout: Layout, shape: str) -> Agreement | None:
        return agreement(self._connection, layout, shape)

    def _page(self, layout: Layout, shape: str, after: Key, *, here: bool) -> list[Look]:
        """Return the next rows after the key *after*; *here*: of the table, else those it lacks."""
        names = layout.key if here else tuple(f"k{n}" for n in range(len(layout.key)))
        key = ", ".join(f"{'t' if here else 'a'}.{quoted(name)} COLLATE BINARY" for name in names)
        marks = ", ".join("?" * len(names))
        where = f"({key}) > ({marks})" if after else "1"
        return self._read(layout, shape, f"{where} ORDER BY {key} LIMIT {CHUNK}", after, here=here)

    def _of_keys(self, layout: Layout, shape: str, keys: Sequence[Key]) -> list[Look]:
        found = []
        for here, alias in ((True, "t"), (False, "a")):
            names = layout.key if here else tuple(f"k{n}" for n in range(len(layout.key)))
            where = " AND ".join(f"{alias}.{quoted(name)} = ?" for name in names)
            with _snapshot(self._connection):
                for key in keys:
                    found += self._read(layout, shape, where, key, here=here)
        return found

    def _read(
        self, layout: Layout, shape: str, where: str, parameters: Key, *, here: bool
    ) -> list[Look]:
        with _snapshot(self._connection):
            known = self._agreement(layout, shape)
            if known is None and not here:
                return []
            captured = set() if known is None else self._captured_since(known)
            agreed = agreed_table(layout.table)
            table = quoted(layout.table)
            if here:
                names = ", ".join(f"t.{quoted(name)}" for name in layout.names)
                join = f"LEFT JOIN {agreed} a ON {same_key(layout, 't')}"
                selected = (
                    f"{names}, {'NULL, 1' if known is None else 'a.digest, a.k0 IS NOT NULL'}"
                )
                source = f"{table} t {'' if known is None else join} WHERE {where}"
            else:
                selected = ", ".join(f"a.k{number}" for number in range(len(layout.key)))
                selected += ", a.digest, 1"
                source = (
                    f"{agreed} a WHERE NOT EXISTS (SELECT 1 FROM {table} t "  # noqa: S608
                    f"WHERE {same_key(layout, 't')}) AND {where}"
                )
            rows = exact_rows(
                self._connection,
                f"SELECT {selected} FROM {source}",  # noqa: S608
                parameters,
                CHUNK_BYTES,
            )
        return [_look(layout, row, captured, here=here) for row in rows]


def _look(layout: Layout, row: Row, captured: set[Key], *, here: bool) -> Look:
    *values, known, agreed = row
    key = tuple(values[n] for n in layout.key_positions) if here else tuple(values)
    return Look(key, tuple(values) if here else None, known, agreed == 1, key in captured)


def _whole(layout: Layout, look: Look) -> Row:
    """Return the row, or one that has the key alone."""
    if look.row is not None:
        return look.row
    parts = dict(zip(layout.key_positions, look.key, strict=True))
    return tuple(parts.get(position) for position in range(len(layout.columns)))


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Read all of the block at one moment; inside another such block it is that one's."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
