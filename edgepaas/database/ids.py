# SPDX-License-Identifier: Apache-2.0
"""Keys that the application makes: no database hands out a number that another box has too."""

import hashlib
import os
import struct
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

#: Fixed for ever: ids already in databases were made with it.
_NAMES = uuid.UUID("5b9d4f3e-6c1a-5e57-9d0e-8f6a2b7c4d11")

_COUNTER_BITS = 42
_COUNTER_LIMIT = 1 << _COUNTER_BITS

Part = str | bytes | int | float | uuid.UUID | datetime | None


class Uuid7Source:
    """Gives out UUIDv7 (RFC 9562, 5.7), each greater than the one before it.

    Milliseconds, then a 42-bit counter that starts at random in each millisecond
    (RFC 9562, 6.2, method 1), then 32 random bits. A clock that steps back does not
    take the order with it. Safe to use from several threads and after a fork.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._process = 0
        self._milliseconds = -1
        self._counter = 0

    def __call__(self) -> uuid.UUID:
        return self.batch(1)[0]

    def batch(self, number: int) -> list[uuid.UUID]:
        """Return *number* of them, in their order, at half the price of single ones."""
        if number < 1:
            return []
        tails = os.urandom(8 + 4 * number)
        with self._lock:
            milliseconds = self._clock_ns() // 1_000_000
            process = os.getpid()
            if milliseconds > self._milliseconds or process != self._process:
                # The top bit is left free, so that there is always room to count up.
                self._counter = int.from_bytes(tails[:8], "big") >> (64 - _COUNTER_BITS + 1)
                self._milliseconds = max(milliseconds, self._milliseconds)
                self._process = process
            else:
                self._counter += 1
            if self._counter + number > _COUNTER_LIMIT:
                self._counter = 0
                self._milliseconds += 1
            milliseconds, counter = self._milliseconds, self._counter
            self._counter += number - 1
        head = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | 0x7000 << 64 | 0b10 << 62
        randoms = struct.unpack_from(f"!{number}I", tails, 8)
        return [
            uuid.UUID(int=head | (count >> 30) << 64 | (count & 0x3FFF_FFFF) << 32 | random)
            for count, random in enumerate(randoms, counter)
        ]


#: Return a new UUIDv7, greater than every one this process made before.
uuid7 = Uuid7Source()


def name_id(table: str, natural_key: str) -> uuid.UUID:
    """Return the UUIDv5 of *natural_key* in *table*: boxes that met the same device agree."""
    return uuid.uuid5(_NAMES, f"{table}\x1f{natural_key}")


def content_id(*parts: Part) -> uuid.UUID:
    """Return a UUIDv8 (RFC 9562, 5.8: SHA-256) of *parts*: the same content is the same row.

    Types differ (``1`` is not ``"1"``) and no two lists of parts run into each
    other. ``1`` and ``1.0`` differ: the caller settles on one type for a place.
    """
    digest = hashlib.sha256(_NAMES.bytes)
    for part in parts:
        tag, data = _encoded(part)
        digest.update(b"%b%d:" % (tag, len(data)))
        digest.update(data)
    value = int.from_bytes(digest.digest()[:16], "big")
    value &= ~(0xF000 << 64 | 0b11 << 62)
    return uuid.UUID(int=value | 0x8000 << 64 | 0b10 << 62)


def _encoded(part: Part) -> tuple[bytes, bytes]:  # noqa: PLR0911 - one return a type
    if isinstance(part, str):
        return b"s", part.encode("utf-8")
    if part is None:
        return b"n", b""
    if isinstance(part, float):
        return b"f", part.hex().encode("ascii")
    if isinstance(part, int):
        return b"i", str(int(part)).encode("ascii")
    if isinstance(part, bytes):
        return b"b", part
    if isinstance(part, uuid.UUID):
        return b"u", part.bytes
    if part.tzinfo is None:
        raise ValueError("a time without a zone is no content: give it one")
    return b"t", part.astimezone(UTC).isoformat(timespec="microseconds").encode("ascii")
