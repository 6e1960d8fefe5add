# SPDX-License-Identifier: Apache-2.0
"""The kinds of column that are forwarded: the one table of what each side has to know.

To forward another column type, in this order:

1. :mod:`edgepaas.database.types`: the SQLAlchemy type, if SQLAlchemy's own does not hold the
   same value on SQLite and on PostgreSQL. It decides how SQLite stores a value.
2. :class:`ColumnKind` here, and ``_NAMES``: by which name of PostgreSQL the kind is known.
3. :mod:`edgepaas.database.exact_columns`: nothing, unless values of the type or of a related
   one of SQLAlchemy's change on the way. Such a type is listed there and refused when the model
   is declared, with what to use instead; take it off the list when step 1 makes it exact.
4. :mod:`edgepaas.database.postgresql.json_values`: how a value travels in the statement of
   :mod:`edgepaas.database.bulk_insert` that inserts many rows on PostgreSQL, if what a driver is
   given of it is of a Python type that has no form there yet.
5. :mod:`edgepaas.outbox`: nothing. Triggers copy values as SQLite has them, by storage class.
6. :mod:`edgepaas.sync.delivery.values`: how a value of SQLite becomes PostgreSQL's input, if
   its text or number is not read by the type's input function as it is (only BYTES differs).
   Where an input function depends on a setting of the session, as dates do on DateStyle,
   :mod:`edgepaas.sync.hub.connection` sets it.
7. :mod:`edgepaas.sync.mirror.stored_values`: how the hub's value becomes what SQLite stores,
   to the bit what step 1 writes; one entry for each kind. The same of what the hub's triggers
   captured: :mod:`edgepaas.outbox.hub_capture.decoding`; and for the audit's digests:
   :mod:`edgepaas.sync.content.digest`.
8. :mod:`edgepaas.outbox.strictness`: which values PostgreSQL would refuse, as a condition in
   SQLite's words.
9. :mod:`edgepaas.app.models`: a type of ours is offered to applications there, and named in
   its docstring and in docs/applications.md.
10. ``Everything`` in ``tests/support/forwarding.py``: a column of the type, which the tests of
    delivery, mirror and audit then send both ways; ``Kinds`` in
    ``tests/integration/test_facts.py`` the same for inserting.

``tests/unit/test_column_kinds.py`` fails when a kind is missing from one of them. Imports no
SQLAlchemy: the sync process uses it.
"""

from enum import Enum, auto
from typing import Final

#: How SQLAlchemy's own Uuid lies in SQLite: 32 characters without hyphens, which sort as 36 do.
PLAIN_UUID: Final = "CHAR(32)"


class ColumnKind(Enum):
    """How a forwarded column's values differ from others; all the rest is TEXT."""

    BOOLEAN = auto()
    INTEGER = auto()
    #: A 64-bit float.
    FLOAT = auto()
    #: A decimal number; on SQLite its text, just as PostgreSQL writes it, with every digit of
    #: the column's scale (edgepaas.database.sqlite.numeric_order).
    DECIMAL = auto()
    BYTES = auto()
    #: On SQLite compact text with sorted keys.
    JSON = auto()
    #: A moment; on SQLite RFC 3339 in UTC with six digits.
    MOMENT = auto()
    #: A date and time of day without a zone.
    LOCAL_TIME = auto()
    TIME_OF_DAY = auto()
    #: Whatever is the same text on both sides: text, UUID, date, enumerations.
    TEXT = auto()


#: PostgreSQL's names of types and their kinds; the first name that a type begins with applies.
_NAMES: Final[tuple[tuple[str, ColumnKind], ...]] = (
    ("BOOL", ColumnKind.BOOLEAN),
    ("SMALLINT", ColumnKind.INTEGER),
    ("INTEGER", ColumnKind.INTEGER),
    ("BIGINT", ColumnKind.INTEGER),
    ("DOUBLE", ColumnKind.FLOAT),
    ("FLOAT", ColumnKind.FLOAT),
    ("REAL", ColumnKind.FLOAT),
    ("NUMERIC", ColumnKind.DECIMAL),
    ("DECIMAL", ColumnKind.DECIMAL),
    ("BYTEA", ColumnKind.BYTES),
    ("JSONPATH", ColumnKind.TEXT),
    ("JSON", ColumnKind.JSON),
    ("TIMESTAMP WITH TIME ZONE", ColumnKind.MOMENT),
    ("TIMESTAMP", ColumnKind.LOCAL_TIME),
    ("TIME", ColumnKind.TIME_OF_DAY),
)


def column_kind(postgresql_type: str) -> ColumnKind:
    """Return the kind of a column by its type in PostgreSQL's words (``VARCHAR(20)``)."""
    name = postgresql_type.upper()
    if name.endswith("[]"):
        return ColumnKind.TEXT
    return next((kind for start, kind in _NAMES if name.startswith(start)), ColumnKind.TEXT)
