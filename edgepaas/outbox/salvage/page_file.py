# SPDX-License-Identifier: Apache-2.0
"""An SQLite file read page by page, for what its b-trees do not lead to any more.

By https://sqlite.org/fileformat2.html, of which only this much is needed: the leaves of
tables, their cells, records, overflow pages, and the pages that the WAL replaces.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

#: What SQLite makes where nothing else is said; taken where the header is damaged.
_USUAL_SIZE: Final = 4096
_LEAF: Final = 13
_WAL_MAGIC: Final = (0x377F0682, 0x377F0683)
_WAL_HEADER: Final = 32
_FRAME_HEADER: Final = 24
#: A WAL that began anew so often since a frame was written: it is damaged rather than as old.
_OLDEST: Final = 1 << 20
#: Lengths of the integers, by serial type; 7 is a float, 8 and 9 are the numbers 0 and 1.
_INTEGERS: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
#: SQLite's own bound is 1 GB; a length beyond this one is damage.
_LONGEST: Final = 64 * 1024 * 1024

Values = tuple[Any, ...]


class Undecodable(bytes):
    """The bytes of a text that is no UTF-8; no BLOB."""


class _Broken(Exception):
    """What is there is no record."""


class PageFile:
    """The database file *path* with the -wal beside it; opens both, closes them at the end.

    Of the WAL it takes every frame up to the last that ends a transaction, past a damaged
    one too, where SQLite would stop. Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        wal = path.with_name(f"{path.name}-wal")
        self._file = path.open("rb")
        try:
            self._wal = wal.open("rb") if wal.is_file() else None
            self._size = self._page_size()
            pages = path.stat().st_size // self._size
            #: Whether the WAL has frames that were damaged: their content is unknown.
            self.damaged_wal = False
            self._frames = self._newest_frames(pages)
            self.pages = max([pages, *self._frames])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        wal = getattr(self, "_wal", None)
        if wal is not None:
            wal.close()

    @property
    def replaced(self) -> list[int]:
        """The numbers of the pages that the WAL replaces."""
        return sorted(self._frames)

    def leaf(self, number: int) -> Iterator[tuple[int, Values]]:
        """Give what can be read on page *number* (from 1): row number and values.

        Nothing where it is no leaf of a table. Raises OSError.
        """
        page = self._page(number)
        start = 100 if number == 1 else 0
        if len(page) < self._size or page[start] != _LEAF:
            return
        (count,) = struct.unpack_from(">H", page, start + 3)
        for index in range(min(count, self._size // 4)):
            place = start + 8 + 2 * index
            if place + 2 > len(page):
                return
            (offset,) = struct.unpack_from(">H", page, place)
            try:
                yield self._cell(page, offset)
            except (_Broken, IndexError, struct.error):
                continue  # this one is damaged; its neighbours need not be

    def _cell(self, page: bytes, offset: int) -> tuple[int, Values]:
        length, offset = _varint(page, offset)
        row, offset = _varint(page, offset)
        if row >= 1 << 63:
            row -= 1 << 64
        return row, _record(self._payload(page, offset, length))

    def _payload(self, page: bytes, offset: int, length: int) -> bytes:
        if not 0 < length <= _LONGEST:
            raise _Broken
        most = self._size - 35
        if length <= most:
            return _part(page, offset, length)
        least = (self._size - 12) * 32 // 255 - 23
        local = least + (length - least) % (self._size - 4)
        local = local if local <= most else least
        parts = [_part(page, offset, local)]
        (following,) = struct.unpack_from(">I", page, offset + local)
        rest = length - local
        while rest:
            if not 0 < following <= self.pages:
                raise _Broken
            overflow = self._page(following)
            (following,) = struct.unpack_from(">I", overflow)
            parts.append(_part(overflow, 4, min(rest, self._size - 4)))
            rest -= len(parts[-1])
        return b"".join(parts)

    def _page(self, number: int) -> bytes:
        place = self._frames.get(number)
        if place is not None and self._wal is not None:
            self._wal.seek(place)
            return self._wal.read(self._size)
        self._file.seek((number - 1) * self._size)
        return self._file.read(self._size)

    def _page_size(self) -> int:
        header = self._file.read(18)
        size = int.from_bytes(header[16:])
        size = 65536 if size == 1 else size
        if not _is_size(size) and self._wal is not None:
            size = int.from_bytes(self._wal.read(12)[8:12])
        return size if _is_size(size) else _USUAL_SIZE

    def _newest_frames(self, pages: int) -> dict[int, int]:
        """Return where in the WAL each page lies that it replaces; the file has *pages*."""
        if self._wal is None:
            return {}
        most = pages + self._wal.seek(0, os.SEEK_END) // self._size
        self._wal.seek(0)
        header = self._wal.read(_WAL_HEADER)
        salts = header[16:24]
        sound = _is_wal_header(header)
        self.damaged_wal = bool(header) and not sound
        newest: dict[int, int] = {}
        open_transaction: dict[int, int] = {}
        place = _WAL_HEADER
        while len(frame := self._wal.read(_FRAME_HEADER)) == _FRAME_HEADER:
            if not sound:
                salts, sound = frame[8:16], True
            number, size = struct.unpack_from(">II", frame)
            if frame[8:16] != salts:
                # Left over from before the WAL began anew, which adds one to the first salt.
                age = (int.from_bytes(salts[:4]) - int.from_bytes(frame[8:12])) % (1 << 32)
                self.damaged_wal |= not 0 < age < _OLDEST
            elif not 0 < number <= most:
                self.damaged_wal = True
            else:
                open_transaction[number] = place + _FRAME_HEADER
                if size:
                    newest |= open_transaction
                    open_transaction = {}
            place += _FRAME_HEADER + self._size
            self._wal.seek(place)
        return newest


def _is_wal_header(header: bytes) -> bool:
    if len(header) < _WAL_HEADER or int.from_bytes(header[:4]) not in _WAL_MAGIC:
        return False
    words = struct.unpack(">6I" if header[3] & 1 else "<6I", header[:24])
    one = two = 0
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return (one, two) == struct.unpack_from(">II", header, 24)


def _is_size(size: int) -> bool:
    return 512 <= size <= 65536 and size & (size - 1) == 0


def _part(page: bytes, offset: int, length: int) -> bytes:
    part = page[offset : offset + length]
    if len(part) != length:
        raise _Broken
    return part


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """Return the number at *offset* and where the next thing begins."""
    value = 0
    for index in range(8):
        byte = data[offset + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, offset + index + 1
    return value << 8 | data[offset + 8], offset + 9


def _record(payload: bytes) -> Values:
    end, place = _varint(payload, 0)
    if not place <= end <= len(payload):
        raise _Broken
    values: list[Any] = []
    content = end
    while place < end:
        kind, place = _varint(payload, place)
        value, content = _value(payload, content, kind)
        values.append(value)
    # A record fills its cell to the last byte; one that does not was read wrongly.
    if place != end or content != len(payload):
        raise _Broken
    return tuple(values)


def _value(payload: bytes, place: int, kind: int) -> tuple[Any, int]:
    if kind in (0, 8, 9):
        return (None, 0, 1)[(0, 8, 9).index(kind)], place
    if kind in _INTEGERS:
        length = _INTEGERS[kind]
        return int.from_bytes(_part(payload, place, length), signed=True), place + length
    if kind == 7:
        return struct.unpack(">d", _part(payload, place, 8))[0], place + 8
    if kind < 12:
        raise _Broken  # reserved
    length = (kind - 12) // 2
    data = _part(payload, place, length)
    if kind % 2 == 0:
        return data, place + length
    try:
        return data.decode(), place + length
    except UnicodeDecodeError:
        return Undecodable(data), place + length
