# SPDX-License-Identifier: Apache-2.0
"""Digests of rows: equal on both sides for every type, unequal where one bit of a value differs."""

import json
import math
import random
import struct
import sys
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import create_engine, insert
from sqlalchemy.pool import NullPool

from edgepaas.database.column_kinds import ColumnKind
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.outbox import capture, tables
from edgepaas.outbox.layout import stored_layouts
from edgepaas.outbox.reading import exact_rows
from edgepaas.sync.content import digest
from edgepaas.sync.content.content import Difference, HubContent
from edgepaas.sync.hub.connection import Hub
from tests.support.forwarding import Everything, Mood, TestBox, TestHub
from tests.support.search import tries

TABLE = 'all "kinds"'
NAME = '"all ""kinds"""'
NAMES = (
    *("wo'rd", "select", "ident", "text", "small", "big", "real", "flag", "blob", "doc"),
    *("moment", "local", "day", "hour", "mood", "price", "fine", "zoned", "plain"),
)


def text_of(chance: random.Random) -> str:
    ranges = ((1, 0x7F), (0x80, 0xD7FF), (0xE000, 0x10FFFF))
    return "".join(
        chr(chance.randint(*chance.choice(ranges))) for _ in range(chance.randint(0, 12))
    )


def float_of(chance: random.Random) -> float:
    special = (0.0, -0.0, 5e-324, sys.float_info.max, 0.1 + 0.2, math.inf, -math.inf, 1e22, 1e-7)
    (found,) = struct.unpack("!d", chance.randbytes(8))
    return chance.choice(special) if math.isnan(found) or chance.random() < 0.2 else float(found)


