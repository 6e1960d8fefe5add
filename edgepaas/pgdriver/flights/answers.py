# SPDX-License-Identifier: Apache-2.0
"""What the server answers to one flight, read into one :class:`Answer` a statement."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

#: A statement and its parameters: text, encoded text, numbers, None and so on.
Statement = tuple[str, Sequence[Any]]

#: Takes a value's text and returns the value; None: the text is the value.
Decoder = Callable[[str], Any] | None

_INT = struct.Struct("!i").unpack_from
_COUNT = struct.Struct("!H").unpack_from
_FIELD = struct.Struct("!ihihih").unpack_from
_FIELD_SIZE = 18


@dataclass(frozen=True)
class Result:
    """What one statement gave: its command tag (``INSERT 0 5``) and its rows."""

    tag: str
    rows: list[list[Any]]

    @property
    def count(self) -> int:
        """The number of rows that the statement says it has handled."""
        return max(0, count_of(self.tag))


def count_of(tag: str) -> int:
    """Return the number of rows in a command tag, -1 where it has none."""
    word = tag.rpartition(" ")[2]
    return int(word) if word.isdigit() else -1


@dataclass(frozen=True)
class RowFormat:
    """The columns of a statement's rows: (name, type's OID), and what decodes each."""

    columns: tuple[tuple[str, int], ...]
    decoders: tuple[Decoder, ...]


class Answer:
    """What a statement gave, while it is read and afterwards."""

    __slots__ = ("format", "rows", "tag")

    def __init__(self, known: RowFormat | None = None) -> None:
        #: None: it gives no rows.
        self.format = known
        self.rows: list[list[Any]] = []
        self.tag = ""


def parse_row_format(body: bytes, encoding: str, decoder_of: Callable[[int], Decoder]) -> RowFormat:
    """Return what a RowDescription's *body* says."""
    columns: list[tuple[str, int]] = []
    position = 2
    for _ in range(_COUNT(body, 0)[0]):
        end = body.index(b"\0", position)
        name = body[position:end].decode(encoding)
        columns.append((name, _FIELD(body, end + 1)[2]))
        position = end + 1 + _FIELD_SIZE
    return RowFormat(tuple(columns), tuple(decoder_of(oid) for _, oid in columns))


def parse_row(data: bytes, position: int, decoders: Sequence[Decoder], encoding: str) -> list[Any]:
    """Return the values of a DataRow whose body begins at *position* of *data*."""
    row: list[Any] = []
    position += 2
    for decode in decoders:
        (size,) = _INT(data, position)
        position += 4
        if size < 0:
            row.append(None)
            continue
        text = data[position : position + size].decode(encoding)
        row.append(text if decode is None else decode(text))
        position += size
    return row
