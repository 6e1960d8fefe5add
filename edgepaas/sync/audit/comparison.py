# SPDX-License-Identifier: Apache-2.0
"""Comparing the content of all facts that the box holds with the hub's, in one go."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from edgepaas.outbox.journal.access import JournalUnreadable
from edgepaas.outbox.reading import key_text
from edgepaas.sync.audit.content import HubContent, revisions_of
from edgepaas.sync.audit.journal_rows import JournalRows
from edgepaas.sync.audit.own_rows import OwnRows, fact_layouts
from edgepaas.sync.audit.tally import Tally, judge
from edgepaas.sync.hub.connection import Hub


@dataclass
class Comparison:
    """What was counted.

    ``unexplained``: by table the keys of the rows that nothing explains, as text; ``complete``:
    every row on the box was looked at.
    """

    tally: Tally = field(default_factory=Tally)
    unexplained: dict[str, list[str]] = field(default_factory=dict)
    complete: bool = True


def compare_content(
    connection: sqlite3.Connection,
    hub: Hub,
    models: Mapping[str, Any],
    acknowledged: Mapping[str, frozenset[str]],
    *,
    most: int | None,
    journal: Path | None = None,
) -> Comparison:
    """Compare the facts in the file with the *hub*'s, of each table the latest *most* rows.

    None: all of them. *journal*: of what was written while PostgreSQL served. *models*: ``tables``
    of tables.json; *acknowledged*: as read_acknowledged returns it. Changes nothing. Raises
    HubError, LockHeld, OSError, sqlite3.Error.
    """
    found = Comparison()
    content = HubContent(hub, models, revisions_of(connection))
    rows = OwnRows(connection, None if journal is None else JournalRows(journal))
    with closing(rows) as own:
        try:
            found.complete = most is None or not own.has_more_than(most)
        except JournalUnreadable:
            found.complete = False
        for chunks in (
            *(
                chain(own.of_table(layout, most=most), own.gone_from_table(layout, most=most))
                for layout in fact_layouts(connection)
            ),
            own.of_journal(most=most),
        ):
            looked_at = 0
            try:
                for chunk in chunks:
                    unexplained = judge(own, content, chunk, found.tally, acknowledged)
                    found.tally.add_unexplained(unexplained)
                    looked_at += len(chunk.rows)
                    keys = found.unexplained.setdefault(chunk.layout.table, [])
                    keys += [key_text(one.key) for one in unexplained]
            except JournalUnreadable as error:
                found.tally.add_problem(f"what the journal has is not compared: {error}")
                found.complete = False
            if most is not None and looked_at >= most:
                found.complete = False
    return found
