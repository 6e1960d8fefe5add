# SPDX-License-Identifier: Apache-2.0
"""Every type comes home to the bit; names that need quoting; rows of any size."""

import struct
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

from sqlalchemy import create_engine, insert
from sqlalchemy.pool import NullPool

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.sync.delivery.sending import MAX_PARAMETER_BYTES
from edgepaas.sync.hub.connection import Hub
from tests.support.forwarding import Everything, Mood, TestBox, TestHub

# No -0.0: SQLite itself stores it as 0.
FLOATS = [
    *(0.1, 0.1 + 0.2, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e22),
    *(float("inf"), float("-inf"), 123456789.123456789, 1.0, -1 / 3),
]
TEXTS = [
    *("", " ", "null", "NULL", "{}", '"', "\\", "\\x41", "a,b", "it's", "{a", "\t\n\r\x01\x7f"),
    *("äöü€😀\u2028", "\ufeff", "x" * 5000, "$1", "'; DROP TABLE x; --", '\\\\"\\'),
]
NUMBERS = [0, -1, 2**31 - 1, -(2**31)]
BIG = [2**53 + 1, 2**63 - 1, -(2**63), 0]
BLOBS = [b"", b"\0", bytes(range(256)), b"\\x41", b'"{}', b"\xff" * 3000]
MOMENTS = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
]
PRICES = [
    *map(Decimal, ("0.00", "-0.01", "9999999999.99", "-9999999999.99", "1.1", "0.1", "10", "1E+3"))
]
FINE = [*map(Decimal, ("0.1", "123456789012345678.123456789012", "-1E-12"))]
ZONED = [
    datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=-5))),
    datetime(2026, 7, 31, 23, 30, tzinfo=timezone(timedelta(hours=5, minutes=45))),
]
DOCUMENTS: list[Any] = [{}, {"a": [1, 0.1, None, True, 'ü\\"\n']}, [], "text", 1.5]


def test_every_value_of_every_type_arrives_as_it_was(box: TestBox, hub: TestHub, link: Hub) -> None:
    rows = [
        {
            "wo'rd": text or "(empty)", "select": number,
            "ident": uuid.uuid4(), "text": text, "small": NUMBERS[number % 4],
            "big": BIG[number % 4], "real": FLOATS[number % len(FLOATS)], "flag": number % 3 == 0,
            "blob": BLOBS[number % len(BLOBS)], "doc": DOCUMENTS[number % 5],
            "moment": MOMENTS[number % 3], "local": datetime(2026, 2, 3, 4, 5, 6, number),
            "day": date(1, 1, 1 + number), "hour": time(23, 59, 59, number),
            "mood": list(Mood)[number % 2], "price": PRICES[number % len(PRICES)],
            "fine": FINE[number % len(FINE)], "zoned": ZONED[number % len(ZONED)],
            "plain": uuid.uuid4(),
        }
        for number, text in enumerate(TEXTS)
    ]  # fmt: skip
    rows.append(dict.fromkeys(rows[0]) | {"wo'rd": "\x7f", "select": -1})
    engine = create_engine("sqlite://", creator=lambda: open_sqlite(box.path), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(insert(Everything), rows)
    engine.dispose()
    done = box.drain(link)
    assert (done.rows, done.dead) == (len(rows), 0)
    found = hub.ask('SELECT * FROM "all ""kinds""" ORDER BY "select"')
    for row, wanted in zip(found, [rows[-1], *rows[:-1]], strict=True):
        for value, (name, expected) in zip(row, wanted.items(), strict=True):
            assert exact(value) == exact(expected), name


def exact(value: Any) -> Any:
    if isinstance(value, float):
        return struct.pack("d", value)
    return value.value if isinstance(value, Mood) else value


def test_every_type_is_merged_updated_and_deleted(
    box: TestBox, other: TestBox, hub: TestHub, link: Hub
) -> None:
    columns = (
        '"wo\'rd", "select", ident, text, small, big, real, flag, blob, doc, moment, local, day, '
        "hour, mood, price, fine, zoned, plain"
    )
    row = ("'w', 1, '{0}', 't', 1, 2, 0.1, 1, x'00', '{{\"a\": 0.1}}', "
           "'2026-01-31T12:00:00.000000Z', '2026-01-31 12:00:00.000000', '2026-01-31', "
           "'12:00:00.000000', 'calm', '1.10', '0.100000000000', "
           "'2026-01-31T12:00:00.000000Z', '00112233445566778899aabbccddeeff'")  # fmt: skip
    identity = uuid.uuid4()
    for one in (box, other):
        one.write(f'INSERT INTO "all ""kinds""" ({columns}) VALUES ({row.format(identity)})')
        done = one.drain(link)
        assert (done.rows, done.dead, done.conflicts) == (1, 0, 0), "the same to the bit"
    new = ("text = 'u', small = 2, big = 3, real = 1e999, flag = 0, blob = x'01', doc = '[]', "
           "moment = '2027-01-31T12:00:00.000000Z', local = NULL, day = NULL, hour = NULL, "
           "mood = 'wild', price = '10.00', fine = '-0.100000000000', "
           "zoned = '2027-01-31T12:00:00.000000Z'")  # fmt: skip
    for one in (box, other):
        one.write(f'UPDATE "all ""kinds""" SET {new}')
        done = one.drain(link)
        assert (done.rows, done.dead, done.conflicts) == (1, 0, 0)
    ((text, real, doc, mood),) = hub.ask('SELECT text, real, doc, mood FROM "all ""kinds"""')
    assert (text, real, doc, mood) == ("u", float("inf"), [], "wild")
    box.write('DELETE FROM "all ""kinds"""')
    done = box.drain(link)
    assert (done.rows, done.conflicts) == (1, 0)
    assert hub.one('SELECT count(*) FROM "all ""kinds"""') == 0
    assert hub.one("SELECT row_key FROM sync_tombstones") == '["w",1]'


def test_rows_that_are_large_are_sent_in_pieces(box: TestBox, hub: TestHub, link: Hub) -> None:
    sizes = [10, MAX_PARAMETER_BYTES * 3, 10, 10, MAX_PARAMETER_BYTES, 10, 5]
    for number, size in enumerate(sizes):
        box.place(f"p{number}", note="ü" * size)
    sent: list[int] = []
    send = link.send
    link.send = lambda statements: (sent.append(len(statements)), send(statements))[1]  # type: ignore[method-assign, func-returns-value]
    done = box.drain(link)
    assert done.rows == len(sizes)
    assert max(sent) >= 8, "several slices, of two statements each"
    assert [row[0] for row in hub.ask("SELECT length(note) FROM places ORDER BY name")] == sizes
