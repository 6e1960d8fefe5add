# SPDX-License-Identifier: Apache-2.0
"""Values on their way: as array literals, and as the hub's own tables keep them."""

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepaas.sync.delivery import values

ANYTHING = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters()),
    st.binary(),
    st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")),
)


def as_read(value: Any) -> Any:
    return value if value is None or isinstance(value, str | bytes) else repr(value)


@given(ANYTHING)
def test_what_is_kept_comes_back_to_the_bit(value: Any) -> None:
    if isinstance(value, str) and _cannot_be_in_sqlite(value):
        return
    kept = json.loads(json.dumps(values.encode(value)))
    assert "\\u0000" not in json.dumps(kept), "jsonb refuses it"
    assert values.decode(kept) == as_read(value)


def _cannot_be_in_sqlite(value: str) -> bool:
    return any("\ud800" <= c <= "\udc7f" or "\udd00" <= c <= "\udfff" for c in value)


@pytest.mark.parametrize("kept", [5, [], {"hex": "00", "text": ""}, {"other": "x"}])
def test_what_was_never_kept_is_refused(kept: Any) -> None:
    with pytest.raises(ValueError, match="not a stored value"):
        values.decode(kept)


def parsed(literal: bytes) -> list[str | None]:
    """Read a one-dimensional array literal as PostgreSQL's array_in does."""
    text = literal.decode()
    assert text[0] == "{" and text[-1] == "}"
    found: list[str | None] = []
    position = 1
    while position < len(text) - 1:
        if text[position] == '"':
            element, position = "", position + 1
            while text[position] != '"':
                position += text[position] == "\\"
                element += text[position]
                position += 1
            found.append(element)
            position += 1
        else:
            end = min(i for i in (text.find(",", position), len(text) - 1) if i >= 0)
            word = text[position:end]
            found.append(None if word.upper() == "NULL" else word)
            position = end
        position += 1
    return found


@given(st.lists(st.one_of(st.none(), st.text(), st.integers(), st.floats(allow_nan=False))))
def test_an_array_is_read_as_what_it_was_made_of(column: list[Any]) -> None:
    if any(isinstance(one, str) and not values.fits(one) for one in column):
        with pytest.raises(values.UnsendableValue):
            values.array(column)
        return
    found = parsed(values.array(column))
    assert len(found) == len(column)
    for got, wanted in zip(found, column, strict=True):
        if isinstance(wanted, float):
            assert struct.pack("d", float(str(got))) == struct.pack("d", wanted)
        elif isinstance(wanted, int):
            assert got is not None and int(got) == wanted
        else:
            assert got == wanted


@given(st.lists(st.one_of(st.none(), st.binary())))
def test_an_array_of_bytes_is_read_as_those_bytes(column: list[Any]) -> None:
    found = parsed(values.array(column, is_bytea=True))
    assert [None if x is None else bytes.fromhex(x.removeprefix("\\x")) for x in found] == column


@pytest.mark.parametrize(
    ("value", "is_bytea"), [("a\0b", False), ("\udcff", False), (b"x", False), (5, True)]
)
def test_what_postgresql_cannot_hold_is_found_before_it_is_sent(value: Any, is_bytea: bool) -> None:
    assert not values.fits(value, is_bytea=is_bytea)
    with pytest.raises(values.UnsendableValue):
        values.array(["good", value, "\\"], is_bytea=is_bytea)
