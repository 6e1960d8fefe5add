# SPDX-License-Identifier: Apache-2.0
"""What the leaves of an SQLite file hold of an outbox, whatever leads to them."""

import contextlib
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from edgepaas.database.reserved_names import OUTBOX
from edgepaas.outbox import tables
from edgepaas.outbox.salvage.page_file import PageFile, Values

logger = logging.getLogger("edgepaas.outbox")

Kind = Literal["outbox", "layout", "state", "sequence"]

#: How many cells are looked at before a page counts as none of ours.
_MOST_FOREIGN_CELLS: Final = 3
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OPS: Final = ("I", "U", "D", "G")


def recovered_records(
    path: Path, *, until: float, only_replaced: bool = False
) -> Iterator[tuple[Kind, int, Values]]:
    """Give each row in the file that has the form of the outbox's: of which table, its number.

    Free pages are read as well: a row may come twice, or have been sent long ago. Ends when
    ``time.monotonic()`` is *until*. *only_replaced*: only what the -wal holds. Raises OSError
    where the file cannot be opened.
    """
    with contextlib.closing(PageFile(path)) as file:
        for number in file.replaced if only_replaced else range(1, file.pages + 1):
            if time.monotonic() > until:
                logger.warning("%s was not read to its end in time", path)
                return
            try:
                yield from _of_one_page(file.leaf(number))
            except OSError as error:  # a bad sector
                logger.warning("page %d of %s: %s", number, path, error)


def wal_is_damaged(path: Path) -> bool:
    """Whether frames of the -wal cannot be parts any more; raises OSError."""
    with contextlib.closing(PageFile(path)) as file:
        return file.damaged_wal


def _of_one_page(cells: Iterator[tuple[int, Values]]) -> Iterator[tuple[Kind, int, Values]]:
    foreign = 0
    for row, values in cells:
        kind = _kind(row, values)
        if kind is not None:
            yield kind, row, values
        else:
            foreign += 1
            if foreign == _MOST_FOREIGN_CELLS:
                return  # a page holds the rows of one table


def _kind(row: int, values: Values) -> Kind | None:
    count = len(values)
    if count == 2:
        return "sequence" if values[0] == OUTBOX and isinstance(values[1], int) else None
    # The number of a row stands beside its record, whose first column is empty then.
    if count < 4 or values[0] is not None or row < 1:
        return None
    if isinstance(values[1], int) and values[2] in _OPS and values[3] in (0, 1):
        return "outbox"
    if count == 4:
        words = all(isinstance(value, str) for value in values[1:])
        return "layout" if words and values[3].startswith("{") else None
    # Columns as outbox.tables makes them: version, capture, node_id, stream_id, confirmed_seq.
    # A release may add some behind them, so that a newer one's is known for what it is.
    words = count > 8 and isinstance(values[4], str) and isinstance(values[5], str)
    ours = words and row == 1 and values[2] in (0, 1) and isinstance(values[8], int)
    version = values[1]
    if not ours or not isinstance(version, int):
        return None
    known = 0 <= version <= tables.VERSION
    return "state" if known or _is_uuid(values[5]) else None


def _is_uuid(text: object) -> bool:
    return isinstance(text, str) and _UUID.fullmatch(text) is not None