def document_of(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(8 if depth < 3 else 6)
    if kind == 6:
        return [document_of(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind == 7:
        return {text_of(chance): document_of(chance, depth + 1) for _ in range(chance.randrange(4))}
    number = float_of(chance)
    simple = (None, True, text_of(chance), chance.randint(-(10**30), 10**30), 1e300)
    return simple[kind] if kind < 5 else (number if math.isfinite(number) else -0.0)


def moment_of(chance: random.Random) -> datetime:
    return datetime(1, 1, 1) + timedelta(
        days=chance.randrange(3_652_058), microseconds=chance.randrange(86_400_000_000)
    )


def zoned_of(chance: random.Random) -> datetime:
    offset = timezone(timedelta(minutes=chance.randint(-15 * 60, 15 * 60)))
    moment = datetime(1900, 1, 1, tzinfo=UTC) + timedelta(microseconds=chance.randrange(10**16))
    return moment.astimezone(offset)


def row_of(chance: random.Random, number: int) -> dict[str, Any]:
    moment = moment_of(chance)
    row: dict[str, Any] = {
        "ident": uuid.UUID(bytes=chance.randbytes(16)), "text": text_of(chance),
        "small": chance.randint(-(2**31), 2**31 - 1), "big": chance.randint(-(2**63), 2**63 - 1),
        "real": float_of(chance), "flag": chance.random() < 0.5,
        "blob": chance.randbytes(chance.randrange(20)), "doc": document_of(chance),
        "moment": moment.replace(tzinfo=UTC), "local": moment, "day": moment.date(),
        "hour": moment.time(), "mood": chance.choice(list(Mood)),
        "price": Decimal(chance.randint(-(10**12) + 1, 10**12 - 1)).scaleb(-2),
        "fine": Decimal(chance.randint(-(10**30) + 1, 10**30 - 1)).scaleb(-12),
        "zoned": zoned_of(chance), "plain": uuid.UUID(bytes=chance.randbytes(16)),
    }  # fmt: skip
    nothing = {name: None for name in row if chance.random() < 0.1}
    return {"wo'rd": f"{number} {text_of(chance)}", "select": number, **row, **nothing}


def store(box: TestBox, rows: Sequence[dict[str, Any]]) -> None:
    engine = create_engine("sqlite://", creator=lambda: open_sqlite(box.path), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(insert(Everything), rows)
    engine.dispose()


def compare(box: TestBox, link: Hub) -> list[Difference]:
    (layout,) = [one for one in stored_layouts(box.file).values() if one.table == TABLE]
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in layout.names)
    rows = exact_rows(box.file, f'SELECT {names} FROM "all ""kinds""" ORDER BY "select"', ())
    return HubContent(link, {}).differences(layout, rows)


def test_rows_of_every_type_have_the_same_digest_on_both_sides(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    chance = random.Random(20260131)
    count = tries(400, soak=20_000)
    store(box, [row_of(chance, number) for number in range(count)])
    store(box, [{"wo'rd": "nothing", "select": -1}])
    for done in box.drain_all(link):
        assert not done.dead
    assert compare(box, link) == []
    assert hub.one('SELECT count(*) FROM "all ""kinds"""') == count + 1


def flipped_float(value: float) -> str:
    (bits,) = struct.unpack("!q", struct.pack("!d", value))
    (other,) = struct.unpack("!d", struct.pack("!q", bits ^ 1))
    return f"'{other!r}'::float8"


ROW: dict[str, Any] = {
    "wo'rd": "w", "select": 1, "ident": uuid.UUID(int=5), "text": "größer", "small": 7,
    "big": 2**62, "real": 0.1, "flag": True, "blob": b"\x00\xff",
    "doc": {"b": 1.5, "aa": [1e-7, "ü", None]}, "moment": datetime(2026, 1, 31, 12, tzinfo=UTC),
    "local": datetime(2026, 1, 31, 12), "day": date(2026, 1, 31), "hour": time(12, 0, 0, 1),
    "mood": Mood.calm, "price": Decimal("1.10"), "fine": Decimal("-0.000000000001"),
    "zoned": datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2))),
    "plain": uuid.UUID(int=7),
}  # fmt: skip
#: One bit, one letter, one microsecond: the least by which a value can differ.
LEAST: dict[str, str] = {
    "ident": f"'{uuid.UUID(int=4)}'",
    "text": "'größes'",
    "small": "small # 1",
    "big": "big # 1",
    "real": flipped_float(0.1),
    "flag": "NOT flag",
    "blob": "set_bit(blob, 3, 1)",
    "doc": """'{"b": 1.5, "aa": [1e-7, "ü", false]}'""",
    "moment": "moment + interval '1 microsecond'",
    "local": "local + interval '1 microsecond'",
    "day": "day + 1",
    "hour": "hour + interval '1 microsecond'",
    "mood": "'wild'",
    "price": "price + 0.01",
    "fine": "-fine",
    "zoned": "zoned - interval '1 microsecond'",
    "plain": f"'{uuid.UUID(int=6)}'",
}


@pytest.mark.parametrize("column", LEAST)
def test_the_least_difference_in_any_column_is_found(
    box: TestBox, hub: TestHub, link: Hub, column: str
) -> None:
    store(box, [ROW, ROW | {"select": 2}])
    box.drain(link)
    assert compare(box, link) == []
    hub.ask(f'UPDATE "all ""kinds""" SET {column} = {LEAST[column]} WHERE "select" = 2')
    (found,) = compare(box, link)
    assert (found.kind, found.reason, found.key) == ("differs", None, ("w", 2))
    hub.ask(f'UPDATE "all ""kinds""" SET {column} = NULL WHERE "select" = 2')
    assert [one.kind for one in compare(box, link)] == ["differs"]


#: A value, and how many bits of it PostgreSQL can change: the expression has the bit's number.
BITS: dict[str, tuple[Any, int, str]] = {
    "big": (0, 63, "big # (1::bigint << {0})"),
    "small": (-1, 31, "small # (1 << {0})"),
    "blob": (bytes(16), 128, "set_bit(blob, {0}, 1)"),
    "ident": (uuid.UUID(int=0), 128, "encode(set_bit(uuid_send(ident), {0}, 1), 'hex')::uuid"),
    "plain": (uuid.UUID(int=0), 128, "encode(set_bit(uuid_send(plain), {0}, 1), 'hex')::uuid"),
    "text": ("\u0100" * 40, 40, "overlay(text PLACING U&'\\0101' FROM {0} + 1 FOR 1)"),
    "fine": (Decimal(0), 30, "fine + 0.000000000001 * 10::numeric ^ {0}"),
    "moment": (ROW["moment"], 55, "moment + (1::bigint << {0}) * interval '1 microsecond'"),
    "local": (ROW["local"], 55, "local - (1::bigint << {0}) * interval '1 microsecond'"),
    "hour": (time(0), 36, "hour + (1::bigint << {0}) * interval '1 microsecond'"),
    "day": (date(2026, 1, 31), 20, "day + (1 << {0})"),
}


@pytest.mark.parametrize("column", BITS)
def test_each_bit_of_a_value_counts(box: TestBox, hub: TestHub, link: Hub, column: str) -> None:
    value, bits, changed = BITS[column]
    store(box, [ROW | {"select": number, column: value} for number in range(bits)])
    box.drain_all(link)
    assert compare(box, link) == []
    hub.ask(f'UPDATE "all ""kinds""" SET {column} = ' + changed.format('"select"'))
    assert [one.key[1] for one in compare(box, link)] == list(range(bits))


def test_each_bit_of_a_float_counts(box: TestBox, hub: TestHub, link: Hub) -> None:
    """Of nothing, whose sign is a bit, of a number, and of infinity, of which NaN comes."""
    for start, value in ((0, 0.0), (64, 0.1), (128, math.inf)):
        store(box, [ROW | {"select": start + number, "real": value} for number in range(64)])
        box.drain_all(link)
        assert len(compare(box, link)) == start, "those of before"
        (own,) = struct.unpack("!q", struct.pack("!d", value))
        flipped = [own ^ (1 << bit if bit < 63 else -(1 << 63)) for bit in range(64)]
        others = [struct.unpack("!d", struct.pack("!q", bits))[0] for bits in flipped]
        rows = ", ".join(f"({start + n}, '{other!r}'::float8)" for n, other in enumerate(others))
        hub.ask(f'UPDATE {NAME} SET real = f.v FROM (VALUES {rows}) f(n, v) WHERE "select" = f.n')
    assert [one.key[1] for one in compare(box, link)] == list(range(192))


def test_long_texts_nul_and_what_is_no_text_differ_from_all_that_postgresql_has(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    long = "ü" * 300_000
    store(box, [ROW | {"select": number, "text": long} for number in range(4)])
    box.drain_all(link)
    assert compare(box, link) == []
    hub.ask('UPDATE "all ""kinds""" SET text = left(text, -1) WHERE "select" = 0')
    with tables.transaction(box.file), capture.paused(box.file):
        box.file.execute(f"UPDATE {NAME} SET text = 'a' || char(0) WHERE \"select\" = 1")
        box.file.execute(f"UPDATE {NAME} SET text = CAST(x'ff' AS TEXT) WHERE \"select\" = 2")
    assert [(one.key[1], one.kind) for one in compare(box, link)] == [
        (0, "differs"),
        (1, "differs"),
        (2, "differs"),
    ]


def test_two_values_that_changed_places_are_found(box: TestBox, hub: TestHub, link: Hub) -> None:
    """Their sum alone would be the same, were the key no part of a row's digest."""
    store(box, [ROW, ROW | {"select": 2, "text": "other"}])
    box.drain(link)
    hub.ask(
        'UPDATE "all ""kinds""" SET text = CASE "select" WHEN 1 THEN \'other\' ELSE \'größer\' END'
    )
    assert [one.key for one in compare(box, link)] == [("w", 1), ("w", 2)]


def test_nul_bytes_and_numbers_in_text_have_no_digest_and_no_row(box: TestBox, link: Hub) -> None:
    """SQLite takes them; PostgreSQL cannot have them under any key."""
    store(box, [ROW])
    box.drain(link)
    (layout,) = [one for one in stored_layouts(box.file).values() if one.table == TABLE]
    values: list[Any] = [None] * len(layout.names)
    values[0], values[1] = "nul\0", 1
    found = HubContent(link, {}).differences(layout, [values])
    assert [one.kind for one in found] == ["missing"]


CANONICAL: tuple[tuple[Any, str], ...] = (
    ({"bb": 1, "a": 2}, '{"a": 2, "bb": 1}'),
    ([1e-7, 1e22, 1.5, -0.0, 0], "[0.0000001, 10000000000000000000000, 1.5, 0.0, 0]"),
    ({"ü": '\u2028\t"\\'}, '{"ü": "\u2028\\t\\"\\\\"}'),
    ({"b": {}, "é": [], "aa": None}, '{"b": {}, "aa": null, "é": []}'),
)


@pytest.mark.parametrize(("document", "written"), CANONICAL)
def test_a_document_is_written_as_postgresql_writes_it(
    hub: TestHub, document: Any, written: str
) -> None:
    text = json.dumps(document, ensure_ascii=False)
    assert digest._json(text).decode() == written
    literal = text.replace("'", "''")
    assert hub.one(f"SELECT '{literal}'::jsonb::text") == written


@pytest.mark.parametrize("kind", ColumnKind)
def test_every_kind_of_column_has_a_digest(kind: ColumnKind) -> None:
    form = digest._FORMS[kind]
    assert "{0}" in form.sql
    encode: Callable[[Any], bytes] = form.encoder("")
    assert callable(encode)
